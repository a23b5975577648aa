"""Feedback alignment by swap of modules: the numbers of the rule for networks, and of autograd with other weights."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lowbit_dtp import rules
from lowbit_dtp.ledger import Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.rules.rule import StepContext
from lowbit_dtp.torch_modules import align, unalign, wire
from tests.conformance.cases import small_inputs


def chain_like(net: Network) -> nn.Sequential:
    """Dense layers with the weights of `net` and tanh between them."""
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3))
    for module, layer in zip(model[::2], net.layers, strict=True):
        module.weight.data = torch.from_numpy(np.ascontiguousarray(layer.weight.T))  # type: ignore[union-attr]
        module.bias.data = torch.from_numpy(np.asarray(layer.bias).copy())  # type: ignore[union-attr]
    return model


def test_a_chain_has_the_gradients_of_the_rule_for_networks() -> None:
    net, rule = Network.build([6, 12, 10, 3], [Link(), Link("ternary"), Link("fixed(4,1)")]), rules.FeedbackAlignment()
    rule.prepare(net, seed=4)
    x, labels = small_inputs(6), np.arange(5) % 3
    expected = rule.step(net, x, labels, Ledger(), StepContext()).gradients

    model = chain_like(net)
    assert align(model) == ["0", "2", "4"]
    for name, layer in (("2", net.layers[0]), ("4", net.layers[1])):
        fixed: Any = model.get_submodule(name).feedback
        link = f"{layer.name}-{'h2' if layer.name == 'h1' else 'output'}"
        fixed.copy_(torch.from_numpy(np.asarray(layer.inputs[link].values)))
    wire(model, {"1": "ternary", "3": "fixed(4,1)"})
    nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(labels)).backward()

    for module, name in zip(model[::2], ("h1", "h2", "output"), strict=True):
        weight, bias = expected[name, "weight"], expected[name, "bias"]
        np.testing.assert_allclose(module.weight.grad.T, np.asarray(weight), rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]
        np.testing.assert_allclose(module.bias.grad, np.asarray(bias), rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]


CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3, padding=1),
    nn.Conv2d(4, 6, (3, 2), stride=2, padding=(2, 1), dilation=(1, 2), groups=2, bias=False),
    nn.Conv2d(4, 6, 2, padding="same", padding_mode="reflect"),
    nn.Conv2d(4, 6, (3, 5), padding="same"),
    nn.Conv1d(4, 6, 3, stride=2, padding=1),
]


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("is_single", [False, True])
def test_a_convolution_has_the_input_gradient_of_its_feedback_weights_and_all_else_of_its_own(
    conv: Any, is_single: bool
) -> None:
    aligned: Any = nn.Sequential(copy.deepcopy(conv))
    align(aligned)
    other = copy.deepcopy(conv)
    other.weight.data = aligned[0].feedback.clone()
    torch.manual_seed(1)
    shape = (4, 9) if isinstance(conv, nn.Conv1d) else (4, 9, 8)
    x = torch.randn(shape if is_single else (3, *shape))
    inputs = {name: x.clone().requires_grad_() for name in ("aligned", "own", "other")}
    outputs = [aligned(inputs["aligned"]), conv(inputs["own"]), other(inputs["other"])]
    conv.zero_grad()
    gradient = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(gradient)
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(inputs["aligned"].grad, inputs["other"].grad)
    assert not torch.allclose(inputs["aligned"].grad, inputs["own"].grad)  # type: ignore[arg-type]
    for ours, its in zip(aligned[0].parameters(), conv.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, its.grad)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 2)
    )


def test_the_state_dict_hooks_and_optimizers_stay_and_the_seed_gives_the_same_weights_again() -> None:
    model, called = small(), []
    before = model.state_dict()
    model[2].register_forward_hook(lambda *_: called.append(1))
    parameters = list(model.parameters())
    align(model, seed=3)
    assert list(model.state_dict()) == list(before)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    model(torch.ones(1, 1, 8, 8))
    assert called == [1]
    again, another = small(), small()
    align(again, seed=3)
    align(another, seed=4)
    for name in ("0", "2", "5"):
        ours: Any = model.get_submodule(name).feedback
        torch.testing.assert_close(ours, again.get_submodule(name).feedback, rtol=0, atol=0)
        assert not torch.equal(ours, another.get_submodule(name).feedback)  # type: ignore[arg-type]
    unalign(model)
    assert [type(module) for module in model] == [type(module) for module in small()]
    assert not list(model.buffers())


def test_sign_concordant_feedback_follows_the_signs_of_the_weights() -> None:
    model: Any = nn.Sequential(nn.Linear(3, 2, bias=False))
    align(model, is_sign_concordant=True)
    magnitude = model[0].feedback.abs()
    for sign in (1.0, -1.0):
        model[0].weight.data.fill_(sign)
        x = torch.zeros(1, 3, requires_grad=True)
        model(x).sum().backward()
        torch.testing.assert_close(x.grad, sign * magnitude.sum(0, keepdim=True))


@pytest.mark.parametrize("way", ["compiled", "autocast"])
def test_compiled_and_in_autocast_gradients_are_the_same(way: str) -> None:
    model, x = small(), torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)
    align(model)
    model(x).sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    if way == "compiled":
        run: Any = torch.compile(model, backend="aot_eager")
        run(x).sum().backward()
    else:
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x)
        assert output.dtype is torch.bfloat16
        output.float().sum().backward()
    tolerance = 1e-5 if way == "compiled" else 0.1
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=tolerance, atol=tolerance)


def test_it_says_which_modules_it_cannot_align() -> None:
    model = small()
    with pytest.raises(ValueError, match=r"^'1' names no Linear, Conv1d, Conv2d of Sequential; there are: 0, 2, 5$"):
        align(model, "1")
    with pytest.raises(ValueError, match=r"^nothing in Sequential is aligned; align\(model\) does that$"):
        unalign(model)
    align(model, "2")
    with pytest.raises(ValueError, match=r"^module '2' is aligned already; unalign it first$"):
        align(model, "[02]")
