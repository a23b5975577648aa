"""Every format, on every backend: the specification in `formats` is the oracle."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbit_dtp import formats, packing
from lowbit_dtp.formats import Bernoulli, FixedPoint, Float, Format, ScaledFormat, SmallFloat, Table, parse
from lowbit_dtp.links import Signal
from tests.conformance.cases import BACKENDS, FORMATS, BackendCase

every_format = pytest.mark.parametrize("fmt", FORMATS, ids=str)
every_backend = pytest.mark.parametrize("case", BACKENDS, ids=lambda case: case.name)


def numbers(fmt: Format, dtype: type) -> np.ndarray:
    """Numbers about the format's range, its ties and their neighbours, both zeros, and the largest of the type."""
    random = np.random.default_rng(0)
    reach = 2 * min(fmt.largest, 1e6)
    edges = np.array(fmt.thresholds if isinstance(fmt, Table) else np.arange(-40, 40) * getattr(fmt, "step", 0.5) / 2)
    edges = edges.astype(dtype)
    near = [np.nextafter(edges, dtype(way)) for way in (-np.inf, np.inf)]
    extremes = np.array([0.0, -0.0, reach, -reach, np.finfo(np.float32).max, np.finfo(np.float32).min], dtype)
    x = np.concatenate([random.uniform(-reach, reach, 500).astype(dtype), edges, *near, extremes])[None]
    # rows of all sizes, for formats that take a scale from a row, or whose steps depend on a number's size
    rows = random.standard_normal((40, x.shape[1])) * 10.0 ** random.uniform(-45, 37, (40, 1))
    rows[::4] = rows[:1] * 10.0 ** random.uniform(-9, 9, (10, x.shape[1]))
    return np.concatenate([x, rows.astype(dtype), np.zeros_like(x)])


@every_format
@every_backend
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codes_are_those_of_the_specification(case: BackendCase, fmt: Format, dtype: type) -> None:
    x = numbers(fmt, dtype)
    uniform = np.random.default_rng(1).random(x.shape).astype(dtype) if fmt.stochastic else None
    with np.errstate(over="ignore", invalid="ignore"):
        expected = fmt.encode(x, uniform)
        numbers_expected = fmt.decode(expected, dtype)
    codes = case.backend.encode(case.array(x), fmt, None if uniform is None else case.array(uniform))
    bits = np.uint64(2**fmt.bits - 1) if fmt.bits < 64 else np.uint64(2**64 - 1)
    assert np.array_equal(case.numpy(codes).astype(np.int64).astype(np.uint64) & bits, expected.astype(np.uint64))
    arrived = case.numpy(case.backend.decode(codes, fmt, case.array(x)))
    assert arrived.dtype == dtype
    assert arrived.shape == x.shape
    assert np.array_equal(arrived, numbers_expected)


@every_format
@every_backend
def test_nan_is_refused(case: BackendCase, fmt: Format) -> None:
    x = np.array([[0.0, np.nan]], np.float32)
    with pytest.raises(ValueError, match=re.escape(f"{fmt.name} cannot send NaN")):
        case.backend.encode(case.array(x), fmt, case.array(np.zeros_like(x)))


@every_format
@every_backend
def test_ones_and_toggles(case: BackendCase, fmt: Format) -> None:
    """Against bits unpacked one by one; a leading axis counts each member by itself."""
    if fmt.bits == 64 and case.name != "numpy":
        x = np.abs(np.random.default_rng(2).standard_normal((2, 5, 7)))
    else:
        x = np.random.default_rng(2).standard_normal((2, 5, 7))
    codes = fmt.encode(x, np.full(x.shape, 0.5))
    bits = codes.astype(np.uint64)[..., None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)
    before = codes[..., -1, :]
    with_before = np.concatenate([bits[:, -1:], bits], axis=1)
    mine = case.backend.encode(case.array(x), fmt, case.array(np.full(x.shape, 0.5)))
    ones, toggles = case.backend.ones_and_toggles(mine, None)
    assert ones.tolist() == bits.sum((1, 2, 3)).tolist()
    assert toggles.tolist() == (bits[:, 1:] != bits[:, :-1]).sum((1, 2, 3)).tolist()
    _, toggles = case.backend.ones_and_toggles(mine, mine[..., -1, :])
    assert toggles.tolist() == (with_before[:, 1:] != with_before[:, :-1]).sum((1, 2, 3)).tolist()
    assert before.shape == (2, fmt.codes_in_row(7))


@every_format
def test_name_says_it_all(fmt: Format) -> None:
    assert parse(fmt.name) == fmt == parse(fmt.name.replace("(", "<").replace(")", ">"))
    assert fmt.bits == {**dict.fromkeys(("binary", "binary01"), 1), "ternary": 2}.get(fmt.name, fmt.bits)


@every_format
@given(x=st.floats(-20, 20, width=32))
def test_nearest_value_arrives(fmt: Format, x: float) -> None:
    """Of all values, the nearest; where the table has thresholds of its own or rounds otherwise, what those say."""
    if isinstance(fmt, Float):
        assert fmt.quantize(x) == x
    elif isinstance(fmt, Table):
        index = sum(t <= x for t in fmt.thresholds)
        assert fmt.quantize(x) == fmt.values[index]
    elif isinstance(fmt, FixedPoint) and (fmt.rounding, fmt.overflow) == ("nearest-even", "saturate"):
        held = min(max(x, fmt.lowest_level * fmt.step), fmt.highest_level * fmt.step)
        assert abs(float(fmt.quantize(x)) - held) <= fmt.step / 2
    elif isinstance(fmt, Bernoulli):
        assert fmt.quantize(x, np.array(0.5)) == (x >= 0.5)
    elif isinstance(fmt, SmallFloat):
        held = min(max(x, -fmt.largest), fmt.largest)
        assert abs(float(fmt.quantize(x)) - held) <= 2.0**-fmt.mantissa / 2 * max(abs(held), 2.0**fmt.lowest_exponent)
    elif isinstance(fmt, ScaledFormat):
        # a number alone takes a scale of its own, so it arrives as zero only if it is below the smallest there is
        assert abs(float(fmt.quantize(x, np.array(0.5))) - x) <= max(abs(x), 2.0 ** -getattr(fmt, "bias", 126))
    else:
        arrived = float(fmt.quantize(x, np.array(0.5)))
        assert (arrived / fmt.step).is_integer()
        assert fmt.lowest_level * fmt.step <= arrived <= fmt.highest_level * fmt.step


