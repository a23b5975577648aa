"""The bridge to Brevitas, against Brevitas itself: the same codes, outputs and gradients."""

import importlib
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from brevitas.core.function_wrapper import StochasticRoundSte
from brevitas.nn import QuantConv1d, QuantHardTanh, QuantIdentity, QuantLinear, QuantReLU, QuantSigmoid, QuantTanh
from brevitas.quant import (
    Int8ActPerTensorFixedPoint,
    Int8ActPerTensorFloat,
    Int8BiasPerTensorFloatInternalScaling,
    Int8WeightPerChannelFloat,
    Int32Bias,
    ShiftedUint8ActPerTensorFloat,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
    SignedTernaryActPerTensorConst,
    SignedTernaryWeightPerTensorConst,
    Uint8ActPerTensorFixedPoint,
)
from brevitas.quant.float import Fp8e4m3ActPerTensorFloat
from brevitas_examples.bnn_pynq.models.common import CommonActQuant
from brevitas_examples.bnn_pynq.models.FC import FC
from brevitas_examples.bnn_pynq.models.tensor_norm import TensorNorm
from torch import nn

from export import FixedNetwork
from export.accuracy import simulate
from lowbit_dtp import formats
from lowbit_dtp.brevitas_bridge import network_from_brevitas, network_to_brevitas
from lowbit_dtp.data import Samples
from lowbit_dtp.ledger import Ledger
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import SGD
from lowbit_dtp.rules import StraightThrough
from lowbit_dtp.rules.rule import StepContext
from lowbit_dtp.training import fit

QUANTIZERS = {
    "binary": lambda: QuantIdentity(act_quant=SignedBinaryActPerTensorConst),
    "binary, scale 0.1": lambda: QuantIdentity(act_quant=SignedBinaryActPerTensorConst, **const(0.1)),
    "ternary": lambda: QuantIdentity(act_quant=SignedTernaryActPerTensorConst),
    "ternary, scale 0.3": lambda: QuantIdentity(act_quant=SignedTernaryActPerTensorConst, **const(0.3)),
    "TernaryQuant": lambda: QuantIdentity(
        act_quant=SignedTernaryActPerTensorConst, quant_type="TERNARY", threshold=0.05, **const(0.7)
    ),
    "{0,1}": lambda: QuantIdentity(act_quant=Uint8ActPerTensorFixedPoint, bit_width=1, **const(2.0)),
    "4-bit": lambda: QuantHardTanh(
        act_quant=Int8ActPerTensorFixedPoint, bit_width=4, max_val=1.0, min_val=-1.0, **const(1.0)
    ),
    "4-bit, floor": lambda: QuantIdentity(
        act_quant=Int8ActPerTensorFixedPoint, bit_width=4, float_to_int_impl_type="FLOOR", **const(2.0)
    ),
    "3-bit, narrow": lambda: QuantIdentity(
        act_quant=Int8ActPerTensorFixedPoint, bit_width=3, narrow_range=True, **const(3.0)
    ),
    "5-bit, any scale": lambda: QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=5, **const(1.1)),
    "7-bit, zero point": lambda: QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat, bit_width=7),
    "10-bit": lambda: QuantIdentity(act_quant=Int8ActPerTensorFixedPoint, bit_width=10, **const(1.0)),
}


def const(scale):
    """Keywords that give an activation quantizer the constant `scale`, before it is divided by the integer range."""
    return {"scaling_impl_type": "CONST", "scaling_init": scale}


def around(thresholds):
    """Float32 on both sides of every threshold, on it, and far from all."""
    at = np.array(thresholds, np.float32)
    sides = [np.nextafter(at, np.float32(way)) for way in (-np.inf, np.inf)]
    rest = np.random.default_rng(0).normal(0, 2, 10_000).astype(np.float32)
    return np.concatenate([at, -at, *sides, rest, np.array([-0.0, 0.0, -3e38, 3e38], np.float32)])


def sent(module, x):
    """What a module gives for the NumPy array `x`."""
    with torch.no_grad():
        y = module.eval()(torch.from_numpy(x))
    return (y if isinstance(y, torch.Tensor) else y.value).numpy()


def before_output(model, quantizer):
    """A smallest model with `quantizer` above its hidden layer."""
    return nn.Sequential(nn.Linear(3, 2), *model, quantizer, nn.Linear(2, 2))


