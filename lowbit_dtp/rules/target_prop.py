"""Target propagation: each layer learns to reach a target that the layer above sends through a learned inverse.

D.-H. Lee, Difference Target Propagation, thesis, sections 3.2.1-3.2.3; Lee, Zhang, Fischer, Bengio, ECML 2015.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..backends import Array, backend_of
from ..layers import Gradients
from ..ledger import Direction, Ledger
from ..network import Edge, Network, Pass
from .rule import BOTH, LearningRule, Step, StepContext, output_error, send_error, weight_gradients

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
    crosses: ClassVar[str] = "activations, noisy activations up; reconstructions, targets down"
    tasks: ClassVar[tuple[str, ...]] = ("classify", "associate", "reconstruct")
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

    def step(self, net: Network, inputs: Array, target: Array, ledger: Ledger, context: StepContext) -> Step:
        if context.phase == "inverse":
            inverses = self._inverses(net)
            if not inverses:
                return Step({}, None)
            run = net.forward(inputs, ledger, context.stream, until=inverses[-1].lower.name)
            return Step(self._inverse_gradients(net, run, ledger, context), None)
        run = net.forward(inputs, ledger, context.stream)
        gradients, loss = self._forward_gradients(net, run, target, ledger, context)
        if context.phase == BOTH:
            gradients |= self._inverse_gradients(net, run, ledger, context)
        return Step(gradients, loss)

    def _forward_gradients(
        self, net: Network, run: Pass, target: Array, ledger: Ledger, context: StepContext
    ) -> tuple[Gradients, Array]:
        """Each layer's gradient of its own loss, ||state - target||^2; the output's of the task's loss."""
        *hidden, top = net.edges
        error, loss = output_error(net, run.output, target, ledger, context)
        gradients = weight_gradients(top, run, error, ledger)
        if top.lower is not None:
            target = self.top_target(top, run, error, ledger, context)
        for edge in reversed(hidden):
            layer, received = edge.upper, run.received[edge.link.name]
            local = layer.local_error(run.states[layer.name], target)
            gradients |= layer.gradients(received, local, ledger)
            if edge.lower is not None:
                target = self.target_below(edge, run, target, ledger, context)
        return gradients, loss

    def top_target(self, edge: Edge, run: Pass, error: Array, ledger: Ledger, context: StepContext) -> Array:
        """Target of the top hidden layer, section 3.3 of the thesis: h - step dL/dh."""
        assert edge.lower is not None
        state, gradient = run.states[edge.lower.name], send_error(edge, error, ledger, context.stream)
        xp = backend_of(state)
        return xp.axpy(-xp.each(self.target_step, state), gradient, state)

    def target_below(self, edge: Edge, run: Pass, target: Array, ledger: Ledger, context: StepContext) -> Array:
        """Target of the lower layer of `edge`, given that of the upper one: eq. 3.9, g(target)."""
        assert edge.lower is not None
        arrived = edge.link.send(target, Direction.FEEDBACK, "target", ledger, context.stream)
        return edge.lower.decode(arrived, ledger, "target")

    def _inverses(self, net: Network) -> list[Any]:
        """Edges whose lower layer decodes the upper one."""
        return [edge for edge in net.edges if edge.lower is not None and edge.link.name in edge.lower.inputs]

    def _inverse_gradients(self, net: Network, run: Pass, ledger: Ledger, context: StepContext) -> Gradients:
        """Gradients of the feedback mappings g for ||g(f(h + e)) - (h + e)||^2, eq. 3.13."""
        gradients: Gradients = {}
        for edge in self._inverses(net):
            link, layer, state = edge.link, edge.lower, run.states[edge.lower.name]
            xp = backend_of(state)
            sigma = self.noise_at(context.epoch, xp.each(self.noise, state))
            noisy = xp.axpy(sigma, context.stream.normal(f"noise {layer.name}", state), state)
            up = link.send(noisy, Direction.FORWARD, "noisy activations", ledger, context.stream)
            lifted = edge.upper.state(up, ledger, "inverse")
            down = link.send(lifted, Direction.FEEDBACK, "reconstruction", ledger, context.stream)
            reconstruction = layer.decode(down, ledger, "inverse")
            gradients |= layer.gradients(down, layer.decoder_error(reconstruction, noisy), ledger)
        return gradients
