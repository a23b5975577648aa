"""Results on standard output: JSON, lines of names and values, or tables."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

if TYPE_CHECKING:
    from ..bands import Tornado
    from ..summary import LinkRow, Summary
    from ..sweeps import Front


def print_result(result: Any, as_json: bool) -> None:
    """Print `result` as JSON, or as lines of names and values."""
    if as_json:
        print(json.dumps(result, indent=1))
        return
    for row in result if isinstance(result, list) else [result]:
        for key, value in row.items():
            if isinstance(value, dict):
                print(f"{key}:")
                for name, part in value.items():
                    print(f"  {name:20} {_plain(part)}")
            else:
                print(f"{key:28} {_plain(value)}")
        if isinstance(result, list):
            print()


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items() if v)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def print_facts(names: Sequence[str], values: Sequence[str]) -> None:
    """Names and values, one below the other, indented; long values are wrapped. Empty values are left out."""
    width = max(map(len, names))
    for name, value in zip(names, values, strict=True):
        if value:
            lines = textwrap.wrap(value, max(20, Console().width - width - 4)) or [""]
            print(f"  {name:{width}}  {lines[0]}")
            for line in lines[1:]:
                print(f"  {'':{width}}  {line}")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """A table with the first `left` columns left-aligned; if it is too wide, each row as names and values."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console()
    if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
        console.print(table)
        return
    print_text(title)
    for row in rows:
        print(", ".join(cell.replace("\n", "") for cell in row[:left]))
        names = [column.replace("\n", " ") for column in columns[left:]]
        print_facts(names, [value.replace("\n", " ") for value in row[left:]])


def print_summary(summary: "Summary") -> None:
    """The table of a comparison."""
    from ..report import discrete_links, si
    from ..tasks import MEASURES

    rows = summary.rows
    technologies = list(rows[0].joules_per_sample)
    links = discrete_links(summary)
    first, one_measure = rows[0].measure, len({row.measure for row in rows}) == 1
    columns = [
        "rule",
        "test\n" + (MEASURES[first] + (" %" if first.endswith("percent") else "") if one_measure else "score"),
        *(f"{link} bits\nforward/feedback" for link in links),
        *(f"{technology}\na sample" for technology in technologies),
    ]
    lines = []
    for row in rows:
        error, digits = row.test_score, ".2f" if row.measure.endswith("percent") else ".4g"
        bits = [row.links.get(link) for link in links]
        lines.append([
            row.rule.replace("@", "\n@"),
            f"{error.mean:{digits}}"
            + (f"±{error.std:{digits}}" if row.seeds > 1 else "")
            + ("" if one_measure else "\n" + MEASURES[row.measure] + " %" * row.measure.endswith("percent")),
            *(_link_bits(x) if x else "0/0" for x in bits),
            *(si(row.joules_per_sample[name].typical, "J") for name in technologies),
        ])  # fmt: skip
    print_table(f"{summary.data.name}: training, a mean over {rows[0].seeds} seed(s)", columns, lines)


def _link_bits(link: "LinkRow") -> str:
    """Bits a sample, forward/feedback; below them the bits and the name of the best coding, if it was counted."""
    ways = link.forward, link.feedback
    lines = ["/".join(f"{way.bits_per_sample:g}" for way in ways)]
    if any(way.coding for way in ways):
        lines.append("/".join(f"{way.coded_bits_per_sample or 0:.4g}" for way in ways))
        lines.append("/".join(way.coding or "-" for way in ways))
    return "\n".join(lines)


PARTS = {"link": "links", "compute": "compute", "memory": "memory", "static": "static"}
"""Parts of a bill, and their columns."""


def print_bills(bills: Sequence[Mapping[str, Any]]) -> None:
    """Bills as tables, one for each use and technology with a row for each rule, and the break-even widths below."""
    from ..report import share

    for use, technology in dict.fromkeys((bill["use"], bill["technology"]) for bill in bills):
        rows = []
        there = {p for b in bills if (b["use"], b["technology"]) == (use, technology) for p in b["by_part"]}
        names = {part: name for part, name in PARTS.items() if part != "static" or part in there}
        if "static" in there and "memory" not in there:  # a machine whose events include it
            del names["memory"]
        for bill in bills:
            if (bill["use"], bill["technology"]) == (use, technology):
                parts = [bill["total"], *(bill["by_part"].get(part) for part in names)]
                links = share(bill["links_share"]["typical"]) if bill["links_share"] else ""
                rows.append([bill["rule"].replace("@", "\n@"), *map(_cost, parts), links])
        title = f"{use}, {technology}: joules a sample, typical and low-high"
        print_table(title, ("rule", "total", *names.values(), "links'\nshare"), rows)
    even = {(b["rule"], x): bits for b in bills for x, bits in b["break_even_gradient_bits"].items()}
    for (rule, link), bits in even.items():
        print_text(f"{rule}, {link}: straight-through sends as many bits with a gradient of {bits:g} bits")
    constants = {json.dumps(constant) for bill in bills for constant in bill["constants"]}
    print(f"{len(constants)} constants used; --json lists each with its source")


