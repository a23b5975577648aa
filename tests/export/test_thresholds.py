"""Integer thresholds against real arithmetic that goes forward: activate, then round."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.thresholds import ACTIVATIONS, ALWAYS, integer_thresholds
from lowbit_dtp.formats import FixedPoint, binary, parse

FORMATS = [
    "binary",
    "binary01",
    "ternary",
    "fixed(2,1)",
    "fixed(3,2)",
    "fixed(4,1,floor)",
    "ufixed(3,0)",
    "ufixed(3,2)",
    "fixed(3,1,saturate-symmetric)",
    "table(-2,-0.5,0.25,3)",
    "table(-1,1;0.1)",
    "table(0,1;1)",
    "table(-1,0;-1)",
]


@pytest.mark.parametrize("activation", ["tanh", "identity", "relu", "sigmoid", "step", "hard-tanh", "hard-sigmoid"])
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(bias=st.floats(-2, 2, width=32), exponent=st.integers(-14, 1))
def test_codes_change_exactly_at_the_thresholds(exact_rank, name, activation, bias, exponent):
    fmt = parse(name)
    low, high = np.array([-(2**17)]), np.array([2**17])
    thresholds = integer_thresholds(fmt, activation, np.array([bias], np.float32), exponent, low, high)[0]
    assert len(thresholds) == len(fmt.table().values) - 1
    assert (np.diff(thresholds) >= 0).all()
    unit = Fraction(2) ** exponent
    for threshold in thresholds.tolist():
        for total in (threshold - 1, threshold):
            if low[0] <= total <= high[0]:
                pre_activation = total * unit + Fraction(bias)
                if abs(pre_activation) < 40:  # beyond, the oracle's 80 digits round tanh to 1
                    assert exact_rank(fmt, activation, pre_activation) == (thresholds <= total).sum()


def test_sign_of_tanh_compares_with_the_negated_bias():
    bias = np.array([0.0, 0.25, -0.25, 0.3, -0.3], np.float32)
    reach = np.full(5, 100)
    assert integer_thresholds(binary, "tanh", bias, -2, -reach, reach)[:, 0].tolist() == [0, -1, 1, -1, 2]


def test_a_tie_goes_to_the_even_level_and_the_least_above_it_does_not():
    """Level 1 of fixed(3,3), a step of 1, begins strictly above 1/2: even closer than float32 can tell from 1/2."""
    fmt = FixedPoint(3, 3)
    above = float(np.nextafter(np.float32(0), np.float32(1)))
    bias = np.array([0, above, -above], np.float32)
    assert fmt.encode(np.float32(0.5)) == 0
    thresholds = integer_thresholds(fmt, "identity", bias, -1, np.full(3, -100), np.full(3, 100))
    assert thresholds[:, 4].tolist() == [2, 1, 2]
    assert thresholds[:, 5].tolist() == [3, 3, 4]


@pytest.mark.parametrize(
    ("activation", "name", "expected"),
    [
        ("tanh", "table(-2,2;1)", 8),
        ("tanh", "table(-2,2;-1)", -7),
        ("relu", "binary", -7),
        ("sigmoid", "binary", -7),
        ("sigmoid", "table(0,3)", 8),
        ("identity", "table(-90,90;50)", 8),
        ("identity", "table(-90,90;-50)", -7),
    ],
)
def test_out_of_reach_is_clipped_to_always_and_never(activation, name, expected):
    reach = np.array([7])
    thresholds = integer_thresholds(parse(name), activation, np.zeros(1, np.float32), 0, -reach, reach)
    assert thresholds.tolist() == [[expected]]


def test_irrational_threshold_beside_a_sum():
    """atanh(1/2) = ln(3)/2 = 0.54930614433405484570; float32 lies on both sides of it."""
    pre_activation = np.float32(0.54930614433405484570)
    sides = {float(np.nextafter(pre_activation, np.float32(end))) for end in (0, 1)} | {float(pre_activation)}
    for side in sides:
        row = integer_thresholds(
            parse("table(0,1)"), "tanh", np.array([side], np.float32), 0, -np.ones(1, int), np.ones(1, int)
        )
        assert row.tolist() == [[0 if side > 0.54930614433405484570 else 1]]


def test_rectified_sums_reach_zero_always_and_exceed_it_from_the_least_step_on():
    relu = ACTIVATIONS["relu"]
    assert (relu(Fraction(0), True), relu(Fraction(0), False), relu(Fraction(-1), False)) == (ALWAYS, 1, ALWAYS)


def test_unknown_activation_lists_those_there_are():
    one = np.ones(1, np.int64)
    with pytest.raises(ValueError) as error:
        integer_thresholds(binary, "softplus", np.zeros(1, np.float32), 0, -one, one)
    assert (
        str(error.value)
        == "no activation 'softplus'; there are: hard-sigmoid, hard-tanh, identity, relu, sigmoid, step, tanh"
    )
