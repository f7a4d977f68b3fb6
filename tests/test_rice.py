"""The code of masks: against a decoder that reads one bit after the other, against entropy, against damage."""

import random
from contextlib import suppress

import numpy as np
import pytest

from lit_hidden.rice import decode, encode


def entropy(density: float) -> float:
    """Bits of a mask's weight."""
    return -sum(p * np.log2(p) for p in (density, 1 - density) if p)


def read(code: bytes, length: int) -> list[bool]:
    """Decode as the source says, bit by bit."""
    k, rarer = code[0] >> 1, bool(code[0] & 1)
    count, bits = int.from_bytes(code[1:5], "little"), "".join(f"{byte:08b}" for byte in code[5:])
    mask, at, low = [not rarer] * length, -1, [i for i, bit in enumerate(bits) if bit == "1"][:count]
    end = low[-1] + 1 if low else 0
    for i, quotient in enumerate(len(zeros) for zeros in bits[:end].split("1")[:-1]):
        rest = bits[end + i * k : end + (i + 1) * k][::-1]
        at += 1 + (quotient << k) + int(rest or "0", 2)
        mask[at] = rarer
    return mask


@pytest.mark.parametrize("length", [1, 7, 100, 3000])
def test_masks_come_back_and_as_one_bit_after_the_other(length: int) -> None:
    generator = np.random.default_rng(0)
    for density in (0, 0.01, 0.1, 0.3, 0.5, 0.62, 0.95, 1):
        mask = generator.random(length) < density
        code = encode(mask)
        assert code.dtype == np.uint8
        assert np.array_equal(decode(code, length), mask)
        assert read(code.tobytes(), length) == mask.tolist()


@pytest.mark.parametrize("length", [100, 10_000, 400_000])
def test_they_take_at_most_five_percent_more_than_their_entropy_and_some_bytes(length: int) -> None:
    generator = np.random.default_rng(0)
    for density in (0.01, 0.04, 0.1, 0.2, 0.3, 0.38, 0.45, 0.5, 0.7, 0.9, 0.99):
        mask = generator.permutation(length) < round(density * length)
        assert encode(mask).nbytes <= 1.05 * entropy(mask.mean()) * length / 8 + 7


def test_bytes_that_are_no_code_of_a_mask_raise_nothing_else() -> None:
    generator, code = random.Random(0), encode(np.arange(500) % 9 == 0)
    for _ in range(300):
        wrong = code.copy()[: generator.randrange(5, len(code) + 1)]
        wrong[generator.randrange(len(wrong))] = generator.randrange(256)
        with suppress(ValueError, IndexError):
            assert decode(wrong, 500).shape == (500,)
    with pytest.raises(IndexError):
        decode(code[:0], 500)
