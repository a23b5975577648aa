"""Codes of torch tensors: `encode` and `decode` of each kind of format, as the specifications in `formats` give them.

Nothing here waits for the device. torch has no arithmetic on its wider unsigned integers, so codes are the signed type
of the same bits, or some integer or boolean before they are packed. Powers of two are made from the bits of a float64,
exactly.

To support your own format on tensors, use `@encode.register` and `@decode.register`.
"""

from functools import cache, singledispatch

import numpy as np
import torch
from torch import Tensor

from ..formats import (
    NVFP4,
    Bernoulli,
    FixedPoint,
    Float,
    Format,
    Microscaling,
    PowerOfTwoScaled,
    ScaledFormat,
    SharedExponent,
    SmallFloat,
    Table,
)

SIGNED = {np.uint8: torch.uint8, np.uint16: torch.int32, np.uint32: torch.int32, np.uint64: torch.int64}
"""Types of codes on tensors, by `Format.code_dtype`."""

_TINY, _HUGE = 2.0**-1000, 2.0**1000
"""Magnitudes whose exponents are out of every range, for zero and infinity."""
_SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)


@singledispatch
def encode(fmt: Format, x: Tensor, uniform: Tensor | None) -> Tensor:
    """Codes of `x`, as some integer or boolean; those of a number that cannot be sent mean nothing."""
    raise TypeError(
        f"{fmt.name} has no codes on torch tensors; register functions for its type with "
        "lowbit_dtp.backends.torch_formats.encode and decode, or train it on NumPy arrays"
    )


@singledispatch
def decode(fmt: Format, codes: Tensor, like: Tensor) -> Tensor:
    """The numbers `codes` stand for, in the floating type of `like`."""
    raise TypeError(
        f"{fmt.name} has no codes on torch tensors; register functions for its type with "
        "lowbit_dtp.backends.torch_formats.encode and decode, or train it on NumPy arrays"
    )


def refuses_infinity(fmt: Format) -> bool:
    """Whether `fmt` cannot send infinity."""
    return isinstance(fmt, FixedPoint) and fmt.overflow == "wrap"


# --- tables, a bit at random ------------------------------------------------------------------------------------------


@encode.register
def _(fmt: Table, x: Tensor, uniform: Tensor | None) -> Tensor:
    thresholds = _thresholds(fmt, x.dtype, x.device)
    return x >= thresholds if len(thresholds) == 1 else torch.bucketize(x, thresholds, right=True)


@decode.register
def _(fmt: Table, codes: Tensor, like: Tensor) -> Tensor:
    return _values(fmt, like.dtype, codes.device)[codes.long()]


@encode.register
def _(fmt: Bernoulli, x: Tensor, uniform: Tensor | None) -> Tensor:
    if uniform is None:
        raise ValueError(f"{fmt.name} draws its codes: it needs uniform random numbers, one per value")
    return x >= 1 - uniform


@decode.register
def _(fmt: Bernoulli, codes: Tensor, like: Tensor) -> Tensor:
    return codes.to(like.dtype)


# --- fixed point ------------------------------------------------------------------------------------------------------


@encode.register
def _(fmt: FixedPoint, x: Tensor, uniform: Tensor | None) -> Tensor:
    if fmt.stochastic and uniform is None:
        raise ValueError(f"{fmt.name} rounds stochastically: it needs uniform random numbers, one per value")
    # float32 holds a step and its half exactly, but not a sum with a random number, nor a remainder
    steps = (x.double() if fmt.stochastic or fmt.overflow == "wrap" or fmt.word > 24 else x) * (1 / fmt.step)
    if fmt.rounding == "nearest-even":
        steps = torch.round(steps)
    else:
        steps = torch.floor(steps if uniform is None or not fmt.stochastic else steps + uniform)
    if fmt.overflow == "wrap":  # in this order, as rounding of the largest numbers depends on it
        steps = torch.remainder(steps - fmt.lowest_level, 2.0**fmt.word) + fmt.lowest_level
    else:
        steps = torch.clamp(steps, fmt.lowest_level, fmt.highest_level)
    return (steps.int() if fmt.word < 31 else steps.long()) & (2**fmt.word - 1)


