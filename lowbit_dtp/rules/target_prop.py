"""Target propagation: each layer learns to reach a target that the layer above sends through a learned inverse.

D.-H. Lee, Difference Target Propagation, thesis, sections 3.2.1-3.2.3; Lee, Zhang, Fischer, Bengio, ECML 2015.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, ClassVar

from ..activations import ACTIVATIONS
from ..backends import Array, backend_of
from ..choices import choose
from ..layers import Gradients, Layer
from ..ledger import Direction, Ledger
from ..links import Signal
from ..network import Edge, Network, Pass
from .rule import BOTH, LearningRule, Step, StepContext, output_error, send_error, weight_gradients

SCHEDULES = {"minibatch": (BOTH,), "alternating-epochs": ("inverse", "forward")}
"""When inverse and forward mappings learn: in each minibatch (Algorithm 1), or in separate passes (the scripts)."""


@dataclass(frozen=True)
class TargetRule(LearningRule):
    """Base of rules with targets: the first target, and the loss of each layer.

    With `top = "gradient"` the top hidden layer gets the first target, h - target_step dL/dh, by the output weights
    transposed (section 3.3 of the thesis). With `top = "output"` the output layer gets it, eq. 3.7:
    o - target_step dL/do, and the top hidden layer has feedback weights like the others.

    `target_step` may be given for each member of an ensemble.
    """

    target_step: float | Sequence[float] = 0.28
    """Step of the first target down the gradient of a sample's loss (times 1/batch for a batch mean)."""
    top: str = "gradient"
    layer_steps: Sequence[float] = ()
    """Factors s of the hidden layers, lowest first: a target h + d becomes h + s d, which the layers below use, too.

    Empty is 1 for all.
    """
    decoder: str = ""
    """Activation of the learned inverses; "" is that of the layer."""

    tasks: ClassVar[tuple[str, ...]] = ("classify", "associate", "reconstruct")
    uses_feedback_weights: ClassVar[bool] = True
    tops: ClassVar[tuple[str, ...]] = ("gradient", "output")

    def __post_init__(self) -> None:
        if self.top not in self.tops:
            raise ValueError(f"{self.name}: top must be {' or '.join(map(repr, self.tops))}, not {self.top!r}")
        if not isinstance(self.layer_steps, Sequence) or isinstance(self.layer_steps, str):
            raise ValueError(f"{self.name}: layer_steps must be a list of numbers, not {self.layer_steps!r}")
        object.__setattr__(self, "layer_steps", tuple(self.layer_steps))
        if self.decoder:
            choose("activation", self.decoder, ACTIVATIONS)
        self._check_numbers("target_step", "layer_steps")

    def _check_numbers(self, *names: str) -> None:
        """Raise ValueError unless a setting, or each number in it, is finite and zero or more; None is allowed."""
        for name in names:
            given = getattr(self, name)
            for value in given if isinstance(given, Sequence) and not isinstance(given, str) else [given]:
                numeric = isinstance(value, int | float) and not isinstance(value, bool)
                if value is not None and not (numeric and 0 <= value < float("inf")):
                    raise ValueError(f"{self.name}: {name} must be a finite number, zero or more, not {value}")

    def prepare(self, net: Network, seed: int) -> None:
        hidden = len(net.layers) - 1
        if self.layer_steps and len(self.layer_steps) != hidden:
            raise ValueError(
                f"{self.name}: layer_steps must be {hidden} numbers, one for each hidden layer, lowest first, "
                f"not {list(self.layer_steps)}"
            )
        for route in self.routes(net):
            assert route.lower is not None
            if route.link.name not in route.lower.inputs:
                net.add_feedback(route.link.name, seed)
            if self.decoder:
                route.lower.decoder_activation = ACTIVATIONS[self.decoder]

    def routes(self, net: Network) -> list[Edge]:
        """Links over which hidden layers, lowest first, receive targets; the lower end of each decodes them."""
        return net.edges[1:] if self.top == "output" else net.edges[1:-1]

    def step(self, net: Network, inputs: Array | Signal, target: Array, ledger: Ledger, context: StepContext) -> Step:
        run = net.forward(inputs, ledger, context.stream)
        return Step(*self._forward_gradients(net, run, target, ledger, context))

    def _forward_gradients(
        self, net: Network, run: Pass, target: Array, ledger: Ledger, context: StepContext
    ) -> tuple[Gradients, Array]:
        """Gradients: each hidden layer's of its loss ||state - target||^2; the output layer's of the task's loss."""
        *hidden, top = net.edges
        output, targets = top.upper, {}
        error, loss = output_error(net, run.output, target, ledger, context)
        gradients = weight_gradients(top, run, error, ledger)
        if self.top == "output" and hidden:
            sent, targets[output.name] = self.output_target(output, run.output, error, target, context)
            run = replace(run, states=run.states | {output.name: sent})
        routes = {route.lower.name: route for route in self.routes(net) if route.lower is not None}
        for i, edge in reversed(list(enumerate(hidden))):
            layer, received = edge.upper, run.received[edge.link.name]
            state = run.states[layer.name]
            if layer.name in routes:
                route = routes[layer.name]
                made = self.target_below(route, run, targets[route.upper.name], ledger, context)
            else:
                made = self.top_target(top, run, error, ledger, context)
            if self.layer_steps and self.layer_steps[i] != 1:
                made = backend_of(state).axpy(self.layer_steps[i], made - state, state)
            targets[layer.name] = made
            gradients |= layer.gradients(received, layer.local_error(state, made), ledger)
        return gradients, loss

    def top_target(self, edge: Edge, run: Pass, error: Array, ledger: Ledger, context: StepContext) -> Array:
        """Target of the top hidden layer, section 3.3 of the thesis: h - step dL/dh."""
        assert edge.lower is not None
        state, gradient = run.states[edge.lower.name], send_error(edge, error, ledger, context.stream)
        xp = backend_of(state)
        return xp.axpy(-xp.each(self.target_step, state), gradient, state)

    def output_target(
        self, layer: Layer, output: Array, error: Array, target: Array, context: StepContext
    ) -> tuple[Array, Array]:
        """State and target that the output `layer` sends down: o and o - step dL/do, eq. 3.7."""
        xp = backend_of(output)
        gradient = error
        if layer.activation.name != "identity":  # squared error then: see Layer.classification_error
            gradient = 2 * (output - context.task.desired_output(target, output))
        return output, xp.axpy(-xp.each(self.target_step, output), gradient, output)

    def target_below(self, edge: Edge, run: Pass, target: Array, ledger: Ledger, context: StepContext) -> Array:
        """Target of the lower layer of `edge`, given that of the upper one: eq. 3.9, g(target)."""
        assert edge.lower is not None
        arrived = edge.link.send(target, Direction.FEEDBACK, "target", ledger, context.stream)
        return edge.lower.decode(arrived, ledger, "target")


