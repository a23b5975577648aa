"""Exact products of few-bit signals with whole-number weights, on torch tensors: `packed` for a GPU.

A bfloat16 holds whole numbers up to 256, and a GPU adds its products in float32, which holds sums up to 2^24. Weights
of 16 bits are split into two bytes; a layer whose sums may be larger is split into parts, whose sums are added as
integers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .packed import Levels
from .torch_gpu import unpack

EXACT = 1 << 24
"""Largest magnitude up to which float32 holds every whole number."""


@dataclass(frozen=True, eq=False)
class Weights:
    """Whole numbers [below, neurons], arranged for products once."""

    planes: tuple[Tensor, ...]
    """bfloat16 [below, neurons]: the weights are planes[0] + 256 planes[1]."""
    largest: tuple[int, ...]
    """Largest magnitude in each plane."""
    largest_sum: tuple[int, ...]
    """Largest sum of magnitudes of a column of each plane: the bound of a sum of products with -1 and +1."""

    @classmethod
    def arrange(cls, levels: Tensor) -> "Weights":
        """Take `levels` [below, neurons], int8 or int16, for the weights of products. Waits for the device."""
        if levels.ndim != 2 or levels.dtype not in (torch.int8, torch.int16):
            shape = tuple(levels.shape)
            raise TypeError(f"weights are int8 or int16 [below, neurons], not {levels.dtype} of shape {shape}")
        wide = levels.to(torch.int32)
        low = ((wide + 128) & 255) - 128
        parts = (wide,) if levels.dtype == torch.int8 else (low, (wide - low) >> 8)
        magnitudes = [part.abs() for part in parts]
        return cls(
            tuple(part.to(torch.bfloat16) for part in parts),
            tuple(int(m.max()) if m.numel() else 0 for m in magnitudes),
            tuple(int(m.sum(0).max()) if m.numel() else 0 for m in magnitudes),
        )

    @property
    def below(self) -> int:
        return int(self.planes[0].shape[0])

    @property
    def neurons(self) -> int:
        return int(self.planes[0].shape[1])


def product(words: Tensor, levels: Levels, weights: Weights) -> Tensor:
    """Packed words [..., words] of codes that stand for `levels`, times `weights`: int32 [..., neurons], exact.

    In units of `levels`. ValueError if a sum might not fit in 32 bits.
    """
    if levels.largest * (weights.largest_sum[0] + sum(256 * s for s in weights.largest_sum[1:])) >= 1 << 31:
        raise ValueError(f"sums of {weights.below} products might not fit in 32 bits")
    codes = unpack(words, levels.bits, weights.below)
    numbers = (levels.low + levels.step * (codes.int() ^ levels.flip)).to(torch.bfloat16).flatten(0, -2)
    total = None
    for i, plane in enumerate(weights.planes):
        whole = levels.largest * weights.largest_sum[i] < EXACT
        rows = weights.below if whole else max(1, (EXACT - 1) // max(1, levels.largest * weights.largest[i]))
        for start in range(0, max(1, weights.below), max(1, rows)):
            part = _multiply(numbers[:, start : start + rows], plane[start : start + rows]).to(torch.int32) << 8 * i
            total = part if total is None else total + part
    assert total is not None
    return total.reshape(*words.shape[:-1], total.shape[-1])


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    """bfloat16 `a` times `b`, added and given in float32."""
    if not a.is_cuda:  # a CPU would round the result to bfloat16
        return a.float() @ b.float()
    with _sums_in_float32():
        return torch.mm(a, b, out_dtype=torch.float32)


@contextmanager
def _sums_in_float32() -> Iterator[None]:
    """Within, a GPU that splits a sum into parts must not add the parts in bfloat16."""
    settings = torch.backends.cuda.matmul
    before = settings.allow_bf16_reduced_precision_reduction
    settings.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        settings.allow_bf16_reduced_precision_reduction = before
