"""Inference as the exported network runs, against a count by hand."""

import numpy as np
import pytest

from hw_models import HardwareConfig, Technology, as_exported, price
from hw_models.exported import sum_bits
from lowbit_dtp.formats import parse
from lowbit_dtp.ledger import Access, Direction, Ledger, MessageType, Work
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network

MAC = "multiply-accumulate"


def inference(*links, sizes=(64, 40, 30, 10), samples=3):
    net, ledger = Network.build(sizes, links), Ledger(samples=samples)
    net.classify(np.zeros((samples, sizes[0]), np.float32), ledger)
    return ledger


BINARY = Link("ufixed(5,1)"), Link("binary"), Link("float32")


def test_every_count():
    made = as_exported(inference(*BINARY), weights="ternary", signals="fixed(2,1)")
    assert made.samples == 3
    assert {(m.link, m.format, m.bits, m.width): t.messages for m, t in made.traffic.items()} == {
        ("input-h1", "ufixed(5,1)", 5, 64): 3,
        ("h1-h2", "binary", 1, 40): 3,
        ("h2-output", "fixed(2,1)", 2, 30): 3,
    }
    h1, h2, top = (f"fixed({bits},{bits})" for bits in (12, 7, 7))  # 64 x 31 x 1, 40 x 1 x 1, 30 x 2 x 1, and a sign
    assert made.work == {
        Work("h1", "activations", MAC, "ufixed(5,1)", "ternary"): 3 * 64 * 40,
        Work("h1", "threshold", "add", h1): 3 * 40,
        Work("h2", "activations", MAC, "binary", "ternary"): 3 * 40 * 30,
        Work("h2", "threshold", "add", h2): 3 * 30 * 2,
        Work("output", "activations", MAC, "fixed(2,1)", "ternary"): 3 * 30 * 10,
        Work("output", "bias", "add", top): 3 * 10,
        Work("output", "winner", "add", top): 3 * 9,
    }
    of_h2 = {(a.array, a.operation, a.format, a.capacity_bits): n for a, n in made.accesses.items() if a.layer == "h2"}
    assert of_h2 == {
        ("input", "write", "binary", 40): 3 * 40,
        ("input", "read", "binary", 40): 3 * 40,
        ("weight", "read", "ternary", 2 * 40 * 30): 3 * 40 * 30,
        ("thresholds", "read", h2, 3 * 30 * 7): 3 * 30 * 2,
        ("state", "write", "fixed(2,1)", 2 * 30): 3 * 30,
        ("state", "read", "fixed(2,1)", 2 * 30): 3 * 30,
    }


def test_no_function_is_paid_for():
    simulated = inference(*BINARY)
    exported = as_exported(simulated)
    assert {w.operation for w in simulated.work} == {MAC, "add", "tanh"}
    assert {w.operation for w in exported.work} == {MAC, "add"}
    cost = {
        name: price(book, HardwareConfig(), Technology.load("45nm")).by("part")["compute"].typical
        for name, book in (("simulated", simulated), ("exported", exported))
    }
    assert cost["exported"] < cost["simulated"]


def test_accumulators_of_the_network():
    made = as_exported(inference(*BINARY), accumulator_bits={"h1": 9, "h2": 5})
    widths = {w.layer: parse(w.left).bits for w in made.work if w.operation == "add"}
    assert widths == {"h1": 9, "h2": 5, "output": sum_bits(30, parse("fixed(8,1)"), parse("fixed(8,1)"))}


@pytest.mark.parametrize(
    ("fan_in", "signal", "weight", "bits"),
    [(1, "binary", "binary", 2), (3, "binary", "ternary", 3), (4, "fixed(2,1)", "ternary*0.05", 5),
     (16, "fixed(4,1)", "fixed(4,1)", 12)],
)  # fmt: skip
def test_bits_that_hold_every_sum(fan_in, signal, weight, bits):
    assert sum_bits(fan_in, parse(signal), parse(weight)) == bits


def test_what_is_not_one_forward_pass():
    ledger = inference(*BINARY)
    ledger.crossed(MessageType("h1-h2", Direction.FEEDBACK, "settling", "binary", 1, 30), 3, 0, 0)
    with pytest.raises(ValueError) as error:
        as_exported(ledger)
    assert str(error.value) == (
        "link h1-h2 carries settling feedback in inference, which is not one forward pass, so it is not exported"
    )
    with pytest.raises(ValueError, match=r"^3 links and 2 layers are no chain, so they are not exported$"):
        broken = inference(*BINARY)
        broken.work.pop(next(w for w in broken.work if w.layer == "h2" and w.operation == MAC))
        as_exported(broken)


def test_a_link_without_thresholds():
    with pytest.raises(ValueError, match=r"^link h1-h2: shared\(4\) is not a table of thresholds, since .*$"):
        as_exported(inference(Link("ufixed(5,1)"), Link("shared(4)"), Link("float32")))


def test_accesses_of_a_run_are_replaced():
    made = as_exported(inference(*BINARY))
    assert all(isinstance(access, Access) and access.format != "float32" for access in made.accesses)
