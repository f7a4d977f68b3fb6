import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from lit_hidden.distributions import DISTRIBUTIONS
from lit_hidden.edge_popup import hide, original_weight, weight_layers
from lit_hidden.nets import NETS, build, conv_net, initialise, resnet


def count(net: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(p.numel() for m in net.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "conv", "linear", "total"),
    [
        ("conv2", 38_592, 4_262_400, 4_300_992),
        ("conv4", 259_776, 2_165_248, 2_425_024),
        ("conv6", 1_144_512, 1_116_672, 2_261_184),
        ("conv8", 4_683_456, 592_384, 5_275_840),
    ],
)
def test_conv_nets_have_the_papers_parameter_counts(name: str, conv: int, linear: int, total: int) -> None:
    net = build(name)
    assert (count(net, nn.Conv2d), count(net, nn.Linear), count(net, nn.Module)) == (conv, linear, total)


def test_lenet_has_266200_parameters() -> None:
    net = build("lenet", in_channels=1, image_size=28)
    assert count(net, nn.Module) == 784 * 300 + 300 * 100 + 100 * 10 == 266_200
    assert [tuple(m.weight.shape) for m in net if isinstance(m, nn.Linear)] == [
        (300, 784),
        (100, 300),
        (10, 100),
    ]


def test_conv4_is_the_papers_sequence_of_layers() -> None:
    kinds = [type(m).__name__ for m in build("conv4")]
    pair = ["Conv2d", "ReLU", "Conv2d", "MaxPool2d", "ReLU"]
    assert kinds == [*pair, *pair, "Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert [m.weight.shape[0] for m in build("conv4") if hasattr(m, "weight")] == [
        64,
        64,
        128,
        128,
        256,
        256,
        10,
    ]


@pytest.mark.parametrize("width", [0.1, 0.25, 0.5, 1.3, 2.0])
@pytest.mark.parametrize("depth", [2, 8])
def test_a_width_multiplies_every_layer_but_the_last_and_rounds_down(depth: int, width: float) -> None:
    net = build(f"conv{depth}", width=width)
    expected = [int(c * width) for c in (64, 128, 256, 512)[: depth // 2] for _ in range(2)]
    outs = [m.weight.shape[0] for m in net if isinstance(m, nn.Conv2d | nn.Linear)]
    assert outs == [*expected, int(256 * width), int(256 * width), 10]
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("name", ["conv2", "conv4", "conv6", "lenet", "cifar_resnet18"])
@pytest.mark.parametrize(("size", "channels", "classes"), [(8, 1, 10), (28, 1, 7), (33, 4, 3)])
def test_nets_map_images_of_any_size_to_logits(name: str, size: int, channels: int, classes: int) -> None:
    net = build(name, num_classes=classes, in_channels=channels, image_size=size, width=0.25).eval()
    with torch.no_grad():
        assert net(torch.randn(2, channels, size, size)).shape == (2, classes)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2"])
def test_resnets_count_as_torchvisions_without_the_classifiers_bias(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = build(name, num_classes=1000), getattr(torchvision.models, name)()
    assert count(ours, nn.Module) == count(theirs, nn.Module) - 1000
    assert count(ours, nn.Conv2d) == count(theirs, nn.Conv2d)
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in theirs.named_modules()]


def test_a_resnet_of_width_one_computes_what_torchvisions_does() -> None:
    ours, theirs = build("resnet18", num_classes=5).eval(), torchvision.models.resnet18(num_classes=5).eval()
    theirs.load_state_dict(ours.state_dict() | {"fc.bias": torch.zeros(5)})
    x = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_the_cifar_resnet18_has_a_small_stem_and_keeps_the_resolution() -> None:
    net = build("cifar_resnet18")
    stem = net.conv1
    assert (stem.kernel_size, stem.stride, stem.padding) == ((3, 3), (1, 1), (1, 1))
    assert isinstance(net.maxpool, nn.Identity)
    assert count(net, nn.Conv2d) == 11_166_912 - 64 * 3 * (7 * 7 - 3 * 3)  # torchvision's, with a smaller stem
    assert net.fc.weight.shape == (10, 512)
    shapes = []
    net.layer4.register_forward_hook(lambda *io: shapes.append(io[2].shape))
    with torch.no_grad():
        net.eval()(torch.randn(1, 3, 32, 32))
    assert shapes == [(1, 512, 4, 4)]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wide_resnet50_2"])
def test_a_resnets_width_scales_the_stem_and_every_stage(name: str) -> None:
    with torch.device("meta"):
        half, full = build(name, width=0.5), build(name)
    assert half.conv1.weight.shape[0] == half.bn1.num_features == 32
    assert half.fc.in_features * 2 == full.fc.in_features
    assert half.layer3[0].conv1.out_channels * 2 == full.layer3[0].conv1.out_channels
    net = resnet(name, num_classes=3, width=0.125, cifar=True).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 3, 8, 8)).shape == (1, 3)


@pytest.mark.parametrize("name", list(NETS))
def test_no_convolution_or_linear_layer_has_a_bias(name: str) -> None:
    with torch.device("meta"):
        net = build(name)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert layers
    assert all(m.bias is None for m in layers)
    assert len(weight_layers(net)) == len(layers)


def test_the_names_are_those_of_the_papers() -> None:
    assert list(NETS) == [
        "conv2",
        "conv4",
        "conv6",
        "conv8",
        "lenet",
        "cifar_resnet18",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "wide_resnet50_2",
    ]


def test_a_timm_model_is_built_by_name() -> None:
    net = build("timm:test_resnet", num_classes=7, in_channels=1)
    assert net.eval()(torch.randn(1, 1, 32, 32)).shape == (1, 7)


