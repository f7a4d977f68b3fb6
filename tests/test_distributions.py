import hashlib
import math

import pytest
import torch
from scipy import stats
from torch import Size, Tensor

from lit_hidden.distributions import DISTRIBUTIONS, draw, layer_generator
from lit_hidden.recipes import UNSCALED

SHAPE = Size((64, 32, 3, 3))  # fan_in 288, fan_out 576
STD = {
    "kaiming_normal": math.sqrt(2 / 288),
    "signed_constant": math.sqrt(2 / 288),
    "unsigned_constant": math.sqrt(2 / 288),
    "kaiming_uniform": math.sqrt(2 / 288),
    "xavier_normal": math.sqrt(2 / (288 + 576)),
    "signed_xavier": math.sqrt(2 / (288 + 576)),
}


def sample(name: str, shape: Size = SHAPE, seed: int = 0, **how: object) -> Tensor:
    return draw(shape, name, layer_generator(seed, "weights", "conv"), **how)  # type: ignore[arg-type]


def test_the_distributions_are_those_of_the_design() -> None:
    assert list(DISTRIBUTIONS) == [
        "kaiming_normal",
        "signed_constant",
        "unsigned_constant",
        "kaiming_uniform",
        "xavier_normal",
        "signed_xavier",
    ]
    assert STD.keys() == DISTRIBUTIONS.keys()


@pytest.mark.parametrize("name", STD)
def test_weights_are_float32_on_the_cpu_in_row_major_order(name: str) -> None:
    weights = sample(name)
    assert (weights.dtype, weights.device.type, weights.shape) == (torch.float32, "cpu", SHAPE)
    assert weights.is_contiguous()
    assert not weights.requires_grad


@pytest.mark.parametrize("name", ["signed_constant", "unsigned_constant", "signed_xavier"])
def test_constants_have_the_magnitude_of_the_formula_exactly(name: str) -> None:
    assert sample(name).abs().unique().tolist() == [torch.tensor(STD[name], dtype=torch.float32).item()]


def test_unsigned_constants_are_all_positive() -> None:
    assert (sample("unsigned_constant") > 0).all()


@pytest.mark.parametrize("name", ["signed_constant", "signed_xavier", "kaiming_normal", "kaiming_uniform"])
@pytest.mark.parametrize("seed", range(3))
def test_signs_are_balanced_within_binomial_bounds(name: str, seed: int) -> None:
    weights = sample(name, seed=seed)
    positive = int((weights > 0).sum())
    assert stats.binomtest(positive, weights.numel(), 0.5).pvalue > 1e-4


@pytest.mark.parametrize("name", ["signed_constant", "signed_xavier"])
def test_neighbouring_signs_are_independent(name: str) -> None:
    signs = sample(name).flatten().sign()
    same = int((signs[1:] == signs[:-1]).sum())
    assert stats.binomtest(same, signs.numel() - 1, 0.5).pvalue > 1e-4


@pytest.mark.parametrize("name", ["kaiming_normal", "xavier_normal"])
def test_normals_are_normal_with_the_std_of_the_formula(name: str) -> None:
    values = sample(name).flatten().double().numpy()
    assert stats.kstest(values, stats.norm(0, STD[name]).cdf).pvalue > 1e-4


def test_kaiming_uniform_is_uniform_with_the_std_of_kaiming_normal() -> None:
    bound = math.sqrt(3) * STD["kaiming_uniform"]
    values = sample("kaiming_uniform").flatten().double().numpy()
    assert stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-4
    assert abs(values).max() <= bound * (1 + 1e-6)
    assert values.std() == pytest.approx(STD["kaiming_uniform"], rel=0.01)


@pytest.mark.parametrize("name", sorted(STD.keys() - set(UNSCALED)))
@pytest.mark.parametrize("density", [0.1, 0.3, 0.5, 0.9])
def test_scaled_multiplies_by_the_root_of_the_density_and_authors_by_that_of_its_complement(
    name: str, density: float
) -> None:
    plain = sample(name).double()
    ours, authors = (sample(name, density=density, scaled=s).double() for s in (True, "authors"))
    torch.testing.assert_close(ours, plain / math.sqrt(density), rtol=3e-7, atol=0)
    torch.testing.assert_close(authors, plain / math.sqrt(1 - density), rtol=3e-7, atol=0)


def test_scaled_constants_are_exact() -> None:
    for scaled, factor in ((True, math.sqrt(0.3)), ("authors", math.sqrt(1 - 0.3))):
        expected = torch.tensor(math.sqrt(2 / 288) / factor, dtype=torch.float32)
        assert sample("unsigned_constant", density=0.3, scaled=scaled).unique() == expected


@pytest.mark.parametrize("name", sorted(STD.keys() - set(UNSCALED)))
def test_the_two_readings_of_scaled_agree_at_one_half_only(name: str) -> None:
    at = {d: (sample(name, density=d, scaled=True), sample(name, density=d, scaled="authors")) for d in (0.5, 0.3)}
    assert torch.equal(*at[0.5])
    assert not torch.equal(*at[0.3])


@pytest.mark.parametrize("name", STD)
def test_the_density_matters_to_scaled_weights_alone(name: str) -> None:
    assert torch.equal(sample(name, density=0.1), sample(name, density=0.9))


def test_a_layers_generator_is_seeded_by_the_hash_of_purpose_seed_and_name() -> None:
    digest = hashlib.sha256(b"weights/7/layer1.0.conv1").digest()
    expected = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") // 2)
    assert layer_generator(7, "weights", "layer1.0.conv1").initial_seed() == expected.initial_seed()


def test_generators_differ_by_seed_purpose_and_layer() -> None:
    keys = [(s, p, n) for s in range(-3, 20) for p in ("weights", "scores") for n in ("a", "b", "a.b", "1", "11")]
    assert len({layer_generator(*key).initial_seed() for key in keys}) == len(keys)


@pytest.mark.parametrize("name", STD)
def test_drawing_leaves_the_global_random_state_alone(name: str) -> None:
    before = torch.get_rng_state()
    sample(name)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", STD)
def test_default_dtype_and_device_do_not_change_the_draw(name: str) -> None:
    expected = sample(name)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert torch.equal(sample(name), expected)
    finally:
        torch.set_default_dtype(torch.float32)
