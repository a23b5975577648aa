"""Activations against torch's autograd, on every backend."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lowbit_dtp import data, rules
from lowbit_dtp.activations import ACTIVATIONS
from lowbit_dtp.backends import backend_of
from lowbit_dtp.backends.numba_cpu import NumbaBackend
from lowbit_dtp.backends.numpy_plain import NumpyBackend
from lowbit_dtp.backends.torch_gpu import TorchBackend
from lowbit_dtp.data import Samples
from lowbit_dtp.ledger import Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import RMSprop
from lowbit_dtp.randomness import RandomStream
from lowbit_dtp.rules.rule import StepContext
from lowbit_dtp.training import Progress, fit
from tests.conformance import oracle
from tests.conformance.cases import LABELS, links_with, small_inputs, small_network

BACKENDS: dict[str, tuple[Any, Callable]] = {
    "compiled": (NumbaBackend(), np.array),
    "plain": (NumpyBackend(), np.array),
    "torch": (TorchBackend(), torch.tensor),
}
WORK = {
    "tanh": {"tanh": 1},
    "sigmoid": {"exp": 1},
    "relu": {},
    "identity": {},
    "step": {},
    "hard-tanh": {},
    "hard-sigmoid": {"multiply": 1, "add": 1},
    "softmax": {"exp": 1, "add": 1, "divide": 1},
}
"""What a neuron computes beside its sum."""

every_activation = pytest.mark.parametrize("name", ACTIVATIONS)


def test_every_activation_has_an_oracle() -> None:
    assert ACTIVATIONS.keys() == oracle.ACTIVATIONS.keys() == WORK.keys()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backend", BACKENDS)
@every_activation
def test_states_and_gradients_are_those_of_autograd(name: str, backend: str, dtype: type) -> None:
    (xp, array), activation, draw = BACKENDS[backend], ACTIVATIONS[name], np.random.default_rng(0)
    x, error = 2 * draw.standard_normal((2, 9, 13))
    x[0, :5] = 0.0, 3, -3, 40, -40
    twin = torch.tensor(x.astype(dtype).astype(np.float64), requires_grad=True)
    expected = oracle.ACTIVATIONS[name](twin)
    expected.backward(torch.tensor(error))
    state = activation.apply(xp, array(x.astype(dtype)))
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-14}
    np.testing.assert_allclose(np.asarray(state), expected.detach().numpy(), **close)
    given = array(error.astype(dtype))
    gradients = (
        2 * xp.activation_backward(activation, state, given, 0.5),
        xp.activation_backward_difference(activation, state, 1.5 * given, given, 2.0),
    )
    for gradient in gradients:
        assert str(gradient.dtype).endswith(np.dtype(dtype).name)
        np.testing.assert_allclose(np.asarray(gradient), twin.grad.numpy(), rtol=1e-4, atol=1e-5)
    if activation.function is not None:
        np.testing.assert_allclose(activation.function(x.astype(dtype)), expected.detach().numpy(), **close)


@pytest.mark.parametrize("backend", BACKENDS)
@every_activation
def test_nan_stays(name: str, backend: str) -> None:
    xp, array = BACKENDS[backend]
    assert np.isnan(np.asarray(ACTIVATIONS[name].apply(xp, array(np.full((1, 3), np.nan, np.float32))))).all()


@pytest.mark.parametrize("rule", [rules.DTP(), rules.StraightThrough()], ids=lambda rule: rule.name)
@every_activation
def test_rules_differentiate_every_activation(name: str, rule: Any) -> None:
    sizes = [6, 7, 5, 4, 3]
    built = small_network(sizes, links_with(sizes, {1: Link("binary", "binary")}), dtype=np.float64, activation=name)
    net, stream = built.with_links(rule.training_links(built.links)), RandomStream(3, 7)
    for link in (0, 2, 3):
        net.links[link] = Link("float64", "float64", net.links[link].lower, net.links[link].upper)
    inputs = small_inputs(6, dtype=np.float64)
    found = rule.step(net, inputs, LABELS, Ledger(), StepContext(0, rule.phases[0], stream)).gradients
    expected = (oracle.target_propagation if isinstance(rule, rules.DTP) else oracle.backpropagation)(
        rule, net, inputs, LABELS, stream
    )
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        np.testing.assert_allclose(gradient, expected[key], rtol=1e-9, atol=1e-12, err_msg=str(key))


@every_activation
def test_recorded_steps_are_the_plain_ones(name: str, recwarn: pytest.WarningsRecorder) -> None:
    train, found = data.load("digits").train, []
    few = Samples(train.stored[:150], train.labels[:150], train.format)
    for mode in ("plain", "recorded"):
        net, progress = Network.build([64, 20, 70, 10], [Link(), Link("ternary"), Link()], 3, name), Progress()
        losses = [step.loss for step in fit(net, rules.DTP(), RMSprop(0.002), few, 2, 25, 7, progress, mode)]
        found.append((losses, progress.ledger.as_dict(), {key: x.tobytes() for key, x in net.tensors().items()}))
    assert found[0] == found[1] and not recwarn.list


@every_activation
def test_what_a_neuron_computes_is_counted(name: str) -> None:
    net, ledger = small_network([6, 7, 3], links_with([6, 7, 3], {}), activation=name), Ledger()
    net.forward(small_inputs(6), ledger)
    counted = {work.operation: n for work, n in ledger.work.items() if work.layer == "h1"}
    rows = len(LABELS)
    expected = {"multiply-accumulate": rows * 42, "add": rows * 7}
    for operation, times in WORK[name].items():
        expected[operation] = expected.get(operation, 0) + times * rows * 7
    assert counted == expected


def test_ensembles_take_softmax_member_by_member() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    together = ACTIVATIONS["softmax"].apply(backend_of(x), x.copy())
    assert np.array_equal(together, np.stack([ACTIVATIONS["softmax"].apply(backend_of(x), one) for one in x]))