def dyadic(rng, shape, limit, step):
    """Random multiples of `step`, so few bits that every sum of a small net is exact in float32."""
    return (rng.integers(-limit, limit + 1, shape) * step).astype(np.float32)


def exact_network(forward, activation="tanh", sizes=(12, 9, 8, 5), seed=0):
    """A network whose sums are exact wherever its links carry multiples of 1/128 of a few bits."""
    network = Network.build(sizes, [Link("fixed(4,1)"), *[Link(forward)] * (len(sizes) - 2)], activation=activation)
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        layer.weight[...] = dyadic(rng, layer.weight.shape, 4, 0.125)
        layer.bias[...] = dyadic(rng, layer.bias.shape, 4, 0.0625)
    return network


def plain_description(network: Network) -> dict[str, Any]:
    """What `describe` says of what a Brevitas model has, too."""
    description = network.describe()
    layers = [{name: row[name] for name in ("name", "neurons", "activation")} for row in description["layers"]]
    links = [{name: row[name] for name in ("lower", "upper", "forward", "feedback")} for row in description["links"]]
    return {"input": description["input"], "layers": layers, "links": links}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_quantizer_becomes_the_format_that_sends_the_same(name):
    quantizer = QUANTIZERS[name]()
    if name == "7-bit, zero point":
        quantizer.train()(torch.linspace(-0.3, 1.7, 1000))  # collects scale and zero point
    fmt = network_from_brevitas(before_output([], quantizer)).links[1].forward
    x = around(fmt.table().thresholds)
    np.testing.assert_array_equal(fmt.quantize(x).astype(np.float32), sent(quantizer, x))
    assert formats.parse(fmt.name) == fmt
    assert len(np.unique(sent(quantizer, x))) == len(fmt.table().values)


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("binary", "binary"),
        ("binary, scale 0.1", "table(-0.10000000149011612,0.10000000149011612)"),
        ("ternary", "fixed(2,2,saturate-symmetric)"),
        ("{0,1}", "ufixed(1,1)"),
        ("4-bit", "fixed(4,1)"),
        ("4-bit, floor", "fixed(4,2,floor)"),
        ("10-bit", "fixed(10,1)"),
    ],
)
def test_plain_quantizers_become_plain_formats(name, spelling):
    assert network_from_brevitas(before_output([], QUANTIZERS[name]())).links[1].forward.name == spelling


FORMATS = [
    "binary",
    "binary01",
    "ternary",
    "fixed(4,1)",
    "fixed(4,1,floor)",
    "fixed(3,-2,saturate-symmetric)",
    "fixed(2,5)",
    "ufixed(1,1)",
    "ufixed(8,0)",
    "fixed(16,3)",
    "table(-1,1;0.25)",
    "table(-0.1,0.1)",
    "table(0,0.1)",
    "table(-1,-0.5,-0.25,0,0.25,0.5,1)",
    "table(0.25,0.75,1.5)",
    "table(0,1,2,3;0.1,0.15,0.2)",
]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_becomes_a_quantizer_that_sends_the_same_and_comes_back(name):
    fmt = formats.parse(name)
    network = Network.build([3, 2, 2], [Link(), Link(fmt)])
    module = network_to_brevitas(network)
    x = around(fmt.table().thresholds)
    np.testing.assert_array_equal(sent(module[2], x), fmt.quantize(x).astype(np.float32))
    back = network_from_brevitas(module)
    returned = back.links[1].forward.quantize(x).astype(np.float32)
    np.testing.assert_array_equal(returned, fmt.quantize(x).astype(np.float32))
    if "." not in name:
        assert back.links[1].forward.name == name
    for old, new in zip(network.layers, back.layers, strict=True):
        assert (new.name, new.activation) == (old.name, old.activation)
        np.testing.assert_array_equal(new.weight, old.weight)
        np.testing.assert_array_equal(new.bias, old.bias)


def states(module, x):
    """Outputs of every top-level module of a Sequential, as NumPy arrays."""
    outputs = []
    value = torch.from_numpy(x)
    with torch.no_grad():
        for part in module.eval():
            value = part(value)
            outputs.append((value if isinstance(value, torch.Tensor) else value.value).numpy())
    return outputs


