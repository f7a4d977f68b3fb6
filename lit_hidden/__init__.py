"""Random networks hide good ones: find them with edge-popup, on any PyTorch model.

Source: Ramanujan et al., What's Hidden in a Randomly Weighted Neural Network?, CVPR 2020, arXiv:1911.13299.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = [
    "CIFAR10Data", "Claim", "DigitsData", "EdgePopup", "ImageNetData", "ImageTensorsData", "LitClassifier", "LitDense",
    "LitRandomMask", "LitSubnetwork", "LitSupermask", "LitTicket", "MNISTData", "Results", "Run", "RunCallback",
    "Supermask", "__version__", "build", "hide", "load_subnetwork", "masks", "reveal", "save_subnetwork", "spec",
]  # fmt: skip

if TYPE_CHECKING:
    from lit_hidden.callbacks import RunCallback
    from lit_hidden.classifier import LitClassifier
    from lit_hidden.code import spec
    from lit_hidden.data import CIFAR10Data, DigitsData, ImageNetData, ImageTensorsData, MNISTData
    from lit_hidden.edge_popup import EdgePopup, hide, reveal
    from lit_hidden.judge import Claim
    from lit_hidden.modules import LitDense, LitRandomMask, LitSubnetwork, LitSupermask, LitTicket
    from lit_hidden.nets import build
    from lit_hidden.results import Results
    from lit_hidden.run import Run
    from lit_hidden.subnetwork import load_subnetwork, masks, save_subnetwork
    from lit_hidden.supermask import Supermask

# Name -> module, imported at first use, so that `import lit_hidden` and `lit-hidden --help` do not wait for torch.
_HOME = {"RunCallback": "callbacks", "spec": "code", "Claim": "judge", "Results": "results", "Run": "run"}
_HOME |= {"build": "nets", "Supermask": "supermask", "LitClassifier": "classifier"}
_HOME |= dict.fromkeys(("EdgePopup", "hide", "reveal"), "edge_popup")
_HOME |= dict.fromkeys(("LitDense", "LitRandomMask", "LitSubnetwork", "LitSupermask", "LitTicket"), "modules")
_HOME |= dict.fromkeys(("CIFAR10Data", "DigitsData", "ImageNetData", "ImageTensorsData", "MNISTData"), "data")
_HOME |= dict.fromkeys(("load_subnetwork", "masks", "save_subnetwork"), "subnetwork")


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'lit_hidden' has no attribute {name!r}")
    return getattr(import_module(f"lit_hidden.{_HOME[name]}"), name)
