"""Methods, data sets and the published hyper-parameters: the defaults of runs and modules.

Source: the authors' configs (allenai/hidden-networks, commit dddf2d0).
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args


@dataclass(frozen=True)
class Method:
    """What a method does; the defaults are those of a method of one's own."""

    module: str  # full dotted name of its LightningModule; only training imports it
    learns: Literal["scores", "weights"] | None = "weights"  # what a step changes; None if nothing learns
    hides: bool | None = None  # whether its net is hidden; None leaves it to the run's density
    captured: bool = False  # whether its steps may be replayed from a CUDA graph: they draw nothing at random
    finds: bool = False  # whether it leaves a subnetwork whose weights a ticket can train


METHODS = {
    "edge_popup": Method("lit_hidden.modules.LitSubnetwork", "scores", hides=True, captured=True, finds=True),
    "dense": Method("lit_hidden.modules.LitDense", "weights", hides=False, captured=True),
    "supermask": Method("lit_hidden.modules.LitSupermask", "scores", hides=True, finds=True),
    "random": Method("lit_hidden.modules.LitRandomMask", learns=None, hides=True, finds=True),
    "ticket": Method("lit_hidden.modules.LitTicket", "weights", hides=True, captured=True),
}
FINDERS = tuple(name for name, known in METHODS.items() if known.finds)
Optimizer = Literal["sgd", "adam"]
Schedule = Literal["cosine", "constant"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")  # Lightning's names
DISTRIBUTIONS = (  # drawn by `lit_hidden.distributions`, which imports torch
    "kaiming_normal", "signed_constant", "unsigned_constant", "kaiming_uniform", "xavier_normal", "signed_xavier"
)  # fmt: skip

IMAGES = {  # channels, size, training images, test images, classes
    "cifar10": (3, 32, 50_000, 10_000, 10),
    "mnist": (1, 28, 60_000, 10_000, 10),
    "digits": (1, 32, 1_437, 360, 10),
    "imagenet": (3, 224, 1_281_167, 50_000, 1000),
    "imagenet100": (3, 224, 128_117, 5_000, 100),  # a tenth of ImageNet; published lists differ
    "imagenette": (3, 224, 9_469, 3_925, 10),
    "imagewoof": (3, 224, 9_025, 3_929, 10),
    "tiny-imagenet": (3, 64, 100_000, 10_000, 200),
    "tiny-imagenet-100": (3, 64, 50_000, 5_000, 100),
}
# ImageNet and its subsets, and the default size of their images in pixels.
IMAGENET_SIZES = {name: size for name, (_, size, *_) in IMAGES.items() if name not in ("cifar10", "mnist", "digits")}
SUBSET = ("classes", "images_per_class", "image_size")  # fields of a run: which part of ImageNet, how large its images
AUGMENTED = ("cifar10", *IMAGENET_SIZES)  # the sets that the authors augment, and our subsets of ImageNet
# The oldest runs on these sets cropped from the middle square of an image, decoded once; now the whole image is the
# default. Both are the same for images that have this size themselves.
SQUARES = {"imagenette": None, "imagewoof": None, "tiny-imagenet": 64, "tiny-imagenet-100": 64}
# The number of classes in each list of `lit_hidden/data/wnids.json`.
CLASS_LISTS = {name: IMAGES[name][-1] for name in ("imagenette", "imagewoof", "tiny-imagenet-100")}
IMAGENET = ("resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2")
NETS = ("conv2", "conv4", "conv6", "conv8", "lenet", "cifar_resnet18", *IMAGENET)  # built by `lit_hidden.nets`


@dataclass(frozen=True)
class Recipe:
    """Settings of a training; the defaults are those of edge-popup on Conv2 to Conv8."""

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 128
    schedule: str = "cosine"
    warmup_epochs: int = 0
    label_smoothing: float = 0.0
    distribution: str = "signed_constant"


def method(name: str) -> Method:
    """Return one of `METHODS`, or the Method of your own LightningModule's dotted name; else raise a ValueError."""
    if name not in METHODS and "." not in name:
        raise ValueError(f"method={name!r} is unknown; methods are {', '.join(METHODS)}")
    return METHODS.get(name) or Method(name)


def recipe(name: str, net: str, optimizer: str = "sgd") -> Recipe:
    """Return the authors' settings of a method on a net; ValueError: the method or its optimizer is unknown.

    Other nets get those of Conv2 to Conv8, other methods those of edge-popup. A ticket is trained like the dense
    baseline but starts from the weights of the hidden nets, as in the authors' `configs/largescale/fixedsubnet`.
    """
    learns = method(name).learns
    allowed = get_args(Optimizer) if learns == "weights" or name == "edge_popup" else ("sgd",)
    if optimizer not in allowed:
        raise ValueError(f"optimizer={optimizer!r}: method={name!r} takes {' or '.join(allowed)}")
    if learns is None:
        return Recipe(lr=0.0, momentum=0.0, weight_decay=0.0, schedule="constant")
    if name == "supermask":
        lr = 400.0 if net in (*IMAGENET, "cifar_resnet18") else 800.0 if net == "conv8" else 200.0
        return Recipe(lr=lr, weight_decay=0.0, batch_size=256 if net in IMAGENET else 128)
    found = Recipe()
    if net in IMAGENET:
        found = Recipe(0.256, 0.875, weight_decay=2**-15, batch_size=256, warmup_epochs=5, label_smoothing=0.1)
    elif net == "cifar_resnet18":
        found = Recipe(weight_decay=5e-4, batch_size=256)
    elif name in ("dense", "ticket") and net != "lenet":
        found = Recipe(lr=0.01)
    if name == "dense":
        found = replace(found, distribution="kaiming_normal")
    if optimizer == "adam" and learns == "scores":  # ours: nobody has published any
        found = replace(found, lr=1e-3, momentum=0.0, weight_decay=0.0)
    elif optimizer == "adam":  # the lottery ticket paper's rates
        lr = {"conv2": 2e-4, "lenet": 1.2e-3}.get(net, 3e-4)
        found = replace(found, lr=lr, momentum=0.0, weight_decay=0.0, batch_size=60, schedule="constant")
    return found