BREVITAS_MODELS = {
    "binary weights, tanh, binary": lambda: nn.Sequential(
        QuantIdentity(act_quant=Int8ActPerTensorFixedPoint, bit_width=4, **const(1.0)),
        QuantLinear(12, 9, weight_quant=SignedBinaryWeightPerTensorConst, weight_scaling_const=0.125),
        QuantTanh(act_quant=SignedBinaryActPerTensorConst),
        nn.Dropout(0.5),
        QuantLinear(9, 8, weight_quant=SignedBinaryWeightPerTensorConst, weight_scaling_const=0.5),
        QuantHardTanh(act_quant=SignedBinaryActPerTensorConst),
        QuantLinear(8, 5, weight_quant=None),
    ),
    "ternary weights, hard tanh, ternary": lambda: nn.Sequential(
        QuantIdentity(act_quant=Int8ActPerTensorFixedPoint, bit_width=4, **const(1.0)),
        QuantLinear(12, 9, weight_quant=SignedTernaryWeightPerTensorConst, weight_scaling_const=0.25),
        QuantHardTanh(act_quant=SignedTernaryActPerTensorConst),
        QuantLinear(9, 8, False, weight_quant=SignedTernaryWeightPerTensorConst, weight_scaling_const=0.125),
        QuantHardTanh(act_quant=Int8ActPerTensorFixedPoint, bit_width=4, min_val=-1.0, max_val=1.0, **const(1.0)),
        QuantLinear(8, 5, weight_quant=None),
    ),
    "3-bit weights, 2-bit relu": lambda: nn.Sequential(
        QuantIdentity(act_quant=Int8ActPerTensorFixedPoint, bit_width=4, **const(1.0)),
        QuantLinear(12, 9, weight_bit_width=3, weight_scaling_impl_type="CONST", weight_scaling_init=0.375),
        QuantReLU(act_quant=Uint8ActPerTensorFixedPoint, bit_width=2, **const(1.0)),
        QuantLinear(9, 5, weight_bit_width=3, weight_scaling_impl_type="CONST", weight_scaling_init=0.375),
    ),
}


