"""Small floats, shared exponents and block scales: `ml_dtypes` and the published definitions are the oracle.

The definitions are the OCP Microscaling Formats (MX) Specification 1.0, sections 5 and 6.3, and, for NVFP4, appendix C
of arXiv:2509.25149; here as loops over numbers, in float64 or fractions.
"""

from fractions import Fraction
from math import floor, frexp, inf, log2

import ml_dtypes
import numpy as np
import pytest

from lowbit_dtp import formats
from lowbit_dtp.formats import Microscaling, SharedExponent, SmallFloat

DTYPES = {
    "fp8-e4m3": ml_dtypes.float8_e4m3fn,
    "fp8-e5m2": ml_dtypes.float8_e5m2,
    "fp4-e2m1": ml_dtypes.float4_e2m1fn,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}
every_float = pytest.mark.parametrize("fmt", [formats.parse(name) for name in DTYPES], ids=str)


def all_codes(fmt: SmallFloat) -> np.ndarray:
    return np.arange(2**fmt.bits).astype(fmt.code_dtype)


def as_dtype(x: np.ndarray, fmt: SmallFloat) -> np.ndarray:
    """`x` as the type of `ml_dtypes`, held to its range first where the format saturates."""
    with np.errstate(over="ignore"):
        top = fmt.largest if fmt.saturates else inf
        return np.clip(x, np.asarray(-top, x.dtype), np.asarray(top, x.dtype)).astype(DTYPES[fmt.name])


@every_float
def test_every_code_stands_for_its_number(fmt: SmallFloat) -> None:
    codes = all_codes(fmt)
    with np.errstate(invalid="ignore"):
        expected = codes.view(DTYPES[fmt.name]).astype(np.float64)
    found = fmt.decode(codes)
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(np.signbit(found), np.signbit(expected))
    info = ml_dtypes.finfo(DTYPES[fmt.name])
    assert (fmt.largest, fmt.lowest_exponent) == (float(info.max), floor(log2(float(info.smallest_normal))))


@every_float
def test_every_number_and_every_tie_has_its_code(fmt: SmallFloat) -> None:
    """All finite numbers of the format, the middles between neighbours, and the float32 next to those."""
    values = np.unique(fmt.decode(all_codes(fmt)))
    values = values[np.isfinite(values)]
    middles = (values[1:] + values[:-1]) / 2
    exact = np.concatenate([values, middles, [2 * fmt.largest, -2 * fmt.largest, inf, -inf, 0.0, -0.0]])
    with np.errstate(over="ignore"):
        x = exact.astype(np.float32)
    x = np.concatenate([x, np.nextafter(x, np.float32(inf)), np.nextafter(x, np.float32(-inf))])
    assert np.array_equal(fmt.encode(x), as_dtype(x, fmt).view(fmt.code_dtype))


@every_float
def test_random_numbers_have_their_codes(fmt: SmallFloat) -> None:
    random = np.random.default_rng(0)
    reach = log2(fmt.largest)
    x = random.standard_normal(200_000) * 2.0 ** random.uniform(-2 * reach, 1.1 * reach, 200_000)
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    assert np.array_equal(fmt.encode(x), as_dtype(x, fmt).view(fmt.code_dtype))


def test_what_is_too_large_saturates_or_is_infinite() -> None:
    ends = {fmt.name: fmt.quantize([inf, -1e30]).tolist() for fmt in map(formats.parse, DTYPES)}
    assert ends == {
        "fp8-e4m3": [448, -448],
        "fp8-e5m2": [57344, -57344],
        "fp4-e2m1": [6, -6],
        "bfloat16": [inf, ends["bfloat16"][1]],
        "float16": [inf, -inf],
    }
    assert formats.float16.quantize([65519.0, 65520.0]).tolist() == [65504, inf]


# --- scales -----------------------------------------------------------------------------------------------------------


def rows(neurons: int = 70) -> np.ndarray:
    """float32 of all sizes: rows of one size, of many, of powers of two, all zero, and with infinity."""
    random = np.random.default_rng(1)
    x = random.standard_normal((60, neurons)) * 2.0 ** random.integers(-150, 126, (60, 1))
    x[20:40] = random.standard_normal((20, neurons)) * 2.0 ** random.integers(-20, 20, (20, neurons))
    x[40:50] = 2.0 ** random.integers(-8, 8, (10, neurons))
    x[50:53] = 0
    x[53:55, :32] = 0
    x[55, -1] = inf
    with np.errstate(under="ignore"):
        return x.astype(np.float32)


def nearest(x: float, fmt: SmallFloat) -> float:
    """The finite number of `fmt` nearest to `x`, of two the one with the even code."""
    codes = range(fmt.largest_code + 1)
    values = fmt.decode(np.array(codes)).tolist()
    code = min(codes, key=lambda k: (abs(Fraction(values[k]) - abs(Fraction(x))), k % 2))
    return -values[code] if x < 0 else values[code]


def integer(bits: list[int], width: int) -> int:
    """A scale, of the codes of `width` bits that hold it."""
    return sum(code << width * i for i, code in enumerate(bits))


