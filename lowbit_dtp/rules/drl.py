"""Difference target propagation whose feedback weights learn to reconstruct differences, not states.

DRL and direct DTP: A. Meulemans, F. S. Carzaniga, J. Suykens, J. Sacramento, B. F. Grewe, A Theoretical Framework for
Target Propagation, NeurIPS 2020, arXiv:2006.14331. L-DRL: M. Ernoult et al., Towards Scaling Difference Target
Propagation by Learning Backprop Targets, ICML 2022, arXiv:2201.13415.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..backends import Array, multiplied
from ..layers import Gradients, Layer
from ..ledger import Direction, Ledger
from ..links import Link, Signal
from ..network import Edge, Network, Pass, dense
from .dtp import DTP
from .rule import StepContext, as_format


@dataclass(frozen=True)
class LDRL(DTP):
    """L-DRL, local difference reconstruction: a decoder learns the transposed Jacobian of the layer above.

    For each pair of neighbours, with y = f(h), e and n normal noise of standard deviation sigma, the decoder g descends
    the mean over the minibatch of

        -2 e . (g(f(h + e)) - g(y)) + ||g(y + n) - g(y)||^2

    For small sigma that is sigma^2 (||J_g||^2 - 2 tr(J_g J_f)), which is least where J_g = J_f^T: targets are those of
    backpropagation then. Targets are those of DTP, eq. 3.15, by default from the output down (`top = "output"`).
    """

    top: str = "output"
    decoder: str = "identity"

    name: ClassVar[str] = "l-drl"
    source: ClassVar[str] = "Ernoult et al., ICML 2022"
    crosses: ClassVar[str] = (
        "activations, noisy activations up; states, targets, and to learn: states, noisy states, reconstructions down"
    )

    def highest_needed(self, routes: Sequence[Edge]) -> Layer:
        return routes[-1].upper

    def inverse_gradients(
        self, net: Network, run: Pass, target: Array, ledger: Ledger, context: StepContext
    ) -> Gradients:
        gradients: Gradients = {}
        stream = context.stream
        for edge in self.routes(net):
            link, layer, upper = edge.link, edge.lower, edge.upper
            assert layer is not None
            state, above = run.states[layer.name], run.states[upper.name]
            noisy = self.with_noise(f"noise {layer.name}", state, context)
            up = link.send(noisy, Direction.FORWARD, "noisy activations", ledger, stream)
            lifted = upper.state(up, ledger, "inverse")
            noisy_above = self.with_noise(f"feedback noise {upper.name}", above, context)
            down = [
                link.send(x, Direction.FEEDBACK, purpose, ledger, stream)
                for x, purpose in ((above, "state"), (lifted, "reconstruction"), (noisy_above, "noisy state"))
            ]
            plain, back, moved = (layer.decode(x, ledger, "inverse") for x in down)
            scale, noise, change = 2 / state.shape[-2], noisy - state, moved - plain
            errors = scale * (noise - change), -scale * noise, scale * change
            gradients |= decoder_gradients(layer, zip(down, (plain, back, moved), errors, strict=True), ledger)
        return gradients


@dataclass(frozen=True)
class DRL(DTP):
    """DRL, difference reconstruction: noise on a layer propagates to the output, and the difference back down.

    With e normal noise of standard deviation sigma on the layer i, r_M the output for h_i + e, and on the way down
    r_j = h_j + g_j(r_j+1) - g_j(h_j+1), eq. 3.15, the decoder g_i descends the mean over the minibatch of
    ||r_i - (h_i + e)||^2 (decoders above are constants). `damping` is lambda of a second term: with n noise on
    the output, r_M = h_M + n, it is lambda ||r_i - h_i||^2; it turns the pseudo-inverse into a damped one, and for
    large lambda into the direction of the transpose. Both terms lack the paper's constant factor 1 / sigma^2.

    Every layer's noise crosses every link above it: with K hidden layers, K (K + 1) / 2 messages in each direction.
    """

    top: str = "output"
    decoder: str = "identity"
    damping: float = 0.1

    name: ClassVar[str] = "drl"
    source: ClassVar[str] = "Meulemans et al., NeurIPS 2020"
    crosses: ClassVar[str] = (
        "activations up, and noisy ones from each layer to the output; states, targets, and to learn: states, noisy "
        "states, and a reconstruction for each layer below down"
    )
    tops: ClassVar[tuple[str, ...]] = ("output",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_numbers("damping")

    def highest_needed(self, routes: Sequence[Edge]) -> Layer:
        return routes[-1].upper

    def inverse_gradients(
        self, net: Network, run: Pass, target: Array, ledger: Ledger, context: StepContext
    ) -> Gradients:
        routes, output = self.routes(net), net.layers[-1].name
        said = {
            route.link.name: route.link.send(
                run.states[route.upper.name], Direction.FEEDBACK, "state", ledger, context.stream
            )
            for route in routes
        }
        parts: dict[str, list[tuple[Signal, Array, Array]]] = {}
        for i, route in enumerate(routes):
            layer, stream = route.lower, context.stream.at(i)
            assert layer is not None
            noisy = lifted = self.with_noise(f"noise {layer.name}", run.states[layer.name], context)
            for edge in net.edges[i + 1 :]:
                up = edge.link.send(lifted, Direction.FORWARD, "noisy activations", ledger, stream)
                lifted = edge.upper.state(up, ledger, "inverse")
            hops = [route]
            while hops[-1].upper.name != output:
                hops.append(routes[i + len(hops)])
            for hop in reversed(hops[1:]):
                down = hop.link.send(lifted, Direction.FEEDBACK, "reconstruction", ledger, stream)
                lifted = self._moved(hop, run, said[hop.link.name], down, ledger)
            down = route.link.send(lifted, Direction.FEEDBACK, "reconstruction", ledger, stream)
            plain, back = (layer.decode(x, ledger, "inverse") for x in (said[route.link.name], down))
            error = (2 / noisy.shape[-2]) * (run.states[layer.name] + (back - plain) - noisy)
            parts[layer.name] = [(said[route.link.name], plain, -error), (down, back, error)]
        if self.damping:
            moved = {output: self.with_noise("feedback noise output", run.states[output], context)}
            for route in reversed(routes):
                layer = route.lower
                assert layer is not None
                before = said[route.link.name]
                after = route.link.send(
                    moved[route.upper.name], Direction.FEEDBACK, "noisy state", ledger, context.stream
                )
                plain, back = (layer.decode(x, ledger, "inverse") for x in (before, after))
                change = back - plain
                moved[layer.name] = run.states[layer.name] + change
                error = (2 * self.damping / change.shape[-2]) * change
                parts[layer.name] += [(before, plain, -error), (after, back, error)]
        gradients: Gradients = {}
        for layer in net.layers[:-1]:
            gradients |= decoder_gradients(layer, parts[layer.name], ledger)
        return gradients

    def _moved(self, route: Edge, run: Pass, before: Signal, after: Signal, ledger: Ledger) -> Array:
        """The state of the lower layer of `route`, plus the decoded difference of two signals from above: eq. 3.15."""
        assert route.lower is not None
        return run.states[route.lower.name] + route.lower.decode_change(before, after, ledger, "inverse")


@dataclass(frozen=True)
class DirectDTP(DRL):
    """Direct DTP: the output layer sends its state and its target to each hidden layer over a separate link.

    Targets are h_i + g_i(target of the output) - g_i(output), eq. 3.15 over a long link `output-h1`, `output-h2`, ...;
    the top hidden layer uses the link of the chain. Decoders are linear by default (the paper's DDTP-linear) and learn
    by the difference reconstruction loss of `DRL`, where r_i comes from the output in one hop.
    """

    feedback: Any = None
    """Format of the long links, or its name; None is float32."""

    name: ClassVar[str] = "direct-dtp"
    source: ClassVar[str] = "Meulemans et al., NeurIPS 2020 (DDTP)"
    crosses: ClassVar[str] = (
        "activations up, and noisy ones from each layer to the output; from the output to each hidden layer: state and "
        "target, and to learn: state, noisy state, reconstruction"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feedback is not None:
            object.__setattr__(self, "feedback", as_format(self.feedback))

    def prepare(self, net: Network, seed: int) -> None:
        output, known = net.layers[-1], {link.name for link in net.links}
        for layer in net.layers[:-2]:
            name = f"output-{layer.name}"
            if name not in known:
                net.links.append(Link(feedback=as_format(self.feedback), lower=layer.name, upper="output", label=name))
            if name not in layer.inputs:
                layer.inputs[name] = dense(
                    layer.name,
                    output.neurons,
                    layer.neurons,
                    seed,
                    "feedback_direct",
                    Direction.FEEDBACK,
                    layer.projection.values,
                )
        super().prepare(net, seed)

    def training_links(self, links: Sequence[Link]) -> list[Link]:
        if self.feedback is None:
            return list(links)
        return [replace(x, feedback=self.feedback) if x.label.startswith("output-") else x for x in links]

    def routes(self, net: Network) -> list[Edge]:
        output = net.layers[-1]
        return [
            *(Edge(net.link(f"output-{layer.name}"), layer, output) for layer in net.layers[:-2]),
            *net.edges[1:][-1:],
        ]


def decoder_gradients(layer: Layer, parts: Any, ledger: Ledger) -> Gradients:
    """Gradients of the decoder of `layer`, summed over `parts`.

    Each part is a signal from above, the state decoded from it, and the gradient of the loss at that state.
    """
    total: Gradients = {}
    for signal, state, gradient in parts:
        for key, x in layer.gradients(signal, layer.decoder_error_of(state, gradient), ledger).items():
            total[key] = total[key] + multiplied(x) if key in total else multiplied(x)
    return total
