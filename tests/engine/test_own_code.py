"""Code of one's own by name: in every part of a run, changed in between, twice in one run."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import training
from training import answered, done, job, network, stopped

from experiments._archive import pack, unpack
from lit_hidden import code
from lit_hidden.code import spec
from lit_hidden.engine.store import Store, StoreError
from lit_hidden.engine.train import train
from lit_hidden.results import Results
from lit_hidden.run import Run
from lit_hidden.subnetwork import used_masks

store = training.store  # a fixture

MINE = '''
"""Ideas of mine."""
import numpy as np
import torch
from torch import nn
from lit_hidden import EdgePopup, RunCallback
from lit_hidden.data import DigitsData
from lit_hidden.edge_popup import maskers
from lit_hidden.modules import LitDense


def net(num_classes, in_channels, image_size):
    """Two layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(in_channels * image_size**2, 12, bias=False), nn.ReLU(),
        nn.Linear(12, num_classes, bias=False),
    )


def ternary(shape, std, generator):
    return (torch.randint(-1, 2, shape, generator=generator) * std).float()


class First(EdgePopup):
    def mask(self):
        return torch.arange(self.scores.numel()).view_as(self.scores) < self.keep

    def forward(self, weight):
        return super().forward(weight) * 0 + weight * self.mask()


class Halved(DigitsData):
    sizes = (700, 360)

    def read(self):
        (images, labels), test = super().read()
        return (images[::2][:700], labels[::2][:700]), test


class Slow(LitDense):
    """A method of mine."""


class Odd(RunCallback):
    version = 2

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def on_run_end(self, trainer, module, folder):
        return {self.name: 100.0}


class Turned(RunCallback):
    """Turns the subnetwork over after each epoch, so after the last validation too."""

    def on_train_epoch_end(self, trainer, module):
        for masker in maskers(module.net).values():
            masker.set_mask(~masker.mask())


class Unkept(RunCallback):
    def state_dict(self):
        return {"seen": np.zeros(3)}


class Counted(RunCallback):
    several_devices = True

    def __init__(self, by: float = 1.0):
        super().__init__()
        self.by = by

    def on_run_start(self, trainer, module, data, parent):
        self.drawn = torch.full((3,), self.by).normal_(generator=self.generator())

    def on_run_end(self, trainer, module, folder):
        np.savez(folder / "my-counts.npz", by=self.by)
        return {"by": np.float32(self.by), "tensor": torch.tensor(2)}