@pytest.mark.parametrize("fmt", [formats.mxfp8_e4m3, formats.mxfp8_e5m2, formats.mxfp4, formats.mxint8], ids=str)
@pytest.mark.parametrize("neurons", [1, 32, 33, 70])
def test_microscaling(fmt: Microscaling, neurons: int) -> None:
    element, highest = {
        "mxfp8-e4m3": (formats.e4m3, 8),
        "mxfp8-e5m2": (formats.e5m2, 15),
        "mxfp4": (formats.e2m1, 2),
        "mxint8": (None, 0),
    }[fmt.name]
    blocks = -(-neurons // 32)
    assert fmt.scale_bits(neurons) == 8 * blocks
    for row in rows(neurons):
        codes = fmt.encode(row).tolist()
        each = len(codes[neurons:]) // blocks
        found = fmt.decode(np.array(codes))
        for b in range(blocks):
            block = row[32 * b : 32 * b + 32].astype(np.float64)
            largest = float(np.abs(block).max())
            exponent = -127 if largest == 0 else 127 if largest == inf else frexp(largest)[1] - 1 - highest
            exponent = min(max(exponent, -127), 127)
            scale = integer(codes[neurons + each * b : neurons + each * (b + 1)], fmt.bits)
            assert np.array(scale, np.uint8).view(ml_dtypes.float8_e8m0fnu) == 2.0**exponent
            if element is None:
                expected = np.clip(np.rint(block / 2.0**exponent * 64), -127, 127) / 64
            else:
                expected = as_dtype(block / 2.0**exponent, element).astype(np.float64)
            assert np.array_equal(found[32 * b : 32 * b + 32], expected * 2.0**exponent)


@pytest.mark.parametrize("neurons", [1, 16, 17, 70])
def test_nvfp4(neurons: int) -> None:
    fmt, blocks = formats.nvfp4, -(-neurons // 16)
    assert fmt.scale_bits(neurons) == 8 * blocks + 32
    for row in np.concatenate([rows(neurons)[:55], rows(neurons)[56:]]):
        if 0 < np.abs(row).max() < 2.0**-110:
            continue  # the message's scale is held to normal float32
        codes = fmt.encode(row).tolist()
        of_message = np.array(integer(codes[-8:], 4), np.uint32).view(np.float32)
        found = fmt.decode(np.array(codes))
        largest = float(np.abs(row).max())
        if largest == 0:
            assert not found.any() and not any(codes[: neurons + 2 * blocks])
            continue
        assert of_message == np.float32(largest / (6 * 448))
        for b in range(blocks):
            block = row[16 * b : 16 * b + 16].astype(np.float64)
            wanted = np.float64(np.abs(block).max()) / 6 / float(of_message)
            held = np.clip(wanted, 0, 448).astype(ml_dtypes.float8_e4m3fn)
            scale = np.array(integer(codes[neurons + 2 * b : neurons + 2 * b + 2], 4), np.uint8)
            assert scale.view(ml_dtypes.float8_e4m3fn) == held
            whole = float(held) * float(of_message)
            # not by ml_dtypes, which takes float64 by way of float32 and so rounds twice
            expected = np.array([nearest(x / whole, formats.e2m1) * whole if whole else 0 for x in block.tolist()])
            assert np.array_equal(found[16 * b : 16 * b + 16], expected)


@pytest.mark.parametrize("fmt", [formats.shared(w, e) for w, e in ((2, 8), (4, 8), (3, 4), (8, 2), (12, 8))], ids=str)
def test_the_smallest_shared_exponent_that_does_not_saturate(fmt: SharedExponent) -> None:
    top, bias = 2 ** (fmt.word - 1) - 1, 2 ** (fmt.exponent - 1) - 1
    edges = np.array([top * 2.0**-20, -top * 2.0**3, top], np.float32)[:, None] * np.ones(5, np.float32)
    edges = np.concatenate([edges, np.nextafter(edges, np.float32(inf)), np.nextafter(edges, np.float32(-inf))])
    for row in [*rows(), *edges]:
        codes = fmt.encode(row)
        exponent = integer(codes[len(row) :].tolist(), fmt.word) - bias
        largest = float(np.abs(row).max())
        assert -bias <= exponent <= bias
        if largest < inf:
            assert exponent == bias or Fraction(largest) <= top * Fraction(2) ** exponent
            assert exponent == -bias or Fraction(largest) > top * Fraction(2) ** (exponent - 1)
        expected = np.clip(np.rint(row.astype(np.float64) / 2.0**exponent), -top, top) * 2.0**exponent
        assert np.array_equal(fmt.decode(codes), expected)


def test_a_shared_exponent_keeps_ties_to_even() -> None:
    assert formats.shared(4).quantize([7.0, 0.5, 1.5, 2.5, -0.5, -1.5]).tolist() == [7, 0, 2, 2, 0, -2]


def test_a_sampled_bit_is_stochastic_rounding_of_a_bit() -> None:
    random = np.random.default_rng(0)
    x = random.uniform(-0.5, 1.5, (50, 200)).astype(np.float32)
    uniform = (random.integers(0, 2**24, x.shape) * 2.0**-24).astype(np.float32)
    expected = formats.ufixed(1, 1, "stochastic").encode(x, uniform)
    assert np.array_equal(formats.bernoulli.encode(x, uniform), expected)
    grid = (np.arange(10_000) + 0.5) / 10_000
    for probability in (0.0, 0.3, 1.0):
        assert formats.bernoulli.quantize(np.full(10_000, probability), grid).mean() == pytest.approx(probability)
