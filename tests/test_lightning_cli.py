"""`fit`, `validate` and `test` with a checkpoint: what is taken from it, and that it imports nothing."""

import io
import os
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch

from lit_hidden import lightning_cli
from lit_hidden.modules import LitDense, LitSubnetwork

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")  # its advice on loaders and logging
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
NET = ["--model.net=conv2", "--model.width=0.05", "--model.density=0.3"]
MINE = """
from torch import nn
from lit_hidden.modules import LitDense
def net(num_classes, in_channels, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))
class Mine(LitDense):
    pass
"""


def run(command: str, *options: str, model: str = "LitSubnetwork") -> None:
    data = ["--model", model, "--data=DigitsData", "--data.train_images=200"]
    lightning_cli.run([command, *data, *QUIET, *options])


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lit-hidden"])
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint that `fit` wrote."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(sys, "argv", ["lit-hidden"])
        patch.chdir(tmp_path_factory.mktemp("trained"))
        run("fit", *NET, "--trainer.max_epochs=1")
        (checkpoint,) = Path.cwd().rglob("*.ckpt")
    return checkpoint


@pytest.fixture
def says(trained, tmp_path):
    """Make a checkpoint with other hyper-parameters."""

    def write(key: str = "hyper_parameters", **changed) -> str:
        checkpoint = torch.load(trained, weights_only=True)
        checkpoint[key] = checkpoint.pop("hyper_parameters") | changed
        torch.save(checkpoint, tmp_path / "a.ckpt")
        return str(tmp_path / "a.ckpt")

    return write


def refusal(command: str, *options: str, **more: str) -> str:
    with pytest.raises(SystemExit) as end:
        run(command, *options, **more)
    return str(end.value.code)


@pytest.mark.parametrize("command", ["test", "validate"])
def test_what_no_option_says_is_the_checkpoints(command, trained, capsys):
    shown = []
    for options in ([], NET):
        run(command, "--ckpt_path", str(trained), *options)
        shown.append(re.findall(r"loss\s*│\s*(\S+)", capsys.readouterr().out))
    assert shown[0] == shown[1] != []


def test_a_checkpoint_from_python_serves_too(trained, says, capsys):
    run("test", "--ckpt_path", str(trained))
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint["hyper_parameters"] = dict(LitSubnetwork("conv2", 0.05, in_channels=1, density=0.3).hparams)
    torch.save(checkpoint, "b.ckpt")
    run("test", "--ckpt_path", "b.ckpt")
    first, second = re.findall(r"test/loss\s*│\s*(\S+)", capsys.readouterr().out)
    assert first == second


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
@pytest.mark.parametrize(
    ("option", "said", "file"),
    [
        ("density", "0.5", "0.3"),
        ("net", "'conv4'", "'conv2'"),
        ("seed", "7", "0"),
        ("distribution", "'kaiming_normal'", "'signed_constant'"),
    ],
)
def test_an_option_that_contradicts_the_checkpoint_is_an_error_that_names_both(command, option, said, file, trained):
    assert refusal(command, "--ckpt_path", str(trained), f"--model.{option}={said.strip(chr(39))}") == (
        f"lit-hidden: {option}={said} contradicts {trained}, which says {file}; leave it out, or give it as the file "
        "does"
    )


def test_another_class_contradicts_too(trained):
    assert refusal("test", "--ckpt_path", str(trained), model="LitDense") == (
        f"lit-hidden: class_path='lit_hidden.modules.LitDense' contradicts {trained}, which says "
        "'lit_hidden.modules.LitSubnetwork'; leave it out, or give it as the file does"
    )


HOSTILE = [
    ("net", "hostile:net"),
    ("hparams.net", "hostile:net"),  # the keys of older versions of Lightning
    ("module_arguments.net", "hostile:net"),
    ("net", "hostile.net"),
    ("net", {"class_path": "hostile.Net"}),
    ("masker", "hostile.Masker"),
    ("distribution", "hostile.draw"),
    ("task", "hostile.Task"),
    ("task", {"class_path": "hostile.Task", "init_args": {}}),
    ("net", "lit_hidden.cli.os.abort"),
    ("net", "lit_hidden.data.files.suppress"),
    ("net", "os:abort"),
]


@pytest.mark.parametrize(("name", "value"), HOSTILE)
def test_a_checkpoint_imports_no_code(name, value, says, tmp_path):
    key, _, name = name.rpartition(".")
    (tmp_path / "hostile.py").write_text("raise SystemExit('it ran')")
    path, said = (
        says(key or "hyper_parameters", **{name: value}),
        value["class_path"] if isinstance(value, dict) else value,
    )
    message = (
        f"{path} says {name}={value!r}, and code is never imported because a checkpoint names it; if you trust it, "
        f"name it yourself: --model.{name} {said}, or load_from_checkpoint(path, {name}={said!r})"
    )
    assert refusal("test", "--ckpt_path", path) == f"lit-hidden: {message}"
    for file in (path, io.BytesIO(Path(path).read_bytes())):
        with pytest.raises(ValueError, match=f"{re.escape(message.removeprefix(path))}$"):
            LitSubnetwork.load_from_checkpoint(file)
    assert "hostile" not in sys.modules


