"""Learning rules. Each rule has a file and an entry in `RULES`."""

import inspect
import re
from dataclasses import is_dataclass
from typing import TypeVar

from ..choices import choose
from .autoencoder import DTPAutoencoder
from .backprop import Backprop, BackpropThenSign, FixedLower, StraightThrough
from .competitive import LVQ, SOM, Competitive, VectorQuantization
from .delta import Delta, Perceptron
from .drl import DRL, LDRL, DirectDTP
from .dtp import DTP
from .feedback_alignment import DirectFeedbackAlignment, FeedbackAlignment
from .fixed_dtp import FixedDTP
from .hebbian import Hebbian
from .integer_dtp import IntegerDTP
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
from .sdtp import SDTP
from .settling import ContrastiveHebbian, GeneRec
from .stochastic import StochasticDTP, StochasticStraightThrough
from .target_prop import TargetProp, TargetRule
from .ternary_errors import TernaryErrors

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
    "integer-dtp": IntegerDTP,
    "hebbian": Hebbian,
    "delta": Delta,
    "perceptron": Perceptron,
    "competitive": Competitive,
    "vector-quantization": VectorQuantization,
    "som": SOM,
    "lvq": LVQ,
    "feedback-alignment": FeedbackAlignment,
    "direct-feedback-alignment": DirectFeedbackAlignment,
    "ternary-errors": TernaryErrors,
    "stochastic-dtp": StochasticDTP,
    "stochastic-straight-through": StochasticStraightThrough,
    "contrastive-hebbian": ContrastiveHebbian,
    "generec": GeneRec,
    "dtp-autoencoder": DTPAutoencoder,
}
"""Every rule, by name."""


Kind = TypeVar("Kind", bound=type[LearningRule])


def register(rule: Kind) -> Kind:
    """Register your own rule under its `name`; also usable as a decorator. Returns the rule.

    Raises TypeError unless it is a dataclass that implements `LearningRule`, ValueError if the name is taken or cannot
    be written on a command line.
    """
    if not (isinstance(rule, type) and issubclass(rule, LearningRule)):
        raise TypeError(f"a rule must be a class derived from LearningRule, not {rule!r}")
    if inspect.isabstract(rule) or not is_dataclass(rule):
        missing = ", ".join(sorted(rule.__abstractmethods__))
        raise TypeError(f"rule {rule.__name__} must {f'define {missing}' if missing else 'be a dataclass'}")
    name = getattr(rule, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name, re.ASCII):
        raise ValueError(f"rule {rule.__name__}: its name must be letters, digits and any of -_.+, not {name!r}")
    if name in RULES:
        raise ValueError(f"rule {rule.__name__}: there is a rule {name!r} already; choose another name")
    RULES[name] = rule
    return rule


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
    "LVQ",
    "RULES",
    "SDTP",
    "SOM",
    "Backprop",
    "BackpropThenSign",
    "Competitive",
    "ContrastiveHebbian",
    "DTPAutoencoder",
    "Delta",
    "DirectDTP",
    "DirectFeedbackAlignment",
    "FeedbackAlignment",
    "FixedDTP",
    "FixedLower",
    "GeneRec",
    "Hebbian",
    "IntegerDTP",
    "LearningRule",
    "Perceptron",
    "Step",
    "StepContext",
    "StochasticDTP",
    "StochasticStraightThrough",
    "StraightThrough",
    "TargetProp",
    "TargetRule",
    "TernaryErrors",
    "VectorQuantization",
    "as_format",
    "is_few_bit",
    "output_error",
    "register",
    "rule_named",
    "send_error",
    "summed",
    "weight_gradients",
    "with_gradient",
]
