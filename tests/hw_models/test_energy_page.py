"""The worked example of docs/energy.md: each line of its tables against the bill, and against its own arithmetic."""

import re
from ast import Constant, Expression, parse, walk
from pathlib import Path

import pytest

from hw_models import Bill, HardwareConfig, Technology, price
from hw_models.memory import is_shared, memory_of_size
from lowbit_dtp import Ledger, Link, estimate, rules
from lowbit_dtp.optimizers import SGD

PAGE = (Path(__file__).parents[2] / "docs" / "energy.md").read_text()
KEYS = {"link": ("where", "direction"), "compute": ("where", "purpose"), "memory": ("where", "purpose")}
"""What the first two columns of the table of each part are of a line of a bill."""
HEADS = {
    "link": "| link | direction | events | pJ |",
    "compute": "| layer | for | operations | pJ |",
    "memory": "| layer | array | accesses | pJ |",
}


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    links = [Link("ufixed(2,0)"), Link("binary", "binary")]
    return estimate([4, 3, 2], rules.StraightThrough("binary"), links, SGD(1.0), samples=1, batch=1).training


@pytest.fixture(scope="module")
def bill(ledger) -> Bill:
    with pytest.warns(UserWarning, match="link input-h1, forward: toggles need two messages in a row"):
        return price(ledger, HardwareConfig.parse("h1-output=board"), Technology.load("45nm")).per("sample")


def table(part: str) -> list[list[str]]:
    """Cells of the rows below the head of a table."""
    rows = PAGE.partition(HEADS[part] + "\n")[2].partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def computed(text: str) -> float:
    """The value of a text of numbers, operators and brackets."""
    tree = parse(text.replace("\u00d7", "*"), mode="eval")
    assert isinstance(tree, Expression) and re.fullmatch(r"[\d.+*/() ]+", text.replace("\u00d7", "*"))
    assert all(isinstance(node.value, int | float) for node in walk(tree) if isinstance(node, Constant))
    return float(eval(compile(tree, "docs/energy.md", "eval")))


@pytest.mark.parametrize("part", KEYS)
def test_each_line_is_one_of_the_bill(part, bill):
    costs: dict[tuple[str, str], float] = {}
    for item in bill.items:
        if item.part == part:
            first, second = (getattr(item, key) for key in KEYS[part])
            costs[first, second] = costs.get((first, second), 0.0) + 1e12 * item.joules.typical
    rows = table(part)
    assert {(first, second) for first, second, *_ in rows} == set(costs) and len(rows) == len(costs)
    for first, second, arithmetic, picojoules in rows:
        assert computed(arithmetic) == pytest.approx(costs[first, second], rel=1e-9), (first, second)
        assert float(picojoules) == pytest.approx(costs[first, second], abs=0.005), (first, second)


def test_sums(bill):
    total, links = bill.total, bill.by("part")["link"].typical
    assert (
        f"The sum is {1e12 * total.typical:.0f} pJ, of which the links take {100 * links / total.typical:.0f} %."
        in PAGE
    )
    assert f"Its low and high are {1e12 * total.low:.0f} and {1e12 * total.high:.0f} pJ" in PAGE


def test_update_and_what_reuse_divides(ledger, bill):
    compute = sum(item.joules.typical for item in bill.items if (item.part, item.purpose) == ("compute", "update"))
    assert f"the update is {1e12 * compute:.1f} pJ of compute" in PAGE
    words = {"update": 0, "products": 0, "gradients": 0}
    for access, number in ledger.accesses.items():
        if access.purpose == "update":
            words["update"] += number
        elif is_shared(access):
            words["gradients" if access.array.endswith(" gradient") else "products"] += number
    joules = {what: 5 * number for what, number in words.items()}  # of float32 numbers in 8 KiB
    quarters = f"{1e12 * compute / 4:.2f} and\n{joules['update'] / 4:.2f}"
    assert f"each of 23 parameters, {joules['update']} pJ of memory; a quarter of both is {quarters}." in PAGE
    assert (
        f"(24 + 5) \u00d7 5 = {joules['products']} pJ" in PAGE
        and f"2 \u00d7 23 \u00d7 5 = {joules['gradients']} pJ" in PAGE
    )
    shared = joules["products"] + joules["gradients"]
    assert f"by 4, {shared / 4:.2f} are left of {shared}." in PAGE


def test_memory_curve():
    technology = Technology.load("45nm")
    cost = {kib: 1e12 * memory_of_size(technology, "sram", 8192 * kib, "").typical for kib in (8, 32, 64, 1024)}
    said = [f"{cost[kib]:.0f}" for kib in (8, 32, 1024)]
    assert f"at 45 nm 64 bits cost {said[0]}, {said[1]} and {said[2]} pJ in 8 KiB, 32 KiB and 1 MiB" in PAGE
    assert f"20 \u00d7 5^(1/5) = {cost[64]:.1f} in 64 KiB" in PAGE and f"{20 * 5**0.2:.1f}" == f"{cost[64]:.1f}"
