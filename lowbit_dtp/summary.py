"""The summary of a comparison: a row for each rule, the traffic on each link, and what is needed to repeat it.

`summary.json`, the report and `compare` share this schema. Files of version 0.1.0 are read with today's names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeVar

from .codings import CODINGS, MAX_BITS
from .ledger import Direction, Ledger
from .storage import StorageError, read_json, write_json

T = TypeVar("T")
_DIRECTIONS = {Direction.FORWARD: "up", Direction.FEEDBACK: "down"}
"""Directions, with the names that they have in files of version 0.1.0."""


def _made(kind: type[T], content: Mapping[str, Any]) -> T:
    """An instance of the dataclass `kind` from `content`. KeyError if a field is missing; other keys are ignored."""
    known = fields(kind)  # type: ignore[arg-type]
    needed = [x.name for x in known if x.default is MISSING and x.default_factory is MISSING]
    for name in needed:
        if name not in content:
            raise KeyError(name)
    return kind(**{x.name: content[x.name] for x in known if x.name in content})


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; the latter is 0 for a single seed."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of `values`."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else 0.0)


@dataclass(frozen=True)
class Range:
    """Joules with the low, typical and high constants of a technology."""

    low: float
    typical: float
    high: float


@dataclass(frozen=True)
class CodedCount:
    """What crosses in a training sample with a coding."""

    bits: float
    toggles: float


@dataclass(frozen=True)
class MessageCount:
    """Messages of one size that cross a link in one direction in a training sample."""

    link: str
    direction: str
    bits: int
    """Of a message, scales included."""
    width: int
    """Codes of a message."""
    messages: float
    ones: float
    toggles: float
    """Half of the bits where a run sent one message, which has nothing to toggle against."""
    events: bool
    """Whether a bit that is 1 is an address event."""
    coded: dict[str, CodedCount]
    """By coding, of those that were counted; half of the bits of a stream toggle."""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "MessageCount":
        """The inverse of `asdict`."""
        coded = {name: _made(CodedCount, counts) for name, counts in content["coded"].items()}
        return _made(cls, {**content, "coded": coded})


@dataclass(frozen=True)
class AccessCount:
    """Bits that a training sample reads and writes in arrays of one size."""

    capacity_bits: int
    shared: bool
    """Whether the samples of a minibatch can share an access."""
    buffer: bool
    """Whether the arrays hold activations, of as many samples as share an access."""
    bits: float


@dataclass(frozen=True)
class SampleCounts:
    """What a training sample sends and accesses, and the joules of what it computes: all that its price depends on."""

    most_reuse: int
    """The most samples that can share an access."""
    messages: list[MessageCount]
    accesses: list[AccessCount]
    compute: dict[str, Range]
    """Joules of its operations, by technology: they depend on neither wires nor reuse."""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "SampleCounts":
        """The inverse of `asdict`."""
        made = {
            "messages": [MessageCount.from_dict(x) for x in content["messages"]],
            "accesses": [_made(AccessCount, x) for x in content["accesses"]],
            "compute": _ranges(content["compute"]),
        }
        return _made(cls, {**content, **made})


@dataclass(frozen=True)
class WireCost:
    """The cost of a message on a kind of wire: the sum of its terms."""

    terms: list[tuple[str, Range]]
    """What a term is per, "bit and metre" say, and the joules of one such event."""
    flit_bits: int | None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "WireCost":
        """The inverse of `asdict`."""
        return cls([(per, _made(Range, joules)) for per, joules in content["terms"]], content["flit_bits"])


@dataclass(frozen=True)
class TechnologyCost:
    """What of a technology the price of messages and accesses depends on."""

    memory: list[tuple[int, Range]]
    """Bits that a memory holds, and joules of an access to 64 of them, from the smallest on."""
    wires: dict[str, WireCost]
    """By kind."""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "TechnologyCost":
        """The inverse of `asdict`."""
        memory = [(bits, _made(Range, joules)) for bits, joules in content["memory"]]
        return cls(memory, {kind: WireCost.from_dict(wire) for kind, wire in content["wires"].items()})


@dataclass(frozen=True)
class PlacedWire:
    """The wire of a link."""

    kind: str
    metres: float | None
    hops: float | None
    times: float = 1.0
    """How often each message crosses it."""


@dataclass(frozen=True)
class Baseline:
    """Straight-through, whose gradients may have any number of bits on some links."""

    links: list[str]
    """Links that carry few bits, where gradients are as wide as the reader says."""
    counts: SampleCounts
    estimated: bool
    """Whether it was estimated, since it is not among the rules: then half of all bits toggle."""


@dataclass(frozen=True)
class PriceList:
    """Everything that a page needs to price the rows' `counts` on other hardware."""

    technologies: dict[str, TechnologyCost]
    links: dict[str, PlacedWire]
    """Of the comparison, in their order."""
    baseline: Baseline | None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "PriceList":
        """The inverse of `asdict`."""
        baseline = content["baseline"]
        return cls(
            {name: TechnologyCost.from_dict(technology) for name, technology in content["technologies"].items()},
            {link: _made(PlacedWire, wire) for link, wire in content["links"].items()},
            baseline and _made(Baseline, {**baseline, "counts": SampleCounts.from_dict(baseline["counts"])}),
        )