@decode.register
def _(fmt: FixedPoint, codes: Tensor, like: Tensor) -> Tensor:
    levels = codes.long() & (2**fmt.word - 1)
    if fmt.signed:
        levels = levels - ((levels >> (fmt.word - 1)) << fmt.word)
    return (levels.double() * fmt.step).to(like.dtype) if fmt.word > 24 else levels.to(like.dtype) * fmt.step


# --- floating point ---------------------------------------------------------------------------------------------------


@encode.register
def _(fmt: Float, x: Tensor, uniform: Tensor | None) -> Tensor:
    return x.to(_floating(fmt)).contiguous().view(SIGNED[fmt.code_dtype])


@decode.register
def _(fmt: Float, codes: Tensor, like: Tensor) -> Tensor:
    return codes.view(_floating(fmt)).to(like.dtype)


def _floating(fmt: Float) -> torch.dtype:
    return {32: torch.float32, 64: torch.float64}[fmt.word]


@encode.register
def _(fmt: SmallFloat, x: Tensor, uniform: Tensor | None) -> Tensor:
    x = x.double()
    magnitude = torch.clamp(x.abs(), max=2 * fmt.largest)
    exponent = torch.clamp(_exponent(magnitude), min=fmt.lowest_exponent)
    steps = torch.round(magnitude * _power(fmt.mantissa - exponent)).long()
    code = torch.clamp(((exponent - fmt.lowest_exponent) << fmt.mantissa) + steps, max=fmt.overflow_code)
    return (code + (torch.signbit(x).long() << (fmt.bits - 1))).int()


@decode.register
def _(fmt: SmallFloat, codes: Tensor, like: Tensor) -> Tensor:
    codes = codes.long() & (2**fmt.bits - 1)
    magnitude, negative = codes & (2 ** (fmt.bits - 1) - 1), codes >> (fmt.bits - 1) != 0
    field = magnitude >> fmt.mantissa
    steps = magnitude - (torch.clamp(field - 1, min=0) << fmt.mantissa)
    x = steps.double() * _power(torch.clamp(field, min=1) + (fmt.lowest_exponent - 1 - fmt.mantissa))
    x = torch.where(magnitude > fmt.largest_code, torch.nan, x)
    if fmt.has_infinity:
        x = torch.where(magnitude == fmt.largest_code + 1, torch.inf, x)
    return torch.where(negative, -x, x).to(like.dtype)


def _exponent(x: Tensor) -> Tensor:
    """Exponents of the powers of two at or below float64 `x`, positive or zero; -1023 for zero and subnormal ones."""
    return (x.contiguous().view(torch.int64) >> 52) - 1023


def _power(exponent: Tensor) -> Tensor:
    """2^`exponent` as float64, for -1022 to 1023."""
    return ((exponent + 1023) << 52).view(torch.float64)


# --- scales -----------------------------------------------------------------------------------------------------------


@encode.register
def _(fmt: ScaledFormat, x: Tensor, uniform: Tensor | None) -> Tensor:
    x = x.double()
    neurons, blocks = x.shape[-1], fmt.blocks(x.shape[-1])
    size = neurons if fmt.block is None else fmt.block
    padded = torch.nn.functional.pad(x.abs(), (0, blocks * size - neurons))
    scales, of_blocks, of_message = _scales(fmt, padded.reshape(*x.shape[:-1], blocks, size).amax(-1))
    each = scales.repeat_interleave(size, -1)[..., :neurons]
    divided = torch.where(each != 0, x / torch.where(each != 0, each, 1.0), 0.0)
    codes = encode(fmt.element, divided, uniform)
    parts = [codes, _cut(of_blocks, fmt.block_scale_bits, fmt.bits)]
    if of_message is not None:
        parts.append(_cut(of_message, fmt.message_scale_bits, fmt.bits))
    return torch.cat([part.to(codes.dtype) for part in parts], -1)


