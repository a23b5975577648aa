"""Prices: joules against separate calculations, completeness, and bills that add up."""

import json
import subprocess
import sys
from dataclasses import astuple
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_models import HardwareConfig, Range, Technology, Wire, break_even_gradient_bits, price
from hw_models.feedback_weights import with_feedback_weights_above
from hw_models.price import KEYS
from hw_models.technology import MESSAGE_EVENTS
from lowbit_dtp.ledger import OPERATIONS, Access, Direction, Ledger, MessageType, Work
from lowbit_dtp.storage import StorageError

T45, T7 = Technology.load("45nm"), Technology.load("7nm")
PJ = 1e-12
MAC = "multiply-accumulate"


def near(joules):
    """`joules`, a range or a number, to within rounding."""
    return pytest.approx(astuple(joules) if isinstance(joules, Range) else joules, rel=1e-9)


def sent(
    link="h1-h2",
    direction=Direction.FORWARD,
    purpose="activations",
    width=500,
    messages=10,
    toggles=0,
    fmt=("binary", 1),
):
    ledger = Ledger(samples=10)
    ledger.crossed(MessageType(link, direction, purpose, *fmt, width), messages, 0, toggles)
    return ledger


def worked(operation, left, right="", times=1000):
    ledger = Ledger(samples=10)
    ledger.worked(Work("h1", "activations", operation, left, right), times)
    return ledger


def accessed(capacity_bits, array="weight", way="read", fmt=("float32", 32), words=1000):
    ledger = Ledger(samples=10)
    ledger.accessed(Access("h1", array, way, *fmt, capacity_bits), words)
    return ledger


def dtp(samples=7):
    """What DTP sends over h1-h2 in 784-500-500-10, that link binary both ways: 1000 bits up, 1500 down a sample."""
    ledger = Ledger(epochs=1, steps=1, samples=samples)
    ledger.crossed(MessageType("input-h1", Direction.FORWARD, "activations", "ufixed(8,0)", 8, 784), samples, 9, 9)
    up, down = ("activations", "noisy activations"), ("reconstruction", "state", "target")
    for direction, purposes in ((Direction.FORWARD, up), (Direction.FEEDBACK, down)):
        for purpose in purposes:
            ledger.crossed(MessageType("h1-h2", direction, purpose, "binary", 1, 500), samples, 100, 100)
    return ledger


def everything():
    """A ledger with every operation, and messages and accesses of several kinds."""
    ledger = dtp()
    for operation in OPERATIONS:
        ledger.worked(Work("h1", "activations", operation, "float32", "float32" if operation == MAC else ""), 11)
    ledger.worked(Work("h2", "activations", MAC, "binary", "float32"), 500 * 500)
    for array in ("weight", "bias", "feedback", "feedback_bias", "optimizer state"):
        for way in ("read", "write"):
            ledger.accessed(Access("h2", array, way, "float32", 32, 32 * 500 * 500), 250_000)
    return ledger


# --- links


@pytest.mark.parametrize(
    ("wire", "joules"),
    [
        ("interposer", 5000 * 0.25 * PJ),
        ("board", 5000 * 10 * PJ),
        ("chip-to-chip", 5000 * 1.3 * PJ),
        ("serdes", 5000 * 6 * PJ),
        ("radio", 5000 * 38_000 * PJ),  # 12.66 mA at 3 V for a microsecond
        ("on-die:5mm", 1234 * 5 * 0.24 * PJ),  # by the toggles: 240 fJ a transition a mm at 45 nm
    ],
)
def test_link(wire, joules):
    bill = price(sent(toggles=1234), HardwareConfig.parse(f"h1-h2={wire}"), T45)
    assert bill.total.typical == near(joules)
    assert bill.per("sample").total.typical == near(joules / 10)
    assert bill.by("direction")["forward"] == bill.total


