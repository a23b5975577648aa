"""A link as a torch module: quantizes activations on the way up and gradients on the way down, and counts both.

The module is one opaque operator of torch, so that autograd and torch.compile take it as it is; inside, `Link.send`
quantizes and counts, as in a `Network`: by compiled kernels for tensors in memory, by torch on a device.
"""

import itertools
import weakref
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from ..formats import float32
from ..ledger import Direction, Ledger
from ..links import Link
from ..randomness import RandomStream
from .quantizers import is_quantized, signal_format

if TYPE_CHECKING:
    from .work import Passes

MESSAGES = {
    "auto": "token for tensors [batch, tokens, width], sample for all others",
    "sample": "one message a sample, as wide as all the rest of the tensor",
    "token": "one message for each index but the last, as wide as the last axis",
}
"""What a message is, in tensors of more than two axes."""

PURPOSES = {Direction.FORWARD: "activations", Direction.FEEDBACK: "error"}
"""As in the rule `straight-through`."""


@dataclass
class Books:
    """Where links count: a ledger for passes with gradients, and one for passes without."""

    training: Ledger = field(default_factory=Ledger)
    inference: Ledger = field(default_factory=Ledger)
    scaler: torch.amp.GradScaler | None = None
    """What multiplies the loss, and so all gradients, in mixed precision; None if nothing does."""
    has_gradients: bool | None = None
    """Whether the present pass of the wired model is one with gradients; None outside of it."""
    samples: int | None = None
    """Samples of the present or last pass: its gradients are those of a mean over them. None before the first."""
    work: "Passes | None" = None
    """Counts of operations and memory accesses; None if they are not counted."""


