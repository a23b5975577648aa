"""Placements: parsing, and errors."""

import pytest

from hw_models import HardwareConfig, Wire
from hw_models.hardware import parsed_choices
from lowbit_dtp.ledger import Access, Direction, Ledger, MessageType


def test_default_is_one_die():
    assert HardwareConfig.default() == HardwareConfig()
    assert HardwareConfig().wire("h1-h2") == Wire("on-die", 1e-3)


@pytest.mark.parametrize("given", ["h1-h2=board,input-h1=on-die:5mm", ["h1-h2=board", "input-h1 = on-die:5mm"]])
def test_parse(given):
    config = HardwareConfig.parse(given, word_bits=8, memory="dram")
    assert config == HardwareConfig(
        {"h1-h2": Wire("board"), "input-h1": Wire("on-die", 0.005)}, word_bits=8, memory="dram"
    )
    assert config.as_dict() == {
        "links": {"h1-h2": "board", "input-h1": "on-die:5mm"},
        "rest": "on-die:1mm",
        "memory": "dram",
        "reuse": 1.0,
        "word_bits": 8,
        "accumulator_bits": 32,
        "coding": {},
        "feedback_weights": {},
    }


def test_rest_is_all_other_links():
    config = HardwareConfig.parse("rest=serdes,h1-h2=board")
    assert config.wire("input-h1") == Wire("serdes") and config.wire("h1-h2") == Wire("board")
    assert list(config.links) == ["h1-h2"]


@pytest.mark.parametrize(
    ("length", "metres"), [("250um", 250e-6), ("5mm", 5e-3), (".5cm", 5e-3), ("1.5 m", 1.5), ("0mm", 0.0)]
)
def test_lengths(length, metres):
    wire = Wire.parse(f"on-die:{length}")
    assert wire.metres == pytest.approx(metres)
    assert Wire.parse(str(wire)).metres == pytest.approx(metres)


@pytest.mark.parametrize(
    "text",
    [
        "on-die:5", "on-die:mm", "on-die:-5mm", "on-die:5nm", "on-die:", ":5mm", "on-die:5mm:6mm", "noc:3hops:3hops",
        "noc:1.5.5hops", "noc:-1hops", "noc:hops", ":3hops", "noc:2times:2times", "noc:3copies", "noc:-1times",
    ],
)  # fmt: skip
def test_wrong_length(text):
    with pytest.raises(ValueError) as error:
        Wire.parse(text)
    assert str(error.value) == (
        f"wire {text!r}: a length is a number with um, mm, cm or m, as in on-die:5mm; "
        "hops and times are numbers, as in noc:3hops or board:2times"
    )


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("noc:3hops", Wire("noc", hops=3)),
        ("noc:1hop", Wire("noc", hops=1)),
        ("noc:0hops:2mm", Wire("noc", 0.002, 0)),
        ("noc:2mm:4 hops", Wire("noc", 0.002, 4)),
        ("noc:2.5hops", Wire("noc", hops=2.5)),
        ("board:2times", Wire("board", times=2)),
        ("noc:1hop:0.5times", Wire("noc", hops=1, times=0.5)),
    ],
)
def test_hops(text, wire):
    assert Wire.parse(text) == wire and Wire.parse(str(wire)) == wire


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metres": -1.0}, "a length must be 0 m or more and finite, not -1.0"),
        ({"metres": float("nan")}, "a length must be 0 m or more and finite, not nan"),
        ({"metres": float("inf")}, "a length must be 0 m or more and finite, not inf"),
        ({"hops": -1}, "hops must be 0 or more and below 2^63, not -1"),
        ({"hops": float("nan")}, "hops must be 0 or more and below 2^63, not nan"),
        ({"times": -0.5}, "times must be 0 or more and below 2^63, not -0.5"),
    ],
)
def test_wire_beyond_bounds(given, message):
    with pytest.raises(ValueError) as error:
        Wire("noc", **given)
    assert str(error.value) == f"wire 'noc': {message}"


@pytest.mark.parametrize("text", ["h1-h2", "h1-h2=", "=board", ""])
def test_wrong_text(text):
    with pytest.raises(ValueError) as error:
        HardwareConfig.parse(text)
    assert str(error.value) == f"placement {text!r}: write LINK=WIRE, as in h1-h2=board or h1-h2=on-die:5mm"


