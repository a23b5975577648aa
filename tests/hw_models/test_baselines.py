"""Baselines: where bills break even, against prices of ledgers with other gradients."""

from dataclasses import astuple

import numpy as np
import pytest

from hw_models import HardwareConfig, Technology, price
from hw_models.baselines import BASELINES, BreakEven, break_even_joules, in_number
from lowbit_dtp.data import Samples
from lowbit_dtp.formats import parse
from lowbit_dtp.ledger import Direction, Ledger, MessageType, Work
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import RMSprop
from lowbit_dtp.rules import StraightThrough, rule_named
from lowbit_dtp.training import Progress, fit

T45 = Technology.load("45nm")
BOARD, ON_DIE = HardwareConfig.parse("rest=board"), HardwareConfig.parse("rest=on-die:1mm")
SAMPLES = 10


def straight_through(bits, work=1000):
    """500 bits up and 500 codes down a sample, of which half toggle, and some work."""
    ledger = Ledger(samples=SAMPLES)
    ledger.crossed(MessageType("h1-h2", Direction.FORWARD, "activations", "binary", 1, 500), SAMPLES, 0, 2500)
    gradient = MessageType("h1-h2", Direction.FEEDBACK, "error", f"fixed({bits},1)", bits, 500)
    ledger.crossed(gradient, SAMPLES, 0, SAMPLES * 500 * bits // 2)
    ledger.worked(Work("h1", "activations", "tanh", "float32"), work)
    return ledger


def dtp(work=1000):
    """1000 bits up and 1500 down a sample."""
    ledger = Ledger(samples=SAMPLES)
    for direction, times in ((Direction.FORWARD, 2), (Direction.FEEDBACK, 3)):
        message = MessageType("h1-h2", direction, "activations", "binary", 1, 500)
        ledger.crossed(message, SAMPLES * times, 0, SAMPLES * times * 250)
    ledger.worked(Work("h1", "activations", "tanh", "float32"), work)
    return ledger


def break_even(bill, other, part="", **options):
    """With straight-through and a gradient of 8 bits."""
    [found] = break_even_joules([bill], other, "fixed(8,1)", part, **options)
    return found


def priced(ledger, config=BOARD):
    return price(ledger, config, T45).per("sample")


@pytest.mark.parametrize("config", [BOARD, ON_DIE], ids=["board", "on-die"])
def test_with_equal_work_joules_break_even_where_bits_do(config):
    """At 4 bits: 500 + 500 g = 2500. All constants are shared, so it is certain."""
    other = priced(straight_through(8), config)
    for part in ("", "link"):
        assert astuple(break_even(priced(dtp(), config), other, part)) == pytest.approx((4.0, 4.0, 4.0))


@pytest.mark.parametrize("work", [0, 500, 1000, 1700, 5000])
def test_bills_are_equal_at_break_even(work):
    """Bisection over the widths of a gradient finds the same width, up to the next whole bit."""
    bill = priced(dtp(work))
    found = break_even(bill, priced(straight_through(8))).typical
    low, high = -100, 300
    while high - low > 1:
        middle = (low + high) // 2
        cost = 500 * (1 + middle) * 10e-12 + 1000 * 14.6e-12 / SAMPLES  # 10 pJ a bit; a tanh is 14.6 pJ
        low, high = (middle, high) if cost <= bill.total.typical else (low, middle)
    assert low <= found + 1e-9 and found < high + 1e-9
    if found <= 0:
        assert bill.total.typical < priced(straight_through(1)).total.typical


def test_more_work_makes_it_uncertain():
    """Links alone break even at 4 bits for certain; with more work elsewhere, constants of work matter, too."""
    other = priced(straight_through(8))
    more = break_even(priced(dtp(work=3000)), other)
    assert 4 < more.low < more.typical < more.high
    assert astuple(break_even(priced(dtp(work=3000)), other, "link")) == pytest.approx((4.0, 4.0, 4.0))
    assert break_even(priced(dtp(work=0)), other).high < 4


def test_no_width_breaks_even_where_a_gradient_costs_nothing():
    message = "straight-through sent no gradients in fixed(8,1) that cost anything, so no width breaks even"
    for other in (straight_through(4), dtp()):
        with pytest.raises(ValueError) as error:
            break_even(priced(dtp()), priced(other))
        assert str(error.value) == message


def test_units_must_be_the_same():
    other = priced(straight_through(8))
    with pytest.raises(ValueError, match=r"^bills per sample and per ledger do not break even; take all per the same"):
        break_even(price(dtp(), BOARD, T45), other)


def test_baselines_name_rules_and_formats():
    assert len({baseline.name for baseline in BASELINES}) == len(BASELINES)
    widths = []
    for baseline in BASELINES:
        fields = rule_named(baseline.rule).__dataclass_fields__
        assert parse(baseline.number).bits <= 32 and "gradient" in fields
        if baseline.gradient:
            widths.append(parse(baseline.gradient).bits)
            assert baseline.name == f"straight-through {widths[-1]} bit"
    assert widths == [1, 2, 3, 4, 8, 16, 32]


def test_break_even_is_ordered():
    other = priced(straight_through(8))
    found = break_even(priced(dtp(work=2000)), other, coverage=0.5)
    wider = break_even(priced(dtp(work=2000)), other, coverage=0.9)
    assert isinstance(found, BreakEven) and wider.low < found.low < found.high < wider.high


# --- other number formats


def backprop(link, weights=None):
    """The ledger of a short run of 6-5-4-3, whose links other than the first have the format `link`."""
    net = Network.build([6, 5, 4, 3], [Link("ufixed(8,0)"), Link(link, link), Link(link, link)])
    optimizer = RMSprop(0.01)
    net.quantize_weights(weights or {}, optimizer.keeps_master)
    draw = np.random.default_rng(0)
    samples = Samples(draw.random((5, 6), dtype=np.float32), draw.integers(0, 3, 5))
    progress = Progress()
    for _ in fit(net, StraightThrough(), optimizer, samples, epochs=1, batch=2, progress=progress):
        pass
    return progress.ledger


def messages(ledger):
    return {message_type: traffic.messages for message_type, traffic in ledger.traffic.items()}


def test_few_bit_numbers_are_sent_and_accessed_as_in_a_run_with_them():
    """A run with links and weights of 8 bits differs in float buffers of states and errors, and in rounding."""
    made, run = in_number(backprop("float32"), "fixed(8,1)"), backprop("fixed(8,1)", {"rest": "fixed(8)"})
    assert messages(made) == messages(run)
    buffers = ("state", "error", "input gradient")
    accesses = [{a: words for a, words in x.accesses.items() if a.array not in buffers} for x in (made, run)]
    assert accesses[0] == accesses[1] and any(access.array == "weight_master" for access in accesses[0])
    forward = [
        {w: n for w, n in x.work.items() if w.purpose not in ("error", "gradient", "quantization")} for x in (made, run)
    ]
    assert forward[0] == forward[1]


def test_every_product_is_in_the_number_and_every_sum_in_float32():
    ledger = backprop("float32")
    made = in_number(ledger, "bfloat16")
    assert (made.samples, made.batch, made.steps) == (ledger.samples, ledger.batch, ledger.steps)
    assert sum(made.work.values()) == sum(ledger.work.values())
    for work in made.work:
        if work.operation == "multiply-accumulate":
            assert {work.left, work.right} <= {"bfloat16", "ufixed(8,0)"}
        else:
            assert (work.left, work.right) == ("float32", "")
    masters = {a: words for a, words in made.accesses.items() if a.array.endswith("_master")}
    updates = {a: words for a, words in ledger.accesses.items() if (a.array, a.purpose) == ("weight", "update")}
    assert {a._replace(array="weight"): words for a, words in masters.items()} == updates
    assert all(a.purpose == "update" for a in masters)
    toggles = [sum(t.toggles for m, t in x.traffic.items() if m.link == "h1-h2") for x in (ledger, made)]
    assert abs(toggles[1] - toggles[0] / 2) <= 1


def test_float32_is_what_it_was():
    ledger = backprop("float32")
    assert in_number(ledger, "float32") is ledger
