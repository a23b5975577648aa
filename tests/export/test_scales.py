"""Scales of weights that are rounded after training: the best power of two, errors made up for, biases that fit."""

import re

import numpy as np
import pytest

from export import FixedNetwork, Trial, accuracy_lost, export_network, fewest_bits, levels_number, scales
from export.accuracy import simulate
from lowbit_dtp import data
from lowbit_dtp.storage import write_tensors
from lowbit_dtp.weight_formats import parse_weights

INPUTS = np.random.default_rng(7).random((300, 5)).astype(np.float32)


def level_count(bits):
    return 1 if bits <= 2 else 2 ** (bits - 1) - 1


def rounded(weight, bits, exponent):
    """`weight` in `bits` bits of the scale 2^`exponent`, half to even where there is a 0."""
    scale, highest = 2.0**exponent, level_count(bits)
    return (
        np.where(weight >= 0, scale, -scale) if bits == 1 else np.rint(weight / scale).clip(-highest, highest) * scale
    )


@pytest.mark.parametrize("bits", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("size", [0.003, 1.0, 40.0])
def test_the_scale_changes_the_weights_least(make_network, bits, size):
    tensors, description = make_network(sizes=(30, 20, 10, 3))
    tensors = {name: tensor * np.float32(size) for name, tensor in tensors.items()}
    for layer in FixedNetwork.of(tensors, description, str(bits)).layers:
        weight = tensors[f"{layer.name}.weight"]
        error = {k: np.square(weight - rounded(weight, bits, k)).sum() for k in range(-24, 12)}
        best = min(error, key=error.__getitem__)
        np.testing.assert_array_equal(layer.weight * 2.0**layer.weight_levels.exponent, rounded(weight, bits, best))
        assert layer.weight_levels.bits == bits


def test_weights_of_zero_have_a_scale_too(make_network):
    tensors, description = make_network()
    tensors["h1.weight"][:] = 0
    assert not FixedNetwork.of(tensors, description, "4", calibration=INPUTS).layers[0].weight.any()


@pytest.fixture
def classifier(tmp_path):
    """A network of digits, and its data: signs of 100 random sums, and the least squares of them. Path and data."""
    random, samples = np.random.default_rng(0), data.load("digits")
    inputs = np.asarray(samples.train.inputs)
    hidden = random.standard_normal((64, 100)).astype(np.float32)
    offset = -(inputs.mean(0) @ hidden)
    signs = np.where(inputs @ hidden + offset >= 0, 1.0, -1.0)
    targets = np.eye(10)[samples.train.labels] - 0.1
    output = np.linalg.solve(signs.T @ signs + 30 * np.eye(100), signs.T @ targets).astype(np.float32)
    tensors = {"h1.weight": hidden, "h1.bias": offset, "output.weight": output, "output.bias": np.zeros(10, np.float32)}
    description = {
        "input": {"name": "input", "neurons": 64},
        "layers": [
            {"name": "h1", "neurons": 100, "activation": "tanh"},
            {"name": "output", "neurons": 10, "activation": "identity"},
        ],
        "links": [
            {"lower": "input", "upper": "h1", "forward": "ufixed(5,1)", "feedback": "float32"},
            {"lower": "h1", "upper": "output", "forward": "binary", "feedback": "float32"},
        ],
    }
    path = tmp_path / "network.safetensors"
    write_tensors(path, tensors, description)
    return path, samples


def test_few_bits_lose_little_with_a_scale_and_calibration(classifier):
    path, samples = classifier
    inputs = np.asarray(samples.train.inputs)
    judged = (
        np.concatenate([samples.valid.inputs, samples.test.inputs]),
        np.r_[samples.valid.labels, samples.test.labels],
    )

    def lost(weights, calibration):
        return accuracy_lost(FixedNetwork.load(path, weights, calibration=calibration), path, *judged).lost_percent

    assert lost("fixed(4,1)", None) > 2  # weights of h1 beyond 1, and of the output below 1/16
    assert lost("4", inputs) <= 1
    assert lost("2", inputs) < lost("2", None) / 2


def test_sums_change_less_where_errors_are_made_up_for(classifier):
    path, samples = classifier
    inputs = np.asarray(samples.train.inputs)
    trained = simulate(path, inputs)

    def change(calibration):
        network = FixedNetwork.load(path, {"h1": "12", "output": "3"}, calibration=calibration)
        logits = network.infer(inputs).logits * 2.0 ** (network.output.exponent - 4)
        return np.square(logits - trained).mean()

    assert change(inputs) < 0.7 * change(None)


def test_biases_correct_the_mean_of_the_sums(classifier):
    path, samples = classifier
    inputs = np.asarray(samples.train.inputs)
    network = FixedNetwork.load(path, "2", calibration=inputs)
    unit = 2.0 ** (network.output.exponent - 4)
    means = (network.infer(inputs).logits * unit).mean(0)
    np.testing.assert_allclose(means, simulate(path, inputs).mean(0), atol=unit / 2 + 1e-5)


def test_a_format_that_has_a_scale_is_used_as_it_is(make_network):
    tensors, description = make_network()
    for weights in ("fixed(4,1)", "ternary:0.5", None):
        plain = FixedNetwork.of(tensors, description, weights)
        calibrated = FixedNetwork.of(tensors, description, weights, calibration=INPUTS)
        for one, other in zip(plain.layers, calibrated.layers, strict=True):
            np.testing.assert_array_equal(one.weight, other.weight)
        for one, other in zip(plain.hidden, calibrated.hidden, strict=True):
            np.testing.assert_array_equal(one.thresholds, other.thresholds)
        np.testing.assert_array_equal(plain.output.bias, calibrated.output.bias)


def trained_few_bit(make_network):
    """h1 was trained with ternary weights of scale 0.25."""
    tensors, description = make_network()
    tensors["h1.weight"] = (np.rint(tensors["h1.weight"]) / 4).astype(np.float32)
    tensors["h1.weight_scale"] = np.full((1, 1), 0.25, np.float32)
    row = {"name": "weight", "kind": "quantized", "direction": "forward", "format": "ternary"}
    description["layers"][0]["inputs"] = {"input-h1": row}
    return tensors, description


def test_weights_trained_with_few_bits_are_kept(make_network):
    tensors, description = trained_few_bit(make_network)
    for weights in (None, {"rest": ""}, {"output": "3"}):
        layer = FixedNetwork.of(tensors, description, weights, calibration=INPUTS).layers[0]
        np.testing.assert_array_equal(layer.weight * 0.25, tensors["h1.weight"])
        plain = FixedNetwork.of(tensors, description).hidden[0]
        np.testing.assert_array_equal(layer.thresholds, plain.thresholds)


def test_rest_names_the_other_layers(make_network):
    network = FixedNetwork.of(*make_network(), {"h2": "1", "rest": "fixed<5>"})
    assert [layer.weight_levels.bits for layer in network.layers] == [5, 1, 5]


@pytest.mark.parametrize("bits", [*range(1, 10), 16])
def test_levels_are_those_that_training_has(make_network, bits):
    levels = FixedNetwork.of(*make_network(), str(bits)).output.weight_levels
    assert len(levels.values) == {1: 2}.get(bits, 2 * level_count(bits) + 1)
    name = {1: "binary", 2: "ternary"}.get(bits, f"fixed({bits},1)")
    assert levels_number(levels) == name
    if 3 <= bits <= 8:
        assert parse_weights(f"fixed({bits})").highest == levels.values[-1]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("0", "weights of 0: a scale can be chosen for 1 to 16 bits"),
        ("fixed(17)", "weights of fixed(17): a scale can be chosen for 2 to 16 bits"),
        (
            "fixed(4):learned",
            "weights of layer h1: fixed(4):learned; a scale after a colon is a power of two, ternary:0.25 say; without "
            "a colon the export chooses it",
        ),
        ("ternary:0.3", "ternary:0.3: the scale must be a power of two, 0.125 say, not 0.3"),
        ({"h9": "4"}, "no layer 'h9'; there are: h1, h2, output"),
    ],
)
def test_weights_that_cannot_be_chosen_are_named(make_network, weights, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        FixedNetwork.of(*make_network(), weights)


def test_calibration_inputs_are_checked(make_network):
    network = make_network()
    message = "calibration needs at least one sample of inputs, but was given none"
    with pytest.raises(ValueError, match=f"^{message}$"):
        FixedNetwork.of(*network, "4", calibration=np.zeros((0, 5)))
    message = r"link input-h1 carries 5 neurons, but was given an array of shape \(3, 4\)"
    with pytest.raises(ValueError, match=f"^{message}$"):
        FixedNetwork.of(*network, "4", calibration=np.zeros((3, 4)))
    assert FixedNetwork.of(*network, "4", calibration=np.zeros((1, 5))).layers  # inputs without variance


def test_the_fewest_bits_that_lose_no_more_than_allowed(classifier):
    path, samples = classifier
    train, valid = np.asarray(samples.train.inputs), (np.asarray(samples.valid.inputs), samples.valid.labels)
    trials: list[Trial] = []
    found = fewest_bits(path, "auto", "fixed(8,1)", train, valid, 1.0, trials.append)
    network = FixedNetwork.load(path, found, calibration=train)
    assert accuracy_lost(network, path, *valid).lost_percent <= 1.0
    assert set(found) == {"h1", "output"} and max(map(int, found.values())) < 8
    for layer in found:  # one bit less of it was tried, and was not enough
        less = {name: int(bits) - (name == layer) for name, bits in found.items()}
        assert less[layer] == 0 or any(trial.lost_percent > 1.0 for trial in trials if trial.bits[layer] == less[layer])
    partly = fewest_bits(path, {"h1": "auto", "output": "6"}, "fixed(8,1)", train, valid, 1.0)
    assert partly["output"] == "6" and int(partly["h1"]) < 8
    with pytest.raises(ValueError) as error:
        fewest_bits(path, "auto", "fixed(8,1)", train, valid, -100)
    lost = accuracy_lost(FixedNetwork.load(path, "16", calibration=train), path, *valid).lost_percent
    assert str(error.value) == (
        f"{path}: weights of 16 bits lose {lost:.2f} percentage points on validation data, more than -100; allow more, "
        "or other formats for the links that are rounded"
    )


def test_auto_leaves_alone_what_was_trained_with_few_bits(make_network, tmp_path):
    tensors, description = trained_few_bit(make_network)
    write_tensors(tmp_path / "n.safetensors", tensors, description)
    labels = simulate(tmp_path / "n.safetensors", INPUTS).argmax(1)
    labelled = INPUTS, labels
    report = export_network(
        tmp_path / "n.safetensors", "mem", tmp_path / "mem", "auto", "fixed(8,1)", INPUTS[:3], True,
        calibration=INPUTS, validation=labelled, max_loss=5.0,
    )  # fmt: skip
    assert report.weights["h1"] == "table(-0.25,0,0.25)"
    assert report.weights_text.startswith("h1 table(-0.25,0,0.25), h2 ")
    assert report.verification is not None and report.verification.passed
    with pytest.raises(ValueError, match=r"^weights of auto bits need calibration inputs, and labelled validation"):
        export_network(tmp_path / "n.safetensors", "mem", tmp_path / "mem", {"h2": "auto"}, "fixed(8,1)", INPUTS, True)


def test_rounding_in_blocks_is_rounding_one_by_one(monkeypatch):
    random = np.random.default_rng(3)
    weight, inputs = random.standard_normal((30, 6)).astype(np.float32), random.standard_normal((90, 30))
    fmt, factor = parse_weights("fixed(3)").with_scale(0.5), scales.shares(np.cov(inputs, rowvar=False))
    expected, left = np.empty_like(weight), weight.astype(np.float64)
    for i in range(30):
        expected[i] = np.rint(left[i] * 2).clip(-3, 3) / 2
        left -= np.outer(factor[i], (left[i] - expected[i]) / factor[i, i])
    for block in (1, 7, 64):
        monkeypatch.setattr(scales, "BLOCK", block)
        np.testing.assert_array_equal(scales.compensated(fmt, weight, factor), expected)