def test_random_bits_cost_half_a_transition_each():
    bill = price(sent(toggles=2500), HardwareConfig(), T45)  # half of 5000 bits change
    assert bill.total.typical == near(5000 * 0.12 * PJ)  # Keckler 2011: 120 fJ a random bit a mm


def test_link_range():
    assert astuple(price(sent(), HardwareConfig.parse("rest=board"), T7).total) == near(Range(5.85e-9, 5e-8, 1.3e-7))


def test_padding_costs_per_bit_but_never_toggles():
    bytes_ = HardwareConfig.parse("rest=board", word_bits=8)
    assert price(sent(), bytes_, T45).total.typical == near(10 * 504 * 10 * PJ)
    on_die = price(sent(toggles=99), HardwareConfig(word_bits=8), T45)
    assert on_die.total == price(sent(toggles=99), HardwareConfig(), T45).total


def test_wide_codes_cost_by_the_bit():
    bill = price(sent(width=784, fmt=("ufixed(8,0)", 8)), HardwareConfig.parse("rest=board"), T45)
    assert bill.total.typical == near(10 * 6272 * 10 * PJ)


def test_scales_cost_as_codes_do():
    ledger = Ledger(steps=1, samples=10)
    message = MessageType("h1-h2", Direction.FEEDBACK, "error", "shared(4)", 4, 500, scale_bits=8)
    ledger.crossed(message, 10, 100, 100)
    board = HardwareConfig.parse("rest=board")
    assert price(ledger, board, T45).total.typical == near(10 * 2008 * 10 * PJ)
    words = HardwareConfig.parse("rest=board", word_bits=64)
    assert price(ledger, words, T45).total.typical == near(10 * 2048 * 10 * PJ)


def test_a_shared_exponent_leaves_integers():
    """A scale for a whole message is a power of two of the sum; its codes multiply as fixed point does."""
    for fmt, alike in (("shared(8)", "fixed(8,1)"), ("shared(2)", "ternary"), ("bernoulli", "binary01")):
        prices = []
        for name in (fmt, alike):
            ledger = Ledger(samples=1)
            ledger.worked(Work("h1", "activations", MAC, name, "fixed(8,1)"), 100)
            prices.append(price(ledger, HardwareConfig(), T45).total)
        assert prices[0] == prices[1]


def wire_file(tmp_path, per):
    path = tmp_path / "mine.toml"
    path.write_text(
        'description = "A test."\n[constants.wire]\nlow = 1e-12\ntypical = 2e-12\nhigh = 3e-12\n'
        f'unit = "joule"\nper = "{per}"\nsource = "A. Author, 2000"\nevidence = "pre-silicon"\n'
    )
    return str(path)


@pytest.mark.parametrize(
    ("per", "metres", "times"),
    [("bit", None, 5000), ("transition", None, 1234), ("bit and metre", 2, 10000), ("transition and metre", 2, 2468)],
)
def test_a_wire_of_your_own(tmp_path, per, metres, times):
    config = HardwareConfig(rest=Wire(wire_file(tmp_path, per), metres))
    assert astuple(price(sent(toggles=1234), config, T45).total) == near(Range(1 * PJ, 2 * PJ, 3 * PJ) * times)


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (
            "on-die",
            "wire 'on-die' of link h1-h2 costs per transition and metre, so it needs a length, as in h1-h2=on-die:5mm",
        ),
        ("board:5mm", "wire 'board' of link h1-h2 costs per bit whatever its length; write h1-h2=board"),
        ("string", f"no technology 'string'; there are: {', '.join(Technology.names())}"),
    ],
)
def test_wire_that_does_not_fit(wire, message):
    with pytest.raises(ValueError) as error:
        price(sent(), HardwareConfig.parse(f"h1-h2={wire}"), T45)
    assert str(error.value) == message


def test_wire_per_operation_is_refused(tmp_path):
    kind = wire_file(tmp_path, "operation")
    with pytest.raises(StorageError) as error:
        price(sent(), HardwareConfig(rest=Wire(kind)), T45)
    allowed = " or ".join(["64-bit access", *MESSAGE_EVENTS])
    assert str(error.value) == (
        f"{kind}: constant 'wire' is in joule per operation; a constant of this name is in joule per {allowed}"
    )


