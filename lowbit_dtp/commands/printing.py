"""Results on standard output: JSON, lines of names and values, or tables."""

import json
from typing import Any


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


def print_rows(summary: dict[str, Any]) -> None:
    """The table of a comparison."""
    from rich.console import Console
    from rich.table import Table

    from ..report import si

    rows = summary["rows"]
    processes = list(rows[0]["joules_per_sample"])
    discrete = [x["lower"] + "-" + x["upper"] for x in summary["network"]["links"][1:] if x["feedback"] != "float32"]
    table = Table(title=f"{summary['data']['name']}: training, a mean over {rows[0]['seeds']} seed(s)")
    table.add_column("rule", no_wrap=True)
    table.add_column("test\nerror %", justify="right", no_wrap=True)
    for link in discrete:
        table.add_column(f"{link} bits\nup/down", justify="right", no_wrap=True)
    for process in processes:
        table.add_column(f"{process}\na sample", justify="right", no_wrap=True)
    for row in rows:
        error, links = row["test_error_percent"], row["links"]
        spread = f"±{error['std']:.2f}" if row["seeds"] > 1 else ""
        table.add_row(
            row["rule"],
            f"{error['mean']:.2f}{spread}",
            *(f"{links[x]['up_bits_per_sample']:g}/{links[x]['down_bits_per_sample']:g}" for x in discrete),
            *(si(row["joules_per_sample"][p]["typical"], "J") for p in processes),
        )
    Console().print(table)


def print_bills(bills: list[dict[str, Any]]) -> None:
    """Bills as a table: a row for each rule, use and technology, and the break-even widths under it."""
    from rich.console import Console
    from rich.table import Table

    from ..report import si

    table = Table(title="Joules a sample: typical (low to high)")
    for column in ("rule", "use", "technology", "total", "links", "compute", "memory", "links' share"):
        table.add_column(column, justify="left" if column in ("rule", "use", "technology") else "right")
    for bill in bills:
        parts = [bill["total"], *(bill["by_part"].get(part) for part in ("link", "compute", "memory"))]
        share = bill["links_share"]
        table.add_row(
            bill["rule"], bill["use"], bill["technology"],
            *(f"{si(p['typical'], 'J')}\n({si(p['low'], 'J')} to {si(p['high'], 'J')})" if p else "0" for p in parts),
            f"{100 * share['typical']:.2g} %" if share else "",
        )  # fmt: skip
    Console().print(table)
    even = {(b["rule"], x): bits for b in bills for x, bits in b["break_even_gradient_bits"].items()}
    for (rule, link), bits in even.items():
        print(f"{rule}, {link}: straight-through sends as many bits with a gradient of {bits:g} bits")
    constants = {json.dumps(constant) for bill in bills for constant in bill["constants"]}
    print(f"{len(constants)} constants used; --json lists each with its source")
