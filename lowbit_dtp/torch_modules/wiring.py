"""Links on the outputs of modules of any torch model, by name; the model and its state dict stay as they are."""

import dataclasses
import difflib
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..formats import parse
from ..ledger import Ledger
from ..links import Link
from .link import Books, LinkModule
from .quantizers import is_quantized, quantizer


@dataclass(eq=False)
class WiredLedger(Ledger):
    """The ledger of a wired model: passes with gradients in itself, and those without in `inference`.

    Samples are the first axis of the first tensor that the model is given, summed over passes; a step is one of an
    optimizer that has a parameter of the model, however many passes it takes.
    """

    inference: Ledger = field(default_factory=Ledger)


_wired: "weakref.WeakKeyDictionary[torch.nn.Module, Books]" = weakref.WeakKeyDictionary()
"""Wired models, to count the steps of their optimizers."""


def _stepped(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Count a step for each wired model that `optimizer` trains."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for model, books in list(_wired.items()):
        if any(id(p) in trained for p in model.parameters()):
            books.training.steps += 1


register_optimizer_step_post_hook(_stepped)


def wire(
    model: torch.nn.Module,
    formats: Mapping[str, str],
    rest: str | None = None,
    *,
    messages: str = "auto",
    is_mean: bool = True,
) -> WiredLedger:
    """Put links on the outputs of modules of `model`, in place, and return the ledger in which they count.

    `formats` has, by name of a module as in `model.named_modules()`, or pattern (`layer*`, `blocks.[0-3]`), the formats
    of its link: "forward/feedback", or the forward one alone, with float32 as the other. A link has the name of its
    module. `rest` is the format of links on the outputs of the largest modules that are in none of them and have none
    of them in it; None for no other links. `messages` is one of `link.MESSAGES`; `is_mean` is as in `LinkModule`.

    A module that is called several times sends each time. Its output may be a tensor, a tuple or list, of which the
    first tensor is sent, or a mapping or dataclass, likewise. What a quantizer of Brevitas gives crosses in the
    quantizer's own format, unless a forward format other than float32 is given. Parameters, buffers and the state dict
    stay as they are.
    Wire before `torch.compile`.

    ValueError, naming the module, if there is none of that name, or two patterns name one, or the model is wired.
    """
    if _begin_of(model) is not None:
        raise ValueError(f"{type(model).__name__} is wired already; unwire it first")
    ledger = WiredLedger()
    books = Books(ledger, ledger.inference)
    for name, (forward, feedback) in _formats(model, formats, rest).items():
        link = LinkModule(Link(parse(forward), parse(feedback), label=name), books, messages, is_mean)
        quantizer(model.get_submodule(name)).register_forward_hook(_Sender(name, link))
    model.register_forward_pre_hook(_Begin(books), with_kwargs=True)
    model.register_forward_hook(_End(books), always_call=True)
    _wired[model] = books
    return ledger


def unwire(model: torch.nn.Module) -> None:
    """Take the links off `model`, in place. ValueError if it is not wired."""
    ledger_of(model)
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, _Begin | _End | _Sender)]:
                del hooks[key]
    _wired.pop(model, None)


def ledger_of(model: torch.nn.Module) -> WiredLedger:
    """The ledger of a wired model; a copy of a wired model has its own. ValueError if it is not wired."""
    begin = _begin_of(model)
    if begin is None:
        raise ValueError(f"{type(model).__name__} is not wired; wire(model, formats) returns its ledger")
    assert isinstance(begin.books.training, WiredLedger)
    return begin.books.training


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
        for name in named:
            if name in found:
                raise ValueError(f"module {name!r} is named by {pattern!r} and by another pattern; name it once")
            found[name] = _pair(spelled)
    if rest is not None:
        found |= {name: _pair(rest) for name in _others("", model, set(found))}
    made = {name: found[name] for name in known if name in found}
    modules = [model.get_submodule(name) for name in made]
    for name, module in zip(made, modules, strict=True):
        if modules.count(module) > 1:
            same = [other for other, x in zip(made, modules, strict=True) if x is module]
            raise ValueError(f"{' and '.join(map(repr, same))} are one module, shared; give {name!r} alone a link")
    return made


def _pair(spelled: str) -> tuple[str, str]:
    forward, _, feedback = spelled.partition("/")
    return forward or "float32", feedback or "float32"


def _others(name: str, module: torch.nn.Module, wired: set[str]) -> Iterator[str]:
    """Names of the largest modules below `module` that neither are in `wired`, nor in one of those, nor have one."""
    for short, child in module.named_children():
        full = f"{name}.{short}" if name else short
        if full in wired:
            continue
        if any(other.startswith(f"{full}.") for other in wired):
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
    _wired.setdefault(module, books)  # of a copy
    books.has_gradients = torch.is_grad_enabled()
    first = next(_tensors((args, kwargs)), None)
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
                setattr(output, each.name, made)
                return True, output
    elif isinstance(output, Mapping):
        for key, x in output.items():
            sent, made = _with_first_sent(x, link)
            if sent:
                return True, type(output)({**output, key: made})  # type: ignore[call-arg]
    return False, output
