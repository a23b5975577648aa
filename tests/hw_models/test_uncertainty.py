"""Uncertainty: bands against closed forms, draws that bills share, and what moves an answer most."""

from dataclasses import astuple, replace
from math import exp, log, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_models import Bill, Constant, HardwareConfig, Item, Range, Technology, Term, price
from hw_models.uncertainty import Swing, band, links_share, ratio, tornado, tornado_ratio, totals
from lowbit_dtp.ledger import Access, Direction, Ledger, MessageType, Work

Z95 = NormalDist().inv_cdf(0.95)


def constant(name, low, typical, high):
    return Constant("test", name, low, typical, high, "joule", "operation", "A. Author, 2000", "published estimate")


def bill(*terms, part="compute", unit="sample"):
    """A bill with one line for each pair of a constant and how often it is paid."""
    items = [Item(part, "h1", "local", "add", "activations", "float32", (Term(*term),)) for term in terms]
    return Bill("test", HardwareConfig(), tuple(items), {"sample": 1}, unit=unit)


def joined(*bills):
    return replace(bills[0], items=tuple(item for each in bills for item in each.items))


A = constant("a", 1.0, 2.0, 8.0)
B = constant("b", 1.0, 2.0, 8.0)
EXACT = constant("exact", 3.0, 3.0, 3.0)


def near(values, tolerance=1e-6):
    return pytest.approx(astuple(values) if isinstance(values, Range) else values, rel=tolerance)


# --- one constant


@pytest.mark.parametrize("ends", [(1.0, 2.0, 8.0), (1.0, 1.0, 4.0), (2.0, 8.0, 8.0), (0.0, 2.0, 8.0), (0.0, 0.0, 8.0)])
def test_band_of_one_constant_is_its_range(ends):
    values = totals([bill((constant("a", *ends), 10))])
    assert astuple(band(values[0])) == pytest.approx([10 * end for end in ends], rel=1e-4, abs=1e-2)


def test_exact_constant_has_no_band():
    assert astuple(band(totals([bill((EXACT, 10))])[0])) == (30.0, 30.0, 30.0)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.98])
def test_narrower_bands_are_quantiles_of_two_half_log_normals(coverage):
    low, high = (NormalDist().inv_cdf((1 + sign * coverage) / 2) / Z95 for sign in (-1, 1))
    expected = Range(2 * exp(-low * log(1 / 2)), 2.0, 2 * exp(high * log(8 / 2)))
    assert astuple(band(totals([bill((A, 1))])[0], coverage)) == near(expected, 1e-3)


@given(st.floats(1e-18, 1e-9), st.floats(1, 10), st.floats(1, 10))
@settings(max_examples=20, deadline=None)
def test_draws_are_log_normal_and_never_negative(low, up, further):
    drawn = totals([bill((constant("a", low, low * up, low * up * further), 1))])[0]
    for factor, side in ((up, drawn[drawn < low * up]), (further, drawn[drawn > low * up])):
        if factor > 1.01:
            deviation = np.sqrt(np.mean(np.log(side / (low * up)) ** 2))
            assert deviation == pytest.approx(log(factor) / Z95, rel=1e-2)
    assert (drawn > 0).all()


def test_low_of_zero_is_normal_and_cut_off():
    drawn = totals([bill((constant("a", 0.0, 2.0, 2.0), 1))])[0]
    assert drawn.min() == 0 and np.mean(drawn == 0) == pytest.approx(0.05, abs=2e-4)
    assert np.mean(drawn[drawn < 2] > 1) == pytest.approx((0.5 - NormalDist().cdf(-Z95 / 2)) / 0.5, abs=1e-3)


# --- sums


def test_totals_are_linear():
    first, second = bill((A, 3), (EXACT, 1)), bill((A, 1), (B, 5))
    a, b, both, thrice = totals([first, second, joined(first, second), joined(first, first, first)])
    assert both == pytest.approx(a + b)
    assert thrice == pytest.approx(3 * a)


