"""Random networks hide good ones: find them with edge-popup, on any PyTorch model.

Source: Ramanujan et al., What's Hidden in a Randomly Weighted Neural Network?, CVPR 2020, arXiv:1911.13299.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lit_hidden.callbacks import RunCallback as RunCallback
    from lit_hidden.code import spec as spec
    from lit_hidden.edge_popup import EdgePopup as EdgePopup
    from lit_hidden.edge_popup import hide as hide
    from lit_hidden.edge_popup import reveal as reveal
    from lit_hidden.judge import Claim as Claim
    from lit_hidden.nets import build as build
    from lit_hidden.results import Results as Results
    from lit_hidden.run import Run as Run
    from lit_hidden.subnetwork import load_subnetwork as load_subnetwork
    from lit_hidden.subnetwork import masks as masks
    from lit_hidden.subnetwork import save_subnetwork as save_subnetwork
    from lit_hidden.supermask import Supermask as Supermask

# name -> module; imported at first use, so that `import lit_hidden` and `lit-hidden --help` do not wait for torch.
_HOME = {
    "RunCallback": "callbacks",
    "spec": "code",
    "EdgePopup": "edge_popup",
    "hide": "edge_popup",
    "reveal": "edge_popup",
    "Claim": "judge",
    "Results": "results",
    "Run": "run",
    "build": "nets",
    "load_subnetwork": "subnetwork",
    "masks": "subnetwork",
    "save_subnetwork": "subnetwork",
    "Supermask": "supermask",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lit_hidden' has no attribute {name!r}; it has {', '.join(_HOME)}")
    from importlib import import_module

    return getattr(import_module(f"lit_hidden.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
