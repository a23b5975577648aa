"""Kernels and optimizers against plain NumPy, and the same bits on any number of threads."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import pytest

from lowbit_dtp import backends, rules
from lowbit_dtp.activations import ACTIVATIONS
from lowbit_dtp.backends import Backend, LazyOuterProduct, backend_of, multiplied, numpy_plain
from lowbit_dtp.backends import _numba_kernels as kernels
from lowbit_dtp.backends._simd import target
from lowbit_dtp.backends.numba_cpu import NumbaBackend, normal, set_threads, shift_sgd, uniform
from lowbit_dtp.backends.numpy_plain import NumpyBackend
from lowbit_dtp.data import Samples
from lowbit_dtp.formats import Format, binary, binary01, float32, table, ufixed
from lowbit_dtp.ledger import Direction, Ledger, MessageType, Traffic
from lowbit_dtp.links import Link, Signal
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import SGD, RMSprop
from lowbit_dtp.packing import pack
from lowbit_dtp.training import Progress, fit
from tests import avx2

COMPILED, PLAIN = NumbaBackend(), NumpyBackend()

SHAPES = [
    (1, 1, 1),
    (100, 784, 500),
    (784, 100, 500),
    (1, 500, 500),
    (257, 300, 129),
    (300, 70, 400),
    (5, 600, 16),
    (7, 33, 65),
    (33, 31, 64),
    (4, 0, 3),
    (0, 5, 3),
]
"""Rows, inputs and outputs: one row, one column, what fills no word, tile or vector, and nothing at all."""

TARGETS = {
    "generic": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    "AVX2": avx2.NUMBA,
}
"""Processors to compile for: the name alone is not enough, since Numba adds the features of the machine it runs on."""

SIZES = [1, 15, 63, 64, 65, 4095, 4096, 9000]
SIGNALS = [binary, binary01, table([-0.25, 3]), ufixed(8, 0), float32]


def random(*shape: int, density: float = 1.0, dtype: type = np.float32) -> np.ndarray:
    draw = np.random.default_rng(sum(shape))
    return (draw.standard_normal(shape) * (draw.random(shape) < density)).astype(dtype)


def sent(x: np.ndarray, fmt: Format) -> Signal:
    return Link(fmt, fmt, "a", "b").send(x, Direction.FORWARD, "test", Ledger())


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use compiled kernels, whatever the environment sets."""
    monkeypatch.setitem(backends._backends, np.ndarray, COMPILED)


@pytest.fixture
def threads() -> Iterator[list[int]]:
    most = numba.config.NUMBA_NUM_THREADS
    yield sorted({1, min(2, most), most})
    set_threads(most)


def on_each(threads: list[int], result) -> np.ndarray:  # type: ignore[no-untyped-def]
    """What `result()` gives, the same bits on any number of threads."""
    results = []
    for count in threads:
        set_threads(count)
        results.append(np.asarray(result()))
    assert all(np.array_equal(results[0], other, equal_nan=True) for other in results)
    return results[0]


# --- products -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("density", [1.0, 0.1])
def test_products(shape: tuple[int, int, int], dtype: type, density: float, threads: list[int]) -> None:
    """Every layout that layers use: rows, columns, and slices of each."""
    m, k, n = shape
    wide = random(m, k + 3, density=density, dtype=dtype)
    for a in (wide[:, :k], np.asfortranarray(wide[:, :k]), np.ascontiguousarray(wide[:, :k])):
        for b in (random(k, n, dtype=dtype), random(n, k, dtype=dtype).T):
            product = on_each(threads, lambda a=a, b=b: COMPILED.matmul(a, b))
            exact = a.astype(np.float64) @ b.astype(np.float64)
            np.testing.assert_allclose(product, exact, rtol=0, atol=1e-5 * max(k, 1) ** 0.5 + 1e-9)
            assert np.array_equal(COMPILED.matmul(a, b, np.full((m, n), 7, dtype)), product)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("fmt", SIGNALS, ids=str)
