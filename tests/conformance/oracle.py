"""Expected gradients of each rule, by torch's autograd on the losses of the thesis, in float64.

Nothing here but `Format.quantize` and the random numbers is the project's own.
"""

from typing import Any

import numpy as np
import torch

from lowbit_dtp.formats import Format
from lowbit_dtp.network import Network
from lowbit_dtp.randomness import RandomStream
from lowbit_dtp.rules import DTP, FixedLower, LearningRule


class _StraightStep(torch.autograd.Function):
    """1 from 0 on and else 0, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return (x >= 0).double()

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> Any:
        return gradient[0]


ACTIVATIONS = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "identity": lambda x: x,
    "step": _StraightStep.apply,
    "hard-tanh": torch.nn.functional.hardtanh,
    "hard-sigmoid": lambda x: (torch.nn.functional.hardtanh(x) + 1) / 2,
    "softmax": lambda x: torch.softmax(x, -1),
}

Gradients = dict[tuple[str, str], np.ndarray]


def by_autograd(loss: Any) -> Any:
    """The oracle that differentiates `loss(rule, net, weights, inputs, target, stream)`, a tensor."""

    def gradients(
        rule: LearningRule, net: Network, inputs: np.ndarray, target: np.ndarray, stream: RandomStream
    ) -> Gradients:
        weights = [
            {name: torch.tensor(x, dtype=torch.float64, requires_grad=True) for name, x in layer.arrays().items()}
            for layer in net.layers
        ]
        inputs = torch.tensor(inputs, dtype=torch.float64)
        loss(rule, net, weights, inputs, torch.tensor(target), stream).backward()
        return {
            (net.layers[i].name, name): x.grad.numpy()
            for i, layer in enumerate(weights)
            for name, x in layer.items()
            if x.grad is not None
        }

    return gradients


def quantize(x: torch.Tensor, fmt: Format) -> torch.Tensor:
    return torch.tensor(fmt.quantize(x.detach().numpy()), dtype=torch.float64)


def square(difference: torch.Tensor) -> torch.Tensor:
    """Squared length over neurons, mean over the minibatch."""
    return (difference**2).sum(-1).mean()


def _target_propagation(
    rule: Any, net: Network, w: Any, inputs: Any, labels: Any, stream: RandomStream
) -> torch.Tensor:
    f = [ACTIVATIONS[layer.activation.name] for layer in net.layers]
    top = len(w) - 1

    def up(i: int, received: torch.Tensor) -> torch.Tensor:
        return f[i](received @ w[i]["weight"] + w[i]["bias"])

    def g(i: int, above: torch.Tensor) -> torch.Tensor:
        received = quantize(above, net.links[i + 1].feedback)
        return f[i](received @ w[i]["feedback"] + w[i]["feedback_bias"])

    states, state = [], inputs
    for i in range(top):
        state = up(i, quantize(state, net.links[i].forward))
        states.append(state)
    received = quantize(state, net.links[top].forward).requires_grad_()
    loss = torch.nn.functional.cross_entropy(up(top, received), labels)
    total = loss
    each = torch.nn.functional.cross_entropy(up(top, received), labels, reduction="sum")
    (input_gradient,) = torch.autograd.grad(each, received)
    target = states[-1].detach() - rule.target_step * quantize(input_gradient, net.links[top].feedback)
    for i in reversed(range(top)):
        total = total + square(states[i] - target.detach())
        if i:
            wanted = g(i - 1, target)
            target = states[i - 1] - g(i - 1, states[i]) + wanted if isinstance(rule, DTP) else wanted
    for i in range(top - 1):
        state = states[i].detach()
        noise = torch.tensor(stream.normal(f"noise h{i + 1}", state.numpy()))
        noisy = state + rule.noise * noise
        lifted = up(i + 1, quantize(noisy, net.links[i + 1].forward))
        total = total + square(g(i, lifted) - noisy)
    return total


class _StraightThrough(torch.autograd.Function):
    """Quantizes both ways, and passes gradients as if it did not."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, link: Any, batch: int) -> torch.Tensor:
        ctx.link, ctx.batch = link, batch
        return quantize(x, link.forward)

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> Any:
        # neurons send each sample's gradient; the mean over the minibatch is taken where weights are
        return quantize(gradient[0] * ctx.batch, ctx.link.feedback) / ctx.batch, None, None


def _backpropagation(rule: Any, net: Network, w: Any, inputs: Any, labels: Any, stream: RandomStream) -> torch.Tensor:
    lowest = 0
    if isinstance(rule, FixedLower):
        lowest = max(i for i, x in enumerate(net.links) if i and not x.forward.name.startswith("float"))
    state = inputs
    for i, (layer, link) in enumerate(zip(net.layers, net.links, strict=True)):
        received = _StraightThrough.apply(state.detach() if i == lowest else state, link, len(labels))
        state = ACTIVATIONS[layer.activation.name](received @ w[i]["weight"] + w[i]["bias"])
    return torch.nn.functional.cross_entropy(state, labels)


def _dtp_autoencoder(rule: Any, net: Network, w: Any, x: Any, target: Any, stream: RandomStream) -> torch.Tensor:
    inputs, middle = net.links[:2]
    activation, output = (ACTIVATIONS[layer.activation.name] for layer in net.layers)

    def encoder(received: torch.Tensor) -> torch.Tensor:
        return activation(received @ w[0]["weight"] + w[0]["bias"])

    def corrupted(state: torch.Tensor, sigma: float, name: str) -> torch.Tensor:
        return state + sigma * torch.tensor(stream.normal(f"noise {name}", state.numpy()))

    h = encoder(quantize(x, inputs.forward)).detach()
    noisy = corrupted(h, rule.noise, "h1")
    decoder = w[1]["weight"].detach() if rule.tied else w[1]["weight"]  # a copy of the encoder's, if tied
    pre_activation = quantize(noisy, middle.forward) @ decoder + w[1]["bias"]
    z = output(pre_activation)
    total = square(z - target)
    if rule.tied:  # of each sample's error, h1 knows what the link carries
        (error,) = torch.autograd.grad(((z - target) ** 2).sum(), pre_activation, retain_graph=True)
        total = total + (quantize(error, middle.feedback).T @ noisy * w[0]["weight"]).sum() / len(x)
    back = encoder(quantize(z, middle.feedback)).detach()
    wanted = h + rule.target_step * (h - back)
    again = encoder(quantize(corrupted(x, rule.input_noise, "input"), inputs.forward))
    return total + square(again - wanted) + rule.contraction * square(again - h)


target_propagation = by_autograd(_target_propagation)
backpropagation = by_autograd(_backpropagation)
dtp_autoencoder = by_autograd(_dtp_autoencoder)
