"""What torch's parametrizations lack: layers that pickle, recurrent layers, and copies that do not share a class."""

from typing import Any

from torch import nn
from torch.nn.utils import parametrize


def attach(module: nn.Module, attribute: str, parametrization: nn.Module) -> None:
    """Put a parametrization on a weight."""
    parametrize.register_parametrization(module, attribute, parametrization)
    _complete(module)


def detach(module: Any, attribute: str) -> None:
    """Take it off again, and leave the weight as it was under it."""
    # A deep copy shares the class from which torch deletes the property: give this module its own.
    shared = type(module)
    module.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))
    parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()


def _complete(module: nn.Module) -> None:
    """Give the class that torch has made for a module what it lacks."""
    kind: Any = type(module)
    kind.__reduce_ex__ = _reduced
    if isinstance(module, nn.RNNBase):  # it keeps a list of its plain weights: read them anew in each pass
        names = list(module._flat_weights_names)
        kind._flat_weights = property(lambda self: [getattr(self, n, None) for n in names], lambda self, value: None)
        kind._init_flat_weights = kind._update_flat_weights = lambda self: None
        kind.forward = parametrize.cached()(kind.__bases__[0].forward)


def _reduced(module: nn.Module, protocol: Any) -> tuple[Any, ...]:
    """Pickle a module, as `ddp_spawn` and `torch.save` do: `_revived` makes torch's class again."""
    plain: Any = type(module).__bases__[0]  # torch's own class refuses to give the state
    return nn.Module.__new__, (plain,), plain.__getstate__(module), None, None, _revived


def _revived(module: Any, state: dict[str, Any]) -> None:
    module.__setstate__(state)
    parametrize._inject_new_class(module)
    for attribute in module.parametrizations:
        parametrize._inject_property(module, attribute)
    _complete(module)
