"""A Brevitas model as a `Network`, and back, code for code.

    >>> from brevitas.nn import QuantIdentity
    >>> from brevitas.quant.binary import SignedBinaryActPerTensorConst
    >>> sign = QuantIdentity(act_quant=SignedBinaryActPerTensorConst)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), sign, torch.nn.Linear(3, 2))
    >>> network = network_from_brevitas(model, "ufixed(8,0)")
    >>> [f"{link.name} {link.forward}" for link in network.links]
    ['input-h1 ufixed(8,0)', 'h1-output binary']
    >>> [type(module).__name__ for module in network_to_brevitas(network)]
    ['QuantIdentity', 'QuantLinear', 'Tanh', 'QuantIdentity', 'QuantLinear']

An activation quantizer becomes the forward format of the link above, as in evaluation mode; the least float32 of every
code is found by evaluating the quantizer. Codes can still differ where a sum is within rounding of a threshold, since
the two add, and evaluate tanh, in different order; where sums are exact in float32 they cannot.

Training: the modules that `network_to_brevitas` makes pass gradients straight through, in and out of range, like the
rule `straight-through`. Brevitas' own activation quantizers differ in one point: by default they zero the gradient of
clipped numbers (`tensor_clamp_impl = TensorClamp`). Its binary quantizer, which is used here too, differs in another:
it multiplies gradients by its scale, so only `binary`, of scale 1, trains like the rule.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from math import gcd, lcm
from typing import Any

import numpy as np

try:
    import torch
    from brevitas.core.function_wrapper import TensorClampSte
    from brevitas.core.scaling import PowerOfTwoIntScaling
    from brevitas.inject.enum import RestrictValueType, ScalingImplType, ScalingPerOutputType
    from brevitas.nn import QuantIdentity, QuantLinear
    from brevitas.nn.quant_layer import QuantNonLinearActLayer
    from brevitas.quant.base import IntQuant
    from brevitas.quant.binary import SignedBinaryActPerTensorConst
    from brevitas.quant.solver import ActQuantSolver
except ImportError as error:
    message = "lowbit_dtp.brevitas_bridge needs torch and Brevitas: pip install lowbit-dtp[brevitas]"
    raise ImportError(message) from error

from .activations import ACTIVATIONS, Activation
from .choices import choose
from .folding import Function, NotWholeNumbersError, Product, Wire, exact_wire, folded, input_wire
from .formats import MAX_TABLE_BITS, Format, Table, float32, parse, table
from .layers import Layer
from .links import Link
from .network import Network, layer_names
from .projections import Dense
from .step_functions import LARGEST, Float32s, Step, least, named, numbers, sends_alike

ACTIVATION_MODULES: dict[str, type[torch.nn.Module]] = {
    a.name: getattr(torch.nn, a.torch_module) for a in ACTIVATIONS.values() if a.torch_module
}
"""Module of every activation that torch has, but the identity, by name."""

_TRANSPARENT = (torch.nn.Dropout, torch.nn.Identity, torch.nn.Flatten)
_UNDERSTOOD = (
    *_TRANSPARENT, *ACTIVATION_MODULES.values(), torch.nn.Linear, QuantNonLinearActLayer, torch.nn.BatchNorm1d
)  # fmt: skip
_PROBES = 64


def network_from_brevitas(module: torch.nn.Module, input_format: Format | str = float32) -> Network:
    """The multilayer perceptron `module`, as a `Network` that gives the same outputs as it does in evaluation mode.

    `module` is a chain of Linear, Tanh, Sigmoid, ReLU, their Brevitas versions, QuantIdentity and QuantHardTanh, and of
    Dropout, Identity and Flatten, which are left out. Its order is found by a call of `module` on random inputs.
    Weights, NumPy float32, are the quantized ones. `input_format` is how inputs are sent, unless `module` quantizes
    them itself. Layers have no feedback weights, and links carry float32 down. `module` is not changed. Raises
    ValueError, naming the module, for what a `Network` cannot represent.

    With BatchNorm1d or TensorNorm, and weights and signals of few bits, hidden layers have thresholds of whole numbers
    and no biases: see `folding`. Classes are then those of `module`, and outputs are its logits times a number above
    zero. With other weights, BatchNorm1d right after a Linear is multiplied into its weights.
    """
    model = copy.deepcopy(module).cpu().float().eval()
    given = parse(input_format) if isinstance(input_format, str) else input_format
    prepare, calls = _chain(model)
    if prepare is not None or any(_normalizes(call.module) for call in calls):
        try:
            return _in_whole_numbers(prepare, calls, given)
        except NotWholeNumbersError:
            if prepare is not None:
                raise
    layers: list[Layer] = []
    formats: list[Format | None] = [None]
    for call in calls:
        here = call.module
        if isinstance(here, torch.nn.Linear):
            _quantized(formats, getattr(here, "input_quant", None), call.label)
            layers.append(_layer(here, call.input))
            formats.append(None)
            _quantized(formats, getattr(here, "output_quant", None), call.label)
        elif isinstance(here, QuantNonLinearActLayer):
            _quantized(formats, here.input_quant, call.label)
            proxy = here.act_quant.fused_activation_quant_proxy
            _activated(layers, formats, proxy.activation_impl if proxy is not None else torch.nn.Identity(), call.label)
            _quantized(formats, here.act_quant, call.label)
        elif _normalizes(here):
            _normalized(layers, formats, here, call.label)
        else:
            _activated(layers, formats, here, call.label)
    if formats[-1] is not None or layers[-1].activation.name != "identity":
        raise ValueError(f"{call.label} comes after the last linear module; a Network's logits are the sums themselves")
    if formats[0] is not None and given != float32:
        raise ValueError(f"the model quantizes its inputs itself, to {formats[0]}; leave out input_format, {given}")
    formats[0] = formats[0] or given
    names = layer_names([layers[0].weight.shape[0], *(layer.neurons for layer in layers)])
    for layer, lower, upper in zip(layers, names, names[1:], strict=False):
        layer.name, layer.inputs = upper, {f"{lower}-{upper}": layer.projection}
    rows = zip(formats, names, names[1:], strict=False)
    return Network(layers, [Link(fmt or float32, float32, lower, upper) for fmt, lower, upper in rows])


def network_to_brevitas(network: Network) -> torch.nn.Sequential:
    """`network` as Brevitas modules, which give the same outputs and pass gradients straight through.

    Weights are float32 and not quantized; give a QuantLinear your own `weight_quant`. Feedback weights and formats
    are left out. Raises ValueError, naming the link, for a format that Brevitas cannot send.
    """
    modules: OrderedDict[str, torch.nn.Module] = OrderedDict()
    for link, layer in zip(network.links, network.layers, strict=True):
        if link.forward != float32:
            try:
                modules[link.name] = _quantizer(link.forward)
            except ValueError as error:
                raise ValueError(f"link {link.name}: {error}") from None
        weight, bias = (np.array(x, np.float32) for x in (layer.weight, layer.bias))
        if weight.ndim != 2:
            raise ValueError(f"layer {layer.name}: weights must be [below, neurons], not {list(weight.shape)}")
        linear = QuantLinear(*weight.shape, bias=True, weight_quant=None)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight.T.copy()))
            linear.bias.copy_(torch.from_numpy(bias))
        modules[layer.name] = linear
        if layer.activation.name != "identity":
            kind = choose(f"torch module for layer {layer.name}'s", layer.activation.name, ACTIVATION_MODULES)
            modules[f"{layer.name}-{layer.activation.name}"] = kind()
    return torch.nn.Sequential(modules)


@dataclass(frozen=True)
class _Call:
    """A module of the chain, and the input it was given: a tensor or a Brevitas QuantTensor."""

    label: str
    module: torch.nn.Module
    input: Any


def _chain(model: torch.nn.Module) -> tuple[Function | None, list[_Call]]:
    """What is computed of the inputs first, and the modules that `model` calls, in order, without those left out.

    The first is None, or a scale and an offset. ValueError if `model` computes anything else.
    """
    leaves = dict(_leaves(model, ""))
    width = next((leaf.in_features for leaf in leaves.values() if isinstance(leaf, torch.nn.Linear)), None)
    calls: list[_Call] = []
    hooks: list[Any] = []
    prepare: Function | None = None
    value = probe = torch.randn(_PROBES, width or 1, generator=torch.Generator().manual_seed(0)) * 2

    def record(label: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            nonlocal value, prepare
            if len(inputs) == 1 and not calls and (prepare := _scaling(probe, _tensor(inputs[0]))):
                value = _tensor(inputs[0])
            if len(inputs) != 1 or not _same(_tensor(inputs[0]), value):
                raise ValueError(
                    f"what {label} is given is not what the module before it gave; a model must be a chain of modules, "
                    "each function between them a module too"
                )
            calls.append(_Call(label, module, inputs[0]))
            value = _tensor(output)

        return hook

    for name, leaf in leaves.items():
        label = f"module {name!r} ({type(leaf).__name__})"
        if not (isinstance(leaf, _UNDERSTOOD) and _is_of_a_library(leaf)) and not _is_tensor_norm(leaf):
            raise ValueError(
                f"{label} has no counterpart in a Network; there are: Linear, Tanh, Sigmoid, ReLU, their Brevitas "
                "versions, QuantIdentity, QuantHardTanh, BatchNorm1d, TensorNorm, and Dropout, Identity and Flatten, "
                "which are left out"
            )
        hooks.append(leaf.register_forward_hook(record(label)))
    with torch.no_grad():
        try:
            result = _tensor(model(probe))
        except RuntimeError as error:
            raise ValueError(
                f"the model cannot be run on {width} inputs, as many as the first Linear it lists takes: {error}"
            ) from error
    for handle in hooks:
        handle.remove()
    if not any(isinstance(call.module, torch.nn.Linear) for call in calls):
        raise ValueError("the model calls no Linear or QuantLinear module")
    if not _same(result, value):
        raise ValueError(f"what the model returns is not what its last module, {calls[-1].label}, gave")
    return prepare, [call for call in calls if not isinstance(call.module, _TRANSPARENT)]


def _scaling(given: torch.Tensor, received: torch.Tensor) -> Function | None:
    """The function `factor * x + offset` that makes `received` of `given`; None if there is none, or none is needed."""
    if given.numel() != received.numel() or _same(given, received):
        return None
    x, y = (each.flatten().double().numpy() for each in (given, received))
    factor, offset = (np.float32(f"{number:.6g}") for number in np.polyfit(x, y, 1))

    def scaled(x: Float32s) -> Float32s:
        with np.errstate(over="ignore"):
            return x * factor + offset

    return scaled if np.array_equal(scaled(given.numpy().ravel()), received.numpy().ravel()) else None


def _is_tensor_norm(module: torch.nn.Module) -> bool:
    """Whether `module` is the normalization by two numbers that ends the multilayer perceptrons of Brevitas."""
    parts = {name: x.numel() for name, x in module.state_dict().items()}
    return type(module).__name__ == "TensorNorm" and parts == dict.fromkeys(
        ("weight", "bias", "running_mean", "running_var"), 1
    )


def _normalizes(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.BatchNorm1d) or _is_tensor_norm(module)


def _in_whole_numbers(prepare: Function | None, calls: list[_Call], given: Format) -> Network:
    """The network with thresholds. NotWholeNumbersError if it has other than few-bit weights and signals."""
    before: list[Function] = [] if prepare is None else [prepare]
    values: Float32s | None = None
    products: list[Product] = []
    functions, label = before, "inputs"
    wire: Wire | None = None

    def quantizes(proxy: Any) -> None:
        nonlocal values
        if proxy is not None and proxy.is_quant_enabled:
            functions.append(_function(proxy))
            values = _values(proxy, label)

    for call in calls:
        here, label = call.module, call.label
        if isinstance(here, torch.nn.Linear):
            quantizes(getattr(here, "input_quant", None))
            if products:
                products[-1] = replace(products[-1], values=values)
            elif values is not None:
                wire = input_wire(partial(_composed, before), values, "the quantizer of inputs")
            elif given == float32 or before:
                raise NotWholeNumbersError("nothing quantizes the inputs; give input_format, ufixed(8,0) say")
            else:
                wire = exact_wire(given, f"input_format {given}")
            weight, bias, bits = _weights(here, call.input)
            functions, values = [], None
            products.append(Product(label, weight.T.numpy(), functions, None, bits))
            if bias is not None:
                functions.append(partial(np.add, bias.numpy()))
            quantizes(getattr(here, "output_quant", None))
        else:
            if not products and isinstance(here, torch.nn.BatchNorm1d):
                raise ValueError(
                    f"{label} normalizes inputs, each in another way; a link has one format for all neurons"
                )
            functions.append(_function(here))
            if isinstance(here, QuantNonLinearActLayer) and here.act_quant.is_quant_enabled:
                values = _values(here.act_quant, label)
            elif values is not None:
                values = None if isinstance(here, torch.nn.BatchNorm1d) else functions[-1](values[:, None])[:, 0]
    assert wire is not None
    return folded(wire, products)


def _function(module: Any) -> Function:
    """`module` as a function of NumPy arrays."""

    def function(x: Float32s) -> Float32s:
        with torch.no_grad():
            made: Float32s = _tensor(module(torch.from_numpy(np.ascontiguousarray(x)))).numpy()
        return made

    return function


def _composed(functions: Sequence[Function], x: Float32s) -> Float32s:
    """`functions`, the first one first, of numbers [n]."""
    state = x[:, None]
    for function in functions:
        state = function(state)
    return state[:, 0]


def _values(proxy: Any, label: str) -> Float32s:
    """What Brevitas' activation quantizer `proxy` can give."""
    try:
        return np.array(_format(proxy).table().values, np.float32)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None


