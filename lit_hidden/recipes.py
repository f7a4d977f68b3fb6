"""The published hyper-parameters, as data: what a run or a module takes where nothing else is said.

Source: the authors' configs (allenai/hidden-networks, commit dddf2d0).
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Method:
    """What a method does, for all who ask; the defaults hold for code of one's own.

    Args:
        module: the full name of its LightningModule: text, which training alone imports.
        learns: what its steps change; None: nothing learns.
        hides: whether it has a density; None: as its run says.
        captured: whether its steps may come from a CUDA graph: it takes steps, and draws nothing in them.
        finds: whether it leaves a subnetwork whose weights a ticket may train.
        numbers: what its results hold besides those of every method; `{metric}` is the primary one.
    """

    module: str
    learns: Literal["scores", "weights"] | None = "weights"
    hides: bool | None = None
    captured: bool = False
    finds: bool = False
    numbers: tuple[str, ...] = ()


METHODS = {
    "edge_popup": Method("lit_hidden.modules.LitSubnetwork", "scores", hides=True, captured=True, finds=True),
    "dense": Method("lit_hidden.modules.LitDense", "weights", hides=False, captured=True),
    "supermask": Method("lit_hidden.modules.LitSupermask", "scores", True, finds=True, numbers=("density_sampled",)),
    "random": Method("lit_hidden.modules.LitRandomMask", learns=None, hides=True, finds=True),
    "ticket": Method("lit_hidden.modules.LitTicket", "weights", True, captured=True, numbers=("{metric}_before",)),
}
FINDERS = tuple(name for name, known in METHODS.items() if known.finds)
OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")  # Lightning's names
DISTRIBUTIONS = (  # how each is drawn is said in `lit_hidden.distributions`, which imports torch
    "kaiming_normal", "signed_constant", "unsigned_constant", "kaiming_uniform", "xavier_normal", "signed_xavier"
)  # fmt: skip
UNSCALED = ("kaiming_uniform", "xavier_normal", "signed_xavier")  # by the authors' code, whatever `scale_fan` says

IMAGENET_SIZES = {  # ImageNet and its subsets: the size of their images in pixels, unless another is asked for
    "imagenet": 224, "imagenet100": 224, "imagenette": 224, "imagewoof": 224, "tiny-imagenet": 64,
    "tiny-imagenet-100": 64,
}  # fmt: skip
AUGMENTED = ("cifar10", *IMAGENET_SIZES)  # what the authors augment, and our sets of such images
# Sets of ImageNet's images whose runs, before they could choose, took random parts of the middle square of an image,
# decoded once, and not of the whole image. Where images have that size themselves, both are one.
SQUARES = {"imagenette": None, "imagewoof": None, "tiny-imagenet": 64, "tiny-imagenet-100": 64}
CLASS_LISTS = {
    "imagenette": 10,
    "imagewoof": 10,
    "tiny-imagenet-100": 100,
}  # how many classes each has; see `lit_hidden.data.wnids`
IMAGES = {  # channels, size, training and test images, classes; a test asks the data modules
    "cifar10": (3, 32, 50_000, 10_000, 10),
    "mnist": (1, 28, 60_000, 10_000, 10),
    "digits": (1, 32, 1_437, 360, 10),
    "imagenet": (3, 224, 1_281_167, 50_000, 1000),
    "imagenet100": (3, 224, 128_117, 5_000, 100),  # its lists differ: a tenth of ImageNet
    "imagenette": (3, 224, 9_469, 3_925, 10),
    "imagewoof": (3, 224, 9_025, 3_929, 10),
    "tiny-imagenet": (3, 64, 100_000, 10_000, 200),
    "tiny-imagenet-100": (3, 64, 50_000, 5_000, 100),
}

IMAGENET = ("resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are edge-popup's on Conv2 to Conv8."""

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 128
    schedule: str = "cosine"
    warmup_epochs: int = 0
    label_smoothing: float = 0.0
    distribution: str = "signed_constant"


def method(name: str) -> Method:
    """Give what is known of a method: one of `METHODS`, or the dotted name of a LightningModule of your own.

    Raises:
        ValueError: neither.
    """
    if name not in METHODS and "." not in name:
        raise ValueError(f"method={name!r} is unknown; methods are {', '.join(METHODS)}")
    return METHODS.get(name) or Method(name)


def recipe(name: str, net: str, optimizer: str = "sgd") -> Recipe:
    """Give the authors' settings of method `name` on `net`; nets of your own get those of Conv2 to Conv8.

    Methods of your own get edge-popup's settings.

    A ticket is trained as the dense baseline is, but from the weights of the hidden nets. So are the authors' (their
    `configs/largescale/fixedsubnet`: the dense rate, and in other files 0.01).

    Raises:
        ValueError: unknown method or optimizer; Adam for a method that trains no weights.
    """
    learns = method(name).learns
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer={optimizer!r} is unknown; optimizers are {', '.join(OPTIMIZERS)}")
    if optimizer == "adam" and learns != "weights":
        raise ValueError(f"optimizer='adam' is for the weights of dense and ticket; method={name!r} takes 'sgd'")
    base = Recipe()
    if learns is None:
        return replace(base, lr=0.0, momentum=0.0, weight_decay=0.0, schedule="constant")
    if net in IMAGENET:
        base = replace(
            base, lr=0.256, momentum=0.875, weight_decay=2**-15, batch_size=256, warmup_epochs=5, label_smoothing=0.1
        )
        if name == "supermask":
            base = Recipe(lr=400.0, weight_decay=0.0, batch_size=256)
    elif net == "cifar_resnet18":
        base = replace(base, weight_decay=5e-4, batch_size=256)
        if name == "supermask":
            base = replace(base, lr=400.0, weight_decay=0.0, batch_size=128)
    elif name == "supermask":
        base = replace(base, lr=800.0 if net == "conv8" else 200.0, weight_decay=0.0)
    elif name in METHODS and learns == "weights":
        base = replace(base, lr=0.1 if net == "lenet" else 0.01)
    if name == "dense":
        base = replace(base, distribution="kaiming_normal")
    if optimizer == "adam":  # the lottery ticket paper's rates
        lr = {"conv2": 2e-4, "lenet": 1.2e-3}.get(net, 3e-4)
        base = replace(base, lr=lr, momentum=0.0, weight_decay=0.0, batch_size=60, schedule="constant")
    return base
