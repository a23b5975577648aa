"""Technology: the cost of each kind of event; every constant has a range, a unit, a source and evidence.

A process is a TOML file in `technologies/processes/`, a kind of wire one in `technologies/wires/`.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

from lowbit_dtp.choices import choose
from lowbit_dtp.storage import StorageError

FOLDER = Path(__file__).parent / "technologies"
"""Where `Technology.load` finds processes and wires by name, in `processes/` and `wires/`."""

UNITS = ("joule",)
"""Units a constant can have."""

PER = (
    "operation",
    "operation and bit",
    "operation and squared bit",
    "64-bit access",
    "bit",
    "bit and metre",
    "transition",
    "transition and metre",
)
"""Events that a constant is for. A transition costs CV^2/2; a random bit changes every second time, so CV^2/4."""

EVIDENCE = ("measured silicon", "published estimate", "pre-silicon", "derived", "scaled")
"""Kinds of evidence for a constant, strongest first."""


@dataclass(frozen=True)
class Range:
    """A quantity known as low, typical and high; sums and multiples keep all three.

    Low values add up to a low and high ones to a high: errors are taken as correlated, not as averaging out.
    """

    low: float = 0.0
    typical: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.low <= self.typical <= self.high and isfinite(self.high)):
            raise ValueError(f"a range needs 0 <= low <= typical <= high, not {self.low}, {self.typical}, {self.high}")

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.typical + other.typical, self.high + other.high)

    def __mul__(self, times: float) -> "Range":
        return Range(self.low * times, self.typical * times, self.high * times)


@dataclass(frozen=True)
class Constant:
    """The cost of one event: `low`, `typical` and `high` in `unit` per `per`, with source and evidence."""

    technology: str
    name: str
    low: float
    typical: float
    high: float
    unit: str
    per: str
    source: str
    """Author, title, year, table or figure."""
    evidence: str
    capacity_bits: int | None = None
    """Size of the memory that is accessed; only for memories."""

    @property
    def range(self) -> Range:
        """The cost of one event."""
        return Range(self.low, self.typical, self.high)


OPTIONAL_KEYS = ("capacity_bits",)
KEYS = tuple(field.name for field in fields(Constant) if field.name not in ("technology", "name"))
"""Keys of a constant's table in the TOML file."""


@dataclass(frozen=True)
class Term:
    """`times` events of the cost `constant`."""

    constant: Constant
    times: float

    @property
    def joules(self) -> Range:
        """The cost of all the events."""
        return self.constant.range * self.times


@dataclass(frozen=True)
class Technology:
    """Named constants of one process, or of one kind of wire (whose one constant is `wire`)."""

    name: str
    description: str
    constants: Mapping[str, Constant]

    def constant(self, name: str, needed_by: str) -> Constant:
        """The constant `name`; ValueError, naming `needed_by`, if the technology does not have it."""
        if name not in self.constants:
            raise ValueError(
                f"technology {self.name!r} has no constant {name!r}, which {needed_by} needs; "
                f"it has: {', '.join(self.constants)}"
            )
        return self.constants[name]

    def memories(self) -> list[Constant]:
        """Constants of memories with a size, smallest first."""
        sized = [(constant.capacity_bits, constant) for constant in self.constants.values() if constant.capacity_bits]
        return [constant for _, constant in sorted(sized, key=lambda pair: pair[0])]

    @classmethod
    def names(cls, holding: str = "") -> list[str]:
        """Names of the technologies; only those with a constant `holding`, if given, as in `names("wire")`."""
        names = sorted(_files())
        return [name for name in names if not holding or holding in cls.load(name).constants]

    @classmethod
    def load(cls, name: str) -> "Technology":
        """The technology `name`, or the one in your own file, if `name` ends in `.toml`.

        A name that ends in `.yaml` is an energy reference table of Accelergy: see `hw_models.accelergy`.
        """
        if name.endswith(".toml"):
            return cls.read(Path(name))
        if name.endswith((".yaml", ".yml")):
            from . import accelergy

            return accelergy.read(Path(name))
        return cls.read(choose("technology", name, _files()))

    @classmethod
    def read(cls, path: Path) -> "Technology":
        """The technology in a TOML file. Raises `StorageError` naming the wrong file, constant and key."""
        path = Path(path)
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StorageError(f"{path}: no such file") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise StorageError(f"{path}: not TOML ({error})") from None
        return cls.from_content(path, content)

    @classmethod
    def from_content(cls, path: Path, content: Mapping[str, Any]) -> "Technology":
        """The technology that the keys of the file at `path` describe; raises `StorageError` as `read` does."""
        for key in content:
            if key not in ("description", "constants"):
                raise StorageError(f"{path}: unknown key {key!r}; a technology has: description, constants")
        constants = content.get("constants")
        if not isinstance(constants, dict) or not constants:
            raise StorageError(f'{path}: has no constants; each is a table such as [constants."add float32"]')
        description = content.get("description")
        if not isinstance(description, str) or not description.strip():
            raise StorageError(f"{path}: has no description")
        return cls(path.stem, description, {name: _constant(path, name, table) for name, table in constants.items()})


def _files() -> dict[str, Path]:
    """The files of all processes and wires, by name."""
    return {path.stem: path for path in FOLDER.glob("*/*.toml")}


def _constant(path: Path, name: str, table: Any) -> Constant:
    """The constant that `table` describes, checked key by key."""
    where = f"{path}: constant {name!r}"
    if not isinstance(table, dict):
        raise StorageError(f"{where} is {table!r}; it must be a table of {', '.join(KEYS)}")
    for key in table:
        if key not in KEYS:
            raise StorageError(f"{where} has an unknown key {key!r}; a constant has: {', '.join(KEYS)}")
    for key in KEYS:
        if key not in table and key not in OPTIONAL_KEYS:
            raise StorageError(f"{where} has no {key}")
    for key in ("low", "typical", "high"):
        if isinstance(table[key], bool) or not isinstance(table[key], int | float):
            raise StorageError(f"{where}: {key} must be a number, not {table[key]!r}")
    for key, known in (("unit", UNITS), ("per", PER), ("evidence", EVIDENCE)):
        if table[key] not in known:
            raise StorageError(f"{where}: {key} {table[key]!r} is none of: {', '.join(known)}")
    if not isinstance(table["source"], str) or not table["source"].strip():
        raise StorageError(f"{where}: source must name author, title, year and place, not {table['source']!r}")
    capacity = table.get("capacity_bits", 1)
    if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
        raise StorageError(f"{where}: capacity_bits must be a whole number of bits, not {capacity!r}")
    constant = Constant(path.stem, name, **table)
    try:
        _ = constant.range
    except ValueError as error:
        raise StorageError(f"{where}: {error}") from None
    return constant


def constant_as_dict(constant: Constant) -> dict[str, Any]:
    """Plain values of a constant, for JSON; `capacity_bits` only where there is one."""
    return {key: value for key, value in asdict(constant).items() if value is not None}
