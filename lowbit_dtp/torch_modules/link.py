"""A link as a torch module: quantizes activations on the way up and gradients on the way down, and counts both.

The module is one opaque operator of torch, so that autograd and torch.compile take it as it is; inside, `Link.send`
quantizes and counts, as in a `Network`: by compiled kernels for tensors in memory, by torch on a device.
"""

import itertools
import weakref
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch

from ..formats import float32
from ..ledger import Direction, Ledger
from ..links import Link
from ..randomness import RandomStream
from .quantizers import is_quantized, signal_format

MESSAGES = {
    "auto": "token for tensors [batch, tokens, width], sample for all others",
    "sample": "one message a sample, as wide as all the rest of the tensor",
    "token": "one message for each index but the last, as wide as the last axis",
}
"""What a message is, in tensors of more than two axes."""

_PURPOSES = {Direction.FORWARD: "activations", Direction.FEEDBACK: "error"}
"""As in the rule `straight-through`."""


@dataclass
class Books:
    """Where links count: a ledger for passes with gradients, and one for passes without."""

    training: Ledger = field(default_factory=Ledger)
    inference: Ledger = field(default_factory=Ledger)
    has_gradients: bool | None = None
    """Whether the present pass of the wired model is one with gradients; None outside of it."""
    samples: int = 1
    """Samples of the present pass: its gradients are those of a mean over them."""


class LinkModule(torch.nn.Module):
    """Sends what passes through over `link`, in both directions; the values are those that arrive.

    Gradients go straight through the quantization of activations, and are then quantized in the feedback format. A mean
    over a minibatch divides the gradient of each sample by their number; so gradients are multiplied by the number of
    samples before they are sent, and divided afterwards: few-bit formats mean the same as in the learning rules.
    `is_mean` False leaves that out, for a loss that is a sum.

    A QuantTensor of Brevitas stays one if the forward format is float32: what it stands for crosses, as whole numbers
    of its own width, and arrives as it was. With another forward format, a plain tensor arrives.

    Has no parameters and no state. Raises TypeError, naming the link, for tensors of whole numbers, and ValueError for
    NaN; on a device, when the ledger is read.
    """

    def __init__(self, link: Link, books: Books | None = None, messages: str = "auto", is_mean: bool = True) -> None:
        super().__init__()
        if messages not in MESSAGES:
            raise ValueError(f"messages must be one of {', '.join(MESSAGES)}, not {messages!r}")
        self.link, self.books = link, Books() if books is None else books
        self.messages, self.is_mean = messages, is_mean
        self._is_quantizers = False  # whether the forward format is that of a QuantTensor
        self._register()

    def _register(self) -> None:
        self._handle = next(_handles)
        _modules[self._handle] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._register()  # a copy is another link, and counts in a copy of the books

    def extra_repr(self) -> str:
        """Name and formats of the link."""
        return f"{self.link.name}: {self.link.forward}/{self.link.feedback}"

    def forward(self, x: Any) -> Any:
        """`x` [batch, ...], a tensor or QuantTensor, as it arrives."""
        if is_quantized(x):
            if self.link.forward != float32 and not self._is_quantizers:
                return self(x.value)
            if not self._is_quantizers or x.bit_width.requires_grad:
                self.link, self._is_quantizers = replace(self.link, forward=signal_format(x)), True
            return x.set(value=self._sent(x.value, x.scale.detach(), x.zero_point.detach()))
        if self._is_quantizers:  # which has been disabled
            self.link, self._is_quantizers = replace(self.link, forward=float32), False
        return self._sent(x)

    def _sent(self, x: torch.Tensor, *units: torch.Tensor) -> torch.Tensor:
        if not x.is_floating_point():
            raise TypeError(
                f"link {self.link.name}: the module gives {str(x.dtype).removeprefix('torch.')}, and links carry "
                "floating-point numbers; wire another module"
            )
        sent: torch.Tensor = _send(x, self._handle, torch.is_grad_enabled(), *units)
        return sent

    def send(
        self,
        x: torch.Tensor,
        direction: Direction,
        has_gradients: bool = True,
        scale: torch.Tensor | None = None,
        zero_point: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`x` after it has crossed, counted once: not again where a checkpoint computes activations a second time.

        `has_gradients` says whether there will be gradients, if the pass of the whole model does not. With `scale`, the
        whole numbers `x / scale + zero_point` cross, and `x` arrives.
        """
        books, fmt = self.books, self.link.format(direction)
        is_again = direction is Direction.FORWARD and torch._C._current_graph_task_id() != -1
        if direction is Direction.FORWARD and books.has_gradients is not None:
            has_gradients = books.has_gradients  # a checkpoint computes without gradients first
        ledger = Ledger() if is_again else books.training if has_gradients else books.inference
        factor = books.samples if direction is Direction.FEEDBACK and self.is_mean else 1
        numbers = x.detach() if scale is None or zero_point is None else x.detach() / scale + zero_point
        rows = numbers.to(torch.float32).reshape(self._shape(x)).contiguous()
        if factor != 1:
            rows = rows * factor
        stream = None
        if fmt.stochastic:  # whose seed is torch's: a checkpoint draws the same again
            stream = RandomStream(int(torch.randint(2**62, ()).item()))
        sent = self.link.send(
            rows.numpy() if rows.device.type == "cpu" else rows, direction, _PURPOSES[direction], ledger, stream
        )
        if fmt == float32 or scale is not None or x.numel() == 0:
            return x.clone()
        arrived: Any = sent.values
        values = torch.from_numpy(arrived) if rows.device.type == "cpu" else arrived
        # memory of its own: autograd allows no view that a later operation may change in place
        return torch.empty_like(x).copy_((values / factor if factor != 1 else values).reshape(x.shape))

    def _shape(self, x: torch.Tensor) -> tuple[int, int]:
        """[messages, width]."""
        if x.ndim == 0:
            return 1, 1
        by_token = self.messages == "token" or (self.messages == "auto" and x.ndim == 3)
        shape = tuple(x.shape) if x.ndim > 1 else (*x.shape, 1)
        return (prod(shape[:-1]), shape[-1]) if by_token else (shape[0], prod(shape[1:]))


_handles = itertools.count()
_modules: "weakref.WeakValueDictionary[int, LinkModule]" = weakref.WeakValueDictionary()
"""Every link that is alive, by the number that stands for it in an operator, which takes no objects."""


@torch.library.custom_op("lowbit_dtp::send", mutates_args=())
def _send(
    x: torch.Tensor,
    handle: int,
    has_gradients: bool,
    scale: torch.Tensor | None = None,
    zero_point: torch.Tensor | None = None,
) -> torch.Tensor:
    return _modules[handle].send(x, Direction.FORWARD, has_gradients, scale, zero_point)


@torch.library.custom_op("lowbit_dtp::send_back", mutates_args=())
def _send_back(gradient: torch.Tensor, handle: int) -> torch.Tensor:
    return _modules[handle].send(gradient, Direction.FEEDBACK)


@_send.register_fake
def _(
    x: torch.Tensor,
    handle: int,
    has_gradients: bool,
    scale: torch.Tensor | None = None,
    zero_point: torch.Tensor | None = None,
) -> torch.Tensor:
    return torch.empty_like(x)


@_send_back.register_fake
def _(gradient: torch.Tensor, handle: int) -> torch.Tensor:
    return torch.empty_like(gradient)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.handle = inputs[1]


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
    return _send_back(gradient, ctx.handle), None, None, None, None


_send.register_autograd(_backward, setup_context=_keep)
