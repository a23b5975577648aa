"""Checks values read from a file against their declared types."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_ONE = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_MANY = {bool: "truth values", int: "whole numbers", float: "numbers", str: "texts"}


def check(where: str, value: Any, hint: Any) -> None:
    """Raise ValueError, naming the wrong part, unless `value` is of the type `hint`.

    `hint` is a type as it is annotated: int, float, str, bool, None, unions, lists, sequences, tuples and dicts of
    them. A dict of hints stands for a table that has all these keys, but for those written `"key?"`, which it may have;
    `{str: hint}` for a table of any keys; a list of one hint for a list. Other types are not checked. A whole number is
    a number, a truth value is neither, and NaN and infinity are none. `where` names `value`: `rules.dtp.noise`.

    >>> check("noise", 0.5, float | None)
    >>> check("rules", {"dtp": {"noise": "x"}}, dict[str, dict[str, float]])
    Traceback (most recent call last):
    ValueError: rules.dtp.noise must be a number, not 'x'
    """
    kinds = _alternatives(hint)
    for kind in kinds:
        if _holds(value, kind):
            _check_parts(where, value, kind)
            return
    if float in kinds and isinstance(value, int | float) and not _is_finite(value):
        given = value if isinstance(value, float) else f"one of {len(str(abs(value)))} digits"
        raise ValueError(f"{where} must be a finite number, not {given}")
    wanted = " or ".join(_described(kind) for kind in kinds if kind is not NoneType)
    raise ValueError(f"{where} must be {wanted}, not {value!r}")


def hints(kind: type, *, required: bool = False) -> dict[str, Any]:
    """Type of each field of the dataclass `kind`; with `required`, only of fields that have no default."""
    try:
        known = get_type_hints(kind)
    except NameError:  # names that are imported only for type checkers
        known = {}
    chosen = [f for f in fields(kind) if f.init and not (required and (f.default, f.default_factory) != (MISSING,) * 2)]
    return {f.name: known.get(f.name, Any) for f in chosen}


def defaults(kind: type) -> dict[str, Any]:
    """Default of each field of the dataclass `kind` that has one."""
    values = {}
    for field in fields(kind):
        if field.default is not MISSING:
            values[field.name] = field.default
        elif field.default_factory is not MISSING:
            values[field.name] = field.default_factory()
    return values


def _alternatives(hint: Any) -> list[Any]:
    """The types of a union, but for sequences beside numbers: these are for ensembles, one number for each member."""
    kinds = list(get_args(hint)) if get_origin(hint) in (Union, UnionType) else [hint]
    if {int, float} & {kind for kind in kinds if isinstance(kind, type)}:
        kinds = [kind for kind in kinds if get_origin(kind) is not Sequence]
    return kinds


def _holds(value: Any, kind: Any) -> bool:
    """Whether `value` is of `kind`, whatever its parts are."""
    if kind in (None, NoneType):
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    if _is_list(kind):
        return isinstance(value, list | tuple)
    if _is_table(kind):
        return isinstance(value, Mapping)
    return True


def _is_finite(value: float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _check_parts(where: str, value: Any, kind: Any) -> None:
    prefix = f"{where}." if where else ""
    if isinstance(kind, dict):
        for key, hint in kind.items() if str not in kind else [(key, kind[str]) for key in value]:
            if key.endswith("?"):
                key = key.removesuffix("?")
                if key not in value:
                    continue
            elif key not in value:
                raise ValueError(f"{prefix}{key} is missing")
            check(f"{prefix}{key}", value[key], hint)
    elif _is_table(kind):
        of = get_args(kind)
        for key, part in value.items():
            check(f"{prefix}{key}", part, of[1] if of else Any)
    elif _is_list(kind):
        of = tuple(kind) if isinstance(kind, list) else get_args(kind) or (Any,)
        each = get_origin(kind) is not tuple or of[-1] is Ellipsis
        if not each and len(of) != len(value):
            raise ValueError(f"{where} must be {_described(kind)}, not {value!r}")
        for i, part in enumerate(value):
            check(f"{where}[{i}]", part, of[0] if each else of[i])


def _is_list(kind: Any) -> bool:
    return isinstance(kind, list) or kind in (list, tuple) or get_origin(kind) in (list, tuple, Sequence)


def _is_table(kind: Any) -> bool:
    return isinstance(kind, dict) or kind is dict or get_origin(kind) in (dict, Mapping)


def _described(kind: Any) -> str:
    if _is_table(kind):
        return "a table"
    if _is_list(kind):
        of = get_args(kind)
        if get_origin(kind) is tuple and of[-1] is not Ellipsis:
            return f"a list of {len(of)} values"
        return f"a list of {_MANY[of[0]]}" if of and of[0] in _MANY else "a list"
    return _ONE.get(kind, str(kind))
