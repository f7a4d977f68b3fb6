"""Many training steps at once: on a GPU one CUDA graph a step, and nothing of Python or Lightning in between.

A small net keeps a large GPU busy for less time than Lightning takes to begin a step. So where images lie on the
device, a loader yields a `Block` of consecutive mini-batches, and `Steps` trains on them one after another. The steps
are those of ever: the same images in the same order, an update for each mini-batch. On a GPU the step (images gathered
and augmented, forward, backward, update) is captured once and then replayed; on a CPU it is called as it is.

Measured on an H200 (torch 2.11, batch 128, convolutions in TF32): a hidden step of Conv2 0.98 ms, of Conv8 2.06; an
epoch of a run, evaluation included, 0.42 and 0.89 s, of which 0.38 and 0.80 are steps (experiments/results/gpu).
"""

import gc
import os
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRAPHS = os.environ.get("LIT_HIDDEN_GRAPHS", "1") != "0"  # 0: every step is launched by itself
WARM = 3  # steps before a graph is captured, each a real one: libraries choose their algorithms, buffers come to be


class Feeds(Protocol):
    """What `Steps` asks of a loader, such as `lit_hidden.data.BatchLoader`."""

    count: int
    batch_size: int

    def batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return images `(B, C, H, W)` and labels `(B,)` of so many places in the present epoch, on their device."""


class Block:  # no dataclass: Lightning would copy one, and all that is in it, to see whether it holds tensors
    """Consecutive mini-batches of a loader's present epoch: number `first` up to, without it, number `last`."""

    def __init__(self, loader: Feeds, first: int, last: int) -> None:
        self.loader, self.first, self.last = loader, first, last


@dataclass(frozen=True)
class Measured:
    """The means over all images of some steps, 0-d tensors on the device, and how many images there were."""

    loss: Tensor
    top1: Tensor
    top5: Tensor
    images: int


def correct(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Tell which labels `(B,)` the largest of the logits `(B, num_classes)` names, and which the five largest do."""
    # argmax and not topk: a net whose logits are all equal must not be called right.
    top1 = logits.argmax(dim=1) == labels
    return top1, (logits.topk(min(5, logits.shape[1])).indices == labels[:, None]).any(dim=1)


class Steps:
    """Train `net` on blocks of mini-batches.

    Results are those of a step at a time: bit for bit on a CPU, on a GPU as far as its libraries repeat themselves.

    Args:
        net: maps images `(B, C, H, W)` to logits `(B, num_classes)`, on the device of the images, and does the same
            whatever they are: what Python decides is decided at the capture.
        optimizer: of the net; on a GPU one that can be captured (`fused`). Its learning rate is turned into a tensor
            there, for a graph reads it anew at each step.
        label_smoothing: as in `torch.nn.functional.cross_entropy`.
    """

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer, label_smoothing: float = 0.0) -> None:
        self.net, self.optimizer, self.label_smoothing = net, optimizer, label_smoothing
        self.device = next(net.parameters()).device
        self.place = torch.zeros((), dtype=torch.int64, device=self.device)  # in the epoch, of the next image
        self.sums = torch.zeros(3, dtype=torch.float32, device=self.device)  # of losses and right answers
        self.graphs: dict[int, torch.cuda.CUDAGraph | None] = {}  # by the number of images; None: not captured
        self.taken: dict[int, int] = {}
        # Of the steps before a capture and of captures, one: cuBLAS keeps 64 MB for each stream that it has met.
        self.side: Any = None
        self.loader: Feeds | None = None  # whose memory the graphs read
        if self.device.type == "cuda":
            for group in optimizer.param_groups:
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32).to(self.device)

    def train(self, block: Block) -> Measured:
        """Take the steps of a block; nothing waits for the device."""
        loader, start = block.loader, block.first * block.loader.batch_size
        if loader is not self.loader:
            self.forget()
            self.loader = loader
        self.place.fill_(start)
        self.sums.zero_()
        for first in range(start, min(block.last * loader.batch_size, loader.count), loader.batch_size):
            self._take(loader, min(loader.batch_size, loader.count - first))
        images = min(block.last * loader.batch_size, loader.count) - start
        loss, top1, top5 = self.sums.div(images).unbind()
        return Measured(loss, top1, top5, images)

    def forget(self) -> None:
        """Give up the graphs, and the gradients in their memory."""
        if self.graphs:
            self.optimizer.zero_grad()
        self.graphs, self.taken, self.loader = {}, {}, None

    def _take(self, loader: Feeds, images: int) -> None:
        """Take one step: as it is, or where a graph can be captured, from it."""
        self.taken[images] = self.taken.get(images, 0) + 1
        if self.device.type != "cuda":
            self._step(loader, images)
            return
        if self.taken[images] > WARM and images not in self.graphs:
            self.graphs[images] = self._captured(loader, images) if GRAPHS else None
        if (graph := self.graphs.get(images)) is not None:
            graph.replay()
            return
        # Captures want what came before on another stream than the default.
        self.side = self.side or torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.side):
            self._step(loader, images)
        torch.cuda.current_stream(self.device).wait_stream(self.side)

    def _captured(self, loader: Feeds, images: int) -> torch.cuda.CUDAGraph | None:
        """Capture a step, which takes none; None if that failed."""
        graph, before, collects = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device), gc.isenabled()
        self.optimizer.zero_grad()  # gradients belong into the graph's own memory
        gc.disable()  # what is collected meanwhile may free what a capture must not see freed, such as another graph
        try:
            with torch.cuda.graph(graph, stream=self.side):
                self._step(loader, images)
        except Exception as error:
            torch.cuda.set_stream(before)
            self.optimizer.zero_grad()
            cause = error.__context__ or error  # the end of a capture that failed fails too
            warnings.warn(f"steps are not captured but launched one by one: {cause}", stacklevel=2)
            return None
        finally:
            if collects:
                gc.enable()
        return graph

    def _step(self, loader: Feeds, images: int) -> None:
        places = torch.arange(images, device=self.device).add_(self.place)
        pictures, labels = loader.batch(places)
        self.optimizer.zero_grad()
        kind = self.device.type
        # Autocast keeps what it converts until it is left: a dense net's weights would be those of the first step.
        with torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False):
            logits = self.net(pictures.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        torch.autograd.backward(loss)
        self.optimizer.step()
        top1, top5 = correct(logits.detach(), labels)
        self.sums.add_(torch.stack([loss.detach().float() * images, top1.sum(), top5.sum()]))
        self.place.add_(images)
