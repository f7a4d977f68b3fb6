"""Steps taken many at once are those taken one by one: on a CPU bit for bit, on a GPU, where there is one, to 1e-5."""

import warnings
from itertools import count
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_hidden.classifier import LitClassifier
from lit_hidden.data import BatchLoader
from lit_hidden.modules import LitDense, LitSubnetwork
from lit_hidden.steps import WARM, Steps
from lit_hidden.subnetwork import used_masks

gpu = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="runs on a CUDA device"))
NETS = {"conv2": (LitSubnetwork, "conv2"), "conv6": (LitSubnetwork, "conv6"), "dense": (LitDense, "conv2")}


def loader(device: str, **more: Any) -> BatchLoader:
    """Eight batches of an epoch, the last of 10 images."""
    draws = torch.Generator().manual_seed(1)
    images = torch.randint(256, (150, 3, 32, 32), generator=draws, dtype=torch.uint8).to(device)
    labels = torch.randint(10, (150,), generator=draws).to(device)
    return BatchLoader(images, labels, 20, (0.5,) * 3, (0.2,) * 3, seed=3, crop=4, flip=True, **more)


def trained(kind: str, device: str) -> tuple[LitClassifier, torch.optim.Optimizer]:
    make, net = NETS[kind]
    module = make(net=net, width=0.125, lr=0.1, schedule="constant").to(device)
    return module, module.configure_optimizers()["optimizer"]


