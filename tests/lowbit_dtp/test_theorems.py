"""Theorems 1 and 2 of the thesis (D.-H. Lee, Difference Target Propagation, section 3.2) on small nets in float64.

Both speak of steps that are "sufficiently small". Their proofs (appendix A) say how small: their remainders can be
computed, so what is asserted here holds for steps of any size for which the premise of the proof holds, and the premise
is shown to hold for small ones.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit_dtp.data import Samples
from lowbit_dtp.diagnosis import FLOAT, angle_degrees, diagnose, jacobian
from lowbit_dtp.layers import Layer
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link, Signal
from lowbit_dtp.network import Network
from lowbit_dtp.rules import DTP, StepContext, StraightThrough
from lowbit_dtp.tasks import TASKS

SEEDS = st.integers(0, 10**6)
CLASSIFY = TASKS["classify"]


def square(stream: np.random.Generator, neurons: int, condition: float) -> np.ndarray:
    """A random square matrix with singular values from 1 / sqrt(condition) to sqrt(condition)."""
    q, r = (np.linalg.qr(stream.standard_normal((neurons, neurons)))[0] for _ in range(2))
    return q * np.geomspace(condition**-0.5, condition**0.5, neurons) @ r


# Theorem 1


@dataclass
class Invertible:
    """The net of theorem 1: h_i = f_i(h_{i-1}) = W_i tanh(h_{i-1}), and g_i(h_i) = artanh(W_i^-1 h_i), its inverse."""

    weights: list[np.ndarray]

    @classmethod
    def drawn(cls, seed: int, layers: int = 4, neurons: int = 5, condition: float = 4.0) -> "Invertible":
        stream = np.random.default_rng(seed)
        return cls([square(stream, neurons, condition) for _ in range(layers)])

    def states(self, x: np.ndarray) -> list[np.ndarray]:
        """h_0 = x, h_1, ..., h_M."""
        states = [x]
        for weight in self.weights:
            states.append(weight @ np.tanh(states[-1]))
        return states

    def target(self, i: int, top: np.ndarray) -> np.ndarray:
        """Target of layer `i` for that of layer M, eq. 3.9; NaN outside of the image of some f."""
        with np.errstate(invalid="ignore"):
            for weight in reversed(self.weights[i:]):
                top = np.arctanh(np.linalg.solve(weight, top))
        return top

    def jacobian(self, i: int, states: list[np.ndarray]) -> np.ndarray:
        """J = J_{f_M} ... J_{f_{i+1}}."""
        product = np.eye(len(states[0]))
        for weight, below in zip(self.weights[i:], states[i:], strict=False):
            product = weight @ np.diag(1 - np.tanh(below) ** 2) @ product
        return product

    def backpropagation(self, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        """-dL/dW_i for L = ||h_M - y||^2 / 2, by autograd."""
        weights = [torch.tensor(weight, requires_grad=True) for weight in self.weights]
        state = torch.tensor(x)
        for weight in weights:
            state = weight @ torch.tanh(state)
        (((state - torch.tensor(y)) ** 2).sum() / 2).backward()
        return [-weight.grad.numpy() for weight in weights]


def sides_of_theorem_1(net: Invertible, i: int, x: np.ndarray, y: np.ndarray, step: float) -> tuple[float, ...]:
    """1 + Delta_1, the lower bound of eq. 3.14, and the cosine that it bounds, for layer `i` (from 1)."""
    states = net.states(x)
    loss_gradient = states[-1] - y  # l
    j = net.jacobian(i, states)
    target = net.target(i, states[-1] - step * loss_gradient)
    update = 2 * np.outer(target - states[i], np.tanh(states[i - 1]))
    remainder = target - states[i] + step * np.linalg.solve(j, loss_gradient)  # o(step)
    length = np.linalg.norm(loss_gradient)
    largest, *_, smallest = np.linalg.svd(j, compute_uv=False)
    delta_1 = -(j.T @ loss_gradient) @ remainder / (step * length**2)
    delta_2 = largest * np.linalg.norm(remainder) / (step * length)
    cosine = np.cos(np.radians(angle_degrees(update, net.backpropagation(x, y)[i - 1])))
    return float(1 + delta_1), float((1 + delta_1) / (largest / smallest + delta_2)), float(cosine)


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, exponent=st.floats(-7, 0.5))
def test_theorem_1_bounds_the_angle_for_every_step_for_which_its_remainder_is_small(seed, exponent):
    """(1 + D1) / (max / min + D2) <= cos(angle), eq. 3.14, where the target exists and 1 + D1 is positive."""
    net, stream = Invertible.drawn(seed), np.random.default_rng(seed + 1)
    x, y = stream.standard_normal((2, 5))
    for i in range(1, len(net.weights) + 1):
        if np.isfinite(net.target(i, net.states(x)[-1] - 10**exponent * (net.states(x)[-1] - y))).all():
            numerator, bound, cosine = sides_of_theorem_1(net, i, x, y, 10**exponent)
            if numerator > 0:
                assert bound <= cosine + 1e-7


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS)
def test_small_steps_meet_the_premise_of_theorem_1_and_leave_the_condition_number(seed):
    """Targets exist, D1 and D2 tend to 0, and the angle stays under 90 degrees by the condition number of J."""
    net, stream = Invertible.drawn(seed), np.random.default_rng(seed + 1)
    x, y = 0.5 * stream.standard_normal((2, 5))
    for i in range(1, len(net.weights) + 1):
        condition = np.linalg.cond(net.jacobian(i, net.states(x)))
        numerators, bounds, cosines = zip(*(sides_of_theorem_1(net, i, x, y, s) for s in (1e-4, 1e-6)), strict=True)
        assert abs(numerators[1] - 1) < 0.02 * abs(numerators[0] - 1) + 1e-6 < 0.1
        assert bounds[1] == pytest.approx(1 / condition, rel=0.01)
        assert 0 < bounds[1] <= cosines[1] + 1e-7


def test_theorem_1_bounds_nothing_if_the_inverse_is_not_one():
    """The control: with W^-1 of other weights in place of the inverses, angles go beyond 90 degrees."""
    angles = []
    for seed in range(20):
        net, stream = Invertible.drawn(seed), np.random.default_rng(seed + 1)
        x, y = 0.5 * stream.standard_normal((2, 5))
        states, j = net.states(x), Invertible.drawn(seed + 100).jacobian(1, net.states(x))
        direction = -np.linalg.solve(j, states[-1] - y)
        angles.append(angle_degrees(np.outer(direction, np.tanh(x)), net.backpropagation(x, y)[0]))
    assert max(angles) > 90


def test_theorem_1_is_about_one_sample_and_a_minibatch_may_turn_by_180_degrees():
    """Each sample's update is within its bound (0 degrees, with one neuron), and their sum points the other way."""
    net, step = Invertible([np.array([[1.5]]), np.array([[1.0]])]), 1e-6
    updates, reference = [], []
    for x, loss_gradient in ((0.5, 1.0), (2.0, -0.5)):
        states = net.states(np.array([x]))
        y = states[-1] - loss_gradient
        target = net.target(1, states[-1] - step * loss_gradient)
        updates.append(np.outer(target - states[1], np.tanh(states[0])))
        reference.append(net.backpropagation(states[0], y)[0])
        assert angle_degrees(updates[-1], reference[-1]) == pytest.approx(0, abs=1e-6)
    assert angle_degrees(sum(updates), sum(reference)) == pytest.approx(180)


