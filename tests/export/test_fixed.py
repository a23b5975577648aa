"""The integer network against arithmetic in fractions, code for code."""

from itertools import permutations

import numpy as np
import pytest

from export import FixedNetwork, Levels
from export.accuracy import simulate
from export.fixed import signed_bits
from lowbit_dtp.formats import parse
from lowbit_dtp.storage import write_tensors

FORMATS = [
    "binary",
    "binary01",
    "ternary",
    "fixed(4,1)",
    "fixed(4,2,floor)",
    "ufixed(4,0)",
    "table(-1,0,0.5)",
    "table(0,2;-0.25)",
]
ACTIVATIONS = ["tanh", "identity", "relu", "sigmoid", "step", "hard-tanh", "hard-sigmoid"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("weights", ["fixed(8,1)", "ternary"])
def test_codes_and_classes_are_those_of_exact_arithmetic(make_network, exact_inference, fmt, activation, weights):
    links = ("ufixed(8,0)", fmt, fmt)
    tensors, description = make_network(links=links, activations=(activation, activation))
    network = FixedNetwork.of(tensors, description, weights)
    inputs = np.random.default_rng(1).random((12, 5)).astype(np.float32)
    trace = network.infer(inputs)
    expected, classes = exact_inference(network, tensors, inputs)
    assert [{name: codes[n].tolist() for name, codes in trace.codes.items()} for n in range(12)] == expected
    assert trace.classes.tolist() == classes


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_codes_are_those_of_a_float64_simulation_of_the_quantized_weights(make_network, tmp_path, activation):
    links = ("ufixed(8,0)", "fixed(4,1)", "binary")
    tensors, description = make_network(links=links, activations=(activation, activation), sizes=(30, 20, 15, 5))
    network = FixedNetwork.of(tensors, description)
    for layer in network.layers:
        tensors[f"{layer.name}.weight"] = (layer.weight * 2.0**layer.weight_levels.exponent).astype(np.float32)
    write_tensors(tmp_path / "n.safetensors", tensors, description)
    inputs = np.random.default_rng(2).random((200, 30))
    trace = network.infer(inputs)
    logits = simulate(tmp_path / "n.safetensors", inputs, np.float64)
    error = np.abs(trace.logits * 2.0 ** (network.output.exponent - 4) - logits)
    assert error.max() <= 2.0 ** (network.output.exponent - 5)  # half a unit, for the bias


def test_hand_computed_network():
    tensors = {
        "h1.weight": np.array([[0.5, -0.25], [0.25, 1.0]], np.float32),
        "h1.bias": np.array([-0.5, 0.25], np.float32),
        "output.weight": np.array([[0.5, 0.25], [0.25, -0.5]], np.float32),
        "output.bias": np.array([0.0, 0.1], np.float32),
    }
    description = {
        "input": {"name": "input", "neurons": 2},
        "layers": [
            {"name": "h1", "neurons": 2, "activation": "tanh"},
            {"name": "output", "neurons": 2, "activation": "identity"},
        ],
        "links": [
            {"lower": "input", "upper": "h1", "forward": "ufixed(2,0)", "feedback": "float32"},
            {"lower": "h1", "upper": "output", "forward": "binary", "feedback": "binary"},
        ],
    }
    network = FixedNetwork.of(tensors, description, "fixed(4,2)")  # steps of 1/4; inputs too
    assert network.hidden[0].weight.tolist() == [[2, -1], [1, 4]]
    # 0.5 is 8 sixteenths; -0.25 is -4, below the least sum of -3: always
    assert network.hidden[0].thresholds.tolist() == [[8], [-3]]
    trace = network.infer([[0.75, 0.5], [0.0, 0.75]])
    assert trace.codes["input-h1"].tolist() == [[3, 2], [0, 3]]
    assert trace.sums["h1-output"].tolist() == [[8, 5], [3, 12]]
    assert trace.codes["h1-output"].tolist() == [[1, 1], [0, 1]]
    assert trace.sums["output"].tolist() == [[3, -1], [-1, -3]]
    assert network.output.bias.tolist() == [0, 6]  # 0.1 in steps of 1/64 is 6.4
    assert trace.logits.tolist() == [[48, -10], [-16, -42]]
    assert trace.classes.tolist() == [0, 0]


def test_largest_logit_ties_go_to_the_lowest_class(make_network):
    network = FixedNetwork.of(*make_network())
    assert network.output.classes(np.array([[1, 5, 5], [7, 7, 7], [0, 1, 2]])).tolist() == [1, 0, 2]


MORE = ["fixed(8,1)", "ufixed(8,0)", "fixed(3,1,saturate-symmetric)", "table(-1,1;5)"]


@pytest.mark.parametrize("name", [*FORMATS, *MORE])
def test_levels_mean_what_the_format_decodes(name):
    """Formats whose values are not sent as themselves (binary01 sends 0.0 as 1) included."""
    levels = Levels.of(parse(name), "link")
    assert (np.array(levels.values) * 2.0**levels.exponent == levels.format.decode(levels.codes)).all()
    assert (levels.by_code[levels.codes] == levels.values).all()
    assert len(set(levels.codes.tolist())) == len(levels.values)


def test_unit_is_the_largest_power_of_two():
    assert Levels.of(parse("table(-6,2,4)"), "link").values == (-3, 1, 2)
    assert Levels.of(parse("table(-6,2,4)"), "link").exponent == 1
    assert Levels.of(parse("ufixed(8,0)"), "link").values == tuple(range(256))


@pytest.mark.parametrize("below", ["binary", "fixed(3,1)", "table(1,3)"])
def test_widths_hold_every_partial_sum_in_any_order(make_network, below):
    tensors, description = make_network(links=(below, "binary"), activations=("tanh",), sizes=(4, 3, 2))
    layer = FixedNetwork.of(tensors, description).layers[0]
    products = layer.weight[None] * np.array(layer.below.levels.values)[:, None, None]  # [levels, below, neurons]
    ends = products[[0, -1]]
    corners = np.array([[ends[c >> i & 1, i] for i in range(4)] for c in range(16)])  # [corners, below, neurons]
    orders = map(list, permutations(range(4)))
    partial = np.concatenate([corners[:, order].cumsum(1) for order in orders]).reshape(-1, 3)
    low, high = partial.min(0).clip(max=0), partial.max(0).clip(min=0)
    assert layer.neuron_sum_bits == tuple(map(signed_bits, low.tolist(), high.tolist()))
    totals = corners.sum(1)
    assert [x.tolist() for x in layer.sum_bounds] == [totals.min(0).tolist(), totals.max(0).tolist()]


@pytest.mark.parametrize("bits", range(1, 12))
def test_width_rule(bits):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    assert signed_bits(low, high) == bits
    assert signed_bits(low - 1, high) == signed_bits(low, high + 1) == bits + 1


def test_weights_round_half_to_even_and_saturate_symmetrically(make_network):
    tensors, description = make_network(links=("binary",), activations=(), sizes=(6, 1))
    tensors["output.weight"][:, 0] = np.array([0.5, 1.5, 2.5, -1.5, -300, 300]) / 128
    weight = FixedNetwork.of(tensors, description, "fixed(8,1)").output.weight
    assert weight[:, 0].tolist() == [0, 2, 2, -2, -127, 127]


def test_formats_of_single_layers(make_network):
    network = FixedNetwork.of(*make_network(), {"h1": "binary:1", "output": "fixed(4,1)"}, "ternary")
    names = [layer.weight_levels.format.name for layer in network.layers]
    assert names == ["table(-1,1)", "fixed(8,1,saturate-symmetric)", "fixed(4,1,saturate-symmetric)"]
    assert [(link.name, link.levels.format.name, link.quantized_on_export) for link in network.links] == [
        ("input-h1", "ufixed(8,0)", False),
        ("h1-h2", "binary", False),
        ("h2-output", "ternary", True),
    ]


def _set(section, index, key, value):
    return lambda tensors, description: description[section][index].update({key: value})


def _tensor(name, value):
    return lambda tensors, description: tensors.update({name: value})


BROKEN = {
    "stochastic link": (
        _set("links", 1, "forward", "fixed(4,1,stochastic)"),
        {},
        "link h1-h2: fixed(4,1,stochastic) is not a table of thresholds: that takes deterministic rounding, "
        "saturation and at most 16 bits",
    ),
    "wide link": (
        _set("links", 1, "forward", "table(-1,0.1)"),
        {},
        "link h1-h2: table(-1,0.1) takes 56-bit levels in units of 2^-55; at most 16 bits can be exported",
    ),
    "tiny link": (
        _set("links", 1, "forward", "table(0,1e-40)"),
        {},
        "link h1-h2: table(0,1e-40) counts in units of 2^-183; units from 2^-96 to 2^96 can be exported",
    ),
    "chain": (
        _set("links", 1, "lower", "h3"),
        {},
        "links must be input-h1, h1-h2, h2-output, in this order, not input-h1, h3-h2, h2-output",
    ),
    "path": (
        _set("layers", 0, "name", "../h1"),
        {},
        "layer '../h1' cannot name a file; a name is a letter, then letters, digits or _",
    ),
    "names": (
        _set("layers", 0, "name", "h2"),
        {},
        "layers need different names, not input, h2, h2, output",
    ),
    "activation": (
        _set("layers", 0, "activation", "gelu"),
        {},
        "no activation of layer h1 'gelu'; there are: hard-sigmoid, hard-tanh, identity, relu, sigmoid, step, tanh",
    ),
    "last activation": (
        _set("layers", 2, "activation", "tanh"),
        {},
        "layer output: the last layer's activation must be identity, not tanh",
    ),
    "NaN": (
        _tensor("h1.bias", np.full(4, np.nan, np.float32)),
        {},
        "tensor h1.bias holds NaN or infinity; all its values must be finite",
    ),
    "shape": (
        _tensor("h2.bias", np.zeros(4, np.float32)),
        {},
        "tensor h2.bias must be float32 [3], not float32 [4]",
    ),
    "dtype": (
        _tensor("h2.bias", np.zeros(3)),
        {},
        "tensor h2.bias must be float32 [3], not float64 [3]",
    ),
    "missing": (
        lambda tensors, description: tensors.pop("h1.bias"),
        {},
        "no tensor 'h1.bias'; there are: h1.weight, h2.bias, h2.weight, output.bias, output.weight",
    ),
    "bias": (
        _tensor("output.bias", np.full(3, 1e30, np.float32)),
        {},
        "tensor output.bias: 1.0000000150474662e+30 is too large beside a sum's unit of 2^-14; use a coarser "
        "format for the weights",
    ),
    "weights": (
        lambda *_: None,
        {"weights": "fixed(8,1,wrap)"},
        "weights of layer h1: fixed(8,1,wrap); exported weights are rounded half to even and saturate "
        "symmetrically, as fixed(8,1)",
    ),
    "float weights": (
        lambda *_: None,
        {"weights": "float32"},
        "weights of layer h1: float32 is not a table of thresholds; choose a fixed-point or few-bit format",
    ),
    "layer": (
        lambda *_: None,
        {"weights": {"h9": "binary"}},
        "no layer 'h9'; there are: h1, h2, output",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_exported_is_named(make_network, case):
    spoil, arguments, message = BROKEN[case]
    tensors, description = make_network()
    spoil(tensors, description)
    with pytest.raises(ValueError) as error:
        FixedNetwork.of(tensors, description, **arguments)
    assert str(error.value) == message


def test_load_names_the_file(saved):
    path = saved()
    with pytest.raises(ValueError) as error:
        FixedNetwork.load(path, "octal")
    assert str(error.value).startswith(f"{path}: no format 'octal'; there are: binary, ")
    assert FixedNetwork.load(path).links[-1].levels.format.name == "fixed(8,1)"


def test_sums_that_float64_cannot_hold_are_refused(make_network):
    tensors, description = make_network(links=("ufixed(16,0)",), activations=(), sizes=(1 << 18, 1))
    with pytest.raises(ValueError) as error:
        tensors["output.weight"][:] = 9
        FixedNetwork.of(tensors, description, "fixed(16,1)")
    largest = 2**18 * 65535 * 32767
    assert str(error.value) == (
        f"layer output: sums up to {largest} are too large to be exact; use fewer bits for its weights or for link "
        "input-output"
    )


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 4)), "link input-h1 carries 5 neurons, but was given an array of shape (2, 4)"),
        (np.zeros(5), "link input-h1 carries 5 neurons, but was given an array of shape (5,)"),
        (np.full((1, 5), np.nan), "link input-h1: ufixed(8,0) cannot send NaN"),
    ],
)
def test_wrong_pixels_are_named(make_network, inputs, message):
    with pytest.raises(ValueError) as error:
        FixedNetwork.of(*make_network()).infer(inputs)
    assert str(error.value) == message


