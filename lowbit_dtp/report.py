"""The report of a comparison or of a run: one HTML page, readable offline, on a phone and on paper.

Only files of the folder are read: `summary.json`, and of each run `metrics.jsonl`, `diagnosis.jsonl` and
`network.safetensors`. The summary has energy and export as numbers, so this module does not depend on technologies
or targets.
"""

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .curves import INK, STYLE, Curve, Tradeoff, curve_figure, front, tradeoff_figure
from .storage import StorageError, read_tensors, write_text
from .summary import LinkRow, Range, Row, Spread, Summary
from .tasks import MEASURES

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

PARTS_OF_DATA = {"test": "Test", "valid": "Validation", "train": "Training"}
"""Parts of the data in `metrics.jsonl`, and their names on the page."""
DIAGNOSED = {
    "angle_degrees": ("Angle between the update and backpropagation's", "°", 1.0),
    "target_lowers_loss": ("Samples whose target lowers the next layer's loss", "%", 100.0),
    "reconstruction_error": ("Reconstruction error of the learned inverse, |g(f(h)) - h| / |h|", "", 1.0),
    "largest_singular_value": ("Largest singular value of I - J_f J_g", "", 1.0),
    "spectral_radius": ("Largest modulus of an eigenvalue of I - J_f J_g", "", 1.0),
}
"""Measures of `diagnosis.jsonl` that are drawn: title, unit, and the factor to that unit."""
SPARSE = {
    "flips": "Codes of a target that differ from those of the state sent before it",
    "zeros": "Zeros among the codes of gradients",
}
"""What feedback leaves as it was, in `metrics.jsonl`: title of the figure."""
LINKS_OF = {"as_trained": "-", "float": "--"}
"""Kinds of links in a diagnosis, and the line style of their curves."""
PARTS = {"link": "#D55E00", "compute": "#7FB3D5", "memory": "#C9CED6"}
"""Parts of the energy in the order they are stacked, with their colours: dark text is readable on each."""
FILTERS = 40
"""Most first-layer filters that are drawn."""
THICKEST = 46.0
"""Thickest arrow in a drawing of the network, in its units."""
GAP, BOX = 74, 34
"""Height of a link and of a layer in that drawing."""

COLUMNS = ((0, 128), (132, 134), (270, 230))
"""Left edge and width of the parts, of the layers and links, and of the purposes in a picture of the energy."""
TALL, LABEL = 400.0, 15.0
"""Height of that picture, and the least height of a block with a label."""

DIRECTIONS = ("forward", "feedback")


def write_report(folder: Path, summary: Summary | None = None) -> Path:
    """Write `report.html` into `folder` and return its path. Raises `StorageError` as `render` does."""
    path = Path(folder) / "report.html"
    write_text(path, render(folder, summary))
    return path


def render(folder: Path, summary: Summary | None = None) -> str:
    """The page for `folder`, described by `summary` (default: its `summary.json`). The same files give the same text.

    Raises `StorageError` naming `summary.json` if that is missing or not a summary. A seed without readable metrics,
    or filters that cannot be drawn, are left out, and the page has a note.
    """
    from jinja2 import UndefinedError
    from matplotlib import style

    summary = summary or Summary.load(folder)
    try:
        with style.context(["default", STYLE]):
            page = _page(Path(folder), summary)
        return filled("report.html.jinja", page)
    except (LookupError, TypeError, AttributeError, ValueError, UndefinedError) as error:
        path = Path(folder) / "summary.json"
        raise StorageError(f"{path}: not the summary of a comparison ({type(error).__name__}: {error})") from error


