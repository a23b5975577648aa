"""The peer: training steps of the discrete network in plain torch, with hand-made gradients unless said otherwise.

Written as well as eager torch allows: fused `addmm`, gradients into buffers that live as long as the net, and optimizer
updates in place. It computes the very thing that `lowbit_dtp.rules` do, but counts nothing.
"""

from typing import Any

import torch
from torch import Tensor

Parameters = dict[str, Tensor]
"""Parameters by their names in a network file: `h1.weight` [below, neurons], `h1.feedback` [above, neurons], ..."""


def sign(x: Tensor) -> Tensor:
    """-1 and +1, with 0 sent as +1."""
    return torch.ge(x, 0).to(x.dtype).mul_(2).sub_(1)


class RMSprop:
    """Centred RMSprop with momentum and the epsilon inside the root, which `torch.optim.RMSprop` has outside."""

    def __init__(self, parameters: Parameters, rate: float, feedback_rate: float) -> None:
        self.rates = {name: feedback_rate if ".feedback" in name else rate for name in parameters}
        self.state = {name: [torch.zeros_like(p) for _ in range(4)] for name, p in parameters.items()}
        self.parameters = parameters

    def apply(self, gradients: Parameters) -> None:
        """Update every parameter that has a gradient, in place."""
        for name, gradient in gradients.items():
            mean, square, velocity, spread = self.state[name]
            mean.lerp_(gradient, 0.05)
            square.mul_(0.95).addcmul_(gradient, gradient, value=0.05)
            torch.addcmul(square, mean, mean, value=-1, out=spread).add_(0.001).sqrt_()
            velocity.mul_(0.9).addcdiv_(gradient, spread, value=-self.rates[name])
            self.parameters[name].add_(velocity)