@pytest.mark.parametrize("fmt", [f for f in FORMATS if isinstance(f, FixedPoint)], ids=str)
def test_a_fixed_point_table_encodes_alike(fmt: FixedPoint) -> None:
    if fmt.stochastic or fmt.overflow == "wrap" or fmt.word > formats.MAX_TABLE_BITS:
        with pytest.raises(ValueError, match=r"is not a table of thresholds"):
            fmt.table()
        return
    x = numbers(fmt, np.float32)
    assert np.array_equal(fmt.table().quantize(x), fmt.quantize(x))


def test_stochastic_rounding_is_right_on_average() -> None:
    fmt = formats.fixed(6, 3, "stochastic")
    uniform = (np.arange(10_000) + 0.5) / 10_000
    assert np.isclose(fmt.quantize(np.full(10_000, 0.3), uniform).mean(), 0.3, atol=1e-3)


def test_zero() -> None:
    sent = {fmt.name: fmt.zero for fmt in (formats.binary, formats.binary01, formats.ternary, formats.fixed(4, 1))}
    assert sent == {"binary": 1.0, "binary01": 1.0, "ternary": 0.0, "fixed(4,1)": 0.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parse("fixed(0,1)"), "fixed(0,1): a word has 2 to 32 bits, not 0"),
        (lambda: parse("fixed(8)"), "format 'fixed(8)': not enough values to unpack (expected at least 2, got 1)"),
        (
            lambda: parse("fixed(8,1,up)"),
            "format 'fixed(8,1,up)': no rounding or overflow 'up'; there are: nearest-even, floor, stochastic, "
            "saturate, saturate-symmetric, wrap",
        ),
        (
            lambda: parse("table(1,0)"),
            "format 'table(1,0)': table(1,0): values must be two or more, ascending, not (1.0, 0.0)",
        ),
        (
            lambda: formats.table([0, np.inf]),
            "table(0,inf): values and thresholds must be finite, not (0.0, inf)",
        ),
        (lambda: parse("ternary*0"), "ternary*0: a table is scaled by a number above zero, not 0.0"),
        (
            lambda: parse("float32*2"),
            "format 'float32*2': only tables are scaled by a factor, binary*0.25 say, and float32 is none",
        ),
        (lambda: parse("shared(1)"), "shared(1): a word has 2 to 16 bits, not 1"),
        (lambda: parse("shared(4,9)"), "shared(4,9): an exponent has 2 to 8 bits, not 9"),
        (
            lambda: parse("shared(4,8,wrap)"),
            "format 'shared(4,8,wrap)': no rounding 'wrap'; there are: nearest-even, floor, stochastic",
        ),
        (
            lambda: formats.bernoulli.encode(0.3),
            "bernoulli draws its codes: it needs uniform random numbers, one per value",
        ),
        (
            lambda: formats.shared(4).table(),
            "shared(4) is not a table of thresholds, since its scales depend on the message; choose a fixed-point or "
            "few-bit format",
        ),
        (lambda: formats.table([0, 1], [1, 2]), "table(0,1;1,2): 2 values need 1 ascending thresholds, not (1.0, 2.0)"),
        (
            lambda: formats.fixed(4, 1, "stochastic").encode(0.3),
            "fixed(4,1,stochastic) rounds stochastically: it needs uniform random numbers, one per value",
        ),
        (
            lambda: formats.fixed(4, 1, overflow="wrap").encode(np.inf),
            "fixed(4,1,wrap) wraps, so it cannot send infinity",
        ),
    ],
)
def test_errors(make, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


@given(bits=st.integers(1, 32), neurons=st.integers(1, 150), seed=st.integers(0, 2**31))
def test_packing(bits: int, neurons: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (3, neurons), np.uint64)
    words = packing.pack(codes, bits)
    assert words.shape == (3, -(-neurons * bits // 64))
    assert [sum(int(w) << 64 * i for i, w in enumerate(row)) for row in words] == [
        sum(int(c) << bits * i for i, c in enumerate(row)) for row in codes
    ]
    assert np.array_equal(packing.unpack(words, bits, neurons), codes)


def test_packing_refuses_a_code_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^code 4 does not fit in 2 bits$"):
        packing.pack(np.array([1, 4]), 2)


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.bits <= 32], ids=str)
def test_a_packed_signal_reads_the_same(fmt: Format) -> None:
    x = np.random.default_rng(3).standard_normal((2, 3, 70)).astype(np.float32)
    plain = Signal(fmt.encode(x, np.full(x.shape, 0.5)), fmt, x)
    packed = plain.packed()
    assert plain.shape == packed.shape == x.shape
    assert packed.carried.shape == (2, 3, packing.packed_width(fmt.codes_in_row(70), fmt.bits))
    assert packed.packed() is packed
    assert packed.codes.dtype == plain.codes.dtype
    assert np.array_equal(packed.codes, plain.codes)
    assert np.array_equal(packed.values, plain.values)
