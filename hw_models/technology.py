"""Technology: the cost of each kind of event; every constant has a range, a unit, a source and evidence.

A process is a TOML file in `technologies/processes/`, a kind of wire one in `technologies/wires/`, and a machine that
is known by its own events, a spike say, one in `technologies/machines/`.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from math import isfinite, log
from pathlib import Path
from typing import Any

from lowbit_dtp.choices import choose
from lowbit_dtp.ledger import OPERATIONS
from lowbit_dtp.storage import StorageError, read_toml

FOLDER = Path(__file__).parent / "technologies"
"""Where `Technology.load` finds technologies by name, in `processes/`, `wires/` and `machines/`."""

MESSAGE_EVENTS = (
    "bit",
    "bit and metre",
    "bit and hop",
    "transition",
    "transition and metre",
    "transition and hop",
    "one",
    "flit",
    "flit and hop",
    "message",
    "message and hop",
    "event",
    "event and hop",
)
"""Events of a message on a link. A transition costs CV^2/2; a random bit changes every second time, so CV^2/4. `one` is
a bit that is 1, `event` an address event (a spike)."""

MACHINE_EVENTS = ("synaptic operation", "neuron update", "learning update")
"""Events of a machine whose published figures include arithmetic and memory."""

PER: Mapping[str, tuple[str, ...]] = {
    "joule": (
        "operation",
        "operation and bit",
        "operation and squared bit",
        "64-bit access",
        *MESSAGE_EVENTS,
        *MACHINE_EVENTS,
    ),
    "watt": ("chip", "core", "bit", "link", "memory bit"),
    "per second": ("operation", "bit", "64-bit access", "flit", "event", *MACHINE_EVENTS),
}
"""What a constant of each unit is for: joules an event, static watts of a part, events that one unit does a second."""

UNITS = tuple(PER)
"""Units a constant can have."""

BANDS: Mapping[str, float] = {
    "measured silicon": 1.25,
    "pre-silicon": 1.5,
    "published estimate": 1.5,
    "derived": 2.0,
    "scaled": 3.0,
    "assumed": 1.0,
}
"""Kinds of evidence, and the default band of each: low is typical divided by the factor, high is typical times it.

The factors are judgements, for constants whose source gives one figure:

- *measured silicon*, 1.25: one chip at one voltage, temperature and load. Chips of one wafer and 5 % of the supply
  (10 % of CV^2) differ by so much.
- *pre-silicon*, 1.5: simulated. Wires, clocks and glitches that the simulation lacks are added by silicon.
- *published estimate*, 1.5: a rounded figure for a typical circuit. Where such a source gives a range itself (Horowitz:
  DRAM 1.3 to 2.6 nJ; Jouppi: HBM2 250 to 450 pJ), its ends lie 1.2 to 1.4 times from their geometric mean.
- *derived*, 2: computed from other constants by a circuit that is assumed; one more iteration of Newton's method, or a
  look-up without interpolation, changes the figure by two.
- *scaled*, 3: from another process or width. Scaling by node (Stillmaker and Baas 2017) from 45 to 7 nm misses the two
  published tables by 2.4 to 5.
- *assumed*, 1: your own value, to see what if; it is taken as it is.
"""

EVIDENCE = tuple(BANDS)

LANDAUER = 1.380649e-23 * 300 * log(2)
"""kT ln 2 at 300 K, in joules: no bit is erased for less."""

MOST: Mapping[str, Mapping[str, float]] = {
    "joule": {
        **dict.fromkeys(PER["joule"], 1e-6),
        **dict.fromkeys(("flit", "flit and hop", "message", "message and hop"), 1e-3),
        **dict.fromkeys(("neuron update", "learning update"), 1e-3),
    },
    "watt": {"chip": 1e5, "core": 1e4, "bit": 1.0, "link": 1e3, "memory bit": 1.0},
    "per second": dict.fromkeys(PER["per second"], 1e18),
}
"""Values above these are warned of, by unit and by what they are per.

An operation, an access or a bit of 1e-6 joules is beyond any machine (DRAM: 1e-9, a synapse in software: 1e-8); a
packet by radio or a neuron in software is not. A chip the size of a wafer draws some 2e4 watts."""

_OPERATION = rf"(?:{'|'.join(OPERATIONS)})"
_NAMED_EVENTS = (
    (rf"{_OPERATION} integer, squared", "operation and squared bit"),
    (rf"{_OPERATION} integer", "operation and bit"),
    (rf"{_OPERATION} \S.*|xnor-popcount|in-memory multiply-accumulate", "operation"),
    (rf"({'|'.join(MACHINE_EVENTS)})(,.*)?", r"\1"),
)
"""Patterns of names of constants in joules, and what such a constant is per."""


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
    scope: str = ""
    """What the figure covers: the adder alone, the whole chip with its leakage."""
    capacity_bits: int | None = None
    """Size of the memory that is accessed; only for memories."""
    assumed_band: bool = False
    """Whether low, high or both come from the band of the evidence (`BANDS`), since the source gives one figure."""

    @property
    def range(self) -> Range:
        """The cost of one event."""
        return Range(self.low, self.typical, self.high)

    @property
    def quantity(self) -> str:
        """What is uncertain: constants of one quantity, such as all sizes of one memory, are off by one factor."""
        family = self.name.removesuffix(", squared")
        if self.capacity_bits:
            family = re.sub(r" [\d.e+]+ ?[KMGT]?i?B$", "", family)
        return f"{self.technology}/{family}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `scope` and `capacity_bits` only where there is one."""
        return {key: value for key, value in asdict(self).items() if value is not None and value != ""}


