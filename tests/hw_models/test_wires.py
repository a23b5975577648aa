"""Wires: events of messages, terms of several kinds, distance, processes of their own, and links without toggles."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from hw_models import HardwareConfig, Technology, Wire, price
from hw_models.technology import MESSAGE_EVENTS
from hw_models.wires import crossing_terms
from lowbit_dtp.ledger import Direction, Ledger, MessageType, Traffic
from lowbit_dtp.links import Link

T45, T7 = Technology.load("45nm"), Technology.load("7nm")
PJ = 1e-12
SPIKES = MessageType("h1-h2", Direction.FORWARD, "activations", "binary01", 1, 100)
TRAFFIC = Traffic(messages=10, ones=70, toggles=33)


def wire_file(tmp_path, *terms, top="", name="noc"):
    """A file of a wire, of terms (name, joules, per); its name."""
    path = tmp_path / f"{name}.toml"
    path.write_text(
        f'description = "A test."\n{top}\n'
        + "".join(
            f'[constants."{term}"]\ntypical = {joules}\nunit = "joule"\nper = "{per}"\nsource = "A. Author, 2000"\n'
            'evidence = "assumed"\n'
            for term, joules, per in terms
        )
    )
    return str(path)


def cost(wire, message_type=SPIKES, traffic=TRAFFIC, technology=T45, **others):
    """Joules of each term of `traffic` on `wire`, by the name of its constant."""
    terms = crossing_terms(message_type, traffic, HardwareConfig(rest=wire, **others), technology)
    return {term.constant.name: term.joules.typical for term in terms}


@pytest.mark.parametrize(
    ("event", "times"),
    [
        ("bit", 10 * 100),
        ("transition", 33),
        ("one", 70),
        ("flit", 10 * 4),  # 100 bits are 4 flits of 32
        ("message", 10),
        ("event", 70),
    ],
)
def test_each_event_of_a_message(tmp_path, event, times):
    file = wire_file(tmp_path, ("wire", 1e-12, event), top="flit_bits = 32")
    assert cost(Wire(file)) == {"wire": pytest.approx(times * PJ)}
    if f"{event} and hop" in MESSAGE_EVENTS:
        file = wire_file(tmp_path, ("wire", 1e-12, f"{event} and hop"), top="flit_bits = 32")
        assert cost(Wire(file, hops=3)) == {"wire": pytest.approx(3 * times * PJ)}
        assert cost(Wire(file, hops=0)) == {"wire": 0}
    if f"{event} and metre" in MESSAGE_EVENTS:
        file = wire_file(tmp_path, ("wire", 1e-9, f"{event} and metre"))
        assert cost(Wire(file, metres=0.005)) == {"wire": pytest.approx(5 * times * PJ)}


def test_every_event_is_tested():
    counted = {"bit", "transition", "one", "flit", "message", "event"}
    assert {event.partition(" and ")[0] for event in MESSAGE_EVENTS} == counted


def test_a_wire_of_several_terms(tmp_path):
    """A network on chip: a header a message, a router a flit and hop, a wire a toggle and a metre."""
    file = wire_file(
        tmp_path,
        ("header", 5e-12, "message"),
        ("router", 2e-12, "flit and hop"),
        ("wire", 1e-9, "transition and metre"),
        top="flit_bits = 64",
    )
    assert cost(Wire(file, 0.002, 3)) == {
        "header": pytest.approx(10 * 5 * PJ),
        "router": pytest.approx(10 * 2 * 3 * 2 * PJ),
        "wire": pytest.approx(33 * 2 * PJ),
    }


def test_the_wire_of_the_documentation(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "energy.md").read_text()
    [example] = [block for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "flit_bits" in block]
    path = tmp_path / "noc.toml"
    path.write_text(example)
    assert cost(Wire(str(path), 0.002, 3)) == {
        "router": pytest.approx(10 * 2 * 3 * 1.2 * PJ),
        "wire": pytest.approx(33 * 2 * 0.15 * PJ),
    }


def test_flits_hold_the_padding_of_words(tmp_path):
    file = wire_file(tmp_path, ("router", 1e-12, "flit"), top="flit_bits = 32")
    assert cost(Wire(file), word_bits=8) == {"router": pytest.approx(10 * 4 * PJ)}  # 104 bits
    assert cost(Wire(file), word_bits=256) == {"router": pytest.approx(10 * 8 * PJ)}
    scaled = SPIKES._replace(format="shared(4)", bits=4, scale_bits=8)
    assert cost(Wire(file), scaled) == {"router": pytest.approx(10 * 13 * PJ)}  # 408 bits


def test_the_mesh_is_routers_and_a_wire():
    """FlooNoC: 0.15 pJ a byte and hop; and 200 fJ a transition a mm."""
    costs = cost(Wire("mesh", 0.006, 3))
    assert costs["router"] == pytest.approx(10 * 100 / 8 * 0.15 * PJ * 3)
    assert costs["wire"] == pytest.approx(33 * 6 * 0.2 * PJ)


def test_processes_have_wires_of_their_own():
    [own] = crossing_terms(SPIKES, TRAFFIC, HardwareConfig(), T45)
    assert (own.constant.technology, own.constant.name) == ("45nm", "wire on-die")
    typical = [cost(Wire("on-die", 1e-3), technology=technology) for technology in (T45, T7)]
    assert [sum(each.values()) for each in typical] == pytest.approx([33 * 0.24 * PJ, 33 * 0.115 * PJ])
    [other] = crossing_terms(SPIKES, TRAFFIC, HardwareConfig(), Technology.load("loihi"))
    assert (other.constant.technology, other.constant.name) == ("on-die", "wire")
    board = HardwareConfig(rest=Wire("board"))
    assert crossing_terms(SPIKES, TRAFFIC, board, T45) == crossing_terms(SPIKES, TRAFFIC, board, T7)


def test_a_process_may_have_a_wire_that_no_file_has(tmp_path):
    file = wire_file(
        tmp_path,
        ("add float32", 1e-12, "operation"),
        ("wire bus", 1e-12, "flit"),
        ("wire bus, header", 3e-12, "message"),
        top="flit_bits = 50",
        name="mine",
    )
    assert cost(Wire("bus"), technology=Technology.load(file)) == {
        "wire bus": pytest.approx(20 * PJ),
        "wire bus, header": pytest.approx(30 * PJ),
    }
    with pytest.raises(ValueError) as error:
        cost(Wire("bus"), technology=T45)
    assert str(error.value) == f"no technology 'bus'; there are: {', '.join(Technology.names())}"


@pytest.mark.parametrize(
    ("per", "wire", "message"),
    [
        ("bit and hop", {}, "costs per bit and hop, so it needs hops, as in h1-h2={file}:3hops"),
        ("bit and hop", {"hops": 2, "metres": 0.001},
         "costs per bit and hop whatever its length; write h1-h2={file}:2hops"),
        ("bit", {"hops": 2}, "costs per bit however many hops; write h1-h2={file}"),
        ("bit and metre", {"hops": 2}, "costs per bit and metre, so it needs a length, as in h1-h2={file}:5mm"),
        ("transition and metre", {"metres": 0.001, "hops": 1},
         "costs per transition and metre however many hops; write h1-h2={file}:1mm"),
    ],
)  # fmt: skip
def test_distances_fit_the_wire(tmp_path, per, wire, message):
    file = wire_file(tmp_path, ("wire", 1e-12, per))
    with pytest.raises(ValueError) as error:
        cost(Wire(file, **wire))
    assert str(error.value) == f"wire {file!r} of link h1-h2 {message}".replace("{file}", file)


def test_a_wire_of_many_terms_says_all_that_it_costs_per(tmp_path):
    file = wire_file(tmp_path, ("a", 1e-12, "bit"), ("b", 1e-12, "message"), ("c", 1e-12, "bit"))
    with pytest.raises(ValueError) as error:
        cost(Wire(file, hops=1))
    assert str(error.value) == (
        f"wire {file!r} of link h1-h2 costs per bit and per message however many hops; write h1-h2={file}"
    )


def test_technologies_that_are_no_wires(tmp_path):
    with pytest.raises(ValueError) as error:
        cost(Wire("45nm"))
    message = "its constant 'add int8' is per operation"
    assert str(error.value) == f"technology '45nm' is no wire, which link h1-h2 needs: {message}"
    with pytest.raises(ValueError) as error:
        cost(Wire("truenorth"))
    assert str(error.value) == "technology 'truenorth' has no cost of a message in joules, which link h1-h2 needs"
    path = tmp_path / "idle.toml"
    path.write_text(
        'description = "A test."\n[constants.idle]\ntypical = 1e-3\nunit = "watt"\nper = "link"\n'
        'source = "A. Author, 2000"\nevidence = "assumed"\n'
    )
    with pytest.raises(ValueError) as error:
        cost(Wire(str(path)))
    assert str(error.value) == "technology 'idle' has no cost of a message in joules, which link h1-h2 needs"


def test_static_watts_of_a_wire_are_no_cost_of_a_message(tmp_path):
    file = wire_file(tmp_path, ("wire", 1e-12, "bit"), ("idle", 1e-3, "link"))
    path = tmp_path / "noc.toml"
    path.write_text(path.read_text().replace('unit = "joule"\nper = "link"', 'unit = "watt"\nper = "link"'))
    assert cost(Wire(file)) == {"wire": pytest.approx(1000 * PJ)}


@pytest.mark.parametrize("name", ["binary01", "bernoulli", "table(0,0.5)", "ufixed(1,1)"])
def test_formats_with_events(tmp_path, name):
    file = wire_file(tmp_path, ("wire", 1e-12, "event"))
    assert cost(Wire(file), SPIKES._replace(format=name)) == {"wire": pytest.approx(70 * PJ)}


@pytest.mark.parametrize(("name", "bits"), [("binary", 1), ("ternary", 2), ("ufixed(8,0)", 8), ("table(0.5,1)", 1)])
def test_formats_without_events(tmp_path, name, bits):
    file = wire_file(tmp_path, ("wire", 1e-12, "event"))
    with pytest.raises(ValueError) as error:
        cost(Wire(file), SPIKES._replace(format=name, bits=bits))
    assert str(error.value) == (
        f"link h1-h2 sends {name}, which has no address events: a wire that costs per event needs values 0 and 1 "
        "(binary01, bernoulli)"
    )


# --- one message has no toggles


def one_message(runs=1, messages=1, toggles=0, width=500):
    ledger = Ledger(runs=runs, samples=runs)
    ledger.crossed(MessageType("h1-h2", Direction.FORWARD, "activations", "binary", 1, width), messages, 9, toggles)
    return ledger


def test_one_message_is_charged_as_random_bits():
    with pytest.warns(UserWarning) as warned:
        bill = price(one_message(), HardwareConfig(word_bits=64), T45)
    assert [str(each.message) for each in warned] == [
        "link h1-h2, forward: toggles need two messages in a row, and a run sent one; it is charged as random bits, "
        "half of the wires toggling"
    ]
    assert warned[0].filename == __file__
    assert bill.total.typical == pytest.approx(250 * 0.24 * PJ)  # padding does not toggle


def test_one_message_in_each_of_three_runs():
    with pytest.warns(UserWarning, match=r"^link h1-h2, forward: toggles need two messages in a row"):
        bill = price(one_message(runs=3, messages=3), HardwareConfig(), T45)
    assert bill.total.typical == pytest.approx(3 * 250 * 0.24 * PJ)


def test_other_messages_are_not_guessed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert price(one_message(messages=2), HardwareConfig(), T45).total.typical == 0  # two equal messages
        assert price(one_message(toggles=7), HardwareConfig(), T45).total.typical == pytest.approx(7 * 0.24 * PJ)
        board = HardwareConfig(rest=Wire("board"))
        assert price(one_message(), board, T45).total.typical == pytest.approx(500 * 10 * PJ)
        state = MessageType("h1-h2", Direction.FORWARD, "noisy activations", "binary", 1, 500)
        two = one_message()
        two.crossed(state, 1, 9, 40)
        assert price(two, HardwareConfig(), T45).total.typical == pytest.approx(40 * 0.24 * PJ)


def test_directions_are_wires_of_their_own():
    ledger = one_message(messages=5, toggles=100)
    ledger.crossed(MessageType("h1-h2", Direction.FEEDBACK, "error", "binary", 1, 10), 1, 0, 0)
    with pytest.warns(UserWarning, match=r"^link h1-h2, feedback: toggles need two messages in a row"):
        bill = price(ledger, HardwareConfig(), T45)
    assert bill.by("direction")["feedback"].typical == pytest.approx(5 * 0.24 * PJ)
    assert bill.by("direction")["forward"].typical == pytest.approx(100 * 0.24 * PJ)


# --- codings


def coded():
    """State and target of 40 samples down h1-h2: three samples have one flip, the rest none."""
    link, ledger = Link("binary", lower="h1", upper="h2"), Ledger(samples=40, codings="all")
    state = np.where(np.random.default_rng(0).random((40, 100)) < 0.5, -1, 1).astype(np.float32)
    target = state.copy()
    target[:3, 7] *= -1
    link.send(state, Direction.FEEDBACK, "state", ledger)
    link.send(target, Direction.FEEDBACK, "target", ledger)
    return ledger


@pytest.mark.parametrize("coding", ["events", "flips", "silence", "run-length", "bus-invert"])
def test_a_coding_is_priced_by_the_bits_that_it_sends(coding):
    ledger = coded()
    bits = ledger.coded_bits(coding, "h1-h2", Direction.FEEDBACK)
    for key in ("h1-h2", "h1-h2.feedback"):
        config = HardwareConfig.parse("rest=board", coding={key: coding})
        board = price(ledger, config, T45)
        [constant] = board.constants
        assert board.total.typical == pytest.approx(bits * constant.typical)
    on_die = price(ledger, HardwareConfig(coding={"h1-h2": coding}), T45)
    [constant] = on_die.constants
    toggles = ledger.coded_toggles(coding, "h1-h2") if coding == "bus-invert" else bits / 2
    assert on_die.total.typical == pytest.approx(toggles * constant.typical * 1e-3)


def test_the_best_coding():
    ledger = coded()
    best = ledger.best_coding("h1-h2", Direction.FEEDBACK)
    prices = {
        coding: price(ledger, HardwareConfig.parse("rest=board", coding={"h1-h2": coding}), T45).total.typical
        for coding in ("plain", "flips", "silence", "best")
    }
    assert best in ("flips", "silence") and prices["best"] == prices[best] < prices["plain"] / 10


@pytest.mark.parametrize(
    ("coding", "message"),
    [
        ("entropy", "no coding of link h1-h2 'entropy'; there are: best, bus-invert, events, flips, plain, run-length, "
         "silence, zero-skip"),
        ("zero-skip", None),
    ],
)  # fmt: skip
def test_codings_that_cannot_be_priced(coding, message):
    ledger = Ledger(samples=1)
    ledger.crossed(MessageType("h1-h2", Direction.FORWARD, "activations", "binary", 1, 8), 1, 4, 4)
    with pytest.raises(ValueError) as error:
        price(ledger, HardwareConfig(coding={"h1-h2": coding}), T45)
    assert str(error.value) == message or "coding 'zero-skip': it was not counted; give the names" in str(error.value)