def test_sum_of_independent_constants_has_the_closed_form():
    """Log-normals of one width on both sides: a product of powers has a known width, and a sum known moments."""
    symmetric = [constant(name, 1.0, 2.0, 4.0) for name in "ab"]
    sigma = log(2) / Z95
    mean, variance = 2 * exp(sigma**2 / 2), 4 * exp(sigma**2) * (exp(sigma**2) - 1)
    total = totals([bill((symmetric[0], 1), (symmetric[1], 1))], draws=100_000)[0]
    assert total.mean() == pytest.approx(2 * mean, rel=1e-3)
    assert total.std() == pytest.approx(sqrt(2 * variance), rel=1e-2)
    quotient = ratio(bill((symmetric[0], 1)), bill((symmetric[1], 1)), draws=100_000)
    expected = Range(exp(-Z95 * sqrt(2) * sigma), 1.0, exp(Z95 * sqrt(2) * sigma))
    assert astuple(quotient) == near(expected, 2e-2)


def test_quantities_of_one_family_move_together(monkeypatch):
    ends = [constant("sram 8 KiB", 1.0, 2.0, 8.0), constant("sram 1 MiB", 10.0, 20.0, 80.0)]
    assert ratio(bill((ends[0], 1)), bill((ends[1], 1))).low < 0.03
    monkeypatch.setattr(Constant, "quantity", property(lambda self: f"{self.technology}/sram"))
    assert astuple(ratio(bill((ends[0], 1)), bill((ends[1], 1)))) == near(Range(0.1, 0.1, 0.1))
    assert tornado(bill((ends[0], 1), (ends[1], 1))) == [Swing("test/sram", 11.0, 88.0)]


# --- ratios and shares


def test_ratio_of_a_bill_to_itself_is_one():
    either = bill((A, 0.3), (B, 0.7), (EXACT, 1 / 3))
    assert astuple(ratio(either, either)) == (1.0, 1.0, 1.0)
    assert astuple(ratio(joined(either, either), either)) == near(Range(2.0, 2.0, 2.0))


def test_shared_constants_make_a_ratio_narrower():
    shared = ratio(bill((A, 3), (B, 1)), bill((A, 1), (B, 1)))
    others = [constant(name, 1.0, 2.0, 8.0) for name in "cd"]
    apart = ratio(bill((A, 3), (B, 1)), bill((others[0], 1), (others[1], 1)))
    assert 1 < shared.low < shared.typical < shared.high < 3
    assert shared.high / shared.low < apart.high / apart.low / 4


def test_ratio_of_bills_per_different_units():
    with pytest.raises(ValueError, match=r"^bills per sample and per step have no ratio; take both per the same unit$"):
        ratio(bill((A, 1)), bill((A, 1), unit="step"))


@pytest.mark.parametrize("other", [bill(), bill((A, 0)), bill((constant("zero", 0.0, 0.0, 0.0), 1))])
def test_no_ratio_to_nothing(other):
    with pytest.raises(ValueError, match=r"^the other bill costs nothing, so there is no ratio to it$"):
        ratio(bill((A, 1)), other)


def test_links_share():
    """Of two constants of equal distribution, the share is logistic in the logarithm of their quotient."""
    either = joined(bill((constant("a", 1.0, 2.0, 4.0), 1), part="link"), bill((constant("b", 1.0, 2.0, 4.0), 1)))
    quotient = exp(Z95 * sqrt(2) * log(2) / Z95)
    expected = Range(1 / (1 + quotient), 0.5, quotient / (1 + quotient))
    assert astuple(links_share(either, draws=100_000)) == near(expected, 2e-2)
    assert astuple(links_share(bill((A, 1), part="link"))) == (1.0, 1.0, 1.0)
    assert astuple(links_share(bill((A, 1)))) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"^nothing in this bill cost anything, so links have no share of it$"):
        links_share(bill())


