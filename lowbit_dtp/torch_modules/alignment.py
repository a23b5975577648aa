"""Feedback alignment in torch models: layers whose input gradient goes through fixed random weights.

T. P. Lillicrap, D. Cownden, D. B. Tweed, C. J. Akerman, Random synaptic feedback weights support error backpropagation
for deep learning, Nature Communications 7:13276, 2016. Sign-concordant feedback: Q. Liao, J. Z. Leibo, T. Poggio, How
Important Is Weight Symmetry in Backpropagation?, AAAI 2016.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from ..choices import choose
from ..network import INITIALIZERS


def align(
    model: nn.Module,
    names: str = "*",
    *,
    seed: int = 0,
    feedback_weights: str = "orthogonal",
    is_sign_concordant: bool = False,
) -> list[str]:
    """Let linear and convolutional modules of `model` send gradients down through fixed weights, in place.

    `names` is the name of a module as in `model.named_modules()`, or a pattern. Each `nn.Linear`, `nn.Conv1d` and
    `nn.Conv2d` of such a name keeps its parameters, its hooks and its place in optimizers; only the gradient at its
    input changes: fixed weights B take the place of its weights W. B is drawn from `seed` and the name of the module,
    as `feedback_weights` says (one of `network.INITIALIZERS`, for the matrix [outputs, all the rest]), and is the
    buffer `feedback`, in the shape of W. It is not in the state dict, which stays as it is: align again with the same
    seed after loading. With `is_sign_concordant`, B has at each step the signs of W.

    Returns the names of the modules. ValueError if there are none, or one is aligned already.
    """
    choose("feedback_weights", feedback_weights, INITIALIZERS)
    found = {name: module for name, module in model.named_modules() if fnmatchcase(name, names)}
    for name, module in found.items():
        if isinstance(module, _Aligned):
            raise ValueError(f"module {name!r} is aligned already; unalign it first")
    swapped = {name: module for name, module in found.items() if type(module) in _KINDS}
    if not swapped:
        kinds = ", ".join(kind.__name__ for kind in _KINDS)
        there = [name for name, module in model.named_modules() if type(module) in _KINDS]
        raise ValueError(
            f"{names!r} names no {kinds} of {type(model).__name__}; there are: {', '.join(there) or 'none'}"
        )
    for name, module in swapped.items():
        weight: Any = module.weight
        drawn = INITIALIZERS[feedback_weights](len(weight), weight[0].numel(), seed, f"{name}.feedback")
        fixed = torch.from_numpy(drawn).reshape(weight.shape).to(weight)
        module.register_buffer("feedback", fixed.clone(memory_format=torch.contiguous_format), persistent=False)
        module.is_sign_concordant = is_sign_concordant
        module.__class__ = _KINDS[type(module)]
    return list(swapped)


def unalign(model: nn.Module) -> None:
    """Let the gradients of `model` go through the weights again, in place. ValueError if nothing in it is aligned."""
    aligned = [module for module in model.modules() if isinstance(module, _Aligned)]
    if not aligned:
        raise ValueError(f"nothing in {type(model).__name__} is aligned; align(model) does that")
    plain: dict[type[nn.Module], type[nn.Module]] = {swapped: kind for kind, swapped in _KINDS.items()}
    for module in aligned:
        del module.feedback, module.is_sign_concordant
        object.__setattr__(module, "__class__", plain[type(module)])


class _Aligned(nn.Module):
    """A module whose input gradient goes through the buffer `feedback`."""

    feedback: torch.Tensor
    is_sign_concordant: bool

    def _fixed(self, weight: torch.Tensor) -> torch.Tensor:
        return self.feedback.abs() * weight.detach().sign() if self.is_sign_concordant else self.feedback

    def _with_feedback(
        self, function: Callable[..., Any], x: torch.Tensor, bias: torch.Tensor | None, *details: Any
    ) -> torch.Tensor:
        weight: Any = self.weight
        given = x, weight, self._fixed(weight), bias
        if torch.is_autocast_enabled(x.device.type):  # as torch would cast them, which does not look into a Function
            dtype = torch.get_autocast_dtype(x.device.type)
            given = tuple(None if each is None else each.to(dtype) for each in given)  # type: ignore[assignment]
        made: torch.Tensor = function(*given, *details)
        return made


class AlignedLinear(_Aligned, nn.Linear):
    """`nn.Linear` with fixed feedback weights [outputs, inputs]."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`input` [..., inputs] times the weights."""
        return self._with_feedback(_Linear.apply, input, self.bias)


class _AlignedConv(_Aligned):
    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        conv: Any = self
        padding, x = conv.padding, input
        if conv.padding_mode != "zeros" or isinstance(padding, str):
            mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
            x = nn.functional.pad(x, conv._reversed_padding_repeated_twice, mode)
            padding = (0,) * len(conv.kernel_size)
        is_single = x.ndim == len(conv.kernel_size) + 1
        made = self._with_feedback(
            _Convolution.apply,
            x[None] if is_single else x,
            bias,
            list(conv.stride),
            list(padding),
            list(conv.dilation),
            conv.groups,
        )
        return made[0] if is_single else made


class AlignedConv1d(_AlignedConv, nn.Conv1d):
    """`nn.Conv1d` with fixed feedback weights, in the shape of its weights."""


class AlignedConv2d(_AlignedConv, nn.Conv2d):
    """`nn.Conv2d` with fixed feedback weights, in the shape of its weights."""


_KINDS: dict[type[nn.Module], type[_Aligned]] = {
    nn.Linear: AlignedLinear,
    nn.Conv1d: AlignedConv1d,
    nn.Conv2d: AlignedConv2d,
}
"""Class with fixed feedback weights for each class of modules; one of a subclass, which may do more, is left alone."""


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        x: torch.Tensor, weight: torch.Tensor, feedback: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        x, _, feedback, _ = inputs
        ctx.save_for_backward(x, feedback)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, feedback = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (
            gradient @ feedback if wanted[0] else None,
            rows.T @ x.reshape(-1, x.shape[-1]) if wanted[1] else None,
            None,
            rows.sum(0) if wanted[3] else None,
        )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        x: torch.Tensor,
        weight: torch.Tensor,
        feedback: torch.Tensor,
        bias: torch.Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> torch.Tensor:
        return torch.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        x, weight, feedback, _, *ctx.details = inputs
        ctx.save_for_backward(x, weight, feedback)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, feedback = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.details
        wanted = ctx.needs_input_grad

        def backward(through: torch.Tensor, mask: list[bool]) -> tuple[torch.Tensor | None, ...]:
            made: tuple[torch.Tensor | None, ...] = torch.ops.aten.convolution_backward(
                gradient, x, through, [len(weight)], stride, padding, dilation, False, [0] * len(stride), groups, mask
            )
            return made

        down = backward(feedback, [True, False, False])[0] if wanted[0] else None
        _, change, offset = backward(weight, [False, wanted[1], wanted[3]])
        return down, change, None, offset, None, None, None, None
