"""Dale's principle: a unit excites all that it projects to, or inhibits all of them.

Source: Cornford, Kalajdzievski, Leite, Lamarquette, Kullmann and Richards, Learning to live with Dale's principle, ICLR
2021. In their nets inhibitory interneurons are fed by the layer before and begin by centring and scaling what its
excitatory units send. Here the mean over units is subtracted: their layer W_EX - W_EI W_IX, for W_IX the mean of the
rows of W_EX and W_EI one column of 1, without the scaling.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor

from lit_hidden.callbacks import RunCallback, evaluated, sources, weights
from lit_hidden.edge_popup import hidden_layers, weight_layers


class Dale(RunCallback):
    """Give all weights that leave a hidden unit one sign, under the masks.

    The first layer, whose inputs are pixels, keeps its signs. Only for hidden nets whose layers come one after another.
    A unit is an output of a linear layer or a channel of a convolution, at all positions. `results.network` gives the
    weights back, but not the subtraction.

    All numbers are means over the layers behind the first. The net drive of a layer is the sum of its kept weights over
    the sum of their magnitudes: 1 where all excite, 0 in balance. The result has `drive`, and `drive_before` learning;
    `kept_excitatory` and `kept_inhibitory`, the percentages of such edges that are kept, positive and negative weights
    where signs are free; `mixed`, the number of hidden units whose kept weights have both signs; `val_accuracy`, in
    percent, if images are held out. `dale.npz` has the first four by layer, `(L - 1,)`, NaN where there are no edges.
    An accuracy at chance is no failure.

    Args:
        inhibitory: fraction of the units of each hidden layer, drawn from the run's seed, in [0, 1]; None leaves each
            weight its own sign.
        balanced: whether inhibitory weights are larger by the ratio of excitatory to inhibitory units, so that a layer
            sums to 0 on average. Its sum of squares stays.
        subtract: whether each hidden layer's mean over units is subtracted from its outputs, before the nonlinearity.
    """

    capturable = True

    def __init__(self, inhibitory: float | None = 0.2, balanced: bool = False, subtract: bool = False) -> None:
        super().__init__()
        if not 0 <= (inhibitory or 0) <= 1:
            raise ValueError(f"inhibitory={inhibitory} of the units is impossible; it must lie in [0, 1], or be None")
        if balanced and inhibitory in (None, 0, 1):
            raise ValueError(f"inhibitory={inhibitory} leaves nothing to balance; give a fraction between 0 and 1")
        self.inhibitory, self.balanced, self.subtract = inhibitory, balanced, subtract

    @torch.no_grad()
    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Set the signs.

        Raises:
            ValueError: the net is not hidden, its layers do not come one after another, or one is too small to balance.
        """
        net = module.net
        if not hidden_layers(net):
            raise ValueError(
                "weights that learn change their signs; Dale's principle needs a hidden net: set a density"
            )
        self.data, self.before = data, sources(net)
        frozen = weights(net)
        names = list(frozen)
        for previous, (name, units) in zip(names, self.before.items(), strict=False):
            if self.inhibitory is not None:
                weight, count = frozen[name], len(frozen[previous])
                sizes, some = torch.ones(count), round(self.inhibitory * count)
                if self.balanced and some in (0, count):
                    raise ValueError(f"{some} of the {count} units of {previous} inhibit: nothing to balance")
                order = torch.randperm(count, generator=self.generator(previous))
                sizes[order[:some]] = -(count - some) / some if self.balanced else -1.0
                columns = sizes[units].view(1, -1, *[1] * (weight.ndim - 2)).to(weight)
                signed = weight.abs() * columns
                weight.copy_(signed * (weight.norm() / signed.norm() if self.balanced else 1))
        layers = weight_layers(net)
        if self.subtract:
            for name in names[:-1]:
                layers[name][0].register_forward_hook(lambda _, __, z: z - z.mean(1, keepdim=True))
        self.start = self._measured(net)["drive"]

    @torch.no_grad()
    def _measured(self, net: Any) -> dict[str, list[float]]:
        """Return the drive of each layer and the edges that it keeps."""
        found: dict[str, list[float]] = {name: [] for name in ("drive", "kept_excitatory", "kept_inhibitory")}
        used, frozen = weight_layers(net), weights(net)
        for name in self.before:
            kept = getattr(*used[name]).double()
            found["drive"].append(float(kept.sum() / kept.abs().sum()))
            for of, edges in (("kept_excitatory", frozen[name] > 0), ("kept_inhibitory", frozen[name] < 0)):
                found[of].append(100 * (kept[edges] != 0).double().mean().item())
        return found

    def mixed(self, net: Any) -> int:
        """Count the hidden units whose kept weights have both signs."""
        found = 0
        for name, units in self.before.items():
            weight: Tensor = getattr(*weight_layers(net)[name]).detach().transpose(0, 1).flatten(1).cpu()
            signs = [torch.zeros(int(units.max()) + 1).index_add(0, units, part.any(1).float()) > 0
                     for part in (weight > 0, weight < 0)]  # fmt: skip
            found += int((signs[0] & signs[1]).sum())
        return found

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Measure the layers; write `dale.npz`."""
        arrays = self._measured(module.net) | {"drive_before": self.start}
        np.savez(folder / "dale.npz", **arrays)  # type: ignore[arg-type]
        found = {name: float(np.mean(values)) for name, values in arrays.items() if np.isfinite(values).all()}
        found["mixed"] = self.mixed(module.net)
        if self.data is not None and self.data.held_out and module.task is None:
            found["val_accuracy"] = evaluated(module, self.data, "val")[1]
        return found | {"fails_below": 0.0}
