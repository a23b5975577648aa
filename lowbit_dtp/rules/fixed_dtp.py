"""Difference target propagation with fixed feedback weights.

T. Shibuya, N. Inoue, R. Kawakami, I. Sato, Fixed-Weight Difference Target Propagation, AAAI 2023, arXiv:2212.10352.
"""

from dataclasses import dataclass
from math import log2
from typing import Any, ClassVar

from ..network import Network
from .dtp import DifferenceTargets
from .rule import as_format


@dataclass(frozen=True)
class FixedDTP(DifferenceTargets):
    """DTP without learned inverses: targets by eq. 3.15, with fixed feedback weights.

    Only activations go up, and only states and targets come down.

    `weights = "sign"` makes every feedback weight +s or -s, by its sign when drawn, with s the power of two nearest to
    1/sqrt(neurons above), so that a product with few-bit codes needs no multiplier. `decoder = "identity"` makes g
    linear.

    `weights = "mirror"` makes them copies of the forward weights, transposed. All of them are sent down after each
    step, over a link `h1-h2.weights` that counts them (purpose "weights"), in the format `copied`; the copy that a
    network starts with is not counted.
    """

    weights: str = "random"
    copied: Any = None
    """Format in which mirrored weights are sent, or its name; None sends them without quantization."""

    name: ClassVar[str] = "dtp-fixed"
    source: ClassVar[str] = "Shibuya et al., AAAI 2023; Lee 2018, eq. 3.15"
    crosses: ClassVar[str] = (
        "activations up; states, targets down (thesis' net: 500 bits up, 1000 down a sample at h1-h2); "
        "with mirrored weights, all weights down after each step"
    )

    uses_feedback_weights: ClassVar[bool] = False  # none that learn

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights not in ("random", "sign", "mirror"):
            raise ValueError(f"{self.name}: weights must be 'random', 'sign' or 'mirror', not {self.weights!r}")
        if self.copied is not None:
            if self.weights != "mirror":
                raise ValueError(f"{self.name}: copied is for weights = 'mirror', not for {self.weights!r}")
            object.__setattr__(self, "copied", as_format(self.copied))

    def prepare(self, net: Network, seed: int) -> None:
        super().prepare(net, seed)
        if self.weights == "mirror":
            for route in self.routes(net):
                net.mirror_feedback(route.link.name, self.copied)
        if self.weights != "sign":
            return
        for route in self.routes(net):
            layer = route.lower
            assert layer is not None
            projection = layer.inputs[route.link.name]
            size = 2.0 ** round(log2(projection.shape[0] ** -0.5))
            signs = projection.values * 0 - size
            signs[projection.values > 0] = size
            layer.put(projection.name, signs)
