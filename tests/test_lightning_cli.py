"""`fit`, `validate` and `test`: YAML in, typing errors out; what is taken from a checkpoint, which imports nothing."""

import io
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hiding import same

from lit_hidden.cli import main
from lit_hidden.data import DigitsData
from lit_hidden.modules import LitDense, LitSubnetwork, LitTicket
from lit_hidden.subnetwork import fingerprint, masks, network, save_subnetwork

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")  # its advice on loaders and logging
DATA = """
data:
  class_path: DigitsData
  init_args: {train_images: 200, held_out: 0}  # validated on the test set
trainer: {accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
"""
MINE = """
from torch import nn
from lit_hidden.modules import LitDense
def net(num_classes, in_channels, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))
class Mine(LitDense):
    pass
"""


def run(command: str, *options: str, model: str = "LitSubnetwork") -> None:
    Path("run.yaml").write_text(DATA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lit-hidden"])
        main([command, "--config", "run.yaml", "--model", model, *options])


def refusal(command: str, *options: str, **more: str) -> str:
    with pytest.raises(SystemExit) as end:
        run(command, *options, **more)
    return str(end.value.code)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])  # as the installed script has it


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint that `fit` wrote, in the folder of its log."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(tmp_path_factory.mktemp("trained"))
        run("fit", "--model.net=conv2", "--model.width=0.05", "--model.density=0.3", "--trainer.max_epochs=1")
        (checkpoint,) = Path.cwd().rglob("*.ckpt")
    return checkpoint


def top1(split: str, capsys) -> str:
    return re.search(rf"{split}_top1\s*│\s*(\S+)", capsys.readouterr().out)[1]