def _leaves(module: torch.nn.Module, name: str) -> Iterator[tuple[str, torch.nn.Module]]:
    """`module` itself if a library defines it, or if it has no parts; else its parts, by name."""
    children = dict(module.named_children())
    container = isinstance(module, torch.nn.Sequential | torch.nn.ModuleList | torch.nn.ModuleDict)
    if isinstance(module, _UNDERSTOOD) or (_is_of_a_library(module) and not container) or not children:
        yield name, module
    else:
        for child, part in children.items():
            yield from _leaves(part, f"{name}.{child}".lstrip("."))


def _is_of_a_library(module: torch.nn.Module) -> bool:
    return type(module).__module__.startswith(("torch.", "brevitas."))


def _tensor(x: Any) -> torch.Tensor:
    """The numbers of a tensor or a QuantTensor."""
    return x if isinstance(x, torch.Tensor) else x.value


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.numel() == b.numel() and torch.equal(a.flatten(), b.flatten())


def _weights(linear: torch.nn.Linear, received: Any) -> tuple[torch.Tensor, torch.Tensor | None, int]:
    """Weights [neurons, below] and biases that `linear` uses for an input like `received`, and the bits of a weight."""
    weight: torch.Tensor = linear.weight
    bias: torch.Tensor | None = linear.bias
    bits = 32
    if isinstance(linear, QuantLinear):
        received = linear.input_quant(linear.unpack_input(received))
        quantized = linear.quant_weight(received)
        weight = _tensor(quantized)
        bias = None if bias is None else _tensor(linear.bias_quant(bias, received, quantized))
        if linear.weight_quant.is_quant_enabled:
            bits = int(linear.weight_quant.bit_width().item())
    return weight.detach(), None if bias is None else bias.detach(), bits