OPTIONAL_KEYS = ("low", "high", "scope", "capacity_bits")
KEYS = tuple(field.name for field in fields(Constant) if field.name not in ("technology", "name", "assumed_band"))
"""Keys of a constant's table in the TOML file."""
TOP_KEYS = ("description", "flit_bits", "event_driven", "constants")
"""Keys of the file."""


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
    """Named constants of one process, of one kind of wire, or of one machine."""

    name: str
    description: str
    constants: Mapping[str, Constant]
    flit_bits: int | None = None
    """Payload bits of a flit, where a constant is per flit."""
    event_driven: bool | None = None
    """Of a machine: whether only spikes read synapses and add, or every synapse is computed."""

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

    def wire(self, kind: str) -> list[Constant]:
        """Terms of a message on this process's own wire `kind`: `wire KIND`, or several, `wire KIND, TERM`."""
        return [self.constants[name] for name in self.constants if re.fullmatch(rf"wire {re.escape(kind)}(,.*)?", name)]

    @classmethod
    def names(cls, folder: str = "") -> list[str]:
        """Names of the technologies there are; of one folder, if given: `processes`, `wires` or `machines`."""
        folders = {path.name: path for path in FOLDER.iterdir() if path.is_dir()}
        if folder:
            choose("folder of technologies", folder, folders)
        return sorted(name for name, path in _files().items() if folder in ("", path.parent.name))

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
        return _built_in(choose("technology", name, _files()))

    @classmethod
    def read(cls, path: Path) -> "Technology":
        """The technology in a TOML file. Raises `StorageError` naming the wrong file, constant and key.

        UserWarning, naming file and constant, for a value beyond physics.
        """
        path = Path(path)
        return cls.from_content(path, read_toml(path))

    @classmethod
    def from_content(cls, path: Path, content: Mapping[str, Any]) -> "Technology":
        """The technology that the keys of the file at `path` describe; raises `StorageError` as `read` does."""
        for key in content:
            if key not in TOP_KEYS:
                raise StorageError(f"{path}: unknown key {key!r}; a technology has: {', '.join(TOP_KEYS)}")
        tables = content.get("constants")
        if not isinstance(tables, dict) or not tables:
            raise StorageError(f'{path}: has no constants; each is a table such as [constants."add float32"]')
        description = content.get("description")
        if not isinstance(description, str) or not description.strip():
            raise StorageError(f"{path}: has no description")
        others = ("64-bit access",) if _is_process(tables) else ("64-bit access", *MESSAGE_EVENTS)
        constants = {name: _constant(path, name, table, others) for name, table in tables.items()}
        flit_bits = content.get("flit_bits")
        if flit_bits is not None:
            _check_whole(f"{path}: flit_bits", flit_bits)
        for name, constant in constants.items():
            if constant.per in ("flit", "flit and hop") and flit_bits is None:
                raise StorageError(f"{path}: constant {name!r} is per {constant.per}, so the file needs flit_bits")
        event_driven = content.get("event_driven")
        if not isinstance(event_driven, bool | None):
            raise StorageError(f"{path}: event_driven must be true or false, not {event_driven!r}")
        return cls(path.stem, description, constants, flit_bits, event_driven)


@cache  # each message on a wire asks for the file of its kind
def _built_in(path: Path) -> Technology:
    return Technology.read(path)


@cache
def _files() -> dict[str, Path]:
    """The files of all technologies, by name."""
    return {path.stem: path for path in FOLDER.glob("*/*.toml")}


def _is_process(tables: Mapping[str, Any]) -> bool:
    """Whether a file with these constants is a process: it has operations or memories, and no events of a machine."""
    events = {_event(name) for name in tables}
    sized = any(
        "capacity_bits" in table or table.get("per") == "64-bit access"
        for table in tables.values()
        if isinstance(table, dict)
    )
    return not events & set(MACHINE_EVENTS) and (sized or bool(events - {""}))


