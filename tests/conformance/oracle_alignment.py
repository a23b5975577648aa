"""Gradients of rules with other errors than backpropagation's, and of stochastic units, by torch's autograd."""

from typing import Any

import torch

from lowbit_dtp.network import Network
from lowbit_dtp.randomness import RandomStream
from tests.conformance.oracle import ACTIVATIONS, by_autograd, quantize, square


class _FixedFeedback(torch.autograd.Function):
    """`x @ weight`, whose gradient at `x` is the quantized error times `feedback`."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, feedback: Any, fmt: Any) -> Any:
        ctx.save_for_backward(x, feedback)
        ctx.fmt = fmt
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *gradient: Any) -> Any:
        x, feedback = ctx.saved_tensors
        error, batch = gradient[0], len(x)
        return quantize(error * batch, ctx.fmt) @ feedback.detach() / batch, x.T @ error, None, None


class _Quantized(torch.autograd.Function):
    """Quantizes, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Any, fmt: Any) -> Any:
        return quantize(x, fmt)

    @staticmethod
    def backward(ctx: Any, *gradient: Any) -> Any:
        return gradient[0], None


def _feedback_alignment(rule: Any, net: Network, w: Any, inputs: Any, labels: Any, stream: RandomStream) -> Any:
    state = inputs
    for i, (layer, link) in enumerate(zip(net.layers, net.links, strict=True)):
        received = _Quantized.apply(state, link.forward)
        if i:
            total = _FixedFeedback.apply(received, w[i]["weight"], w[i - 1]["feedback"], link.feedback)
        else:
            total = received @ w[i]["weight"]
        state = ACTIVATIONS[layer.activation.name](total + w[i]["bias"])
    return torch.nn.functional.cross_entropy(state, labels)


def _direct_feedback_alignment(rule: Any, net: Network, w: Any, inputs: Any, labels: Any, stream: RandomStream) -> Any:
    links = {link.name: link for link in net.links}
    states, state = [], inputs
    for i, layer in enumerate(net.layers):
        received = quantize(state, net.links[i].forward)
        state = ACTIVATIONS[layer.activation.name](received @ w[i]["weight"] + w[i]["bias"])
        states.append(state)
    error = torch.softmax(state.detach(), -1) - torch.nn.functional.one_hot(labels, state.shape[-1])
    total = torch.nn.functional.cross_entropy(state, labels)
    for i, layer in enumerate(net.layers[:-1]):
        name = f"{layer.name}-output" if i == len(w) - 2 else f"output-{layer.name}"
        assert name in links
        arrived = quantize(error, links[name].feedback) @ w[i]["direct_feedback"].detach()
        total = total + (states[i] * arrived).sum() / len(inputs)
    return total


def _truncated(x: Any, threshold: float) -> Any:
    return x.sign() * (x.abs() >= threshold)


class _Ternary(torch.autograd.Function):
    """The identity, whose gradient, for each sample, is truncated on its way down."""

    @staticmethod
    def forward(ctx: Any, x: Any, threshold: float) -> Any:
        ctx.threshold = threshold
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradient: Any) -> Any:
        batch = len(gradient[0])
        return _truncated(gradient[0] * batch, ctx.threshold) / batch, None


def _ternary_errors(rule: Any, net: Network, w: Any, inputs: Any, labels: Any, stream: RandomStream) -> Any:
    state, top = inputs, len(w) - 1
    for i, (layer, link) in enumerate(zip(net.layers, net.links, strict=True)):
        received = _Ternary.apply(_Quantized.apply(state, link.forward), rule.threshold)
        total = received @ w[i]["weight"] + w[i]["bias"]
        total = _Ternary.apply(total, rule.output_threshold if i == top else rule.least_slope)
        state = ACTIVATIONS[layer.activation.name](total)
    return torch.nn.functional.cross_entropy(state, labels)


def _sample(p: Any, i: int, purpose: str, net: Network, stream: RandomStream) -> Any:
    """1 with probability `p`, else 0: what link `i` carries up."""
    uniform = stream.uniform(f"{net.links[i].name} forward {purpose}", p.detach().numpy())
    return (torch.tensor(uniform) >= 1 - p.detach()).double()


def _noisy(rule: Any, inputs: Any, net: Network, stream: RandomStream) -> Any:
    noisy = inputs + rule.input_noise * torch.tensor(stream.normal("input noise", inputs.numpy()))
    return quantize(noisy, net.links[0].forward)


def _stochastic_straight_through(rule: Any, net: Network, w: Any, inputs: Any, labels: Any, stream: Any) -> Any:
    received = _noisy(rule, inputs, net, stream)
    for i, layer in enumerate(net.layers):
        state = ACTIVATIONS[layer.activation.name](received @ w[i]["weight"] + w[i]["bias"])
        if i < len(w) - 1:
            received = _Sample.apply(
                state, _sample(state, i + 1, "activations", net, stream), net.links[i + 1].feedback
            )
    return torch.nn.functional.cross_entropy(state, labels)


class _Sample(torch.autograd.Function):
    """`sample`, with the quantized gradient, for each sample, of the identity."""

    @staticmethod
    def forward(ctx: Any, p: Any, sample: Any, fmt: Any) -> Any:
        ctx.fmt = fmt
        return sample

    @staticmethod
    def backward(ctx: Any, *gradient: Any) -> Any:
        batch = len(gradient[0])
        return quantize(gradient[0] * batch, ctx.fmt) / batch, None, None


def _stochastic_dtp(rule: Any, net: Network, w: Any, inputs: Any, labels: Any, stream: RandomStream) -> Any:
    f = [ACTIVATIONS[layer.activation.name] for layer in net.layers]
    top = len(w) - 1

    def up(i: int, received: Any) -> Any:
        return f[i](received @ w[i]["weight"] + w[i]["bias"])

    def g(i: int, above: Any) -> Any:
        return torch.tanh(quantize(above, net.links[i + 1].feedback) @ w[i]["feedback"] + w[i]["feedback_bias"])

    p, received = [], _noisy(rule, inputs, net, stream)
    for i in range(top):
        p.append(up(i, received))
        received = _sample(p[i], i + 1, "activations", net, stream)
    received.requires_grad_()
    loss = total = torch.nn.functional.cross_entropy(up(top, received), labels)
    (gradient,) = torch.autograd.grad(loss * len(inputs), received, retain_graph=True)
    target = p[-1].detach() - rule.target_step * quantize(gradient, net.links[top].feedback)
    for i in reversed(range(top)):
        total = total + square(p[i] - target.detach())
        if i:
            target = p[i - 1] + g(i - 1, target) - g(i - 1, p[i])
    for i in range(top - 1):
        state = p[i].detach()
        noisy = state + rule.noise * torch.tensor(stream.normal(f"noise h{i + 1}", state.numpy()))
        lifted = up(i + 1, _sample(noisy, i + 1, "noisy activations", net, stream)).detach()
        total = total + square(g(i, lifted) - noisy)
    return total


feedback_alignment = by_autograd(_feedback_alignment)
direct_feedback_alignment = by_autograd(_direct_feedback_alignment)
ternary_errors = by_autograd(_ternary_errors)
stochastic_straight_through = by_autograd(_stochastic_straight_through)
stochastic_dtp = by_autograd(_stochastic_dtp)