@decode.register
def _(fmt: ScaledFormat, codes: Tensor, like: Tensor) -> Tensor:
    neurons = fmt.neurons_in_row(codes.shape[-1])
    blocks, (of_block, _) = fmt.blocks(neurons), fmt.scale_codes
    end = neurons + blocks * of_block
    of_blocks = _joined(codes[..., neurons:end], of_block, fmt.bits)
    of_message = _joined(codes[..., end:], codes.shape[-1] - end, fmt.bits) if fmt.message_scale_bits else None
    scales = _decoded_scales(fmt, of_blocks, of_message)
    each = scales.repeat_interleave(neurons if fmt.block is None else fmt.block, -1)[..., :neurons]
    return (decode(fmt.element, codes[..., :neurons], each) * each).to(like.dtype)


def _cut(scales: Tensor, scale_bits: int, bits: int) -> Tensor:
    """Scales [..., n] of so many bits as codes [..., n * codes of each]."""
    parts = [(scales >> lane) & (2**bits - 1) for lane in range(0, scale_bits, bits)]
    return torch.stack(parts, -1).flatten(-2)


def _joined(codes: Tensor, each: int, bits: int) -> Tensor:
    """The scales that codes hold, `each` of them one."""
    parts = codes.reshape(*codes.shape[:-1], -1, each).long() & (2**bits - 1)
    joined = parts[..., 0]
    for i in range(1, each):
        joined = joined + (parts[..., i] << i * bits)
    return joined


def _scales(fmt: ScaledFormat, largest: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Scales for the largest magnitudes [..., blocks]; their codes, and [..., 1] the code of the message's."""
    if isinstance(fmt, NVFP4):
        largest = torch.clamp(largest, max=float(np.finfo(np.float32).max))
        all_blocks = largest.amax(-1, keepdim=True) / (fmt.element.largest * fmt.block_scale.largest)
        message = torch.clamp(all_blocks.float(), min=_SMALLEST_NORMAL)
        of_blocks = encode(fmt.block_scale, largest / (fmt.element.largest * message.double()), None)
        scales = decode(fmt.block_scale, of_blocks, largest) * message.double()
        return scales, of_blocks.long(), message.view(torch.int32).long()
    assert isinstance(fmt, PowerOfTwoScaled)
    exponents = torch.clamp(_exponents(fmt, torch.clamp(largest, _TINY, _HUGE)), -fmt.bias, fmt.bias)
    return _power(exponents), exponents + fmt.bias, None


def _exponents(fmt: PowerOfTwoScaled, largest: Tensor) -> Tensor:
    exponent = _exponent(largest)
    if isinstance(fmt, Microscaling):
        return exponent - fmt.highest_exponent
    assert isinstance(fmt, SharedExponent)
    above = largest * _power(-exponent) > 2 * fmt.top
    return exponent + 2 - fmt.word + above.long()


def _decoded_scales(fmt: ScaledFormat, of_blocks: Tensor, of_message: Tensor | None) -> Tensor:
    """The scales [..., blocks] of which `_scales` gave the codes."""
    if isinstance(fmt, NVFP4):
        assert of_message is not None
        scales = decode(fmt.block_scale, of_blocks, torch.empty(0, dtype=torch.float64, device=of_blocks.device))
        return scales * of_message.int().view(torch.float32).double()
    assert isinstance(fmt, PowerOfTwoScaled)
    return _power(of_blocks - fmt.bias)


# --- constants, made once: a recorded step may not fetch them ---------------------------------------------------------


@cache
def _thresholds(fmt: Table, dtype: torch.dtype, device: torch.device) -> Tensor:
    exact = torch.tensor(fmt.thresholds, dtype=torch.float64)
    rounded = exact.to(dtype)
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.double() < exact, above, rounded).to(device)


@cache
def _values(fmt: Table, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(fmt.values, dtype=dtype, device=device)
