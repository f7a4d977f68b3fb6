"""What is measured: tasks other than classification, and means over images."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lit_hidden.edge_popup import dtypes_kept


class Task(Protocol):
    """A task other than classification: an object with a loss and a metric, or a class that makes one."""

    metric: str  # the metric's column in `results.csv`, such as `error`
    unit: str  # such as `degrees`
    better: Literal["higher", "lower"]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a mini-batch of `B` examples, 0-d."""

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the metric of each example, `(B,)`; the result is its mean over all examples."""


class Mean(Metric):
    """The mean over images, in modules of any precision: torchmetrics' own counts in bfloat16, which has no 257."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add the values `(B,)` of a batch of images."""
        self.total += values.float().sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        """Return the mean, 0-d."""
        return self.total / self.count

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        return super()._apply(dtypes_kept(fn), exclude_state)


def means(prefix: str, names: Iterable[str]) -> MetricCollection:
    """Make the means of the loss and of the metrics `names`."""
    # Not torchmetrics' own top-5, which waits for the device.
    made: dict[str, Metric | MetricCollection] = {name: Mean() for name in ("loss", *names)}
    return MetricCollection(made, prefix=prefix, compute_groups=False)
