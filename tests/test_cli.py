"""The command line: quick help, YAML in, typing errors out, one line for what the user did wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_hidden.cli import main

ROOT = Path(__file__).parent.parent
YAML = """
model:
  class_path: LitSubnetwork
  init_args: {net: conv2, width: 0.05, density: 0.3}
data:
  class_path: DigitsData
  init_args: {train_images: 200}
trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
"""


def command(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lit_hidden", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"} | environment,
        check=False,
    )


def test_help_names_every_command_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom lit_hidden.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print('HEAVY', sorted({'torch', 'lightning', 'wandb', 'numpy', 'matplotlib', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "HEAVY []" in done.stdout
    for name in ("fit", "validate", "test", "reproduce"):
        assert f"\n    {name}" in done.stdout


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == "lit-hidden 0.1.0\n"


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")  # its advice on loaders and logging, given to users too
def test_fit_takes_yaml_and_test_finds_the_checkpoints_accuracy_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.yaml").write_text(YAML.replace("200", "200, held_out: 0"))  # validated on the test set
    done = command("fit", "--config", "a.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "lightning_logs" / "version_0"
    (checkpoint,) = (folder / "checkpoints").glob("*.ckpt")
    assert "density: 0.3" in (folder / "config.yaml").read_text()
    curve = (folder / "metrics.csv").read_text().splitlines()
    watched = curve[1].split(",")[curve[0].split(",").index("val/top1")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name, metric in (("validate", "val/top1"), ("test", "test/top1")):
        arguments = [name, "--config", "a.yaml", "--ckpt_path", str(checkpoint)]
        monkeypatch.setattr(sys, "argv", ["lit-hidden", *arguments])
        main()
        (line,) = (line for line in capsys.readouterr().out.splitlines() if metric in line)
        assert f"{float(watched):.8f}"[:8] in line


def fit(yaml: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Run `fit` in this process and return what it exits with."""
    (folder / "a.yaml").write_text(yaml)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["lit-hidden", "fit", "--config", "a.yaml"])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_a_net_of_ones_own_is_found_in_the_folder_one_stands_in(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef net(num_classes, in_channels, image_size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))\n"
    )
    (tmp_path / "a.yaml").write_text(YAML.replace("net: conv2, width: 0.05", "net: 'mine:net'"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lit-hidden", "fit", "--config", "a.yaml"])
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])  # as the installed script has it
    main()
    assert list((tmp_path / "lightning_logs").rglob("*.ckpt"))


def test_typing_errors_are_named(tmp_path, monkeypatch, capsys):
    assert fit(YAML.replace("density", "densty"), tmp_path, monkeypatch) == 2
    said = capsys.readouterr().err
    assert "Option 'densty' is not accepted" in said
    assert len(said.splitlines()) < 15


def test_a_value_we_refuse_is_one_line_without_traceback(tmp_path, monkeypatch):
    assert fit(YAML.replace("0.3", "1.3"), tmp_path, monkeypatch) == (
        "lit-hidden: density=1.3 keeps 35 of 27 weights; "
        "density is the fraction kept and must lie in (0, 1] and keep at least one"
    )


def test_missing_data_are_one_line_without_traceback(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "nothing"))
    message = fit(YAML.replace("DigitsData", "CIFAR10Data"), tmp_path, monkeypatch)
    assert str(message).startswith(f"lit-hidden: CIFAR10 is not in {tmp_path}/nothing ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "fig99"], "no experiment 'fig99'; experiments are "),
        (["reproduce", "fig2", "--preset", "long"], "no preset 'long'; presets are smoke, quick, short, paper"),
        (["compare", "fig99"], "no experiment 'fig99'; experiments are "),
        (["compare", "fig2", "--preset", "long"], "no preset 'long'; presets are smoke, quick, short, paper"),
        (["pack", "fig99"], "no experiment 'fig99'; experiments are "),
        (["pack", "fig2", "--preset", "long"], "no preset 'long'; presets are smoke, quick, short, paper"),
        (["missing", "--preset", "long"], "no preset 'long'; presets are smoke, quick, short, paper"),
    ],
)
def test_unknown_names_are_refused_with_what_there_is(arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"lit-hidden: {message}")


def test_reproduce_takes_several_names_and_ends_with_the_errors_status(monkeypatch, capsys):
    from lit_hidden.engine import reproduce

    asked = []

    def fail(*names, **options):
        asked.append((names, options["preset"], options["dry_run"]))
        raise ends.pop()

    monkeypatch.setattr(reproduce, "reproduce", fail)
    ends = [reproduce.Stopped("stopped: 1 of 2"), reproduce.UsageError("no such"), reproduce.ReproduceError("a\n  b")]
    ends.insert(0, reproduce.TimeUpError("time is up"))
    for status, said in ((1, "a\n  b"), (2, "no such"), (130, "stopped: 1 of 2"), (75, "time is up")):
        with pytest.raises(SystemExit) as end:
            main(["reproduce", "fig3", "fig2", "--preset", "smoke", "--dry-run"])
        assert end.value.code == status
        assert capsys.readouterr().err == f"lit-hidden: {said}\n"
    assert asked == [(("fig3", "fig2"), "smoke", True)] * 4


def test_ctrl_c_at_any_time_is_one_line(monkeypatch, capsys):
    from lit_hidden.engine import compare, reproduce

    def interrupted(*names, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "reproduce", interrupted)
    monkeypatch.setattr(compare, "compare", interrupted)
    goes_on = "stopped; the same command goes on where this one was"
    for command, said in (("reproduce", goes_on), ("compare", "stopped")):
        with pytest.raises(SystemExit) as end:
            main([command, "fig2"])
        assert end.value.code == 130
        assert capsys.readouterr().err == f"lit-hidden: {said}\n"


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    from lit_hidden.engine import compare

    def wrong(**options):
        raise ValueError("nobody thought of it")

    monkeypatch.setattr(compare, "compare", wrong)
    with pytest.raises(ValueError, match="nobody thought of it"):
        main(["compare", "fig2"])


def test_reproduce_needs_a_name(capsys):
    with pytest.raises(SystemExit) as end:
        main(["reproduce"])
    assert end.value.code == 2
    assert "the following arguments are required: NAME" in capsys.readouterr().err
