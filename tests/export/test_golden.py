"""Golden vectors: their coverage; they detect every single flipped bit."""

import numpy as np
import pytest

from export import FixedNetwork
from export.golden import golden_vectors, stimuli

LINKS = ["binary", "binary01", "ternary", "fixed(4,1)", "ufixed(8,0)"]


def _layer(make_network, below, above="binary", sizes=(24, 12, 2)):
    network = FixedNetwork.of(*make_network(links=(below, above), activations=("tanh",), sizes=sizes))
    return network.hidden[0]


@pytest.mark.parametrize("below", LINKS)
@pytest.mark.parametrize("above", ["binary", "fixed(4,1)"])
def test_each_neuron_is_put_just_under_and_just_over_a_threshold(make_network, below, above):
    layer = _layer(make_network, below, above)
    sums = layer.sums(stimuli(layer, np.random.default_rng(0)))
    for neuron, thresholds in enumerate(layer.thresholds):
        low, high = (bound[neuron] for bound in layer.sum_bounds)
        inside = thresholds[(thresholds > low) & (thresholds <= high)]
        target = inside[neuron % len(inside)]
        under, over = 2 + neuron, 2 + layer.neurons + neuron
        assert target - 3 <= sums[under, neuron] <= target - 1  # binary sums move in steps of 2
        assert target <= sums[over, neuron] <= target + 2


@pytest.mark.parametrize("below", LINKS)
def test_every_flipped_weight_bit_changes_a_sum(make_network, below):
    layer = _layer(make_network, below)
    levels = layer.below.levels.by_code[stimuli(layer, np.random.default_rng(0))]
    flipped = (layer.weight[..., None] & 255) ^ (1 << np.arange(8))
    change = np.where(flipped >= 128, flipped - 256, flipped) - layer.weight[..., None]
    assert (change != 0).all()
    assert (levels[:, :, None, None] * change).any(0).all()


@pytest.mark.parametrize("below", LINKS)
def test_codes_alone_show_more_flipped_bits_than_random_inputs_do(make_network, below):
    """For hardware whose sums cannot be seen."""
    layer = _layer(make_network, below, sizes=(48, 24, 2))
    aimed = stimuli(layer, np.random.default_rng(0))
    random = layer.below.levels.codes[np.random.default_rng(1).integers(0, len(layer.below.levels.codes), aimed.shape)]

    def seen(codes):
        sums, levels = layer.sums(codes), layer.below.levels.by_code[codes]
        flips = ((weights := layer.weight[..., None]) & 255) ^ (1 << np.arange(8))
        change = np.where(flips >= 128, flips - 256, flips) - weights
        return np.mean(
            [
                (layer.codes(sums + levels[:, [i]] * change[i, :, bit]) != layer.codes(sums)).any(0)
                for i in range(48)
                for bit in range(8)
            ]
        )

    assert seen(aimed) > seen(random) + 0.1


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_comparators_are_probed_on_both_sides_of_every_threshold(make_network, activation):
    links = ("ufixed(8,0)", "fixed(4,1)")
    network = FixedNetwork.of(*make_network(links=links, activations=(activation,), sizes=(5, 4, 3)))
    vectors = {golden.path: golden.values for golden in golden_vectors(network, np.zeros((1, 5)))}
    sums, layer = vectors["comparators/h1/h1-output.sums.mem"], network.hidden[0]
    for neuron, thresholds in enumerate(layer.thresholds):
        low, high = (bound[neuron] for bound in layer.sum_bounds)
        for threshold in thresholds:
            if low < threshold <= high:
                assert {threshold - 1, threshold} <= set(sums[:, neuron])
        assert low <= sums[:, neuron].min() <= sums[:, neuron].max() <= high
    assert (vectors["comparators/h1/h1-output.codes.mem"] == layer.codes(sums)).all()
    assert vectors["comparators/output/output.classes.mem"].ravel().tolist() == [0, 1, 2, 0, 1, 2]


def test_neuron_that_reaches_no_threshold_is_left_out(make_network):
    tensors, description = make_network(links=("binary", "binary"), activations=("tanh",), sizes=(3, 2, 2))
    tensors["h1.bias"][:] = 50
    layer = FixedNetwork.of(tensors, description).hidden[0]
    assert len(stimuli(layer, np.random.default_rng(0))) == 2


def test_no_samples_are_refused(make_network):
    with pytest.raises(ValueError) as error:
        golden_vectors(FixedNetwork.of(*make_network()), np.zeros((0, 5)))
    assert str(error.value) == "golden vectors need at least one sample of inputs, but were given none"
