"""QTools' way of counting: widths that its own tests state, the same network from a ledger, and what it cannot count.

Its energy report is in `test_published.py`.
"""

import re
from dataclasses import replace
from math import log2, log10, sqrt
from pathlib import Path

import pytest

from hw_models.qtools import Dense, Memory, energy, layers_of
from lowbit_dtp import ledger as ledgers
from lowbit_dtp.formats import (
    bernoulli,
    binary,
    binary01,
    fixed,
    float16,
    float32,
    mxint8,
    parse,
    table,
    ternary,
    ufixed,
)
from lowbit_dtp.ledger import Access, Direction, Ledger, MessageType, Work

PJ = 1e-12
RUN = Path(__file__).parents[1] / "data" / "run-0.1.0" / "dtp" / "seed-0" / "ledger.json"
POWERS = table([2.0**k for k in range(-8, 2)])
"""quantized_relu_po2(4, 2): four bits, no sign, at most 2."""


def operations(weight, signal, bias, inputs=16):
    """Picojoules of one product and one addition."""
    return energy([Dense("h1", inputs, 1, signal, weight, bias)])["h1"].operations / inputs / PJ


def add(width):
    return 0.003125 * width


def multiply(width):
    return 0.002994791667 * width**2 + 0.001041666667 * width


def word(bits, least=0):
    """Picojoules of a 64-bit access to an SRAM of so many bits, in Horner's form of QTools' polynomial."""
    x = log2(max(bits, least))
    return ((9.02427321e-04 * x - 2.68847858e-02) * x + 2.08900804e-01) * x


@pytest.mark.parametrize(
    ("weight", "signal", "bias", "inputs", "product", "width"),
    [  # widths of accumulators: google/qkeras, tests/qtools_model_test.py, at commit 5c058cf
        (binary, ufixed(4, 0), binary, 20, 0.3 * add(4), 11),  # test_qdense_model_fork
        (binary01, fixed(6, 1), binary01, 144, 0.1 * add(6), 15),  # test_util_layers
        (POWERS, fixed(6, 1), POWERS, 4, add(sqrt(16 * 6) * log10(sqrt(16 * 6))), 18),  # test_conv2d, a shifter
        (fixed(8, 1), fixed(8, 1), fixed(12, 7), 7, multiply(8), 22),  # test_qdepthwiseconv2d
        (fixed(4, 1), fixed(22, 8), fixed(12, 5), 3, multiply(sqrt(4 * 22)), 28),  # the layer after it
    ],
)
def test_operators_are_as_wide_as_in_the_tests_of_qtools(weight, signal, bias, inputs, product, width):
    assert operations(weight, signal, bias, inputs) == pytest.approx(product + add(width))


@pytest.mark.parametrize(
    ("weight", "signal", "product", "width"),
    [  # 16 products and no bias: 4 bits wider than a product
        (binary, binary, 0.3 * add(1), 5),  # xor
        (binary, ternary, 0.3 * add(2), 6),  # mux: one gate for each bit of the other number
        (ternary, binary, 0.6 * add(1), 5),
        (ternary, fixed(8, 4), 0.6 * add(8), 12),
        (ternary, ufixed(8, 4), 0.6 * add(8), 13),  # a sign comes with the weight
        (fixed(8, 4), ternary, 0.6 * add(8), 12),
        (binary01, binary01, 0.1 * add(1), 5),  # and
        (bernoulli, binary, 0.1 * add(2), 6),  # the product is ternary
        (ufixed(1, 1), fixed(4, 1), 0.1 * add(4), 8),
        (fixed(4, 2), ufixed(9, 3), multiply(6), 16 + 1),
        (parse("binary*0.25"), parse("ternary*0.5"), 0.3 * add(2), 6),
        (POWERS, POWERS, add(5), (16 + 2) + 4),  # an adder of exponents of 5 bits, which reach from -16 to 2
        (POWERS, binary, 0.3 * add(4), (1 + 1 + 8) + 4),
        (float32, fixed(8, 4), 3.7, None),
        (float16, float16, 1.1, 16),
    ],
)
def test_what_multiplies_depends_on_both_formats(weight, signal, product, width):
    sums = {None: 0.9, 16: 0.4}[width] if "float" in weight.name else add(width)
    assert operations(weight, signal, None) == pytest.approx(product + sums)


def test_a_float_bias_makes_float_sums():
    assert operations(binary, binary, float32) == pytest.approx(0.3 * add(1) + 0.9)
    assert operations(float16, binary, float32) == pytest.approx(1.1 + 0.9)


def test_accumulators_of_a_stated_width():
    layer = Dense("h1", 16, 4, fixed(8, 1), binary, None, accumulator_bits=32)
    found = energy([layer])["h1"]
    assert found.operations == pytest.approx(64 * (0.3 * add(8) + add(32)) * PJ)
    assert found.outputs == pytest.approx(2 * word(128) * PJ)