def test_theorem_1_needs_targets_in_the_image_of_f():
    """W tanh(.) does not reach every vector: a step that is too large has no target at all."""
    net = Invertible.drawn(0)
    states = net.states(np.full(5, 0.5))
    assert np.isfinite(net.target(1, states[-1] - 1e-6)).all()
    assert np.isnan(net.target(1, states[-1] - 100)).any()


# The net that the thesis trains, eq. 3.1: h = tanh(W h below)


@dataclass
class ExactlyInverted(Layer):
    """A layer that decodes by the exact inverse of the layer above, whose weights and bias it is given."""

    above: Layer | None = None

    def decode(self, above: Signal, ledger: Ledger, purpose: str) -> np.ndarray:
        assert self.above is not None
        return np.linalg.solve(self.above.weight.T, (np.arctanh(above.values) - self.above.bias).T).T

    def decode_change(self, before: Signal, after: Signal, ledger: Ledger, purpose: str) -> np.ndarray:
        return self.decode(after, ledger, purpose) - self.decode(before, ledger, purpose)


def exactly_inverted(seed: int, scale: float, neurons: int = 5) -> tuple[Network, np.ndarray, np.ndarray]:
    """A net of eq. 3.1 whose hidden layers have exact inverses, with one sample and its label."""
    stream = np.random.default_rng(seed)
    net = Network.build([neurons] * 4 + [3], [Link("float64", "float64")] * 4, seed, dtype=np.float64)
    for layer in net.layers[:3]:
        layer.weight = scale * square(stream, neurons, 2.0)
    for i in range(2):
        layer = net.layers[i]
        net.layers[i] = ExactlyInverted(layer.name, layer.inputs, layer.activation, above=net.layers[i + 1])
    return net, stream.standard_normal((1, neurons)), stream.integers(0, 3, 1)