def test_a_process_is_no_wire_and_a_wire_no_process():
    with pytest.raises(ValueError) as error:
        price(sent(), HardwareConfig.parse("rest=7nm"), T45)
    message = "technology '7nm' is no wire, which link h1-h2 needs: its constant 'add int8' is per operation"
    assert str(error.value) == message
    with pytest.raises(ValueError) as error:
        price(worked("tanh", "float32"), HardwareConfig(), Technology.load("board"))
    message = "technology 'board' has no constant 'tanh float32', which tanh of float32 in layer h1 needs; it has: wire"
    assert str(error.value) == message


def test_unknown_link():
    with pytest.raises(ValueError, match=r"^no link 'h2-h3'; there are: h1-h2$"):
        price(sent(), HardwareConfig.parse("h2-h3=board"), T45)


# --- compute


def fit45(bits):
    """Multiplication at 45 nm, in pJ: the published fit."""
    return 0.002995 * bits**2 + 0.001042 * bits


@pytest.mark.parametrize(
    ("operation", "left", "right", "picojoules"),
    [
        (MAC, "float32", "float32", 3.7 + 0.9),
        (MAC, "binary", "float32", 0.9),
        (MAC, "float32", "binary01", 0.9),
        (MAC, "ternary", "float32", 0.9),
        (MAC, "float16", "float16", 1.1 + 0.9),
        (MAC, "bfloat16", "bfloat16", 3.7 + 0.9),
        (MAC, "fixed(8,1)", "float32", 3.7 + 0.9),
        (MAC, "ufixed(8,0)", "float32", 3.7 + 0.9),
        (MAC, "table(-1,0,0.5)", "fixed(8,1)", 3.7 + 0.9),
        (MAC, "binary", "fixed(8,1)", 0.1),
        (MAC, "fixed(16,4)", "ternary", 0.1),
        (MAC, "table(-0.5,0.5)", "fixed(8,1)", 0.1),
        (MAC, "fixed(8,1)", "fixed(8,1)", 0.2 + 0.1),
        (MAC, "fixed(4,1)", "fixed(4,1)", fit45(4) + 0.1),
        (MAC, "fixed(4,1)", "fixed(16,1)", fit45(8) + 0.1),
        (MAC, "fixed(8,1)", "fixed(2,1)", fit45(4) + 0.1),
        (MAC, "binary", "binary", 0.00625),
        (MAC, "binary01", "ufixed(1,1)", 0.00625),
        (MAC, "ternary", "binary", 0.0125),
        (MAC, "fixed(2,2,saturate-symmetric)", "ternary", 0.0125),
        (MAC, "fixed(2,2)", "binary", 0.1),  # holds -2 as well
        ("multiply", "float32", "", 3.7),
        ("multiply", "fixed(16,1)", "", fit45(16)),
        ("multiply", "fixed(32,1)", "fixed(32,1)", 3.1),
        ("add", "float32", "", 0.9),
        ("add", "fixed(8,1)", "", 0.03),
        ("add", "fixed(16,1)", "fixed(8,1)", 0.03 + (0.1 - 0.03) / 3),
        ("add", "fixed(4,1)", "", 0.0125),
        ("divide", "float32", "", 5 * 3.7 + 2 * 0.9),
        ("square-root", "float32", "", 7 * 3.7 + 2 * 0.9),
        ("tanh", "float32", "", 10 + 3.7 + 0.9),
        ("exp", "fixed(8,1)", "", 10 + 3.7 + 0.9),
    ],
)
def test_operation_at_45nm(operation, left, right, picojoules):
    bill = price(worked(operation, left, right), HardwareConfig(), T45)
    assert bill.total.typical == near(1000 * picojoules * PJ)


