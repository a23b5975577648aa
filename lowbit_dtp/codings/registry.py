"""Codings by name."""

from collections.abc import Iterable

from ..choices import choose
from .base import Coding
from .lines import BusInvert, Plain
from .sparse import Events, Flips, RunLength, Silence, ZeroSkip

CODINGS: dict[str, Coding] = {
    coding.name: coding for coding in (Plain(), Events(), Flips(), Silence(), RunLength(), ZeroSkip(), BusInvert())
}
"""Codings by name."""

BOUNDS = {
    "entropy": "entropy of the codes of a type of message over the run, each code taken by itself",
    "flip-entropy": "the same of what codes are ahead of those of the word before, where a word follows another",
}
"""Bounds, which are no encoders: no coding of single codes, whatever its table, sends fewer bits on average."""


def coding_names(names: Iterable[str]) -> tuple[str, ...]:
    """`names` of codings and bounds, each once and in a fixed order; "all" stands for all of them.

    >>> coding_names(["flips", "plain", "flips"])
    ('plain', 'flips')
    >>> coding_names(["flip"])  # doctest: +NORMALIZE_WHITESPACE
    Traceback (most recent call last):
    ValueError: no coding 'flip'; there are: all, bus-invert, entropy, events, flip-entropy, flips, plain, run-length,
    silence, zero-skip
    """
    known, given = (*CODINGS, *BOUNDS), set(names)
    for name in given:
        choose("coding", name, dict.fromkeys((*known, "all")))
    return tuple(name for name in known if {name, "all"} & given)
