"""Feedback alignment in any torch model: input gradients through fixed random weights instead of the forward ones.

T. P. Lillicrap, D. Cownden, D. B. Tweed, C. J. Akerman, Random synaptic feedback weights support error backpropagation
for deep learning, Nature Communications 7:13276, 2016; with signs: Q. Liao, J. Z. Leibo, T. Poggio, How important is
weight symmetry in backpropagation?, AAAI 2016.
"""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

import torch
from torch import nn
from torch.nn import functional

ALIGNED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Kinds of modules that `align` takes."""


def align(
    model: nn.Module, names: Sequence[str] = ("*",), *, seed: int = 0, has_signs: bool = False
) -> dict[str, torch.Tensor]:
    """Give linear and convolutional modules of `model` fixed feedback weights, in place; returns these by name.

    `names` are names or patterns as in `model.named_modules()`; what a pattern names that is neither linear nor a
    convolution stays as it is. The feedback weights have the shape of `weight`, and are drawn as torch draws that, from
    `seed` and the name of the module: they are no part of the state dict, which does not change, and the same call
    makes them again. With `has_signs` they take on, in each step, the signs of the weights.

    The gradient of a weight is that of backpropagation for the error that its module gets.

    ValueError if a name names no such module, or a module is aligned already.
    """
    modules = {name: x for name, x in model.named_modules() if isinstance(x, ALIGNED)}
    chosen: dict[str, Any] = {}
    for pattern in names:
        found = {name: x for name, x in modules.items() if fnmatchcase(name, pattern)}
        if not found:
            near = difflib.get_close_matches(pattern, modules, 4, 0.4) or list(modules)[:8]
            raise ValueError(
                f"no linear or convolutional module {pattern!r} in {type(model).__name__}; there are, for example: "
                f"{', '.join(near)}"
            )
        chosen |= found
    for name, module in chosen.items():
        if _is_aligned(module):
            raise ValueError(f"module {name!r} is aligned already; unalign the model first")
        if getattr(module, "padding_mode", "zeros") != "zeros":
            raise ValueError(f"module {name!r} pads with {module.padding_mode!r}; only zeros can be aligned")
    made = {}
    for name, module in chosen.items():
        made[name] = module.feedback_weight = _drawn(module, name, seed)
        module.feedback_has_signs = has_signs
        module.forward = _Forward(module)
    return made


def unalign(model: nn.Module) -> None:
    """Let aligned modules of `model` learn by backpropagation again, in place."""
    for module in model.modules():
        if _is_aligned(module):
            del module.forward, module.feedback_weight, module.feedback_has_signs


def _is_aligned(module: nn.Module) -> bool:
    return isinstance(module.__dict__.get("forward"), _Forward)


def _drawn(module: Any, name: str, seed: int) -> torch.Tensor:
    """Weights like those of `module`: uniform up to 1 / sqrt(inputs of a neuron)."""
    key = int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 1
    weight: torch.Tensor = module.weight
    limit = weight[0].numel() ** -0.5
    drawn = torch.empty(weight.shape).uniform_(-limit, limit, generator=torch.Generator().manual_seed(key))
    return drawn.to(weight.device, weight.dtype)


class _Forward:
    """The forward method of an aligned module."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        module = self.module
        feedback = module.feedback_weight.to(module.weight)
        if module.feedback_has_signs:
            feedback = feedback.abs() * module.weight.detach().sign()
        options: tuple[Any, ...] = ()
        if not isinstance(module, nn.Linear):
            options = (module.stride, module.padding, module.dilation, module.groups)
            if isinstance(module.padding, str):
                options = (module.stride, _padding(module), module.dilation, module.groups)
        made: torch.Tensor = _Aligned.apply(x, module.weight, feedback, module.bias, options)  # type: ignore[no-untyped-call]
        return made


def _padding(module: Any) -> list[int]:
    """`same` or `valid` padding in numbers."""
    if module.padding == "valid":
        return [0] * len(module.kernel_size)
    sizes = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if any(size % 2 for size in sizes):
        raise ValueError("padding 'same' of an even kernel is not the same on both sides, and cannot be aligned")
    return [size // 2 for size in sizes]


class _Aligned(torch.autograd.Function):
    """A product, whose input gradient goes through the feedback weights."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        feedback: torch.Tensor,
        bias: torch.Tensor | None,
        options: tuple[Any, ...],
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, feedback)
        ctx.options, ctx.has_bias = options, bias is not None
        if not options:
            return functional.linear(x, weight, bias)
        stride, padding, dilation, groups = options
        none = [0] * len(stride)
        made: torch.Tensor = torch.ops.aten.convolution(x, weight, bias, stride, padding, dilation, False, none, groups)
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        x, weight, feedback = ctx.saved_tensors
        by_input, by_weight, *_ = ctx.needs_input_grad
        own, below, bias = None, None, None
        if not ctx.options:
            rows = gradient.reshape(-1, gradient.shape[-1])
            below = gradient @ feedback if by_input else None
            own = rows.T @ x.reshape(-1, x.shape[-1]) if by_weight else None
            bias = rows.sum(0) if ctx.has_bias else None
        else:
            stride, padding, dilation, groups = ctx.options
            sizes, none = [weight.shape[0]] if ctx.has_bias else None, [0] * len(stride)
            backward = torch.ops.aten.convolution_backward
            rest = (sizes, stride, padding, dilation, False, none, groups)
            below = backward(gradient, x, feedback, *rest, [by_input, False, False])[0] if by_input else None
            _, own, bias = backward(gradient, x, weight, *rest, [False, by_weight, ctx.has_bias])
        return below, own, None, bias, None