def _cost(cost: Mapping[str, float] | None) -> str:
    """Typical joules, and below them low and high in the same unit."""
    from ..report import prefix, si, three_digits

    if not cost:
        return "0"
    _, factor = prefix(cost["typical"])
    return f"{si(cost['typical'], 'J')}\n{three_digits(cost['low'] / factor)}-{three_digits(cost['high'] / factor)}"


def print_text(text: str) -> None:
    """Print `text` in lines no wider than the terminal."""
    print(textwrap.fill(text, Console().width))


def print_bands(bills: Sequence[Mapping[str, Any]]) -> None:
    """90 % bands of bills and of their baselines: a table for each technology and use."""
    for technology, use in dict.fromkeys((bill["technology"], bill["use"]) for bill in bills):
        chosen = [bill for bill in bills if (bill["technology"], bill["use"]) == (technology, use)]
        beside = [row for bill in chosen for row in bill["baselines"]]
        lines = [*chosen, *(row for i, row in enumerate(beside) if row not in beside[:i])]
        compared = list(dict.fromkeys(x for row in lines if (x := row["bands"]["against"])))
        others = ", ".join(compared).replace(" ", "\n", 1)
        columns = ["rule", "total", "links' share", *([f"ratio to\n{others}"] if compared else [])]
        cells = [_band_cells(row)[: len(columns)] for row in lines]
        print_table(f"{use}, {technology}: joules a sample, typical (90 % of draws)", columns, cells)
        for bill in chosen:
            if bill["break_even_gradient_bits"]:  # it has something else than gradients to send
                _print_break_even(bill["rule"], bill["break_even_joules"] or {})


def _band_cells(row: Mapping[str, Any]) -> list[str]:
    """Texts of a bill or baseline: rule, total, share of links, ratio."""
    from ..report import si, si_range

    band, share, ratio = (row["bands"][key] for key in ("total", "links_share", "ratio"))
    shares = (row["links_share"]["typical"], share["low"], share["high"]) if share else ()
    ratios = (row["bands"]["ratio_of_typical"], ratio["low"], ratio["high"]) if ratio else ()
    return [
        row["rule"].replace("@", "\n@").replace(" ", " \n", 1),
        f"{si(row['total']['typical'], 'J')}\n({si_range(band['low'], band['high'], 'J')})",
        "{:.2g} %\n({:.2g} to {:.2g})".format(*(100 * each for each in shares)) if shares else "",
        "{:.2f}\n({:.2f} to {:.2f})".format(*ratios) if ratios else "",
    ]


def _print_break_even(rule: str, widths: Mapping[str, Mapping[str, float] | None]) -> None:
    """The widths of straight-through's gradient at which it costs as much as `rule`, in total and on links."""
    for name, width in widths.items():
        if width:
            where = " on links" if name == "links" else ""
            low, typical, high = (f"{x:,.0f}" if (x := max(0.0, width[e])) >= 100 else f"{x:.3g}" for e in _ENDS)
            what = f"as many joules{where} as straight-through with a gradient of {typical} bits ({low} to {high})"
            if width["typical"] <= 0:
                what = f"fewer joules{where} than straight-through with any gradient"
            print_text(f"{rule}: {what}")


_ENDS = ("low", "typical", "high")


def print_tornado(tornado: "Tornado | None") -> None:
    """The quantities that move an answer most, ten at most; nothing if there is no answer."""
    from ..report import si

    if tornado is None:
        return

    def shown(value: float) -> str:
        return si(value, "J") if tornado.unit else f"{value:.3f}"

    title = f"{tornado.title}: {shown(tornado.typical)}"
    rows = [
        [swing.quantity, shown(swing.at_low), shown(swing.at_high), f"{100 * swing.size / tornado.typical:.1f} %"]
        for swing in tornado.swings[:10]
        if swing.size >= 0.001 * tornado.typical
    ]
    if rows:
        print_table(title.replace(": ", "\n", 1), ("with a constant at its", "low", "high", "swing"), rows)
    else:
        print(f"{title}\n  no constant moves it by 0.1 %")


def print_fronts(fronts: "Sequence[Front]") -> None:
    """The points of each front."""
    for front in fronts:
        columns, lines = front.table
        objectives = ", ".join(front.objectives)
        title = f"{front.title}: {len(front.best)} of {len(front.rows)} points, front of {objectives}"
        print_table(title, columns, lines)
