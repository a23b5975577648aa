"""Chains in whole numbers, against the chain itself on every attainable sum."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export import FixedNetwork
from lowbit_dtp.folding import NotWholeNumbersError, Product, exact_wire, folded, input_wire
from lowbit_dtp.formats import parse
from lowbit_dtp.ledger import Ledger

BITS = np.array(list(product([-1, 1], repeat=6)), np.float32)
"""Every input of six binary neurons."""


def quantizer(scale, low, high):
    """Rounds to whole steps of `scale`, from `low` to `high`, and what it can give."""
    scale = np.float32(scale)
    values = np.arange(low, high + 1).astype(np.float32) * scale
    return (lambda x: np.clip(np.rint(x / scale), low, high) * scale), values


@st.composite
def chains(draw):
    """A chain 6-4-3: scales of any sign, zero too; ties; few-bit values of any scale."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale, (low, high) = draw(st.sampled_from([0.3, 1.0, 0.0625])), draw(st.sampled_from([(0, 3), (-1, 1), (-4, 3)]))
    rounded, values = quantizer(scale, low, high)
    gain = random.choice([-1.5, -0.25, 0.0, 0.5, 1.0, 2.0], 4).astype(np.float32) * np.float32(scale)
    offset = random.choice([-1.0, 0.0, 0.5, 0.1], 4).astype(np.float32)
    step = draw(st.sampled_from([1.0, 0.5]))
    weight = random.integers(-draw(st.sampled_from([1, 3, 127])), 2, (6, 4)) * step
    hidden = Product("first", weight, (lambda x: x * gain, lambda x: x + offset, rounded), values)
    factor = np.float32(draw(st.sampled_from([-0.5, 1.0, 3.0])))
    top = Product("second", random.choice([-1.0, 1.0], (4, 3)), (lambda x: x * factor,), None)
    return hidden, top, scale


@settings(max_examples=25, deadline=None)
@given(chains())
def test_every_input_has_the_codes_and_the_class_of_the_chain(chain):
    hidden, top, scale = chain
    network = folded(exact_wire(parse("binary"), "inputs"), [hidden, top])
    state = (BITS @ hidden.weight).astype(np.float32)
    for function in hidden.functions:
        state = function(state)
    run = network.forward(BITS, Ledger())
    ranks = np.searchsorted(hidden.values - np.float32(scale) / 2, state) - 1
    np.testing.assert_array_equal(network.layers[0].projection.levels[ranks], run.received["h1-output"].values)
    exact = np.rint(state / np.float32(scale)) @ top.weight * np.sign(top.functions[0](np.float32(1)))
    np.testing.assert_array_equal(run.output.argmax(1), exact.argmax(1))
    trace = FixedNetwork.of(network.tensors(), network.describe()).infer(BITS)
    np.testing.assert_array_equal(trace.codes["h1-output"], run.received["h1-output"].codes)
    np.testing.assert_array_equal(trace.classes, exact.argmax(1))


def test_scales_that_are_powers_of_two_are_kept_and_others_left_out():
    for scale, spelling, levels in ((0.25, "ufixed(2,0)", [0, 0.25, 0.5, 0.75]), (0.3, "ufixed(2,2)", [0, 1, 2, 3])):
        rounded, values = quantizer(scale, 0, 3)
        network = folded(
            exact_wire(parse("binary"), "inputs"),
            [Product("a", np.eye(6)[:, :4] * 0.5, (rounded,), values, bits=3), Product("b", np.eye(4) * 0.7)],
        )
        assert network.links[1].forward.name == spelling
        assert network.layers[0].projection.levels.tolist() == levels
        assert [x.projection.format.name for x in network.layers] == ["fixed(3):0.5", "ternary:1.0"]


def test_inputs_are_sent_as_the_quantizer_of_the_chain_sends_them():
    rounded, values = quantizer(0.3, -2, 1)
    wire = input_wire(lambda x: rounded(2 * x - 1), values, "inputs")
    x = np.random.default_rng(0).normal(0, 1, 1000).astype(np.float32)
    np.testing.assert_array_equal(wire.format.quantize(x), np.rint(rounded(2 * x - 1) / np.float32(0.3)))
    assert wire.format.table().values == (-2, -1, 0, 1)


SQUARE = lambda x: np.rint(x * x)  # noqa: E731
CLIPPED, VALUES = quantizer(1, -1, 1)
ONES = np.ones((6, 2))
FEW = "a: the values that it gives, 1 of them, are not 2 to 4096 whole steps of one scale"
REFUSED = [
    (
        [Product("a", np.random.default_rng(0).normal(size=(6, 2)))],
        NotWholeNumbersError,
        "a: its weights are not whole numbers from -127 to 127 times a scale of the layer or the neuron; quantize them "
        "to at most 8 bits",
    ),
    (
        [Product("a", ONES), Product("b", np.eye(2))],
        NotWholeNumbersError,
        "a: nothing quantizes what it gives to the next layer",
    ),
    (
        [Product("a", ONES, (SQUARE,), np.arange(37.0)), Product("b", np.eye(2))],
        ValueError,
        "a: what is computed from the sums of neuron 0 neither ascends nor descends, or is not one of its quantizer's "
        "values",
    ),
    ([Product("a", ONES, (CLIPPED,), np.array([1.0])), Product("b", np.eye(2))], ValueError, FEW),
    (
        [Product("a", ONES, (SQUARE,))],
        ValueError,
        "a: what follows the last layer is more than a scale and an offset of logits",
    ),
    (
        [Product("a", ONES, (lambda x: x[:, :1],))],
        ValueError,
        "a: what is computed from its sums is not a number for each neuron",
    ),
    (
        [Product("a", ONES * np.inf)],
        ValueError,
        "a: its weights are not all finite",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("chain", "kind", "message"), REFUSED)
def test_what_is_no_staircase_is_refused(chain, kind, message):
    with pytest.raises(kind) as error:
        folded(exact_wire(parse("binary"), "inputs"), chain)
    assert str(error.value) == message


def test_sums_beyond_float32_and_inputs_that_descend_are_refused():
    with pytest.raises(ValueError) as error:
        folded(exact_wire(parse("ufixed(10,10)"), "inputs"), [Product("a", np.full((600, 1), 127.0), step=1.0)])
    assert str(error.value) == "a: its sums reach 77952600 steps; up to 16777215 are exact in float32"
    with pytest.raises(ValueError) as error:
        input_wire(lambda x: -CLIPPED(x), VALUES, "inputs")
    assert str(error.value) == "inputs: every input is sent alike, or larger ones as less"
    with pytest.raises(ValueError) as error:
        input_wire(lambda x: CLIPPED(x) * np.where(abs(x) < 9, -1, 1).astype(np.float32), VALUES, "inputs")
    assert str(error.value).startswith("inputs: what inputs are sent as does not ascend, or is not one of ")
    with pytest.raises(ValueError) as error:
        exact_wire(parse("table(0,1,2.718281828)"), "inputs")
    assert str(error.value) == (
        "inputs: the values that it gives, 3 of them, are not 2 to 4096 whole steps of one scale"
    )