def _imported(make_network, thresholds=((-3, 2), (0, 0), (1, 9), (-9, 9)), levels=(-1, 0, 1)):
    """A network whose first layer has thresholds in place of a bias and an activation."""
    tensors, description = make_network(links=("ufixed(2,2)", "ternary", "float32"), activations=("identity", "tanh"))
    random = np.random.default_rng(0)
    description["layers"][0]["inputs"] = {
        "input-h1": {"kind": "thresholded", "name": "weight", "direction": "forward", "format": "fixed(3):1.0"}
    }
    del tensors["h1.bias"]
    tensors |= {
        "h1.weight": random.integers(-3, 4, (5, 4)).astype(np.float32),
        "h1.weight_scale": np.ones((1, 1), np.float32),
        "h1.thresholds": np.array(thresholds, np.float32),
        "h1.levels": np.array(levels, np.float32),
    }
    return tensors, description


def test_thresholds_that_a_network_was_imported_with_are_those_of_its_neurons(make_network, tmp_path):
    tensors, description = _imported(make_network)
    network = FixedNetwork.of(tensors, description)
    layer = network.hidden[0]
    assert np.array_equal(layer.weight, tensors["h1.weight"])
    low, high = layer.sum_bounds
    assert np.array_equal(layer.thresholds, tensors["h1.thresholds"].clip(low[:, None], high[:, None] + 1))
    inputs = np.random.default_rng(1).integers(0, 4, (50, 5)).astype(np.float32)
    sums = inputs @ tensors["h1.weight"]
    ranks = (sums[..., None] >= tensors["h1.thresholds"]).sum(-1)
    assert np.array_equal(network.infer(inputs).codes["h1-h2"], ranks)
    write_tensors(tmp_path / "n.safetensors", tensors, description)
    h2 = np.tanh((ranks - 1.0) @ tensors["h2.weight"] + tensors["h2.bias"])
    expected = h2 @ tensors["output.weight"] + tensors["output.bias"]
    np.testing.assert_allclose(simulate(tmp_path / "n.safetensors", inputs, np.float64), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": (-1, 0, 2)}, "tensor h1.levels must hold the values of link h1-h2, ternary"),
        ({"thresholds": [(2, 1)] * 4}, "tensor h1.thresholds must ascend for each neuron"),
        ({"thresholds": [(1, 2, 3)] * 4}, "tensor h1.thresholds must be float32 [4, 2], not float32 [4, 3]"),
    ],
)
def test_wrong_thresholds_are_named(make_network, change, message):
    with pytest.raises(ValueError) as error:
        FixedNetwork.of(*_imported(make_network, **change))
    assert str(error.value) == message
