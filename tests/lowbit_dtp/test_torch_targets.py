"""Target propagation in stages of torch modules: the rules for networks, and what they mean for convolutions."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lowbit_dtp import rules
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.randomness import RandomStream
from lowbit_dtp.rules.rule import LearningRule, StepContext
from lowbit_dtp.torch_modules import StagedModel, decoder_of
from tests.conformance.cases import small_inputs

UP, DOWN = Direction.FORWARD, Direction.FEEDBACK
LINKS = [Link(), Link("ternary", "fixed(4,-2)"), Link("fixed(6,3)", "fixed(6,3)")]


def put(module: nn.Linear, projection: Any) -> None:
    module.weight.data = torch.from_numpy(np.ascontiguousarray(np.asarray(projection.values).T))
    module.bias.data = torch.from_numpy(np.asarray(projection.bias).copy())


def traffic(ledger: Ledger) -> dict[Any, Any]:
    return {kind: (t.messages, t.ones, t.toggles) for kind, t in ledger.traffic.items()}


@pytest.mark.parametrize(
    "rule",
    [
        rules.DTP(noise=0.3),
        rules.DTP(top="output", inverse_share=0.5, layer_steps=(1, 0.5)),
        rules.LDRL(noise=0.2),
        rules.DRL(noise=0.2),
        rules.SDTP(),
        rules.TargetProp(),
        rules.StraightThrough(),
    ],
    ids=lambda rule: f"{rule.name}-{getattr(rule, 'top', '')}",
)
def test_dense_stages_have_the_gradients_loss_and_traffic_of_a_network(rule: LearningRule) -> None:
    net = Network.build([6, 12, 10, 3], LINKS)
    rule.prepare(net, seed=4)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3))
    for module, layer in zip(model[::2], net.layers, strict=True):
        put(module, layer.projection)  # type: ignore[arg-type]
    staged = StagedModel(model, (6,), rule, LINKS, seed=7)
    for edge in net.edges[1:]:
        if len(ours := staged.network.layer(edge.lower.name).inputs) > 1:  # type: ignore[union-attr]
            put(ours[edge.link.name].module[0], edge.lower.inputs[edge.link.name])  # type: ignore[union-attr, attr-defined]
    x, labels, expected = small_inputs(6), np.arange(5) % 3, Ledger()

    for number in range(2):
        context = StepContext(0.0, stream=RandomStream(7, number))
        step = rule.step(net, x, labels, expected, context)
        model.zero_grad()
        staged.decoders.zero_grad()
        loss = staged.learn(torch.from_numpy(x), torch.from_numpy(labels))
        assert float(loss) == pytest.approx(float(step.loss), rel=1e-5)  # type: ignore[arg-type]
        parameters, compared = staged.parameters(), 0
        for (layer, array), gradient in step.gradients.items():
            part, kind = "decoder" if "feedback" in array else "forward", "bias" if "bias" in array else "weight"
            parameter = parameters[layer, f"{part}.0.{kind}"]
            ours: Any = parameter.grad
            theirs = np.asarray(gradient)
            np.testing.assert_allclose(ours.numpy().T, theirs, rtol=1e-4, atol=1e-5)
            compared += 1
        assert compared == len([1 for parameter in parameters.values() if parameter.grad is not None])
    assert traffic(staged.ledger) == traffic(expected)


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ELU(),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ELU()),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def images() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(5, 1, 8, 7), torch.arange(5) % 3


def test_convolutional_decoders_descend_the_loss_of_difference_reconstruction() -> None:
    rule, (x, labels) = rules.LDRL(noise=0.2), images()
    staged = StagedModel(convolutional(), (1, 8, 7), rule, seed=2)
    staged.learn(x, labels)
    stages = [staged.network.layer(name).projection.module for name in ("h1", "h2", "output")]  # type: ignore[attr-defined]
    stream, states = RandomStream(2, 0), [stages[0](x)]
    for stage in stages[1:]:
        states.append(stage(states[-1]))
    for i, decoder in enumerate(staged.decoders):
        names = ["h1", "h2", "output"]
        h, y, decode = states[i].detach(), states[i + 1].detach(), decoder
        noise = 0.2 * stream.normal(f"noise {names[i]}", h.flatten(1)).reshape(h.shape)
        above = 0.2 * stream.normal(f"feedback noise {names[i + 1]}", y.flatten(1)).reshape(y.shape)
        back = decode(stages[i + 1](h + noise).detach()) - decode(y)
        moved = decode(y + above) - decode(y)
        loss = (-2 * (noise * back).flatten(1).sum(1) + (moved * moved).flatten(1).sum(1)).mean()
        for parameter, gradient in zip(
            decode.parameters(), torch.autograd.grad(loss, list(decode.parameters()), allow_unused=True), strict=True
        ):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rule", [rules.DTP(), rules.LDRL(), rules.StraightThrough()], ids=lambda rule: str(rule.name))
def test_packed_few_bit_signals_alone_cross_from_stage_to_stage(rule: LearningRule) -> None:
    model, (x, labels) = convolutional(), images()
    staged = StagedModel(model, (1, 8, 7), rule, "binary/ternary")
    seen: list[torch.Tensor] = []
    for layer in staged.network.layers:
        for projection in layer.inputs.values():
            projection.module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))  # type: ignore[attr-defined]
    staged.learn(x, labels)
    assert seen and all(each.grad_fn is None and each.is_leaf for each in seen)
    levels = {tuple(each.unique().tolist()) for each in seen if each.shape[1:] != (1, 8, 7)}
    assert all(len(each) <= 3 for each in levels) and (-1.0, 1.0) in levels
    up, down = staged.ledger.bits("h1-h2", UP), staged.ledger.bits("h1-h2", DOWN)
    neurons_up, neurons_down = 4 * 4 * 3, 48 if rule.name == "straight-through" else 24
    messages = {kind.purpose: t.messages for kind, t in staged.ledger.message_types("h1-h2")}
    assert up == neurons_up * sum(messages.get(of, 0) for of in ("activations", "noisy activations"))
    assert down == 2 * neurons_down * sum(n for of, n in messages.items() if "activations" not in of)
    assert (staged.ledger.samples, staged.ledger.steps, staged.ledger.batch) == (5, 1, 5)


def test_it_learns_and_a_phase_changes_its_own_parameters_alone() -> None:
    model, (x, labels) = convolutional(), images()
    staged = StagedModel(model, (1, 8, 7), rules.LDRL(noise=0.05), "fixed(6,3)/float32", seed=1)
    staged.learn(x, labels, phase="inverse")
    assert all(parameter.grad is None for parameter in model.parameters())
    assert any(parameter.grad is not None for parameter in staged.decoders.parameters())
    assert (staged.ledger.samples, staged.ledger.steps) == (0, 1)
    staged.decoders.zero_grad()
    optimizer = torch.optim.SGD([*model.parameters(), *staged.decoders.parameters()], 0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(float(staged.learn(x, labels)))
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert staged.infer(x).argmax(1).tolist() == labels.tolist()
    assert staged.inference.samples == 5 and not staged.inference.steps


def test_decoders_give_the_shapes_below_for_what_they_know() -> None:
    shapes: list[tuple[nn.Module, tuple[int, ...]]] = [
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=1, dilation=2, groups=2), (4, 10, 11)),
        (nn.Conv1d(3, 5, 4, stride=3), (3, 12)),
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(3, 2)), (2, 12, 9)),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(2, 7)), (2, 5, 5)),
    ]
    for stage, shape in shapes:
        above = stage.eval()(torch.zeros(1, *shape))
        assert decoder_of(stage, shape)(above).shape == (1, *shape)
    assert isinstance(decoder_of(nn.Linear(2, 3), (2,), nn.Tanh())[-1], nn.Tanh)


def test_it_says_what_cannot_be_stages() -> None:
    def error(*given: Any, **named: Any) -> str:
        with pytest.raises(ValueError) as caught:
            StagedModel(*given, **named)
        return str(caught.value)

    rule, model = rules.DTP(), convolutional()
    assert error(nn.Linear(2, 2), (2,), rule) == "targets need a Sequential of modules, not Linear"
    assert error(nn.Sequential(nn.Linear(2, 2)), (2,), rule) == (
        "targets need two modules with parameters or more, not 1: the model has no links"
    )
    assert error(model, (1, 8, 7), rule, [Link()]) == "3 stages need 3 links, one below each, not 1"
    assert error(model, (1, 8, 7), rule, decoders=[]) == (
        "rule dtp needs 1 decoders, one for each of its links (h1-h2), not 0"
    )
    assert error(model, (1, 8, 7), rule, decoders=[nn.Identity()]) == (
        "decoder of link h1-h2 gives (24,) for a state of (24,), but the stage below has (4, 4, 3)"
    )
    assert "no rule for stages 'hebbian'" in error(model, (1, 8, 7), rules.Hebbian())
    with pytest.raises(ValueError, match=r"^no decoder is known for PReLU\(num_parameters=1\); give decoders$"):
        decoder_of(nn.PReLU(), (2,))
