"""Learning rules: what neurons send each other over links in order to learn. One file a rule, listed once, here."""

from ..choices import choose
from .autoencoder import DTPAutoencoder
from .backprop import Backprop, BackpropThenSign, FixedLower, StraightThrough
from .dtp import DTP
from .rule import (
    LearningRule,
    Step,
    StepContext,
    as_format,
    is_few_bit,
    output_error,
    send_error,
    summed,
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
    "dtp-autoencoder": DTPAutoencoder,
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
    "Backprop",
    "BackpropThenSign",
    "DTPAutoencoder",
    "FixedLower",
    "LearningRule",
    "Step",
    "StepContext",
    "StraightThrough",
    "TargetProp",
    "as_format",
    "is_few_bit",
    "output_error",
    "rule_named",
    "send_error",
    "summed",
    "weight_gradients",
    "with_gradient",
]