OWN = """
from torch import nn

def strict(num_classes):
    return nn.Linear(2, num_classes)

def greedy(**arguments):
    net = nn.Linear(2, 2)
    net.arguments = arguments
    return net

class Nested:
    pass
"""


@pytest.fixture
def own(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "my_own_nets.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_own_nets", None)


@pytest.mark.usefixtures("own")
def test_a_function_of_your_own_gets_the_arguments_it_takes() -> None:
    assert build("my_own_nets:strict", num_classes=6).out_features == 6
    assert build("my_own_nets:greedy", num_classes=6, in_channels=1, image_size=8, width=0.5).arguments == {
        "num_classes": 6,
        "in_channels": 1,
        "image_size": 8,
        "width": 0.5,
    }


@pytest.mark.usefixtures("own")
def test_a_width_that_a_net_of_your_own_does_not_take_is_refused() -> None:
    message = "width=2 cannot be: my_own_nets:strict has no width to change; leave it at 1"
    assert refusal(lambda: build("my_own_nets:strict", width=2)) == message


NETS_ARE = (
    "nets are conv2, conv4, conv6, conv8, lenet, cifar_resnet18, resnet18, resnet34, resnet50, resnet101, "
    "wide_resnet50_2, timm:NAME, or package.module.function"
)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("conv3"), f"net='conv3' is unknown; {NETS_ARE}"),
        (lambda: build(""), f"net='' is unknown; {NETS_ARE}"),
        (
            lambda: conv_net(5),
            "depth=5 convolutions is none of the paper's nets; depths are 2, 4, 6, 8",
        ),
        (
            lambda: build("conv8", image_size=8),
            "image_size=8 is too small to be halved 4 times by conv8",
        ),
        (
            lambda: build("conv2", width=0.01),
            "width=0.01 leaves 0 of 64 channels; at least one must be left",
        ),
        (
            lambda: build("lenet", width=0.005),
            "width=0.005 leaves 0 of 100 channels; at least one must be left",
        ),
        (
            lambda: build("resnet18", width=-1),
            "width=-1 leaves -64 of 64 channels; at least one must be left",
        ),
        (
            lambda: build("timm:resnet18", width=0.5),
            "width=0.5 cannot be: timm:resnet18 has no width to change; leave it at 1",
        ),
        (
            lambda: build("timm:test_conv"),
            "timm has no model 'test_conv'; close to it: test_convnext, test_convnext2, test_convnext3",
        ),
        (
            lambda: build("timm:no_such_net"),
            "timm has no model 'no_such_net'; close to it: see timm.list_models()",
        ),
        (
            lambda: build("no_such_module:net"),
            "no_such_module.net cannot be imported: No module named 'no_such_module'; give package.module.name",
        ),
        (
            lambda: build("math:net"),
            "math.net cannot be imported: module 'math' has no attribute 'net'; give package.module.name",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(call: Callable[[], nn.Module], message: str) -> None:
    assert refusal(call) == message


def test_a_timm_name_without_timm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    message = "net='timm:resnet18' needs timm; pip install 'lit-hidden[timm]'"
    assert refusal(lambda: build("timm:resnet18")) == message


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("scaled", [False, True])
def test_a_dense_net_is_initialised_with_the_weights_that_hide_draws(distribution: str, scaled: bool) -> None:
    dense = initialise(build("conv2", width=0.1), 3, distribution, density=0.3, scaled=scaled)
    hidden = hide(build("conv2", width=0.1), 0.3, distribution=distribution, scaled=scaled, seed=3)
    for name, (module, attribute) in weight_layers(dense).items():
        assert torch.equal(getattr(module, attribute), original_weight(hidden, name))


def test_an_initialised_net_is_trainable_and_has_no_bias_left() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    state = torch.get_rng_state()
    assert initialise(net, 0) is net
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad for p in net.parameters())
    assert (net[0].bias == 0).all()
    assert (net[3].bias == 0).all()


def test_attention_is_initialised_with_all_its_biases_zero() -> None:
    net = initialise(nn.MultiheadAttention(4, 2, add_bias_kv=True), 0)
    nonzero = [n for n, p in net.named_parameters() if "bias" in n and p.count_nonzero()]
    assert nonzero == []


def test_an_unknown_distribution_is_refused_before_anything_is_drawn(
    photograph: Callable[[nn.Module], Any],
) -> None:
    net = nn.Linear(2, 2)
    before = photograph(net)
    assert refusal(lambda: initialise(net, 0, "gauss")) == (
        "distribution='gauss' is unknown; distributions are ['kaiming_normal', 'signed_constant', "
        "'unsigned_constant', 'kaiming_uniform', 'xavier_normal', 'signed_xavier'], or package.module.name"
    )
    assert photograph(net) == before


def test_a_net_with_nothing_to_draw_is_refused() -> None:
    message = "nothing to draw: ReLU has no convolution, linear or attention weight"
    assert refusal(lambda: initialise(nn.ReLU(), 0)) == message


@pytest.mark.parametrize("depth", [2, 4, 6, 8])
def test_pooling_before_the_relu_is_bit_for_bit_the_papers_net(depth: int) -> None:
    ours = conv_net(depth, width=0.125)
    layers = list(ours)
    for i in reversed(range(len(layers))):
        if isinstance(layers[i], nn.MaxPool2d):
            layers[i : i + 2] = layers[i + 1], layers[i]
    papers = nn.Sequential(*layers)
    assert [type(layer).__name__ for layer in papers[:5]] == ["Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d"]
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