@pytest.mark.parametrize("density", [1.0, 0.15])
def test_what_layers_multiply(shape: tuple[int, int, int], fmt: Format, density: float, threads: list[int]) -> None:
    """Forward products with a bias, and gradients where a third of the samples have no error."""
    m, k, n = shape
    signal = sent(np.abs(random(m, k, density=density)) if fmt == ufixed(8, 0) else random(m, k, density=density), fmt)
    weight, bias, error = random(k, n), random(n), random(m, n)
    error[::3] = 0
    values = fmt.decode(signal.codes, np.float64)
    close = {"rtol": 0, "atol": 1e-5 * max(k, m, 1) ** 0.5}
    pre_activation = on_each(threads, lambda: COMPILED.pre_activation(signal, weight, bias))
    np.testing.assert_allclose(pre_activation, values @ weight.astype(np.float64) + bias, **close)
    for activation in ACTIVATIONS.values():
        state = on_each(threads, lambda act=activation: COMPILED.affine_activation(act, signal, weight, bias))
        np.testing.assert_allclose(state, activation.apply(PLAIN, pre_activation.astype(np.float64)), rtol=0, atol=1e-6)
    gradient = on_each(threads, lambda: multiplied(COMPILED.gradients(signal, error, None)[0]))
    np.testing.assert_allclose(gradient, values.T @ error.astype(np.float64), **close)
    np.testing.assert_allclose(COMPILED.gradients(signal, error, None)[1], error.sum(0), **close)


def test_products_of_an_ensemble() -> None:
    a, b = random(3, 5, 7), random(3, 7, 4)
    np.testing.assert_allclose(COMPILED.matmul(a, b), a @ b, rtol=1e-5, atol=1e-6)
    signal = sent(random(3, 5, 70), binary)
    weight, bias = random(3, 70, 80), random(3, 80)
    np.testing.assert_allclose(
        COMPILED.pre_activation(signal, weight, bias), signal.values @ weight + bias[:, None], rtol=1e-5, atol=1e-5
    )