def filled(template: str, page: Mapping[str, Any]) -> str:
    """The text of a page: a template of this package, filled with the values of `page`, all of which it needs."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "percent": percent, "share": share, "spread": spread, "si": si}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # in the order of the summary
    environment.globals["si_range"] = si_range
    return environment.get_template(template).render(page).lstrip()


def _page(folder: Path, summary: Summary) -> dict[str, Any]:
    """Everything the template shows."""
    rows = summary.rows
    networks = [row.network or summary.network for row in rows]
    links = all_links(summary)
    discrete = discrete_links(summary)
    technologies = list(rows[0].joules_per_sample)
    runs = [_read_metrics(folder, row) for row in rows]
    first = next(iter(rows[0].runs))
    filters, no_filters = filters_of(folder, rows[0].runs[first], summary.data.image_shape)
    # where a rule has another network, without these links, all links are compared
    compared = discrete if all(any(link in row.links for link in discrete) for row in rows) else []
    measure = rows[0].measure  # scores of other measures are not ranked
    ranked = {
        "test": [row.test_score.mean if row.measure == measure else math.nan for row in rows],
        "valid": [row.valid_score.mean if row.measure == measure else math.nan for row in rows],
        "bits": [sum(traffic(row, compared or links).values()) for row in rows],
        **{f"joules {name}": [row.joules_per_sample[name].typical for row in rows] for name in technologies},
    }
    return {
        **vars(summary),
        "measures": MEASURES,
        "compared": compared,
        "mixed": len({row.measure for row in rows}) > 1,
        "experiment": list(_flat(summary.experiment)),
        "links": links,
        "discrete": discrete,
        "technologies": technologies,
        "sizes": ", ".join(dict.fromkeys(map(_sizes, networks))),
        "epochs": max((line["epoch"] for seeds, _ in runs for lines in seeds for line in lines), default=0),
        "rankings": {name: ranking(values) for name, values in ranked.items()},
        "close": _within_deviation(rows, ranking(ranked["test"])),
        "shares": dict(_link_shares(rows, technologies)),
        "traffic": traffic,
        "coded": any(way.coding for row in rows for x in row.links.values() for way in (x.forward, x.feedback)),
        "drawings": _drawings(networks, rows),
        "curves": _curves(rows, [seeds for seeds, _ in runs]),
        "tradeoff": _tradeoff(rows, compared or links),
        "sparse": _sparse_curves(rows, [seeds for seeds, _ in runs]),
        "diagnoses": _diagnoses(folder, rows),
        "notes": [f"{row.rule}: {note}" for row, (_, notes) in zip(rows, runs, strict=True) for note in notes],
        "simulated": [row for row in rows if row.not_as_exported],
        "bars": _bars(rows, technologies),
        "breakdowns": _breakdowns(rows, technologies[0]) if technologies else [],
        "tall": TALL,
        "label": LABEL,
        "parts": PARTS,
        "panel": _panel(summary),
        "filters": filters,
        "filters_seed": first,
        "no_filters": no_filters,
    }


def _panel(summary: Summary) -> dict[str, Any] | None:
    """Counts, prices and script of the panel in which a reader chooses hardware; None if the summary lacks them."""
    from markupsafe import Markup

    prices = summary.prices
    counts = {row.rule: row.counts for row in summary.rows if row.counts}
    if prices is None or not counts or not prices.technologies:
        return None
    script = (Path(__file__).parent / "panel.js").read_text()
    links = {
        link: {
            "kind": wire.kind,
            "millimetres": 1.0 if wire.metres is None else 1000 * wire.metres,
            "hops": 1 if wire.hops is None else wire.hops,
            "times": wire.times,
        }
        for link, wire in prices.links.items()
    }
    kinds = [kind for technology in prices.technologies.values() for kind in technology.wires]
    counted = [name for each in counts.values() for message in each.messages for name in message.coded]
    return {
        "data": {**asdict(prices), "links": links, "rules": [asdict(each) for each in counts.values()]},
        "names": [*counts, *(["straight-through, gradient as chosen"] if prices.baseline else [])],
        "kinds": {kind: Path(kind).stem for kind in kinds},
        "codings": ["plain", "best", *dict.fromkeys(counted)] if counted else [],
        "most_reuse": min(each.most_reuse for each in counts.values()),
        "script": Markup(script),
        "digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


# Numbers as text


def count(value: float) -> str:
    """A count: thousands separated, and a decimal only where it is small and not whole.

    >>> count(16000).replace(chr(0x202F), " "), count(0.22), count(500.0)
    ('16 000', '0.2', '500')
    """
    decimals = 0 if value >= 100 or value == round(value) else 1
    return f"{value:,.{decimals}f}".replace(",", "\u202f")


PERCENT = "\xa0%"


def percent(value: float) -> str:
    """A percentage to two decimals, or "not finite".

    >>> percent(2.104), percent(float("nan"))
    ('2.10\\xa0%', 'not finite')
    """
    return f"{value:.2f}\xa0%" if math.isfinite(value) else "not finite"


def shown(value: float, measure: str) -> str:
    """A score as text.

    >>> shown(2.104, "error_percent"), shown(12.3456, "squared_error")
    ('2.10\\xa0%', '12.35')
    """
    if measure.endswith("percent"):
        return percent(value)
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def spread(score: Spread, seeds: int, measure: str = "error_percent") -> str:
    """Mean and standard deviation of a score over `seeds`; for one seed only the value.

    >>> spread(Spread(2.5, 0.125), 3), spread(Spread(2.5, 0.0), 1)
    ('2.50 ± 0.12\\xa0%', '2.50\\xa0%')
    """
    if seeds == 1 or not math.isfinite(score.mean):
        return shown(score.mean, measure)
    return f"{shown(score.mean, measure).removesuffix(PERCENT)} ± {shown(score.std, measure)}"


def share(value: float) -> str:
    """A fraction as a percentage with two digits.

    >>> share(0.0078), share(0.5), share(1e-9)
    ('0.78\\xa0%', '50\\xa0%', 'under 0.01\\xa0%')
    """
    return "under 0.01\xa0%" if 0 < value < 1e-4 else f"{float(f'{100 * value:.2g}'):g}\xa0%"


def prefix(value: float) -> tuple[str, float]:
    """SI prefix that leaves `value` between 1 and 1000, and its factor."""
    if value == 0 or not math.isfinite(value):
        return "", 1.0
    steps = min(max(math.floor(math.log10(float(f"{abs(value):.2e}")) / 3), -5), 5)
    return "fpnµm kMGTP"[steps + 5].strip(), 1000.0**steps


def si(value: float, unit: str) -> str:
    """A quantity with three digits and SI prefix.

    >>> si(1.2345e-8, "J"), si(9.996e-7, "J"), si(0, "J")
    ('12.3\\xa0nJ', '1.00\\xa0µJ', '0.00\\xa0J')
    """
    name, factor = prefix(value)
    return f"{three_digits(value / factor)}\xa0{name}{unit}"


def si_range(low: float, high: float, unit: str) -> str:
    """A range, both ends with the prefix of the higher end.

    >>> si_range(8.1e-9, 2e-8, "J")
    '8.10 to 20.0\\xa0nJ'
    """
    name, factor = prefix(high)
    return f"{three_digits(low / factor)} to {three_digits(high / factor)}\xa0{name}{unit}"


def three_digits(value: float) -> str:
    """A number below 1000 with three digits.

    >>> three_digits(1.2345), three_digits(87.25), three_digits(872.4)
    ('1.23', '87.2', '872')
    """
    return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    """Names with dots and values of nested settings."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# Findings