class Eager:
    """A tanh network input-h1-h2-output with one bit between h1 and h2, and an RMSprop."""

    def __init__(self, parameters: Parameters, rate: float, feedback_rate: float) -> None:
        self.parameters = parameters
        self.gradients = {name: torch.empty_like(p) for name, p in parameters.items()}
        self.optimizer = RMSprop(parameters, rate, feedback_rate)

    def layer(self, x: Tensor, name: str, weight: str = "weight", bias: str = "bias") -> Tensor:
        """Drive of layer `name` for `x` [batch, below]."""
        return torch.addmm(self.parameters[f"{name}.{bias}"], x, self.parameters[f"{name}.{weight}"])

    def decode(self, above: Tensor) -> Tensor:
        """State of h1 that the binary `above` [batch, neurons of h2] implies."""
        return self.layer(above, "h1", "feedback", "feedback_bias").tanh_()

    def gradient(self, x: Tensor, error: Tensor, weight: str, bias: str) -> Parameters:
        """Gradients of the two named parameters for an `error` [batch, neurons] at the pre-activation of `x`."""
        torch.mm(x.t(), error, out=self.gradients[weight])
        torch.sum(error, 0, out=self.gradients[bias])
        return {name: self.gradients[name] for name in (weight, bias)}

    def up(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """h1, what it sends, h2, and the logits."""
        h1 = self.layer(inputs, "h1").tanh_()
        sent = sign(h1)
        h2 = self.layer(sent, "h2").tanh_()
        return h1, sent, h2, self.layer(h2, "output")

    def error(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of each sample's loss at the logits, and the mean loss."""
        log_probability = torch.log_softmax(logits, 1)
        loss = torch.nn.functional.nll_loss(log_probability, labels)
        error = log_probability.exp_()
        error[torch.arange(len(labels), device=labels.device), labels] -= 1
        return error, loss

    def forward_gradients(
        self, inputs: Tensor, labels: Tensor, target_step: float
    ) -> tuple[Tensor, Tensor, Parameters]:
        """h1, the mean loss, and gradients of the forward weights for difference targets."""
        scale = 1 / len(inputs)
        h1, sent, h2, logits = self.up(inputs)
        error, loss = self.error(logits, labels)
        input_gradient = error @ self.parameters["output.weight"].t()
        target2 = torch.sub(h2, input_gradient, alpha=target_step)
        difference = self.decode(sign(h2)).sub_(self.decode(sign(target2)))
        miss2 = torch.addcmul(input_gradient, torch.mul(input_gradient, h2), h2, value=-1).mul_(2 * target_step * scale)
        miss1 = torch.addcmul(difference, torch.mul(difference, h1), h1, value=-1).mul_(2 * scale)
        gradients = (
            self.gradient(h2, error.mul_(scale), "output.weight", "output.bias")
            | self.gradient(sent, miss2, "h2.weight", "h2.bias")
            | self.gradient(inputs, miss1, "h1.weight", "h1.bias")
        )
        return h1, loss, gradients

    def inverse_gradients(self, h1: Tensor, noise: Tensor) -> Parameters:
        """Gradients of the feedback weights, under `noise` [batch, neurons of h1]."""
        noisy = h1 + noise
        lifted = sign(self.layer(sign(noisy), "h2").tanh_())
        reconstruction = self.decode(lifted)
        missed = torch.sub(reconstruction, noisy)
        miss = torch.addcmul(missed, torch.mul(missed, reconstruction), reconstruction, value=-1).mul_(2 / len(h1))
        return self.gradient(lifted, miss, "h1.feedback", "h1.feedback_bias")

    @torch.no_grad()
    def dtp(self, inputs: Tensor, labels: Tensor, noise: Tensor, target_step: float) -> Tensor:
        """One minibatch of Algorithm 1: both mappings learn from the same parameters. Returns the loss."""
        h1, loss, gradients = self.forward_gradients(inputs, labels, target_step)
        self.optimizer.apply(gradients | self.inverse_gradients(h1, noise))
        return loss

    @torch.no_grad()
    def inverse(self, inputs: Tensor, noise: Tensor) -> None:
        """One minibatch of an epoch in which only the inverse learns."""
        self.optimizer.apply(self.inverse_gradients(self.layer(inputs, "h1").tanh_(), noise))

    @torch.no_grad()
    def forward(self, inputs: Tensor, labels: Tensor, target_step: float) -> Tensor:
        """One minibatch of an epoch in which only the forward mapping learns. Returns the loss."""
        _, loss, gradients = self.forward_gradients(inputs, labels, target_step)
        self.optimizer.apply(gradients)
        return loss

    @torch.no_grad()
    def straight_through(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """One minibatch of backpropagation that takes the sign for the identity on the way down. Returns the loss."""
        h1, sent, h2, logits = self.up(inputs)
        error, loss = self.error(logits, labels)
        error.mul_(1 / len(inputs))
        blame2 = error @ self.parameters["output.weight"].t()
        error2 = torch.addcmul(blame2, torch.mul(blame2, h2), h2, value=-1)
        blame1 = error2 @ self.parameters["h2.weight"].t()
        error1 = torch.addcmul(blame1, torch.mul(blame1, h1), h1, value=-1)
        self.optimizer.apply(
            self.gradient(h2, error, "output.weight", "output.bias")
            | self.gradient(sent, error2, "h2.weight", "h2.bias")
            | self.gradient(inputs, error1, "h1.weight", "h1.bias")
        )
        return loss

    def straight_through_autograd(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The same by autograd, as it is mostly written. Returns the loss."""
        names = [name for name in self.parameters if ".feedback" not in name]
        leaves = [self.parameters[name].requires_grad_() for name in names]
        h1 = torch.tanh(self.layer(inputs, "h1"))
        h2 = torch.tanh(self.layer(_Sign.apply(h1), "h2"))
        loss = torch.nn.functional.cross_entropy(self.layer(h2, "output"), labels)
        gradients = torch.autograd.grad(loss, leaves)
        with torch.no_grad():
            self.optimizer.apply(dict(zip(names, gradients, strict=True)))
        return loss.detach()


def sample(probability: Tensor, uniform: Tensor) -> Tensor:
    """1 with `probability`, else 0, by uniform numbers in [0, 1)."""
    return torch.ge(probability, 1 - uniform).to(probability.dtype)


class StochasticEager(Eager):
    """A network of stochastic binary units, input-h1-h2-output, whose probabilities are sigmoid.

    Inputs are given with their noise, and uniform numbers in [0, 1) for each draw of h1 and h2.
    """

    def probabilities(self, x: Tensor, name: str) -> Tensor:
        """State of hidden layer `name` for `x` [batch, below]."""
        return self.layer(x, name).sigmoid_()

    def error_at(self, state: Tensor, error: Tensor, scale: float = 1.0) -> Tensor:
        """`scale * error` at a sigmoid `state`, as one at its pre-activation. Writes over `error`."""
        return error.mul_(torch.addcmul(state, state, state, value=-1)).mul_(scale)

    @torch.no_grad()
    def stochastic_straight_through(self, inputs: Tensor, labels: Tensor, uniform1: Tensor, uniform2: Tensor) -> Tensor:
        """One minibatch of backpropagation that takes samples for their probabilities on the way down; the loss."""
        p1 = self.probabilities(inputs, "h1")
        sample1 = sample(p1, uniform1)
        p2 = self.probabilities(sample1, "h2")
        sample2 = sample(p2, uniform2)
        error, loss = self.error(self.layer(sample2, "output"), labels)
        error.mul_(1 / len(inputs))
        error2 = self.error_at(p2, error @ self.parameters["output.weight"].t())
        error1 = self.error_at(p1, error2 @ self.parameters["h2.weight"].t())
        self.optimizer.apply(
            self.gradient(sample2, error, "output.weight", "output.bias")
            | self.gradient(sample1, error2, "h2.weight", "h2.bias")
            | self.gradient(inputs, error1, "h1.weight", "h1.bias")
        )
        return loss

    @torch.no_grad()
    def stochastic_inverse(self, inputs: Tensor, noise: Tensor, uniform: Tensor) -> None:
        """One minibatch of an epoch in which only the inverse learns, under `noise` [batch, neurons of h1]."""
        noisy = self.probabilities(inputs, "h1").add_(noise)
        lifted = self.probabilities(sample(noisy, uniform), "h2")
        reconstruction = self.decode(lifted)
        missed = torch.sub(reconstruction, noisy)
        miss = torch.addcmul(missed, torch.mul(missed, reconstruction), reconstruction, value=-1).mul_(2 / len(inputs))
        self.optimizer.apply(self.gradient(lifted, miss, "h1.feedback", "h1.feedback_bias"))

    @torch.no_grad()
    def stochastic_forward(
        self, inputs: Tensor, labels: Tensor, uniform1: Tensor, uniform2: Tensor, target_step: float
    ) -> Tensor:
        """One minibatch of an epoch in which only the forward mapping learns, by difference targets; the loss."""
        p1 = self.probabilities(inputs, "h1")
        sample1 = sample(p1, uniform1)
        p2 = self.probabilities(sample1, "h2")
        sample2 = sample(p2, uniform2)
        error, loss = self.error(self.layer(sample2, "output"), labels)
        moved = (error @ self.parameters["output.weight"].t()).mul_(target_step)
        difference = self.decode(p2).sub_(self.decode(torch.sub(p2, moved)))
        scale = 1 / len(inputs)
        self.optimizer.apply(
            self.gradient(sample2, error.mul_(scale), "output.weight", "output.bias")
            | self.gradient(sample1, self.error_at(p2, moved, 2 * scale), "h2.weight", "h2.bias")
            | self.gradient(inputs, self.error_at(p1, difference, 2 * scale), "h1.weight", "h1.bias")
        )
        return loss


class Settling:
    """A network input-h1-output of tanh and sigmoid neurons with feedback from output to h1, and an RMSprop."""

    def __init__(self, parameters: Parameters, rate: float, sweeps: int, gamma: float) -> None:
        self.parameters, self.sweeps, self.gamma = parameters, sweeps, gamma
        self.gradients = {name: torch.empty_like(p) for name, p in parameters.items()}
        self.optimizer = RMSprop(parameters, rate, rate)

    def hidden(self, held: Tensor, output: Tensor) -> Tensor:
        """State of h1 for what the inputs add to its neurons' sums, and for a state of the output layer."""
        return torch.addmm(held, output, self.parameters["h1.feedback"], alpha=self.gamma).tanh_()

    def output(self, hidden: Tensor) -> Tensor:
        """State of the output layer."""
        return torch.addmm(self.parameters["output.bias"], hidden, self.parameters["output.weight"]).sigmoid_()

    def contrast(self, name: str, free: tuple[Tensor, Tensor], clamped: tuple[Tensor, Tensor]) -> None:
        """Gradient of the weights `name` from what they received and the states of their neurons, in each phase."""
        scale, out = 1 / len(free[0]), self.gradients[name]
        torch.mm(free[0].t(), free[1], out=out)
        out.addmm_(clamped[0].t(), clamped[1], beta=scale, alpha=-scale)

    @torch.no_grad()
    def contrastive_hebbian(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """One minibatch of contrastive Hebbian learning. Returns the loss."""
        held = torch.addmm(self.parameters["h1.bias"], inputs, self.parameters["h1.weight"])
        hidden = torch.tanh(held)
        output = self.output(hidden)
        for _ in range(self.sweeps - 1):
            hidden = self.hidden(held, output)
            output = self.output(hidden)
        target = torch.zeros_like(output)
        target[torch.arange(len(labels)), labels] = 1
        for _ in range(self.sweeps):
            clamped = self.hidden(held, target)
        scale, missed = 1 / len(inputs), output - target
        error = (hidden - clamped).mul_(scale / self.gamma)
        self.contrast("output.weight", (hidden, output), (clamped, target))
        self.contrast("h1.feedback", (output, hidden), (target, clamped))
        torch.mm(inputs.t(), error, out=self.gradients["h1.weight"])
        torch.sum(error, 0, out=self.gradients["h1.bias"])
        torch.mul(missed.sum(0), scale, out=self.gradients["output.bias"])
        self.optimizer.apply(self.gradients)
        return missed.square_().sum(1).mean()


class _Sign(torch.autograd.Function):
    """`sign`, whose gradient passes as if it were the identity."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return sign(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


class EagerAutoencoder:
    """A denoising auto-encoder input-h1-output of sigmoid units with tied weights, trained by DTP, and an RMSprop.

    `parameters` are those of a network file; "output.weight" is no parameter of its own, and is left alone.
    """

    def __init__(self, parameters: Parameters, rate: float) -> None:
        self.parameters = parameters
        names = ("h1.weight", "h1.bias", "output.bias")
        self.gradients = {name: torch.empty_like(parameters[name]) for name in names}
        self.optimizer = RMSprop({name: parameters[name] for name in names}, rate, rate)

    def encode(self, x: Tensor) -> Tensor:
        """State of h1 for `x` [batch, inputs]."""
        return torch.addmm(self.parameters["h1.bias"], x, self.parameters["h1.weight"]).sigmoid_()

    @torch.no_grad()
    def step(self, x: Tensor, noise: Tensor, input_noise: Tensor, received: Tensor, corrupted: Tensor) -> Tensor:
        """One minibatch of eqs. 3.20-3.23, with noise drawn into `noise` and `input_noise`. Returns the loss.

        `received` and `corrupted` are memory for h1 and the inputs with noise.
        """
        scale = 2 / len(x)
        state = self.encode(x)
        torch.add(state, noise, out=received)
        z = torch.addmm(self.parameters["output.bias"], received, self.parameters["h1.weight"].t()).sigmoid_()
        missed = z - x
        loss = missed.square().sum(1).mean()
        error = torch.addcmul(torch.mul(missed, z), torch.mul(missed, z), z, value=-1).mul_(scale)
        wanted = torch.sub(2 * state, self.encode(z))
        torch.add(x, input_noise, out=corrupted)
        again = self.encode(corrupted)
        far = again - wanted
        local = torch.addcmul(torch.mul(far, again), torch.mul(far, again), again, value=-1).mul_(scale)
        weight = self.gradients["h1.weight"]
        torch.mm(corrupted.t(), local, out=weight)
        weight.addmm_(error.t(), received)
        torch.sum(local, 0, out=self.gradients["h1.bias"])
        torch.sum(error, 0, out=self.gradients["output.bias"])
        self.optimizer.apply(self.gradients)
        return loss