# --- bits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neurons", [1, 63, 64, 65, 500])
@pytest.mark.parametrize("fmt", [binary, binary01, table([-1, 1], [0.3])], ids=str)
def test_two_valued_signals_are_packed(neurons: int, fmt: Format) -> None:
    x = random(9, neurons)
    x[0, 0], x[-1, -1] = fmt.thresholds[0], -0.0
    carried = COMPILED.transmit(x, fmt, None, None)
    codes = PLAIN.encode(x, fmt, None)
    assert carried.packed_neurons == neurons
    assert np.array_equal(carried.words, pack(codes, 1))
    assert (carried.ones, carried.toggles) == (codes.sum(), (codes[1:] != codes[:-1]).sum())
    again = COMPILED.transmit(x[:1], fmt, None, carried.words[-1])
    assert again.toggles == (codes[0] != codes[-1]).sum()
    x[4, neurons // 2] = np.nan
    with pytest.raises(ValueError, match=r"cannot send NaN$"):
        COMPILED.transmit(x, fmt, None, None)


@pytest.mark.parametrize("shape", [(1, 1), (32, 64), (33, 65), (100, 500)], ids=str)
def test_bits_are_transposed(shape: tuple[int, int]) -> None:
    bits = np.random.default_rng(0).integers(0, 2, shape, np.uint8)
    words = pack(bits, 1)
    columns = np.empty(-(-shape[0] // 32) * words.shape[1] * 64, np.uint32)
    kernels.transpose_bits(words, columns)
    blocks = columns.reshape(-1, words.shape[1] * 64)
    assert all((blocks[i // 32, j] >> (i % 32) & 1) == bits[i, j] for i, j in np.ndindex(shape))


def test_rows_that_differ() -> None:
    a = pack((random(6, 70) >= 0).astype(np.uint8), 1)
    b, rows, both = a.copy(), np.empty(6, np.int64), np.empty((12, 2), np.uint64)
    b[[1, 4], 1] ^= np.uint64(1 << 5)
    assert kernels.gather_differing(a, b, rows, both) == 4
    assert rows[:2].tolist() == [1, 4]
    assert np.array_equal(both[:4], [a[1], b[1], a[4], b[4]])
    x, differences = random(4, 5), np.full((6, 5), np.nan, np.float32)
    kernels.scatter_differences(x, rows, differences)
    assert np.array_equal(differences[[1, 4]], x[1::2] - x[::2]) and not differences[[0, 2, 3, 5]].any()


@pytest.mark.parametrize("changed", [[], [3], [1, 4, 7, 8, 9, 10, 15], range(20)], ids=str)
@pytest.mark.parametrize("fmt", [binary, ufixed(2, 1)], ids=str)
def test_a_change_is_computed_of_samples_that_change_alone(fmt: Format, changed: Sequence[int]) -> None:
    """The same numbers as two decodings, exactly zero elsewhere, and the same counts."""
    layer = Network.build([4, 80, 70, 3], [Link(fmt, fmt)] * 3).layers[0]
    state, ledgers = random(20, 70), (Ledger(), Ledger())
    target = state.copy()
    target[list(changed)] *= -1
    said, asked = (replace(sent(x, fmt), link="h1-h2") for x in (state, target))
    change = layer.decode_change(said, asked, ledgers[0], "target")
    here, there = (layer.decode(signal, ledgers[1], "target") for signal in (said, asked))
    np.testing.assert_allclose(change, there - here, rtol=0, atol=1e-6)
    assert np.array_equal(np.flatnonzero(change.any(1)), list(changed))
    assert ledgers[0] == ledgers[1]


# --- elementwise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_elementwise(size: int, threads: list[int]) -> None:
    x, y = 4 * random(size), random(size + 1)[1:].copy()
    x[0] = np.nan
    for name in ("tanh", "sigmoid"):
        result = on_each(threads, lambda name=name: getattr(COMPILED, name)(x))
        np.testing.assert_allclose(result, getattr(PLAIN, name)(x.astype(np.float64)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(on_each(threads, lambda: COMPILED.axpy(-0.3, x, y)), -0.3 * x + y, rtol=1e-5, atol=1e-5)
    state = np.tanh(y)
    for activation in ACTIVATIONS.values():
        args = (activation, state, x)
        np.testing.assert_allclose(
            on_each(threads, lambda args=args: COMPILED.activation_backward(*args, 0.5)),
            PLAIN.activation_backward(*args, 0.5),
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            on_each(threads, lambda args=args: COMPILED.activation_backward_difference(*args, y, 2.0)),
            PLAIN.activation_backward_difference(*args, y, 2.0),
            rtol=1e-4,
            atol=1e-5,
        )


def test_tanh_at_its_ends() -> None:
    x = np.array([-np.inf, -100, -1e-30, -0.0, 0.0, 1e-30, 100, np.inf], np.float32)
    assert np.abs(COMPILED.tanh(x) - np.tanh(x)).max() < 1e-6
    assert (np.sign(COMPILED.tanh(x)) == np.sign(x)).all()


@pytest.mark.parametrize("classes", [1, 2, 10])
def test_cross_entropy(classes: int) -> None:
    logits, labels = 50 * random(9, classes), np.arange(9) % classes
    error, loss = COMPILED.cross_entropy(logits, labels)
    expected, expected_loss = PLAIN.cross_entropy(logits.astype(np.float64), labels)
    np.testing.assert_allclose(error, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5, atol=1e-6)


def test_labels_of_no_class_are_refused() -> None:
    for labels, message in (
        (np.array([0, 3]), "labels must be 0 to 2, not 0 to 3"),
        (np.array([-1, 1]), "labels must be 0 to 2, not -1 to 1"),
        (np.array([1]), r"labels must be one for each of 2 samples, not of shape \(1,\)"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            COMPILED.cross_entropy(random(2, 3), labels)


def test_a_run_goes_on_with_other_kernels() -> None:
    """The last word on a wire is words or codes, and counts the same."""
    x = random(3, 70)
    words, codes = COMPILED.transmit(x, binary, None, None), PLAIN.transmit(x, binary, None, None)
    expected = COMPILED.transmit(x, binary, None, words.words[-1]).toggles
    assert expected > 0
    assert COMPILED.transmit(x, binary, None, codes.words[-1]).toggles == expected
    assert PLAIN.transmit(x, binary, None, words.words[-1]).toggles == expected


# --- noise --------------------------------------------------------------------------------------------------------


def philox(counter: list[np.ndarray], key: list[int]) -> list[np.ndarray]:
    """Philox4x32-10 as Salmon et al. write it, on uint64."""
    c0, c1, c2, c3 = (np.uint64(c) for c in counter)
    k0, k1 = key
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & low, (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def test_philox_gives_the_published_answers() -> None:
    """Random123's known answers (kat_vectors), for the twin that the kernel is compared with."""
    assert [int(x) for x in philox([0, 0, 0, 0], [0, 0])] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = 0xFFFFFFFF
    assert [int(x) for x in philox([ones] * 4, [ones] * 2)] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_noise_is_philox_through_box_muller(threads: list[int]) -> None:
    seed, purpose, step = 2**33 + 5, 77, 2**32 + 9
    numbers = on_each(threads, lambda: normal(seed, purpose, step, (3, 1000)))
    words = philox([np.arange(1024, dtype=np.uint64), purpose, step % 2**32, step >> 32], [seed % 2**32, seed >> 32])
    expected = []
    for radius_word, angle_word in ((words[0], words[1]), (words[2], words[3])):
        radius = np.sqrt(-2 * np.log((radius_word >> np.uint64(8)) * 2.0**-24 + 2.0**-25))
        bits = angle_word.astype(np.uint32).view(np.int32)
        angle = ((bits << np.int32(2)) >> np.int32(8)) * (np.pi / 4 / 2**23)
        radius = np.where(bits < 0, -radius, radius)
        pair = np.cos(angle), np.sin(angle)
        swapped = (bits << np.int32(1)) < 0
        expected += [radius * np.where(swapped, pair[1], pair[0]), radius * np.where(swapped, pair[0], pair[1])]
    blocks = np.stack(expected).reshape(4, -1, 32).transpose(1, 0, 2).reshape(-1)[:3000].reshape(3, 1000)
    np.testing.assert_allclose(numbers, blocks, rtol=1e-4, atol=1e-5)


def test_uniform_numbers_are_the_upper_bits_of_philox(threads: list[int]) -> None:
    numbers = on_each(threads, lambda: uniform(2**33 + 5, 77, 3, (3, 1000)))
    words = philox([np.arange(1024, dtype=np.uint64), 77, 3, 0], [5, 2])
    expected = np.stack(words).reshape(4, -1, 32).transpose(1, 0, 2).reshape(-1)[:3000].reshape(3, 1000)
    assert np.array_equal(numbers, (expected >> np.uint64(8)) * 2.0**-24)
    assert numbers.dtype == np.float32


def test_noise_is_normal() -> None:
    from scipy import stats

    numbers = normal(0, 1, 2, (500_000,)).astype(np.float64)
    assert stats.kstest(numbers, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01
    assert [(numbers**power).mean() for power in (2, 4, 6)] == pytest.approx([1, 3, 15], rel=0.05)


# --- optimizers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [COMPILED, PLAIN], ids=["compiled", "plain"])
def test_rmsprop_as_the_thesis_has_it(backend: Backend, threads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps, written out in float64."""
    monkeypatch.setitem(backends._backends, np.ndarray, backend)
    rate, expected = 0.01, random(90, 121).astype(np.float64)
    mean = square = velocity = np.zeros_like(expected)
    gradients = [random(90, 121) * scale for scale in (1, 2, 0.1)]
    for g in (x.astype(np.float64) for x in gradients):
        mean, square = 0.95 * mean + 0.05 * g, 0.95 * square + 0.05 * g**2
        velocity = 0.9 * velocity - rate * g / np.sqrt(square - mean**2 + 0.001)
        expected = expected + velocity

    def trained() -> np.ndarray:
        parameter, optimizer = random(90, 121), RMSprop(rate)
        for g in gradients:
            optimizer.update(("h1", "weight"), parameter, g)
        return parameter

    np.testing.assert_allclose(on_each(threads, trained), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fmt", [binary, ufixed(8, 0)], ids=str)
@pytest.mark.parametrize("optimizer", [RMSprop, SGD])
@pytest.mark.parametrize("shape", [(100, 784, 500), (6, 3, 64), (300, 130, 64), (40, 300, 77)], ids=str)
def test_gradient_and_update_in_one_pass(shape, fmt, optimizer, threads) -> None:  # type: ignore[no-untyped-def]
    m, k, n = shape
    signal, error, start = sent(random(m, k, density=0.2).clip(0), fmt), random(m, n), random(k, n)
    gradient, _ = COMPILED.gradients(signal, error, None)
    assert isinstance(gradient, LazyOuterProduct)

    def updated(by) -> np.ndarray:  # type: ignore[no-untyped-def]
        parameter, rule = start.copy(), optimizer(0.01)
        for _ in range(3):
            rule.update(("h1", "weight"), parameter, by)
        return parameter

    fused = on_each(threads, lambda: updated(COMPILED.gradients(signal, error, None)[0]))
    np.testing.assert_allclose(fused, updated(np.asarray(gradient)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("shift", [0, 5, 14, 32])
def test_shift_sgd(dtype: type, shift: int, threads: list[int]) -> None:
    """Python's integers and the twin's random bits give the same; the ends of the range hold."""
    draw, most = np.random.default_rng(shift), np.iinfo(dtype).max
    weights = draw.integers(-most, most, (40, 13), endpoint=True).astype(dtype)
    gradient = draw.integers(-(2**24), 2**24, weights.shape, np.int32)
    gradient[0, :2] = np.iinfo(np.int32).min, np.iinfo(np.int32).max

    def updated() -> np.ndarray:
        changed = weights.copy()
        shift_sgd(changed, gradient, shift, 2**40 + 3, 7, 9)
        return changed

    words = philox([np.arange(160, dtype=np.uint64), 7, 9, 0], [3, 2**8])
    bits = np.stack(words).reshape(4, -1, 32).transpose(1, 0, 2).reshape(-1)[: weights.size]
    expected = [
        min(max(int(w) - ((int(g) + (int(b) & (2**shift - 1))) >> shift), -most), most)
        for w, g, b in zip(weights.flat, gradient.flat, bits, strict=True)
    ]
    assert on_each(threads, updated).reshape(-1).tolist() == expected


def test_shift_sgd_is_right_on_average() -> None:
    weights = np.zeros(100_000, np.int16)
    shift_sgd(weights, np.full(weights.size, -300, np.int32), 10, 0, 0, 0)
    assert set(weights.tolist()) == {0, 1}
    assert weights.mean() == pytest.approx(300 / 1024, rel=0.03)


@pytest.mark.parametrize(
    ("weights", "gradient", "shift", "error", "message"),
    [
        (np.zeros(3), np.zeros(3, int), 1, TypeError,
         "shift_sgd takes contiguous int8 or int16 weights and an integer gradient, not float64 and int64"),
        (np.zeros(3, np.int8), np.zeros(4, int), 1, ValueError,
         r"weights of shape \(3,\) have no gradient of shape \(4,\)"),
        (np.zeros(3, np.int8), np.zeros(3, int), 33, ValueError, "shift must be 0 to 32 bits, not 33"),
    ],
)  # fmt: skip
def test_shift_sgd_refuses(weights, gradient, shift, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=f"^{message}$"):
        shift_sgd(weights, gradient, shift, 0, 0, 0)


def test_feedback_has_a_rate_of_its_own() -> None:
    optimizer = SGD(learning_rate=0.5, feedback_learning_rate=0.25)
    for name, moved in (("weight", -0.5), ("bias", -0.5), ("feedback", -0.25), ("feedback_bias", -0.25)):
        parameter = np.zeros(3)
        direction = Direction.FEEDBACK if "feedback" in name else Direction.FORWARD
        optimizer.update(("h1", name), parameter, np.ones(3), direction=direction)
        assert parameter.tolist() == [moved] * 3


def test_a_parameter_that_would_be_copied_is_refused() -> None:
    message = r"^a parameter that is updated in place must be C-contiguous; see numpy.ascontiguousarray$"
    with pytest.raises(ValueError, match=message):
        RMSprop(0.1).update(("h1", "weight"), np.zeros((3, 4)).T, np.ones((4, 3)))


def test_a_gradient_of_another_shape_is_refused() -> None:
    message = r"^a parameter of shape \(3, 4\) has no gradient of shape \(4, 3\)$"
    with pytest.raises(ValueError, match=message):
        RMSprop(0.1).update(("h1", "weight"), np.zeros((3, 4), np.float32), np.ones((4, 3), np.float32))


# --- whole steps --------------------------------------------------------------------------------------------------


def trained(rule: rules.LearningRule, density: float, seed: int, steps: int = 100) -> tuple[Network, Ledger]:
    net = Network.build([70, 96, 80, 10], [Link("ufixed(8,0)"), Link("binary", "binary"), Link()], seed=seed)
    draw = np.random.default_rng(seed)
    inputs = np.round(draw.random((200, 70)) * (draw.random((200, 70)) < density) * 255) / 256
    samples = Samples(inputs.astype(np.float32), draw.integers(0, 10, 200))
    progress = Progress()
    for step, _ in enumerate(fit(net, rule, RMSprop(6.6e-4, 4.3e-4), samples, 1000, 10, seed, progress), 1):
        if step == steps:
            break
    return net, progress.ledger


@pytest.mark.parametrize("density", [0.2, 1.0], ids=["sparse", "dense"])
@pytest.mark.parametrize(
    "rule",
    [rules.DTP(), rules.DTP(schedule="alternating-epochs"), rules.TargetProp(), rules.StraightThrough()],
    ids=["dtp", "dtp-alternating", "target-prop", "straight-through"],
)
def test_a_hundred_steps_are_those_of_plain_numpy(rule, density, threads, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """The weights to 1e-6, and every bit that crossed; the very same bits on any number of threads.

    A number within rounding of a threshold may be sent otherwise by plain NumPy, and the run goes another way from
    there; and some neurons amplify any rounding. So of three runs, one may differ. Learning rates are the thesis'.
    """
    compiled = []
    for count in threads:
        set_threads(count)
        compiled.append([trained(rule, density, seed) for seed in range(3)])
    monkeypatch.setitem(backends._backends, np.ndarray, PLAIN)
    agreed = 0
    for seed, ((net, ledger), *others) in enumerate(zip(*compiled, strict=True)):
        for other, other_ledger in others:
            assert all(np.array_equal(x, other.tensors()[name]) for name, x in net.tensors().items())
            assert ledger == other_ledger
        plain, plain_ledger = trained(rule, density, seed)
        assert (ledger.work, ledger.accesses) == (plain_ledger.work, plain_ledger.accesses)
        worst = max(np.abs(x - plain.tensors()[name]).max() for name, x in net.tensors().items())
        if few_bits(ledger) == few_bits(plain_ledger):
            assert worst < 1e-5
            agreed += worst <= 1e-6
    assert agreed >= 2


def few_bits(ledger: Ledger) -> list[tuple[MessageType, Traffic]]:
    """What crossed but in float32, whose last bits depend on the order of a sum."""
    return [
        (message_type, traffic) for message_type, traffic in ledger.traffic.items() if message_type.format != "float32"
    ]


def check_all() -> None:
    """What every target must pass, in little time."""
    for fmt in (binary, ufixed(8, 0), float32):
        signal = sent(random(37, 100, density=0.2).clip(0), fmt)
        weight, bias, error = random(100, 77), random(77), random(37, 77)
        np.testing.assert_allclose(
            COMPILED.pre_activation(signal, weight, bias), PLAIN.pre_activation(signal, weight, bias), rtol=0, atol=1e-4
        )
        gradient = multiplied(COMPILED.gradients(signal, error, None)[0])
        np.testing.assert_allclose(gradient, PLAIN.gradients(signal, error, None)[0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(COMPILED.tanh(bias), np.tanh(bias), rtol=1e-5, atol=1e-6)
    net, _ = trained(rules.DTP(), 0.2, 0, 5)
    backends.register(np.ndarray, PLAIN)
    for name, x in trained(rules.DTP(), 0.2, 0, 5)[0].tensors().items():
        np.testing.assert_allclose(net.tensors()[name], x, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", TARGETS)
def test_another_target(name: str) -> None:
    """Other kernels, the same numbers."""
    if name == "AVX2" and (avx2.environment() is None or avx2.NUMBA.items() <= os.environ.items()):
        pytest.skip("AVX2 is what all tests are of here, or there is none")
    environment = os.environ | TARGETS[name] | {"PYTHONPATH": str(Path(backends.__file__).parents[2])}
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{128 if name == 'generic' else 256} bits\n"


def test_kernels_are_chosen_by_the_environment() -> None:
    code = "import numpy; from lowbit_dtp.backends import backend_of; print(type(backend_of(numpy.zeros(1))).__name__)"
    for choice, name in (("compiled", "NumbaBackend"), ("plain", "NumpyBackend")):
        environment = os.environ | {"LOWBIT_DTP_KERNELS": choice}
        answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert answer.stdout == f"{name}\n"
    environment = os.environ | {"LOWBIT_DTP_KERNELS": "fast"}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert answer.stderr.endswith("ValueError: no LOWBIT_DTP_KERNELS 'fast'; there are: compiled, plain\n")


WITHOUT_NUMBA = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from lowbit_dtp.cli import main
sys.argv[1:] = ["train", "--rule", "dtp", "--epochs", "1", "--sizes", "64-9-8-10", "--out", sys.argv[1]]
main()
"""


def test_plain_kernels_need_no_numba(tmp_path: Path) -> None:
    for choice in ("plain", "compiled"):
        run = subprocess.run(
            [sys.executable, "-c", WITHOUT_NUMBA, str(tmp_path / choice)],
            env=os.environ | {"LOWBIT_DTP_KERNELS": choice},
            capture_output=True,
            text=True,
        )
        assert (run.returncode == 0) == (choice == "plain"), run.stderr
    assert "No module named 'numba'" in run.stderr
    assert (tmp_path / "plain" / "network.safetensors").exists()


def test_plain_noise_is_that_of_the_kernels() -> None:
    seed, purpose, step = 2**33 + 5, 2**32 - 3, 2**32 + 9
    for shape in ((3, 1000), (1,), (0, 4)):
        assert np.array_equal(numpy_plain.uniform(seed, purpose, step, shape), uniform(seed, purpose, step, shape))
        plain, compiled = numpy_plain.normal(seed, purpose, step, shape), normal(seed, purpose, step, shape)
        assert plain.dtype == compiled.dtype == np.float32 and plain.shape == shape
        np.testing.assert_allclose(plain, compiled, rtol=1e-5, atol=1e-6)


def test_who_compiles_is_told_once_for_a_machine(tmp_path: Path) -> None:
    code = """
import numpy as np
from lowbit_dtp.backends.numba_cpu import NumbaBackend, on_compile
on_compile(print)
x = np.zeros((3, 70), np.float32)
NumbaBackend().axpy(2.0, x, x)
NumbaBackend().axpy(3.0, x, x)
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    told = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert told == ["axpy\n", ""]


def test_threads_are_those_of_the_machine() -> None:
    most = numba.config.NUMBA_NUM_THREADS
    with pytest.raises(ValueError, match=f"^threads must be 1 to {most} on this machine, not 0$"):
        set_threads(0)


def test_arrays_of_another_kind() -> None:
    with pytest.raises(TypeError, match=r"^no backend for arrays of type builtins\.list; give NumPy or torch arrays$"):
        backend_of([1.0])


if __name__ == "__main__":
    check_all()
    print(f"{target().register_bits} bits")
