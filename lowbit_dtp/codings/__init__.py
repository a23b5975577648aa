"""Codings: how the codes of messages are put on the wire of a link in one direction, without loss.

A coding works on an *exchange*: what crosses a link in one direction for the same samples. That is one word a sample,
or two where one word follows another (`FOLLOWS`): difference target propagation sends a state, and then a target that
differs from it in few codes. Header bits are counted. Scales of a format are sent plain, after the codes of their word.

    >>> import numpy as np
    >>> from lowbit_dtp.formats import binary
    >>> state = np.zeros((1, 100), np.uint8)
    >>> target = state.copy()
    >>> target[0, 7] = 1
    >>> {name: CODINGS[name].bits(np.stack([state, target]), binary).ravel().tolist() for name in ("flips", "silence")}
    {'flips': [100, 15], 'silence': [9, 15]}

The *idle code* of a format, which `events`, `silence`, `run-length` and `zero-skip` do not send one by one, is that of
0.0 where the format has this value, and else code 0, the lowest value: 0 in `ternary`, `fixed(W,I)`, floats and
`binary01`, and -1 in `binary`. `docs/codings.md` has a table of all codings.
"""

from .base import FOLLOWS, Coding, Exchange
from .counts import MAX_BITS, Coded, CodedCounts
from .lines import BusInvert, Plain
from .registry import BOUNDS, CODINGS, coding_names
from .sparse import Events, Flips, RunLength, Silence, ZeroSkip
from .symbols import Bits, Symbols, idle_word, symbols_of

__all__ = [
    "BOUNDS",
    "CODINGS",
    "FOLLOWS",
    "MAX_BITS",
    "Bits",
    "BusInvert",
    "Coded",
    "CodedCounts",
    "Coding",
    "Events",
    "Exchange",
    "Flips",
    "Plain",
    "RunLength",
    "Silence",
    "Symbols",
    "ZeroSkip",
    "coding_names",
    "idle_word",
    "symbols_of",
]
