"""What networks are compared by: responses, decisions, robustness. And a network as it was during its training.

Source: Kornblith et al., arXiv:1905.00414 (CKA); Geirhos et al., arXiv:2006.16736 (agreement on errors); Goodfellow et
al., arXiv:1412.6572 (FGSM).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor

from lit_hidden.callbacks import RunCallback, balanced, splits
from lit_hidden.edge_popup import weight_layers


class Stopped(RunCallback):
    """Go back to where a `rewind.Snapshot` of the parent run found the net: a training that was stopped early.

    Args:
        snapshot: which of the parent's snapshots, from 1.
    """

    def __init__(self, snapshot: int = 1) -> None:
        super().__init__()
        self.file = f"snapshot_{snapshot}.npz" if snapshot != 1 else "snapshot.npz"

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Load the snapshot; a ValueError if the parent run left none of that number."""
        if parent is None or not (parent / self.file).exists():
            raise ValueError(f"the run before left no {self.file}; it needs as many rewind.Snapshot, counted from 1")
        with np.load(parent / self.file) as arrays:
            module.net.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays})

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Let no such run count as failed: soon after the start a net may well be at chance."""
        return {"fails_below": 0.0}


class Probe(RunCallback):
    """Leave `similarity.npz` at the end of a run, about N test images, balanced over classes.

    For each layer with weights it has `NAME.gram`, float32 `(N (N + 1) / 2,)`, the upper triangle of the inner products
    of responses before the nonlinearity, less their mean over images; and `NAME.alive`, bool `(units,)`: whether a unit
    (a channel, of a convolution) responds above 0 to any image. `noise` and `fgsm` are accuracies in percent, by
    strength; pixels stay in [0, 1]. `right`, bool `(T,)`: whether each of all test images is classified rightly.

    The result has `noise_lost` and `fgsm_lost`, the points of accuracy lost on average over strengths, and
    `val_accuracy`, in percent, if images are held out.

    Args:
        images: number of images N, at least 4; at most the whole test set.
        noise: standard deviations of Gaussian noise, where pixels are in [0, 1].
        fgsm: sizes of the steps along the sign of the gradient of the cross-entropy, in the same unit.
    """

    records = True
    capturable = True

    def __init__(
        self, images: int = 500, noise: Sequence[float] = (0.1, 0.2, 0.4), fgsm: Sequence[float] = (0.01, 0.03, 0.1)
    ) -> None:
        super().__init__()
        if images < 4 or not noise or not fgsm:
            raise ValueError(f"images={images}, noise={noise}, fgsm={fgsm}: give at least 4 images, and strengths")
        self.images, self.noise, self.fgsm = images, noise, fgsm

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Keep the data; a ValueError if they are no images with classes, in memory."""
        inputs, targets = splits(data)["test"]
        if inputs.dtype != torch.uint8 or targets.ndim != 1:
            raise ValueError(f"the inputs of {data.name} are {inputs.dtype}; noise and FGSM need images with classes")
        self.data = data

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Run the net on the images."""
        net, data = module.eval(), self.data
        ((pictures, labels),) = balanced(data, "test", self.images)
        mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (data.mean, data.std))
        noise = torch.randn(pictures.shape, generator=self.generator("noise"))
        attack = gradient(net, pictures, labels).sign()
        found, numbers, clean = responses(net, pictures), {}, right(net, [(pictures, labels)]).mean()
        for name, sizes, step in (("noise", self.noise, noise), ("fgsm", self.fgsm, attack)):
            changed = ((pictures + size * step / std).clamp(-mean / std, (1 - mean) / std) for size in sizes)
            found[name] = np.array([100 * right(net, [(images, labels)]).mean() for images in changed])
            numbers[f"{name}_lost"] = float(100 * clean - found[name].mean())
        test, val = (balanced(data, name, len(data.splits[name][1]), 1000) for name in ("test", "val"))
        np.savez_compressed(folder / "similarity.npz", **found, right=right(net, test))  # type: ignore[arg-type]
        return numbers | ({"val_accuracy": 100 * float(right(net, val).mean())} if data.held_out else {})


@torch.no_grad()
def right(net: Any, batches: Iterable[tuple[Tensor, Tensor]]) -> np.ndarray:
    """Tell of each image whether it is classified rightly, bool `(N,)`."""
    return torch.cat([net(x).argmax(1) == labels for x, labels in batches]).numpy()


def gradient(net: Any, images: Tensor, labels: Tensor) -> Tensor:
    """Return a positive multiple of the gradient of each image's cross-entropy, in the shape of the images.

    It is that of logsumexp(other logits) - true logit. The other differs by a factor, the probability of the other
    classes, which rounds to 0 where a net is sure: then it would seem robust.
    """
    seen, true = images.clone().requires_grad_(), labels[:, None]
    logits = net(seen)
    loss = logits.scatter(1, true, -torch.inf).logsumexp(1) - logits.gather(1, true)[:, 0]
    return torch.autograd.grad(loss.sum(), seen)[0]


@torch.no_grad()
def responses(module: Any, images: Tensor) -> dict[str, np.ndarray]:
    """Collect each layer's `NAME.gram` and `NAME.alive`, see `Probe`."""
    found: dict[str, np.ndarray] = {}

    def record(name: str, answers: Tensor | tuple[Tensor, ...]) -> None:
        answers = answers[0] if isinstance(answers, tuple) else answers  # attention returns its weights too
        centred = answers.flatten(1).double()
        centred -= centred.mean(0)
        found[f"{name}.gram"] = (centred @ centred.T)[*np.triu_indices(len(images))].float().numpy()
        found[f"{name}.alive"] = (answers.movedim(1, 0).flatten(1).amax(1) > 0).numpy()

    layers = [(name, layer) for name, (layer, _) in weight_layers(module.net).items()]
    hooks = [layer.register_forward_hook(lambda _, __, out, name=name: record(name, out)) for name, layer in layers]
    module(images)
    for hook in hooks:
        hook.remove()
    return found
