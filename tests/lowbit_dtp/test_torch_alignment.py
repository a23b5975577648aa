"""Feedback alignment in torch models, held to autograd through the feedback weights, and to the rule of a `Network`."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lowbit_dtp import rules
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.rules.rule import StepContext
from lowbit_dtp.torch_modules import align, unalign, wire
from tests.conformance.cases import LABELS, small_inputs


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(6, 4), (3, 6)),
        (nn.Linear(6, 4, bias=False), (2, 5, 6)),
        (nn.Conv1d(4, 6, 3, stride=2, groups=2), (2, 4, 9)),
        (nn.Conv2d(2, 4, 3, stride=2, padding=1), (3, 2, 8, 8)),
        (nn.Conv2d(2, 4, (3, 5), dilation=2, padding="same", bias=False), (3, 2, 9, 11)),
        (nn.Conv3d(1, 2, 2, padding="valid"), (2, 1, 3, 4, 5)),
    ],
    ids=str,
)
@pytest.mark.parametrize("has_signs", [False, True])
def test_input_gradients_go_through_the_feedback_weights_and_all_else_is_as_before(
    module: Any, shape: tuple[int, ...], has_signs: bool
) -> None:
    torch.manual_seed(0)
    plain, x = copy.deepcopy(module), torch.randn(shape, requires_grad=True)
    out = plain(x)
    error = torch.randn_like(out)
    by_weight = torch.autograd.grad(out, list(plain.parameters()), error)
    model = nn.Sequential(copy.deepcopy(module))
    feedback = align(model, has_signs=has_signs)["0"]
    through = copy.deepcopy(plain)
    through.weight.data = feedback.abs() * plain.weight.sign() if has_signs else feedback
    (expected,) = torch.autograd.grad(through(x), x, error)
    found = model(x)
    assert torch.equal(found, out)
    below, *own = torch.autograd.grad(found, [x, *model.parameters()], error)
    torch.testing.assert_close(below, expected)
    for ours, theirs in zip(own, by_weight, strict=True):
        torch.testing.assert_close(ours, theirs)
    unalign(model)
    torch.testing.assert_close(torch.autograd.grad(model(x), x, error)[0], torch.autograd.grad(plain(x), x, error)[0])


def test_a_chain_learns_as_by_the_rule_of_a_network() -> None:
    net, x = Network.build([6, 7, 5, 3], [Link(), Link("binary"), Link("ternary")]), small_inputs(6)
    rule = rules.FeedbackAlignment()
    rule.prepare(net, 0)
    step = rule.step(net, x, LABELS, Ledger(), StepContext())
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    for module, layer in zip(model[::2], net.layers, strict=True):
        module.weight.data = torch.from_numpy(np.ascontiguousarray(layer.weight.T))  # type: ignore[union-attr]
        module.bias.data = torch.from_numpy(np.array(layer.bias))  # type: ignore[union-attr]
    feedback = align(model)
    for name, layer in zip(("2", "4"), net.layers, strict=False):
        feedback[name].copy_(torch.from_numpy(layer.arrays()["feedback"]))
    ledger = wire(model, {"1": "binary", "3": "ternary"})
    nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(LABELS)).backward()
    for i, name in enumerate(("h1", "h2", "output")):
        module = model[2 * i]
        torch.testing.assert_close(module.weight.grad.T, torch.from_numpy(np.asarray(step.gradients[name, "weight"])))
        torch.testing.assert_close(module.bias.grad, torch.from_numpy(np.asarray(step.gradients[name, "bias"])))
    assert ledger.codes("1", Direction.FEEDBACK) == 5 * 7


def test_feedback_weights_come_from_the_seed_and_the_name_and_not_from_the_state() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    names = list(model.state_dict())
    first = {name: x.clone() for name, x in align(model).items()}
    assert list(model.state_dict()) == names and list(first) == ["0", "3"]
    assert first["0"].abs().max() <= 1 / 3
    unalign(model)
    again, other = align(copy.deepcopy(model), ["3"]), align(copy.deepcopy(model), seed=1)
    assert torch.equal(again["3"], first["3"]) and not torch.equal(other["3"], first["3"])
    assert torch.equal(model(x := torch.randn(2, 1, 4, 4)), torch.compile(model, backend="aot_eager")(x))


def test_a_copy_of_an_aligned_model_learns_by_its_own_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    align(model)
    other = copy.deepcopy(model)
    other[0].weight.data.zero_()
    assert not torch.equal(model(torch.ones(1, 4)), other(torch.ones(1, 4)))


def test_what_cannot_be_aligned_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))
    with pytest.raises(
        ValueError, match=r"no linear or convolutional module '1' in Sequential; there are, for example: 0, 2"
    ):
        align(model, ["1"])
    with pytest.raises(ValueError, match=r"module '2' pads with 'circular'; only zeros can be aligned"):
        align(model)
    align(model, ["0"])
    with pytest.raises(ValueError, match=r"module '0' is aligned already; unalign the model first"):
        align(model, ["0"])
