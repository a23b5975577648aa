"""Uncertainty: how far totals, ratios and shares of bills may be off, since the constants behind them have ranges.

A constant is a quantity that nobody has measured on the machine in question: its `low` and `high` are taken as 5 % and
95 % quantiles of what it may be, its `typical` as the median. Between and beyond them it is log-normal, with one width
below the median and another above: published figures for one event differ by factors, are never negative, and lie on
both sides of the median at different distances. Where `low` or `typical` is 0, which has no logarithm, that side is
normal, and cut off at 0. A constant whose low, typical and high are equal is exact.

Constants of one `quantity`, sizes of one kind of memory say, are at the same quantile of their ranges in each draw,
and different quantities are independent. All bills of one call share the draws: where two bills use the same constant,
its error cancels in their ratio as far as both depend on it.

The draws are a Latin hypercube: each quantity takes each of `draws` equally likely quantiles once, in an order of its
own. That order depends on `seed` and the name of the quantity alone, so the same seed gives the same numbers for a bill
whatever other bills are beside it, in any order of its items, on any machine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from math import fsum
from statistics import NormalDist

import numpy as np

from .price import Bill
from .technology import Constant, Range

DRAWS = 10_000
"""Default number of draws: the ends of a 90 % band are then within about 1 % of what more draws would give."""
COVERAGE = 0.9
"""Probability with which a constant lies between its low and its high; default coverage of a band."""
_EDGE = NormalDist().inv_cdf((1 + COVERAGE) / 2)
"""Quantile of the standard normal distribution at which a constant has its high; `low` is at the opposite one."""


def totals(bills: Sequence[Bill], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Totals of `bills` in joules [bills, draws]; a column is one draw of all constants."""
    return _totals(bills, _drawn(draws, seed))


def band(values: np.ndarray, coverage: float = COVERAGE) -> Range:
    """Range in which the middle `coverage` of `values` lies, with their median as the typical value."""
    if not 0 < coverage < 1:
        raise ValueError(f"a band covers a fraction between 0 and 1 of the values, not {coverage}")
    low, median, high = np.quantile(values, [(1 - coverage) / 2, 0.5, (1 + coverage) / 2], method="hazen").tolist()
    return Range(low, median, high)


def ratio(bill: Bill, other: Bill, draws: int = DRAWS, seed: int = 0, coverage: float = COVERAGE) -> Range:
    """Band of the cost of `bill` divided by the cost of `other`; constants that both use are drawn once.

    ValueError if the bills are per different units, or if `other` costs nothing.
    """
    return band(_ratio(bill, other, _drawn(draws, seed)), coverage)


def links_share(bill: Bill, draws: int = DRAWS, seed: int = 0, coverage: float = COVERAGE) -> Range:
    """Band of the fraction of the total that is spent on links. ValueError if the total is zero."""
    links, total = totals([part_of(bill, "link"), bill], draws, seed)
    if not total.all():
        raise ValueError("nothing in this bill cost anything, so links have no share of it")
    return band(links / total, coverage)


def part_of(bill: Bill, part: str) -> Bill:
    """Only the lines of `bill` for one part: `link`, `compute` or `memory`."""
    return replace(bill, items=tuple(item for item in bill.items if item.part == part))


@dataclass(frozen=True)
class Swing:
    """An answer with one quantity at its low and at its high, and all others typical."""

    quantity: str
    at_low: float
    at_high: float

    @property
    def size(self) -> float:
        """How far the answer moves."""
        return abs(self.at_high - self.at_low)


def tornado(bill: Bill) -> list[Swing]:
    """How far each quantity moves the total of `bill`, in joules: the largest swing first."""
    return _swings([bill], lambda values: _totals([bill], values)[0])


def tornado_ratio(bill: Bill, other: Bill) -> list[Swing]:
    """How far each quantity moves the cost of `bill` divided by that of `other`: the largest swing first.

    ValueError as in `ratio`.
    """
    return _swings([bill, other], lambda values: _ratio(bill, other, values))


Values = Callable[[Sequence[Constant]], np.ndarray]
"""Values of some constants, in several cases [constants, cases]."""