@pytest.mark.parametrize(
    ("operation", "left", "right", "picojoules"),
    [
        (MAC, "float32", "float32", 1.31 + 0.38),
        (MAC, "binary", "float32", 0.38),
        (MAC, "bfloat16", "bfloat16", 0.21 + 0.38),
        (MAC, "bfloat16", "float32", 1.31 + 0.38),
        (MAC, "fp8-e4m3", "fp8-e4m3", 1.31 + 0.38),
        (MAC, "fixed(8,1)", "fixed(8,1)", 0.07 + 0.03),
        ("tanh", "float32", "", 7.5 + 1.31 + 0.38),
    ],
)
def test_operation_at_7nm(operation, left, right, picojoules):
    assert price(worked(operation, left, right), HardwareConfig(), T7).total.typical == near(1000 * picojoules * PJ)


@pytest.mark.parametrize("technology", [T45, T7], ids=["45nm", "7nm"])
def test_wider_integers_cost_more(technology):
    formats = [f"fixed({bits},1)" for bits in range(3, 33)]
    costs = [price(worked(MAC, fmt, fmt), HardwareConfig(), technology).total.typical for fmt in formats]
    assert all(narrow < wide for narrow, wide in pairwise(costs))


@pytest.mark.parametrize("technology", [T45, T7], ids=["45nm", "7nm"])
def test_wider_sums_cost_more(technology):
    costs = [price(worked("add", f"fixed({bits},1)"), HardwareConfig(), technology).total for bits in range(2, 33)]
    for end in ("low", "typical", "high"):
        assert all(getattr(narrow, end) < getattr(wide, end) for narrow, wide in pairwise(costs))


def test_accumulator_width():
    bill = price(worked(MAC, "binary", "fixed(8,1)"), HardwareConfig(accumulator_bits=20), T45)
    assert bill.total.typical == near(1000 * (0.03 + 0.1) / 2 * PJ)


def test_constant_missing_is_an_error_and_never_zero():
    with pytest.raises(ValueError) as error:
        price(worked(MAC, "float64", "float32"), HardwareConfig(), T45)
    assert str(error.value) == (
        "technology '45nm' has no constant 'multiply float64', which multiply-accumulate of float64 x float32 in "
        f"layer h1 needs; it has: {', '.join(T45.constants)}"
    )


# --- memory


@pytest.mark.parametrize(
    ("capacity_bits", "picojoules"),
    [(1, 10), (2**16, 10), (2**17, 10 * 2**0.5), (2**18, 20), (2**23, 100), (2**30, 100)],
)
def test_sram_is_on_a_curve_through_the_sizes(capacity_bits, picojoules):
    """Straight in log-log: half way from 8 to 32 KiB in size is half way in cost. Larger arrays are in banks."""
    bill = price(accessed(capacity_bits), HardwareConfig(), T45)
    assert bill.total.typical == near(1000 * 32 / 64 * picojoules * PJ)


@pytest.mark.parametrize("technology", [T45, T7], ids=["45nm", "7nm"])
def test_a_little_more_memory_costs_a_little_more(technology):
    costs = [price(accessed(int(1024 * 1.01**i)), HardwareConfig(), technology).total.typical for i in range(1200)]
    assert all(small <= large <= 1.05 * small for small, large in pairwise(costs))
    assert costs[-1] > 1.5 * costs[0]


def test_a_memory_between_two_sizes_names_both():
    [constant] = price(accessed(2**17), HardwareConfig(), T45).constants
    assert constant.name == "sram 16 KiB" and constant.capacity_bits == 2**17
    assert constant.source.startswith("between sram 8 KiB and sram 32 KiB, log-log: Horowitz")


@pytest.mark.parametrize(("fmt", "words"), [(("float32", 32), 2), (("fixed(8,1)", 8), 8), (("binary", 1), 64)])
def test_sram_costs_by_the_bit(fmt, words):
    assert price(accessed(64, fmt=fmt, words=words), HardwareConfig(), T45).total.typical == near(10 * PJ)