def all_links(summary: Summary) -> list[str]:
    """The network's links from the inputs up, and then links that a rule adds."""
    own = [_link_name(link) for link in summary.network["links"]]
    return list(dict.fromkeys([*own, *(link for row in summary.rows for link in row.links)]))


def _link_name(link: Mapping[str, str]) -> str:
    """Name of a link in a description of a network."""
    return link.get("label") or f"{link['lower']}-{link['upper']}"


def _sizes(network: Mapping[str, Any]) -> str:
    """Neurons of each layer in a description of a network, input first."""
    return "-".join(str(layer["neurons"]) for layer in [network["input"], *network["layers"]])


def discrete_links(summary: Summary) -> list[str]:
    """Links, but for those of the inputs, that carry a format other than a float in some direction with some rule."""
    inputs = [_link_name((row.network or summary.network)["links"][0]) for row in summary.rows]

    def is_discrete(link: LinkRow) -> bool:
        return any(not (x.format or "float").startswith("float") for x in (link.forward, link.feedback))

    return [
        name
        for name in all_links(summary)
        if name not in inputs and any(is_discrete(row.links[name]) for row in summary.rows if name in row.links)
    ]


def traffic(row: Row, links: Iterable[str] | None = None) -> dict[str, float]:
    """Bits that cross `links`, by default all, in one training sample, forward and feedback."""
    crossed = [row.links[link] for link in (row.links if links is None else links) if link in row.links]
    return {direction: sum(getattr(x, direction).bits_per_sample for x in crossed) for direction in DIRECTIONS}


@dataclass(frozen=True)
class Ranking:
    """Rows with the least of a quantity, and rows with the next value; more than one where they tie."""

    least: list[int]
    next: list[int]
    values: list[float]


