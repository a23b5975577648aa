"""Wires: the last word that crossed each link, which the next word toggles against."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .events import Direction


class Wires(dict[tuple[str, Direction], Any]):
    """Last word on the wires of each link and direction, an array [..., words] of codes or of packed words."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Until the block ends, a new word is written over the last one of its shape and type, not put in its place.

        Recorded steps find the last word in the same array each time.
        """
        before = dict(self)
        yield
        for wire, last in before.items():
            now = self[wire]
            if now is not last and (now.shape, now.dtype) == (last.shape, last.dtype):
                last[...] = now
                self[wire] = last

    def each(self, make: Callable[[Any], Any]) -> "Wires":
        """The same wires, with what `make` makes of each word."""
        return Wires({wire: make(word) for wire, word in self.items()})
