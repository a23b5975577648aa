"""Wires: the last word on each link, with which the next word is compared to count toggles."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .events import Direction


class Wires(dict[tuple[str, Direction], Any]):
    """Last word on the wires of each link and direction, an array [..., words] of codes or of packed words."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """At the end of the block, copy each new word into the array of the last one, if shape and type are the same.

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
        """The same wires, with `make(word)` in place of each word."""
        return Wires({wire: make(word) for wire, word in self.items()})