'''
OWN = {"data": "digits", "epochs": 1, "train_images": 200}


@pytest.fixture
def mine(tmp_path, monkeypatch, request):
    """A module of one's own, under a name that no other test has imported."""
    name = f"mine_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    forget(name)


def forget(name: str) -> None:
    """Be a process that has not loaded a module yet."""
    sys.modules.pop(name, None)
    for known in [known for known in code._RAN if known.startswith(name)]:
        del code._RAN[known]


def outcome(run: Run, store: Store) -> tuple[str, list[str]]:
    answer = answered(job(run, store.root))
    return answer["status"], answer["notes"]


def test_every_part_of_a_run_may_be_code_of_ones_own(mine, store):
    first = Run(density=0.5, net=f"{mine}.net", masker=f"{mine}.First", **OWN)
    assert [layer["kept_min"] for layer in done(store, first)["layers"]] == [6144, 60]
    masks = used_masks(network(store, first)).values()
    assert all(mask.flatten()[: mask.numel() // 2].all() for mask in masks)
    drawn = Run(density=0.9, net=f"{mine}.net", distribution=f"{mine}.ternary", **OWN)
    assert len(network(store, drawn)[1].parametrizations.weight.original.unique()) == 3
    assert done(store, Run(net="lenet", data=f"{mine}.Halved", epochs=1))["steps"] == -(-700 // 128)
    assert done(store, Run(method=f"{mine}.Slow", net="lenet", lr=0.01, **OWN))["train_accuracy"] > 0


def test_a_run_whose_code_has_changed_is_trained_again_and_so_are_those_after_it(mine, tmp_path):
    store, file = Store(tmp_path / "runs"), tmp_path / f"{mine}.py"
    run = Run(net=f"{mine}.net", **OWN)
    child = run.then(epochs=0)
    assert outcome(run, store) == outcome(child, store) == ("done", [])
    began = {r: store.result(r)["provenance"] for r in (run, child)}
    file.write_text(MINE.replace("Two layers", "Two layers, or so").replace("import torch\n", "import torch  # that\n"))
    assert outcome(run, store) == outcome(child, store) == ("done", [])
    assert {r: store.result(r)["provenance"] for r in (run, child)} == began  # words are no code
    file.write_text(MINE.replace("nn.ReLU()", "nn.GELU()"))
    why = f" is stale: the code of {mine}.net has changed since"
    assert [store.damage(one) for one in (run, child)] == [f"{store.folder(one)}{why}" for one in (run, child)]
    assert store.result(run) is None
    with pytest.raises(StoreError, match=why):
        store.results([run])
    other = replace(run, seed=1)  # this process still has the net with ReLU
    assert outcome(other, store)[0] == "failed"
    assert store.damage(other) == f"{store.folder(other)}{why}"
    forget(mine)
    for again in (run, child):
        status, notes = outcome(again, store)
        assert status == "done"
        assert notes == [
            f"{store.folder(again)}{why}; set aside as {again.hash}.damaged-1, {again.name} is trained again"
        ]
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text(f"from {mine} import net\n")
    shown = code.fingerprint("package.net")
    assert shown == code.fingerprint(f"{mine}.net")  # where it is defined, not where it is shown
    file.unlink()  # as on a machine that has not the code: it is believed
    assert store.damage(run) is None


def test_a_run_does_not_go_on_from_a_checkpoint_of_other_code(mine, tmp_path):
    store, run = Store(tmp_path / "runs"), Run(net=f"{mine}.net", **OWN | {"epochs": 2})
    stopped(run, store)
    assert store.progress(run) == 1
    (tmp_path / f"{mine}.py").write_text(MINE.replace("nn.ReLU()", "nn.GELU()"))
    forget(mine)
    status, (note,) = outcome(run, store)
    assert status == "done"
    assert f"last.ckpt is damaged: the code of {mine}.net has changed since; set aside" in note


def test_two_of_one_class_leave_numbers_and_files_of_their_own(mine, tmp_path):
    store = Store(tmp_path / "runs")
    callbacks = [spec(f"{mine}.Counted", by=by) for by in (2.0, 3.0)]
    run = Run(net="lenet", callbacks=callbacks, **OWN)
    result, folder = done(store, run), store.folder(run)
    told = {name: result[name] for name in ("by", "by_2", "tensor", "tensor_2")}
    assert told == {"by": 2.0, "by_2": 3.0, "tensor": 2, "tensor_2": 2}
    assert [float(np.load(folder / f"my-counts{n}.npz")["by"]) for n in ("", "_2")] == [2.0, 3.0]
    assert not list(folder.glob(".*.part"))
    pack(store, [run], tmp_path / "runs.tar.gz")
    assert unpack(tmp_path / "runs.tar.gz", Store(tmp_path / "elsewhere")) == (1, 0)


@pytest.mark.parametrize(
    ("name", "version", "why"),
    [
        ("accuracy", 2, "Odd gives accuracy, which the result has already"),
        ("density", 2, "Odd gives density, which the result has already"),
        ("other", 1, "{mine}.Odd has version 2 here; the run asks for version 1"),
    ],
)
def test_numbers_of_a_run_and_another_version_are_refused(name, version, why, mine, tmp_path):
    run = Run(net="lenet", callbacks=(code.Spec(f"{mine}.Odd", (("name", name),), version),), **OWN)
    with pytest.raises(ValueError) as error:
        train(run, tmp_path)
    assert str(error.value) == why.format(mine=mine)


def test_a_net_that_changes_after_its_last_validation_is_measured_again(mine, store, tmp_path):
    run = Run(density=0.5, net="lenet", callbacks=[spec(f"{mine}.Turned")], **OWN)
    result, child = done(store, run), run.then(epochs=0, callbacks=())
    assert result["accuracy"] == done(store, child)["accuracy"]
    (shown,) = Results([(run, result, store.folder(run))]).curve("test_top1")[1]
    assert result["accuracy"] != shown[-1]  # before the hook
    resumed = Store(tmp_path / "runs")
    stopped(run, resumed)
    assert done(resumed, run)["accuracy"] == result["accuracy"]


def test_a_state_that_a_checkpoint_would_not_give_back_is_refused_before_training(mine, tmp_path):
    store, run = Store(tmp_path / "runs"), Run(net="lenet", callbacks=[spec(f"{mine}.Unkept")], **OWN)
    answer = answered(job(run, store.root))
    assert "ValueError: state_dict of Unkept gives what no checkpoint gives back; it may hold" in str(answer["error"])
    assert not (store.folder(run) / "last.ckpt").exists()