@pytest.mark.parametrize("name", BREVITAS_MODELS)
def test_a_brevitas_model_becomes_a_network_with_equal_codes_and_logits(name, tmp_path):
    torch.manual_seed(0)
    model, rng = BREVITAS_MODELS[name](), np.random.default_rng(0)
    linears = [part for part in model if isinstance(part, QuantLinear)]
    with torch.no_grad():
        for linear in linears:
            linear.weight.copy_(torch.from_numpy(dyadic(rng, tuple(linear.weight.shape), 4, 0.125)))
            if linear.bias is not None:
                linear.bias.copy_(torch.from_numpy(dyadic(rng, tuple(linear.bias.shape), 4, 0.125)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    network = network_from_brevitas(model)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    network.save(tmp_path / "network.safetensors")
    for net in (network, Network.load(tmp_path / "network.safetensors")):
        x = dyadic(rng, (500, 12), 18, 0.0625)  # half of them ties
        run = net.forward(x, Ledger())
        quantized = [y for part, y in zip(model, states(model, x), strict=True) if isinstance(part, quantizing())]
        assert len(quantized) == len(run.received) == len(linears)
        for received, theirs in zip(run.received.values(), quantized, strict=True):
            np.testing.assert_array_equal(received.values, theirs)
            assert len(np.unique(received.codes)) > len(received.format.table().values) / 2
        np.testing.assert_array_equal(run.output, sent(model, x))
    assert all(x.dtype == np.float32 for x in network.tensors().values())


def quantizing():
    return QuantIdentity, QuantTanh, QuantHardTanh, QuantReLU


@pytest.mark.parametrize("forward", ["binary", "binary01", "ternary", "fixed(4,1)", "table(-1,-0.25,0.5)"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "identity"])
def test_a_network_becomes_a_brevitas_model_with_equal_codes_and_logits(forward, activation):
    network = exact_network(forward, activation)
    module = network_to_brevitas(network)
    x = dyadic(np.random.default_rng(1), (500, 12), 12, 0.0625)
    theirs = states(module, x)
    run = network.forward(x, Ledger())
    quantized = [y for part, y in zip(module, theirs, strict=True) if isinstance(part, QuantIdentity)]
    for received, values in zip(run.received.values(), quantized, strict=True):
        np.testing.assert_array_equal(received.values, values)
    np.testing.assert_array_equal(run.output, theirs[-1])
    back = network_from_brevitas(module)
    assert plain_description(back) == plain_description(network)


def test_a_network_calibrated_and_quantized_by_brevitas_keeps_its_codes_and_logits():
    """Learned scales, a zero point, scales by output channel, and quantized biases; sums are not exact here."""
    torch.manual_seed(0)
    model = nn.Sequential(
        QuantIdentity(act_quant=Int8ActPerTensorFloat, return_quant_tensor=True),
        QuantLinear(20, 16, weight_quant=Int8WeightPerChannelFloat, bias_quant=Int32Bias),
        QuantReLU(bit_width=4, return_quant_tensor=True),
        QuantLinear(16, 12, weight_bit_width=4, bias_quant=Int8BiasPerTensorFloatInternalScaling),
        QuantSigmoid(act_quant=ShiftedUint8ActPerTensorFloat, bit_width=3, return_quant_tensor=True),
        nn.Dropout(0.3),
        QuantLinear(12, 6, input_quant=None),
    )
    for _ in range(20):
        model(torch.randn(100, 20))
    network = network_from_brevitas(model)
    x = np.random.default_rng(0).normal(size=(300, 20)).astype(np.float32)
    run = network.forward(x, Ledger())
    quantized = [states(model, x)[i] for i in (0, 2, 4)]
    np.testing.assert_array_equal(run.received["input-h1"].values, quantized[0])
    for received, theirs in zip(run.received.values(), quantized, strict=True):
        assert (received.values != theirs).mean() < 1e-3
    same = (run.received["h2-output"].values == quantized[2]).all(1)
    np.testing.assert_allclose(run.output[same], sent(model, x)[same], atol=1e-5)


class Perceptron(nn.Module):
    """Modules registered in another order than they are called in, one of them twice."""

    def __init__(self):
        super().__init__()
        self.sign = QuantIdentity(act_quant=SignedBinaryActPerTensorConst)
        self.blocks = nn.ModuleList([nn.Linear(6, 5), nn.Linear(5, 4)])
        self.tanh = nn.Tanh()
        self.output = nn.Linear(4, 3)

    def forward(self, x):
        for block in self.blocks:
            x = self.sign(self.tanh(block(x.view(len(x), -1))))
        return self.output(x)


def test_a_module_of_ones_own_is_followed_as_it_is_called():
    torch.manual_seed(0)
    model = Perceptron()
    network = network_from_brevitas(model, "ufixed(8,0)")
    assert plain_description(network) == {
        "input": {"name": "input", "neurons": 6},
        "layers": [
            {"name": "h1", "neurons": 5, "activation": "tanh"},
            {"name": "h2", "neurons": 4, "activation": "tanh"},
            {"name": "output", "neurons": 3, "activation": "identity"},
        ],
        "links": [
            {"lower": "input", "upper": "h1", "forward": "ufixed(8,0)", "feedback": "float32"},
            {"lower": "h1", "upper": "h2", "forward": "binary", "feedback": "float32"},
            {"lower": "h2", "upper": "output", "forward": "binary", "feedback": "float32"},
        ],
    }
    x = (np.random.default_rng(0).integers(0, 256, (200, 6)) / 256).astype(np.float32)
    np.testing.assert_allclose(network.forward(x, Ledger()).output, sent(model, x), atol=1e-5)


@pytest.mark.parametrize("forward", ["binary", "binary01", "ternary", "fixed(4,1)", "table(-1,-0.25,0.5)"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_straight_through_gradients_are_those_of_brevitas(forward, activation):
    network = exact_network(forward, activation)
    _compare_gradients(network, network_to_brevitas(network), 12, 5)


@pytest.mark.parametrize("forward", ["binary", "ternary", "fixed(4,1)"])
def test_a_straight_through_step_on_mnist_sized_nets_is_that_of_brevitas(forward):
    links = [Link("ufixed(8,0)"), Link(forward), Link()]
    network = Network.build([784, 100, 80, 10], links, seed=3)
    _compare_gradients(network, network_to_brevitas(network), 784, 10)


@pytest.mark.parametrize("quantizer", ["binary", "ternary"])
def test_brevitas_quantizers_as_they_come_train_alike_while_states_are_in_range(quantizer):
    """The states of tanh are; |tanh| <= 1 is what these two clip at."""
    network = exact_network("float32")
    modules = network_to_brevitas(network)
    model = nn.Sequential(*modules[:3], QUANTIZERS[quantizer](), *modules[3:5], QUANTIZERS[quantizer](), modules[5])
    _compare_gradients(network_from_brevitas(model), model, 12, 5)


def _compare_gradients(network, model, below, classes):
    """Gradients of the mean negative log-likelihood, and the weights after one step of SGD with each one's own."""
    rng = np.random.default_rng(2)
    x, labels = dyadic(rng, (30, below), 16, 0.0625), rng.integers(0, classes, 30)
    step = StraightThrough().step(network, x, labels, Ledger(), StepContext())
    linears = [part for part in model if isinstance(part, nn.Linear)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loss = nn.functional.cross_entropy(model.train()(torch.from_numpy(x)), torch.from_numpy(labels))
    loss.backward()
    assert step.loss == pytest.approx(loss.item(), rel=1e-6)
    for layer, linear in zip(network.layers, linears, strict=True):
        assert np.abs(step.gradients[layer.name, "weight"]).max() > 1e-4
        np.testing.assert_allclose(step.gradients[layer.name, "weight"], linear.weight.grad.numpy().T, atol=1e-6)
        np.testing.assert_allclose(step.gradients[layer.name, "bias"], linear.bias.grad.numpy(), atol=1e-6)
    optimizer.step()
    SGD(0.5).apply(network, step.gradients, Ledger())
    for layer, linear in zip(network.layers, linears, strict=True):
        np.testing.assert_allclose(layer.weight, linear.weight.detach().numpy().T, atol=1e-6)
        np.testing.assert_allclose(layer.bias, linear.bias.detach().numpy(), atol=1e-6)


def test_where_brevitas_gradients_differ_from_the_identity():
    x = torch.tensor([-3.0, -0.5, 0.5, 3.0], requires_grad=True)

    def slope(module):
        return torch.autograd.grad(module.train()(x).sum(), x)[0].tolist()

    assert slope(QUANTIZERS["binary"]()) == [0, 1, 1, 0]
    assert slope(QUANTIZERS["4-bit"]()) == [0, 1, 1, 0]
    bridged = {name: network_to_brevitas(exact_network(name))[3] for name in ("binary", "fixed(4,1)", "table(-2,2)")}
    assert {name: slope(module) for name, module in bridged.items()} == {
        "binary": [1, 1, 1, 1],
        "fixed(4,1)": [1, 1, 1, 1],
        "table(-2,2)": [2, 2, 2, 2],
    }


class Hidden(nn.Sequential):
    """Computes something between its modules."""

    def forward(self, x):
        return self[1](torch.relu(self[0](x)))


class After(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


class Backwards(nn.Sequential):
    def forward(self, x):
        return self[0](self[1](x))


class Idle(nn.Sequential):
    def forward(self, x):
        return 2 * x


class Mine(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight.sign(), self.bias)


class LargestInput(nn.Module):
    """A scale that depends on what is quantized."""

    def forward(self, x, threshold):
        return (x.abs().max() + 1) / threshold


class PerNeuron(Int8ActPerTensorFloat):
    scaling_per_output_type = "CHANNEL"
    per_channel_broadcastable_shape = (1, 2)
    scaling_stats_permute_dims = (1, 0)


def binary_act(**settings):
    return QuantIdentity(act_quant=SignedBinaryActPerTensorConst, **settings)


NO_COUNTERPART = (
    "has no counterpart in a Network; there are: Linear, Tanh, Sigmoid, ReLU, their Brevitas versions, QuantIdentity, "
    "QuantHardTanh, BatchNorm1d, TensorNorm, and Dropout, Identity and Flatten, which are left out"
)

REFUSED = [
    (
        nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.BatchNorm1d(2), nn.Linear(2, 2)),
        "module '2' (BatchNorm1d) must come right after a linear module, whose weights its scale is multiplied into",
    ),
    (
        nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)),
        "module '0' (BatchNorm1d) normalizes inputs, each in another way; a link has one format for all neurons",
    ),
    (nn.Sequential(nn.Linear(3, 2), nn.Hardtanh()), f"module '1' (Hardtanh) {NO_COUNTERPART}"),
    (nn.Sequential(nn.Linear(3, 3), QuantConv1d(1, 1, 1)), f"module '1' (QuantConv1d) {NO_COUNTERPART}"),
    (nn.Sequential(nn.Sequential(Mine(3, 3)), nn.Linear(3, 2)), f"module '0.0' (Mine) {NO_COUNTERPART}"),
    (nn.Sequential(nn.Tanh()), "the model calls no Linear or QuantLinear module"),
    (Idle(nn.Linear(3, 2)), "the model calls no Linear or QuantLinear module"),
    (
        Hidden(nn.Linear(3, 3), nn.Linear(3, 2)),
        "what module '1' (Linear) is given is not what the module before it gave; a model must be a chain of modules, "
        "each function between them a module too",
    ),
    (
        Backwards(nn.Linear(5, 2), nn.Linear(3, 5)),
        "the model cannot be run on 5 inputs, as many as the first Linear it lists takes: mat1 and mat2 shapes cannot "
        "be multiplied (64x5 and 3x5)",
    ),
    (
        After(nn.Linear(3, 3), nn.Linear(3, 2)),
        "what the model returns is not what its last module, module '1' (Linear), gave",
    ),
    (
        before_output([QuantHardTanh(act_quant=None, min_val=-1.0, max_val=1.0)], binary_act()),
        "module '1' (QuantHardTanh) computes Hardtanh; a Network's activations are: tanh, sigmoid, relu, identity",
    ),
    (
        before_output([binary_act()], nn.Tanh()),
        "module '2' (Tanh) must come right after a linear module, for its tanh to be that layer's",
    ),
    (
        nn.Sequential(nn.Tanh(), nn.Linear(3, 2)),
        "module '0' (Tanh) must come right after a linear module, for its tanh to be that layer's",
    ),
    (
        before_output([binary_act()], binary_act()),
        "module '2' (QuantIdentity) quantizes what is already binary; a link has one forward format",
    ),
    (
        nn.Sequential(nn.Linear(3, 2), binary_act(), nn.Dropout()),
        "module '1' (QuantIdentity) comes after the last linear module; a Network's logits are the sums themselves",
    ),
    (
        before_output([], QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=17, **const(1.0))),
        "module '1' (QuantIdentity): a format found by its thresholds has at most 16 bits, not 17",
    ),
    (
        before_output([], QuantIdentity(act_quant=Fp8e4m3ActPerTensorFloat)),
        "module '1' (QuantIdentity): only Brevitas' binary, ternary and integer quantizers become a format",
    ),
    (
        before_output([], QuantIdentity(act_quant=PerNeuron)),
        "module '1' (QuantIdentity): a format has one scale for all neurons, not 2",
    ),
    (
        before_output([], QuantIdentity(act_quant=Int8ActPerTensorFloat, scaling_impl=LargestInput())),
        "module '1' (QuantIdentity): its scale depends on what it is given; a format is fixed",
    ),
    (
        before_output(
            [],
            QuantIdentity(act_quant=Int8ActPerTensorFloat, float_to_int_impl=StochasticRoundSte(False), **const(128.0)),
        ),
        "module '1' (QuantIdentity): it does not ascend, or not always send the same number alike",
    ),
]


@pytest.mark.parametrize(("model", "message"), REFUSED, ids=lambda x: x[:60] if isinstance(x, str) else "")
def test_what_a_network_is_not_is_refused_by_name(model, message):
    with pytest.raises(ValueError) as caught:
        network_from_brevitas(model)
    assert str(caught.value) == message


def test_inputs_are_quantized_once():
    model = nn.Sequential(binary_act(), nn.Linear(3, 2))
    assert network_from_brevitas(model).links[0].forward.name == "binary"
    with pytest.raises(ValueError) as caught:
        network_from_brevitas(model, "ufixed(8,0)")
    assert str(caught.value) == (
        "the model quantizes its inputs itself, to binary; leave out input_format, ufixed(8,0)"
    )


@pytest.mark.parametrize(
    ("fmt", "message"),
    [
        (
            "fixed(4,1,stochastic)",
            "fixed(4,1,stochastic) is not a table of thresholds: that takes deterministic rounding, saturation and at "
            "most 16 bits",
        ),
        ("float64", "float64 is not a table of thresholds; choose a fixed-point or few-bit format"),
        (
            "table(-0.1,0.3,0.35)",
            "no Brevitas quantizer sends what table(-0.1,0.3,0.35) sends: it rounds x / scale, so values must be whole "
            "steps of one scale, and thresholds still be thresholds after the division",
        ),
        (
            "table(-0.3,0.3;0.1)",
            "no Brevitas quantizer sends what table(-0.3,0.3;0.1) sends: it rounds x / scale, so values must be whole "
            "steps of one scale, and thresholds still be thresholds after the division",
        ),
    ],
)
def test_a_format_that_brevitas_lacks_is_refused_by_link(fmt, message):
    with pytest.raises(ValueError) as caught:
        network_to_brevitas(Network.build([3, 2, 2], [Link(), Link(fmt)]))
    assert str(caught.value) == f"link h1-output: {message}"


def test_an_ensemble_is_refused():
    network = Network.build([3, 2], [Link()])
    network.layers[0].weight = np.zeros((4, 3, 2), np.float32)
    with pytest.raises(ValueError, match=r"^layer output: weights must be \[below, neurons\], not \[4, 3, 2\]$"):
        network_to_brevitas(network)


def test_without_brevitas_the_error_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "brevitas"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "brevitas", None)
    monkeypatch.delitem(sys.modules, "lowbit_dtp.brevitas_bridge")
    with pytest.raises(ImportError) as caught:
        importlib.import_module("lowbit_dtp.brevitas_bridge")
    assert str(caught.value) == (
        "lowbit_dtp.brevitas_bridge needs torch and Brevitas: pip install lowbit-dtp[brevitas]"
    )


def normalized(activation, weight=SignedBinaryWeightPerTensorConst, sizes=(20, 16, 12, 5), ties=True, **weight_options):
    """A multilayer perceptron with a BatchNorm1d below each activation, in evaluation mode.

    Of each layer's scales, some are negative and one is zero; one variance is zero, and some thresholds are ties.
    """
    rng = np.random.default_rng(0)
    parts: list[nn.Module] = [QuantIdentity(act_quant=Int8ActPerTensorFixedPoint, bit_width=4, **const(1.0))]
    for below, neurons in pairwise(sizes):
        parts.append(QuantLinear(below, neurons, bias=neurons == sizes[1], weight_quant=weight, **weight_options))
        nn.init.uniform_(parts[-1].weight, -1, 1)
        if neurons == sizes[-1]:
            break
        norm = nn.BatchNorm1d(neurons)
        with torch.no_grad():
            norm.weight.copy_(torch.from_numpy(rng.choice([-1.5, -0.3, 0.2, 1.0], neurons)))
            norm.bias.copy_(torch.from_numpy(rng.normal(0, 0.5, neurons)))
            norm.running_mean.copy_(torch.from_numpy(rng.normal(0, 1, neurons)))
            norm.running_var.copy_(torch.from_numpy(rng.uniform(0.2, 4, neurons)))
            norm.weight[0], norm.running_var[1] = 0, 0
            if ties:
                norm.bias[2:5], norm.running_mean[2:5] = 0, torch.tensor([0.0, 1.0, 2.0])
        parts += [norm, activation(), nn.Dropout(0.2)]
    return nn.Sequential(*parts, TensorNorm()).eval()


ACTIVATIONS = {
    "binary": lambda: QuantIdentity(act_quant=SignedBinaryActPerTensorConst),
    "ternary, scale 0.3": QUANTIZERS["ternary, scale 0.3"],
    "hard tanh, 4 bits": QUANTIZERS["4-bit"],
    "2 bits, narrow": lambda: QuantIdentity(act_quant=CommonActQuant, bit_width=2),
    **{
        f"relu, {bits} bits": lambda bits=bits: QuantReLU(bit_width=bits, **const(3.0), scaling_min_val=None)
        for bits in (2, 3, 4, 8)
    },
    "tanh, binary": lambda: QuantTanh(act_quant=SignedBinaryActPerTensorConst),
}
WEIGHTS = {
    "binary": {"weight": SignedBinaryWeightPerTensorConst, "weight_scaling_const": 1.0},
    "binary, scale 0.7": {"weight": SignedBinaryWeightPerTensorConst, "weight_scaling_const": 0.7},
    "ternary": {"weight": SignedTernaryWeightPerTensorConst, "weight_scaling_const": 0.5},
    "4 bits of each channel": {"weight": Int8WeightPerChannelFloat, "weight_bit_width": 4},
}


@pytest.mark.parametrize(
    ("activation", "weights"),
    [*((name, "binary") for name in ACTIVATIONS), *(("relu, 3 bits", name) for name in WEIGHTS)],
)
def test_batch_normalization_becomes_thresholds(activation, weights, tmp_path):
    torch.manual_seed(1)
    ties = weights != "binary, scale 0.7"  # which float32 rounds to either side
    model = normalized(ACTIVATIONS[activation], ties=ties, **WEIGHTS[weights])
    network = network_from_brevitas(model)
    assert [layer.projection.kind for layer in network.layers[:-1]] == ["thresholded"] * 2
    network.save(tmp_path / "network.safetensors")
    fixed = FixedNetwork.load(tmp_path / "network.safetensors")
    x = dyadic(np.random.default_rng(2), (500, 20), 10, 0.125)
    theirs = [y for y, part in zip(states(model, x), model, strict=True) if isinstance(part, quantizing())]
    logits = sent(model, x)
    first, second = np.sort(logits, 1)[:, :-3:-1].T
    exact = weights in ("binary", "ternary") and activation in ("binary", "2 bits, narrow", "hard tanh, 4 bits")
    clear = (first - second > 1e-5) | exact  # equal sums times another scale are no longer equal in float32
    assert clear.mean() > 0.3
    for net in (network, Network.load(tmp_path / "network.safetensors")):
        run = net.forward(x, Ledger())
        for received, values in zip(run.received.values(), theirs, strict=True):
            ranks = np.searchsorted(np.unique(values), values)
            mine = np.unique(received.values, return_inverse=True)[1].reshape(values.shape)
            np.testing.assert_array_equal(mine, ranks)
        np.testing.assert_array_equal(run.output.argmax(1)[clear], logits.argmax(1)[clear])
    trace = fixed.infer(x)
    for name, received in run.received.items():
        np.testing.assert_array_equal(trace.codes[name], received.codes)
    if weights != "4 bits of each channel":  # whose output layer has float weights, which the export rounds
        np.testing.assert_array_equal(trace.classes[clear], logits.argmax(1)[clear])
        simulated = simulate(tmp_path / "network.safetensors", x).argmax(1)
        np.testing.assert_array_equal(simulated[clear], logits.argmax(1)[clear])
    assert len(np.unique(logits.argmax(1))) > 2


@pytest.mark.parametrize("bits", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
def test_the_multilayer_perceptrons_of_brevitas_keep_their_classes(bits):
    """TFC: its forward pass takes pixels to [-1, 1] before its first module."""
    torch.manual_seed(0)
    model = FC(10, *bits, 1, [64, 64, 64])
    images = torch.rand(300, 1, 28, 28)
    for _ in range(3):
        model(images)
    with torch.no_grad():
        for norm in model.features:
            if isinstance(norm, nn.BatchNorm1d):
                norm.weight[::3] *= -1
        model.features[-1].weight[:] = -0.7
    network = network_from_brevitas(model)
    x = (np.random.default_rng(0).integers(0, 257, (500, 784)) / 256).astype(np.float32)  # 0.5 is a tie
    classes = sent(model, x).argmax(1)
    np.testing.assert_array_equal(network.forward(x, Ledger()).output.argmax(1), classes)
    np.testing.assert_array_equal(FixedNetwork.of(network.tensors(), network.describe()).infer(x).classes, classes)


def test_upper_layers_of_an_imported_network_are_trained_and_thresholds_stay():
    torch.manual_seed(0)
    network = network_from_brevitas(normalized(ACTIVATIONS["binary"]))
    before = {name: x.copy() for name, x in network.tensors().items()}
    rule, x = StraightThrough(), dyadic(np.random.default_rng(0), (50, 20), 10, 0.125)
    samples = Samples(x, np.arange(50) % 5)
    list(fit(network, rule, SGD(0.1), samples, epochs=2, batch=10))
    changed = {name for name, tensor in network.tensors().items() if not np.array_equal(tensor, before[name])}
    assert (
        {"output.bias", "output.weight_master"} <= changed <= {"output.bias", "output.weight_master", "output.weight"}
    )


@pytest.mark.parametrize("first", [nn.Linear(6, 5), QuantLinear(6, 5, weight_bit_width=4, bias=True)])
def test_batch_normalization_of_floats_is_multiplied_into_the_weights(first):
    torch.manual_seed(0)
    model = nn.Sequential(first, nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3), TensorNorm())
    for _ in range(5):
        model(torch.randn(50, 6) * 2)
    model.eval()
    with torch.no_grad():
        model[1].weight[:2] *= -1
    network = network_from_brevitas(model)
    x = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    np.testing.assert_allclose(network.forward(x, Ledger()).output, sent(model, x), atol=1e-5)
