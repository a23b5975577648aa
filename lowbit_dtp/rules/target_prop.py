"""Target propagation: each layer learns to reach a target that the layer above sends through a learned inverse.

D.-H. Lee, Difference Target Propagation, thesis, sections 3.2.1-3.2.3; Lee, Zhang, Fischer, Bengio, ECML 2015.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..backends import Array, backend_of
from ..ledger import Direction, Ledger
from ..network import Network, Pass
from ..optimizers import Gradients
from .rule import BOTH, LearningRule, Step, StepContext, input_gradient_below, keyed, output_error, output_gradients

SCHEDULES = {"minibatch": (BOTH,), "alternating-epochs": ("inverse", "forward")}
"""When inverse and forward mappings learn: together, as Algorithm 1 has it, or in passes of their own (the scripts)."""


@dataclass(frozen=True)
class TargetProp(LearningRule):
    """Target propagation, eq. 3.9: the target of a layer is `g(target above)`, without the difference correction.

    `target_step` and `noise` may be given for each member of an ensemble.
    """

    target_step: float | Sequence[float] = 0.28
    """Step of the top hidden layer's target down the gradient of a sample's loss (times 1/batch for a batch mean)."""
    noise: float | Sequence[float] = 0.5
    """Standard deviation, at the start, of the noise under which inverses are learned."""
    half_noise_epoch: float | None = None
    """Epoch E at which the noise is half of what it was: sigma(e) = sigma / (1 + e / E). None keeps it constant."""
    schedule: str = "minibatch"

    name: ClassVar[str] = "target-prop"
    source: ClassVar[str] = "Lee 2015, eqs. 3.9, 3.13"
    uses_feedback_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"no schedule {self.schedule!r}; there are: {', '.join(SCHEDULES)}")
        for name in ("target_step", "noise", "half_noise_epoch"):
            given = getattr(self, name)
            for value in given if isinstance(given, Sequence) else [given]:
                if value is not None and not 0 <= value < float("inf"):
                    raise ValueError(f"{self.name}: {name} must be a finite number, zero or more, not {value}")

    @property
    def phases(self) -> tuple[str, ...]:
        return SCHEDULES[self.schedule]

    def noise_at(self, epoch: Any, noise: Any = None) -> Any:
        """Standard deviation of the noise after `epoch` epochs, if it was `noise`, or else the rule's, at the start."""
        noise = self.noise if noise is None else noise
        return noise / (1 + epoch / self.half_noise_epoch) if self.half_noise_epoch else noise

    def step(self, net: Network, inputs: Array, labels: Array, ledger: Ledger, context: StepContext) -> Step:
        inverses = len(net.layers) - 2
        if context.phase == "inverse":
            run = net.forward(inputs, ledger, context.stream, layers=inverses)
            return Step(self._inverse_gradients(net, run, ledger, context), None)
        run = net.forward(inputs, ledger, context.stream)
        gradients, loss = self._forward_gradients(net, run, labels, ledger, context)
        if context.phase == BOTH:
            gradients |= self._inverse_gradients(net, run, ledger, context)
        return Step(gradients, loss)

    def _forward_gradients(
        self, net: Network, run: Pass, labels: Array, ledger: Ledger, context: StepContext
    ) -> tuple[Gradients, Array]:
        """Each layer's gradient of its own loss, ||state - target||^2; the output's of the negative log-likelihood."""
        top = len(net.layers) - 1
        error, loss = output_error(net, run.states[top], labels, ledger)
        gradients = output_gradients(net, run, error, ledger)
        if top:
            # the target of the top hidden layer (section 3.3): h - step dL/dh
            state, input_gradient = run.states[top - 1], input_gradient_below(net, top, error, ledger, context.stream)
            xp = backend_of(state)
            target = xp.axpy(-xp.each(self.target_step, state), input_gradient, state)
        for i in reversed(range(top)):
            state, layer = run.states[i], net.layers[i]
            gradients |= keyed(i, layer.gradients(run.received[i], layer.local_error(state, target), ledger))
            if i:
                target = self.target_below(net, i, run, target, ledger, context)
        return gradients, loss

    def target_below(
        self, net: Network, index: int, run: Pass, target: Array, ledger: Ledger, context: StepContext
    ) -> Array:
        """Target of layer `index - 1`, given that of layer `index`: eq. 3.9, g(target)."""
        arrived = net.links[index].send(target, Direction.FEEDBACK, "target", ledger, context.stream)
        return net.layers[index - 1].decode(arrived, ledger, "target")

    def _inverse_gradients(self, net: Network, run: Pass, ledger: Ledger, context: StepContext) -> Gradients:
        """Gradients of the feedback mappings g for ||g(f(h + e)) - (h + e)||^2, eq. 3.13."""
        gradients: Gradients = {}
        for i, (layer, above) in enumerate(zip(net.layers[:-2], net.layers[1:-1], strict=True)):
            link, state = net.links[i + 1], run.states[i]
            xp = backend_of(state)
            sigma = self.noise_at(context.epoch, xp.each(self.noise, state))
            noisy = xp.axpy(sigma, context.stream.normal(f"noise {layer.name}", state), state)
            up = link.send(noisy, Direction.FORWARD, "noisy activations", ledger, context.stream)
            lifted = above.state(up, ledger, "inverse")
            down = link.send(lifted, Direction.FEEDBACK, "reconstruction", ledger, context.stream)
            reconstruction = layer.decode(down, ledger, "inverse")
            gradients |= keyed(i, layer.feedback_gradients(down, layer.local_error(reconstruction, noisy), ledger))
        return gradients