@dataclass(frozen=True)
class TargetProp(TargetRule):
    """Target propagation, eq. 3.9: the target of a layer is `g(target above)`, without the difference correction.

    `target_step` and `noise` may be given for each member of an ensemble.
    """

    noise: float | Sequence[float] = 0.5
    """Standard deviation, at the start, of the noise under which inverses are learned."""
    half_noise_epoch: float | None = None
    """Epoch E at which the noise is half of its initial value: sigma(e) = sigma / (1 + e / E). None: constant."""
    schedule: str = "minibatch"
    inverse_share: float = 1.0
    """Share of the samples of each minibatch, its first ones, from which inverses learn; at least one sample.

    The others send no noisy activations up and no reconstructions down.
    """

    name: ClassVar[str] = "target-prop"
    source: ClassVar[str] = "Lee 2018, eqs. 3.7, 3.9, 3.13"
    crosses: ClassVar[str] = "activations, noisy activations up; reconstructions, targets down"

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"no schedule {self.schedule!r}; there are: {', '.join(SCHEDULES)}")
        super().__post_init__()
        self._check_numbers("noise", "half_noise_epoch", "inverse_share")
        if not 0 < self.inverse_share <= 1:
            raise ValueError(f"{self.name}: inverse_share must be above 0 and at most 1, not {self.inverse_share}")

    @property
    def phases(self) -> tuple[str, ...]:
        return SCHEDULES[self.schedule]

    def noise_at(self, epoch: Any, noise: Any = None) -> Any:
        """Standard deviation of the noise after `epoch` epochs, from `noise` (by default the rule's) at the start."""
        noise = self.noise if noise is None else noise
        return noise / (1 + epoch / self.half_noise_epoch) if self.half_noise_epoch else noise

    def step(self, net: Network, inputs: Array | Signal, target: Array, ledger: Ledger, context: StepContext) -> Step:
        if context.phase == "inverse":
            routes = self.routes(net)
            if not routes:
                return Step({}, None)
            few = self._inverse_samples(inputs.shape[-2])
            inputs = inputs.first(few) if isinstance(inputs, Signal) else inputs[..., :few, :]
            run = net.forward(inputs, ledger, context.stream, until=self.highest_needed(routes).name)
            return Step(self.inverse_gradients(net, run, target[..., :few], ledger, context), None)
        run = net.forward(inputs, ledger, context.stream)
        gradients, loss = self._forward_gradients(net, run, target, ledger, context)
        if context.phase == BOTH:
            few = self._inverse_samples(inputs.shape[-2])
            run = Pass({name: state[..., :few, :] for name, state in run.states.items()}, {})
            gradients |= self.inverse_gradients(net, run, target[..., :few], ledger, context)
        return Step(gradients, loss)

    def _inverse_samples(self, samples: int) -> int:
        """How many of the `samples` of a minibatch inverses learn from."""
        return ceil(self.inverse_share * samples)

    def highest_needed(self, routes: Sequence[Edge]) -> Layer:
        """The highest layer whose state `inverse_gradients` uses."""
        lower = routes[-1].lower
        assert lower is not None
        return lower

    def inverse_gradients(
        self, net: Network, run: Pass, target: Array, ledger: Ledger, context: StepContext
    ) -> Gradients:
        """Gradients of the feedback mappings g for ||g(f(h + e)) - (h + e)||^2, eq. 3.13."""
        gradients: Gradients = {}
        for edge in self.routes(net):
            link, layer = edge.link, edge.lower
            assert layer is not None
            noisy = self.with_noise(f"noise {layer.name}", run.states[layer.name], context)
            up = link.send(noisy, Direction.FORWARD, "noisy activations", ledger, context.stream)
            lifted = self.sent_state(edge.upper, edge.upper.state(up, ledger, "inverse"), target, ledger, context)
            down = link.send(lifted, Direction.FEEDBACK, "reconstruction", ledger, context.stream)
            reconstruction = layer.decode(down, ledger, "inverse")
            gradients |= layer.gradients(down, layer.decoder_error(reconstruction, noisy), ledger)
        return gradients

    def sent_state(self, layer: Layer, state: Array, target: Array, ledger: Ledger, context: StepContext) -> Array:
        """What `layer` sends down for a `state` of its neurons: by default, the state."""
        return state

    def with_noise(self, purpose: str, state: Array, context: StepContext) -> Array:
        """`state`, plus noise of the standard deviation of the epoch."""
        xp = backend_of(state)
        sigma = self.noise_at(context.epoch, xp.each(self.noise, state))
        return xp.axpy(sigma, context.stream.normal(purpose, state), state)