def test_a_class_that_a_checkpoint_names_is_not_imported(says, tmp_path):
    (tmp_path / "hostile.py").write_text("raise SystemExit('it ran')")
    path = says(_class_path="hostile.Module")
    message = f"{path} says class_path='hostile.Module', and code is never imported because a checkpoint names it"
    assert refusal("test", "--ckpt_path", path).startswith(f"lit-hidden: {message}")
    with pytest.raises(ValueError, match=re.escape(message)):
        LitSubnetwork.load_from_checkpoint(path)


def test_code_of_ones_own_is_taken_from_whom_it_is_given(tmp_path, capsys):
    (tmp_path / "ours.py").write_text(MINE)
    run("fit", "--model.net=ours:net", "--trainer.max_epochs=1", model="ours.Mine")
    (path,) = tmp_path.rglob("*.ckpt")
    run("test", "--ckpt_path", str(path), "--model.net=ours:net", model="ours.Mine")
    from ours import Mine

    for kind in (Mine, LitDense):
        with pytest.raises(ValueError, match="name it yourself"):
            kind.load_from_checkpoint(path)
    loaded = Mine.load_from_checkpoint(checkpoint_path=path, net="ours.net")
    state = torch.load(path, weights_only=True)["state_dict"]
    assert torch.equal(loaded.net[1].weight, state["net.1.weight"].to(loaded.device))


def test_a_checkpoint_that_would_run_code_is_refused_in_one_sentence(tmp_path):
    torch.save({"hyper_parameters": {}, "state_dict": {}, "code": Path("hostile")}, "a.ckpt")
    message = (
        "a.ckpt is no checkpoint of tensors, numbers and text (UnpicklingError); nothing else is loaded, "
        "since that may run code"
    )
    for command in ("fit", "validate", "test"):
        assert refusal(command, "--ckpt_path", "a.ckpt") == f"lit-hidden: {message}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LitDense.load_from_checkpoint("a.ckpt")


def epochs(*options: str) -> tuple[int | None, int]:
    """The epochs and steps that `fit` sets out to train; none is trained."""
    seen = []

    class Asked(lightning_cli.HiddenCLI):
        def fit(self, **_):
            seen.append((self.trainer.max_epochs, self.trainer.max_steps))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightning_cli, "HiddenCLI", Asked)
        run("fit", *NET, *options)
    return seen[0]


def test_fit_has_100_epochs_where_no_option_says_how_long():
    assert epochs() == (100, -1)
    assert epochs("--trainer.max_epochs=3") == (3, -1)
    assert epochs("--trainer.max_steps=7") == (None, 7)
    assert epochs("--trainer.max_steps=7", "--trainer.max_epochs=2") == (2, 7)
    assert epochs("--trainer.max_time=00:00:01:00") == (None, -1)


def test_fit_goes_on_with_more_epochs_at_the_rate_of_the_longer_cosine(trained, tmp_path):
    run("fit", "--ckpt_path", str(trained), "--trainer.max_epochs=2")
    (path,) = (tmp_path / "lightning_logs").rglob("*.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["hyper_parameters"]["density"] == 0.3
    assert (checkpoint["epoch"], checkpoint["global_step"]) == (1, 4)
    before = torch.load(trained, weights_only=True)["state_dict"]
    changed = [name for name in before if "scores" in name and not before[name].equal(checkpoint["state_dict"][name])]
    assert changed  # the rate was not 0


def test_an_argument_that_contradicts_a_checkpoint_is_refused_in_python_too(tmp_path):
    path = tmp_path / "a.ckpt"
    lit = LitSubnetwork("conv2", width=0.05, density=0.3)
    torch.save({"state_dict": lit.state_dict(), "hyper_parameters": dict(lit.hparams)}, path)
    with pytest.raises(ValueError) as error:
        LitSubnetwork.load_from_checkpoint(path, density=0.9)
    assert (
        str(error.value) == f"density=0.9 contradicts {path}, which says 0.3; leave it out, or give it as the file does"
    )


@pytest.mark.parametrize("name", ["lit_hidden.cli:main", "lit_hidden.report.report", "lit_hidden.engine.sync:sync"])
def test_a_checkpoint_calls_nothing_of_ours_that_makes_no_net(name, tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"net": name, "width": 1.0}}, path)
    with pytest.raises(ValueError, match="code is never imported because a checkpoint names it"):
        LitSubnetwork.load_from_checkpoint(path)


def test_a_pipe_in_place_of_a_checkpoint_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a pipe, not a file"):
        LitSubnetwork.load_from_checkpoint(tmp_path / "pipe")