class LinkModule(torch.nn.Module):
    """Sends what passes through over `link`, in both directions; the values are those that arrive.

    Gradients go straight through the quantization of activations, and are then quantized in the feedback format. A mean
    over a minibatch divides the gradient of each sample by their number; so gradients are multiplied by the number of
    samples before they are sent, and divided afterwards: few-bit formats mean the same as in the learning rules.
    `is_mean` False leaves that out, for a loss that is a sum. Samples are those of the pass of the wired model, or the
    first axis of the tensor in a link that stands in a model by itself.

    A QuantTensor of Brevitas stays one if the forward format is float32: what it stands for crosses, as whole numbers
    of its own width, and arrives as it was. With another forward format, a plain tensor arrives.

    Has no parameters and no state. Raises TypeError, naming the link, for tensors of whole numbers, ValueError for NaN;
    on a device, when the ledger is read; and RuntimeError for gradients of gradients, which links do not carry.
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
        LINKS[self._handle] = self

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
            return x.set(value=self._arrived(x.value, x.scale.detach(), x.zero_point.detach()))
        if self._is_quantizers:  # which has been disabled
            self.link, self._is_quantizers = replace(self.link, forward=float32), False
        return self._arrived(x)

    def _arrived(self, x: torch.Tensor, *units: torch.Tensor) -> torch.Tensor:
        if not x.is_floating_point():
            raise TypeError(
                f"link {self.link.name}: the module gives {str(x.dtype).removeprefix('torch.')}, and links carry "
                "floating-point numbers; wire another module"
            )
        sent: torch.Tensor = _send(x, self._handle, torch.is_grad_enabled(), *units)[0]
        return sent

    def send_up(
        self,
        x: torch.Tensor,
        has_gradients: bool = True,
        scale: torch.Tensor | None = None,
        zero_point: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, int]:
        """Activations `x` after they have crossed, and how many samples their gradients are a mean over.

        They are counted once: not again where a checkpoint computes them a second time. `has_gradients` says whether
        there will be gradients, if the pass of the whole model does not. With `scale`, the whole numbers
        `x / scale + zero_point` cross, and `x` arrives.
        """
        books, is_again = self.books, torch._C._current_graph_task_id() != -1
        is_within = books.has_gradients is not None
        if books.has_gradients is not None:
            has_gradients = books.has_gradients  # a checkpoint computes without gradients first
        samples = books.samples if is_within or is_again else None
        ledger = Ledger() if is_again else books.training if has_gradients else books.inference
        if scale is None or zero_point is None:
            sent = self._sent(x, Direction.FORWARD, ledger)
        else:
            self._sent(x.detach() / scale + zero_point, Direction.FORWARD, ledger)
            sent = x.clone()
        return sent, samples or (len(x) if x.ndim else 1)

    def send_down(self, gradient: torch.Tensor, samples: int) -> torch.Tensor:
        """The `gradient` of a mean over so many samples after it has crossed."""
        factor, scaler = samples if self.is_mean else 1, self.books.scaler
        if scaler is None or scaler._scale is None:
            return self._sent(gradient, Direction.FEEDBACK, self.books.training, factor)
        is_finite = torch.isfinite(gradient)
        unscaled = torch.where(is_finite, gradient, 0.0).float() / scaler._scale  # get_scale() would wait
        sent = self._sent(unscaled, Direction.FEEDBACK, self.books.training, factor) * scaler._scale
        return torch.where(is_finite, sent.to(gradient.dtype), gradient)

    def _sent(self, x: torch.Tensor, direction: Direction, ledger: Ledger, factor: int = 1) -> torch.Tensor:
        """`x` after it has crossed, multiplied by `factor` on the way, and counted in `ledger`."""
        fmt = self.link.format(direction)
        rows = x.detach().to(torch.float32).reshape(self.message_shape(x)).contiguous()
        if factor != 1:
            rows = rows * factor
        stream = None
        if fmt.stochastic:  # whose seed is torch's: a checkpoint draws the same again
            stream = RandomStream(int(torch.randint(2**62, ()).item()))
        is_in_memory = rows.device.type == "cpu"
        sent = self.link.send(rows.numpy() if is_in_memory else rows, direction, PURPOSES[direction], ledger, stream)
        wire = self.link.name, direction
        if wire in ledger.wires:  # the last message alone: a view of it would keep all of them
            last: Any = ledger.wires[wire]
            ledger.wires[wire] = last.copy() if is_in_memory else last.clone()
        if x.numel() == 0 or (fmt == float32 and x.dtype != torch.float64):
            return x.clone()
        arrived: Any = sent.values
        values = torch.from_numpy(arrived) if is_in_memory else arrived
        # memory of its own: autograd allows no view that a later operation may change in place
        return torch.empty_like(x).copy_((values / factor if factor != 1 else values).reshape(x.shape))

    def message_shape(self, x: torch.Tensor) -> tuple[int, int]:
        """How many messages `x` is sent as, and their width."""
        if x.ndim == 0:
            return 1, 1
        by_token = self.messages == "token" or (self.messages == "auto" and x.ndim == 3)
        shape = tuple(x.shape) if x.ndim > 1 else (*x.shape, 1)
        return (prod(shape[:-1]), shape[-1]) if by_token else (shape[0], prod(shape[1:]))


_handles = itertools.count()
LINKS: "weakref.WeakValueDictionary[int, LinkModule]" = weakref.WeakValueDictionary()
"""Every link that is alive, by the number that stands for it in an operator, which takes no objects."""


# not in a recorded CUDA graph, which would not count when it is replayed
_OPERATOR: dict[str, Any] = {"mutates_args": (), "tags": torch.Tag.cudagraph_unsafe}


@torch.library.custom_op("lowbit_dtp::send", **_OPERATOR)
def _send(
    x: torch.Tensor,
    handle: int,
    has_gradients: bool,
    scale: torch.Tensor | None = None,
    zero_point: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    sent, samples = LINKS[handle].send_up(x, has_gradients, scale, zero_point)
    return sent, torch.tensor(samples)


@torch.library.custom_op("lowbit_dtp::send_back", **_OPERATOR)
def _send_back(gradient: torch.Tensor, samples: torch.Tensor, handle: int) -> torch.Tensor:
    return LINKS[handle].send_down(gradient, int(samples))  # a number in memory, on no device


@_send.register_fake
def _(
    x: torch.Tensor,
    handle: int,
    has_gradients: bool,
    scale: torch.Tensor | None = None,
    zero_point: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x), torch.empty((), dtype=torch.int64, device="cpu")


@_send_back.register_fake
def _(gradient: torch.Tensor, samples: torch.Tensor, handle: int) -> torch.Tensor:
    return torch.empty_like(gradient)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.handle = inputs[1]
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, gradient: torch.Tensor, _: Any) -> tuple[torch.Tensor, None, None, None, None]:
    [samples] = ctx.saved_tensors
    return _send_back(gradient, samples, ctx.handle), None, None, None, None


def _keep_handle(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, int], output: torch.Tensor) -> None:
    ctx.handle = inputs[2]


def _no_second(ctx: Any, gradient: torch.Tensor) -> None:
    name = LINKS[ctx.handle].link.name
    raise RuntimeError(f"link {name} carries gradients, but not gradients of gradients (create_graph=True)")


_send.register_autograd(_backward, setup_context=_keep)
_send_back.register_autograd(_no_second, setup_context=_keep_handle)
