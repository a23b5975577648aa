"""Sweeps: many points, each a ledger on a machine, as rows of a CSV file; and the Pareto front among them.

A sweep file is TOML. A key has one value or a list; every combination is a point:

    runs = ["runs/demo"]             # run folders or comparisons, relative to the file
    use = "training"                 # or "inference", or both
    objectives = ["error", "bits", "joules"]

    [estimates]                      # of networks that need not be trained
    data = "digits"
    rule = ["dtp", "straight-through@fixed(4,-2)"]
    sizes = ["64-100-100-10", "64-400-400-10"]
    link = ["h1-h2=binary", "h1-h2=ternary/binary, h2-output=fixed(8,3)"]

    [hardware]
    technology = ["45nm", "7nm"]
    placement = ["h1-h2=board", "rest=on-die:2mm"]
    reuse = [1, 50]
    machine = ["loihi"]              # instead of a technology, placement, memory and reuse

The table is written after each run or estimate, and a row that is there is not computed again.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import product
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from lowbit_dtp.choices import choose
from lowbit_dtp.codings import CODINGS
from lowbit_dtp.ledger import Ledger, padded
from lowbit_dtp.settings import check
from lowbit_dtp.storage import StorageError, read_toml, write_csv
from lowbit_dtp.version import __version__

from .hardware import HardwareConfig, parsed_choices, parsed_table
from .machine import Machine
from .machine_price import price_on
from .price import price
from .technology import Technology
from .timing import time_on, with_static
from .wires import coded_traffic, wire_constants

SOURCE = ("run", "rule", "data", "sizes", "links", "weights", "measure", "use")
"""Columns that say what was done: the folder of a run, empty for an estimate; the network; what its score measures,
`error_percent` say; training or inference."""
HARDWARE: Mapping[str, str] = {
    "technology": "45nm",
    "placement": "",
    "memory": "sram",
    "reuse": "1",
    "word_bits": "1",
    "accumulator_bits": "32",
    "feedback_weights": "",
    "coding": "",
    "machine": "",
}
"""Columns that say on which hardware, and their defaults."""
OF_A_MACHINE = ("technology", "placement", "memory", "reuse", "feedback_weights")
"""Columns that are empty where there is a machine, which has its own."""
RESULTS = ("score", "bits", "joules_low", "joules_typical", "joules_high", "seconds")
"""Columns of numbers: test score of a run; bits on all links, joules and seconds of a sample, layer after layer. Empty
where there is none: no time is known of a technology, or where a machine has no throughput for what a ledger needs."""
SETTINGS = (*SOURCE, *HARDWARE, "digest")
"""Columns that make a row another one. `digest` changes with the ledger and the constants."""
COLUMNS = (*SETTINGS, *RESULTS, "note", "front")
"""Columns of the table. `note` says why a point has no price; `front` is 1 for points on the front."""
OBJECTIVES = {"error": "score", "bits": "bits", "joules": "joules_typical", "seconds": "seconds"}
"""What can be minimized, and its column."""
USES = ("training", "inference")

Row = dict[str, str]


@dataclass(frozen=True)
class Sweep:
    """What a sweep file asks for."""

    path: Path
    runs: tuple[str, ...] = ()
    uses: tuple[str, ...] = USES[:1]
    objectives: tuple[str, ...] = ()
    """What is minimized; if empty, all that every point with a price has."""
    estimates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Values of each option of an estimate."""
    hardware: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Values of the columns in `HARDWARE`."""

    @classmethod
    def read(cls, path: Path, options: Sequence[str]) -> "Sweep":
        """The sweep in a file; its estimates may have `options`. Raises StorageError naming the file and the field."""
        path = Path(path)
        content = read_toml(path)
        try:
            return cls._of(path, content, options)
        except ValueError as error:
            raise StorageError(f"{path}: {error}") from None

    @classmethod
    def _of(cls, path: Path, content: Mapping[str, Any], options: Sequence[str]) -> "Sweep":
        _check_keys("", content, ("runs", "use", "objectives", "estimates", "hardware"))
        tables: dict[str, dict[str, tuple[str, ...]]] = {}
        for name, known in (("estimates", options), ("hardware", tuple(HARDWARE))):
            check(name, content.get(name, {}), dict)
            _check_keys(name, content.get(name, {}), known)
            tables[name] = {key: _texts(f"{name}.{key}", value) for key, value in content.get(name, {}).items()}
        lists = {name: _texts(name, content[name]) for name in ("runs", "use", "objectives") if name in content}
        for name, allowed in (("use", dict.fromkeys(USES)), ("objectives", OBJECTIVES)):
            for value in lists.get(name, ()):
                choose(name.removesuffix("s"), value, allowed)
        if "runs" not in lists and not tables["estimates"]:
            raise ValueError("nothing to sweep over: give runs, or a table of estimates")
        sweep = cls(
            path,
            lists.get("runs", ()),
            lists.get("use", cls.uses),
            lists.get("objectives", cls.objectives),
            tables["estimates"],
            tables["hardware"],
        )
        sweep.machines()  # raises: a value is none
        return sweep

    @property
    def folder(self) -> Path:
        """The folder of the file, to which paths in it are relative."""
        return self.path.parent

    def machines(self) -> "list[Hardware]":
        """Every combination of the values of `hardware`; a machine takes the place of `OF_A_MACHINE`.

        ValueError, naming the field, if a value is none.
        """
        given = dict(self.hardware)
        machines = given.pop("machine", ())
        axes = {name: given.get(name, (value,)) for name, value in HARDWARE.items()}
        processes = combinations(axes) if not machines or set(given) & set(OF_A_MACHINE) else []
        others = combinations(axes | dict.fromkeys(OF_A_MACHINE, ("",)) | {"machine": machines})
        read = {(name, text): self._read(name, text) for row in (*processes, *others) for name, text in row.items()}
        return [self._hardware(row, {name: read[name, text] for name, text in row.items()})
                for row in (*processes, *others)]  # fmt: skip

    def _read(self, name: str, text: str) -> Any:
        """The value of a column in `HARDWARE`."""
        if not text and name in (*OF_A_MACHINE, "machine") and name != "placement":
            return None
        try:
            return _PARSERS[name](text, self.folder)
        except ValueError as error:
            raise ValueError(f"hardware.{name}: {str(error).removeprefix('placement: ')}") from None

    def _hardware(self, settings: Row, read: dict[str, Any]) -> "Hardware":
        technology, machine = read.pop("technology"), read.pop("machine")
        config = replace(read.pop("placement"), **{name: value for name, value in read.items() if value is not None})
        if machine:
            return Hardware(settings, machine, config, repr(machine))
        try:
            wires = {link: wire_constants(wire.kind, technology, link) for link, wire in config.links.items()}
            wires["rest"] = wire_constants(config.rest.kind, technology, "rest")
        except ValueError as error:
            raise ValueError(f"hardware.placement: {error}") from None
        return Hardware(settings, technology, config, repr([technology, wires]))


@dataclass(frozen=True)
class Hardware:
    """A technology and a configuration, or a machine."""

    settings: Row
    """Values of the columns in `HARDWARE`."""
    device: Technology | Machine
    config: HardwareConfig
    """Of a machine: only what is not in `OF_A_MACHINE`."""
    origin: str
    """Text that changes with the constants."""

    def placed(self, ledger: Ledger) -> HardwareConfig:
        """The configuration for a ledger; ValueError if its network does not fit on the machine."""
        if isinstance(self.device, Technology):
            return self.config
        own = {name: getattr(self.config, name) for name in HARDWARE if name not in (*OF_A_MACHINE, "machine")}
        return replace(self.device.place(ledger), **own)

    def costs(self, ledger: Ledger, config: HardwareConfig) -> Row:
        """Columns of joules and seconds. ValueError if the ledger has no price here."""
        if isinstance(self.device, Technology):
            bill, seconds = price(ledger, config, self.device).per("sample"), None
        else:
            time = time_on(ledger, self.device, config)
            bill, seconds = with_static(price_on(ledger, self.device, config).per("sample"), time), time.sequence
        joules = {f"joules_{end}": repr(getattr(bill.total, end)) for end in ("low", "typical", "high")}
        return joules | {"seconds": repr(seconds.typical) if seconds else ""}


@dataclass(frozen=True)
class Source:
    """Where ledgers come from: a run, or an estimate."""

    settings: Row
    """Values of the columns in `SOURCE`, but for `use`."""
    origin: str
    """Text that changes with the ledgers."""
    ledgers: Callable[[], Mapping[str, Ledger]]
    """Makes the ledgers, by use."""
    score: float | None = None


def combinations(axes: Mapping[str, Sequence[str]]) -> list[Row]:
    """Every combination of one value of each axis; the last axis changes first.

    >>> combinations({"a": ["1", "2"], "b": ["x"]})
    [{'a': '1', 'b': 'x'}, {'a': '2', 'b': 'x'}]
    """
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def compute(sweep: Sweep, sources: Iterable[Source], table: Path) -> Iterator[tuple[int, int]]:
    """Compute the points of `sweep` that the file `table` lacks, and write them there after each source.

    Yields, for each source, how many points were computed and how many were there. In the end the file has the points
    of the sweep, in order, and those on the front are marked.
    """
    before = {_key(row): row for row in read_rows(table)} if table.exists() else {}
    rows: dict[tuple[str, ...], Row] = {}
    machines = sweep.machines()
    version = f"{__version__}\n"
    for source in sources:
        wanted = {}
        for use, machine in product(sweep.uses, machines):
            digest = sha256(f"{version}{source.origin}\n{machine.origin}".encode()).hexdigest()[:12]
            row = dict.fromkeys(COLUMNS, "") | source.settings | {"use": use} | machine.settings | {"digest": digest}
            wanted[_key(row)] = row, machine
        missing = [key for key in wanted if key not in before]
        ledgers = source.ledgers() if missing else {}
        for key, (row, machine) in wanted.items():
            rows[key] = before.get(key) or row | _results(source.score, ledgers[row["use"]], machine)
        if missing:
            write_csv(table, list((before | rows).values()))  # what a stopped sweep had stays until the end
        yield len(missing), len(wanted) - len(missing)
    write_csv(table, marked(list(rows.values()), sweep.objectives))


@dataclass(frozen=True)
class Group:
    """Points that are compared with each other."""

    use: str
    measure: str
    """What their scores measure; empty if scores do not count."""
    rows: list[Row]
    objectives: tuple[str, ...]
    """What is minimized among them."""

    @property
    def values(self) -> np.ndarray:
        """Values [points, objectives] that are to be small, NaN where there is none."""
        found = [[float(row[OBJECTIVES[name]] or "nan") for name in self.objectives] for row in self.rows]
        return np.array(found).reshape(len(self.rows), len(self.objectives))


def groups(rows: Sequence[Row], objectives: Sequence[str]) -> list[Group]:
    """The points of each use and, if scores count, of each measure of scores.

    An objective that no point of a group has, as the error of estimates, does not count there; nor, if no `objectives`
    are given, one that some point with a price lacks.
    """
    scores = not objectives or "error" in objectives
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["use"], row["measure"] if scores else ""), []).append(row)
    result = []
    for (use, measure), group in found.items():
        priced = [row for row in group if row["joules_typical"]]
        enough, wanted = (any, objectives) if objectives else (all, OBJECTIVES)
        names = [name for name in wanted if priced and enough(bool(row[OBJECTIVES[name]]) for row in priced)]
        result.append(Group(use, measure, group, tuple(names)))
    return result


def marked(rows: Sequence[Row], objectives: Sequence[str]) -> list[Row]:
    """`rows` with `front` set: the points that no other of their group beats."""
    found = [row | {"front": ""} for row in rows]
    for group in groups(found, objectives):
        for row, best in zip(group.rows, pareto(group.values), strict=True):
            row["front"] = "1" if best else ""
    return found


def pareto(values: np.ndarray) -> np.ndarray:
    """Which of `values` [points, objectives] no other point beats: as small in all objectives, smaller in one.

    Equal points do not beat each other. A point with NaN is not on the front, and beats none; without objectives, no
    point is.

    >>> pareto(np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 2.0], [2.0, 3.0], [3.0, 1.0]])).tolist()
    [True, True, True, False, True]
    """
    front = np.zeros(len(values), dtype=bool)
    if not values.size:
        return front
    left = np.flatnonzero(~np.isnan(values).any(axis=1))
    left = left[np.lexsort(values[left].T)]
    while len(left):
        # nothing that is left can beat the first: it is the smallest in the last objective, then in the one before, ...
        first = values[left[0]]
        equal, beaten = (values[left] == first).all(axis=1), (values[left] >= first).all(axis=1)
        front[left[equal]] = True
        left = left[~beaten]
    return front


# The table


def read_rows(path: Path) -> list[Row]:
    """The rows of a table that `compute` wrote. Raises StorageError naming the file, line and column if it is none."""
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StorageError(f"{path}: not a CSV file ({error})") from None
    if not lines or tuple(lines[0]) != COLUMNS:
        columns = ", ".join(COLUMNS)
        raise StorageError(f"{path}: not the table of a sweep by this version: its columns must be {columns}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(COLUMNS):
            raise StorageError(f"{path}: line {number} has {len(line)} columns, not {len(COLUMNS)}")
        row = dict(zip(COLUMNS, line, strict=True))
        for name in RESULTS:
            if row[name] and not _is_number(row[name]):
                raise StorageError(f"{path}: line {number}: {name} must be a number or empty, not {row[name]!r}")
        rows.append(row)
    return rows


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False


def _key(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in SETTINGS)


def _results(score: float | None, ledger: Ledger, hardware: Hardware) -> Row:
    """Columns of numbers of one point; without a price, and with a note, where a constant or a link is missing."""
    found = {"score": "" if score is None else repr(score)}
    if not ledger.samples:
        return found | {"note": "no samples were counted"}
    try:
        config = hardware.placed(ledger)
        found["bits"] = repr(_bits(ledger, config))
        return found | hardware.costs(ledger, config)
    except ValueError as reason:
        return found | {"note": str(reason)}


def _bits(ledger: Ledger, config: HardwareConfig) -> float:
    """Bits a sample on all links, padded or coded as `config` says."""
    bits = 0.0
    for message_type, traffic in ledger.traffic.items():
        coded = coded_traffic(ledger, message_type, config.coding_of(message_type.link, message_type.direction))
        bits += coded.bits if coded else traffic.messages * padded(message_type.message_bits, config.word_bits)
    return bits / ledger.per("sample")


# Values of the axes


def _technology(text: str, folder: Path) -> Technology:
    return Technology.load(str(folder / text) if text.endswith((".toml", ".yaml", ".yml")) else text)


def _placement(text: str, folder: Path) -> HardwareConfig:
    return HardwareConfig.parse(text) if text else HardwareConfig()


def _choices(name: str, kind: type) -> "Callable[[str, Path], Any]":
    """Parser of an option of `HardwareConfig` that is one value, or a table by layer."""

    def parser(text: str, folder: Path) -> Any:
        given: Any = parsed_choices(text, name, kind)
        replace(HardwareConfig(), **{name: given})  # raises: not a number of 1 or more
        return given

    return parser


def _table(name: str, example: str, known: Sequence[str]) -> Callable[[str, Path], Any]:
    """Parser of an option of `HardwareConfig` that is a table by link."""

    def parser(text: str, folder: Path) -> Any:
        given = parsed_table(text, name, str, example)
        for value in given.values():
            choose(name.replace("_", " "), value, dict.fromkeys(known))
        return given

    return parser


_PARSERS: Mapping[str, Callable[[str, Path], Any]] = {
    "technology": _technology,
    "placement": _placement,
    "memory": _choices("memory", str),
    "reuse": _choices("reuse", float),
    "word_bits": _choices("word_bits", int),
    "accumulator_bits": _choices("accumulator_bits", int),
    "feedback_weights": _table("feedback_weights", "h1-h2=upper", ("lower", "upper")),
    "machine": lambda text, folder: Machine.load(str(folder / text) if text.endswith(".toml") else text),
    "coding": _table("coding", "h1-h2.feedback=silence", (*CODINGS, "best")),
}


def _check_keys(where: str, content: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in content:
        if key not in known:
            raise ValueError(f"{where}{': ' * bool(where)}no key {key!r}; there are: {', '.join(sorted(known))}")


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """One value or several, as texts."""
    found = value if isinstance(value, list) else [value]
    for each in found:
        if isinstance(each, bool) or not isinstance(each, str | int | float):
            raise ValueError(f"{name} must be a text, a number, or a list of them, not {each!r}")
    texts = tuple(map(str, found))
    if not texts:
        raise ValueError(f"{name} must have at least one value, not []")
    for text in texts:
        if texts.count(text) > 1:
            raise ValueError(f"{name} has {text!r} twice")
    return texts