def _layer(linear: torch.nn.Linear, received: Any) -> Layer:
    """A layer without a name, with the weights and biases that `linear` uses for an input like `received`."""
    weight, bias, _ = _weights(linear, received)
    matrix = weight.T.numpy().astype(np.float32, order="C")
    offset = np.zeros(matrix.shape[1]) if bias is None else bias.numpy().copy()
    return Layer("", {"": Dense(matrix, offset.astype(np.float32))}, ACTIVATIONS["identity"])


def _normalized(layers: list[Layer], formats: list[Format | None], module: torch.nn.Module, label: str) -> None:
    """Multiply the scale of a normalization into the weights of the top layer, and add its offset to the bias."""
    if not layers or formats[-1] is not None or layers[-1].activation.name != "identity":
        raise ValueError(f"{label} must come right after a linear module, whose weights its scale is multiplied into")
    ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, layers[-1].neurons)
    with torch.no_grad():
        offset, end = copy.deepcopy(module).double()(ends).numpy()
    weight, bias = layers[-1].weight, np.asarray(layers[-1].bias)
    layers[-1].weight = (weight * (end - offset)).astype(np.float32)
    layers[-1].bias = (bias * (end - offset) + offset).astype(np.float32)


def _activated(layers: list[Layer], formats: list[Format | None], module: torch.nn.Module, label: str) -> None:
    """Give the top layer the activation that `module` is."""
    if isinstance(module, torch.nn.Identity):
        return
    activation = _activation(module, label)
    if not layers or formats[-1] is not None or layers[-1].activation.name != "identity":
        raise ValueError(f"{label} must come right after a linear module, for its {activation.name} to be that layer's")
    layers[-1].activation = activation