def test_what_no_option_says_is_the_checkpoints_and_its_accuracy_is_found_again(trained, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = trained.parents[1]
    assert "density: 0.3" in (folder / "config.yaml").read_text()
    names, values = (line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()[:2])
    watched = f"{float(values[names.index('val_top1')]):.8f}"[:8]
    run("validate", "--ckpt_path", str(trained), "--model.net=conv2", "--model.density=0.3")
    assert watched in top1("val", capsys)
    python = torch.load(trained, weights_only=True)  # made in Python, without the command line's `_class_path`
    python["hyper_parameters"] = dict(LitSubnetwork("conv2", 0.05, in_channels=1, density=0.3).hparams)
    torch.save(python, "b.ckpt")
    run("test", "--ckpt_path", "b.ckpt")
    assert watched in top1("test", capsys)


def test_fit_leaves_the_subnetwork_beside_its_logs(trained):
    found = network(trained.parents[1] / "subnetwork.safetensors")
    lit = LitSubnetwork.load_from_checkpoint(trained, map_location="cpu")
    assert fingerprint(found) == fingerprint(lit.net)
    assert same(masks(found), masks(lit.net))
    assert found.about["net"] == "conv2"
    assert found.about["mean"] == [*DigitsData.mean]


def test_what_contradicts_the_checkpoint_is_refused(trained):
    for option, given, written in (("density", 0.5, 0.3), ("net", "conv4", "conv2"), ("skip", ["10"], [])):
        message = f"{option}={given!r} contradicts {trained}, which says {written!r}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            LitSubnetwork.load_from_checkpoint(trained, **{option: given})
    said = refusal("test", "--ckpt_path", str(trained), "--model.density=0.5")
    assert said.startswith(f"lit-hidden: density=0.5 contradicts {trained}, which says 0.3")
    said = refusal("test", "--ckpt_path", str(trained), model="LitDense")
    assert said.startswith(f"lit-hidden: {trained} says class_path='lit_hidden.LitSubnetwork', and code is")


HOSTILE = [
    ("net", "hostile:net"),
    ("hparams.net", "hostile:net"),  # the key of older versions of Lightning
    ("net", {"class_path": "hostile.Net"}),
    ("masker", "hostile.Masker"),
    ("distribution", "hostile.draw"),
    ("task", {"class_path": "hostile.Task", "init_args": {}}),
    ("_class_path", "hostile.Module"),
    ("net", "lit_hidden.engine.tracking:has_key"),  # of ours
]


@pytest.mark.parametrize(("name", "value"), HOSTILE)
def test_a_checkpoint_imports_no_code(name, value, trained, tmp_path):
    key, _, name = name.rpartition(".")
    (tmp_path / "hostile.py").write_text("raise SystemExit('it ran')")
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint[key or "hyper_parameters"] = checkpoint.pop("hyper_parameters") | {name: value}
    torch.save(checkpoint, "a.ckpt")
    message = f"says {name.lstrip('_')}={value!r}, and code is never imported because a checkpoint names it"
    for file in ("a.ckpt", io.BytesIO(Path("a.ckpt").read_bytes())):
        with pytest.raises(ValueError, match=re.escape(message)):
            LitSubnetwork.load_from_checkpoint(file)
    if name == "_class_path":
        assert refusal("test", "--ckpt_path", "a.ckpt").startswith(f"lit-hidden: a.ckpt {message}")
    assert "hostile" not in sys.modules


def test_code_of_ones_own_is_found_in_the_current_folder_and_taken_from_whom_it_is_given(tmp_path):
    (tmp_path / "ours.py").write_text(MINE)
    run("fit", "--model.net=ours:net", "--trainer.max_epochs=1", model="ours.Mine")
    (path,) = tmp_path.rglob("*.ckpt")
    from ours import Mine

    for kind in (Mine, LitDense):
        with pytest.raises(ValueError, match="name it yourself"):
            kind.load_from_checkpoint(path)
    loaded = Mine.load_from_checkpoint(checkpoint_path=path, net="ours.net")
    state = torch.load(path, weights_only=True)["state_dict"]
    assert torch.equal(loaded.net[1].weight, state["net.1.weight"].to(loaded.device))


def test_a_checkpoint_that_would_run_code_is_refused():
    torch.save({"hyper_parameters": {}, "state_dict": {}, "code": Path("hostile")}, "a.ckpt")
    Path("dangling.ckpt").symlink_to("gone")
    for file, why in (
        ("nothere.ckpt", "cannot be read: it is not there"),
        ("dangling.ckpt", "cannot be read: it is a link to gone, which is not there"),
        ("a.ckpt", "is no checkpoint of tensors, numbers and text (UnpicklingError)"),
    ):
        assert refusal("test", "--ckpt_path", file).startswith(f"lit-hidden: {file} {why}")


def test_fit_trains_a_ticket_whose_file_may_move(trained, tmp_path):
    path = save_subnetwork(LitSubnetwork.load_from_checkpoint(trained, map_location="cpu").net, tmp_path / "file")
    options = ["--model.net=conv2", "--model.width=0.05", f"--model.subnetwork={path}", "--trainer.max_epochs=1"]
    run("fit", *options, model="LitTicket")
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    moved = str(path.rename(tmp_path / "moved"))
    loaded = LitTicket.load_from_checkpoint(checkpoint, map_location="cpu", subnetwork=moved)
    assert loaded.hparams["subnetwork"] == moved


def test_what_contradicts_the_data_is_refused(trained):
    assert refusal("fit", "--model.num_classes=7").endswith(
        "num_classes=7 contradicts DigitsData, which has num_classes=10"
    )
    said = refusal("test", "--ckpt_path", str(trained), "--data=CIFAR10Data", "--data.train_images=10")
    assert said.endswith("in_channels=1 contradicts CIFAR10Data, which has in_channels=3")


def test_fit_leaves_the_users_config_alone(tmp_path):
    mine = tmp_path / "config.yaml"
    mine.write_text("mine")
    found = tmp_path / "subnetwork.safetensors"  # of an earlier run: W&B's logger has one folder for all
    found.write_text("found")
    options = ["--model.net=conv2", "--model.width=0.05", "--trainer.max_epochs=1", "--trainer.logger=false"]
    for _ in range(2):
        run("fit", *options, "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1")
    assert mine.read_text() == "mine"
    assert found.read_text() == "found"
    assert len([*tmp_path.glob("subnetwork-*.safetensors")]) == 2
    saved = [path.read_text() for path in tmp_path.glob("config-*.yaml")]
    assert len(saved) == 2
    assert "width: 0.05" in saved[0]
    assert saved[0] == saved[1]


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp"])
def test_fit_leaves_its_subnetwork_from_several_processes_too(strategy, tmp_path):
    Path("run.yaml").write_text(DATA)
    options = ["--model=LitSubnetwork", "--model.net=conv2", "--model.width=0.05", "--trainer.max_steps=1"]
    options += [f"--trainer.strategy={strategy}", "--trainer.devices=2", "--trainer.limit_val_batches=1"]
    command = [sys.executable, "-m", "lit_hidden", "fit", "--config=run.yaml", *options]
    settings = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings, timeout=200)
    assert done.returncode == 0, done.stderr
    (checkpoint,), (file,) = tmp_path.rglob("*.ckpt"), tmp_path.rglob("*.safetensors")
    assert file.parent == checkpoint.parents[1]
    assert same(masks(network(file)), masks(LitSubnetwork.load_from_checkpoint(checkpoint, map_location="cpu").net))


