"""Learning rules: what neurons send each other over links in order to learn. One file a rule, listed once, here."""

from ..choices import choose
from .backprop import Backprop, BackpropThenSign, FixedLower, StraightThrough
from .competitive import SOM, Competitive, VectorQuantization
from .delta import Delta, Perceptron
from .dtp import DTP
from .hebbian import Hebbian
from .rule import (
    LearningRule,
    Step,
    StepContext,
    as_format,
    is_few_bit,
    output_error,
    send_error,
    weight_gradients,
    with_gradient,
)
from .target_prop import TargetProp

RULES: dict[str, type[LearningRule]] = {
    "dtp": DTP,
    "target-prop": TargetProp,
    "straight-through": StraightThrough,
    "backprop": Backprop,
    "backprop-then-sign": BackpropThenSign,
    "fixed-lower": FixedLower,
    "hebbian": Hebbian,
    "delta": Delta,
    "perceptron": Perceptron,
    "competitive": Competitive,
    "vector-quantization": VectorQuantization,
    "som": SOM,
}
"""Every rule, by name."""


def rule_named(name: str) -> type[LearningRule]:
    """The rule called `name`.

    >>> rule_named("dpt")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: no rule 'dpt'; there are: backprop, backprop-then-sign, ...
    """
    return choose("rule", name, RULES)


__all__ = [
    "DTP",
    "RULES",
    "SOM",
    "Backprop",
    "BackpropThenSign",
    "Competitive",
    "Delta",
    "FixedLower",
    "Hebbian",
    "LearningRule",
    "Perceptron",
    "Step",
    "StepContext",
    "StraightThrough",
    "TargetProp",
    "VectorQuantization",
    "as_format",
    "is_few_bit",
    "output_error",
    "rule_named",
    "send_error",
    "weight_gradients",
    "with_gradient",
]
