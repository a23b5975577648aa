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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import gcd, lcm
from typing import Any

import numpy as np
import numpy.typing as npt

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
from .formats import MAX_TABLE_BITS, NAMED, FixedPoint, Format, Table, float32, parse, table
from .layers import Layer
from .links import Link
from .network import Network, layer_names
from .projections import Dense

Float32s = npt.NDArray[np.float32]
Step = Callable[[Float32s], npt.NDArray[Any]]
"""A quantizer as a function of float32 numbers [n]."""

ACTIVATION_MODULES: dict[str, type[torch.nn.Module]] = {
    a.name: getattr(torch.nn, a.torch_module) for a in ACTIVATIONS.values() if a.torch_module
}
"""Module of every activation that torch has, but the identity, by name."""

_TRANSPARENT = (torch.nn.Dropout, torch.nn.Identity, torch.nn.Flatten)
_UNDERSTOOD = (*_TRANSPARENT, *ACTIVATION_MODULES.values(), torch.nn.Linear, QuantNonLinearActLayer)
_PROBES = 64
_LARGEST = int(np.finfo(np.float32).max.view(np.int32))


def network_from_brevitas(module: torch.nn.Module, input_format: Format | str = float32) -> Network:
    """The multilayer perceptron `module`, as a `Network` that gives the same outputs as it does in evaluation mode.

    `module` is a chain of Linear, Tanh, Sigmoid, ReLU, their Brevitas versions, QuantIdentity and QuantHardTanh, and of
    Dropout, Identity and Flatten, which are left out. Its order is found by a call of `module` on random inputs.
    Weights, NumPy float32, are the quantized ones. `input_format` is how inputs are sent, unless `module` quantizes
    them itself. Layers have no feedback weights, and links carry float32 down. `module` is not changed. Raises
    ValueError, naming the module, for what a `Network` cannot represent.
    """
    model = copy.deepcopy(module).cpu().float().eval()
    given = parse(input_format) if isinstance(input_format, str) else input_format
    layers: list[Layer] = []
    formats: list[Format | None] = [None]
    for call in _chain(model):
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


def _chain(model: torch.nn.Module) -> list[_Call]:
    """The modules that `model` calls, in order, without those left out. ValueError if it computes anything else."""
    leaves = dict(_leaves(model, ""))
    width = next((leaf.in_features for leaf in leaves.values() if isinstance(leaf, torch.nn.Linear)), None)
    calls: list[_Call] = []
    value = probe = torch.randn(_PROBES, width or 1, generator=torch.Generator().manual_seed(0)) * 2

    def record(label: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            nonlocal value
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
        if not isinstance(leaf, _UNDERSTOOD) or not _is_of_a_library(leaf):
            raise ValueError(
                f"{label} has no counterpart in a Network; there are: Linear, Tanh, Sigmoid, ReLU, their Brevitas "
                "versions, QuantIdentity, QuantHardTanh, and Dropout, Identity and Flatten, which are left out"
            )
        leaf.register_forward_hook(record(label))
    with torch.no_grad():
        try:
            result = _tensor(model(probe))
        except RuntimeError as error:
            raise ValueError(
                f"the model cannot be run on {width} inputs, as many as the first Linear it lists takes: {error}"
            ) from error
    if not any(isinstance(call.module, torch.nn.Linear) for call in calls):
        raise ValueError("the model calls no Linear or QuantLinear module")
    if not _same(result, value):
        raise ValueError(f"what the model returns is not what its last module, {calls[-1].label}, gave")
    return [call for call in calls if not isinstance(call.module, _TRANSPARENT)]


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


def _layer(linear: torch.nn.Linear, received: Any) -> Layer:
    """A layer without a name, with the weights and biases that `linear` uses for an input like `received`."""
    weight: torch.Tensor = linear.weight
    bias: torch.Tensor | None = linear.bias
    if isinstance(linear, QuantLinear):
        received = linear.input_quant(linear.unpack_input(received))
        quantized = linear.quant_weight(received)
        weight = _tensor(quantized)
        bias = None if bias is None else _tensor(linear.bias_quant(bias, received, quantized))
    numbers = weight.detach().T.numpy().astype(np.float32, order="C")
    bias_numbers = np.zeros(numbers.shape[1]) if bias is None else bias.detach().numpy().copy()
    return Layer("", {"": Dense(numbers, bias_numbers.astype(np.float32))}, ACTIVATIONS["identity"])


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
    return next((fmt for fmt in _plain_formats(found, bits, scale.item()) if _send_alike(fmt, found)), found)


def _plain_formats(found: Table, bits: int, scale: float) -> Iterator[Format]:
    """Formats with shorter names that may be `found`."""
    yield from (fmt for fmt in NAMED.values() if isinstance(fmt, Table))
    signed, integer = found.values[0] < 0, bits + int(np.floor(np.log2(scale)))
    if bits > signed and abs(integer) <= 64:
        for rounding, overflow in product(("nearest-even", "floor"), ("saturate", "saturate-symmetric")):
            yield FixedPoint(bits, integer, rounding, overflow, signed)
    yield table(found.values)


def _send_alike(fmt: Format, found: Table) -> bool:
    """Whether `fmt` sends every float32 like `found`: both ascend, so it is enough to check the ends of its steps."""
    least = np.array(found.thresholds, np.float32)
    ends = np.concatenate([least, np.nextafter(least, np.float32(-np.inf)), np.array([-np.inf, np.inf], np.float32)])
    return np.array_equal(fmt.quantize(ends).astype(np.float32), found.quantize(ends).astype(np.float32))


def _table(step: Step, scale: float) -> Table:
    """The table of an ascending `step`, found by evaluating it; `scale` is the distance of the values to try."""
    low, high = step(_numbers(np.array([-_LARGEST, _LARGEST]))) / np.float32(scale)
    grid = (np.arange(4 * np.floor(low) - 4, 4 * np.ceil(high) + 5) / 4 * scale).astype(np.float32)
    values = np.unique(step(grid))
    while True:
        keys = _least(step, values[1:])
        seen = np.unique(np.concatenate([values, step(_numbers(keys)), step(_numbers(keys - 1))]))
        if len(seen) == len(values):
            break
        values = seen
    found = table((values + np.float32(0)).tolist(), _numbers(keys).tolist())
    if not np.array_equal(found.quantize(grid), step(grid)):
        raise ValueError("it does not ascend, or not always send the same number alike")
    return found


def _least(step: Step, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Index among the float32 of the least `x` for which the ascending `step(x) >= value`, for each of `values`."""
    below, reached = np.full(len(values), -_LARGEST), np.full(len(values), _LARGEST)
    while (reached - below > 1).any():
        middle = (below + reached) // 2
        enough = step(_numbers(middle)) >= values
        reached, below = np.where(enough, middle, reached), np.where(enough, below, middle)
    return reached


def _numbers(places: npt.NDArray[np.int64]) -> Float32s:
    """The float32 at indices `places`: 0 is zero, 1 the least above it, -1 the largest below it."""
    return np.copysign(np.abs(places).astype(np.int32).view(np.float32), places).astype(np.float32)


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
    thresholds = _numbers(_least(exact.quantize, np.array(exact.values[1:])))
    wanted = table(np.array(exact.values, np.float32).tolist(), thresholds.tolist())
    for quantizer in _candidates(wanted):
        if _send_alike(_format(quantizer.act_quant), wanted):
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