def test_fit_labels_its_run_for_wandb_as_reproduce_does(tmp_path, monkeypatch):
    for name in ("RUN_ID", "RUN_GROUP", "JOB_TYPE", "NAME", "TAGS", "PROJECT"):
        monkeypatch.setenv(f"WANDB_{name}", "")  # so that they are taken away again
        monkeypatch.delenv(f"WANDB_{name}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    import wandb

    wandb.teardown()  # it reads its variables once, and another test may have been first
    run("fit", "--model.net=conv2", "--model.width=0.05", "--trainer.max_epochs=1", "--trainer.logger=WandbLogger")
    wandb.finish()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert re.search(r"-fit-digits-conv2-k50-digits-s0-\w{8}$", folder.name)
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(folder)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = ("lit-hidden", "conv2-k50-digits-s0", "hidden", "mine", "val_top1", "train_loss", "edge_popup", "digits")
    assert [name for name in names if f'"{name}"' not in text] == []
    assert "_class_path" not in text


LESION = ("--trainer.callbacks=lit_hidden.callbacks.lesion.Lesion", "--trainer.callbacks.epok=1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--config=a.yaml"], "LitSubnetwork has no option 'densty'; did you mean density?"),
        (["--model.densty=0.3"], "LitSubnetwork has no option 'densty'; did you mean density?"),
        (["--data.heldout=0"], "DigitsData has no option 'heldout'; did you mean held_out?"),
        (LESION, "Lesion has no option 'epok'; did you mean epoch?"),
        (["--data.xyz=0"], "DigitsData has no option 'xyz'; it has root, batch_size, "),
        (["--config=b.yaml"], "there is no 'trainer.max_epoch'; did you mean trainer.max_epochs?"),
        (["--modle=LitDense"], "there is no 'modle'; did you mean model?"),
        (["--data=DigitsDat"], "there is no 'DigitsDat'; did you mean DigitsData?"),
        (["--config=none.yaml"], 'Parser key "config": File does not exist'),
    ],
)
def test_an_unknown_option_is_one_line_with_the_nearest_name(options, said, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("model: {class_path: LitSubnetwork, init_args: {densty: 0.3}}")
    (tmp_path / "b.yaml").write_text("trainer: {max_epoch: 3}")
    assert refusal("fit", *options) == "2"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lit-hidden: {said}")


def test_values_we_refuse_are_one_line():
    assert refusal("fit", "--model.density=1.3").startswith("lit-hidden: density=1.3 keeps ")
    nowhere = ["--data=CIFAR10Data", "--data.root=nowhere"]
    assert refusal("fit", *nowhere).startswith("lit-hidden: nowhere/cifar-10-batches-py cannot be used")
