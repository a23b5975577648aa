"""Updates of the rules for a single layer, in plain NumPy, one sample at a time, as eqs. 1.6 to 1.9 are written.

Nothing here but `Format.quantize` is the project's own. With a learning rate of 1, gradients are minus the updates.
"""

from typing import Any

import numpy as np

from lowbit_dtp.network import Network
from lowbit_dtp.randomness import RandomStream

Gradients = dict[tuple[str, str], np.ndarray]


def _parts(net: Network, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs as they arrive, and the weights of each neuron [neurons, inputs]."""
    return net.links[0].forward.quantize(inputs), net.layers[0].weight.T


def _one_hot(target: np.ndarray, neurons: int) -> np.ndarray:
    return np.eye(neurons)[target] if target.ndim == 1 else target


def hebbian(rule: Any, net: Network, inputs: np.ndarray, target: np.ndarray, stream: RandomStream) -> Gradients:
    """Eq. 1.6 and its variants, for each pair of neurons."""
    x, w = _parts(net, inputs)
    y = _one_hot(target, len(w)) if rule.supervised else x @ w.T
    layer = net.layers[0]
    if rule.variant == "covariance":
        before, held = layer.buffers["samples"], layer.buffers
        after = before + len(x)
        mean_x = (before * held["input_mean"] + x.sum(0)) / after
        mean_y = (before * held["output_mean"] + y.sum(0)) / after
    change = np.zeros_like(w)
    for xs, ys in zip(x, y, strict=True):
        for i in range(len(w)):
            for j in range(len(xs)):
                if rule.variant == "covariance":
                    change[i, j] += (xs[j] - mean_x[j]) * (ys[i] - mean_y[i])
                elif rule.variant == "oja":
                    change[i, j] += ys[i] * (xs[j] - ys[i] * w[i, j])
                else:
                    change[i, j] += ys[i] * xs[j]
    return {("output", "weight"): -change.T / len(x)}


def delta(rule: Any, net: Network, inputs: np.ndarray, target: np.ndarray, stream: RandomStream) -> Gradients:
    """Eqs. 1.7 and 1.8, and the perceptron's rule, with the bias as the weight of an input of 1."""
    x, w = _parts(net, inputs)
    y, bias = _one_hot(target, len(w)), net.layers[0].bias
    change, bias_change = np.zeros_like(w), np.zeros_like(bias)
    for xs, ys in zip(x, y, strict=True):
        a = w @ xs + bias
        if rule.name == "perceptron":
            h = (a >= 0).astype(float) if rule.units == "step" else np.eye(len(a))[a.argmax()]
            error = ys - h
        else:
            sigmoid = net.layers[0].activation.name == "sigmoid"
            h = 1 / (1 + np.exp(-a)) if sigmoid else a
            error = (ys - h) * (h * (1 - h) if sigmoid and rule.loss == "squared" else 1)
        change += np.outer(error, xs)
        bias_change += error
    return {("output", "weight"): -change.T / len(x), ("output", "bias"): -bias_change / len(x)}


def competitive(rule: Any, net: Network, inputs: np.ndarray, target: np.ndarray, stream: RandomStream) -> Gradients:
    """Eq. 1.9 for the winner, or the neurons near it, of each sample."""
    x, w = _parts(net, inputs)
    held = net.layers[0].buffers
    winners = []
    for n, xs in enumerate(x):
        distance = ((xs - w) ** 2).sum(1) if rule.winner == "nearest" else -2 * w @ xs
        if getattr(rule, "conscience", 0):
            distance = distance + rule.conscience * (len(w) * held["wins"] / held["wins"].sum() - 1)
        if getattr(rule, "guided_epochs", 0):  # all tests are in epoch 0
            distance = np.where(np.arange(len(w)) % rule.classes == target[n], distance, np.inf)
        winners.append(int(distance.argmin()))
    counts = np.bincount(winners, minlength=len(w))
    change = np.zeros_like(w)
    for n, (xs, winner) in enumerate(zip(x, winners, strict=True)):
        for i in range(len(w)):
            if rule.name == "som":
                rate = held["neighbourhood"][winner, i] / len(x)
            elif rule.name == "vector-quantization":
                rate = (i == winner) / (rule.memory * held["wins"][i] + counts[i])
            else:
                rate = (i == winner) / len(x)
            if rule.name == "lvq" and i % rule.classes != target[n]:
                rate = -rate
            change[i] += rate * (xs - w[i])
    return {("output", "weight"): -change.T}