def _activation(module: torch.nn.Module, label: str) -> Activation:
    for name, kind in ACTIVATION_MODULES.items():
        if isinstance(module, kind):
            return ACTIVATIONS[name]
    known = ", ".join([*ACTIVATION_MODULES, "identity"])
    raise ValueError(f"{label} computes {type(module).__name__}; a Network's activations are: {known}")


def _quantized(formats: list[Format | None], proxy: Any, label: str) -> None:
    """Set the format of the link above to that of Brevitas' activation quantizer `proxy`, if it quantizes."""
    if proxy is None or not proxy.is_quant_enabled:
        return
    if formats[-1] is not None:
        raise ValueError(f"{label} quantizes what is already {formats[-1]}; a link has one forward format")
    try:
        formats[-1] = _format(proxy)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None


def _format(proxy: Any) -> Format:
    """The format equal to Brevitas' activation quantizer `proxy`, with its shortest name."""
    quantize = proxy.fused_activation_quant_proxy.tensor_quant
    with torch.no_grad():
        told, again = (quantize(torch.full((1, 1), x)) for x in (0.0, 3.0))
    if len(told) != 4:
        raise ValueError("only Brevitas' binary, ternary and integer quantizers become a format")
    _, scale, _, bit_width = told
    if scale.numel() != 1:
        raise ValueError(f"a format has one scale for all neurons, not {scale.numel()}")
    if not torch.equal(scale, again[1]):
        raise ValueError("its scale depends on what it is given; a format is fixed")
    bits = int(bit_width.item())
    if bits > MAX_TABLE_BITS:
        raise ValueError(f"a format found by its thresholds has at most {MAX_TABLE_BITS} bits, not {bits}")

    def step(x: Float32s) -> Float32s:
        with torch.no_grad():
            sent: Float32s = quantize(torch.from_numpy(x))[0].numpy()
        return sent

    found = _table(step, scale.item())
    return named(found, bits, scale.item())


