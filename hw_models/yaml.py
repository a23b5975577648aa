"""The part of YAML that Accelergy and Timeloop write: mappings, lists and one-line values.

Anchors, tags, several documents and texts of several lines are refused, with the number of the line.

>>> load("ERT:\\n  version: '0.4'  # quoted\\n  tables:\\n  - name: mac[1..168]\\n    arguments: {data_delta: 1}\\n")
{'ERT': {'version': '0.4', 'tables': [{'name': 'mac[1..168]', 'arguments': {'data_delta': 1}}]}}
>>> print(dump({"tables": [{"name": "mac", "energy": 1e-05, "arguments": {}}]}), end="")
tables:
- name: mac
  energy: 1.0e-05
  arguments: {}
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

MOST_NESTED = 50
"""Levels of nesting that are read; an energy reference table has eight."""

_PLAIN = re.compile(r"[A-Za-z_]([\w.\[\]() -]*[\w.\[\]()])?")
_QUOTED = r""""(?:[^"\\]|\\.)*"|'(?:[^']|'')*'"""
_WORDS = {"null": None, "~": None, "": None, "true": True, "false": False}
_OLD_WORDS = ("yes", "no", "on", "off", "y", "n")
"""Truth values for readers of YAML 1.1."""


class _Line(NamedTuple):
    number: int
    indent: int
    text: str


def load(text: str) -> Any:
    """The value that `text` describes. ValueError naming the line that is not understood."""
    lines: list[_Line] = []
    for number, line in enumerate(re.split(r"\r?\n", text), 1):
        content = _without_comment(line).rstrip()
        if not content.strip() or (content == "---" and not lines):
            continue
        if "\t" in content[: len(content) - len(content.lstrip())]:
            raise ValueError(f"line {number}: indented by a tab; indent by spaces")
        lines.append(_Line(number, len(content) - len(content.lstrip(" ")), content.strip()))
    if not lines:
        return None
    value, rest = _block(lines, 0, lines[0].indent, 0)
    if rest < len(lines):
        raise ValueError(f"line {lines[rest].number}: {lines[rest].text!r} is not indented as the lines above it")
    return value


def dump(value: Mapping[str, Any]) -> str:
    """`value`, of mappings, lists, texts, numbers and None, as YAML that other readers take for the same."""
    return "".join(f"{line}\n" for line in _dumped(value))


def _dumped(value: Any) -> list[str]:
    """Lines of a mapping or a list that is not empty."""
    lines: list[str] = []
    if isinstance(value, Mapping):
        for key, part in value.items():
            if isinstance(part, Mapping | list) and part:
                indent = "" if isinstance(part, list) else "  "
                lines += [f"{_scalar_text(key)}:", *(indent + line for line in _dumped(part))]
            else:
                lines.append(f"{_scalar_text(key)}: {_scalar_text(part)}")
        return lines
    for part in value:
        first, *others = _dumped(part) if isinstance(part, Mapping | list) and part else [_scalar_text(part)]
        lines += [f"- {first}", *(f"  {line}" for line in others)]
    return lines


def _scalar_text(value: Any) -> str:
    """One value on one line. A float has a point, without which readers of YAML 1.1 take it for text."""
    if isinstance(value, float):
        digits, e, exponent = repr(value).partition("e")
        return digits + ("" if "." in digits else ".0") + e + exponent
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in (*_WORDS, *_OLD_WORDS):
        return value
    return json.dumps(value, ensure_ascii=False)


def _without_comment(line: str) -> str:
    """`line` up to a `#` that is outside of quotes and after a blank, or first."""
    quote = ""
    for index, character in enumerate(line):
        if quote:
            if character == quote and line[index - 1] != "\\":
                quote = ""
        elif character in "'\"" and (index == 0 or line[index - 1] in " :[{,-"):
            quote = character
        elif character == "#" and (index == 0 or line[index - 1] in " \t"):
            return line[:index]
    return line


def _block(lines: list[_Line], start: int, indent: int, depth: int) -> tuple[Any, int]:
    """The mapping or list whose lines begin at `start`, indented by `indent`, and the line after it."""
    if depth > MOST_NESTED:
        raise ValueError(f"line {lines[start].number}: nested more than {MOST_NESTED} levels deep")
    if lines[start].text == "-" or lines[start].text.startswith("- "):
        return _list(lines, start, indent, depth)
    if _key(lines[start]) is None:
        return _scalar(lines[start].text, lines[start].number), start + 1
    return _mapping(lines, start, indent, depth)


