"""Bands of bills, as rows of a table: totals and shares of links, ratios to another run's bills, and tornadoes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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

    def counterpart(self, others: "Sequence[Priced]") -> "Priced | None":
        """The one of `others` for the same use and technology: of the only rule there, or of the same rule."""
        one_rule = len({other.rule for other in others}) == 1
        key = self.use, self.bill.technology
        alike = (o for o in others if (o.use, o.bill.technology) == key and (one_rule or o.rule == self.rule))
        return next(alike, None)


@dataclass(frozen=True)
class Tornado:
    """What moves an answer most: a total in joules or, where `unit` is empty, a ratio."""

    title: str
    typical: float
    """The answer with all quantities typical."""
    unit: str
    swings: "Sequence[Swing]"


def bands(priced: Priced, others: Sequence[Priced], draws: int, seed: int) -> dict[str, Any]:
    """90 % bands of total, links' share and ratio to the counterpart in `others`, for JSON; typical is the median."""
    from hw_models.uncertainty import band, links_share, ratio, totals

    bill, other = priced.bill, priced.counterpart(others)
    return {
        "draws": draws,
        "seed": seed,
        "total": asdict(band(totals([bill], draws, seed)[0])),
        "links_share": asdict(links_share(bill, draws, seed)) if bill.total.typical else None,
        "against": other.rule if other else None,
        "ratio": asdict(ratio(bill, other.bill, draws, seed)) if other else None,
        "ratio_of_typical": bill.total.typical / other.bill.total.typical if other else None,
    }


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
