"""A denoising auto-encoder trained without backpropagation: its encoder is used as the inverse of its decoder.

D.-H. Lee, Difference Target Propagation, thesis, section 3.2.4; the same in Lee, Zhang, Fischer, Bengio, ECML 2015.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..backends import Array, backend_of
from ..ledger import Direction, Ledger
from ..links import Signal
from ..network import Network
from .rule import LearningRule, Step, StepContext, output_error, summed


@dataclass(frozen=True)
class DTPAutoencoder(LearningRule):
    """Denoising auto-encoder by difference target propagation, eqs. 3.20-3.23, in a network input - h1 - output.

    The decoder learns to output x for h + noise; the encoder learns to output the target 2h - f(z) for x + noise, where
    z is the reconstruction. The output layer is taken to be at the source of the inputs, so it has x.

    With tied weights the output layer uses a transposed copy of the encoder's weights. Only the encoder's are trained,
    by the decoder's loss, too, for which the error of each output is sent down. After each step the copy is sent again.
    """

    noise: float | Sequence[float] = 0.5
    """Standard deviation of the noise on h1, or that of each member of an ensemble."""
    input_noise: float | Sequence[float] = 0.5
    """Standard deviation of the noise on the inputs, likewise."""
    target_step: float = 1.0
    """Step s of the target of h1, h + s (h - f(z)). 1 in the thesis."""
    contraction: float = 0.0
    """Weight of ||f(x + noise) - h||^2 in the encoder's loss, the second term of eq. 3.22, with h as a constant."""
    tied: bool = True
    """Whether the decoder's weights are the encoder's, transposed."""

    name: ClassVar[str] = "dtp-autoencoder"
    source: ClassVar[str] = "Lee 2018, section 3.2.4, eqs. 3.20-3.23"
    crosses: ClassVar[str] = (
        "inputs, noisy inputs, noisy activations up; reconstructions down; "
        "with tied weights: errors of the outputs down, and all weights up after each step"
    )
    tasks: ClassVar[tuple[str, ...]] = ("reconstruct",)

    def __post_init__(self) -> None:
        for name in ("noise", "input_noise", "target_step", "contraction"):
            given = getattr(self, name)
            for value in given if isinstance(given, Sequence) else [given]:
                if not 0 <= value < float("inf"):
                    raise ValueError(f"{self.name}: {name} must be a finite number, zero or more, not {value}")

    def prepare(self, net: Network, seed: int) -> None:
        if len(net.layers) != 2 or net.sizes[0] != net.sizes[-1]:
            sizes = "-".join(map(str, net.sizes))
            raise ValueError(f"{self.name} needs one hidden layer and as many outputs as inputs, not {sizes}")
        link = net.edges[1].link.name
        net.tie_feedback(link)
        if self.tied:
            net.mirror(link)

    def step(self, net: Network, inputs: Array | Signal, target: Array, ledger: Ledger, context: StepContext) -> Step:
        (below, _, hidden), (above, _, output) = ((edge.link, edge.lower, edge.upper) for edge in net.edges)
        stream, forward, feedback = context.stream, Direction.FORWARD, Direction.FEEDBACK

        # eqs. 3.20, 3.21
        state = hidden.state(below.send(inputs, forward, "activations", ledger, stream), ledger)
        noisy = _with_noise(state, self.noise, hidden.name, context)
        received = above.send(noisy, forward, "noisy activations", ledger, stream)
        reconstruction = output.state(received, ledger, "reconstruction")

        # the decoder's loss ||z - x||^2
        error, loss = output_error(net, reconstruction, target, ledger, context)
        gradients = output.gradients(received, error / error.shape[-2], ledger)
        if self.tied:
            arrived = above.send(error, feedback, "error", ledger, stream)
            gradients = summed(gradients, hidden.transposed_gradients(arrived, noisy / noisy.shape[-2], ledger))

        # eq. 3.23, and the encoder's loss ||f(x + noise) - target||^2
        down = above.send(reconstruction, feedback, "reconstruction", ledger, stream)
        change = state - hidden.decode(down, ledger, "target")
        wanted = backend_of(state).axpy(self.target_step, change, state)
        corrupted = _with_noise(inputs, self.input_noise, below.lower, context)
        lifted = below.send(corrupted, forward, "noisy activations", ledger, stream)
        again = hidden.state(lifted, ledger, "noisy activations")
        local = hidden.local_error(again, wanted)
        if self.contraction:
            local = backend_of(state).axpy(self.contraction, hidden.local_error(again, state), local)
        return Step(summed(gradients, hidden.gradients(lifted, local, ledger)), loss)


def _with_noise(x: Array | Signal, sigma: float | Sequence[float], layer: str, context: StepContext) -> Array:
    """`x` plus Gaussian noise of standard deviation `sigma`, one draw for the `layer`."""
    x = x.values if isinstance(x, Signal) else x
    xp = backend_of(x)
    return xp.axpy(xp.each(sigma, x), context.stream.normal(f"noise {layer}", x), x)