@dataclass(frozen=True)
class LinkDirection:
    """Traffic on a link in one direction: mean counts of a training sample and of an inference."""

    format: str | None
    """Format in training, or in inference if training sends nothing; several are joined by commas, None if none."""
    bits_per_sample: float
    bytes_padded_per_sample: float
    """Each message padded to whole bytes."""
    ones_per_sample: float
    toggles_per_sample: float
    bits_per_inference: float
    coding: str | None = None
    """The coding with the fewest bits in training, of those that were counted; None if none was."""
    coded_bits_per_sample: float | None = None
    """Bits of a training sample with that coding."""
    bits_by_coding: dict[str, float] = field(default_factory=dict)
    """Bits of a training sample with each coding, and each bound, that was counted for all messages."""

    @classmethod
    def of(cls, link: str, direction: Direction, training: Ledger, inference: Ledger) -> "LinkDirection":
        """The counts in two ledgers; zeros for a ledger without samples."""
        crossed = [m for ledger in (training, inference) for m, _ in ledger.message_types(link, direction)]
        in_training = [m for m, _ in training.message_types(link, direction)]
        count = (link, direction, None, "sample")
        trained = training.samples > 0
        coded = coded_bits(training, link, direction) if trained and in_training else {}
        best = training.best_coding(link, direction) if coded else None
        return cls(
            format=", ".join(dict.fromkeys(m.format for m in in_training or crossed)) or None,
            bits_per_sample=training.bits(*count) if trained else 0.0,
            bytes_padded_per_sample=training.bits(*count, word_bits=8) / 8 if trained else 0.0,
            ones_per_sample=training.ones(*count) if trained else 0.0,
            toggles_per_sample=training.toggles(*count) if trained else 0.0,
            bits_per_inference=inference.bits(*count) if inference.samples else 0.0,
            coding=best,
            coded_bits_per_sample=training.coded_bits(best, *count) if best else None,
            bits_by_coding=coded,
        )


def coded_bits(ledger: Ledger, link: str, direction: Direction) -> dict[str, float]:
    """Bits a sample with each coding and bound that `ledger` counts; without entropies if a format has none."""
    widest = max(message_type.bits for message_type, _ in ledger.message_types(link, direction))
    names = [name for name in ledger.codings if name in CODINGS or widest <= MAX_BITS]
    return {name: ledger.coded_bits(name, link, direction, per="sample") for name in names}


