"""Packed words against NumPy, product for product and bit for bit, on any number of threads and for other targets."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lowbit_dtp import packing
from lowbit_dtp.backends import packed
from lowbit_dtp.backends._simd import target
from lowbit_dtp.formats import binary, binary01, fixed, float32, table, ternary, ufixed
from tests import avx2

SHAPES = [(1, 1), (3, 64), (5, 63), (2, 65), (7, 300), (1, 500), (100, 784), (0, 9), (4, 0), (600, 300)]
FORMATS = [
    binary,
    binary01,
    ternary,
    table([-1.5, -0.5, 0.5, 1.5]),
    table([0.25, 0.75]),
    fixed(2, 1),
    ufixed(3, 1),
    fixed(4, 2),
    ufixed(4, 4),
    fixed(5, 1),
    fixed(8, 1, overflow="saturate-symmetric"),
    ufixed(8, 0),
]
WEIGHTS = {
    "binary": [-1, 1],
    "binary01": [0, 1],
    "constant": [-3],
    "ternary": [-1, 0, 1],
    "three from afar": [10, 14, 18],
    "2 bits": [-2, -1, 0, 1],
    "2 bits, symmetric": [-3, -1, 1, 3],
    "3 bits": range(-4, 4),
    "4 bits": range(-8, 8),
    "int8": range(-128, 128),
    "uint8": range(256),
    "9 bits": range(-256, 256),
    "int16": range(-(2**15), 2**15),
    "uint16": range(2**16),
}


def random_codes(rows: int, columns: int, highest: int, flip: int = 0) -> np.ndarray:
    """Codes in uint8, of which the first rows are the lowest and the highest alone."""
    codes = np.random.default_rng(rows + columns).integers(0, highest + 1, (rows, columns)).astype(np.uint8)
    codes[:1], codes[1:2] = 0, highest
    return codes ^ np.uint8(flip)


def random_weights(below: int, neurons: int, levels: "list[int] | range") -> np.ndarray:
    weights = np.random.default_rng(below).choice(np.array(levels), (below, neurons))
    weights[:, :1], weights[:, -1:] = levels[0], levels[-1]
    return weights


@pytest.fixture
def threads():
    most = numba.config.NUMBA_NUM_THREADS
    yield sorted({1, min(2, most), most})
    numba.set_num_threads(most)


# --- packing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_signs(shape: tuple[int, int], dtype: type, threads: list[int]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    x[:, ::7] = 0.25
    for threshold in (0.0, 0.25, 0.1):
        for count in threads:
            numba.set_num_threads(count)
            words, nan = packed.pack_signs(x, threshold)
            assert not nan
            assert np.array_equal(words, packing.pack((x.astype(np.float64) >= threshold).astype(np.uint8), 1))
            assert np.array_equal(packed.unpack_signs(words, shape[1], -1.5, 2), np.where(x >= threshold, 2, -1.5))


@given(st.integers(1, 4), st.integers(1, 140), st.data())
@settings(deadline=None)
def test_nan_is_met_wherever_it_is(rows: int, columns: int, data: st.DataObject) -> None:
    for dtype in (np.float32, np.float64):
        x = np.full((rows, columns), np.inf, dtype)
        assert not packed.pack_signs(x)[1]
        x[data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))] = np.nan
        assert packed.pack_signs(x)[1]


def test_a_threshold_is_rounded_up() -> None:
    """0.1 lies between two float32, of which the lower does not reach it."""
    below, above = np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(0))
    assert float(above) < 0.1 < float(below)
    assert packed.pack_signs(np.array([[below, above]]), 0.1)[0].tolist() == [[1]]


@pytest.mark.parametrize("shape", [*SHAPES, (2, 3, 77)], ids=str)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_codes(shape: tuple[int, ...], bits: int) -> None:
    codes = random_codes(int(np.prod(shape[:-1])), shape[-1], 2**bits - 1).reshape(shape)
    words = packed.pack(codes, bits)
    assert np.array_equal(words, packing.pack(codes, bits)) and words.shape[:-1] == shape[:-1]
    back = packed.unpack(words, bits, shape[-1])
    assert np.array_equal(back, codes) and back.dtype == np.uint8


def test_a_code_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^code 4 does not fit in 2 bits$"):
        packed.pack(np.array([[1, 4]], np.uint8), 2)


@pytest.mark.parametrize("shape", [*SHAPES, (3, 5, 300)], ids=str)
def test_counts(shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(1)
    a, b = (packing.pack(draw.integers(0, 2, shape).astype(np.uint8), 1) for _ in range(2))
    before = b[..., 0, :] if shape[-2] else np.zeros((*a.shape[:-2], a.shape[-1]), np.uint64)
    rows = np.concatenate([before[..., None, :], a], axis=-2)
    ones, toggles = packed.ones_and_toggles(a, before)
    assert np.array_equal(ones, np.bitwise_count(a).sum((-2, -1)))
    assert np.array_equal(toggles, np.bitwise_count(rows[..., 1:, :] ^ rows[..., :-1, :]).sum((-2, -1)))
    assert np.array_equal(packed.ones_and_toggles(a)[1], np.bitwise_count(a[..., 1:, :] ^ a[..., :-1, :]).sum((-2, -1)))
    flips = packed.flips(a, b)
    assert np.array_equal(flips, np.bitwise_count(a ^ b).sum(-1)) and flips.dtype == np.int64


# --- products ---------------------------------------------------------------------------------------------------------


def check(fmt, weights: np.ndarray, rows: int, every_way: bool = True) -> None:
    levels = packed.levels_of(fmt)
    codes = random_codes(rows, len(weights), levels.highest, levels.flip)
    numbers = fmt.decode(codes) / levels.unit
    expected = numbers.astype(np.int64) @ weights
    assert np.array_equal(numbers, levels.low + levels.step * (codes ^ np.uint8(levels.flip)).astype(np.int64))
    arranged = packed.Weights.arrange(weights)
    words = packing.pack(codes, levels.bits)
    result = packed.product(words, levels, arranged)
    assert np.array_equal(result, expected) and result.dtype == np.int32 and result.shape == expected.shape
    for way in packed.ways_of(levels, arranged, rows) if every_way else ():
        assert np.array_equal(packed.Product(levels, arranged)(words, way=way), expected), way
    out = np.full((rows, 2 * weights.shape[1]), 7, np.int32)[:, ::2]
    assert packed.product(packing.pack(codes, levels.bits), levels, arranged, out) is out
    assert np.array_equal(out, expected)


PRODUCTS = [(1, 1, 1), (5, 70, 33), (7, 120, 64), (13, 127, 31), (0, 5, 3), (4, 0, 3), (2, 5, 0)]


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_products(fmt, kind: str) -> None:
    for rows, below, neurons in PRODUCTS:
        check(fmt, random_weights(below, neurons, WEIGHTS[kind]), rows)


@given(
    st.integers(0, 9), st.integers(0, 260), st.integers(0, 70), st.sampled_from(FORMATS), st.sampled_from([*WEIGHTS])
)
@settings(deadline=None, max_examples=60)
def test_products_of_any_shape(rows: int, below: int, neurons: int, fmt, kind: str) -> None:
    weights = random_weights(below, neurons, WEIGHTS[kind])
    assume(packed.levels_of(fmt).largest * np.abs(weights).sum(0).max(initial=0) < 2**31)
    check(fmt, weights, rows)


@pytest.mark.parametrize("shape", [(1, 3000, 70), (130, 2100, 60), (65, 300, 24), (100, 784, 101)], ids=str)
@pytest.mark.parametrize("kind", ["binary", "ternary", "2 bits, symmetric", "4 bits", "int8", "int16"])
def test_products_of_many(kind: str, shape: tuple[int, int, int]) -> None:
    """More rows, inputs and columns than kernels take at a time."""
    rows, below, neurons = shape
    for fmt in (binary, ternary):
        check(fmt, random_weights(below, neurons, WEIGHTS[kind]), rows)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_the_way_is_chosen_by_cost_alone(kind: str) -> None:
    for fmt in (binary, fixed(4, 2)):
        levels, weights = packed.levels_of(fmt), random_weights(100, 70, WEIGHTS[kind])
        for rows in (1, 8, 100):
            costs = packed.ways_of(levels, packed.Weights.arrange(weights), rows)
            chosen = {packed.way_of(levels, packed.Weights.arrange(weights), rows) for _ in range(3)}
            assert chosen == {way for way, cost in costs.items() if cost == min(costs.values())}


def test_a_product_is_prepared_once() -> None:
    levels, weights = packed.levels_of(binary), packed.Weights.arrange(random_weights(100, 40, [-1, 1]))
    assert weights.by(levels) is weights.by(packed.levels_of(binary)) is not weights.by(packed.levels_of(ternary))
    x = np.random.default_rng(0).standard_normal((9, 100)).astype(np.float32)
    words, _ = packed.pack_signs(x, 0.5)
    for rows in (9, 1, 9):
        product = weights.by(levels)(words[:rows])
        assert np.array_equal(product, packed.product(words[:rows], levels, weights))
        assert np.array_equal(product, weights.by(levels).of(x[:rows], 0.5))


@pytest.mark.parametrize("kind", ["binary", "ternary", "2 bits", "4 bits", "int16"])
@pytest.mark.parametrize("fmt", [binary, fixed(4, 2)], ids=lambda fmt: fmt.name)
def test_products_on_any_number_of_threads(fmt, kind: str, threads: list[int]) -> None:
    weights = random_weights(300, 150, WEIGHTS[kind])
    for count in threads:
        numba.set_num_threads(count)
        check(fmt, weights, 500)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_product_of_floats(dtype: type) -> None:
    x = np.random.default_rng(0).standard_normal((9, 100)).astype(dtype)
    weights = random_weights(100, 40, [-1, 0, 1])
    result = packed.product_of(x, 0.5, packed.levels_of(binary), packed.Weights.arrange(weights))
    assert np.array_equal(result, np.where(x >= 0.5, 1, -1) @ weights)
    x[4, 99] = np.nan
    with pytest.raises(ValueError, match=r"^NaN cannot be sent as a bit$"):
        packed.product_of(x, 0.5, packed.levels_of(binary), packed.Weights.arrange(weights))


@pytest.mark.parametrize("fmt", [binary, fixed(8, 8)], ids=lambda fmt: fmt.name)
def test_sums_at_the_limit(fmt) -> None:
    """The largest sums that fit, and one more."""
    levels = packed.levels_of(fmt)
    heaviest = (2**31 - 1) // (levels.largest * 2**15)
    if fmt is binary:
        heaviest = min(heaviest, 65535)
    check(fmt, np.full((heaviest, 2), -(2**15)), 2)
    over = packed.Weights.arrange(np.full((2**16, 1), -(2**15)))
    words = np.zeros((1, packing.packed_width(2**16, levels.bits)), np.uint64)
    message = f"^sums of up to {levels.largest * 2**31} may not fit in 32 bits$"
    with pytest.raises(ValueError, match=message):
        packed.product(words, levels, over)


def test_what_is_refused() -> None:
    levels, weights = packed.levels_of(binary), packed.Weights.arrange(np.ones((70, 3), np.int8))
    for call, message in [
        (lambda: packed.product(np.zeros((1, 1), np.uint64), levels, weights), "70 codes of 1 bits take 2 words"),
        (lambda: packed.product(np.zeros((1, 2), np.int64), levels, weights), "2 words of uint64, not 2 of int64$"),
        (lambda: packed.product(np.zeros(2, np.uint64), levels, weights), r"words are \[rows, width\], not 1 axes$"),
        (
            lambda: packed.product(np.zeros((1, 2), np.uint64), levels, weights, np.zeros((1, 2), np.int32)),
            r"^out must be int32 of shape \(1, 3\), not int32 of shape \(1, 2\)$",
        ),
        (
            lambda: packed.product_of(np.zeros((1, 69)), 0.0, levels, weights),
            "^weights take 70 neurons, but were given 69",
        ),
        (
            lambda: packed.flips(np.zeros((1, 2), np.uint64), np.zeros((2, 2), np.uint64)),
            r"shapes \(1, 2\) and \(2, 2\)$",
        ),
        (lambda: packed.Weights.arrange(np.array([[0], [65536]])), "^weights must lie within 16 bits of each other"),
        (
            lambda: packed.levels_of(table([-1, 0, 0.5])),
            "^table.* is not a format of evenly spaced values in at most 8 bits$",
        ),
        (lambda: packed.levels_of(float32), "^float32 is not a format of evenly spaced values"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match=r"^weights are whole numbers \[below, neurons\], not float64 of shape \(1,\)$"):
        packed.Weights.arrange(np.ones(1))
    with pytest.raises(TypeError, match=r"^pack_signs takes float32 or float64, not int64$"):
        packed.pack_signs(np.zeros((1, 1), np.int64))


# --- other targets ----------------------------------------------------------------------------------------------------

TARGETS = {
    "generic": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    "AVX2": avx2.NUMBA,
}


@pytest.mark.parametrize("name", TARGETS)
def test_another_target(name: str) -> None:
    """The name of a processor alone is not enough: Numba adds the features of the machine it runs on."""
    if name == "AVX2" and (avx2.environment() is None or avx2.NUMBA.items() <= os.environ.items()):
        pytest.skip("AVX2 is what all tests are of here, or there is none")
    run = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, **TARGETS[name], "PYTHONPATH": str(Path(packed.__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"registers: {128 if name == 'generic' else 256} bits; ")


if __name__ == "__main__":
    ways = {
        packed.way_of(packed.levels_of(binary), packed.Weights.arrange(random_weights(784, 500, WEIGHTS[kind])))
        for kind in ("binary", "ternary", "int16")
    }
    assert ways == ({"look-up", "tables"} if target().looks_up else {"planes", "bytes"}), ways
    for kind in WEIGHTS:
        for fmt in (binary, ternary, fixed(4, 2), fixed(8, 1)):
            check(fmt, random_weights(255, 70, WEIGHTS[kind]), 7)
    signs = packed.pack_signs(np.float32([[-1, 0, 1]]))[0]
    assert signs.tolist() == [[6]] and packed.unpack_signs(signs, 3, -1, 1).tolist() == [[-1, 1, 1]]
    print(packed.describe())
