"""LightningModules with the paper's settings as defaults: edge-popup, the dense baselines, Zhou's supermask, tickets.

Each builds its network, draws its weights from a seed, and trains whatever still wants a gradient (see
`lit_hidden.classifier`); none asks during training whether the network is hidden.

Each constructor writes all its arguments out, those of its parent too: what `**kwargs` passes on, no editor shows.
"""

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from lit_hidden.classifier import LitClassifier, Optimizer, Schedule
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
        net: a name for `lit_hidden.build`, or a module.
        width: channel multiplier of a net given by name.
        num_classes: number of logits.
        in_channels: channels of an image.
        image_size: height and width of an image.
        distribution: what the weights start from, see `lit_hidden.distributions`; None keeps the net's own start.
        seed: what the weights are drawn from; the same seed gives a hidden net the same weights.
        optimizer: `sgd` or `adam`.
        lr: learning rate at the start.
        momentum: of SGD.
        weight_decay: on all weights.
        schedule: `cosine` or `constant`.
        warmup_epochs: epochs during which the rate grows linearly.
        label_smoothing: in training alone.
    """

    def __init__(
        self,
        net: str | nn.Module = "conv4",
        width: float = 1.0,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        distribution: str | None = "kaiming_normal",
        seed: int = 0,
        optimizer: Optimizer = "sgd",
        lr: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        schedule: Schedule | None = None,
        warmup_epochs: int | None = None,
        label_smoothing: float | None = None,
    ) -> None:
        super().__init__(
            net, width, num_classes, in_channels, image_size,
            optimizer, lr, momentum, weight_decay, schedule, warmup_epochs, label_smoothing,
        )  # fmt: skip
        if distribution is not None:
            initialise(self.net, seed, distribution)


class LitSubnetwork(LitClassifier):
    """Edge-popup: a random network whose weights never change, searched for its best subnetwork.

    Args:
        net: a name for `lit_hidden.build`, or a module.
        width: channel multiplier of a net given by name.
        num_classes: number of logits.
        in_channels: channels of an image.
        image_size: height and width of an image.
        density: fraction of each layer's weights kept, in (0, 1].
        distribution: what the weights are drawn from; None keeps the net's own.
        scaled: multiply the weights by `1/sqrt(density)`; "authors": by `1/sqrt(1 - density)`.
        seed: gives the weight and the score seed.
        weight_seed: the weight seed alone.
        score_seed: the score seed alone.
        skip: layers left unmasked.
        lr: learning rate of the scores at the start.
        momentum: of SGD.
        weight_decay: on the scores.
        schedule: `cosine` or `constant`.
        warmup_epochs: epochs during which the rate grows linearly.
        label_smoothing: in training alone.
    """

    method = "edge_popup"
    masker: MakeMasker = EdgePopup

    def __init__(
        self,
        net: str | nn.Module = "conv4",
        width: float = 1.0,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        density: float = 0.5,
        distribution: str | None = "signed_constant",
        scaled: Scaled = False,
        seed: int = 0,
        weight_seed: int | None = None,
        score_seed: int | None = None,
        skip: Collection[str] = (),
        lr: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        schedule: Schedule | None = None,
        warmup_epochs: int | None = None,
        label_smoothing: float | None = None,
    ) -> None:
        super().__init__(
            net, width, num_classes, in_channels, image_size,
            "sgd", lr, momentum, weight_decay, schedule, warmup_epochs, label_smoothing,
        )  # fmt: skip
        hide(
            self.net,
            density,
            distribution=distribution,
            scaled=scaled,
            seed=seed,
            weight_seed=weight_seed,
            score_seed=score_seed,
            skip=skip,
            masker=type(self).masker,
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
            density, distribution and seeds.
        net: a name for `lit_hidden.build`, or a module: as the subnetwork's.
        width: channel multiplier of a net given by name.
        num_classes: number of logits.
        in_channels: channels of an image.
        image_size: height and width of an image.
        optimizer: `sgd` or `adam`.
        lr: learning rate at the start.
        momentum: of SGD.
        weight_decay: on all weights.
        schedule: `cosine` or `constant`.
        warmup_epochs: epochs during which the rate grows linearly.
        label_smoothing: in training alone.

    Raises:
        ValueError: there is no such file, or it is not a subnetwork of this net.
    """

    method = "ticket"

    def __init__(
        self,
        subnetwork: str | Path,
        net: str | nn.Module = "conv4",
        width: float = 1.0,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        optimizer: Optimizer = "sgd",
        lr: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        schedule: Schedule | None = None,
        warmup_epochs: int | None = None,
        label_smoothing: float | None = None,
    ) -> None:
        subnetwork = str(subnetwork)  # a Path among the hyper-parameters keeps torch from loading a checkpoint
        if not Path(subnetwork).is_file():
            raise ValueError(
                f"subnetwork={subnetwork!r} is no file; give one of save_subnetwork, such as "
                "subnetwork.safetensors in the folder of a run"
            )
        super().__init__(
            net, width, num_classes, in_channels, image_size,
            optimizer, lr, momentum, weight_decay, schedule, warmup_epochs, label_smoothing,
        )  # fmt: skip
        fix_masks(load_subnetwork(self.net, subnetwork))
