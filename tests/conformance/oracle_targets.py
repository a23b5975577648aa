"""Expected gradients of rules with targets: torch's autograd on the loss of each layer, in float64."""

from typing import Any

import torch

from lowbit_dtp import rules
from lowbit_dtp.network import Network
from lowbit_dtp.randomness import RandomStream
from tests.conformance.oracle import ACTIVATIONS, by_autograd, quantize, square


def _losses(rule: Any, net: Network, w: Any, inputs: Any, labels: Any, stream: RandomStream) -> torch.Tensor:
    top, hidden = len(w) - 1, range(len(w) - 1)
    f = [ACTIVATIONS[layer.activation.name] for layer in net.layers]
    direct = isinstance(rule, rules.DirectDTP)

    def over(name: str, way: str, x: torch.Tensor) -> torch.Tensor:
        return quantize(x, getattr(net.link(name), way))

    def up(i: int, below: torch.Tensor) -> torch.Tensor:
        """State of layer i, for that of the layer below."""
        return f[i](over(net.links[i].name, "forward", below) @ w[i]["weight"] + w[i]["bias"])

    def down(i: int, above: torch.Tensor) -> torch.Tensor:
        """What layer i decodes from what is sent to it."""
        name, array = net.links[i + 1].name, "feedback"
        if direct and i < top - 1:
            name, array = f"output-h{i + 1}", "feedback_direct"
        g = ACTIVATIONS[rule.decoder] if rule.decoder else f[i]
        return g(over(name, "feedback", above) @ w[i][array] + w[i].get(f"{array}_bias", 0))

    def noise(purpose: str, like: torch.Tensor) -> torch.Tensor:
        return rule.noise * torch.tensor(stream.normal(purpose, like.detach().numpy()))

    states, state = [], inputs
    for i in hidden:
        state = up(i, state)
        states.append(state)
    logits = up(top, state.detach())
    total = torch.nn.functional.cross_entropy(logits, labels)
    h = [x.detach() for x in states]
    softmax, label = torch.softmax(logits.detach(), -1), torch.nn.functional.one_hot(labels, logits.shape[-1]).double()
    step = rule.target_step
    if isinstance(rule, rules.SDTP):
        output, target = softmax, softmax + step * (label - softmax)
    else:
        output, target = logits.detach(), logits.detach() - step * (softmax - label)
    h.append(output)

    # targets
    asked = target
    for i in reversed(hidden):
        if i == top - 1 and rule.top == "gradient":
            message = quantize((softmax - label) @ w[top]["weight"].detach().T, net.links[top].feedback)
            target = h[i] - step * message
        else:
            source = top if direct else i + 1
            wanted = down(i, asked if direct else target).detach()
            target = wanted
            if type(rule) is not rules.TargetProp:
                target = h[i] + wanted - down(i, h[source]).detach()
        if rule.layer_steps:
            target = h[i] + rule.layer_steps[i] * (target - h[i])
        total = total + square(states[i] - target)

    # inverses
    decoding = hidden if rule.top == "output" else hidden[:-1]
    if isinstance(rule, rules.FixedDTP):
        return total
    for i in decoding:
        e = noise(f"noise h{i + 1}", h[i])
        if isinstance(rule, rules.LDRL):
            n = noise("feedback noise " + net.layers[i + 1].name, h[i + 1])
            plain, back = down(i, h[i + 1]), down(i, up(i + 1, h[i] + e).detach())
            total = total - 2 * (e * (back - plain)).sum(-1).mean() + square(down(i, h[i + 1] + n) - plain)
        elif isinstance(rule, rules.DRL):
            lifted = h[i] + e
            for j in range(i + 1, top + 1):
                lifted = up(j, lifted)
            n = noise("feedback noise output", h[top])
            for start, wanted, weight in ((lifted, h[i] + e, 1), (h[top] + n, h[i], rule.damping)):
                back = start.detach()
                for j in [i] if direct else range(top - 1, i - 1, -1):
                    source = top if direct else j + 1
                    back = h[j] + down(j, back.detach()) - down(j, h[source])
                total = total + weight * square(back - wanted)
        else:
            lifted = up(i + 1, h[i] + e).detach()
            if isinstance(rule, rules.SDTP) and i == top - 1:
                lifted = torch.softmax(lifted, -1)
            total = total + square(down(i, lifted) - (h[i] + e))
    return total


target_propagation = by_autograd(_losses)
