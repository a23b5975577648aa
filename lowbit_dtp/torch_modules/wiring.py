"""Links on the outputs of modules of any torch model, by name; the model and its state dict stay as they are."""

import dataclasses
import difflib
import sys
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..formats import Format, parse
from ..ledger import Ledger
from ..links import Link
from .link import Books, LinkModule
from .quantizers import is_quantized, quantizer
from .work import Passes


@dataclass(eq=False)
class WiredLedger(Ledger):
    """The ledger of a wired model: passes with gradients in itself, and those without in `inference`.

    Samples are the first axis of the first tensor that the model is given, summed over passes; a step is one of an
    optimizer that has a parameter of the model, however many passes it takes.
    """

    inference: Ledger = field(default_factory=Ledger)

    def over_ranks(self, group: "torch.distributed.ProcessGroup | None" = None) -> "WiredLedger":
        """The sum over the replicas of DistributedDataParallel, the same on each rank, all of which must call this.

        Traffic, work and samples add up; a step and a run of all replicas are one. Ledgers are exchanged as JSON-like
        objects, so with the backend `nccl` the current device must be the rank's.
        """
        parts: list[Any] = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(parts, [self.as_dict(), self.inference.as_dict()], group)
        together = WiredLedger()
        wholes: tuple[Ledger, Ledger] = together, together.inference
        for i, (whole, own) in enumerate(zip(wholes, (self, self.inference), strict=True)):
            for part in parts:
                whole += Ledger.from_dict(part[i])
            whole.runs, whole.epochs, whole.steps = own.runs, own.epochs, own.steps
        together.batch = sum(training["batch"] for training, _ in parts)
        return together


_wired: "weakref.WeakKeyDictionary[torch.nn.Module, Books]" = weakref.WeakKeyDictionary()
"""Wired models, to count the steps of their optimizers."""


def _stepped(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Count a step for each wired model that `optimizer` trains."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for model, books in list(_wired.items()):
        if any(id(p) in trained for p in model.parameters()):
            books.training.steps += 1
            if books.work is not None:
                books.work.count_step(model, optimizer, books.training)


register_optimizer_step_post_hook(_stepped)


def wire(
    model: torch.nn.Module,
    formats: Mapping[str, str],
    rest: str | None = None,
    *,
    messages: str = "auto",
    is_mean: bool = True,
    scaler: torch.amp.GradScaler | None = None,
    work: bool = True,
    weight_formats: Mapping[str, Format | str] | None = None,
) -> WiredLedger:
    """Put links on the outputs of modules of `model`, in place, and return the ledger in which they count.

    `formats` has, by name of a module as in `model.named_modules()`, or pattern (`layer?`, `blocks.[0-3]`; a `*` stands
    for dots, too), the formats of its link: "forward/feedback", or the forward one alone, with float32 as the other. A
    link has the name of its module; a module of several names, the first. `rest` is the format of links on the outputs
    of the largest modules that are in none of them and have none of them in it; None for no other links. `messages` is
    one of `link.MESSAGES`; `is_mean` is as in `LinkModule`. `scaler`, where training has one, takes its scale off
    gradients while they cross; those that overflowed arrive as they are, for it to skip the step.

    A module that is called several times sends each time. Its output may be a tensor, a tuple or list, of which the
    first tensor is sent, or a mapping or dataclass, likewise. What a quantizer of Brevitas gives crosses in the
    quantizer's own format, unless a forward format other than float32 is given. Parameters, buffers and the state dict
    stay as they are. What `torch.compile` has made of the model before is compiled again; its links are not for
    `fullgraph`.

    Unless `work` is False, operations and memory accesses of the model and of its optimizers are counted too: see
    `work`, also for `weight_formats`. The first pass over tensors of new shapes takes longer for it. The loss is not
    counted.

    ValueError, naming the module, if there is none of that name, or two patterns name one, or it is a container that
    is never called (`ModuleList`), or the model is wired.
    """
    if _begin_of(model) is not None:
        raise ValueError(f"{type(model).__name__} is wired already; unwire it first")
    ledger = WiredLedger()
    books = Books(ledger, ledger.inference, scaler, work=Passes(weight_formats or {}) if work else None)
    for name, (forward, feedback) in _formats(model, formats, rest).items():
        link = LinkModule(Link(parse(forward), parse(feedback), label=name), books, messages, is_mean)
        quantizer(model.get_submodule(name)).register_forward_hook(_Sender(name, link))
    model.register_forward_pre_hook(_Begin(books), with_kwargs=True)
    model.register_forward_hook(_End(books), always_call=True)
    _wired[model] = books
    _forget_compiled()
    return ledger


def unwire(model: torch.nn.Module) -> None:
    """Take the links off `model`, in place. ValueError if it is not wired."""
    ledger_of(model)
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, _Begin | _End | _Sender)]:
                del hooks[key]
    _wired.pop(model, None)
    _forget_compiled()


def ledger_of(model: torch.nn.Module) -> WiredLedger:
    """The ledger of a wired model; a copy of a wired model has its own. ValueError if it is not wired."""
    begin = _begin_of(model)
    if begin is None:
        raise ValueError(f"{type(model).__name__} is not wired; wire(model, formats) returns its ledger")
    assert isinstance(begin.books.training, WiredLedger)
    return begin.books.training


