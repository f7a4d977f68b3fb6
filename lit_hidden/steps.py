"""Many training steps at once: on a GPU one CUDA graph a step, and nothing of Python or Lightning in between.

A GPU takes less time for a step of a small net than Lightning takes to start one. So where images lie on the device, a
loader yields a `Block` of consecutive mini-batches, and `Steps` trains on them one after another. On a GPU the step
(images gathered and augmented, forward, backward, update) is captured once and then replayed.
"""

import gc
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WARM = 3  # real steps before a graph is captured, in which libraries choose algorithms and buffers are made


class Block:  # no dataclass: Lightning would copy one, with all that is in it, in search of tensors
    """Mini-batches `first` to `last - 1` of an epoch of a loader, which has `count`, `batch_size`, `batch(places)`."""

    def __init__(self, loader: Any, first: int, last: int) -> None:
        self.loader, self.first, self.last = loader, first, last
        self.places = range(first * loader.batch_size, min(last * loader.batch_size, loader.count))  # of its images


def correct(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Tell which labels `(B,)` the largest of the logits `(B, num_classes)` names, and which the five largest do."""
    # argmax and not topk: a net whose logits are all equal must not be called right.
    top1 = logits.argmax(dim=1) == labels
    return top1, (logits.topk(min(5, logits.shape[1])).indices == labels[:, None]).any(dim=1)


def main_output(outputs: Any) -> Tensor:
    """Return a net's output, or its `logits` if it has several, as GoogLeNet has in training; TypeError: neither."""
    logits = getattr(outputs, "logits", outputs)
    if not isinstance(logits, Tensor):
        raise TypeError(f"the net gave a {type(outputs).__name__}; it has to give a tensor, or an output with `logits`")
    return logits


class Steps:
    """Train `net` on blocks of mini-batches, with the results of single steps: on a CPU bit for bit.

    Args:
        net: maps images `(B, C, H, W)` to logits `(B, num_classes)`, on the images' device; a graph freezes its Python.
        optimizer: of the net; on a GPU one that can be captured (`fused`), whose learning rate becomes a tensor.
        label_smoothing: as in `torch.nn.functional.cross_entropy`.
    """

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer, label_smoothing: float = 0.0) -> None:
        self.net, self.optimizer, self.label_smoothing = net, optimizer, label_smoothing
        self.device = next(net.parameters()).device
        self.place = torch.zeros((), dtype=torch.int64, device=self.device)  # of the next image in the epoch
        self.sums = torch.zeros(3, dtype=torch.float32, device=self.device)  # of losses and right answers
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}  # by the number of images
        self.taken: dict[int, int] = {}
        self.side: Any = None  # the one stream of warm steps and captures: cuBLAS keeps 64 MB for each stream
        self.loader: Any = None  # whose memory the graphs read
        if self.device.type == "cuda":
            for group in optimizer.param_groups:
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32).to(self.device)

    def train(self, block: Block) -> dict[str, Tensor]:
        """Take the steps of a block; return its means `loss`, `top1` and `top5`, 0-d. Nothing waits for the device."""
        if block.loader is not self.loader:
            self.forget()
            self.loader = block.loader
        self.place.fill_(block.places.start)
        self.sums.zero_()
        for first in block.places[:: self.loader.batch_size]:
            self._take(min(self.loader.batch_size, block.places.stop - first))
        return dict(zip(("loss", "top1", "top5"), self.sums.div(len(block.places)), strict=True))

    def forget(self) -> None:
        """Give up the graphs, and the gradients in their memory."""
        if self.graphs:
            self.optimizer.zero_grad()
        self.graphs, self.taken, self.loader = {}, {}, None

    def _take(self, images: int) -> None:
        """Take one step: on a GPU from a graph, after the first few."""
        self.taken[images] = self.taken.get(images, 0) + 1
        if self.device.type != "cuda":
            self._step(self.loader, images)
            return
        if self.taken[images] > WARM:
            if images not in self.graphs:
                self.graphs[images] = self._captured(images)
            self.graphs[images].replay()
            return
        # A capture wants the steps before it on another stream than the default.
        self.side = self.side or torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.side):
            self._step(self.loader, images)
        torch.cuda.current_stream(self.device).wait_stream(self.side)

    def _captured(self, images: int) -> torch.cuda.CUDAGraph:
        """Capture a step without taking it."""
        graph, collects = torch.cuda.CUDAGraph(), gc.isenabled()
        self.optimizer.zero_grad()  # gradients belong into the graph's own memory
        gc.disable()  # collecting may free what must not be freed during a capture, such as another graph
        try:
            with torch.cuda.graph(graph, stream=self.side):
                self._step(self.loader, images)
        finally:
            if collects:
                gc.enable()
        return graph

    def _step(self, loader: Any, images: int) -> None:
        pictures, labels = loader.batch(torch.arange(images, device=self.device).add_(self.place))
        self.optimizer.zero_grad()
        kind = self.device.type
        # Without its cache: within a graph, autocast would keep a dense net's weights as they were at the capture.
        with torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False):
            logits = main_output(self.net(pictures.contiguous(memory_format=torch.channels_last)))
            loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        torch.autograd.backward(loss)
        self.optimizer.step()
        top1, top5 = correct(logits.detach(), labels)
        self.sums.add_(torch.stack([loss.detach().float() * images, top1.sum(), top5.sum()]))
        self.place.add_(images)