def _constant(path: Path, name: str, table: Any, others: tuple[str, ...]) -> Constant:
    """The constant that `table` describes, checked key by key; one with a free name is for an event of `others`."""
    where = f"{path}: constant {name!r}"
    if not isinstance(table, dict):
        raise StorageError(f"{where} is {table!r}; it must be a table of {', '.join(KEYS)}")
    for key in table:
        if key not in KEYS:
            raise StorageError(f"{where} has an unknown key {key!r}; a constant has: {', '.join(KEYS)}")
    for key in KEYS:
        if key not in table and key not in OPTIONAL_KEYS:
            raise StorageError(f"{where} has no {key}")
    numbers = {key: _number(where, key, table[key]) for key in ("low", "typical", "high") if key in table}
    for key, known in (("unit", UNITS), ("evidence", EVIDENCE)):
        if table[key] not in known:
            raise StorageError(f"{where}: {key} {table[key]!r} is none of: {', '.join(known)}")
    if table["per"] not in PER[table["unit"]]:
        raise StorageError(
            f"{where}: per {table['per']!r} is none of: {', '.join(PER[table['unit']])}, which are for {table['unit']}"
        )
    if "capacity_bits" in table:
        _check_whole(f"{where}: capacity_bits", table["capacity_bits"])
    _check_event(where, name, table, others)
    if not isinstance(table["source"], str) or not table["source"].strip():
        raise StorageError(f"{where}: source must name author, title, year and place, not {table['source']!r}")
    if not isinstance(table.get("scope", ""), str):
        raise StorageError(f"{where}: scope must be text, what the figure covers, not {table['scope']!r}")
    typical, band = numbers["typical"], BANDS[table["evidence"]]
    if set(numbers.values()) == {typical}:  # one figure, however often it is written, is no certainty
        numbers = {"typical": typical}
    assumed = {"low": typical / band, "high": typical * band}
    constant = Constant(path.stem, name, **(table | assumed | numbers), assumed_band=len(numbers) < 3 and band != 1)
    try:
        _ = constant.range
    except ValueError as error:
        raise StorageError(f"{where}: {error}") from None
    if constant.unit == "per second" and not constant.low:
        raise StorageError(f"{where}: low must be more than 0 {constant.per}s per second")
    _warn_beyond_physics(where, constant)
    return constant


def _number(where: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise StorageError(f"{where}: {key} must be a number, not {value!r}")
    try:
        number = float(value)
    except OverflowError:
        raise StorageError(f"{where}: {key} is an integer of {len(str(abs(value)))} digits, too large") from None
    if not (number >= 0 and isfinite(number)):
        raise StorageError(f"{where}: {key} must be 0 or more and finite, not {value!r}")
    return number


def _check_whole(what: str, value: Any) -> None:
    """Raise StorageError unless `value` is a number of bits that a machine can have."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63:
        given = repr(value) if not isinstance(value, int) or abs(value) < 2**64 else f"one of {len(str(value))} digits"
        raise StorageError(f"{what} must be a whole number of bits, not {given}")


def _check_event(where: str, name: str, table: Mapping[str, Any], others: tuple[str, ...]) -> None:
    """Raise StorageError if a constant of this name has another unit, or is per another event."""
    unit, per = table["unit"], table["per"]
    if unit == "per second":
        if not name.startswith("throughput "):
            raise StorageError(f"{where} is per second; the name of such a constant is 'throughput NAME'")
        allowed: tuple[str, ...] = PER[unit]
        if event := _event(name.removeprefix("throughput ")):
            allowed = tuple(each for each in PER[unit] if each == event or event.startswith(f"{each} and"))
    elif name.startswith("throughput "):
        unit, allowed = "per second", PER["per second"]
    elif "capacity_bits" in table:
        unit, allowed = "joule", ("64-bit access",)
    elif name.startswith("wire "):
        unit, allowed = "joule", MESSAGE_EVENTS
    elif event := _event(name):
        unit, allowed = "joule", (event,)
    elif unit == "joule":
        allowed = others
    else:
        allowed = PER[unit]
    if table["unit"] != unit or per not in allowed:
        what = "a memory, which has capacity_bits," if "capacity_bits" in table else "a constant of this name"
        raise StorageError(f"{where} is in {_in(table['unit'], per)}; {what} is in {_in(unit, ' or '.join(allowed))}")


def _in(unit: str, per: str) -> str:
    return f"{per} per second" if unit == "per second" else f"{unit} per {per}"


def _event(name: str) -> str:
    """What a constant `name` in joules is per; empty if the name does not say."""
    for pattern, event in _NAMED_EVENTS:
        if match := re.fullmatch(pattern, name):
            return match.expand(event)
    return ""


def _warn_beyond_physics(where: str, constant: Constant) -> None:
    """UserWarning for a value above what any machine has, or energy below kT ln 2."""
    most = MOST[constant.unit][constant.per]
    least = LANDAUER if constant.unit == "joule" else 0.0
    unit = _in(constant.unit, constant.per)
    for key in ("typical", "low", "high"):
        value = getattr(constant, key)
        if value > most:
            why = f"above {most:g}, more than any machine known"
        elif 0 < value < least:
            why = f"below kT ln 2 at 300 K, {least:.3g}"
        else:
            continue
        warnings.warn(f"{where}: {key} is {value:g} {unit}, {why}; check its unit", stacklevel=4)
        return