def test_dram():
    assert astuple(price(accessed(1), HardwareConfig(memory="dram"), T45).total) == near(
        Range(1300, 1300, 2600) * (500 * PJ)
    )
    assert price(accessed(1), HardwareConfig(memory="hbm2"), T7).total.typical == near(500 * 350 * PJ)
    with pytest.raises(ValueError) as error:
        price(accessed(1), HardwareConfig(memory="hbm2"), T45)
    assert str(error.value) == (
        f"technology '45nm' has no constant 'hbm2', which read of weight in layer h1 needs; "
        f"it has: {', '.join(T45.constants)}"
    )


def test_memory_must_cost_per_64_bits():
    with pytest.raises(ValueError) as error:
        price(accessed(1), HardwareConfig(memory="add int8"), T45)
    assert str(error.value) == (
        "constant 'add int8' of technology '45nm' is per operation; "
        "read of weight in layer h1 needs one per 64-bit access"
    )


def test_no_sram_is_an_error():
    with pytest.raises(ValueError) as error:
        price(accessed(1), HardwareConfig(), Technology.load("board"))
    message = "technology 'board' has no constant 'sram', which read of weight in layer h1 needs; it has: wire"
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("array", "way", "purpose", "divisor"),
    [
        ("weight", "read", "activations", 100),
        ("feedback", "read", "target", 100),
        ("weight gradient", "read", "gradient", 100),
        ("weight gradient", "write", "gradient", 100),
        ("weight", "read", "", 100),  # of an older file, which does not say
        ("weight", "read", "update", 1),
        ("weight", "write", "update", 1),
        ("weight gradient", "read", "update", 1),
        ("weight optimizer state", "read", "update", 1),
        ("weight_master", "read", "update", 1),
        ("weight norm", "read", "match", 1),
        ("weight", "read", "winner", 1),
        ("input", "read", "activations", 1),
    ],
)
def test_reuse_divides_what_samples_share(array, way, purpose, divisor):
    ledger = Ledger(samples=1000, steps=10, batch=100)
    ledger.accessed(Access("h1", array, way, "float32", 32, 32, purpose), 1000)
    bill = price(ledger, HardwareConfig(reuse=100), T45)
    assert bill.total.typical == near(500 * 10 * PJ / divisor)


def test_reuse_of_one_array_or_one_use():
    ledger = Ledger(samples=100, steps=1, batch=100)
    for layer in ("h1", "h2"):
        ledger.accessed(Access(layer, "weight", "read", "float32", 32, 32, "activations"), 1000)
        ledger.accessed(Access(layer, "weight", "read", "float32", 32, 32, "error"), 1000)
    cost = 500 * 10 * PJ
    for reuse, times in [
        ({"h1": 10}, 2 / 10 + 2),
        ({"h1.weight.error": 10}, 1 / 10 + 3),
        ({"rest": 2, "h1.weight": 4, "h1.weight.error": 10}, 1 / 4 + 1 / 10 + 2 / 2),
        ({"rest.weight.error": 10}, 2 + 2 / 10),
    ]:
        assert price(ledger, HardwareConfig(reuse=reuse), T45).total.typical == near(times * cost)


def test_reuse_is_at_most_the_minibatch():
    ledger = Ledger(samples=1000, steps=20, batch=50)
    ledger.accessed(Access("h1", "weight", "read", "float32", 32, 32, "activations"), 1000)
    assert price(ledger, HardwareConfig(reuse=50), T45).total.typical == near(10 * 10 * PJ)
    with pytest.raises(ValueError) as error:
        price(ledger, HardwareConfig(reuse=10**9), T45)
    assert str(error.value) == (
        "reuse 1e+09 of weight in layer h1: a minibatch of this ledger has 50 samples, so that is the most that can "
        "share one access"
    )


