"""Difference target propagation: target propagation that cancels the error of the learned inverse.

D.-H. Lee, Difference Target Propagation, thesis, Algorithm 1; Lee, Zhang, Fischer, Bengio, ECML 2015.
"""

from dataclasses import dataclass
from typing import ClassVar

from ..backends import Array
from ..ledger import Direction, Ledger
from ..network import Edge, Pass
from .rule import StepContext
from .target_prop import TargetProp, TargetRule


@dataclass(frozen=True)
class DifferenceTargets(TargetRule):
    """Targets by eq. 3.15: a layer's state plus the difference of two decoded signals from above."""

    def target_below(self, edge: Edge, run: Pass, target: Array, ledger: Ledger, context: StepContext) -> Array:
        """Target of the lower layer: h + (g(target above) - g(state above)), eq. 3.15.

        In this order the difference is exactly zero for a sample whose target has the same bits as the state.
        """
        link, lower = edge.link, edge.lower
        assert lower is not None
        said = link.send(run.states[edge.upper.name], Direction.FEEDBACK, "state", ledger, context.stream)
        asked = link.send(target, Direction.FEEDBACK, "target", ledger, context.stream)
        return run.states[lower.name] + lower.decode_change(said, asked, ledger, "target")


@dataclass(frozen=True)
class DTP(DifferenceTargets, TargetProp):
    """Difference target propagation, eq. 3.15, with inverses learned by eq. 3.13."""

    name: ClassVar[str] = "dtp"
    source: ClassVar[str] = "Lee 2018, Algorithm 1, eqs. 3.7, 3.13, 3.15"
    crosses: ClassVar[str] = "activations, noisy activations up; reconstructions, states, targets down"
