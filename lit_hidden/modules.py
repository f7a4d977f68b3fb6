"""LightningModules with the paper's settings as defaults: edge-popup, the dense baselines, Zhou's supermask, tickets.

Each builds its network, draws its weights from a seed, and trains whatever still wants a gradient (see
`lit_hidden.classifier`); none asks during training whether the network is hidden.

Each takes the arguments of `LitClassifier` too, and hands them on; `lit-hidden fit --model.help NAME` lists them all.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_hidden import code
from lit_hidden.classifier import LitClassifier
from lit_hidden.distributions import Scaled
from lit_hidden.edge_popup import EdgePopup, MakeMasker, hide
from lit_hidden.nets import initialise
from lit_hidden.steps import Block
from lit_hidden.subnetwork import load_subnetwork
from lit_hidden.supermask import Supermask
from lit_hidden.ticket import fix_masks


class LitDense(LitClassifier):
    """The dense baseline: the same network, not hidden, its weights trained.

    The defaults are the paper's SGD baseline (lr 0.01 on Conv2 to Conv8); `optimizer="adam"` gives its Adam baseline.

    Args:
        *args: as of `LitClassifier`, from `net` on.
        distribution: what the weights start from, see `lit_hidden.distributions`; None keeps the net's own start.
        seed: what the weights are drawn from; the same seed gives a hidden net the same weights.
        **kwargs: as of `LitClassifier`.
    """

    def __init__(self, *args: Any, distribution: str | None = "kaiming_normal", seed: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if distribution is not None:
            initialise(self.net, seed, distribution)


class LitSubnetwork(LitClassifier):
    """Edge-popup: a random network whose weights never change, searched for its best subnetwork.

    Args:
        *args: as of `LitClassifier`, from `net` on.
        density: fraction of each layer's weights kept, in (0, 1].
        distribution: what the weights are drawn from; None keeps the net's own.
        scaled: multiply the weights by `1/sqrt(density)`; "authors": by `1/sqrt(1 - density)`.
        seed: gives the weight and the score seed.
        weight_seed: the weight seed alone.
        score_seed: the score seed alone.
        skip: layers left unmasked.
        masker: what chooses the weights that stay, by its dotted name; None is this class' own.
        **kwargs: as of `LitClassifier`; the optimizer is `sgd`.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        hide(
            self.net,
            density,
            distribution=distribution,
            scaled=scaled,
            seed=seed,
            weight_seed=weight_seed,
            score_seed=score_seed,
            skip=skip,
            masker=type(self).masker if masker is None else code.load(code.full(masker)),
        )


class LitSupermask(LitSubnetwork):
    """Zhou's supermask: each weight stays with a learned probability, sampled at every step, at test too."""

    method = "supermask"
    masker = Supermask


class LitRandomMask(LitSubnetwork):
    """The control: a random subnetwork of a random network, which nobody trains.

    One epoch passes the images through, so that norm layers know their running statistics; nothing is learned.
    """

    method = "random"
    automatic_optimization = False  # no step is taken

    @torch.no_grad()
    def training_step(self, batch: tuple[Tensor, Tensor] | Block, batch_idx: int) -> Tensor:
        """Pass a batch through and learn nothing."""
        return super().training_step(batch, batch_idx)


class LitTicket(LitClassifier):
    """Are found subnetworks lottery tickets? The weights of one are trained, from their random start; its mask stays.

    Settings are the dense baseline's, and so are norm layers (affine, from weight 1 and bias 0; running statistics as
    in the file). What the mask drops stays 0 in every product.

    Source: Ramanujan et al., arXiv:1911.13299, appendix; the authors' `FixedSubnetConv` and
    `configs/largescale/fixedsubnet`.

    Args:
        subnetwork: a file of `save_subnetwork`, such as `subnetwork.safetensors` in the folder of a run; it knows
            density, distribution and seeds. None: the net is hidden already.
        *args: as of `LitClassifier`, from `net` on: as the subnetwork's.
        **kwargs: as of `LitClassifier`.

    Raises:
        SubnetworkError: there is no such file, or it is not a subnetwork of this net.
    """

    method = "ticket"

    def __init__(self, subnetwork: str | Path | None, *args: Any, **kwargs: Any) -> None:
        # A Path among the hyper-parameters keeps torch from loading a checkpoint.
        subnetwork = None if subnetwork is None else str(subnetwork)
        super().__init__(*args, **kwargs)
        fix_masks(self.net if subnetwork is None else load_subnetwork(self.net, subnetwork))
