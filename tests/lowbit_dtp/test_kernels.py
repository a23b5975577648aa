"""Kernels and optimizers against plain NumPy, and the same bits on any number of threads."""

import numba
import numpy as np
import pytest

from lowbit_dtp.backends import backend_of
from lowbit_dtp.backends.numba_cpu import set_threads
from lowbit_dtp.optimizers import SGD, RMSprop

SHAPES = [
    (1, 1, 1),
    (100, 784, 500),
    (784, 100, 500),
    (1, 500, 500),
    (257, 300, 129),
    (300, 70, 400),
    (4, 0, 3),
    (0, 5, 3),
]


def random(*shape: int, density: float = 1.0, dtype: type = np.float32) -> np.ndarray:
    draw = np.random.default_rng(sum(shape))
    return (draw.standard_normal(shape) * (draw.random(shape) < density)).astype(dtype)


@pytest.fixture
def threads():
    most = numba.config.NUMBA_NUM_THREADS
    yield sorted({1, min(2, most), most})
    set_threads(most)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("density", [1.0, 0.1])
def test_products(shape: tuple[int, int, int], dtype: type, density: float, threads: list[int]) -> None:
    """Every layout that layers use: rows, columns, and slices of each; equal bits whoever computes them."""
    m, k, n = shape
    xp = backend_of(np.zeros(0))
    wide = random(m, k + 3, density=density, dtype=dtype)
    for a in (wide[:, :k], np.asfortranarray(wide[:, :k]), np.ascontiguousarray(wide[:, :k])):
        for b in (random(k, n, dtype=dtype), random(n, k, dtype=dtype).T):
            results = []
            for count in threads:
                set_threads(count)
                results.append(xp.matmul(a, b))
            exact = a.astype(np.float64) @ b.astype(np.float64)
            np.testing.assert_allclose(results[0], exact, rtol=0, atol=1e-5 * max(k, 1) ** 0.5 + 1e-9)
            assert all(np.array_equal(results[0], other) for other in results)
            assert np.array_equal(xp.matmul(a, b, np.full((m, n), 7, dtype)), results[0])


def test_products_of_an_ensemble() -> None:
    a, b = random(3, 5, 7), random(3, 7, 4)
    np.testing.assert_allclose(backend_of(a).matmul(a, b), a @ b, rtol=1e-5, atol=1e-6)


def test_rmsprop_as_the_thesis_has_it(threads: list[int]) -> None:
    """Three steps, written out in float64."""
    rate, expected = 0.01, random(90, 120).astype(np.float64)
    mean = square = velocity = np.zeros_like(expected)
    gradients = [random(90, 120) * scale for scale in (1, 2, 0.1)]
    for g in (x.astype(np.float64) for x in gradients):
        mean, square = 0.95 * mean + 0.05 * g, 0.95 * square + 0.05 * g**2
        velocity = 0.9 * velocity - rate * g / np.sqrt(square - mean**2 + 0.001)
        expected = expected + velocity
    ends = []
    for count in threads:
        set_threads(count)
        parameter, optimizer = random(90, 120), RMSprop(rate)
        for g in gradients:
            optimizer.update(("h1", "weight"), parameter, g)
        ends.append(parameter)
    np.testing.assert_allclose(ends[0], expected, rtol=1e-4, atol=1e-5)
    assert all(np.array_equal(ends[0], other) for other in ends)


def test_feedback_has_a_rate_of_its_own() -> None:
    optimizer = SGD(learning_rate=0.5, feedback_learning_rate=0.25)
    for name, moved in (("weight", -0.5), ("bias", -0.5), ("feedback", -0.25), ("feedback_bias", -0.25)):
        parameter = np.zeros(3)
        optimizer.update(("h1", name), parameter, np.ones(3))
        assert parameter.tolist() == [moved] * 3


def test_a_parameter_that_would_be_copied_is_refused() -> None:
    message = r"^a parameter that is updated in place must be C-contiguous; see numpy.ascontiguousarray$"
    with pytest.raises(ValueError, match=message):
        RMSprop(0.1).update(("h1", "weight"), np.zeros((3, 4)).T, np.ones((4, 3)))


def test_threads_are_those_of_the_machine() -> None:
    most = numba.config.NUMBA_NUM_THREADS
    with pytest.raises(ValueError, match=f"^threads must be 1 to {most} on this machine, not 0$"):
        set_threads(0)


def test_arrays_of_another_kind() -> None:
    with pytest.raises(TypeError, match=r"^no backend for arrays of type builtins\.list; give NumPy or torch arrays$"):
        backend_of([1.0])
