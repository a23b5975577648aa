"""Pictures and tables of the documentation, drawn from the folder `results` alone: the same results, the same files.

`results/findings.toml` says which there are. A picture `[pictures.NAME]` becomes `docs/pictures/NAME.svg`; a table
`[tables.NAME]` is written into each page between the lines `<!-- table NAME -->` and `<!-- end -->`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import settings as checking
from .choices import choose
from .comparison import BASELINE
from .curves import STYLE, Curve, Tradeoff, curve_figure, tradeoff_figure
from .figures import svg_text
from .ledger import Direction
from .report import PARTS_OF_DATA, count, spread
from .results import Result, load_all
from .storage import StorageError, read_toml, write_text
from .summary import LinkDirection
from .tasks import MEASURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS, PICTURES = "results", "docs/pictures"
FILE = f"{RESULTS}/findings.toml"
PAGES = ("README.md", "docs/findings.md")
"""Pages with tables."""
WAYS = {"forward": ("forward",), "feedback": ("feedback",), "both": ("forward", "feedback")}
"""Directions whose bits may be added."""
WIDTH = 7.2
"""Inches of a picture."""
_TABLE = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Table:
    """Results side by side: what they send, and their errors."""

    runs: list[str]
    """Folders in `results`, with `*` for any name."""
    labels: dict[str, str] = field(default_factory=dict)
    """Names by folder; without one, a result is called by its rule and gradient format, or by its folder."""
    links: list[str] = field(default_factory=list)
    """Links whose bits are counted; [] stands for those that carry few bits, or all if none does, but for that of the
    inputs."""
    break_even: str = ""
    """Folder of the result that is compared with straight-through in bits; "" for none."""


@dataclass(frozen=True)
class Picture(Table):
    """Errors of results, drawn."""

    kind: str = "epochs"
    """`epochs`: error over epochs; `bits` and `depth`: error after the last epoch, over the bits of a sample or the
    number of hidden layers."""
    title: str = ""
    part: str = "test"
    """Part of the data whose error is drawn, `test`, `valid` or `train`."""
    direction: str = "feedback"
    """Of the bits: `feedback`, `forward` or `both`."""
    groups: dict[str, str] = field(default_factory=dict)
    """Names of groups of one colour, by rule, for `depth` by rule and gradient format; others have their own."""


def pages(root: Path) -> dict[Path, str]:
    """Every picture and every page with tables in the folder `root`, as they should be, by path.

    StorageError names the file that is wrong: `results/findings.toml`, a result or a page.
    """
    root = Path(root)
    pictures, tables = _read(root / FILE)
    files = {root / PICTURES / f"{name}.svg": _drawn(Shown.of(root, "pictures", name, x), x) for name, x in pictures}
    written = {name: Shown.of(root, "tables", name, x).table() for name, x in tables}
    for path in (root / page for page in PAGES):
        if path.exists():
            files[path] = _with_tables(path, written)
    return files


def changed(root: Path) -> dict[Path, str]:
    """Those of the `pages` of `root` whose files are not as they should be."""
    return {path: text for path, text in pages(root).items() if not path.exists() or path.read_text() != text}


def write(root: Path) -> list[Path]:
    """Write those of the `pages` of `root` whose files are not as they should be; return their paths."""
    wrong = changed(root)
    for path, text in wrong.items():
        write_text(path, text)
    return list(wrong)


def _read(path: Path) -> tuple[list[tuple[str, Picture]], list[tuple[str, Table]]]:
    """Pictures and tables in a file, by name. StorageError names the file and the key that is wrong."""
    content = read_toml(path)
    try:
        for key in content:
            choose("key", key, dict.fromkeys(("pictures", "tables")))
        checking.check("", content, {"pictures?": {str: {}}, "tables?": {str: {}}})
        pictures = [(name, _made(f"pictures.{name}", Picture, x)) for name, x in content.get("pictures", {}).items()]
        for name, picture in pictures:
            for key, known in (("kind", _KINDS), ("part", PARTS_OF_DATA), ("direction", WAYS)):
                given = getattr(picture, key)
                if given not in known:
                    raise ValueError(f"pictures.{name}.{key} must be one of {', '.join(known)}, not {given!r}")
        return pictures, [(name, _made(f"tables.{name}", Table, x)) for name, x in content.get("tables", {}).items()]
    except ValueError as error:
        raise StorageError(f"{path}: {error}") from None


def _made(where: str, kind: type, content: Mapping[str, Any]) -> Any:
    """An object of the dataclass `kind`. ValueError names the key that is wrong."""
    hints = checking.hints(kind)
    for name, value in content.items():
        choose(f"key of {where}", name, hints)
        checking.check(f"{where}.{name}", value, hints[name])
    if not content.get("runs"):
        raise ValueError(f"{where}.runs must name folders of results, at least one")
    return kind(**content)


def _with_tables(path: Path, written: Mapping[str, str]) -> str:
    """The text of the page at `path`, with its tables written."""
    text = path.read_text()
    begun, found = text.count("<!-- table "), list(_TABLE.finditer(text))
    if begun != len(found):
        raise StorageError(
            f"{path}: of {begun} lines <!-- table NAME -->, {len(found)} have an <!-- end --> after them"
        )
    for match in found:
        if match[2] not in written:
            raise StorageError(f"{path}: no table {match[2]!r} in {FILE}; there are: {', '.join(written)}")
    return _TABLE.sub(lambda match: f"{match[1]}\n{written[match[2]]}\n\n{match[3]}", text)


@dataclass(frozen=True)
class Shown:
    """Results, and what is said of them."""

    where: str
    """Names the picture or table in errors."""
    asked: Table
    results: list[Result]

    @classmethod
    def of(cls, root: Path, kind: str, name: str, asked: Table) -> "Shown":
        """The results that a picture or table shows."""
        where = f"{root / FILE}: {kind}.{name}"
        try:
            return cls(where, asked, load_all(root / RESULTS, asked.runs))
        except StorageError as error:
            raise StorageError(f"{where}.runs: {error}") from None

    @cached_property
    def labels(self) -> dict[str, str]:
        """Names of the results, by folder."""
        short = isinstance(self.asked, Picture) and self.asked.kind == "bits"  # where colours tell the rules apart
        names = {}
        for result in self.results:
            rule, _, gradient = result.rule.partition("@")
            own = self.asked.labels.get(result.folder) or (gradient or rule if short else result.rule)
            names[result.folder] = (rule if short else "", own)
        often = Counter(names.values())
        return {folder: name[1] if often[name] == 1 else Path(folder).name for folder, name in names.items()}

    @cached_property
    def links(self) -> list[str]:
        """Links whose bits are counted."""
        rows = [(link, row) for result in self.results for link, row in list(result.links.items())[1:]]
        few = [
            link
            for link, row in rows
            if any(way.format and not way.format.startswith("float") for way in (row.forward, row.feedback))
        ]
        return self.asked.links or list(dict.fromkeys(few or [link for link, _ in rows]))

    def sent(self, result: Result, direction: str) -> list[LinkDirection]:
        """What crosses the links."""
        crossed = [row for link, row in result.links.items() if link in self.links]
        return [x for row in crossed for way in WAYS[direction] if (x := getattr(row, way)).bits_per_sample]

    def bits(self, result: Result, direction: str) -> float:
        """Bits of a sample."""
        return sum(way.bits_per_sample for way in self.sent(result, direction))

    def coded_bits(self, result: Result, direction: str) -> float | None:
        """Bits of a sample with the best coding of each link and direction; None if no coding was counted."""
        coded = [way.coded_bits_per_sample for way in self.sent(result, direction)]
        return sum(x for x in coded if x is not None) if result.training.codings and None not in coded else None

    @cached_property
    def break_even(self) -> "BreakEven | None":
        """The comparison with straight-through that is asked for."""
        if not self.asked.break_even:
            return None
        ours = next((x for x in self.results if x.folder == self.asked.break_even), None)
        rivals = [x for x in self.results if x.experiment.rule == BASELINE]
        if ours is None or not rivals:
            missing = self.asked.break_even if ours is None else BASELINE
            raise StorageError(f"{self.where}.break_even: {missing} is not among its runs")
        codes = sum(rivals[0].training.codes(link, Direction.FEEDBACK, per="sample") for link in self.links)
        down, both = (self.bits(ours, direction) for direction in ("feedback", "both"))
        as_good = [x for x in rivals if x.last("valid").mean <= ours.last("valid").mean]
        coded = {x.folder: bits for x in as_good if (bits := self.coded_bits(x, "feedback")) is not None}
        return BreakEven(
            self.labels[ours.folder],
            down,
            down / codes,
            (both - self.bits(rivals[0], "forward")) / codes,
            self.coded_bits(ours, "feedback"),
            self._least({x.folder: self.bits(x, "feedback") for x in as_good}),
            self._least(coded),
        )

    def _least(self, bits: Mapping[str, float]) -> tuple[str, float] | None:
        """Name and bits of the result with the fewest; None of none."""
        folder = min(bits, key=bits.__getitem__, default=None)
        return (self.labels[folder], bits[folder]) if folder is not None else None

    def table(self) -> str:
        """The results as a table in Markdown, with what its columns are."""
        named = MEASURES[self.results[0].measure] + ", %" * self.results[0].measure.endswith("percent")
        coded = any(result.training.codings for result in self.results)
        trained = any(result.training_error for result in self.results)
        columns = ("", "bits up / down", "coded bits up / down", f"training {named}", f"validation {named}",
                   f"test {named}", "test, best epoch", "seeds", "epochs")  # fmt: skip
        lines = [columns, ("---",) + ("---:",) * (len(columns) - 1), *map(self._cells, self.results)]
        shown = (True, True, coded, trained, True, True, True, True, True)
        lines = [tuple(compress(line, shown)) for line in lines]
        said = f"Bits of one training sample on {_listed(self.links)}, up and down. "
        if coded:
            said += "Coded bits are those of the coding with the fewest, which is named. "
        if any(result.seeds > 1 for result in self.results):
            said += "Errors are mean ± standard deviation over seeds, after the last epoch. "
        said += "Best epoch: that with the lowest validation error."
        if self.break_even:
            said += f"\n\n{self.break_even.in_words()}"
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{said}"

    def _cells(self, result: Result) -> tuple[str, ...]:
        coded = [self._coded_cell(result, direction) for direction in ("forward", "feedback")]
        first, last = min(result.ends), max(result.ends)
        epochs = str(last) if first == last else f"{first} to {last}"
        return (
            self.labels[result.folder].replace("|", r"\|"),
            " / ".join(_count(self.bits(result, direction)) for direction in ("forward", "feedback")),
            " / ".join(coded) if any(coded) else "",
            *(
                spread(score, result.seeds, result.measure).removesuffix("\xa0%") if score else ""
                for score in (result.training_error, result.last("valid"), result.last("test"), result.chosen)
            ),
            "one" if result.seeds == 1 else str(result.seeds),
            epochs if result.finished else f"{epochs} of {result.experiment.epochs}",
        )

    def _coded_cell(self, result: Result, direction: str) -> str:
        bits = self.coded_bits(result, direction)
        names = ", ".join(dict.fromkeys(way.coding or "" for way in self.sent(result, direction)))
        return "" if bits is None else f"{_count(bits)} ({names})" if names else _count(bits)


@dataclass(frozen=True)
class BreakEven:
    """Feedback bits of a result beside those of straight-through."""

    label: str
    down: float
    """Bits down for a sample."""
    width: float
    """Bits of a gradient with which straight-through sends as many down."""
    width_of_both: float
    """The same, of the bits up and down together."""
    coded: float | None
    least: tuple[str, float] | None
    """The straight-through with the fewest bits down of those with at most its validation error."""
    least_coded: tuple[str, float] | None

    def in_words(self) -> str:
        """Sentences for a page."""
        said = (
            f"**Break-even.** {self.label} sends {_count(self.down)} bits down, as many as straight-through with a "
            f"gradient of {self.width:.3g} bits; up and down together, with one of {self.width_of_both:.3g} bits. "
            f"{self._rival('bits', self.least)}"
        )
        if self.coded is not None:
            said += f" Coded, it sends {_count(self.coded)} bits down. {self._rival('coded bits', self.least_coded)}"
        return said

    def _rival(self, bits: str, least: tuple[str, float] | None) -> str:
        if least is None:
            return f"No straight-through with counted {bits} has at most its validation error."
        label, fewest = least
        return (
            f"Straight-through with at most its validation error sends {_count(fewest)} {bits} down or more ({label})."
        )


def _count(value: float) -> str:
    """A count as a page has it, with commas.

    >>> _count(16000.0), _count(0.22)
    ('16,000', '0.2')
    """
    return count(value).replace("\u202f", ",")


def _listed(names: Sequence[str]) -> str:
    """Names in a row.

    >>> _listed(["h1-h2"]), _listed(["h1-h2", "h2-h3", "h3-output"])
    ('h1-h2', 'h1-h2, h2-h3 and h3-output')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _drawn(what: Shown, picture: Picture) -> str:
    """A picture as the text of an SVG file."""
    from matplotlib import style

    for result in what.results:
        if not result.scores(picture.part):
            raise StorageError(
                f"{what.where}.part: {result.folder} has no score on {picture.part} samples; "
                "train it with training_error = true, or draw test or valid"
            )
    with style.context(["default", STYLE]):
        return svg_text(_KINDS[picture.kind](what, picture))


