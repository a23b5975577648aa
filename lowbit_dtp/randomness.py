"""Random numbers that depend on what they are for and not on what was drawn before: a counter-based generator.

Each draw is keyed by seed, step and purpose, so a resumed run draws what the uninterrupted one would have drawn, and a
member of an ensemble what it would have drawn alone.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def generator(seed: int, purpose: str, step: int = 0) -> np.random.Generator:
    """The generator for one `purpose` in one `step` of the run with `seed`."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, zlib.crc32(purpose.encode()), step, 0]))


@dataclass(frozen=True)
class Draws:
    """The random numbers of one training step. With a sequence of seeds, arrays have a leading axis over them."""

    seed: int | Sequence[int]
    step: int = 0

    def normal(self, purpose: str, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal numbers, float32, of `shape`: [batch, neurons], or [seeds, batch, neurons]."""
        from .backends.numba_cpu import normal

        if isinstance(self.seed, int):
            return normal(self.seed, zlib.crc32(purpose.encode()), self.step, shape)
        return np.stack([Draws(seed, self.step).normal(purpose, shape[1:]) for seed in self.seed])

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> np.ndarray:
        """Uniform numbers in [0, 1), float32, of `shape`."""
        if isinstance(self.seed, int):
            return generator(self.seed, purpose, self.step).random(shape, dtype=np.float32)
        return np.stack([Draws(seed, self.step).uniform(purpose, shape[1:]) for seed in self.seed])