@dataclass(frozen=True)
class LinkRow:
    """Traffic on a link in each direction."""

    width: int
    """Codes in its first type of message."""
    forward: LinkDirection
    feedback: LinkDirection

    @classmethod
    def of(cls, link: str, training: Ledger, inference: Ledger) -> "LinkRow":
        """The counts of `link` in two ledgers."""
        widths = [m.width for ledger in (training, inference) for m, _ in ledger.message_types(link)]
        directions = [LinkDirection.of(link, direction, training, inference) for direction in _DIRECTIONS]
        return cls(widths[0], *directions)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "LinkRow":
        """The inverse of `asdict`, also for the flat row of version 0.1.0."""
        directions = [content.get(direction) or _flat_direction(content, direction) for direction in _DIRECTIONS]
        return cls(content["width"], *(_made(LinkDirection, direction) for direction in directions))


def link_rows(training: Ledger, inference: Ledger) -> dict[str, LinkRow]:
    """A row for each link in either ledger, including links that a rule adds."""
    links = dict.fromkeys([*training.links(), *inference.links()])
    return {link: LinkRow.of(link, training, inference) for link in links}


def _flat_direction(content: Mapping[str, Any], direction: Direction) -> dict[str, Any]:
    names = ("bits_per_sample", "bytes_padded_per_sample", "ones_per_sample", "toggles_per_sample",
             "bits_per_inference")  # fmt: skip
    counts = {name: content[f"{_DIRECTIONS[direction]}_{name}"] for name in names}
    return {"format": content[f"{direction}_format"], **counts}