def _totals(bills: Sequence[Bill], values: Values) -> np.ndarray:
    """Totals of `bills` in each case [bills, cases].

    Constants are added in one order, and zeros change nothing: a total does not depend on the bills beside it.
    """
    constants = _constants(bills)
    times = [_times(bill) for bill in bills]
    costs = values(constants)
    result = np.zeros((len(bills), costs.shape[1]))
    for constant, cost in zip(constants, costs, strict=True):
        result += np.multiply.outer([each.get(constant, 0.0) for each in times], cost)
    return result


def _ratio(bill: Bill, other: Bill, values: Values) -> np.ndarray:
    if bill.unit != other.unit:
        raise ValueError(f"bills per {bill.unit} and per {other.unit} have no ratio; take both per the same unit")
    cost, by = _totals([bill, other], values)
    if not by.all():
        raise ValueError("the other bill costs nothing, so there is no ratio to it")
    return np.asarray(cost / by)


def _constants(bills: Sequence[Bill]) -> list[Constant]:
    used = {constant for bill in bills for constant in bill.constants}
    return sorted(used, key=lambda c: (c.quantity, c.technology, c.name, c.low, c.typical, c.high, c.per))


def _times(bill: Bill) -> dict[Constant, float]:
    """How often `bill` pays each constant; exactly rounded, so in whatever order its items are."""
    found: dict[Constant, list[float]] = {}
    for term in (term for item in bill.items for term in item.terms):
        found.setdefault(term.constant, []).append(term.times)
    return {constant: fsum(times) for constant, times in found.items()}


def _drawn(draws: int, seed: int) -> Values:
    if draws < 1:
        raise ValueError(f"the number of draws must be 1 or more, not {draws}")
    if seed < 0:
        raise ValueError(f"the seed of the draws must be 0 or more, not {seed}")

    def values(constants: Sequence[Constant]) -> np.ndarray:
        drawn = [_at(constant, _quantiles(draws)[_order(constant.quantity, draws, seed)]) for constant in constants]
        return np.array(drawn).reshape(-1, draws)

    return values


@lru_cache(maxsize=4)
def _quantiles(draws: int) -> np.ndarray:
    """The middles of `draws` equally likely parts of the standard normal distribution, in units of `_EDGE`."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / draws) for i in range(draws)]) / _EDGE


def _order(quantity: str, draws: int, seed: int) -> np.ndarray:
    """An order of all draws, of `quantity` alone; of the generator's words, which never change between versions."""
    key = int.from_bytes(sha256(quantity.encode()).digest())
    words = np.random.PCG64(np.random.SeedSequence([seed, key])).random_raw(draws)
    return np.argsort(words, kind="stable")


def _at(constant: Constant, edges: np.ndarray) -> np.ndarray:
    """Values of `constant` at quantiles: -1 is its low, 0 its typical value, 1 its high."""
    return np.where(
        edges < 0,
        _side(constant.typical, constant.low, np.maximum(-edges, 0)),
        _side(constant.typical, constant.high, np.maximum(edges, 0)),
    )


def _side(typical: float, end: float, distance: np.ndarray) -> np.ndarray:
    """From `typical` at distance 0 to `end` at 1 and beyond it, by equal factors or, if one is 0, by equal steps."""
    if typical and end:
        return np.asarray(typical * (end / typical) ** distance)
    return np.maximum(typical + (end - typical) * distance, 0)


def _swings(bills: Sequence[Bill], answer: Callable[[Values], np.ndarray]) -> list[Swing]:
    quantities = sorted({constant.quantity for constant in _constants(bills)})

    def values(constants: Sequence[Constant]) -> np.ndarray:
        cases = np.repeat([[constant.typical] for constant in constants], 2 * len(quantities), axis=1)
        for row, constant in enumerate(constants):
            at = 2 * quantities.index(constant.quantity)
            cases[row, at : at + 2] = constant.low, constant.high
        return cases

    if not quantities:
        return []
    found = answer(values).reshape(-1, 2).tolist()
    swings = [Swing(quantity, *ends) for quantity, ends in zip(quantities, found, strict=True)]
    return sorted(swings, key=lambda swing: -swing.size)
