"""One suite for every kind of projection: its products, what it owns and trains, and how it is read from a file."""

import numpy as np
import pytest

from lowbit_dtp.backends import multiplied
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link, Signal
from lowbit_dtp.projections import PROJECTIONS, Integer, Projection, Thresholded, projection_of
from tests.conformance.cases import PROJECTIONS as CASES

every_projection = pytest.mark.parametrize("projection", [make() for make in CASES.values()], ids=CASES)
FLOATS = {name: make for name, make in CASES.items() if name not in ("integer", "thresholded")}
every_float_projection = pytest.mark.parametrize("projection", [make() for make in FLOATS.values()], ids=FLOATS)


def sent(fmt: str = "fixed(8,2)", batch: int = 5, sources: int = 6) -> Signal:
    x = np.random.default_rng(1).standard_normal((batch, sources)).astype(np.float32)
    return Link(fmt, fmt, "a", "b").send(x, Direction.FORWARD, "activations", Ledger())


def test_every_projection_is_a_case() -> None:
    assert CASES.keys() == PROJECTIONS.keys()
    assert all(make().kind == name for name, make in CASES.items())


@every_float_projection
def test_products_are_those_of_numpy(projection: Projection) -> None:
    signal, error = sent(), np.random.default_rng(2).standard_normal((5, 4)).astype(np.float32)
    weight = np.asarray(projection.values, np.float64)
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(projection.apply(signal), signal.values @ weight + projection.bias, **close)
    np.testing.assert_allclose(projection.transpose(error), error @ weight.T, **close)
    gradients = projection.gradients(signal, error, None)
    assert set(gradients) == set(projection.trained)
    if projection.name in gradients:
        np.testing.assert_allclose(multiplied(gradients[projection.name]), signal.values.T @ error, **close)
    np.testing.assert_allclose(gradients[projection.bias_name], error.sum(0), **close)


def test_sums_of_whole_numbers_are_exact_and_rounded_down() -> None:
    projection = CASES["integer"]()
    assert isinstance(projection, Integer)
    signal = sent("binary")
    exact = signal.values.astype(np.float64) @ (projection.weight / 2.0**4)
    assert np.array_equal(projection.apply(signal) / 2.0**12, exact)


def test_sums_become_levels_by_thresholds_of_each_neuron() -> None:
    projection = CASES["thresholded"]()
    assert isinstance(projection, Thresholded)
    signal, error = sent("ternary", batch=50), np.random.default_rng(2).standard_normal((50, 4)).astype(np.float32)
    states = projection.apply(signal)
    for state, sums in zip(states, signal.values @ projection.weight, strict=True):
        for neuron, (level, total) in enumerate(zip(state, sums, strict=True)):
            rank = sum(total >= threshold for threshold in projection.thresholds[neuron])
            assert level == projection.levels[rank]
    assert set(states.ravel()) == {-1, 0, 1}
    assert (projection.trained, projection.gradients(signal, error, None)) == ((), {})
    assert np.allclose(projection.transpose(error), error @ projection.weight.T)
    stacked = projection.copy({})
    for _, held, key in list(stacked.slots()):
        held[key] = np.stack([held[key]] * 2)
    assert np.array_equal(stacked.apply(signal), np.stack([states] * 2))


@every_projection
def test_a_projection_is_read_back(projection: Projection) -> None:
    arrays = {name: held[key] for name, held, key in projection.slots()}
    inputs = {"a-b": projection.source} if projection.kind == "tied" else {}
    again = projection_of(projection.describe(), arrays, inputs)
    assert type(again) is type(projection)
    assert again.describe() == projection.describe()
    assert np.array_equal(again.values, projection.values)
    assert again.number == projection.number and again.weight_bits == projection.weight_bits


@every_projection
def test_a_copy_holds_arrays_of_its_own(projection: Projection) -> None:
    inputs = {"a-b": projection.source} if projection.kind == "tied" else {}
    copy = projection.copy(inputs)
    for (name, held, key), (again, other, _) in zip(projection.slots(), copy.slots(), strict=True):
        assert name == again
        before = held[key]
        other[key] = np.zeros_like(before)
        assert held[key] is before


def test_a_kind_that_there_is_not_is_refused() -> None:
    row = {"kind": "sparse", "name": "weight", "direction": "forward"}
    with pytest.raises(ValueError, match=r"^no kind of projection 'sparse'; there are: dense, integer, mirrored, "):
        projection_of(row, {}, {})
