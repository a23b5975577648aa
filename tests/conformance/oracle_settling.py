"""Expected results of rules that settle, in plain NumPy and float64, with the phases and updates of the papers."""

from typing import Any

import numpy as np

from lowbit_dtp.network import Network
from lowbit_dtp.randomness import RandomStream
from lowbit_dtp.rules import ContrastiveHebbian

ACTIVATIONS = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "identity": lambda x: x,
}


def contrast(
    rule: Any, net: Network, inputs: np.ndarray, target: np.ndarray, stream: RandomStream
) -> dict[tuple[str, str], np.ndarray]:
    """Gradients of contrastive Hebbian learning and of GeneRec, for classes."""
    w = [{name: np.asarray(x, np.float64) for name, x in layer.arrays().items()} for layer in net.layers]
    f = [ACTIVATIONS[layer.activation.name] for layer in net.layers]
    up = [link.forward.quantize for link in net.links]
    down = [link.feedback.quantize for link in net.links]
    top, classes = len(w) - 1, np.eye(net.sizes[-1])

    def settle(states: list[Any], updated: range) -> list[np.ndarray]:
        """The states after `rule.steps` sweeps over the layers `updated`; None is a state that is not known yet."""
        for _ in range(rule.steps):
            before = list(states)
            for i in updated:
                below = up[i](inputs if i == 0 else states[i - 1])
                total = below @ w[i]["weight"] + w[i]["bias"]
                if i < top and before[i + 1] is not None:
                    total = total + rule.gamma * (down[i + 1](before[i + 1]) @ w[i]["feedback"])
                states = [*states[:i], f[i](total), *states[i + 1 :]]
        return states

    free = settle([None] * (top + 1), range(top + 1))
    clamped = settle([*free[:-1], classes[target]], range(top))
    is_symmetric = isinstance(rule, ContrastiveHebbian) or rule.symmetric

    def learned(before: Any, after: Any, own_before: Any, own_after: Any) -> np.ndarray:
        """Change of weights by what was received and the states of the layer that holds them, in either phase."""
        if isinstance(rule, ContrastiveHebbian):
            return after.T @ own_after - before.T @ own_before
        received = (before + after) / 2 if rule.midpoint else before
        change = received.T @ (own_after - own_before)
        if rule.symmetric:
            change += (after - before).T @ ((own_before + own_after) / 2 if rule.midpoint else own_before)
        return change

    gradients = {}
    for i, layer in enumerate(net.layers):
        share = len(inputs) * rule.gamma ** (top - i)
        own = [free[i], clamped[i]]
        received = [up[0](inputs)] * 2 if i == 0 else [up[i](free[i - 1]), up[i](clamped[i - 1])]
        told = [down[i](x) for x in own] if is_symmetric and i else own
        gradients[layer.name, "weight"] = -learned(*received, *told) / share
        gradients[layer.name, "bias"] = -(told[1] - told[0]).sum(0) / share
        if i < top:
            above = [down[i + 1](free[i + 1]), down[i + 1](clamped[i + 1])]
            if is_symmetric:
                told, share = [up[i + 1](x) for x in own], share / rule.gamma
            gradients[layer.name, "feedback"] = -learned(*above, *told) / share
    return gradients
