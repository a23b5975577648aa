"""Random numbers that depend on what they are for and not on what was drawn before: a counter-based generator.

Each draw is keyed by seed, step and purpose, so a resumed run stream what the uninterrupted one would have drawn, and a
member of an ensemble what it would have drawn alone.
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
    """A whole number, or an array of one on the device, which a step that is recorded counts up by itself."""
    repetition: int = 0
    """Which of several draws for one purpose in a step: samples of a stochastic unit, or sweeps of a settling."""

    def at(self, repetition: int) -> "RandomStream":
        """The numbers of another repetition, independent of those of all others; `at(0)` is the first."""
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
        """What the numbers for `purpose` depend on."""
        seed = self.seed if isinstance(self.seed, int) else tuple(self.seed)
        text = f"{purpose} {self.repetition}" if self.repetition else purpose
        return Key(seed, zlib.crc32(text.encode()), self.step)