def losses(kind: str, device: str, steps: int, block: int = 0) -> tuple[LitClassifier, list[float], list[int]]:
    """Train so many blocks, or steps one by one: the losses, and of how many images each is the mean."""
    module, optimizer = trained(kind, device)
    batches, taker = loader(device, at_once=block), Steps(module.net, optimizer)
    found: list[tuple[float, int]] = []
    for epoch in count():
        batches.set_epoch(epoch)
        for batch in batches:
            if len(found) == steps:
                return module, *map(list, zip(*found, strict=True))
            if block:
                found.append((taker.train(batch)["loss"].item(), len(batch.places)))
                continue
            loss = module.training_step(batch, 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append((loss.item(), len(batch[1])))


def parts(module: LitClassifier) -> dict[str, Tensor]:
    return {name: p.detach().cpu().clone() for name, p in module.net.named_parameters()}


@pytest.mark.parametrize(
    ("kind", "device", "steps"),
    [("conv2", "cpu", 20), ("dense", "cpu", 20), *(pytest.param(kind, "cuda", 100, marks=gpu.marks) for kind in NETS)],
)
def test_steps_have_the_losses_and_the_masks_of_the_plain_path(
    kind: str, device: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    plain, expected, _ = losses(kind, device, steps)
    ours, found, _ = losses(kind, device, steps, 1)
    assert found == pytest.approx(expected, abs=1e-5, rel=0)
    assert found[-1] != found[0]
    for name, mask in used_masks(plain.net).items() if kind != "dense" else ():
        assert torch.equal(mask, used_masks(ours.net)[name])
    if device == "cpu":
        assert found == expected
        assert all(torch.equal(value, parts(ours)[name]) for name, value in parts(plain).items())


@pytest.mark.parametrize("device", ["cpu", gpu])
def test_the_length_of_blocks_changes_nothing_but_how_often_one_hears_of_them(device: str) -> None:
    _, one, images = losses("conv2", device, 8)
    assert images == [20] * 7 + [10]
    _, found, images = losses("conv2", device, 3, 3)
    assert images == [60, 60, 30]
    expected = [sum(one[:3]) / 3, sum(one[3:6]) / 3, (one[6] * 20 + one[7] * 10) / 30]
    assert found == pytest.approx(expected, abs=1e-5)


def test_right_answers_are_counted_and_another_loader_is_another_memory() -> None:
    module, optimizer = trained("conv2", "cpu")
    one, other = loader("cpu", at_once=1), loader("cpu", at_once=8)
    block, (second,) = next(iter(one)), other
    images, labels = one.batch(torch.arange(20))
    ranks = module(images).argsort(dim=1, descending=True)
    steps = Steps(module.net, optimizer)
    first = steps.train(block)
    assert first["top1"] == pytest.approx((ranks[:, 0] == labels).float().mean().item())
    assert first["top5"] == pytest.approx((ranks[:, :5] == labels[:, None]).any(1).float().mean().item())
    steps.train(second)
    assert (steps.loader, steps.taken) == (other, {20: 7, 10: 1}), "graphs are captured anew"


def test_blocks_have_the_pictures_of_the_batches_in_one_memory() -> None:
    batches, blocks = loader("cpu"), loader("cpu", at_once=3)
    assert (len(batches), len(blocks), blocks.batches) == (8, 3, 8)
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        blocks.set_epoch(epoch)
        expected = list(batches)
        memory = [drawn.data_ptr() for drawn in blocks._drawn]
        for block in blocks:
            for number in range(block.first, block.last):
                places = torch.arange(number * 20, min(number * 20 + 20, 150))
                assert all(map(torch.equal, expected[number], blocks.batch(places)))
        assert memory in ([], [drawn.data_ptr() for drawn in blocks._drawn]), "a graph reads the memory that it knows"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="runs on a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_a_graph_for_each_size_of_a_batch_takes_the_steps_after_the_first_few() -> None:
    module, optimizer = trained("conv2", "cuda")
    taker, blocks = Steps(module.net, optimizer), loader("cuda", at_once=8)
    for epoch in range(WARM + 2):
        blocks.set_epoch(epoch)
        torch.cuda.synchronize()
        with torch.cuda.device(0):
            if epoch > WARM:
                torch.cuda.set_sync_debug_mode("error")
            try:
                for block in blocks:
                    taker.train(block)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    assert sorted(taker.graphs) == [10, 20]


class Spy(TorchDispatchMode):
    """Which operators were called, and on which kinds of device their tensors lay."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[str]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        self.seen.setdefault(str(func), set()).update(x.device.type for x in tensors)
        return out


@pytest.mark.parametrize("kind", ["conv2", "dense"])
def test_up_to_the_loss_a_step_on_a_gpu_stays_there_and_asks_for_no_number(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tensors without contents need no GPU to say that they are on one; to be asked for a number is an error of theirs.
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.autograd, "backward", lambda loss: None)  # would start a GPU's threads
    monkeypatch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
    monkeypatch.setattr("lit_hidden.selection._kernels_work", lambda device: False)
    make, net = NETS[kind]
    module = make(net=net, width=0.125)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)  # of none of them
    with FakeTensorMode() as fakes, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "CUDA is not available")
        module._apply(lambda tensor: fakes.from_tensor(tensor).to("cuda"))
        steps, batches = Steps(module.net, optimizer), loader("cuda", at_once=8)
        next(iter(batches))
        with Spy() as spy:
            steps._step(batches, 20)
        with pytest.raises(DataDependentOutputException):  # they do refuse
            steps.sums.sum().item()
    assert {"aten.convolution.default", "aten.index_select.default"} <= spy.seen.keys()
    assert ("lit_hidden.top_k_mask.default" in spy.seen) == (kind != "dense")
    assert {name: kinds for name, kinds in spy.seen.items() if kinds - {"cuda"}} == {}


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")  # its advice on loaders
def test_a_fit_after_one_that_an_exception_ended_trains_with_its_own_optimizer() -> None:
    class End(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise KeyError

    module, _ = trained("conv2", "cpu")
    module.automatic_optimization = False
    quiet = dict.fromkeys(["logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"], False)
    with pytest.raises(KeyError):
        L.Trainer(max_epochs=1, accelerator="cpu", **quiet, callbacks=[End()]).fit(module, loader("cpu", at_once=3))
    module.hparams["lr"] = 0.0
    before = parts(module)
    L.Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(module, loader("cpu", at_once=3))
    assert all(torch.equal(value, before[name]) for name, value in parts(module).items())
