"""Random numbers that depend on their purpose and not on earlier draws: a counter-based generator.

Each draw is keyed by seed, step and purpose, so a resumed run draws the same numbers as an uninterrupted one, and a
member of an ensemble the same as a single network.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .backends import Array, Key, backend_of


def generator(seed: int, purpose: str, step: int = 0) -> np.random.Generator:
    """The generator for one `purpose` in one `step` of the run with `seed`."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, zlib.crc32(purpose.encode()), step, 0]))


@dataclass(frozen=True)
class RandomStream:
    """The random numbers of one training step. With a sequence of seeds, arrays have a leading axis over them."""

    seed: int | Sequence[int]
    step: Any = 0
    """A whole number, or an array of one number on the device, which a recorded step increments."""
    repetition: int = 0
    """Index of a draw among several for one purpose in a step: samples of stochastic units, or sweeps of settling."""

    def at(self, repetition: int) -> "RandomStream":
        """The stream of another repetition, independent of all others; `at(0)` is the first."""
        return replace(self, repetition=repetition)

    def normal(self, purpose: str, like: Array) -> Array:
        """Standard normal numbers of the shape, type and device of `like`: [batch, neurons], or [seeds, batch, ...]."""
        return backend_of(like).normal(self.key(purpose), like)

    def uniform(self, purpose: str, like: Array) -> Array:
        """Uniform numbers in [0, 1), likewise."""
        return backend_of(like).uniform(self.key(purpose), like)

    def bits(self, purpose: str, like: Array) -> Array:
        """32 random bits, as whole numbers from 0 to 2^32 - 1, int64, of the shape of `like`."""
        return backend_of(like).bits(self.key(purpose), like)

    def key(self, purpose: str) -> Key:
        """The key of the numbers for `purpose`."""
        seed = self.seed if isinstance(self.seed, int) else tuple(self.seed)
        text = f"{purpose} {self.repetition}" if self.repetition else purpose
        return Key(seed, zlib.crc32(text.encode()), self.step)
