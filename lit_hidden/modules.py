"""LightningModules with the paper's settings as defaults: edge-popup, the dense baselines, Zhou's supermask, tickets.

Each takes the arguments of `LitClassifier` too; `lit-hidden fit --model.help NAME` lists all of them.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from lit_hidden import code
from lit_hidden.classifier import LitClassifier
from lit_hidden.distributions import Scaled
from lit_hidden.edge_popup import EdgePopup, MakeMasker, hide
from lit_hidden.nets import initialise
from lit_hidden.subnetwork import load_subnetwork, read_subnetwork
from lit_hidden.supermask import Supermask, fix_masks


class LitDense(LitClassifier):
    """The dense baseline: the same network, not hidden, its weights trained.

    Args:
        distribution: the weights are drawn from it; None keeps those that the net came with.
        seed: seed of the weights; the same seed gives a hidden net the same weights.
    """

    def __init__(self, *args: Any, distribution: str | None = "kaiming_normal", seed: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if distribution is not None:
            initialise(self.net, seed, distribution)


class LitSubnetwork(LitClassifier):
    """Edge-popup: a random network whose weights never change, searched for its best subnetwork.

    Args:
        density: fraction of each layer's weights kept, in (0, 1].
        distribution: the weights are drawn from it; None keeps those that the net came with.
        scaled: multiply the weights by `1/sqrt(density)`; "authors": by `1/sqrt(1 - density)`.
        seed: weight seed and score seed, where these are None.
        weight_seed: seed of the weights.
        score_seed: seed of the scores.
        skip: layers left unmasked.
        masker: dotted name of the class that chooses which weights stay; None is the method's own.
        hiding: further arguments of `hide`, such as `strict`, `embeddings` and `roles`.
    """

    method = "edge_popup"
    masker: MakeMasker = EdgePopup

    def __init__(
        self,
        *args: Any,
        density: float = 0.5,
        distribution: str | None = "signed_constant",
        scaled: Scaled = False,
        seed: int = 0,
        weight_seed: int | None = None,
        score_seed: int | None = None,
        skip: Collection[str] = (),
        masker: str | None = None,
        hiding: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if unknown := sorted(set(hiding or {}) - {"strict", "embeddings", "roles"}):
            raise ValueError(f"hiding has {', '.join(map(repr, unknown))}; it takes strict, embeddings and roles")
        hide(
            self.net, density, distribution=distribution, scaled=scaled, skip=skip,
            seed=seed, weight_seed=weight_seed, score_seed=score_seed,
            masker=type(self).masker if masker is None else code.load(code.full(masker)), **hiding or {},
        )  # fmt: skip


class LitSupermask(LitSubnetwork):
    """Zhou's supermask: each weight stays with a learned probability; masks are sampled at every step, in tests too."""

    method = "supermask"
    masker = Supermask


class LitRandomMask(LitSubnetwork):
    """The control: a random subnetwork of a random network. Training only updates the statistics of norm layers."""

    method = "random"
    automatic_optimization = False


class LitTicket(LitClassifier):
    """A found subnetwork as a lottery ticket: its mask stays, its weights are trained from their random start.

    Settings are those of the dense baseline. Norm layers are affine again and keep their running statistics.

    Args:
        subnetwork: a file of `save_subnetwork`, found in the same net; None if the net is hidden already.
    """

    method = "ticket"

    def __init__(self, subnetwork: str | Path | None, *args: Any, **kwargs: Any) -> None:
        subnetwork = subnetwork and str(subnetwork)  # torch does not load a checkpoint that holds a Path
        if subnetwork and "_known" not in vars(self):  # the file says what the data will
            about = read_subnetwork(subnetwork)[0]["about"]
            self._known = {name: about.get(name, value) for name, value in self._known.items()}
        super().__init__(*args, **kwargs)
        fix_masks(self.net if subnetwork is None else load_subnetwork(self.net, subnetwork))
