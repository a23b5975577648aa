"""Base of the rules for networks with one layer: section 1.2 of the thesis."""

from typing import Any

from ..backends import Array
from ..network import Edge, Network
from .rule import LearningRule


class SingleLayerRule(LearningRule):
    """A rule for networks `[inputs, neurons]`. SGD with its gradient, a mean over the minibatch, gives its update.

    With one sample a minibatch that is the update of the thesis; eta is the optimizer's learning rate.
    """

    def prepare(self, net: Network, seed: int) -> None:
        sizes = net.sizes
        if len(sizes) != 2:
            raise ValueError(f"{self.name} trains one layer, so sizes must be [inputs, neurons], not {sizes}")


def single_edge(net: Network) -> Edge:
    """The link from the inputs to the only layer."""
    (edge,) = net.edges
    return edge


def same_type(value: Any, like: Array) -> Array:
    """`value`, a number or an array of one number on the device, as an array of the shape and type of `like`.

    NumPy would compute with an array of one number in float64, and round differently.
    """
    filled = like * 0
    filled += value
    return filled