def test_a_link_is_named_once():
    with pytest.raises(ValueError, match=r"^placement names link 'h1-h2' twice: board and serdes$"):
        HardwareConfig.parse("h1-h2=board,h1-h2=serdes")


@pytest.mark.parametrize(("name", "value"), [("reuse", 0.5), ("reuse", float("nan")), ("word_bits", 0)])
def test_wrong_number(name, value):
    with pytest.raises(ValueError) as error:
        HardwareConfig(**{name: value})
    assert str(error.value) == f"placement: {name} must be 1 or more, not {value}"


def test_unknown_link():
    ledger = Ledger(samples=1)
    for link in ("input-h1", "h1-h2"):
        ledger.crossed(MessageType(link, Direction.FORWARD, "activations", "binary", 1, 4), 1, 0, 0)
    HardwareConfig.parse("h1-h2=board").check(ledger)
    with pytest.raises(ValueError) as error:
        HardwareConfig.parse("h1-h3=board").check(ledger)
    assert str(error.value) == "no link 'h1-h3'; there are: h1-h2, input-h1"


def test_links_of_other_networks_are_left_out():
    ledger = Ledger(samples=1)
    ledger.crossed(MessageType("h1-h2", Direction.FORWARD, "activations", "binary", 1, 8), 1, 0, 0)
    config = HardwareConfig.parse("h1-h2=board,output-h1=serdes,rest=on-die:2mm", reuse=2)
    assert config.within(ledger) == HardwareConfig.parse("h1-h2=board,rest=on-die:2mm", reuse=2)


@pytest.mark.parametrize(
    ("text", "kind", "read"),
    [("sram", str, "sram"), ("50", float, 50.0), ("h1=dram, rest=sram", str, {"h1": "dram", "rest": "sram"})],
)
def test_one_value_or_one_for_each(text, kind, read):
    assert parsed_choices(text, "--memory", kind) == read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h1=x", "--reuse 'h1=x': 'x' is not a number"),
        ("", "--reuse '': '' is not a number"),
        ("=4", "--reuse '=4': write KEY=VALUE, each key once, as in h1=50,rest=1"),
        ("4,h1=2", "--reuse '4,h1=2': write KEY=VALUE, each key once, as in h1=50,rest=1"),
        ("h1=4,h1=2", "--reuse 'h1=4,h1=2': write KEY=VALUE, each key once, as in h1=50,rest=1"),
    ],
)
def test_wrong_choices(text, message):
    with pytest.raises(ValueError) as error:
        parsed_choices(text, "--reuse", float)
    assert str(error.value) == message


def with_weights():
    ledger = Ledger(samples=1)
    ledger.crossed(MessageType("h1-h2", Direction.FORWARD, "activations", "binary", 1, 4), 1, 0, 0)
    ledger.accessed(Access("h1", "weight", "read", "float32", 32, 64, "activations"), 2)
    return ledger


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reuse": {"h3": 2}}, "reuse: nothing is called 'h3'; there are: h1, h1.weight, rest"),
        ({"memory": {"h1.bias": "dram"}}, "memory: nothing is called 'h1.bias'; there are: h1, h1.weight, rest"),
        ({"coding": {"h3-h4": "flips"}}, "no link 'h3-h4'; there are: h1-h2"),
        ({"feedback_weights": {"h3-h4": "upper"}}, "no link 'h3-h4'; there are: h1-h2"),
    ],
)
def test_names_that_a_ledger_does_not_have(given, message):
    HardwareConfig(reuse={"h1.weight.activations": 2, "rest": 1}, coding={"h1-h2.feedback": "flips"}).check(
        with_weights()
    )
    with pytest.raises(ValueError) as error:
        HardwareConfig(**given).check(with_weights())
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reuse": {"h1": 0}}, "placement: reuse of h1 must be 1 or more, not 0"),
        ({"accumulator_bits": {"h1": "x"}}, "placement: accumulator_bits of h1 must be 1 or more, not x"),
        (
            {"feedback_weights": {"a-b": "up"}},
            "placement: feedback weights of a-b must be at the end lower or upper, not 'up'",
        ),
    ],
)
def test_wrong_values(given, message):
    with pytest.raises(ValueError) as error:
        HardwareConfig(**given)
    assert str(error.value) == message