# --- draws


def test_same_seed_same_numbers():
    either = bill((A, 3), (B, 1))
    assert (totals([either]) == totals([either])).all()
    assert (totals([either], seed=1) != totals([either])).mean() > 0.99
    recorded = [20.781392, 5.975814, 11.889953, 11.3346, 5.099772]  # the same in every version and on every machine
    assert totals([either], draws=5)[0] == near(recorded, 1e-6)


def test_numbers_do_not_depend_on_the_bills_beside_or_on_the_order():
    first = bill((A, 0.1), (B, 0.7), (A, 1 / 3), (EXACT, 1e-3))
    second = bill((constant("aa", 1.0, 2.0, 3.0), 3), (B, 7))
    alone = totals([first])[0]
    assert (totals([first, second])[0] == alone).all()
    assert (totals([second, first])[1] == alone).all()
    assert (totals([replace(first, items=first.items[::-1])])[0] == alone).all()


def test_a_band_hardly_depends_on_the_seed():
    either = bill((A, 3), *((constant(f"c{i}", 1.0, 2.0, 8.0), 1) for i in range(10)))
    bands = np.array([astuple(band(totals([either], seed=seed)[0])) for seed in range(5)])
    assert (bands.std(axis=0) / bands.mean(axis=0)).max() < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "the number of draws must be 1 or more, not 0"),
        ({"seed": -1}, "the seed of the draws must be 0 or more, not -1"),
        ({"coverage": 1.0}, "a band covers a fraction between 0 and 1 of the values, not 1.0"),
    ],
)
def test_options_out_of_bounds(options, message):
    with pytest.raises(ValueError) as error:
        ratio(bill((A, 1)), bill((A, 1)), **options)
    assert str(error.value) == message


def test_no_bills():
    assert totals([], draws=7).shape == (0, 7)
    assert totals([bill()], draws=7).tolist() == [[0.0] * 7]
    assert tornado(bill()) == []


# --- what moves an answer most


def test_tornado():
    either = bill((A, 3), (constant("b", 1.0, 2.0, 3.0), 10), (EXACT, 100))
    assert tornado(either) == [
        Swing("test/a", 3 + 20 + 300, 24 + 20 + 300),
        Swing("test/b", 6 + 10 + 300, 6 + 30 + 300),
        Swing("test/exact", 326.0, 326.0),
    ]
    assert [swing.size for swing in tornado(either)] == [21.0, 20.0, 0.0]


def test_tornado_of_a_ratio():
    first, second = bill((A, 1), (B, 1)), bill((A, 1), (EXACT, 1))
    assert tornado_ratio(first, second) == [
        Swing("test/b", 3 / 5, 10 / 5),
        Swing("test/a", 3 / 4, 10 / 11),
        Swing("test/exact", 4 / 5, 4 / 5),
    ]
    assert [swing.size for swing in tornado_ratio(first, first)] == [0.0, 0.0]


# --- a real bill


def test_a_ledger_with_and_without_a_link():
    ledger = Ledger(samples=1)
    ledger.worked(Work("h1", "activations", "tanh", "float32"), 1000)
    ledger.accessed(Access("h1", "weight", "read", "float32", 32, 32 * 1000), 1000)
    without = price(ledger, HardwareConfig(), Technology.load("45nm"))
    ledger.crossed(MessageType("h1-h2", Direction.FORWARD, "activations", "binary", 1, 500), 10, 0, 0)
    on_board = price(ledger, HardwareConfig.parse("h1-h2=board"), Technology.load("45nm"))
    assert ratio(on_board, without).low > 1
    assert astuple(ratio(without, without)) == (1.0, 1.0, 1.0)
    share = links_share(on_board)
    assert share.low > on_board.links_share.low and share.high < on_board.links_share.high
    assert {swing.quantity for swing in tornado(on_board)} == {c.quantity for c in on_board.constants}
