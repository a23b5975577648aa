"""What the quantizers of a Brevitas model tell: the formats of its signals, weights and biases.

Brevitas is not imported: its tensors and modules are known by what they have.
"""

from typing import Any

import torch

from ..formats import Format, parse


def is_quantized(x: Any) -> bool:
    """Whether `x` is a QuantTensor of whole numbers: a value, its scale, its zero point and its width."""
    return getattr(x, "_fields", ())[:4] == ("value", "scale", "zero_point", "bit_width")


def signal_format(x: Any) -> Format:
    """The format of the whole numbers `x.value / x.scale + x.zero_point` of the QuantTensor `x`."""
    return _whole(int(x.bit_width), bool(x.signed))


def quantizer(module: torch.nn.Module) -> torch.nn.Module:
    """The part of `module` that gives its output as a QuantTensor; `module` itself if none does.

    A Brevitas module unpacks the output of its quantizer, unless it has `return_quant_tensor`.
    """
    for name in ("act_quant", "output_quant"):
        part = getattr(module, name, None)
        if isinstance(part, torch.nn.Module) and getattr(part, "is_quant_enabled", False):
            return module if getattr(module, "return_quant_tensor", False) else part
    return module


def parameter_formats(model: torch.nn.Module) -> dict[str, Format]:
    """Formats of the weights and biases of `model` that Brevitas quantizes, by name of the parameter.

    A width that a bias takes from its input's and weight's is known in a pass alone, and left out.
    """
    found: dict[str, Format] = {}
    for prefix, module in model.named_modules():
        start = f"{prefix}." if prefix else ""
        weights: Any = getattr(module, "weight_quant", None)
        biases: Any = getattr(module, "bias_quant", None)
        if getattr(weights, "is_quant_enabled", False):
            with torch.no_grad():
                bits = int(weights.bit_width())
            found[f"{start}weight"] = _whole(bits, bool(weights.is_signed), bool(weights.is_narrow_range))
        if getattr(biases, "is_quant_enabled", False) and getattr(module, "bias", None) is not None:
            width = getattr(biases.quant_injector, "bit_width", None)
            if width is not None:
                found[f"{start}bias"] = _whole(int(width), True)
    return found


def _whole(bits: int, signed: bool, narrow: bool = False) -> Format:
    """Whole numbers of so many bits; -1 and 1 for one bit with a sign. `narrow` leaves out the lowest."""
    if signed and bits == 1:
        return parse("binary")
    if signed and narrow:
        return parse("ternary" if bits == 2 else f"symmetric({bits},{bits})")
    return parse(f"{'fixed' if signed else 'ufixed'}({bits},{bits})")
