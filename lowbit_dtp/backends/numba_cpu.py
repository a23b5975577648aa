"""NumPy arrays: compiled kernels for float32 and few bits, whose bits do not depend on the number of threads."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from math import prod

# A thread that waits for work should sleep soon, not spin: spinning slows other programs on the same cores.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

from typing import Any, TypeGuard

import numba
import numpy as np
from numba.core import event

from ..formats import Bernoulli, FixedPoint, Float, Format, SharedExponent, SmallFloat, Table
from . import (
    CannotRecord,
    FusedUpdate,
    Key,
    LazyOuterProduct,
    Recording,
    Transmission,
    _numba_kernels,
    _packed_kernels,
    multiplied,
    packed,
)
from .numba_graph import Cell, Program, Tape, Traced, Watched, head, plain
from .numpy_plain import Array, NumpyBackend, drawn, thresholds
from .protocols import Activation, Signal

kernels: Any = _numba_kernels  # the compiler knows their types, mypy does not
empty: Any = np.empty
"""Creates arrays: while a step is recorded, in the arena of the tape."""

_DENSE = 0.8
"""Share of pairs of neighbours with a nonzero from which a dense product is faster than skipping zeros."""
_FEW = 6
"""Rows, or terms of a sum, below which a product does not copy its other factor."""
_FEW_ROWS = 0.7
"""Share of samples with an error below which the others are left out of a dense gradient..."""
_LARGE = 1_000_000
"""... of at least so many multiplications."""

_FAST_FIXED = (("nearest-even", "saturate"), ("nearest-even", "saturate-symmetric"))
"""Fixed point with a kernel; other formats use the specification in `formats`."""


def set_threads(threads: int) -> None:
    """Use this many threads from here on. Changes the speed, not the results."""
    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    if not 1 <= threads <= most:
        raise ValueError(f"threads must be 1 to {most} on this machine, not {threads}")
    numba.set_num_threads(threads)


def threads_used() -> int:
    """How many threads are used."""
    return int(numba.get_num_threads())


def on_compile(tell: Callable[[str], None]) -> None:
    """Call `tell` with the name of each kernel that is about to be compiled: once for a machine, then it is cached."""

    class Listener(event.Listener):
        def on_start(self, happened: Any) -> None:
            kernel = happened.data["dispatcher"].py_func
            if kernel.__module__.startswith(__package__) and kernel.__qualname__[0] != "_":  # parts of kernels have one
                tell(kernel.__name__)

        def on_end(self, happened: Any) -> None: ...

    event.register("numba:compile", Listener())  # type: ignore[no-untyped-call]


def normal(seed: int, purpose: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 of `shape`, each number keyed by seed, purpose (32 bits), step and its index."""
    return _drawn("normal", seed, purpose, step, shape)


