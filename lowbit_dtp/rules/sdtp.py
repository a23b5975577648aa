"""Simplified difference target propagation: no gradient at the top.

S. Bartunov, A. Santoro, B. Richards, L. Marris, G. Hinton, T. Lillicrap, Assessing the Scalability of
Biologically-Motivated Deep Learning Algorithms and Architectures, NeurIPS 2018.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..backends import Array, backend_of
from ..layers import Layer
from ..ledger import Ledger
from .dtp import DTP
from .rule import StepContext


@dataclass(frozen=True)
class SDTP(DTP):
    """Simplified DTP: the top hidden layer's target comes from the label, by a learned inverse of the output layer.

    The output layer sends p + target_step (y - p), which by default is the one-hot label y, and its state p: the
    softmax of linear outputs (else the outputs themselves). The top hidden layer's target is
    h + g(p + target_step (y - p)) - g(p), eq. 3.15, and g learns to invert h -> p under noise, eq. 3.13. The output
    layer itself descends the task's loss.
    """

    target_step: float | Sequence[float] = 1.0
    """Step from p to y."""
    top: str = "output"

    name: ClassVar[str] = "sdtp"
    source: ClassVar[str] = "Bartunov et al., NeurIPS 2018"
    crosses: ClassVar[str] = "activations, noisy activations up; reconstructions, states, targets down"
    tops: ClassVar[tuple[str, ...]] = ("output",)

    def output_target(
        self, layer: Layer, output: Array, error: Array, target: Array, context: StepContext
    ) -> tuple[Array, Array]:
        """p and p + target_step (y - p)."""
        wanted, xp = context.task.desired_output(target, output), backend_of(output)
        state = error + wanted if _has_softmax(layer, context) else output
        step = xp.each(self.target_step, output)
        return state, xp.axpy(step - 1, wanted - state, wanted)  # exactly y if the step is 1

    def sent_state(self, layer: Layer, state: Array, target: Array, ledger: Ledger, context: StepContext) -> Array:
        """p for the output layer; for others, the state."""
        if layer.name != "output" or not _has_softmax(layer, context):
            return state
        error, _ = layer.cross_entropy(state, target, ledger)
        return error + context.task.desired_output(target, state)


def _has_softmax(layer: Layer, context: StepContext) -> bool:
    """Whether the states of an output layer are logits of a softmax."""
    return context.task.name == "classify" and layer.activation.name == "identity"
