"""Learning rules: what neurons send each other over links in order to learn. One file a rule, listed once, here."""

from ..formats import choose
from .backprop import Backprop, BackpropThenSign, FixedLower, StraightThrough
from .drl import DRL, LDRL, DirectDTP
from .dtp import DTP
from .fixed_dtp import FixedDTP
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
from .sdtp import SDTP
from .target_prop import TargetProp, TargetRule

RULES: dict[str, type[LearningRule]] = {
    "dtp": DTP,
    "target-prop": TargetProp,
    "sdtp": SDTP,
    "direct-dtp": DirectDTP,
    "dtp-fixed": FixedDTP,
    "drl": DRL,
    "l-drl": LDRL,
    "straight-through": StraightThrough,
    "backprop": Backprop,
    "backprop-then-sign": BackpropThenSign,
    "fixed-lower": FixedLower,
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
    "DRL",
    "DTP",
    "LDRL",
    "RULES",
    "SDTP",
    "Backprop",
    "BackpropThenSign",
    "DirectDTP",
    "FixedDTP",
    "FixedLower",
    "LearningRule",
    "Step",
    "StepContext",
    "StraightThrough",
    "TargetProp",
    "TargetRule",
    "as_format",
    "is_few_bit",
    "output_error",
    "rule_named",
    "send_error",
    "weight_gradients",
    "with_gradient",
]