def test_weights_next_to_the_arithmetic_are_loaded_once_a_minibatch():
    ledger = Ledger(samples=1000, steps=20, batch=50)
    ledger.accessed(Access("h1", "weight", "read", "float32", 32, 32, "activations"), 1000)
    stationary = price(ledger, HardwareConfig(memory="stationary"), T45)
    assert stationary.total == price(ledger, HardwareConfig(reuse=50), T45).total


def test_buffers_hold_the_samples_that_share_a_read():
    ledger = Ledger(samples=64, steps=1, batch=64)
    ledger.accessed(Access("h1", "input", "read", "float32", 32, 2**16, "activations"), 1000)
    assert price(ledger, HardwareConfig(reuse=4), T45).total.typical == near(500 * 20 * PJ)  # 4 x 8 KiB
    assert price(ledger, HardwareConfig(memory="dram"), T45).total.typical == near(500 * 10 * PJ)  # not weights
    assert price(ledger, HardwareConfig(memory={"h1.input": "dram"}), T45).total.typical == near(500 * 1300 * PJ)


def test_a_memory_that_multiplies(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'description = "A test."\n[constants."in-memory multiply-accumulate"]\ntypical = 2e-15\nunit = "joule"\n'
        'per = "operation"\nsource = "A. Author, 2000"\nevidence = "assumed"\n'
        '[constants."sram 8 KiB"]\ntypical = 1e-11\nunit = "joule"\nper = "64-bit access"\ncapacity_bits = 65536\n'
        'source = "A. Author, 2000"\nevidence = "assumed"\n'
    )
    ledger = Ledger(samples=10)
    ledger.worked(Work("h1", "activations", MAC, "binary", "binary"), 1000)
    ledger.accessed(Access("h1", "weight", "read", "binary", 1, 1000, "activations"), 1000)
    ledger.accessed(Access("h1", "weight", "write", "binary", 1, 1000, "update"), 64)
    bill = price(ledger, HardwareConfig(memory={"h1.weight": "in-memory"}), Technology.load(str(path)))
    assert bill.by("part")["compute"].typical == near(1000 * 2e-15)
    assert bill.by("operation")["read"].typical == 0  # in the product
    assert bill.by("operation")["write"].typical == near(1e-11)


# --- where feedback weights are


def test_feedback_weights_above_send_real_numbers():
    """784-500-500-10, h1-h2 binary both ways: 2,500 bits a sample become 32,500."""
    ledger = dtp()
    assert ledger.bits("h1-h2", per="sample") == 2500
    ledger.accessed(Access("h1", "state", "read", "float32", 32, 32 * 500, "activations"), 500)
    above = with_feedback_weights_above(ledger, "h1-h2", "h1")
    assert above.bits("h1-h2", Direction.FORWARD, per="sample") == 500 + 16000
    assert above.bits("h1-h2", Direction.FEEDBACK, per="sample") == 16000
    assert above.bits("input-h1") == ledger.bits("input-h1") and above.accesses == ledger.accesses
    board = HardwareConfig.parse("rest=board", feedback_weights={"h1-h2": "upper"})
    there = price(ledger, board, T45).by("where")["h1-h2"]
    below = price(ledger, HardwareConfig.parse("rest=board"), T45).by("where")["h1-h2"]
    assert there.typical == near(13 * below.typical)
    assert ledger.bits("h1-h2", per="sample") == 2500


def test_no_feedback_weights_to_move():
    message = "link h1-h2: no targets cross it, so it has no feedback weights to move to its upper end"
    with pytest.raises(ValueError, match=f"^{message}$"):
        price(sent(), HardwareConfig(feedback_weights={"h1-h2": "upper"}), T45)


# --- bills