def _table(step: Step, scale: float) -> Table:
    """The table of an ascending `step`, found by evaluating it; `scale` is the distance of the values to try."""
    low, high = step(numbers(np.array([-LARGEST, LARGEST]))) / np.float32(scale)
    grid = (np.arange(4 * np.floor(low) - 4, 4 * np.ceil(high) + 5) / 4 * scale).astype(np.float32)
    values = np.unique(step(grid))
    while True:
        keys = least(step, values[1:])
        seen = np.unique(np.concatenate([values, step(numbers(keys)), step(numbers(keys - 1))]))
        if len(seen) == len(values):
            break
        values = seen
    found = table((values + np.float32(0)).tolist(), numbers(keys).tolist())
    if not np.array_equal(found.quantize(grid), step(grid)):
        raise ValueError("it does not ascend, or not always send the same number alike")
    return found


class _IntegerQuant(IntQuant, ActQuantSolver):
    """Brevitas' integer quantizer with a constant scale of `scaling_init / 2^(bit_width - signed)`."""

    scaling_impl_type = ScalingImplType.CONST
    scaling_per_output = ScalingPerOutputType.TENSOR
    restrict_scaling_type = RestrictValueType.FP
    int_scaling_impl = PowerOfTwoIntScaling  # a division by a power of two, so the scale is exact