def _over_epochs(what: Shown, picture: Picture) -> "Figure":
    curves = [Curve.of(what.labels[x.folder], i, x.scores(picture.part)) for i, x in enumerate(what.results)]
    unit = "%" if what.results[0].measure.endswith("percent") else ""
    return curve_figure(curves, unit, picture.title, WIDTH)


def _over_bits(what: Shown, picture: Picture) -> "Figure":
    ways = [
        Tradeoff(
            label=what.labels[result.folder],
            group=picture.groups.get(result.experiment.rule, result.experiment.rule),
            error=result.last(picture.part).mean,
            deviation=result.last(picture.part).std,
            valid_error=result.last("valid").mean,
            bits=what.bits(result, picture.direction),
            coded_bits=what.coded_bits(result, picture.direction),
        )
        for result in what.results
    ]
    measure, even = what.results[0].measure, what.break_even
    direction = picture.direction if picture.direction != "both" else "forward and feedback"
    marks = {f"{even.label}: a gradient of {even.width:.3g} bits sends as many": even.down} if even else {}
    return tradeoff_figure(
        ways,
        f"{direction} bits on {_listed(what.links)} for a training sample",
        f"{PARTS_OF_DATA[picture.part].lower()} {MEASURES[measure]}{', %' * measure.endswith('percent')}",
        picture.title,
        WIDTH,
        marks,
    )


def _over_depth(what: Shown, picture: Picture) -> "Figure":
    by_rule: dict[str, dict[int, list[float]]] = {}
    for result in what.results:
        depth, scores = len(result.experiment.sizes) - 2, by_rule.setdefault(result.rule, {})
        if depth in scores:
            raise StorageError(
                f"{what.where}.runs: {result.folder} is a second result of {result.rule} with {depth} hidden layers"
            )
        scores[depth] = result.last_scores(picture.part)
    curves = [Curve.of(picture.groups.get(rule, rule), i, scores) for i, (rule, scores) in enumerate(by_rule.items())]
    unit = "%" if what.results[0].measure.endswith("percent") else ""
    return curve_figure(curves, unit, picture.title, WIDTH, over="hidden layers")


_KINDS = {"epochs": _over_epochs, "bits": _over_bits, "depth": _over_depth}