def ranking(values: list[float]) -> Ranking:
    """Rank rows by `values`; values that are not finite are neither least nor next.

    >>> ranking([3.0, float("nan"), 2.0, 2.0])
    Ranking(least=[2, 3], next=[0], values=[3.0, nan, 2.0, 2.0])
    """

    def least(indices: list[int]) -> list[int]:
        lowest = min((values[i] for i in indices), default=math.nan)
        return [i for i in indices if math.isclose(values[i], lowest, rel_tol=1e-9)]

    finite = [i for i, value in enumerate(values) if math.isfinite(value)]
    best = least(finite)
    return Ranking(best, least([i for i in finite if i not in best]), values)


def _within_deviation(rows: Sequence[Row], tests: Ranking) -> bool:
    """Whether the lowest test error and the next differ by no more than the larger of their standard deviations."""
    if not tests.next:
        return False
    deviation = max(rows[i].test_score.std for i in tests.least + tests.next)
    return bool(tests.values[tests.next[0]] - tests.values[tests.least[0]] <= deviation)


def _link_shares(rows: Sequence[Row], technologies: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Share of links in the training energy, from the least to the largest of the rules, by technology."""
    for name in technologies:
        shares = [part for row in rows if (part := row.links_share.get(name)) is not None]
        if shares:
            yield name, " to ".join(dict.fromkeys(map(share, (min(shares), max(shares)))))


def _read_metrics(folder: Path, row: Row) -> tuple[list[list[dict[str, Any]]], list[str]]:
    """Lines of `metrics.jsonl` of each seed that has them, and a note for each seed that does not."""
    found, notes = [], []
    for seed, run in row.runs.items():
        path = folder / run / "metrics.jsonl"
        try:
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            names = {part: f"{part}_{row.measure}" for part in PARTS_OF_DATA} | {"epoch": "epoch"}
            kept = ("samples", *SPARSE)
            found.append([
                {part: line[name] for part, name in names.items() if part != "train" or name in line}
                | {name: line[name] for name in kept if name in line}
                for line in lines
            ])  # fmt: skip
        except FileNotFoundError:
            notes.append(f"seed {seed} has no metrics.jsonl, so the curves leave it out")
        except (ValueError, KeyError, TypeError):
            notes.append(f"the metrics.jsonl of seed {seed} is broken, so the curves leave it out")
    return found, notes


# Drawings


def _drawings(networks: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, Any]:
    """For each row its network as a column of layers, and the arrows between them, all to one scale.

    Links that join no neighbours are drawn at the right side; those that are not in the network are listed.
    """
    most = max(bits for row in rows for link in row.links for bits in traffic(row, [link]).values()) or 1
    drawn = [_Drawing(network, row, most) for network, row in zip(networks, rows, strict=True)]
    return {"of": drawn, "box": BOX, "most": most, "width": max(drawing.width for drawing in drawn)}


class _Drawing:
    """The network of a row, and what crosses its links."""

    def __init__(self, network: Mapping[str, Any], row: Row, most: float) -> None:
        layers = [network["input"], *network["layers"]]
        self.row, self.most, self.rule = row, most, row.rule
        self.height = len(layers) * (BOX + GAP) - GAP
        self.boxes = [
            {"y": self.height - BOX - i * (BOX + GAP), "name": layer["name"], "neurons": layer["neurons"]}
            for i, layer in enumerate(layers)
        ]
        self.width = 400.0
        chain, added = network["links"][: len(layers) - 1], network["links"][len(layers) - 1 :]
        self.arrows = [
            self._between(_link_name(link), direction, box["y"])
            for link, box in zip(chain, self.boxes[1:], strict=True)
            for direction in DIRECTIONS
        ]
        self.side_arrows: list[dict[str, Any]] = []
        for link, direction in product(added, DIRECTIONS):
            if traffic(row, [_link_name(link)])[direction]:
                self.side_arrows.append(self._aside(link, direction))
        if self.side_arrows:
            self.label_x = self.width + 10
            self.width += 130
        known = [_link_name(link) for link in network["links"]]
        self.others = [
            f"{link} {direction} {count(crossed.bits_per_sample)} bits ({crossed.format})"
            for link, both in row.links.items()
            if link not in known
            for direction in DIRECTIONS
            if (crossed := getattr(both, direction)).format
        ]

    def _between(self, link: str, direction: str, y: float) -> dict[str, Any]:
        """An arrow to or from the layer at height `y`, which the layer below it is at the other end of."""
        told = self._told(link, direction)
        x = 150.0 if direction == "forward" else 250.0
        top, bottom = y + BOX + 4, y + BOX + GAP - 4
        tip, tail = (top, bottom) if direction == "forward" else (bottom, top)
        return {**told, "points": _arrow(x, tip, tail, told["thick"]), "x": x, "y": (top + bottom) / 2}

    def _aside(self, link: Mapping[str, str], direction: str) -> dict[str, Any]:
        """An arrow that leaves its layer to the right, and comes back to the other one."""
        told = self._told(_link_name(link), direction)
        thick, middles = told["thick"], {box["name"]: box["y"] + BOX / 2 for box in self.boxes}
        ends = middles[link["lower"]], middles[link["upper"]]
        tail, tip = ends if direction == "forward" else ends[::-1]
        neck, x = 310 + thick / 4, self.width + 14 + thick / 2
        self.width += 14 + thick
        head = [(neck, tip - thick / 2 - 5), (302, tip), (neck, tip + thick / 2 + 5)]
        labels_there = sum(arrow["lower"] == link["lower"] for arrow in self.side_arrows)
        return {
            **told,
            "lower": link["lower"],
            "path": f"M302,{tail:.1f} H{x:.1f} V{tip:.1f} H{neck:.1f}",
            "points": " ".join(f"{dx:.1f},{y:.1f}" for dx, y in head),
            "y": ends[0] + 54 * labels_there,
        }

    def _told(self, link: str, direction: str) -> dict[str, Any]:
        """What is said of a link, and the thickness of its arrow."""
        bits = traffic(self.row, [link])[direction]
        fmt = getattr(self.row.links[link], direction).format if link in self.row.links else None
        thick = max(THICKEST * bits / self.most, 1.0)
        return {"link": link, "direction": direction, "bits": bits, "format": fmt or "", "thick": thick}


def _arrow(x: float, tip: float, tail: float, width: float) -> str:
    """Corners of an arrow with a shaft `width` wide."""
    half, wing = width / 2, width / 2 + 5
    neck = tip + math.copysign(8 + width / 4, tail - tip)
    corners = [(-half, tail), (-half, neck), (-wing, neck), (0, tip), (wing, neck), (half, neck), (half, tail)]
    return " ".join(f"{x + dx:.1f},{y:.1f}" for dx, y in corners)


def _curves(rows: Sequence[Row], runs: Sequence[list[list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Error over epochs, a figure for each part of the data that was evaluated: mean and band of each rule."""

    figures = []
    parts = [(measure, key) for measure in dict.fromkeys(row.measure for row in rows) for key in PARTS_OF_DATA]
    for measure, key in parts:
        title, unit = f"{PARTS_OF_DATA[key]} {MEASURES[measure]}", "%" if measure.endswith("percent") else ""
        curves = []
        for i, (row, seeds) in enumerate(zip(rows, runs, strict=True)):
            by_epoch: dict[int, list[float]] = {}
            for line in (line for lines in seeds for line in lines if row.measure == measure):
                if math.isfinite(line.get(key, math.nan)):
                    by_epoch.setdefault(line["epoch"], []).append(line[key])
            if by_epoch:
                curves.append(Curve.of(row.rule, i, by_epoch))
        if curves:
            last = "; ".join(f"{c.rule} {shown(c.mean[-1], measure)} after epoch {c.epochs[-1]}" for c in curves)
            description = f"Mean over seeds, with a band of one standard deviation to each side. {last}."
            figures.append(
                {"title": title, "svg": inline_svg(curve_figure(curves, unit), f"{key}_{measure}", title, description)}
            )
    return figures


def _tradeoff(rows: Sequence[Row], links: Sequence[str]) -> dict[str, Any] | None:
    """Error of each rule over the bits that it sends over `links`, both ways; None if there are no two to compare."""
    ways = [
        Tradeoff(row.rule, row.rule.partition("@")[0], row.test_score.mean, row.test_score.std, row.valid_score.mean,
                 sum(traffic(row, links).values()), _coded(row, links))
        for row in rows
        if row.measure == rows[0].measure and math.isfinite(row.test_score.mean + row.valid_score.mean)
    ]  # fmt: skip
    if len(ways) < 2:
        return None
    measure = MEASURES[rows[0].measure]
    title = f"Test {measure} over bits on {', '.join(links)}, forward and feedback"
    unit = ", %" if rows[0].measure.endswith("percent") else ""
    figure = tradeoff_figure(ways, "bits of a training sample", f"test {measure}{unit}")
    best = [", ".join(way.label for way in front(ways, coded)) for coded in (False, True)]
    said = f"On the front: {best[0]}; with coded bits: {best[1]}."
    return {"title": title, "svg": inline_svg(figure, "tradeoff", title, said)}


def _coded(row: Row, links: Iterable[str]) -> float | None:
    """Bits on `links` with the best coding of each direction; None if none was counted."""
    ways = [way for link in links if link in row.links for way in (row.links[link].forward, row.links[link].feedback)]
    bits = [way.coded_bits_per_sample for way in ways if way.bits_per_sample]
    return sum(x for x in bits if x is not None) if bits and None not in bits else None


def _sparse_curves(rows: Sequence[Row], runs: Sequence[list[list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Flips and zeros of a training sample over epochs: a curve for each rule and link."""
    figures = []
    for name, title in SPARSE.items():
        curves = []
        for i, (row, seeds) in enumerate(zip(rows, runs, strict=True)):
            counted = dict.fromkeys(link for lines in seeds for line in lines for link in line.get(name, {}))
            for link in counted:
                by_epoch: dict[int, list[float]] = {}
                for lines in seeds:
                    before: dict[str, Any] = {"samples": 0, name: {}}
                    for line in (line for line in lines if link in line.get(name, {})):
                        samples = line["samples"] - before["samples"]
                        added = line[name][link] - before[name].get(link, 0)
                        by_epoch.setdefault(line["epoch"], []).append(added / samples)
                        before = line
                label = row.rule if len(counted) == 1 else f"{row.rule} {link}"
                curves.append(Curve.of(label, i, by_epoch))
        if curves:
            last = "; ".join(f"{c.rule} {c.mean[-1]:.3g} in epoch {c.epochs[-1]}" for c in curves)
            svg = inline_svg(curve_figure(curves, ""), name, title, f"A training sample. {last}.")
            figures.append({"title": title, "svg": svg})
    return figures


def _diagnoses(folder: Path, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Figures of the measures of each diagnosed rule, with a curve for each layer."""
    found = []
    for number, row in enumerate(rows):
        lines, notes, figures = [], [], []
        for seed, run in row.runs.items():
            try:
                lines += _read_diagnosis(folder / run / "diagnosis.jsonl")
            except FileNotFoundError:
                continue  # the rule was not diagnosed
            except (ValueError, KeyError, TypeError):
                notes.append(f"the diagnosis.jsonl of seed {seed} is broken, so the curves leave it out")
        for measure, (title, unit, scale) in DIAGNOSED.items():
            curves = _layer_curves(lines, measure, scale)
            if curves:
                last = "; ".join(f"{c.rule} {c.mean[-1]:.3g}{unit} after epoch {c.epochs[-1]}" for c in curves)
                svg = inline_svg(curve_figure(curves, unit), f"diagnosis-{number}-{measure}", title, f"{last}.")
                figures.append({"title": title, "svg": svg})
        if figures or notes:
            found.append({"rule": row.rule, "figures": figures, "notes": notes})
    return found


def _read_diagnosis(path: Path) -> list[dict[str, Any]]:
    """Lines of a `diagnosis.jsonl`. FileNotFoundError, or ValueError, KeyError or TypeError if it is broken."""
    found = []
    for line in map(json.loads, path.read_text().splitlines()):
        epoch = int(line["epoch"])
        measured = {links: {layer: dict(row) for layer, row in dict(line.get(links, {})).items()} for links in LINKS_OF}
        found.append({"epoch": epoch} | measured)
    return found


def _layer_curves(lines: Sequence[Mapping[str, Any]], measure: str, scale: float) -> "list[Curve]":
    """Mean and deviation over seeds of a `measure` of each layer, over the epochs, with each kind of links.

    Curves of float links that equal those of the links in training are left out.
    """
    import numpy as np

    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    layers: dict[str, int] = {}
    for line in lines:
        for links in LINKS_OF:
            for layer, measured in line[links].items():
                layers.setdefault(layer, len(layers))
                if measured.get(measure) is not None:
                    by_epoch = values.setdefault((links, layer), {})
                    by_epoch.setdefault(line["epoch"], []).append(scale * measured[measure])
    curves = []
    for (links, layer), by_epoch in sorted(values.items(), key=lambda item: list(LINKS_OF).index(item[0][0])):
        curve = Curve.of(layer, layers[layer], by_epoch, LINKS_OF[links])
        if links == "as_trained":
            curves.append(curve)
        elif not any(
            x.rule == layer and x.epochs == curve.epochs and np.allclose(x.mean, curve.mean, rtol=1e-3, atol=1e-3)
            for x in curves
        ):
            curves.append(replace(curve, rule=f"{layer}, float links"))
    return curves


def _bars(rows: Sequence[Row], technologies: Sequence[str]) -> list[dict[str, str]]:
    """Energy stacked by part, with the range of the total: a figure for training and one for inference a technology."""
    figures = []
    for name in technologies:
        for phase, key in (("training", "joules_per_sample"), ("inference", "joules_per_inference")):
            title = f"{name}: {'one training sample' if phase == 'training' else 'one inference'}"
            totals = {row.rule: getattr(row, key)[name] for row in rows}
            described = "; ".join(
                f"{rule} {si(total.typical, 'J')} ({si_range(total.low, total.high, 'J')})"
                for rule, total in totals.items()
            )
            figure = _bar_figure([(row.rule, row.energy_parts[name][phase], totals[row.rule]) for row in rows])
            figures.append({"title": title, "svg": inline_svg(figure, f"{name}-{phase}", title, f"{described}.")})
    return figures


def _bar_figure(bars: Sequence[tuple[str, Mapping[str, Range], Range]]) -> "Figure":
    from matplotlib.figure import Figure

    unit, factor = prefix(max(total.typical for _, _, total in bars))
    width, height = 5.0, 0.5 + 0.68 * len(bars)
    figure = Figure((width, height))
    axes = figure.add_axes((0.1 / width, 0.5 / height, 1 - 0.3 / width, 1 - 0.55 / height))
    end = 1.04 * max(total.high for _, _, total in bars) / factor or 1.0
    axes.set(xlim=(0, end), ylim=(len(bars) - 0.5, -0.5), yticks=[], xlabel=f"{unit}J")
    for y, (rule, parts, total) in enumerate(bars):
        left = 0.0
        for part, colour in PARTS.items():
            energy = parts[part].typical / factor
            axes.barh(y, energy, 0.34, left, color=colour)
            share = energy / (total.typical / factor or 1.0)
            if energy > 0.2 * end:
                axes.text(left + energy / 2, y, f"{part} {100 * share:.0f}%", ha="center", va="center", size=8.5)
            left += energy
        low, high = total.low / factor, total.high / factor
        axes.plot([low, high], [y + 0.27, y + 0.27], color=INK, linewidth=1.4, marker="|", markersize=6)
        axes.plot(total.typical / factor, y + 0.27, color=INK, marker="o", markersize=3.5)
        axes.text(0, y - 0.22, rule, va="bottom", weight="bold")
        axes.text(end, y - 0.22, si(total.typical, "J"), va="bottom", ha="right")
    return figure


def _breakdowns(rows: Sequence[Row], technology: str) -> list[dict[str, Any]]:
    """Of each row, where the joules of a training sample go: columns of parts, of layers and links, and of purposes.

    A block is as tall as its share of the total, so a column is as tall as the picture.
    """
    pictures = []
    for row in rows:
        tree = row.energy_tree.get(technology, {})
        total = sum(joules for parts in tree.values() for costs in parts.values() for joules in costs.values())
        if total:
            columns = _energy_columns(tree, total * LABEL / TALL)
            blocks = []
            for (x, width), column in zip(COLUMNS, columns, strict=True):
                ends = accumulate(TALL * joules / total for _, joules, _ in column)
                for (name, joules, colour), end in zip(column, ends, strict=True):
                    height = TALL * joules / total
                    place = {"x": x, "y": end - height, "width": width, "height": height, "colour": colour}
                    blocks.append(place | {"name": name, "joules": joules, "share": joules / total})
            pictures.append({"rule": row.rule, "total": total, "blocks": blocks})
    return pictures


Column = list[tuple[str, float, str]]
"""Names, joules and colours of blocks."""


def _energy_columns(tree: Mapping[str, Mapping[str, Mapping[str, float]]], least: float) -> tuple[Column, ...]:
    """Joules of parts; of layers and links, beside their part; of purposes, beside their layer or link."""
    of_parts: Column = []
    of_places: Column = []
    of_purposes: Column = []
    for part, colour in PARTS.items():
        places = tree.get(part, {})
        costs = {place: sum(purposes.values()) for place, purposes in places.items()}
        of_parts.append((part, sum(costs.values()), colour))
        for place, cost in _merged(costs, least):
            of_places.append((place, cost, colour))
            of_purposes += [(purpose, x, colour) for purpose, x in _merged(places.get(place, {"": cost}), least)]
    return of_parts, of_places, of_purposes


def _merged(costs: Mapping[str, float], least: float) -> list[tuple[str, float]]:
    """Names and costs, the largest first; those of less than `least` come last, as one.

    >>> _merged({"a": 1.0, "b": 5.0, "c": 2.0}, 3.0), _merged({"a": 1.0, "b": 5.0}, 3.0)
    ([('b', 5.0), ('2 others', 3.0)], [('b', 5.0), ('a', 1.0)])
    """
    ranked = sorted(costs.items(), key=lambda item: -item[1])
    small = [cost for _, cost in ranked if cost < least]
    if len(small) < 2:
        return ranked
    rest = "others" if len(small) < len(ranked) else "together"
    return [*ranked[: -len(small)], (f"{len(small)} {rest}", sum(small))]


def inline_svg(figure: "Figure", name: str, title: str, description: str) -> "Markup":
    """`figure` as an SVG element with a name and a description, and ids that are unique on the page."""
    from markupsafe import Markup, escape

    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    name = re.sub(r"[^\w-]", "_", name)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r' width="[^"]*" height="[^"]*"', "", svg, count=1)
    label = f'role="img" aria-labelledby="{name}-title {name}-desc"'
    words = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    return Markup(re.sub(r"<svg([^>]*)>", lambda match: f"<svg{match[1]} {label}>{words}", svg, count=1))


def filters_of(
    folder: Path, run: str, image_shape: Sequence[int] | None, most: int = FILTERS
) -> tuple[dict[str, Any] | None, str]:
    """A picture of the weights of the first `most` neurons above the inputs, as a PNG in base64, or why none."""
    import numpy as np
    from matplotlib import colormaps, image

    if image_shape is None or (len(image_shape) != 2 and (len(image_shape) != 3 or image_shape[0] != 3)):
        return None, "the samples are not pictures, grey or of three colours"
    try:
        tensors, description = read_tensors(folder / run / "network.safetensors")
        weight = tensors[f"{description['layers'][0]['name']}.weight"]
    except (StorageError, LookupError) as error:
        return None, str(error).replace(str(folder), "").lstrip("/")
    if weight.shape[0] != math.prod(image_shape):
        return None, f"a neuron has {weight.shape[0]} weights, and a picture {math.prod(image_shape)} inputs"
    grid = _map_columns(folder / run)
    shown = weight.shape[1] if grid else min(most, weight.shape[1])
    columns = grid or min(10, shown)
    *channels, tall, wide = image_shape
    picture = np.ones((-(-shown // columns) * (tall + 1) - 1, columns * (wide + 1) - 1, 4))
    for i, column in enumerate(weight.T[:shown]):
        top, left = i // columns * (tall + 1), i % columns * (wide + 1)
        strongest = np.abs(column).max() or 1.0
        shares = (column / strongest).reshape(image_shape) / 2 + 0.5
        place = picture[top : top + tall, left : left + wide]
        if channels:
            place[..., :3] = np.moveaxis(shares, 0, -1)
        else:
            place[...] = colormaps["PuOr_r"](shares)
    png = io.BytesIO()
    image.imsave(png, picture, format="png")
    drawn = base64.b64encode(png.getvalue()).decode()
    return {"png": drawn, "shown": shown, "of": weight.shape[1], "colour": bool(channels)}, ""


def _map_columns(run: Path) -> int:
    """Columns of the grid on which the neurons of a self-organizing map lie; 0 if the rule of `run` has no grid."""
    from .experiment import read_toml

    try:
        return int(read_toml(run / "experiment.toml")["settings"]["columns"])
    except (StorageError, LookupError):
        return 0
