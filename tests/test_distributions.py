"""What weights are drawn from, and by which generator; `test_hide_and_reveal.py` draws in another process too."""

import hashlib
import math

import pytest
import torch
from scipy import stats
from torch import Size, Tensor

from lit_hidden.distributions import DISTRIBUTIONS, draw, layer_generator

SHAPE = Size((64, 32, 3, 3))
KAIMING, XAVIER = math.sqrt(2 / 288), math.sqrt(2 / (288 + 576))  # fan_in 288, fan_out 576
STD = {
    "kaiming_normal": KAIMING,
    "signed_constant": KAIMING,
    "unsigned_constant": KAIMING,
    "kaiming_uniform": KAIMING,
    "xavier_normal": XAVIER,
    "signed_xavier": XAVIER,
}


def sample(name: str, shape: Size = SHAPE, seed: int = 0, **how: object) -> Tensor:
    return draw(shape, name, layer_generator(seed, "weights", "conv"), **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", STD)
def test_weights_are_float32_on_the_cpu_whatever_the_defaults_and_from_their_generator_alone(name: str) -> None:
    assert list(STD) == list(DISTRIBUTIONS)
    before = torch.get_rng_state()
    weights = sample(name, density=0.1)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert torch.equal(sample(name, density=0.9), weights), "the density matters to scaled weights alone"
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert (weights.dtype, weights.device.type, weights.shape) == (torch.float32, "cpu", SHAPE)
    assert weights.is_contiguous()
    assert not weights.requires_grad


@pytest.mark.parametrize("name", ["signed_constant", "unsigned_constant", "signed_xavier"])
def test_constants_have_the_magnitude_of_the_formula_exactly(name: str) -> None:
    assert sample(name).abs().unique().tolist() == [torch.tensor(STD[name], dtype=torch.float32).item()]
    if name == "unsigned_constant":
        assert (sample(name) > 0).all()


@pytest.mark.parametrize("name", ["signed_constant", "signed_xavier", "kaiming_normal", "kaiming_uniform"])
def test_signs_are_balanced_and_neighbours_independent(name: str) -> None:
    positive = sample(name).flatten() > 0
    assert stats.binomtest(int(positive.sum()), positive.numel(), 0.5).pvalue > 1e-4
    same = int((positive[1:] == positive[:-1]).sum())
    assert stats.binomtest(same, positive.numel() - 1, 0.5).pvalue > 1e-4


@pytest.mark.parametrize("name", ["kaiming_normal", "xavier_normal", "kaiming_uniform"])
def test_normals_and_uniforms_have_the_std_of_the_formula(name: str) -> None:
    values, std = sample(name).flatten().double().numpy(), STD[name]
    bound = math.sqrt(3) * std
    expected = stats.uniform(-bound, 2 * bound) if name == "kaiming_uniform" else stats.norm(0, std)
    assert stats.kstest(values, expected.cdf).pvalue > 1e-4
    assert values.std() == pytest.approx(std, rel=0.02)
    if name == "kaiming_uniform":
        assert abs(values).max() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("name", list(STD))
@pytest.mark.parametrize("density", [0.3, 0.5])
def test_scaled_multiplies_by_the_root_of_the_density_and_authors_by_that_of_its_complement(
    name: str, density: float
) -> None:
    plain = sample(name).double()
    ours, authors = (sample(name, density=density, scaled=s).double() for s in (True, "authors"))
    torch.testing.assert_close(ours, plain / math.sqrt(density), rtol=3e-7, atol=0)
    torch.testing.assert_close(authors, plain / math.sqrt(1 - density), rtol=3e-7, atol=0)
    assert torch.equal(ours, authors) == (density == 0.5)


@pytest.mark.parametrize(
    ("shape", "fan_in"), [((10, 20), 20), ((64, 3, 3, 3), 27), ((8, 4, 5), 20), ((6, 1, 2, 3, 4), 24)]
)
def test_the_fan_in_counts_the_kernel(shape: tuple[int, ...], fan_in: int) -> None:
    assert sample("unsigned_constant", Size(shape)).unique() == torch.tensor(math.sqrt(2 / fan_in), dtype=torch.float32)


def test_a_layers_generator_is_seeded_by_the_hash_of_purpose_seed_and_name() -> None:
    digest = hashlib.sha256(b"weights/7/layer1.0.conv1").digest()
    expected = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") // 2)
    assert layer_generator(7, "weights", "layer1.0.conv1").initial_seed() == expected.initial_seed()
    keys = [(s, p, n) for s in range(-3, 20) for p in ("weights", "scores") for n in ("a", "b", "a.b", "1", "11")]
    assert len({layer_generator(*key).initial_seed() for key in keys}) == len(keys)