def angle_of_dtp(net: Network, x: np.ndarray, label: np.ndarray, layer: str, step: float = 1e-5) -> float:
    """Angle in degrees between the updates of `layer` by DTP, with steps this small, and by backpropagation."""
    steps = [
        rule.step(net, x, label, Ledger(), StepContext(task=CLASSIFY)).gradients[layer, "weight"]
        for rule in (_ForwardDTP(target_step=step), StraightThrough(gradient="float64"))
    ]
    return angle_degrees(*(np.asarray(x) for x in steps))


class _ForwardDTP(DTP):
    """DTP whose inverses are exact and need not learn."""

    def _inverse_gradients(self, *args: object) -> dict:
        return {}

    inverse_gradients = _inverse_gradients


def slopes_and_jacobian(net: Network, x: np.ndarray, label: np.ndarray, i: int) -> tuple[np.ndarray, ...]:
    """Slopes of hidden layer `i` (from 0), J from there to the top hidden layer, and l, the loss gradient there."""
    run = net.forward(x, Ledger())
    states = [state[0] for state in run.states.values()]
    j = np.eye(5)
    for layer, state in zip(net.layers[i + 1 : 3], states[i + 1 : 3], strict=True):
        j = jacobian(layer.activation, state, layer.weight) @ j
    powers = np.exp(run.output[0] - run.output[0].max())
    return 1 - states[i] ** 2, j, net.layers[3].weight @ (powers / powers.sum() - np.eye(3)[label[0]])


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, scale=st.floats(0.1, 1.2))
def test_slopes_that_are_nearly_equal_keep_dtp_within_a_bound_in_the_net_of_equation_3_1(seed, scale):
    """There, updates have the layer's slopes D between: D J^-1 l against D J^T l, which theorem 1 does not speak of.

    With c = (max D^2 + min D^2) / 2, r = (max D^2 - min D^2) / 2 / c and k the condition number of J,
    <D J^-1 l, D J^T l> >= c (1 - k r) ||l||^2, so that cos(angle) >= (1 - k r) / k * c / max D^2 if k r < 1.
    """
    net, x, label = exactly_inverted(seed, scale)
    for i in (0, 1):
        slopes, j, _ = slopes_and_jacobian(net, x, label, i)
        squared = slopes**2
        c, r = (squared.max() + squared.min()) / 2, (squared.max() - squared.min()) / (squared.max() + squared.min())
        k = np.linalg.cond(j)
        if k * r < 1:
            bound = (1 - k * r) / k * c / squared.max()
            assert np.cos(np.radians(angle_of_dtp(net, x, label, net.layers[i].name))) >= bound - 1e-3


def test_in_the_net_of_equation_3_1_exact_inverses_do_not_keep_the_angle_under_90_degrees():
    """Theorem 1's condition on the structure of f, h = W s(h below), is needed."""
    angles = []
    for seed in range(40):
        net, x, label = exactly_inverted(seed, 1.5)
        slopes, j, loss_gradient = slopes_and_jacobian(net, x, label, 0)
        updates = np.linalg.solve(j, loss_gradient), j.T @ loss_gradient
        assert angle_degrees(*updates) < 90  # as theorem 1 has it
        angles.append(angle_degrees(*(slopes * update for update in updates)))
        assert angle_of_dtp(net, x, label, "h1", step=1e-7) == pytest.approx(angles[-1], abs=0.5)
    assert max(angles) > 91


def test_slopes_are_nearly_equal_in_nets_that_are_tested():
    met = 0
    for seed in range(20):
        slopes, j, _ = slopes_and_jacobian(*exactly_inverted(seed, 0.3), 0)
        most, least = slopes.max() ** 2, slopes.min() ** 2
        met += np.linalg.cond(j) * (most - least) / (most + least) < 1
    assert met >= 5


# Theorem 2


def nearly_inverted(seed: int, lower: int, upper: int, error: float) -> tuple[Network, np.ndarray]:
    """Two hidden layers with a decoder that is the inverse of f but for a relative `error`; inputs of one sample."""
    stream = np.random.default_rng(seed)
    net = Network.build([4, lower, upper, 3], [Link("float64", "float64")] * 3, seed, dtype=np.float64)
    decoder = net.layers[0].inputs["h1-h2"]
    inverse = np.linalg.pinv(net.layers[1].weight)
    decoder.weight = inverse + error * stream.standard_normal(inverse.shape) / np.sqrt(inverse.size)
    return net, 0.7 * stream.standard_normal((1, 4))


