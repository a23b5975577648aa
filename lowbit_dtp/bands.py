"""Bands of bills, as rows of a table: totals and shares of links, ratios to another run's bills, and tornadoes."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hw_models import Bill
    from hw_models.uncertainty import Swing


@dataclass(frozen=True)
class Priced:
    """The bill of one rule and use on one technology."""

    rule: str
    use: str
    """`training` or `inference`."""
    bill: "Bill"

    @property
    def per_sample(self) -> "Priced":
        """The same for one average sample."""
        return self if self.bill.unit == "sample" else replace(self, bill=self.bill.per("sample"))

    def is_for(self, use: str, technology: str) -> bool:
        """Whether it is the bill of that use on that technology."""
        return (self.use, self.bill.technology) == (use, technology)

    def counterpart(self, others: "Sequence[Priced]") -> "Priced | None":
        """The one of `others` for the same use and technology: of the only rule there, or of the same rule."""
        one_rule = len({other.rule for other in others}) == 1
        return next(
            (x for x in others if x.is_for(self.use, self.bill.technology) and (one_rule or x.rule == self.rule)), None
        )


@dataclass(frozen=True)
class Tornado:
    """What moves an answer most: a total in joules or, where `unit` is empty, a ratio."""

    title: str
    typical: float
    """The answer with all quantities typical."""
    unit: str
    swings: "Sequence[Swing]"


def rows(
    bills: Sequence[Priced],
    others: Sequence[Priced],
    baselines: Mapping[str, Sequence[Priced]],
    beside: str,
    draws: int,
    seed: int,
) -> list[dict[str, Any]]:
    """For each bill: its `bands`, its `baselines` with theirs, and in training `break_even_joules`; values for JSON.

    `baselines` are those of each rule's network. Ratios are to the counterpart in `others`, or if there are none, to
    the baseline called `beside`. All constants are drawn once for all bills, and typical is the median of draws.
    """
    from hw_models.baselines import BASELINES, GRADIENT

    [reference] = [x.name for x in BASELINES if x.gradient == GRADIENT]
    networks = list({id(own): own for own in baselines.values()}.values())
    every = [(each, baselines.get(each.rule, ())) for each in bills] + [(x, own) for own in networks for x in own]
    pairs = [(each, each.counterpart(others or [x for x in own if x.rule == beside])) for each, own in every]
    bands = {id(each): band for (each, _), band in zip(pairs, _bands(pairs, draws, seed), strict=True)}
    even: dict[int, dict[str, Any]] = {}
    for own in networks:
        for technology in dict.fromkeys(each.bill.technology for each in bills):
            training = [x for x in bills if baselines.get(x.rule) is own and x.is_for("training", technology)]
            known = {x.rule: x.bill for x in own if x.is_for("training", technology)}
            found = _break_evens([x.bill for x in training], known.get(reference), draws, seed)
            even |= {id(x): row for x, row in zip(training, found, strict=True)}
    return [
        {
            "bands": bands[id(each)],
            "break_even_joules": even.get(id(each)),
            "baselines": [
                {
                    "rule": x.rule,
                    **total_and_share(x.bill),
                    "bands": bands[id(x)],
                }
                for x in baselines.get(each.rule, ())
                if x.is_for(each.use, each.bill.technology)
            ],
        }
        for each in bills
    ]


def total_and_share(bill: "Bill") -> dict[str, Any]:
    """Total and links' share of a bill, for JSON."""
    total = bill.total
    return {"total": asdict(total), "links_share": asdict(bill.links_share) if total.typical else None}


def _bands(pairs: "Sequence[tuple[Priced, Priced | None]]", draws: int, seed: int) -> list[dict[str, Any]]:
    """90 % bands of each bill's total, links' share and ratio to the bill beside it."""
    from hw_models.uncertainty import band, part_of, totals

    found = []
    bills = [bill for each, other in pairs for bill in (each.bill, part_of(each.bill, "link"), (other or each).bill)]
    drawn = totals(bills, draws, seed).reshape(len(pairs), 3, draws)
    for (each, other), (total, links, beside) in zip(pairs, drawn, strict=True):
        if other and not beside.all():
            raise ValueError(f"{other.rule} costs nothing in {other.use}, so there is no ratio to it")
        found.append({
            "draws": draws,
            "seed": seed,
            "total": asdict(band(total)),
            "links_share": asdict(band(links / total)) if total.all() else None,
            "against": other.rule if other else None,
            "ratio": asdict(band(total / beside)) if other else None,
            "ratio_of_typical": each.bill.total.typical / other.bill.total.typical if other else None,
        })  # fmt: skip
    return found


def _break_evens(bills: "Sequence[Bill]", other: "Bill | None", draws: int, seed: int) -> list[dict[str, Any]]:
    """Widths of straight-through's gradient at which it costs as much, in total and on links.

    None where no gradient crosses a link of few bits, or it costs nothing there.
    """
    from hw_models.baselines import GRADIENT, break_even_joules

    found: list[dict[str, Any]] = [{"total": None, "links": None} for _ in bills]
    if other is None:
        return found
    for name, part in ("total", ""), ("links", "link"):
        with suppress(ValueError):
            for row, width in zip(found, break_even_joules(bills, other, GRADIENT, part, draws, seed), strict=True):
                row[name] = asdict(width)
    return found


def tornado(priced: Priced, others: Sequence[Priced]) -> Tornado | None:
    """What moves the total most or, if there are `others`, the ratio to the counterpart; None if that has no ratio."""
    from hw_models.uncertainty import tornado, tornado_ratio

    total = priced.bill.total.typical
    title = f"{priced.rule}, {priced.use}, {priced.bill.technology}"
    if not others:
        return Tornado(f"{title}: joules a {priced.bill.unit}", total, "J", tornado(priced.bill))
    other = priced.counterpart(others)
    if other is None or other.bill == priced.bill:
        return None
    swings = tornado_ratio(priced.bill, other.bill)
    return Tornado(f"{title}: times the joules of {other.rule}", total / other.bill.total.typical, "", swings)