def _list(lines: list[_Line], start: int, indent: int, depth: int) -> tuple[list[Any], int]:
    items = []
    while start < len(lines) and lines[start].indent == indent and re.match(r"-(?: |$)", lines[start].text):
        line = lines[start]
        inner = line.text[1:].lstrip()
        if inner:  # the item begins on this line, as if it were one of its own
            lines[start] = line._replace(indent=indent + len(line.text) - len(inner), text=inner)
            item, start = _block(lines, start, lines[start].indent, depth + 1)
        elif start + 1 < len(lines) and lines[start + 1].indent > indent:
            item, start = _block(lines, start + 1, lines[start + 1].indent, depth + 1)
        else:
            item, start = None, start + 1
        items.append(item)
    return items, start


def _mapping(lines: list[_Line], start: int, indent: int, depth: int) -> tuple[dict[Any, Any], int]:
    found: dict[Any, Any] = {}
    while start < len(lines) and lines[start].indent == indent:
        line = lines[start]
        parts = _key(line)
        if parts is None:
            break
        key, text = parts
        if key in found:
            raise ValueError(f"line {line.number}: key {key!r} is there twice")
        start += 1
        # a list may be indented as its key is
        least = indent if start < len(lines) and re.match(r"-(?: |$)", lines[start].text) else indent + 1
        if text:
            found[key] = _scalar(text, line.number)
        elif start < len(lines) and lines[start].indent >= least:
            found[key], start = _block(lines, start, lines[start].indent, depth + 1)
        else:
            found[key] = None
    return found, start


def _key(line: _Line) -> tuple[Any, str] | None:
    """Key and text of a line `key: text`; None if it is none."""
    match = re.match(rf"({_QUOTED}|[^\s\"'\[{{].*?)\s*:(?:\s+|$)", line.text)
    return (_scalar(match[1], line.number), line.text[match.end() :]) if match else None


def _scalar(text: str, number: int) -> Any:
    """The value of `text`, which is on line `number`: a scalar, or a list or mapping in brackets."""
    if text.startswith(("[", "{")):
        value, rest = _flow(text, number, 0)
        if rest.strip():
            raise ValueError(f"line {number}: {rest.strip()!r} after the closing bracket")
        return value
    if re.match(r"[&*!|>%@`]|[?](\s|$)", text):
        raise ValueError(f"line {number}: {text!r}: anchors, tags and texts of several lines are not read")
    if text.startswith('"'):
        try:
            return json.loads(re.sub(r"\\x(..)", r"\\u00\1", text))
        except ValueError:
            raise ValueError(f"line {number}: {text} is not a text in double quotes") from None
    if text.startswith("'"):
        if not re.fullmatch(_QUOTED, text):
            raise ValueError(f"line {number}: {text} is not a text in single quotes")
        return text[1:-1].replace("''", "'")
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if re.fullmatch(r"[-+]?\d{1,18}", text):
        return int(text)
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
        return float(text)
    if re.fullmatch(r"[-+]?\.(inf|nan)", text.lower()):
        return float(text.replace(".", ""))
    return text


def _flow(text: str, number: int, depth: int) -> tuple[Any, str]:
    """The list or mapping in brackets that `text` begins with, and what comes after it."""
    if depth > MOST_NESTED:
        raise ValueError(f"line {number}: nested more than {MOST_NESTED} levels deep")
    closing = "]" if text[0] == "[" else "}"
    items: list[Any] = []
    pairs: dict[Any, Any] = {}
    rest = text[1:].lstrip()
    while not rest.startswith(closing):
        key = None
        if closing == "}":
            name = re.match(rf"({_QUOTED}|[^,\[\]{{}}:]+?)\s*:\s*", rest)
            if not name:
                raise ValueError(f"line {number}: {rest or text!r} is not KEY: VALUE and a closing bracket")
            key, rest = _scalar(name[1], number), rest[name.end() :]
            if key in pairs:
                raise ValueError(f"line {number}: key {key!r} is there twice")
        if rest.startswith(("[", "{")):
            value, rest = _flow(rest, number, depth + 1)
        else:
            word = re.match(rf"{_QUOTED}|[^,\[\]{{}}]*", rest)[0]  # type: ignore[index]
            value, rest = _scalar(word.strip(), number), rest[len(word) :]
        pairs[key] = value
        items.append(value)
        rest = rest.lstrip()
        if rest.startswith(","):
            rest = rest[1:].lstrip()
        elif not rest.startswith(closing):
            raise ValueError(f"line {number}: {text!r} has no closing {closing}")
    return (pairs if closing == "}" else items), rest[1:]
