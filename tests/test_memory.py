"""What a hidden net holds: its weights once, its scores once, and no mask that is kept from step to step."""

import gc

import torch
from torch import Tensor, nn

from lit_hidden.edge_popup import hide, maskers, original_weight
from lit_hidden.nets import build


def whole(tensors: list[Tensor], layer: Tensor) -> list[Tensor]:
    """Those as large as the layer, each memory once."""
    return list({t.untyped_storage().data_ptr(): t for t in tensors if t.numel() == layer.numel()}.values())


def alive() -> list[Tensor]:
    gc.collect()
    return [found for found in gc.get_objects() if type(found) in (Tensor, nn.Parameter)]


def test_between_steps_there_are_weights_scores_gradients_and_momentum() -> None:
    net = hide(build("conv2", width=0.53))
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        net(torch.randn(4, 3, 32, 32)).square().sum().backward()
        optimizer.step()
    tensors = alive()
    for name, masker in maskers(net).items():
        scores = masker.get_parameter("scores")
        expected = [original_weight(net, name), scores, scores.grad, optimizer.state[scores]["momentum_buffer"]]
        found = whole(tensors, scores)
        assert {t.data_ptr() for t in found} == {t.data_ptr() for t in expected}, name
    optimizer.zero_grad()
    assert len(net.state_dict()) == 2 * len(maskers(net)), "a checkpoint of the net: weights and scores"


def test_within_a_step_the_graph_keeps_the_masked_weights_and_no_mask() -> None:
    net = hide(build("conv2", width=0.53))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        net(torch.randn(4, 3, 32, 32)).square().sum()
    for name, masker in maskers(net).items():
        layer = original_weight(net, name)
        found = whole(kept, layer)
        assert all(t.dtype == torch.float32 for t in found)
        others = {t.data_ptr() for t in found} - {layer.data_ptr(), masker.get_parameter("scores").data_ptr()}
        assert len(others) <= 1, "beside weights and scores, what the layer multiplies its input by"