@pytest.mark.parametrize("technology", [T45, T7], ids=["45nm", "7nm"])
def test_nothing_is_left_out(technology):
    ledger = everything()
    bill = price(ledger, HardwareConfig.parse("h1-h2=board"), technology)
    parts = [item.part for item in bill.items]
    assert {part: parts.count(part) for part in parts} == {
        "link": len(ledger.traffic),
        "compute": len(ledger.work),
        "memory": len(ledger.accesses),
    }
    assert all(item.joules.typical > 0 for item in bill.items)
    for key in KEYS:
        assert astuple(sum(bill.by(key).values(), Range())) == near(bill.total)
    assert set(bill.by("where")) == {*ledger.links(), *ledger.layers()}
    assert set(bill.by("operation")) == {"send", "read", "write", *OPERATIONS}
    assert {constant.name for constant in bill.constants} >= {"wire", "add float32", "sram 976.6 KiB"}


def test_split_by_something_else():
    with pytest.raises(ValueError) as error:
        price(dtp(), HardwareConfig(), T45).by("layer")
    assert str(error.value) == "no split 'layer'; there are: direction, format, operation, part, purpose, where"


def test_per_unit():
    bill = price(everything(), HardwareConfig(), T45)
    assert astuple(bill.per("sample").total * 7) == near(bill.total)
    assert bill.per("sample").unit == "sample" and bill.per("epoch").total == bill.total
    with pytest.raises(ValueError, match=r"^no unit 'day'; there are: epoch, run, sample, step$"):
        bill.per("day")
    with pytest.raises(
        ValueError, match=r"^this bill is already per sample; take the bill of the whole ledger per epoch$"
    ):
        bill.per("sample").per("epoch")
    with pytest.raises(ValueError, match=r"^the ledger has counted no epoch, so its bill has no answer per epoch$"):
        price(sent(), HardwareConfig(), T45).per("epoch")


def test_links_share():
    ledger = sent() + worked("tanh", "float32")  # 5000 bits; 1000 table look-ups of 5, 14.6 and 29.2 pJ
    share = price(ledger, HardwareConfig.parse("rest=board"), T45).links_share
    low, typical, high = 5.85e-9 / (5.85e-9 + 29.2e-9), 50e-9 / (50e-9 + 14.6e-9), 130e-9 / (130e-9 + 5e-9)
    assert astuple(share) == near(Range(low, typical, high))
    assert astuple(price(sent(), HardwareConfig.parse("rest=board"), T45).links_share) == (1, 1, 1)
    assert astuple(price(worked("tanh", "float32"), HardwareConfig(), T45).links_share) == (0, 0, 0)
    with pytest.raises(ValueError, match=r"^nothing in this bill cost anything, so links have no share of it$"):
        _ = price(Ledger(), HardwareConfig(), T45).links_share


def test_break_even_of_dtp_is_a_gradient_of_four_bits():
    ledger = dtp()
    assert ledger.bits("h1-h2", Direction.FORWARD, per="sample") == 1000
    assert ledger.bits("h1-h2", Direction.FEEDBACK, per="sample") == 1500
    assert break_even_gradient_bits(ledger, "h1-h2") == 4.0
    assert price(ledger, HardwareConfig(), T45).break_even == {"h1-h2": 4.0}
    assert price(ledger, HardwareConfig(), T45).per("sample").break_even == {"h1-h2": 4.0}


@pytest.mark.parametrize("bits", [1, 4, 32])
def test_straight_through_breaks_even_with_itself(bits):
    feedback = sent(direction=Direction.FEEDBACK, purpose="error", fmt=(f"fixed({bits},1)", bits))
    ledger = sent()
    for message_type, traffic in feedback.traffic.items():
        ledger.crossed(message_type, traffic.messages, traffic.ones, traffic.toggles)
    assert break_even_gradient_bits(ledger, "h1-h2") == bits


def test_break_even_errors():
    with pytest.raises(ValueError, match=r"^no link 'h2-h3'; there are: h1-h2, input-h1$"):
        break_even_gradient_bits(dtp(), "h2-h3")
    message = "link input-h1 carried no activity forward or no feedback, so no gradient breaks even with it"
    with pytest.raises(ValueError, match=f"^{message}$"):
        break_even_gradient_bits(dtp(), "input-h1")
    both = dtp() + sent(width=400)
    with pytest.raises(ValueError, match=r"^link h1-h2 carried activity of 400 and 500 neurons$"):
        break_even_gradient_bits(both, "h1-h2")