@dataclass(frozen=True)
class Row:
    """Results of one rule, over all its seeds."""

    rule: str
    folder: str
    """Folder of its runs, in the folder of the comparison."""
    seeds: int
    """How many runs."""
    runs: dict[int, str]
    """Folder of each run, in the folder of the comparison, by seed."""
    test_score: Spread
    """In a file, `test_` and the name of the measure: `test_error_percent`, say."""
    valid_score: Spread
    links: dict[str, LinkRow]
    seconds_per_epoch: float | None
    """Median; None if nothing was trained."""
    device: str
    joules_per_sample: dict[str, Range] = field(default_factory=dict)
    """Of a training sample, by technology."""
    joules_per_inference: dict[str, Range] = field(default_factory=dict)
    energy_parts: dict[str, dict[str, dict[str, Range]]] = field(default_factory=dict)
    """By technology, use (`training` or `inference`) and part (`link`, `compute` or `memory`)."""
    energy_tree: dict[str, dict[str, dict[str, dict[str, float]]]] = field(default_factory=dict)
    """Typical joules of a training sample, by technology, part, link or layer, and purpose (in memory, the array)."""
    counts: SampleCounts | None = None
    """What its joules are the price of; None in files of older versions, and if nothing was trained."""
    links_share: dict[str, float | None] = field(default_factory=dict)
    """Share of links in the joules of a training sample, by technology; None if there are none."""
    break_even_gradient_bits: dict[str, float] = field(default_factory=dict)
    """Gradient width at which straight-through sends as many bits, by link that carries targets."""
    against: str = ""
    """Rule of the row whose joules `ratios` divide by; empty if there are none."""
    ratios: dict[str, Range] = field(default_factory=dict)
    """90 % bands of the joules of a training sample, divided by those of the other row; typical is the median."""
    not_as_exported: str = ""
    """Why inference is priced as simulated and not as the exported network would run; empty if it is exported."""
    measure: str = "error_percent"
    """Measure of the scores, one of `tasks.MEASURES`."""
    network: dict[str, Any] | None = None
    """`Network.describe` of its network; None in older files: that of the summary then."""
    best_test_score: Spread | None = None
    """Of the networks with the best validation score; None in older files, and if nothing was trained."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return {name.replace("score", self.measure): value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Row":
        """The inverse of `as_dict`."""
        measure = content.get("measure", "error_percent")
        runs = content.get("runs") or {i: f"{content['folder']}/seed-{i}" for i in range(content["seeds"])}
        changed = {
            "runs": {int(seed): folder for seed, folder in runs.items()},
            "test_score": _made(Spread, content[f"test_{measure}"]),
            "valid_score": _made(Spread, content[f"valid_{measure}"]),
            "best_test_score": _made(Spread, best) if (best := content.get(f"best_test_{measure}")) else None,
            "links": {link: LinkRow.from_dict(row) for link, row in content["links"].items()},
            "joules_per_sample": _ranges(content["joules_per_sample"]),
            "joules_per_inference": _ranges(content["joules_per_inference"]),
            "energy_parts": {
                technology: {use: _ranges(parts) for use, parts in uses.items()}
                for technology, uses in content["energy_parts"].items()
            },
            "links_share": content["links_share"] or {},
            "ratios": _ranges(content.get("ratios", {})),
            "counts": SampleCounts.from_dict(content["counts"]) if content.get("counts") else None,
        }
        return _made(cls, {**content, **changed})


def _ranges(content: Mapping[str, Mapping[str, float]]) -> dict[str, Range]:
    return {name: _made(Range, joules) for name, joules in content.items()}


@dataclass(frozen=True)
class DataRow:
    """The data set."""

    name: str
    source: str
    image_shape: list[int] | None
    """Of a sample that is a picture."""
    input_format: str

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "DataRow":
        """The inverse of `asdict`."""
        content = dict(content)
        if "pixel_format" in content:  # in files of version 0.1.0
            content["input_format"] = content.pop("pixel_format")
        return _made(cls, content)


@dataclass(frozen=True)
class ExportRow:
    """The export of one trained network."""

    rule: str
    target: str
    weights: str
    """Formats of the weights."""
    signals: dict[str, str]
    """Format of each link that was trained with real numbers."""
    folder: str
    files: int
    verify: str
    """`passed`, or the reason why not."""
    accumulator_bits: dict[str, int] = field(default_factory=dict)
    """By layer."""
    test_error_percent_float: float | None = None
    test_error_percent_integer: float | None = None
    agreement_percent: float | None = None
    """Percentage of test samples that both networks put in the same class."""


@dataclass(frozen=True)
class Summary:
    """A comparison, or a single run as its only row."""

    rows: tuple[Row, ...]
    network: dict[str, Any]
    """`Network.describe` of the network that the experiment builds for its first rule."""
    data: DataRow
    experiment: dict[str, Any]
    """Settings, as `experiment.Comparison` has them."""
    placement: str
    exported: ExportRow | None
    command: str
    versions: dict[str, str]
    commit: str | None
    machine: str
    not_exported: str = ""
    """Why nothing was exported."""
    prices: PriceList | None = None
    """To price the rows on other hardware; None in files of older versions."""

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return {**asdict(self), "rows": [row.as_dict() for row in self.rows]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Summary":
        """The inverse of `as_dict`. LookupError, TypeError, AttributeError or ValueError if it is not that."""
        if not content["rows"]:
            raise LookupError("it has no rows")
        exported = content["exported"]
        changed = {
            "rows": tuple(Row.from_dict(row) for row in content["rows"]),
            "data": DataRow.from_dict(content["data"]),
            "exported": _made(ExportRow, exported) if exported else None,
            "prices": PriceList.from_dict(content["prices"]) if content.get("prices") else None,
        }
        return _made(cls, {**content, **changed})

    def save(self, folder: Path) -> None:
        """Write `summary.json` into `folder`."""
        write_json(Path(folder) / "summary.json", self.as_dict())

    @classmethod
    def load(cls, folder: Path) -> "Summary":
        """The summary in `folder`. Raises StorageError naming the file if there is none, or it cannot be read."""
        path = Path(folder) / "summary.json"
        content = read_json(path)
        try:
            return cls.from_dict(content)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            message = f"{path}: not the summary of a comparison ({type(error).__name__}: {error})"
            raise StorageError(message) from None