def uniform(seed: int, purpose: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform float32 in [0, 1) of `shape`, multiples of 2^-24, keyed as `normal` is."""
    return _drawn("uniform", seed, purpose, step, shape)


def shift_sgd(weights: np.ndarray, gradient: np.ndarray, shift: int, seed: int, purpose: int, step: int) -> None:
    """Stochastic gradient descent on int8 or int16 `weights`, in place: `weights - gradient / 2^shift`.

    `gradient` are integers of the same shape, for example of a whole minibatch. The quotient is rounded stochastically,
    keyed as `normal` is; a weight stays within the range of its type without the lowest number, which is symmetric.
    Raises ValueError or TypeError if an argument is wrong.
    """
    if weights.dtype not in (np.int8, np.int16) or not weights.flags.c_contiguous or gradient.dtype.kind != "i":
        raise TypeError(
            f"shift_sgd takes contiguous int8 or int16 weights and an integer gradient, not {weights.dtype} and "
            f"{gradient.dtype}"
        )
    if weights.shape != gradient.shape:
        raise ValueError(f"weights of shape {weights.shape} have no gradient of shape {gradient.shape}")
    if not 0 <= shift <= 32:
        raise ValueError(f"shift must be 0 to 32 bits, not {shift}")
    most = int(np.iinfo(weights.dtype).max)
    kernels.shift_sgd(_flat(weights), _flat(gradient), shift, -most, most, *_key_and_counter(seed, purpose, step))


def _drawn(kernel: str, seed: int, purpose: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    size = prod(shape)
    numbers = empty(-(-size // kernels.DRAWN) * kernels.DRAWN, np.float32)
    getattr(kernels, kernel)(*_key_and_counter(seed, purpose, step), numbers)
    return numbers[:size].reshape(shape)


def _key_and_counter(seed: int, purpose: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    key, counter = np.array([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF], np.uint64), empty(2, np.uint64)
    counter[0], counter[1] = purpose, step
    return key, counter


class NumbaBackend(NumpyBackend):
    """`Backend` for NumPy arrays: compiled for float32 and few bits, plain NumPy for the rest."""

    def encode(self, x: Array, fmt: Format, uniform: Array | None) -> Array:
        shape = (*x.shape[:-1], fmt.codes_in_row(x.shape[-1]))
        codes, flat = empty(shape, fmt.code_dtype), _contiguous(x).reshape(-1)
        if isinstance(fmt, Table):
            nan = kernels.encode_table(flat, thresholds(fmt, x.dtype), codes.reshape(-1))
        elif isinstance(fmt, FixedPoint) and fmt.word <= 16 and (fmt.rounding, fmt.overflow) in _FAST_FIXED:
            numbers = (x.dtype.type(n) for n in (1 / fmt.step, fmt.lowest_level, fmt.highest_level))
            mask = np.int32(2**fmt.word - 1)
            nan = kernels.encode_fixed(flat, *numbers, mask, codes.reshape(-1))
        elif _has_kernel(fmt) and x.dtype == np.float32:
            rows, size = flat.reshape(-1, x.shape[-1]), shape[-1]
            layout = np.int64(fmt.word), fmt.top, np.int64(fmt.bias), np.int64(size - x.shape[-1])
            nan = kernels.encode_shared(rows, *layout, codes.reshape(-1, size))
        elif isinstance(fmt, Float) and flat.dtype == fmt.dtype:
            nan, codes = kernels.holds_nan(flat), flat.view(fmt.code_dtype).reshape(x.shape)
        else:
            return _by_numpy(fmt.encode, x, uniform)
        if nan:
            raise ValueError(f"{fmt.name} cannot send NaN")
        return codes

    def decode(self, codes: Array, fmt: Format, like: Array) -> Array:
        if isinstance(fmt, Float):
            return codes.view(fmt.dtype).astype(like.dtype, copy=False)
        if isinstance(fmt, FixedPoint) and not fmt.signed and fmt.word <= 16:
            numbers = empty(codes.shape, like.dtype)
            kernels.decode_unsigned(_flat(codes), like.dtype.type(fmt.step), numbers.reshape(-1))
            return numbers
        if _has_kernel(fmt) and like.dtype == np.float32:
            size, neurons = codes.shape[-1], fmt.neurons_in_row(codes.shape[-1])
            numbers = empty((*codes.shape[:-1], neurons), np.float32)
            rows, each = _contiguous(codes).reshape(-1, size), np.int64(size - neurons)
            kernels.decode_shared(rows, np.int64(fmt.word), np.int64(fmt.bias), each, numbers.reshape(-1, neurons))
            return numbers
        if isinstance(fmt, Table | Bernoulli) or (isinstance(fmt, FixedPoint | SmallFloat) and fmt.bits <= 8):
            numbers = empty(codes.shape, like.dtype)
            kernels.decode_table(_flat(codes), _values(fmt, like.dtype), numbers.reshape(-1))
            return numbers
        return _by_numpy(fmt.decode, codes, like.dtype)

    def normal(self, key: Key, like: Array) -> Array:
        return drawn(normal, key, like)

    def uniform(self, key: Key, like: Array) -> Array:
        return drawn(uniform, key, like)

    def integer_matmul(self, a: Array, b: Array) -> Array:
        product = empty((*a.shape[:-1], b.shape[-1]), np.int32)
        factors = [np.ascontiguousarray(x, np.int16).reshape(-1, *x.shape[-2:]) for x in (a, b)]
        for left, right, result in zip(*factors, product.reshape(-1, *product.shape[-2:]), strict=True):
            kernels.integer_matmul(left, right, result)
        return product

    def values(self, signal: "Signal") -> Array:
        if signal.packed_neurons is None or not _is_float32(signal) or signal.format.bits != 1:
            return super().values(signal)
        if "values" not in signal.made:
            words: Array = signal.carried
            low, high = _values(signal.format, signal.like.dtype)
            signal.made["values"] = packed.unpack_signs(words, signal.packed_neurons, low, high)
        return signal.made["values"]

    def transmit(self, x: Array, fmt: Format, uniform: Array | None, previous: Array | None) -> Transmission:
        if x.ndim == 2 and _is_plain(x) and isinstance(fmt, Table) and len(fmt.values) == 2:
            words, nan = packed.pack_signs(x, fmt.thresholds[0])
        elif x.ndim == 2 and isinstance(fmt, Bernoulli) and uniform is not None and _are_alike(x, uniform):
            words, nan = packed.pack_draws(x, uniform)
        else:
            return super().transmit(x, fmt, uniform, previous)
        if nan:
            raise ValueError(f"{fmt.name} cannot send NaN")
        if previous is not None and previous.dtype != np.uint64:  # codes, of a run that was begun without kernels
            previous = self.pack(previous, fmt)
        return Transmission(words, x.shape[1], *self.ones_and_toggles(words, previous))

    def pack(self, codes: Array, fmt: Format) -> Array:
        return packed.pack(codes, fmt.bits)

    def unpack(self, words: Array, fmt: Format, neurons: int) -> Array:
        return packed.unpack(words, fmt.bits, neurons).astype(fmt.code_dtype, copy=False)

    def ones_and_toggles(self, codes: Array, previous: Array | None) -> tuple[Array, Array]:
        return packed.ones_and_toggles(codes, previous)

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        if not (a.ndim == b.ndim == 2 and a.dtype == b.dtype == np.float32 and (out is None or _is_plain(out))):
            return super().matmul(a, b, out)
        product = empty((a.shape[0], b.shape[1]), np.float32) if out is None else out
        if (
            b.shape[1] <= kernels.NARROW and a.flags.f_contiguous and not a.flags.c_contiguous
        ):  # few columns are faster as few rows
            turned = empty(product.shape[::-1], np.float32)
            _multiply(b.T, a.T, _zeros(a.shape[0]), kernels.IDENTITY, turned)
            np.copyto(product, turned.T)
        else:
            _multiply(a, b, _zeros(b.shape[1]), kernels.IDENTITY, product)
        return product

    def pre_activation(self, signal: "Signal", weight: Array, bias: Array | None) -> Array:
        if _are_for_kernels(signal, weight, bias):
            return _product(signal, weight, bias, kernels.IDENTITY)
        return super().pre_activation(signal, weight, bias)

    def affine_activation(self, activation: "Activation", signal: "Signal", weight: Array, bias: Array | None) -> Array:
        if activation.kernel and _are_for_kernels(signal, weight, bias):
            return _product(signal, weight, bias, getattr(kernels, activation.kernel))
        return super().affine_activation(activation, signal, weight, bias)

    def gradients(self, signal: "Signal", error: Array, spent: Array | None) -> tuple[Array, Array]:
        if len(error) != signal.shape[0] or not (error.ndim == 2 and _is_plain(error) and _is_float32(signal)):
            return super().gradients(signal, error, spent)
        sums = empty(error.shape[1], np.float32)
        kernels.column_sums(error, sums)
        many = len(error) >= _FEW and error.shape[1] >= kernels.LANES
        if many and (signal.packed_neurons is not None or _sparse(signal) is not None):
            return LazyOuterProduct(signal, error, _outer), sums
        values: Array = signal.values
        if values.size * error.shape[1] > _LARGE and _is_plain(values):
            slots = empty(len(error), np.int32)
            if kernels.number_rows(error, slots) < _FEW_ROWS * len(error):
                return _gradient_of_rows(slots, values, error, spent), sums
        return self.matmul(values.T, error, spent), sums

    def change(
        self, activation: "Activation", before: "Signal", after: "Signal", weight: Array, bias: Array | None
    ) -> Array:
        packed_alike = before.packed_neurons is not None and before.carried.shape == after.carried.shape
        if not (packed_alike and activation.kernel and _by_tables(before, weight, bias)):
            return super().change(activation, before, after, weight, bias)
        (count, width), neurons = before.carried.shape, weight.shape[1]
        rows, both = empty(count, np.int64), empty((2 * count, width), np.uint64)
        differing = kernels.gather_differing(before.carried, after.carried, rows, both)
        states, change = empty((2 * count, neurons), np.float32), empty((count, neurons), np.float32)
        states = head(states, differing)
        bias = _zeros(neurons) if bias is None else bias
        _row_tables(both, before.format, weight, bias, getattr(kernels, activation.kernel), states)
        kernels.scatter_differences(states, rows, change)
        return change

    def tanh(self, x: Array, out: Array | None = None) -> Array:
        return _tanh(x, out, 1.0, 1.0, 0.0) if _is_plain(x) else super().tanh(x, out)

    def sigmoid(self, x: Array, out: Array | None = None) -> Array:
        return _tanh(x, out, 0.5, 0.5, 0.5) if _is_plain(x) else super().sigmoid(x, out)

    def activation_backward(self, activation: "Activation", state: Array, error: Array, scale: float = 1.0) -> Array:
        if activation.kernel is None or not _are_alike(state, error):
            return super().activation_backward(activation, state, error, scale)
        result, kind = empty(state.shape, np.float32), getattr(kernels, activation.kernel)
        kernels.activation_backward(kind, state, error, np.float32(scale), result)
        return result

    def activation_backward_difference(
        self, activation: "Activation", state: Array, a: Array, b: Array, scale: float
    ) -> Array:
        if activation.kernel is None or not (_are_alike(state, a) and _are_alike(state, b)):
            return super().activation_backward_difference(activation, state, a, b, scale)
        result, kind = empty(state.shape, np.float32), getattr(kernels, activation.kernel)
        kernels.activation_backward_difference(kind, state, a, b, np.float32(scale), result)
        return result

    def axpy(self, scale: Array, x: Array, y: Array) -> Array:
        if (isinstance(scale, np.ndarray) and scale.ndim) or not _are_alike(x, y):
            return super().axpy(scale, x, y)
        result = empty(y.shape, np.float32)
        kernels.axpy(_float32(scale), x, y, result)
        return result

    def cross_entropy(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        if logits.ndim != 2 or not _is_plain(logits):
            return super().cross_entropy(logits, labels)
        if labels.shape != logits.shape[:1]:
            raise ValueError(f"labels must be one for each of {len(logits)} samples, not of shape {labels.shape}")
        error, loss = empty(logits.shape, np.float32), empty(1, np.float64)
        if kernels.cross_entropy(logits, labels, error, loss):
            raise ValueError(f"labels must be 0 to {logits.shape[1] - 1}, not {labels.min()} to {labels.max()}")
        return error, loss[0]

    def fused_update(self, change: Callable[..., None]) -> FusedUpdate | None:
        return _fused(change)

    checks = True
    patience = 200

    def modes(self, like: Array) -> tuple[str, ...]:
        return ("plain", "recorded") if like.ndim == 2 and like.dtype == np.float32 else ("plain",)

    def best_mode(self, like: Array, steps: int) -> str:
        return self.modes(like)[-1] if steps > 2 * self.patience else "plain"

    def traceable(self, x: Array) -> Array:
        return np.asarray(x).view(Traced)

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        with _watching(lambda kernel, arguments: kernel(*map(plain, arguments)), np.empty):
            yield

    def record(self, body: Callable[[], None], arrays: Sequence[Array]) -> Recording:
        tape = Tape(arrays)
        with _watching(tape.call, tape.empty), tape.record():
            body()
        try:
            return _Recorded(tape.program())
        except RuntimeError as error:
            raise CannotRecord(f"LLVM made no code of it: {error}") from error


# --- optimizers -------------------------------------------------------------------------------------------------------


def _rmsprop(optimizer: Any, parameter: Array, gradient: Array, state: Sequence[Array], rate: Array) -> bool:
    _require_contiguous(parameter, *state)
    if parameter.dtype != np.float32 or _is_of_members(rate):
        return False
    numbers = (_float32(rate), *_float32s(optimizer.decay, optimizer.momentum, optimizer.epsilon))
    _begin_updates()
    if isinstance(gradient, LazyOuterProduct):
        sparse = gradient.signal.packed_neurons is None
        fused = kernels.sparse_rmsprop if sparse else kernels.row_tables_rmsprop
        fused(*_factors(gradient.signal, gradient.error), gradient.error, parameter, *state, *numbers)
    else:
        gradient = gradient.astype(np.float32, copy=False)
        kernels.rmsprop(_flat(parameter), _flat(gradient), *map(_flat, state), *numbers)
    return True


def _sgd(optimizer: Any, parameter: Array, gradient: Array, state: Sequence[Array], rate: Array) -> bool:
    gradient = multiplied(gradient)
    if optimizer.momentum or not _are_alike(parameter, gradient) or _is_of_members(rate):
        return False
    _begin_updates()
    kernels.axpy(_float32(-1.0 * rate), gradient, parameter, parameter)
    return True


def _adam(optimizer: Any, parameter: Array, gradient: Array, state: Sequence[Array], rate: Array) -> bool:
    gradient = multiplied(gradient)
    mean, square, *averages_of_one = state
    if not all(_are_alike(parameter, x) for x in (gradient, mean, square)) or _is_of_members(rate):
        return False
    _begin_updates()
    decays = optimizer.decay, optimizer.square_decay
    for average, decay in zip(averages_of_one, decays, strict=True):
        average *= decay
        average += 1 - decay
    mean_of_one, square_of_one = (x.reshape(-1)[0] for x in averages_of_one)  # members are equally far
    numbers = _float32(rate / mean_of_one), *_float32s(*decays), _float32(square_of_one), np.float32(optimizer.epsilon)
    kernels.adam(*map(_flat, (parameter, gradient, mean, square)), *numbers)
    return True


def _shift_sgd(optimizer: Any, parameter: Array, gradient: Array, state: Sequence[Array], shift: int, key: Key) -> bool:
    seeds = [key.seed] if isinstance(key.seed, int) else key.seed
    members = zip(*(x.reshape(len(seeds), -1) for x in (parameter, gradient)), seeds, strict=True)
    _require_contiguous(parameter)
    for weights, gradients, seed in members:
        shift_sgd(weights, gradients, shift, seed, key.purpose, key.step)
    return True


_FUSED: dict[str, FusedUpdate] = {
    "lowbit_dtp.optimizers.Adam.change": _adam,
    "lowbit_dtp.optimizers.RMSprop.change": _rmsprop,
    "lowbit_dtp.optimizers.SGD.change": _sgd,
    "lowbit_dtp.optimizers.ShiftSGD.change": _shift_sgd,
}


@cache
def _fused(change: Callable[..., None]) -> FusedUpdate | None:
    return _FUSED.get(f"{change.__module__}.{change.__qualname__}")


def _require_contiguous(*arrays: Array) -> None:
    """Raise ValueError if one of the arrays, flat, would be a copy."""
    if not all(x.flags.c_contiguous for x in arrays):
        raise ValueError("a parameter that is updated in place must be C-contiguous; see numpy.ascontiguousarray")


def _is_of_members(rate: Array) -> bool:
    return isinstance(rate, np.ndarray) and rate.ndim > 0


# --- recording --------------------------------------------------------------------------------------------------------


class _Recorded:
    """A `Recording` of kernels, which are compiled already."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def compile(self) -> None: ...

    def __call__(self) -> bool:
        return self._program()


@contextmanager
def _watching(call: Callable[..., Any], allocate: Callable[..., Array]) -> Iterator[None]:
    """In this thread, call kernels, here and in `packed`, through `call`, and create arrays by `allocate`."""
    global kernels, empty
    with _WATCH:
        before, thread = (kernels, empty, packed.kernels, packed.empty), threading.get_ident()

        def call_here(kernel: Any, arguments: Sequence[Any]) -> Any:
            return call(kernel, arguments) if threading.get_ident() == thread else kernel(*arguments)

        def allocate_here(*arguments: Any) -> Array:
            return (allocate if threading.get_ident() == thread else np.empty)(*arguments)

        kernels, packed.kernels = Watched(_numba_kernels, call_here), Watched(_packed_kernels, call_here)
        empty = packed.empty = allocate_here
        try:
            yield
        finally:
            kernels, empty, packed.kernels, packed.empty = before


_WATCH = threading.RLock()


def _begin_updates() -> None:
    """Mark on a recording tape that parameters change from here on."""
    if (tape := Tape.recording()) is not None:
        tape.updates()


def _by_numpy(function: Callable[..., Array], *arguments: Any) -> Array:
    """`function(*arguments)` in NumPy, which a tape records as a whole."""
    tape = Tape.recording()
    return function(*arguments) if tape is None else tape.function(function, arguments, {})


def _has_kernel(fmt: Format) -> TypeGuard[SharedExponent]:
    """Whether codes that share an exponent have a kernel."""
    return isinstance(fmt, SharedExponent) and fmt.rounding == "nearest-even"


def _float32(number: Any) -> Any:
    """A number for a kernel that takes float32; on a tape, one that each replay reads."""
    if isinstance(number, Traced) and Tape.recording() is not None:
        return Cell(number.astype(np.float32))
    return np.float32(number)


def _is_float32(signal: "Signal") -> bool:
    return signal.like.dtype == np.float32


def _outer(signal: "Signal", error: Array) -> Array:
    """`signal.T @ error` of a packed or sparse signal."""
    gradient = empty((signal.shape[1], error.shape[1]), np.float32)
    if signal.packed_neurons is None:
        kernels.sparse_gradient(*_factors(signal, error), error, gradient)
    else:
        kernels.row_tables(*_factors(signal, error), error, _zeros(error.shape[1]), kernels.IDENTITY, gradient)
    return gradient


def _gradient_of_rows(slots: Array, values: Array, error: Array, spent: Array | None) -> Array:
    """`values.T @ error` of the rows that have a slot."""
    (_, below), neurons = values.shape, error.shape[1]
    gradient = empty((below, neurons), np.float32) if spent is None else spent
    kept, kept_error = empty(values.shape, np.float32), empty(error.shape, np.float32)
    size = kernels.keep_rows(slots, values, kept)
    kernels.keep_rows(slots, error, kept_error)
    factors = head(kept.reshape(-1), size), 1, below, kept_error.reshape(-1), neurons, 1
    kernels.matmul(*factors, _zeros(neurons), kernels.IDENTITY, gradient)
    return gradient


def _factors(signal: "Signal", error: Array) -> tuple[Any, ...]:
    """A packed or sparse signal transposed, as its kernel takes it; samples without an error are not needed."""
    if signal.packed_neurons is None:
        slots = empty(len(error), np.int32)
        return *_sparse(signal), slots, kernels.number_rows(error, slots)
    width = 64 * signal.carried.shape[1]
    columns = empty(-(-len(error) // 32) * width, np.uint32)
    kernels.transpose_bits(signal.carried, columns)
    return columns, 1, width, *_values(signal.format, error.dtype)


def _is_plain(x: Array) -> bool:
    """Whether the kernels for float32 can read `x`."""
    return x.dtype == np.float32 and x.flags.c_contiguous


def _are_alike(x: Array, y: Array) -> bool:
    return _is_plain(x) and _is_plain(y) and x.shape == y.shape


def _contiguous(x: Array) -> Array:
    """`x`, or a contiguous copy, which a tape records."""
    if x.flags.c_contiguous:
        return x
    copy = empty(x.shape, x.dtype)
    np.copyto(copy, x)
    return copy


def _flat(x: Array) -> Array:
    return (x if x.flags.c_contiguous else _contiguous(x)).reshape(-1)


@lru_cache
def _float32s(*numbers: float) -> tuple[np.float32, ...]:
    return tuple(map(np.float32, numbers))


def _tanh(x: Array, out: Array | None, inner: float, outer: float, shift: float) -> Array:
    result = empty(x.shape, np.float32) if out is None else out
    kernels.tanh(x, *_float32s(inner, outer, shift), result)
    return result


@cache
def _zeros(size: int) -> Array:
    return np.zeros(size, np.float32)


def _are_for_kernels(signal: "Signal", weight: Array, bias: Array | None) -> bool:
    plain_bias = bias is None or _is_plain(bias)
    return len(signal.shape) == weight.ndim == 2 and _is_plain(weight) and plain_bias and _is_float32(signal)


def _product(signal: "Signal", weight: Array, bias: Array | None, activation: int) -> Array:
    """`activation(signal @ weight + bias)` by the fastest kernel for the signal."""
    rows, (_, neurons) = signal.shape[0], weight.shape
    bias = _zeros(neurons) if bias is None else bias
    product = empty((rows, neurons), np.float32)
    if rows < _FEW:
        _multiply(signal.values, weight, bias, activation, product)
    elif _by_tables(signal, weight, bias):
        _row_tables(signal.carried, signal.format, weight, bias, activation, product)
    elif neurons >= kernels.LANES and (sparse := _sparse(signal)) is not None:
        kernels.sparse_matmul(*sparse, weight, bias, activation, product)
    else:
        _multiply(signal.values, weight, bias, activation, product)
    return product


def _by_tables(signal: "Signal", weight: Array, bias: Array | None) -> bool:
    return (
        signal.packed_neurons is not None
        and weight.shape[-1] >= kernels.LANES
        and _are_for_kernels(signal, weight, bias)
    )


def _row_tables(words: Array, fmt: Format, weight: Array, bias: Array, activation: int, product: Array) -> None:
    """`activation(x @ weight + bias)` for x [rows of `product`, below] in packed `words` of a two-valued format."""
    halves = words.view(np.uint32)
    values = _values(fmt, weight.dtype)
    kernels.row_tables(halves.reshape(-1), halves.shape[1], 1, *values, weight, bias, activation, product)


def _multiply(a: Array, b: Array, bias: Array, activation: int, product: Array) -> None:
    (rows, depth), columns = a.shape, b.shape[1]
    if min(rows, depth) < _FEW and columns >= kernels.LANES:
        kernels.direct_matmul(_contiguous(a), _contiguous(b), bias, activation, product)
        return
    kernels.matmul(*_flat_with_steps(a), *_flat_with_steps(b), bias, activation, product)


def _flat_with_steps(x: Array) -> tuple[Array, int, int]:
    """A matrix as a flat array, and the strides of its rows and columns; one of them is 1."""
    if x.flags.f_contiguous and not x.flags.c_contiguous:
        return x.T.reshape(-1), 1, x.shape[0]
    return _flat(x), x.shape[1], 1


def _sparse(signal: "Signal") -> Any:
    """The nonzeros of a signal, found once by a kernel; None if they are not few, as in images without background."""
    if "sparse" not in signal.made:
        signal.made["sparse"] = _find_nonzeros(signal)
    return signal.made["sparse"]


def _find_nonzeros(signal: "Signal") -> Any:
    (rows, neurons), fmt = signal.shape, signal.format
    codes: Array = signal.carried
    few = int(_DENSE * rows * -(-neurons // 2))
    ends = empty(kernels.lists_of(rows, neurons) + 1, np.int64)
    found = ends, empty(few, np.int32), empty(2 * few, np.float32)
    if isinstance(fmt, FixedPoint) and not fmt.signed and codes.dtype == np.uint8 and codes.flags.c_contiguous:
        fit = kernels.find_nonzero_codes(codes, np.float32(fmt.step), *found)  # code 0 is zero: no need for values
    else:
        fit = _is_plain(signal.values) and kernels.find_nonzeros(signal.values, *found)
    return found if fit else None


@cache
def _values(fmt: Format, dtype: np.dtype) -> np.ndarray:
    size = len(fmt.values) if isinstance(fmt, Table) else 2**fmt.bits
    return fmt.decode(np.arange(size, dtype=fmt.code_dtype), dtype)
