"""Formats by name: built-in ones, and those that a user registers."""

import re
from collections.abc import Callable
from typing import TypeVar

from .base import Format
from .fixed_point import OVERFLOWS, ROUNDINGS, FixedPoint
from .floating import bfloat16, e2m1, e4m3, e5m2, float16, float32, float64
from .scales import SharedExponent, mxfp4, mxfp8_e4m3, mxfp8_e5m2, mxint8, nvfp4
from .tables import Table, bernoulli, binary, binary01, scaled, table, ternary

Parser = Callable[[str], Format | None]
F = TypeVar("F", Format, Parser)

NAMED: dict[str, Format] = {
    fmt.name: fmt
    for fmt in (
        binary, binary01, bernoulli, ternary, float32, float64, bfloat16, float16, e4m3, e5m2, e2m1,
        mxfp8_e4m3, mxfp8_e5m2, mxfp4, mxint8, nvfp4,
    )
}  # fmt: skip
"""Formats with a name without arguments."""

SPELLINGS = (
    *NAMED,
    "binary*0.25",
    "ternary*0.05",
    "fixed(W,I)",
    "ufixed(W,I)",
    "symmetric(W,I)",
    "fixed(W,I,floor|stochastic,saturate-symmetric|wrap)",
    "shared(W)",
    "shared(W,E,floor|stochastic)",
    "table(-1,0,0.5)",
)
"""Spellings that `parse` understands: W bits a code, I of them before the binary point, E bits of an exponent."""

_OWN: dict[str, Format] = {}
_PARSERS: list[Parser] = []


class UnknownFormatError(ValueError):
    """No format has this name."""


def parse(text: str) -> Format:
    """The format that `text` names: a name, one with arguments in () or <>, or a registered one.

    `symmetric(W,I)` is `fixed(W,I,saturate-symmetric)`; a table, `ternary` for example, may have `*` and a factor.

    >>> parse("fixed<8,1>") == parse("fixed(8,1)") == FixedPoint(8, 1)
    True
    >>> parse("symmetric(2,-3)").name
    'fixed(2,-3,saturate-symmetric)'
    >>> parse("ternary*0.05").quantize([0.03, -7]).tolist()
    [0.05, -0.05]
    >>> parse("fixd(8,1)")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    lowbit_dtp.formats.spelling.UnknownFormatError: no format 'fixd(8,1)'; there are: binary, binary01, bernoulli, ...
    """
    fmt = _known(text.replace(" ", "")) or _OWN.get(text) or next(filter(None, (own(text) for own in _PARSERS)), None)
    if fmt is None:
        raise UnknownFormatError(f"no format {text!r}; there are: {', '.join((*SPELLINGS, *_OWN))}")
    return fmt


def register(fmt: F) -> F:
    """Register your own format, so that `parse` finds it in files and options.

    `fmt` is a format, found by its name, or a function from a text to a format, or to None for other texts; `register`
    may be used as a decorator. Returns `fmt`. Raises ValueError if the name is that of another built-in format; one
    that was registered before is replaced.

    >>> register(table([-1, 0.5, 2])) is parse("table(-1,0.5,2)")
    False
    >>> register(Table("lopsided", (-1.0, 0.5, 2.0))) is parse("lopsided")
    True
    """
    if not isinstance(fmt, Format):
        if isinstance(fmt, type) or not callable(fmt):
            raise TypeError(f"register a format, or a function from a name to a format, not {fmt!r}")
        _PARSERS.append(fmt)
        return fmt
    known = _known(fmt.name.replace(" ", ""))
    if known not in (None, fmt):
        raise ValueError(f"{fmt.name!r} is the name of another format already; give yours a name of its own")
    _OWN[fmt.name] = fmt
    return fmt


def _known(text: str) -> Format | None:
    """The built-in format of that name, if there is one."""
    if text in NAMED:
        return NAMED[text]
    if times := re.fullmatch(r"(.+)\*([^*]+)", text):
        return _scaled(text, times[1], times[2])
    call = re.fullmatch(r"(u?fixed|symmetric|shared|table)(?:\((.+)\)|<(.+)>)", text)
    if not call:
        return None
    kind, arguments = call[1], call[2] or call[3]
    try:
        if kind == "table":
            values, _, thresholds = arguments.partition(";")
            return table(_floats(values), _floats(thresholds) if thresholds else ())
        if kind == "shared":
            word, *rest = arguments.split(",")
            exponent = int(rest.pop(0)) if rest and rest[0] not in ROUNDINGS else 8
            sizes = int(word), exponent
        else:
            word, integer, *rest = arguments.split(",")
            sizes = int(word), int(integer)
    except ValueError as error:
        raise ValueError(f"format {text!r}: {error}") from None
    overflows = OVERFLOWS if kind in ("fixed", "ufixed") else ()
    rounding = next((r for r in rest if r in ROUNDINGS), "nearest-even")
    overflow = next((r for r in rest if r in overflows), "saturate" if overflows else "saturate-symmetric")
    for word in set(rest) - {rounding, overflow}:
        what = "rounding or overflow" if overflows else "rounding"
        raise ValueError(f"format {text!r}: no {what} {word!r}; there are: {', '.join((*ROUNDINGS, *overflows))}")
    if kind == "shared":
        return SharedExponent(*sizes, rounding)
    return FixedPoint(*sizes, rounding, overflow, signed=kind != "ufixed")


def _scaled(text: str, name: str, factor: str) -> Format | None:
    fmt = _known(name) or _OWN.get(name)
    try:
        number = float(factor)
    except ValueError:
        return None
    if fmt is None:
        return None
    if not isinstance(fmt, Table):
        raise ValueError(f"format {text!r}: only tables are scaled by a factor, binary*0.25 say, and {name} is none")
    return scaled(fmt, number)


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]
