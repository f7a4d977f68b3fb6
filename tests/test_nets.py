"""The paper's nets have its shapes and counts; dense nets start from the weights that `hide` draws."""

import sys
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from lit_hidden.edge_popup import hide, original_weight, weight_layers
from lit_hidden.nets import NETS, build, conv_net, initialise

RESNETS = ["resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2"]
ALL = ["conv2", "conv4", "conv6", "conv8", "lenet", "cifar_resnet18", *RESNETS]


def count(net: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(p.numel() for m in net.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False))


def outputs(net: nn.Module) -> list[int]:
    return [m.weight.shape[0] for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize(
    ("name", "conv", "linear"),
    [
        ("conv2", 38_592, 4_262_400),
        ("conv4", 259_776, 2_165_248),
        ("conv6", 1_144_512, 1_116_672),
        ("conv8", 4_683_456, 592_384),
        ("lenet", 0, 266_200),
    ],
)
def test_nets_have_the_papers_parameter_counts(name: str, conv: int, linear: int) -> None:
    images = {"in_channels": 1, "image_size": 28} if name == "lenet" else {}
    with torch.device("meta"):
        net = build(name, **images)
    assert (count(net, nn.Conv2d), count(net, nn.Linear), count(net, nn.Module)) == (conv, linear, conv + linear)


@pytest.mark.parametrize("width", [0.1, 1.3])
@pytest.mark.parametrize("depth", [2, 8])
def test_a_width_multiplies_every_layer_but_the_last_and_rounds_down(depth: int, width: float) -> None:
    with torch.device("meta"):
        net = build(f"conv{depth}", width=width)
    channels = [int(c * width) for c in (64, 128, 256, 512)[: depth // 2] for _ in range(2)]
    assert outputs(net) == [*channels, int(256 * width), int(256 * width), 10]


@pytest.mark.parametrize("name", ["conv6", "lenet", "cifar_resnet18"])
def test_nets_map_images_of_any_size_to_logits(name: str) -> None:
    net = build(name, num_classes=3, in_channels=4, image_size=33, width=0.125).eval()
    with torch.no_grad():
        assert net(torch.randn(2, 4, 33, 33)).shape == (2, 3)


def test_pooling_before_the_relu_is_bit_for_bit_the_papers_net() -> None:
    ours = conv_net(4, width=0.125)
    layers = list(ours)
    for i in reversed(range(len(layers))):
        if isinstance(layers[i], nn.MaxPool2d):
            layers[i : i + 2] = layers[i + 1], layers[i]
    papers = nn.Sequential(*layers)
    pair = ["Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d"]
    linear = ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert [type(layer).__name__ for layer in papers] == [*pair * 2, *linear]
    with torch.no_grad():
        for weight in ours.parameters():  # signed constants and round pixels, so that many sums are equal
            weight.copy_(weight.sign() * 0.125)
    images = torch.randn(8, 3, 32, 32).round().to(memory_format=torch.channels_last)
    found = []
    for net in (ours, papers):
        net.zero_grad()
        loss = nn.functional.cross_entropy(net(images), torch.arange(8))
        loss.backward()
        found.append([loss.detach(), *(weight.grad for weight in ours.parameters())])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*found, strict=True))
    assert found[0][1].any()


@pytest.mark.parametrize("name", ["resnet34", "wide_resnet50_2"])
def test_resnets_are_torchvisions_without_the_classifiers_bias(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = build(name, num_classes=1000), getattr(torchvision.models, name)()
    shapes = {n: p.shape for n, p in theirs.named_parameters() if n != "fc.bias"}
    assert {n: p.shape for n, p in ours.named_parameters()} == shapes
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in theirs.named_modules()]
    with torch.device("meta"):
        half = build(name, num_classes=1000, width=0.5)
    assert [2 * n for n in outputs(half)[:-1]] == outputs(ours)[:-1]


def test_the_cifar_resnet18_has_a_small_stem_and_keeps_the_resolution() -> None:
    net = build("cifar_resnet18")
    assert (net.conv1.kernel_size, net.conv1.stride, net.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    assert count(net, nn.Conv2d) == 11_166_912 - 64 * 3 * (7 * 7 - 3 * 3)  # torchvision's, with a smaller stem
    assert net.fc.weight.shape == (10, 512)


def test_no_convolution_or_linear_layer_has_a_bias() -> None:
    assert list(NETS) == ALL
    for name in ALL:
        with torch.device("meta"):
            net = build(name)
        layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert all(m.bias is None for m in layers), name
        assert len(weight_layers(net)) == len(layers) > 0


def test_a_timm_model_is_built_by_name() -> None:
    net = build("timm:test_resnet", num_classes=7, in_channels=1)
    assert net.eval()(torch.randn(1, 1, 32, 32)).shape == (1, 7)


@pytest.fixture
def own(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "my_own_nets.py").write_text(
        "from torch import nn\n"
        "def strict(num_classes): return nn.Linear(2, num_classes)\n"
        "def greedy(**arguments):\n    net = nn.Linear(2, 2)\n    net.arguments = arguments\n    return net\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_own_nets", None)


@pytest.mark.usefixtures("own")
def test_a_function_of_your_own_gets_the_arguments_it_takes() -> None:
    arguments = {"num_classes": 6, "in_channels": 1, "image_size": 8, "width": 0.5}
    assert build("my_own_nets:strict", **arguments | {"width": 1}).out_features == 6
    assert build("my_own_nets.greedy", **arguments).arguments == arguments


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("conv3", {}, f"net='conv3' is unknown; nets are {', '.join(ALL)}, timm:NAME, or package.module.function"),
        ("conv2", {"width": 0.01}, "width=0.01 leaves 0 of 64 channels"),
        ("my_own_nets:strict", {"width": 2}, "my_own_nets:strict has no width to change"),
        ("no_such_module:net", {}, "no_such_module.net cannot be imported"),
        ("timm:no_such_net", {}, "timm has no model 'no_such_net'"),
        ("without timm", {}, "net='timm:resnet18' needs timm; pip install 'lit-hidden[timm]'"),
    ],
)
def test_what_cannot_be_built_is_refused(
    name: str, arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "without timm":
        name = "timm:resnet18"
        monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError) as error:
        build(name, **arguments)
    assert message in str(error.value)


def test_a_dense_net_is_initialised_with_the_weights_that_hide_draws() -> None:
    dense = initialise(build("conv2", width=0.1), 3, "signed_xavier")
    hidden = hide(build("conv2", width=0.1), 0.3, distribution="signed_xavier", seed=3)
    for name, (module, attribute) in weight_layers(dense).items():
        assert torch.equal(getattr(module, attribute), original_weight(hidden, name))


def test_an_initialised_net_is_trainable_and_has_no_bias_left() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.MultiheadAttention(4, 2, add_bias_kv=True))
    state = torch.get_rng_state()
    assert initialise(net, 0) is net
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad for p in net.parameters())
    assert not [n for n, p in net.named_parameters() if "bias" in n and p.count_nonzero()]


def test_a_function_that_takes_any_argument_and_refuses_one_is_told_with_what_it_was_given():
    told = (
        "unexpected keyword argument 'in_channels'; it takes any argument, so it was given num_classes, in_channels, "
    )
    with pytest.raises(ValueError, match=f"net='torchvision.models.resnet18': .* {told}"):
        build("torchvision.models.resnet18")