@pytest.mark.parametrize(
    ("memory", "inputs", "parameters", "sent"),
    [  # 100 inputs of 8 bits: 13 words; 1000 weights of 4 bits: 63 words; 10 outputs of 8 bits: 2 words
        (Memory(), 13 * word(800), 63 * word(4000), 2 * word(80)),
        (Memory(least_sram_bits=2**20), 13 * word(2**20), 63 * word(2**20), 2 * word(2**20)),
        (Memory("fixed", "dram"), 13 * word(800), 0, 2 * word(80)),  # inputs and outputs stay in SRAM
        (Memory("dram"), 13 * word(800), 4000 * 20.3125, 2 * word(80)),
        (
            Memory("dram", io_through_dram=True),
            13 * word(800) + 800 * 20.3125,
            63 * word(4000) + 4000 * 20.3125,
            2 * word(80) + 80 * 20.3125,
        ),
    ],
)
def test_arrays_are_moved_once_in_whole_words(memory, inputs, parameters, sent):
    found = energy([Dense("h1", 100, 10, fixed(8, 1), fixed(4, 1), None, fixed(8, 1))], memory)["h1"]
    assert [found.inputs / PJ, found.parameters / PJ, found.sent / PJ] == pytest.approx([inputs, parameters, sent])
    assert found.total == pytest.approx(found.inputs + found.parameters + found.operations + found.sent)


def test_activations_between_layers_may_be_in_dram():
    first = Dense("h1", 100, 64, fixed(8, 1), fixed(4, 1), None, fixed(8, 1))
    second = Dense("h2", 64, 10, fixed(8, 1), fixed(4, 1), None)
    found = energy([first, second], Memory(activations="dram"))
    assert found["h1"].sent == found["h2"].inputs == pytest.approx(512 * 20.3125 * PJ)
    assert found["h1"].inputs == pytest.approx(13 * word(800) * PJ)
    assert found["h2"].outputs == pytest.approx(3 * word(180) * PJ)  # sums of 18 bits are the output
    assert found["h2"].sent == 0


def test_layers_of_a_ledger():
    inference = ledgers.load(RUN)["inference"]
    assert layers_of(inference) == [
        Dense("h1", 64, 12, ufixed(5, 1), float32, float32, binary),
        Dense("h2", 12, 12, binary, float32, float32, float32),
        Dense("output", 12, 10, float32, float32, float32),
    ]
    found = energy(layers_of(inference))
    assert found["h2"].operations == pytest.approx(144 * (3.7 + 0.9) * PJ)
    assert found["h2"].inputs == pytest.approx(word(12) * PJ)


def two_links():
    ledger = Ledger(samples=5)
    for link in ("input-h1", "output-h1"):
        ledger.crossed(MessageType(link, Direction.FORWARD, "activations", "binary", 1, 8), 5, 0, 0)
    ledger.worked(Work("h1", "activations", "multiply-accumulate", "binary", "binary"), 80)
    return ledger


def without_weights():
    ledger = Ledger(samples=5)
    ledger.crossed(MessageType("input-h1", Direction.FORWARD, "activations", "binary", 1, 8), 5, 0, 0)
    ledger.worked(Work("h1", "activations", "add", "float32"), 80)
    ledger.accessed(Access("h1", "weight", "write", "binary", 1, 64), 5)
    return ledger


@pytest.mark.parametrize(
    ("ledger", "message"),
    [
        (
            two_links(),
            "layer h1 gets 2 messages a sample over input-h1, output-h1; "
            "QTools counts layers that get one over one link",
        ),
        (without_weights(), "layer h1 reads no array 'weight', so QTools cannot count it"),
        (Ledger(), "the ledger has counted no sample, so it has no answer per sample"),
    ],
)
def test_what_qtools_has_no_word_for(ledger, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        layers_of(ledger)


GOOD = Dense("h1", 8, 4, binary, binary, None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: replace(GOOD, inputs=0), "layer h1: inputs must be 1 or more, not 0"),
        (lambda: replace(GOOD, accumulator_bits=-1), "layer h1: accumulator_bits must be 1 or more, not -1"),
        (lambda: energy([GOOD, GOOD]), "two layers have the name 'h1'"),
        (lambda: Memory("flash"), "no memory of parameters 'flash'; there are: dram, fixed, sram"),
        (lambda: Memory(activations="fixed"), "no memory of activations 'fixed'; there are: dram, sram"),
        (lambda: Memory(least_sram_bits=-1), "an SRAM has 0 or more bits, not -1"),
        *(
            (
                lambda fmt=fmt: energy([replace(GOOD, weight=fmt)]),
                f"layer h1: QTools has no quantizer like {fmt}; it has fixed point, binary, binary01, ternary, "
                "tables of powers of two, and floats of 16 and 32 bits",
            )
            for fmt in (mxint8, table([0.3, 0.7]), parse("float64"), parse("shared(4)"), parse("fp8-e4m3"))
        ),
    ],
)
def test_errors(wrong, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        wrong()