def test_bill_as_json():
    bill = price(everything(), HardwareConfig.parse("h1-h2=board"), T45).per("sample")
    content = json.loads(json.dumps(bill.as_dict()))
    assert content["total"]["typical"] == bill.total.typical
    assert content["technology"] == "45nm" and content["unit"] == "sample" and content["counts"]["samples"] == 7
    assert content["break_even_gradient_bits"] == {"h1-h2": 4.0}
    assert content["links_share"]["typical"] == bill.links_share.typical
    assert sum(item["joules"]["typical"] for item in content["items"]) == near(bill.total.typical)
    constants = {(constant["technology"], constant["name"]): constant for constant in content["constants"]}
    terms = {(term["technology"], term["constant"]) for item in content["items"] for term in item["terms"]}
    assert terms == set(constants) and all(constant["source"] for constant in constants.values())
    assert json.loads(json.dumps(price(Ledger(), HardwareConfig(), T45).as_dict()))["links_share"] is None


FORMATS = st.sampled_from([("binary", 1), ("ternary", 2), ("fixed(8,1)", 8), ("float32", 32)])
COUNTS = st.integers(0, 10**6)


@st.composite
def ledgers(draw):
    ledger = Ledger(samples=draw(st.integers(1, 100)))
    for _ in range(draw(st.integers(0, 3))):
        link, direction = draw(st.sampled_from(["input-h1", "h1-h2"])), draw(st.sampled_from(Direction))
        message_type = MessageType(
            link, direction, draw(st.sampled_from(["activations", "target"])), *draw(FORMATS), 500
        )
        ledger.crossed(message_type, draw(st.integers(3, 10**6)), draw(COUNTS), draw(COUNTS))  # a lone one: test_wires
        work = Work("h1", "activations", draw(st.sampled_from(OPERATIONS)), draw(FORMATS)[0], draw(FORMATS)[0])
        ledger.worked(work, draw(COUNTS))
        way = draw(st.sampled_from(["read", "write"]))
        ledger.accessed(Access("h1", "weight", way, *draw(FORMATS), draw(st.integers(1, 2**24))), draw(COUNTS))
    return ledger


@given(ledgers(), ledgers(), st.sampled_from([T45, T7]))
def test_prices_add_up_as_ledgers_do(a, b, technology):
    config = HardwareConfig.parse("rest=on-die:2mm", word_bits=64)
    together, first, second = (price(ledger, config, technology) for ledger in (a + b, a, b))
    assert astuple(together.total) == near(first.total + second.total)
    for key in KEYS:
        splits = first.by(key), second.by(key)
        names = {name for split in splits for name in split}
        assert set(together.by(key)) == names
        for name in names:
            expected = sum((split.get(name, Range()) for split in splits), Range())
            assert astuple(together.by(key)[name]) == near(expected)


def test_rows_of_a_bill_add_up_to_it():
    bill = price(everything(), HardwareConfig.parse("rest=board"), T45).per("sample")
    rows = bill.rows()
    for key in KEYS:
        for name, cost in bill.by(key).items():
            own = [row for row in rows if row[key] == name]
            assert near(cost) == tuple(sum(row[end] for row in own) for end in ("low", "typical", "high"))
    assert {row["unit"] for row in rows} == {"sample"} and {row["constant_of"] for row in rows} == {"45nm", "board"}
    sent = next(row for row in rows if row["where"] == "h1-h2" and row["purpose"] == "target")
    assert (sent["constant"], sent["per"], sent["times"]) == ("wire", "bit", 500)


def test_nothing_heavy_is_imported():
    heavy = "{'torch', 'numba', 'matplotlib', 'safetensors'}"
    code = f"import sys, hw_models; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
