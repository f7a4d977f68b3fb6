"""`lit-hidden inspect`: which weights of a net are left, layer by layer, and its first kernels before and after."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from lit_hidden.edge_popup import hidden_layers, original_weight
from lit_hidden.errors import UserError
from lit_hidden.predict import columns, loaded
from lit_hidden.report.style import COLORS, context
from lit_hidden.subnetwork import masks

KERNELS = 64  # drawn at most
HEAD = ["layer", "shape", "weights", "kept", "share", "positive", "negative", "no input", "no output"]


def inspect(what: str | Path, *, net: str | None = None, picture: str | Path | None = None) -> str:
    """Describe each hidden layer as text, and draw the first into `picture`; `what` and `net` are those of `loaded`.

    A unit without input has no weight kept. One without output has none in the layer that reads it: the next one whose
    input has its size, so a path around that layer does not count; where there is none, the cell is empty.
    """
    made = loaded(what, net)
    kept = masks(made)
    if not kept:
        raise UserError(f"{what} holds a dense net, of which no weight is masked")
    weights = {name: original_weight(made, name).detach() for name in kept}
    places = hidden_layers(made)  # whose masked weights may have other signs
    rows: list[list[Any]] = []
    for number, (name, mask) in enumerate(kept.items()):
        left, units, later = getattr(*places[name])[mask], len(mask), [*kept.values()][number + 1 :]
        fits = (m for m in later if m.shape[1] == units or (m.ndim == 2 and m.shape[1] % units == 0))
        silent: list[Any] = [int((~m.reshape(len(m), units, -1).any(2).any(0)).sum()) for m in fits][:1]
        signs = [int((left > 0).sum()), int((left < 0).sum()), int((~mask.flatten(1).any(1)).sum())]
        shape = "x".join(map(str, mask.shape))
        rows.append([name, shape, mask.numel(), len(left), len(left) / mask.numel(), *signs, *(silent or [""])])
    sums = [sum(row[i] or 0 for row in rows) for i in range(2, len(HEAD))]
    rows.append(["all", "", *sums[:2], sums[1] / sums[0], *sums[3:]])
    if picture is not None:
        endings = FigureCanvasBase.get_supported_filetypes()
        if Path(picture).suffix[1:].lower() not in ("", *endings):  # without one it is a PNG
            raise UserError(f"--picture {picture} must end with one of .{', .'.join(endings)}")
        first = next(iter(kept))
        about: Any = made.about
        _draw(weights[first], kept[first], f"{what}, {first}", about.get("image_size", 1), picture)
    return columns([HEAD, *rows])


def _draw(weight: Tensor, mask: Tensor, name: str, size: int, path: str | Path) -> None:
    """Draw a layer's kernels, their input channels side by side: the random weights, and what is left of them."""
    inside, most = weight[0].numel(), float(weight.abs().max()) or 1.0
    channels, side = weight.shape[1:3] if weight.ndim == 4 else (inside // size**2, size)
    if inside % (channels * side or inside + 1):  # what is connected to no images
        channels, side = 1, 1
    shades = [COLORS["negative"], "white", COLORS["positive"]]
    colours = LinearSegmentedColormap.from_list("", shades).with_extremes(bad=COLORS["random"])

    def picture(tensor: Tensor) -> Any:
        kernels = tensor[:KERNELS].reshape(-1, channels, side, inside // (channels * side))
        return kernels.transpose(1, 2).flatten(2).numpy()

    with context():
        figure = Figure((7, 4), layout="constrained")
        for axes, when in zip(figure.subplots(1, 2), ("before", "after"), strict=True):
            left = picture(mask | (when == "before"))
            rgb = colours(np.ma.masked_array((picture(weight) / most + 1) / 2, ~left))[..., :3].transpose(0, 3, 1, 2)
            across = round((len(left) * left.shape[1] / left.shape[2]) ** 0.5) or 1
            grid = make_grid(torch.from_numpy(rgb), across, padding=1, pad_value=1)
            axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_title(f"{when}: {left.sum()} of {left.size} weights")
            axes.set_axis_off()
        figure.suptitle(f"{name}: {len(left)} of {len(weight)} kernels. Blue: above 0, orange: below, grey: masked")
        figure.savefig(path, dpi=200, bbox_inches="tight")
