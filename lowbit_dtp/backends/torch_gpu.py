"""Torch tensors, on whichever device holds them."""

from functools import cache

import numpy as np
import torch

from ..formats import FixedPoint, Float, Format, Table
from . import Array, Backend

# torch has no arithmetic on its wider unsigned integers, so codes and words travel as the signed type of the same bits.
_SIGNED = {np.uint8: torch.uint8, np.uint16: torch.int32, np.uint32: torch.int32, np.uint64: torch.int64}


class TorchBackend(Backend):
    """`Backend` for torch tensors."""

    def asarray(self, x: np.ndarray, like: Array) -> Array:
        tensor = torch.from_numpy(np.ascontiguousarray(x)).to(like.device)
        return tensor.to(like.dtype) if tensor.is_floating_point() else tensor

    def encode(self, x: Array, fmt: Format, uniform: Array | None) -> Array:
        if bool(torch.isnan(x).any()):
            raise ValueError(f"{fmt.name} cannot send NaN")
        if isinstance(fmt, Table):
            codes = torch.bucketize(x, _thresholds(fmt, x.dtype, x.device), right=True)
            return codes.to(_SIGNED[fmt.code_dtype])
        if isinstance(fmt, Float):
            return x.to(_floating(fmt)).contiguous().view(_SIGNED[fmt.code_dtype])
        assert isinstance(fmt, FixedPoint)
        encoded = fmt.encode(x.detach().cpu().numpy(), None if uniform is None else uniform.cpu().numpy())
        return torch.from_numpy(encoded.astype(np.int64)).to(x.device).to(_SIGNED[fmt.code_dtype])

    def decode(self, codes: Array, fmt: Format, like: Array) -> Array:
        if isinstance(fmt, Float):
            return codes.view(_floating(fmt)).to(like.dtype)
        if isinstance(fmt, Table):
            return _values(fmt, like.dtype, codes.device)[codes.long()]
        assert isinstance(fmt, FixedPoint)
        levels = codes.long() & (2**fmt.word - 1)
        if fmt.signed:
            levels = levels - ((levels >> (fmt.word - 1)) << fmt.word)
        return (levels.double() * fmt.step).to(like.dtype)

    def ones_and_toggles(self, codes: Array, previous: Array | None) -> tuple[int, int]:
        changed = _popcount(codes[..., 1:, :] ^ codes[..., :-1, :])
        if previous is not None and codes.shape[-2]:
            changed = changed + _popcount(codes[..., 0, :] ^ previous)
        return int(_popcount(codes)), int(changed)

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        return torch.matmul(a, b, out=out)

    def tanh(self, x: Array, out: Array | None = None) -> Array:
        return torch.tanh(x, out=out)

    def sigmoid(self, x: Array, out: Array | None = None) -> Array:
        return torch.sigmoid(x, out=out)

    def relu(self, x: Array, out: Array | None = None) -> Array:
        return torch.clamp(x, min=0, out=out)

    def cross_entropy(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        log_probability = torch.log_softmax(logits, -1)
        loss = -log_probability.gather(-1, labels[..., None])[..., 0].mean(-1)
        one_hot = torch.nn.functional.one_hot(labels, logits.shape[-1]).to(logits.dtype)
        return log_probability.exp() - one_hot, loss

    def rmsprop(
        self,
        parameter: Array,
        gradient: Array,
        state: tuple[Array, Array, Array],
        learning_rate: float,
        decay: float,
        momentum: float,
        stabilizer: float,
    ) -> None:
        mean, square, velocity = state
        mean.mul_(decay).add_(gradient, alpha=1 - decay)
        square.mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
        spread = torch.addcmul(square, mean, mean, value=-1).add_(stabilizer).sqrt_()
        velocity.mul_(momentum).addcdiv_(gradient, spread, value=-learning_rate)
        parameter.add_(velocity)


def _popcount(codes: Array) -> Array:
    """Bits set in all of `codes`. A shift of a negative number drags its sign along, so bits are taken one by one."""
    bits = 8 * codes.element_size()
    return sum(((codes >> bit) & 1).sum(dtype=torch.int64) for bit in range(bits))


def _floating(fmt: Float) -> torch.dtype:
    return {32: torch.float32, 64: torch.float64}[fmt.word]


@cache
def _thresholds(fmt: Table, dtype: torch.dtype, device: torch.device) -> Array:
    exact = torch.tensor(fmt.thresholds, dtype=torch.float64)
    rounded = exact.to(dtype)
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.double() < exact, above, rounded).to(device)


@cache
def _values(fmt: Table, dtype: torch.dtype, device: torch.device) -> Array:
    return torch.tensor(fmt.values, dtype=dtype, device=device)