def theorem_2(net: Network, x: np.ndarray, direction: np.ndarray, size: float) -> tuple[np.ndarray, ...]:
    """I - J_f J_g, e = `size` times the unit `direction`, and h-target - f(h-target below), by the rule's targets."""
    edge, ledger = net.edges[1], Ledger()
    run = net.forward(x, ledger)
    lower, upper = run.states["h1"], run.states["h2"]
    e = size * direction / np.linalg.norm(direction)
    target = DTP().target_below(edge, run, upper + e, ledger, StepContext())
    reached = edge.upper.state(edge.link.send(target, Direction.FORWARD, "target", ledger), ledger)
    decoded = edge.lower.decode(edge.link.send(upper, Direction.FEEDBACK, "state", ledger), ledger, "target")
    j_g = jacobian(edge.lower.activation, decoded[0], edge.lower.inputs["h1-h2"].values)
    j_f = jacobian(edge.upper.activation, upper[0], edge.upper.weight)
    assert lower.shape == target.shape
    return np.eye(len(e)) - j_f @ j_g, e, (upper + e - reached)[0]


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, error=st.floats(0, 1), exponent=st.floats(-6, 0.5))
def test_theorem_2_holds_for_every_change_whose_remainder_is_small(seed, error, exponent):
    """||target - f(target below)|| < ||target - h||, eq. 3.19, if |o(||e||^2)| < (1 - lambda) ||e||^2, as in A.2."""
    net, x = nearly_inverted(seed, 7, 5, error)
    a, e, left = theorem_2(net, x, np.random.default_rng(seed + 1).standard_normal(5), 10**exponent)
    largest = np.linalg.eigvalsh(a.T @ a)[-1]
    remainder = left @ left - (a @ e) @ (a @ e)
    if largest < 1 and abs(remainder) < (1 - largest) * (e @ e):
        assert left @ left < e @ e


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, error=st.floats(0, 0.5))
def test_small_changes_meet_the_premise_of_theorem_2(seed, error):
    """The remainder falls faster than ||e||^2, so that the condition on the spectrum alone decides."""
    net, x = nearly_inverted(seed, 7, 5, error)
    direction = np.random.default_rng(seed + 1).standard_normal(5)
    relative = []
    for size in (1e-2, 1e-4):
        a, e, left = theorem_2(net, x, direction, size)
        relative.append(np.linalg.norm(left - a @ e) / size)
    assert relative[1] < 0.05 * relative[0] + 1e-9
    largest = np.linalg.eigvalsh(a.T @ a)[-1]
    if largest < 0.98:
        assert abs(left @ left - (a @ e) @ (a @ e)) < (1 - largest) * (e @ e)
        assert left @ left < e @ e


def test_the_condition_of_theorem_2_is_met_by_nets_that_are_tested():
    met = 0
    for seed in range(20):
        net, x = nearly_inverted(seed, 7, 5, 0.3)
        a, *_ = theorem_2(net, x, np.ones(5), 1e-4)
        met += np.linalg.eigvalsh(a.T @ a)[-1] < 0.98
    assert met >= 10


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS)
def test_where_the_condition_fails_some_small_change_takes_the_layer_further_from_its_target(seed):
    """The condition is what holds for all directions: along the largest singular vector the inequality turns round."""
    net, x = nearly_inverted(seed, 7, 5, 6.0)
    a, *_ = theorem_2(net, x, np.ones(5), 1e-5)
    _, singular, directions = np.linalg.svd(a)
    if singular[0] > 1.05:
        _, e, left = theorem_2(net, x, directions[0], 1e-5)
        assert left @ left > e @ e


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS)
def test_the_condition_of_theorem_2_cannot_hold_below_a_wider_layer(seed):
    """J_f J_g has the rank of the narrower layer, so that I - J_f J_g leaves a direction as it is: lambda >= 1."""
    net, x = nearly_inverted(seed, 4, 6, 0.1)
    samples = Samples(x.astype(np.float32), np.zeros(1, int))
    found = diagnose(net, DTP(), samples, CLASSIFY)[FLOAT]["h1"]
    assert found["largest_singular_value"] >= 1 - 1e-6
    assert found["spectral_radius"] >= 1 - 1e-6
