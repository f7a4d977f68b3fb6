"""The loops with Lightning and without: the engine's settings, the same training, and clocks that add up."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from lit_hidden.classifier import LitClassifier
from lit_hidden.engine import train
from lit_hidden.engine.bench import epoch, first_step, loops, start
from lit_hidden.engine.bench.loops import EDGE, Clock, Watched, bare, blocks, fit, settings
from lit_hidden.engine.bench.steps import taken
from lit_hidden.engine.bench.training import like, made
from lit_hidden.experiment import Run

HERE = torch.device("cpu")


def module() -> LitClassifier:
    return made("lenet", 0.5, like("lenet", 32, 4), HERE)


@pytest.mark.parametrize(("device", "at_once"), [("cpu", 0), ("cuda", train.AT_ONCE)])
def test_the_trainer_is_the_engines(device, at_once, tmp_path, monkeypatch):
    class SeenError(Exception):
        pass

    def trainer(**given):
        raise SeenError(given)

    monkeypatch.setattr("lightning.pytorch.Trainer", trainer)
    run = Run(net="lenet", width=0.05, density=0.5, data="digits", epochs=1)
    with pytest.raises(SeenError) as seen:
        train.train(run, tmp_path, device=device)
    (theirs,), ours = seen.value.args, settings(tmp_path, torch.device(device), at_once)
    for name in ("callbacks", "plugins"):
        mine, engines = ours.pop(name), theirs.pop(name)
        assert [type(each) for each in mine] == [type(each) for each in engines]
        assert [getattr(each, "pause", None) for each in mine] == [getattr(each, "pause", None) for each in engines]
    assert ours == theirs


def test_blocks_of_steps_are_timed_by_the_step_and_train_as_single_ones(tmp_path):
    one, other, third = module(), module(), module()
    together, singly = Watched(EDGE + 2, 4, HERE, at_once=2), Watched(2 * (EDGE + 2), 4, HERE)
    fit(one, together, HERE, tmp_path)
    steps = together.steps()
    assert len(steps) == 2
    assert sum(steps) == pytest.approx((together.asked[-1] - together.asked[EDGE - 1]) / 2)
    blocks(other, together, other.configure_optimizers()["optimizer"])
    bare(third, singly, third.configure_optimizers()["optimizer"])
    for name, tensor in third.net.state_dict().items():
        assert torch.equal(tensor, one.net.state_dict()[name])
        assert torch.equal(tensor, other.net.state_dict()[name])


def test_both_loops_train_alike(tmp_path):
    one, other = module(), module()
    loader = Watched(EDGE + 2, 4, HERE)
    fit(one, loader, HERE, tmp_path)
    bare(other, loader, other.configure_optimizers()["optimizer"])
    start = module()
    for name, tensor in one.net.state_dict().items():
        torch.testing.assert_close(tensor, other.net.state_dict()[name])
        assert torch.equal(tensor, start.net.state_dict()[name]) == (not name.endswith("scores"))
    assert (tmp_path / "metrics.csv").exists()


def test_a_clock_changes_nothing_that_is_trained(tmp_path):
    one, other = module(), module()
    clock = Clock(one)
    for each in (one, other):
        fit(each, Watched(EDGE + 2, 4, HERE), HERE, tmp_path)
    for name, tensor in one.net.state_dict().items():
        assert torch.equal(tensor, other.net.state_dict()[name])
    assert len(clock.spent) == EDGE + 2


def test_a_step_is_what_module_and_loader_take_and_what_is_left(tmp_path):
    clock, loader = Clock(found := module()), Watched(EDGE + 4, 4, HERE)
    fit(found, loader, HERE, tmp_path)
    steps = loader.steps()
    assert len(steps) == 4  # all but the first two and the last
    inside = [a + b for a, b in zip(clock.spent[EDGE - 1 :], loader.making[EDGE - 1 :], strict=True)]
    assert all(0 < part < step for part, step in zip(inside, steps, strict=False))
    assert sum(steps) == pytest.approx(loader.asked[-1] - loader.asked[EDGE - 1])


@pytest.mark.parametrize(("many", "count"), [(0, 1), (3, 3)])
def test_a_turn_takes_one_step_or_so_many(many, count):
    found, updates = module(), []
    batch = (torch.randn(4, 3, 32, 32), torch.arange(4))
    make = found.configure_optimizers
    optimizer = make()["optimizer"]
    optimizer.register_step_post_hook(lambda *_: updates.append(1))
    found.configure_optimizers = lambda: {"optimizer": optimizer}
    work = taken(found, batch, many)
    work()
    assert len(updates) == count
    work()
    assert len(updates) == 2 * count


def test_an_epoch_forgets_the_times_of_the_last():
    loader = Watched(EDGE + 1, 2, HERE)
    for _ in range(2):
        assert [len(labels) for _, labels in loader] == [2] * (EDGE + 1)
    assert (len(loader.asked), len(loader.making)) == (EDGE + 1, EDGE + 1)


def test_a_clock_counts_each_part_once(monkeypatch):
    found = module()
    ticks = iter(range(1000))
    monkeypatch.setattr(loops.time, "perf_counter", lambda: float(next(ticks)))
    clock = Clock(found)
    optimizer = found.configure_optimizers()["optimizer"]
    batch = (torch.randn(4, 3, 32, 32), torch.arange(4))

    def closure():
        loss = found.training_step(batch, 0)
        found.optimizer_zero_grad(0, 0, optimizer)
        found.backward(loss)
        return loss

    assert optimizer.step(closure) is not None
    assert clock.spent == [4.0]  # four parts of a tick each


def test_the_first_step_tells_when_each_stage_ended_and_ends_at_once(monkeypatch, capsys, tmp_path):
    class EndedError(BaseException):
        pass

    def end(status):
        raise EndedError(status)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(epoch, "BATCH", 2)
    monkeypatch.setattr(sys, "argv", ["first_step", "cpu"])
    with pytest.raises(EndedError, match="0"):
        first_step.main()
    times = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(times) == len(first_step.STAGES)
    assert times == sorted(times)


def test_a_process_that_fails_is_quoted():
    assert start.ended("-c", "print(3)") == "3\n"
    with pytest.raises(
        OSError, match=r"^python -c import no failed: (.|\n)*ModuleNotFoundError: No module named 'no'$"
    ):
        start.ended("-c", "import no")


def test_what_training_is_like_needs_no_files():
    assert (like("conv2", 32, 128).shape, like("resnet50", 64, 8).shape) == ((3, 32, 32), (3, 64, 64))
    assert not Path("none").exists()