def _forget_compiled() -> None:
    """Have torch compile again: it does not look for hooks that came or went since."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def _begin_of(model: torch.nn.Module) -> "_Begin | None":
    return next((hook for hook in model._forward_pre_hooks.values() if isinstance(hook, _Begin)), None)


def _formats(model: torch.nn.Module, given: Mapping[str, str], rest: str | None) -> dict[str, tuple[str, str]]:
    """Formats in both directions for each module that gets a link, in the order of the model."""
    known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    found: dict[str, tuple[str, str]] = {}
    for pattern, spelled in given.items():
        named = [name for name in known if fnmatchcase(name, pattern)]
        if not named:
            near = difflib.get_close_matches(pattern, known, 4, 0.4) or known[:8]
            raise ValueError(
                f"no module {pattern!r} in {type(model).__name__}; there are, for example: {', '.join(near)}"
            )
        called = [name for name in named if _is_called(model.get_submodule(name))]
        if not called:
            raise ValueError(
                f"module {named[0]!r} is a {type(model.get_submodule(named[0])).__name__}, which is never called and "
                f"gives no output; name the modules in it: '{named[0]}.*'"
            )
        for name in called:
            if name in found:
                raise ValueError(f"module {name!r} is named by {pattern!r} and by another pattern; name it once")
            found[name] = _pair(spelled)
    if rest is not None:
        taken = {model.get_submodule(name) for name in found}
        others = _others("", model, set(found))
        found |= {name: _pair(rest) for name in others if model.get_submodule(name) not in taken}
    made: dict[torch.nn.Module, str] = {}
    for name in (name for name in known if name in found):
        first = made.setdefault(model.get_submodule(name), name)
        if found[name] != found[first]:
            raise ValueError(f"{first!r} and {name!r} are one module, shared, and must have the same formats")
    return {name: found[name] for name in made.values()}


def _is_called(module: torch.nn.Module) -> bool:
    """Whether the module is more than a container of others."""
    return type(module).forward is not torch.nn.Module.forward


def _pair(spelled: str) -> tuple[str, str]:
    forward, _, feedback = spelled.partition("/")
    return forward or "float32", feedback or "float32"


def _others(name: str, module: torch.nn.Module, wired: set[str]) -> Iterator[str]:
    """Names of the largest modules below `module` that neither are in `wired`, nor in one of those, nor have one."""
    for short, child in module.named_children():
        full = f"{name}.{short}" if name else short
        if full in wired:
            continue
        if not _is_called(child) or any(other.startswith(f"{full}.") for other in wired):
            yield from _others(full, child, wired)
        else:
            yield full


@dataclass
class _Begin:
    """Notes what a pass of the model is, before it."""

    books: Books

    def __call__(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _begin(module, self.books, args, kwargs)


@dataclass
class _End:
    """Ends the pass, even if it failed."""

    books: Books

    def __call__(self, *_: Any) -> None:
        _end(self.books)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _begin(module: torch.nn.Module, books: Books, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if torch._C._current_graph_task_id() != -1:  # a checkpoint around the whole model computes it again
        return
    first = next(_tensors((args, kwargs)), None)
    if isinstance(first, FakeTensor):  # a pass that `count_work` makes, in which nothing is sent
        return
    _wired.setdefault(module, books)  # of a copy
    is_trained = torch.is_grad_enabled()
    if books.work is not None:
        book = books.training if is_trained else books.inference
        books.work.count_pass(module, args, kwargs, book, is_trained)
    books.has_gradients = is_trained
    books.samples = len(first) if first is not None and first.ndim else 1
    ledger = books.training if books.has_gradients else books.inference
    ledger.samples += books.samples
    ledger.batch = max(ledger.batch, books.samples) if books.has_gradients else ledger.batch


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _end(books: Books) -> None:
    books.has_gradients = None


def _tensors(x: Any) -> Iterator[torch.Tensor]:
    """The tensors in `x`, and in the containers that it is of, in order."""
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, Mapping):
        for value in x.values():
            yield from _tensors(value)
    elif isinstance(x, list | tuple):
        for value in x:
            yield from _tensors(value)


@dataclass
class _Sender:
    """A forward hook that sends the output of a module over a link."""

    name: str
    link: LinkModule

    def __call__(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        sent, made = _with_first_sent(output, self.link)
        if not sent:
            raise TypeError(
                f"module {self.name!r} gives {type(output).__name__}, in which there is no tensor to send; "
                "wire one whose output is a tensor, or a tuple, list, mapping or dataclass of tensors"
            )
        return made


def _with_first_sent(output: Any, link: LinkModule) -> tuple[bool, Any]:
    """Whether there is a tensor in `output`, and `output` with the first one sent."""
    if isinstance(output, torch.Tensor) or is_quantized(output):
        return True, link(output)
    if isinstance(output, tuple | list):
        for i, x in enumerate(output):
            sent, made = _with_first_sent(x, link)
            if sent:
                parts = [*output[:i], made, *output[i + 1 :]]
                return True, type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        for each in dataclasses.fields(output):
            sent, made = _with_first_sent(getattr(output, each.name), link)
            if sent:
                if output.__dataclass_params__.frozen:  # type: ignore[attr-defined]
                    return True, dataclasses.replace(output, **{each.name: made})
                setattr(output, each.name, made)
                return True, output
    elif isinstance(output, Mapping):
        for key, x in output.items():
            sent, made = _with_first_sent(x, link)
            if sent:
                return True, type(output)({**output, key: made})  # type: ignore[call-arg]
    return False, output