class _Lookup(torch.autograd.Function):
    """`levels` by the number of `thresholds` at or below x; the gradient is that of the identity."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, levels: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
        return levels[torch.bucketize(x, thresholds, right=True)]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0], None, None


class _Comparators(torch.nn.Module):
    """A rounding for Brevitas' integer quantizer that counts thresholds, for formats which round otherwise."""

    def __init__(self, levels: list[int], thresholds: list[float]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.float32), persistent=False)
        self.register_buffer("thresholds", torch.tensor(thresholds, dtype=torch.float32), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Lookup.apply(x, self.levels, self.thresholds)


def _quantizer(fmt: Format) -> torch.nn.Module:
    """A QuantIdentity that sends what `fmt` sends."""
    exact = fmt.table()
    thresholds = numbers(least(exact.quantize, np.array(exact.values[1:])))
    wanted = table(np.array(exact.values, np.float32).tolist(), thresholds.tolist())
    for quantizer in _candidates(wanted):
        if sends_alike(_format(quantizer.act_quant), wanted):
            return quantizer
    raise ValueError(
        f"no Brevitas quantizer sends what {fmt} sends: it rounds x / scale, so values must be whole steps of one "
        "scale, and thresholds still be thresholds after the division"
    )


def _candidates(wanted: Table) -> Iterator[QuantIdentity]:
    """Brevitas quantizers that may be equal to `wanted`, the simplest first."""
    values = np.array(wanted.values, np.float32)
    if len(values) == 2 and values[0] == -values[1]:
        yield QuantIdentity(
            act_quant=SignedBinaryActPerTensorConst, scaling_init=values[1].item(), tensor_clamp_impl=TensorClampSte
        )
    for scale in dict.fromkeys((_common_step(wanted.values), np.abs(values[values != 0]).min().item())):
        levels = np.rint(values / scale, dtype=np.float64)
        low, high = int(levels[0]), int(levels[-1])
        signed = low < 0
        bits = max(high, -low - 1).bit_length() + signed
        if bits > MAX_TABLE_BITS:
            continue
        thresholds = (np.array(wanted.thresholds, np.float32) / np.float32(scale)).tolist()  # as Brevitas divides
        for rounding in ({}, {"float_to_int_impl": _Comparators(levels.astype(int).tolist(), thresholds)}):
            yield QuantIdentity(
                act_quant=_IntegerQuant,
                bit_width=bits,
                signed=signed,
                narrow_range=signed and low == 1 - 2 ** (bits - 1),
                scaling_init=scale * 2.0 ** (bits - signed),
                tensor_clamp_impl=TensorClampSte,
                **rounding,
            )


def _common_step(values: tuple[float, ...]) -> float:
    """Largest number of which all `values` are whole multiples."""
    exact = [Fraction(value) for value in values]
    return float(Fraction(gcd(*(x.numerator for x in exact)), lcm(*(x.denominator for x in exact))))
