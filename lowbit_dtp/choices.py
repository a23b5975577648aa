"""Choices by name, with an error that lists the known names."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def choose(kind: str, name: str, known: Mapping[str, T]) -> T:
    """`known[name]`; ValueError that lists the known names if there is no such name.

    >>> choose("rule", "dpt", {"backprop": 1, "dtp": 2})
    Traceback (most recent call last):
    ValueError: no rule 'dpt'; there are: backprop, dtp
    """
    if name not in known:
        raise ValueError(f"no {kind} {name!r}; there are: {', '.join(sorted(known))}")
    return known[name]
