"""Torch tensors, on whichever device holds them. Nothing here waits for the device but `encode`, `numpy` and errors.

Signals are stored as packed words. torch has no arithmetic on its wider unsigned integers, so codes and words have the
signed type of the same bits.
"""

from collections.abc import Callable, Sequence
from functools import cache
from math import pi, prod
from typing import Any, TypeAlias

import numpy as np
import torch

from ..formats import Float, Format
from ..packing import WORD_BITS
from . import Backend, FusedUpdate, Key, Recording, Transmission, torch_formats
from .numpy_plain import FLOAT_BITS
from .protocols import Signal
from .torch_formats import SIGNED

Array: TypeAlias = Any
"""A `torch.Tensor`, where the base class says any array: its type would have to be checked in every method."""

_COMPILE_FROM = 50_000
"""Steps of a run from which `auto` compiles; an estimate, not measured on a GPU."""
_LOW = 0xFFFFFFFF
_BLOCK = 32
"""Counters of Philox in a block, whose four words each are laid out one after the other, as the CPU's kernel does."""


class TorchBackend(Backend):
    """`Backend` for torch tensors."""

    def modes(self, like: Array) -> tuple[str, ...]:
        return "plain", "recorded", "compiled"

    def best_mode(self, like: Array, steps: int) -> str:
        if not like.is_cuda:
            return "plain"
        return "compiled" if steps >= _COMPILE_FROM else "recorded"

    def asarray(self, x: np.ndarray, like: Array) -> Array:
        tensor = tensor_of(x, like.device)
        return tensor.to(like.dtype) if tensor.is_floating_point() else tensor

    def moved(self, x: np.ndarray, like: Array) -> Array:
        return tensor_of(x, like.device)

    def numpy(self, x: Array) -> np.ndarray:
        return x.detach().cpu().numpy()

    def each(self, values: float | Sequence[float], like: Array, factor: Array = 1.0) -> Array:
        if not isinstance(values, Sequence):
            return values * factor
        if type(factor) is float:
            return _each(tuple(value * factor for value in values), like.ndim, like.dtype, like.device)
        return (_each(tuple(values), like.ndim, torch.float64, like.device) * factor).to(like.dtype)

    def normal(self, key: Key, like: Array) -> Array:
        words = _random_words(key, like)
        pairs = [x for radius, angle in (words[:2], words[2:]) for x in _box_muller(radius, angle)]
        return _in_order(pairs, like)

    def uniform(self, key: Key, like: Array) -> Array:
        return _in_order([_unit(word) for word in _random_words(key, like)], like)

    def bits(self, key: Key, like: Array) -> Array:
        return _in_order(_random_words(key, like), like, torch.int64)

    def is_floating(self, x: Array) -> bool:
        return bool(x.is_floating_point())

    def cast(self, x: Array, number: str) -> Array:
        return x.to(getattr(torch, number))

    def integer_matmul(self, a: Array, b: Array) -> Array:
        if a.is_cuda:  # torch multiplies no integers there; float64 holds sums below 2^53 exactly
            return (a.double() @ b.double()).to(torch.int32)
        return a.int() @ b.int()

    def largest(self, x: Array) -> Array:
        return x.amax(-1, keepdim=True)

    def look_up(self, table: tuple[int, ...], index: Array) -> Array:
        return _table(table, index.device)[index]

    def shared(self, x: Array, members: int) -> Array:
        return x.expand(members, *x.shape)

    def encode(self, x: Array, fmt: Format, uniform: Array | None) -> Array:
        if bool(torch.isnan(x).any()):
            raise ValueError(f"{fmt.name} cannot send NaN")
        return torch_formats.encode(fmt, x, uniform).to(SIGNED[fmt.code_dtype])

    def float_codes(self, x: Array) -> Array:
        return x.clone().view({4: torch.int32, 8: torch.int64}[x.dtype.itemsize])

    def decode(self, codes: Array, fmt: Format, like: Array) -> Array:
        return torch_formats.decode(fmt, codes, like)

    def pack(self, codes: Array, fmt: Format) -> Array:
        return pack(codes, fmt.bits)

    def unpack(self, words: Array, fmt: Format, neurons: int) -> Array:
        return unpack(words, fmt.bits, neurons).to(SIGNED[fmt.code_dtype])

    def ones_and_toggles(self, codes: Array, previous: Array | None) -> tuple[Array, Array]:
        toggles = _popcount(codes[..., 1:, :] ^ codes[..., :-1, :]).sum((-2, -1))
        if previous is not None and codes.shape[-2]:
            toggles = toggles + _popcount(codes[..., 0, :] ^ previous).sum(-1)
        return _popcount(codes).sum((-2, -1)), toggles

    def transmit(self, x: Array, fmt: Format, uniform: Array | None, previous: Array | None) -> Transmission:
        invalid = (~torch.isfinite(x) if torch_formats.refuses_infinity(fmt) else torch.isnan(x)).sum((-2, -1))
        return self.carry(torch_formats.encode(fmt, x, uniform), fmt, previous)._replace(invalid=invalid)

    def carry(self, codes: Array, fmt: Format, previous: Array | None) -> Transmission:
        if isinstance(fmt, Float) or fmt.bits >= 32:
            return Transmission(codes, None, *self.ones_and_toggles(codes, previous))
        words = pack(codes, fmt.bits)
        if previous is not None and previous.dtype != words.dtype:  # codes, of a run that was begun in NumPy
            previous = pack(previous, fmt.bits)
        return Transmission(words, int(codes.shape[-1]), *self.ones_and_toggles(words, previous))

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        return torch.matmul(a, b, out=out)

    def pre_activation(self, signal: "Signal", weight: Array, bias: Array | None) -> Array:
        values: Array = signal.values
        if bias is not None and values.ndim == weight.ndim == 3:
            return torch.baddbmm(bias[:, None], values, weight)
        return super().pre_activation(signal, weight, bias)

    def gradients(self, signal: "Signal", error: Array, spent: Array | None) -> tuple[Array, Array]:
        values: Array = signal.values
        return torch.matmul(values.mT, error), error.sum(-2)  # torch keeps memory for the next by itself

    def tanh(self, x: Array, out: Array | None = None) -> Array:
        return torch.tanh(x, out=out)

    def sigmoid(self, x: Array, out: Array | None = None) -> Array:
        return torch.sigmoid(x, out=out)

    def relu(self, x: Array, out: Array | None = None) -> Array:
        return torch.clamp(x, min=0, out=out)

    def step(self, x: Array) -> Array:
        return torch.where(torch.isnan(x), x, (x >= 0).to(x.dtype))

    def clip(self, x: Array, low: Any, high: Any) -> Array:
        return torch.clamp(x, low, high)

    def round(self, x: Array) -> Array:
        return torch.round(x)

    def power_of_two(self, x: Array) -> Array:
        integer, fraction, exponent = FLOAT_BITS[x.dtype.itemsize]
        bits = torch.clamp(x, 2.0**-64, 2.0**64).view(getattr(torch, integer))
        return ((bits + (1 << (fraction - 1))) & exponent).view(x.dtype)

    def softmax(self, x: Array) -> Array:
        return torch.softmax(x, -1)

    def cross_entropy(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        log_probability = torch.log_softmax(logits, -1)
        loss = -log_probability.gather(-1, labels[..., None])[..., 0].mean(-1)
        return log_probability.exp() - self.one_hot(labels, logits), loss

    def one_hot(self, labels: Array, like: Array) -> Array:
        return (labels[..., None] == torch.arange(like.shape[-1], device=like.device)).to(like.dtype)

    def sqrt(self, x: Array) -> Array:
        return torch.sqrt(x)

    def fused_update(self, change: Callable[..., None]) -> FusedUpdate | None:
        return _FUSED.get(f"{change.__module__}.{change.__qualname__}")

    def record(self, body: Callable[[], None], arrays: Sequence[Array]) -> Recording:
        from .torch_graph import Recorded

        return Recorded(body, arrays)


def tensor_of(x: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """The NumPy array `x` as a tensor on `device`; a wider unsigned integer as the signed type that stands for it."""
    x = np.asarray(x, order="C")
    if x.dtype == np.uint16:
        x = x.astype(np.int32)
    elif x.dtype in (np.uint32, np.uint64):
        x = x.view(np.int32 if x.dtype == np.uint32 else np.int64)
    tensor = torch.from_numpy(x if x.flags.writeable else x.copy())
    if torch.device(device).type == "cuda":  # from other memory, a copy would wait for all work of the device
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


# --- optimizers -------------------------------------------------------------------------------------------------------


def _rmsprop(optimizer: Any, parameter: Array, gradient: Array, state: Sequence[Array], rate: Array) -> bool:
    mean, square, velocity = state
    mean.mul_(optimizer.decay).add_(gradient, alpha=1 - optimizer.decay)
    square.mul_(optimizer.decay).addcmul_(gradient, gradient, value=1 - optimizer.decay)
    spread = torch.addcmul(square, mean, mean, value=-1).add_(optimizer.epsilon).sqrt_()
    velocity.mul_(optimizer.momentum).sub_(rate * gradient / spread)
    parameter.add_(velocity)
    return True


_FUSED: dict[str, FusedUpdate] = {"lowbit_dtp.optimizers.RMSprop.change": _rmsprop}


# --- codes ------------------------------------------------------------------------------------------------------------


def pack(codes: Array, bits: int) -> Array:
    """`packing.pack`: codes [..., neurons] as words [..., words]. Bytes become words as they lie, lowest first."""
    if 8 % bits:  # codes lie across bytes: bit by bit
        codes = ((codes.int()[..., None] >> _lanes(1, bits, codes.device)) & 1).flatten(-2)
        bits = 1
    codes = torch.nn.functional.pad(codes.to(torch.uint8), (0, -codes.shape[-1] % (WORD_BITS // bits)))
    if bits < 8:
        codes = codes.unflatten(-1, (-1, 8 // bits)) << _lanes(bits, 8, codes.device)
        # not as bytes: torch.compile adds the few as a whole register of AVX2, of which it fills the rest with ones
        codes = codes.sum(-1, dtype=torch.int32).to(torch.uint8)
    return codes.view(torch.int64)


def unpack(words: Array, bits: int, neurons: int) -> Array:
    """`packing.unpack`: codes [..., neurons], as some integer, of words [..., words]."""
    if 8 % bits:
        stream = unpack(words, 1, neurons * bits).unflatten(-1, (neurons, bits))
        return (stream.int() << _lanes(1, bits, words.device)).sum(-1)
    codes = words.view(torch.uint8)
    if bits < 8:
        codes = ((codes[..., None] >> _lanes(bits, 8, words.device)) & (2**bits - 1)).flatten(-2)
    return codes[..., :neurons]


def _popcount(words: Array) -> Array:
    """Bits set in each of `words`, int64: sums of neighbours, twice as wide each time."""
    x = words.long() if words.element_size() != 4 else words.long() & _LOW
    x = x - ((x >> 1) & 0x5555555555555555)
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (x * 0x0101010101010101) >> 56


# --- random numbers ---------------------------------------------------------------------------------------------------


def _random_words(key: Key, like: Array) -> list[Array]:
    """Philox4x32-10 (Salmon et al., SC 2011): four words of 32 random bits a counter, [members, blocks, `_BLOCK`]."""
    seeds = (key.seed,) if isinstance(key.seed, int) else key.seed
    blocks = -(-prod(like.shape) // (len(seeds) * 4 * _BLOCK))
    c0 = torch.arange(blocks * _BLOCK, device=like.device).view(blocks, _BLOCK)
    c1, c2, c3 = key.purpose, key.step & _LOW, key.step >> 32
    for k0, k1 in _round_keys(seeds, like.device):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        # a product fills 64 bits, the sign too, which a shift drags along
        c0, c1, c2, c3 = (p1 >> 32 & _LOW) ^ c1 ^ k0, p1 & _LOW, (p0 >> 32 & _LOW) ^ c3 ^ k1, p0 & _LOW
    return [c0, c1, c2, c3]


def _in_order(quarters: list[Array], like: Array, dtype: torch.dtype | None = None) -> Array:
    """Numbers of the four words of each block, word after word, in the shape of `like`, in its type or `dtype`."""
    members = len(quarters[0])
    numbers = torch.stack(quarters, -2).reshape(members, -1)[:, : prod(like.shape) // members]
    return numbers.reshape(like.shape).to(like.dtype if dtype is None else dtype)


def _unit(word: Array) -> Array:
    """Multiples of 2^-24 in [0, 1)."""
    return (word >> 8).float() * 2.0**-24


def _box_muller(radius_word: Array, angle_word: Array) -> tuple[Array, Array]:
    """Two standard normal numbers of two random words (Box and Muller, 1958): an angle to pi/4, and quarter turns."""
    radius = torch.sqrt(-2 * torch.log(_unit(radius_word) + 2.0**-25))
    within = (angle_word << 2) & _LOW
    angle = ((within - ((within >> 31) << 32)) >> 8).float() * (pi / 4 / 2**23)
    sine, cosine = torch.sin(angle), torch.cos(angle)
    radius = torch.where(angle_word >> 31 != 0, -radius, radius)
    swapped = (angle_word >> 30) & 1 != 0
    return radius * torch.where(swapped, sine, cosine), radius * torch.where(swapped, cosine, sine)


# --- constants, made once: a recorded step may not fetch them ---------------------------------------------------------


@cache
def _lanes(step: int, end: int, device: torch.device) -> Array:
    return torch.arange(0, end, step, dtype=torch.uint8, device=device)


@cache
def _each(values: tuple[float, ...], dimensions: int, dtype: torch.dtype, device: torch.device) -> Array:
    return torch.tensor(values, dtype=dtype, device=device).reshape(-1, *[1] * (dimensions - 1))


@cache
def _table(numbers: tuple[int, ...], device: torch.device) -> Array:
    return torch.tensor(numbers, dtype=torch.int32, device=device)


@cache
def _round_keys(seeds: tuple[int, ...], device: torch.device) -> list[tuple[Array, Array]]:
    """The two keys of each round of Philox, [members, 1, 1]."""
    keys = [
        [((seed >> 32 * half & _LOW) + i * (0x9E3779B9, 0xBB67AE85)[half]) & _LOW for seed in seeds]
        for i in range(10)
        for half in (0, 1)
    ]
    tensor = torch.tensor(keys, device=device).reshape(10, 2, len(seeds), 1, 1)
    return [(k0, k1) for k0, k1 in tensor]
