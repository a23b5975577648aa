"""Operations and memory accesses of a torch model, in the classes of the ledger.

The model runs once, forward and backward, on tensors without numbers (`FakeTensorMode`), so nothing is computed, no
weight is read or changed, and models of any size fit. A dispatch mode sees every operation below autograd. Products
(`torch.nn.Linear`, convolutions, attention) count the multiply-accumulates that torch's own FLOP counter knows, in the
formats of their operands: of the link that an input came over, of the weights, of the gradients that a link sent down.

What counts, for each product of a module:

| | operations | words |
|---|---|---|
| forward, `activations` | multiply-accumulate, add of a bias | `input`, `state` written and read, parameters read |
| backward, `error` | multiply-accumulate | `error` and weights read, `input gradient` written |
| backward, `gradient` | multiply-accumulate, add of a bias | `error` and `input` read, gradients read and written |
| optimizer, `update` | those of its rule | parameter, gradient and state |

A word of a weight is read once a sample, as by `Network`: positions of a convolution and tokens of a sequence share it.
So a chain of dense layers counts what `Network` counts under `straight-through`, but for the loss. `ELEMENTWISE` has
what other operations count in the forward pass; backward they are not counted, nor the words that they read and write,
as they can be fused with products.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.func import functional_call
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

from ..choices import choose
from ..counts import Counts
from ..events import Access, Direction, MessageType, Work
from ..formats import Format, parse
from ..ledger import Ledger
from ..optimizers import SGD, Adam, Optimizer, RMSprop
from .link import LINKS, PURPOSES, LinkModule

ROOT, LOSS = "model", "loss"
"""Layers of what the model computes outside its modules, and of the loss."""

ELEMENTWISE: dict[str, tuple[str, ...]] = {
    "tanh": ("tanh",),
    "sigmoid": ("exp",),
    "exp": ("exp",),
    "silu": ("exp", "multiply"),
    "gelu": ("tanh", "multiply", "add"),
    "elu": ("exp",),
    "softplus": ("exp", "add"),
    "_softmax": ("exp", "add", "divide"),
    "_log_softmax": ("exp", "add", "divide"),
    "_safe_softmax": ("exp", "add", "divide"),
    "add": ("add",),
    "sub": ("add",),
    "rsub": ("add",),
    "mul": ("multiply",),
    "pow": ("multiply",),
    "div": ("divide",),
    "sqrt": ("square-root",),
    "rsqrt": ("square-root", "divide"),
    "native_layer_norm": ("multiply", "multiply", "add", "add", "add"),
    "native_group_norm": ("multiply", "multiply", "add", "add", "add"),
    "native_batch_norm": ("multiply", "multiply", "add", "add", "add"),
    "_native_batch_norm_legit": ("multiply", "multiply", "add", "add", "add"),
    "_native_batch_norm_legit_no_training": ("multiply", "add"),
    "cudnn_batch_norm": ("multiply", "multiply", "add", "add", "add"),
    "_fused_rms_norm": ("multiply", "multiply", "multiply", "add"),
}
"""Operations for each number of the result, by the name of the function in torch. Variance is a square and a sum."""

REDUCTIONS: dict[str, tuple[str, ...]] = {
    "sum": ("add",),
    "mean": ("add",),
    "var": ("multiply", "add"),
    "avg_pool2d": ("add",),
    "_adaptive_avg_pool2d": ("add",),
    "max_pool2d_with_indices": ("add",),
}
"""Operations for each number that goes in. A comparison counts as an addition: a comparator subtracts."""

KEEPING = ("clone", "_to_copy", "cat", "stack", "max_pool2d_with_indices", "index_select", "gather", "copy")
"""Functions whose results have only values that their operands have, so that the format stays."""

_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"  # torch's FLOP counter does not know it
_FORMULAS: dict[str, Callable[..., int]] = {
    _ATTENTION: lambda q, k, v, *_, **__: sdpa_flop_count(q.shape, k.shape, v.shape),
    f"{_ATTENTION}_backward": lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(g.shape, q.shape, k.shape, v.shape),
}
_OPERANDS = {
    "mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2), "convolution": (0, 1), "_convolution": (0, 1),
    "cudnn_convolution": (0, 1), "_scaled_dot_product_efficient_attention": (0, 1),
    "_scaled_dot_product_flash_attention": (0, 1), "_scaled_dot_product_cudnn_attention": (0, 1), _ATTENTION: (0, 1),
}  # fmt: skip
"""Where the two operands of a product are among the arguments; of attention, the queries and keys."""
_BIAS = {"addmm": 0, "baddbmm": 0, "convolution": 2, "_convolution": 2}
_ATTENTION_BACKWARD = [f"{name}_backward" for name in _OPERANDS if name.startswith("_scaled")]
_SENDING = {
    torch.ops.lowbit_dtp.send.default: Direction.FORWARD,
    torch.ops.lowbit_dtp.send_back.default: Direction.FEEDBACK,
}
_RULES: dict[str, Callable[[Mapping[str, Any]], Optimizer]] = {
    "SGD": lambda settings: SGD(1.0, momentum=settings.get("momentum", 0.0)),
    "Adam": lambda settings: Adam(1.0),
    "AdamW": lambda settings: Adam(1.0),
    "RMSprop": lambda settings: RMSprop(1.0),
}
"""Rules of `lowbit_dtp.optimizers` whose operations are counted for torch's optimizers."""


@dataclass(frozen=True)
class _Product:
    """A product of the forward pass, which its gradients belong to."""

    layer: str
    weight: str = ""
    """Name of the parameter; empty if both operands are activations."""
    bias: str = ""
    macs: int = 0
    """Multiply-accumulates. A gradient of a convolution has as many; torch's counter has too many for groups."""


class Meter(TorchDispatchMode):
    """A dispatch mode that counts in `ledger` what a model computes, and the messages on its links.

    `names` has the name of each module, and `parameters` the tensors that the model computes with, by name; they are
    given `samples` samples. `weight_formats` has formats of parameters that are not those of their type, by name.
    """

    def __init__(
        self,
        names: Mapping[torch.nn.Module, str],
        parameters: Mapping[str, torch.Tensor],
        ledger: Ledger,
        samples: int,
        weight_formats: Mapping[str, Format | str] | None = None,
    ) -> None:
        super().__init__()
        self.ledger, self.samples, self._names = ledger, samples, names
        for name in weight_formats or {}:
            choose("parameter", name, parameters)
        self._weight_formats = {
            name: parse(fmt) if isinstance(fmt, str) else fmt for name, fmt in (weight_formats or {}).items()
        }
        self._sizes = {name: tuple(x.shape) for name, x in parameters.items()}
        self._types = {name: _type(x) for name, x in parameters.items()}
        self._trained = {name for name, x in parameters.items() if x.requires_grad}
        self._stack: list[str] = []
        self._products: dict[int, _Product] = {}  # by the number that autograd gives to a node
        self._biased: set[int] = set()
        self._formats, self._parameters, self._inputs = (WeakIdKeyDictionary() for _ in range(3))  # by storage
        for name, x in parameters.items():
            self._parameters.setdefault(x.untyped_storage(), name)

    @property
    def layer(self) -> str:
        """Name of the module that computes; `LOSS` outside of the model."""
        return self._stack[-1] if self._stack else LOSS

    def _sent(self, module: LinkModule, x: torch.Tensor, direction: Direction) -> None:
        """Count the messages of `x` on a link, and take `x` to have values of its format."""
        fmt, (messages, width) = module.link.format(direction), module.message_shape(x)
        purpose = PURPOSES[direction]
        kind = MessageType(module.link.name, direction, purpose, fmt.name, fmt.bits, width, fmt.scale_bits(width))
        self.ledger.crossed(kind, messages, 0, 0)
        self._formats[x.untyped_storage()] = fmt.name, fmt.bits

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count in the block, as layers the modules that are called in it."""

        def enter(module: torch.nn.Module, inputs: Any) -> None:
            if module in self._names:
                self._stack.append(self._names[module])

        def leave(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            if module in self._names:
                self._stack.pop()

        hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        node = torch._C._current_autograd_node()
        if func in _SENDING:
            is_up = _SENDING[func] is Direction.FORWARD
            link, sent = (LINKS[args[1]], out[0]) if is_up else (LINKS[args[2]], out)
            if node is None or not is_up:  # a checkpoint sends nothing again
                self._sent(link, sent, _SENDING[func])
            else:
                self._formats[sent.untyped_storage()] = (fmt := link.link.forward).name, fmt.bits
            return out
        backward = node is not None and not self._stack  # in a module, a checkpoint computes its forward pass again
        if backward:
            self._backward(func, name, args, kwargs, out, node._sequence_nr())
        elif name in _OPERANDS:
            self._forward(func, name, args, kwargs, out)
        else:
            self._elementwise(name.rstrip("_"), args, out)
        self._pass_on(func, name, args, out, backward)
        return out

    def _forward(self, func: Any, name: str, args: tuple, kwargs: dict, out: Any) -> None:
        attention = name.startswith("_scaled")
        operands = list(args[:3]) if attention else [args[i] for i in _OPERANDS[name]]
        weight = "" if attention else next(filter(None, map(self._parameter, operands)), "")
        bias = self._parameter(args[_BIAS[name]]) if name in _BIAS and args[_BIAS[name]] is not None else ""
        result = out[0] if isinstance(out, tuple) else out
        layer, purpose, (number, _) = self.layer, "activations", self._format(result)
        sources = [x for x in operands if not weight or self._parameter(x) != weight] or operands[:1]
        for x in sources:
            self._inputs[x.untyped_storage()] = True
            for operation in ("write", "read"):
                self._buffer(layer, "input", operation, x, purpose)
        right = self._number(weight)[0] if weight else self._format(operands[1])[0]
        macs = _macs(func, args, kwargs, out)
        self.ledger.worked(Work(layer, purpose, "multiply-accumulate", self._format(sources[0])[0], right), macs)
        if weight:
            self._words(weight, "", "read", self._once_a_sample(weight), purpose, layer)
        if name in _BIAS and args[_BIAS[name]] is not None:
            self.ledger.worked(Work(layer, purpose, "add", number), result.numel())
        if bias:
            self._words(bias, "", "read", self._once_a_sample(bias), purpose, layer)
        if attention:
            self._work(ELEMENTWISE["_softmax"], "softmax", number, prod(args[0].shape[:-1]) * args[1].shape[-2])
        for operation in ("write", "read"):
            self._buffer(layer, "state", operation, result, purpose)
        self._products[torch._C._autograd._get_sequence_nr() - 1] = _Product(layer, weight, bias, macs)

    def _backward(self, func: Any, name: str, args: tuple, kwargs: dict, out: Any, sequence: int) -> None:
        product = self._products.get(sequence)
        if product is None:
            return
        if name == "convolution_backward":
            gradient, x, wanted = args[0], args[1], args[-1]
            for i in (0, 1):
                if wanted[i]:
                    self._gradient(product, gradient, None if i == 0 else x, product.macs, out[i])
            self._bias_gradient(product, gradient, sequence)
        elif name in _OPERANDS:
            operands = [args[i] for i in _OPERANDS[name]]
            others = [x for x in operands if not product.weight or self._parameter(x) != product.weight]
            gradient = next((x for x in others if x.untyped_storage() not in self._inputs), others[-1])
            x = next((x for x in others if x is not gradient), None)
            self._gradient(product, gradient, x, _macs(func, args, kwargs, out), out)
            self._bias_gradient(product, gradient, sequence)
        elif name in _ATTENTION_BACKWARD:
            left, right = self._format(args[0])[0], self._format(args[1])[0]
            macs = _macs(func, args, kwargs, out)
            self.ledger.worked(Work(product.layer, "error", "multiply-accumulate", left, right), macs)
            self._buffer(product.layer, "error", "read", args[0], "error")
            for x, result in zip(args[1:4], out[:3], strict=True):
                self._buffer(product.layer, "input", "read", x, "error")
                self._buffer(product.layer, "input gradient", "write", result, "error")

    def _gradient(
        self, product: _Product, gradient: torch.Tensor, x: torch.Tensor | None, macs: int, out: torch.Tensor
    ) -> None:
        """Count a product of the backward pass: of a gradient with a weight, or with an activation `x`."""
        layer, left = product.layer, self._format(gradient)[0]
        purpose = "gradient" if product.weight and x is not None else "error"
        self._buffer(layer, "error", "read", gradient, purpose)
        if x is not None:
            self._buffer(layer, "input", "read", x, purpose)
        if product.weight and x is not None:
            work = Work(layer, purpose, "multiply-accumulate", self._format(x)[0], left)
            for operation in ("read", "write"):
                self._words(product.weight, " gradient", operation, self._once_a_sample(product.weight), purpose, layer)
        else:
            right = self._number(product.weight)[0] if x is None else self._format(x)[0]
            work = Work(layer, purpose, "multiply-accumulate", left, right)
            if x is None:
                self._words(product.weight, "", "read", self._once_a_sample(product.weight), purpose, layer)
            self._buffer(layer, "input gradient", "write", out, purpose)
        self.ledger.worked(work, macs)

    def _bias_gradient(self, product: _Product, gradient: torch.Tensor, sequence: int) -> None:
        """Count the gradient of a bias, once for each product."""
        if product.bias in self._trained and sequence not in self._biased:
            self._biased.add(sequence)
            self.ledger.worked(Work(product.layer, "gradient", "add", self._format(gradient)[0]), gradient.numel())
            for operation in ("read", "write"):
                words = self._once_a_sample(product.bias)
                self._words(product.bias, " gradient", operation, words, "gradient", product.layer)

    def _elementwise(self, name: str, args: tuple, out: Any) -> None:
        """Count an operation of the forward pass that is no product, and the words of the parameters in it."""
        result = out[0] if isinstance(out, tuple | list) else out
        if not isinstance(result, torch.Tensor) or not result.is_floating_point():
            return
        purpose = "softmax" if "softmax" in name else "activations"
        if name in ELEMENTWISE:
            self._work(ELEMENTWISE[name], purpose, self._format(result)[0], result.numel())
        elif name in REDUCTIONS:
            self._work(REDUCTIONS[name], purpose, self._format(result)[0], args[0].numel())
        given = [x for x in tree_leaves(args) if isinstance(x, torch.Tensor)]
        if name not in (*ELEMENTWISE, "embedding") or all(map(self._parameter, given)):
            return
        for parameter in filter(None, map(self._parameter, given)):
            words = result.numel() if name == "embedding" else self._once_a_sample(parameter)
            self._words(parameter, "", "read", words, purpose, self.layer)
            if parameter in self._trained and torch.is_grad_enabled():
                self._work(("add",), "gradient", self._number(parameter)[0], words)
                for operation in ("read", "write"):
                    self._words(parameter, " gradient", operation, words, "gradient", self.layer)

    def _pass_on(self, func: Any, name: str, args: tuple, out: Any, backward: bool) -> None:
        """Pass formats on to copies, and names of parameters to what is computed from a parameter alone."""
        results = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        given = [x for x in tree_leaves(args) if isinstance(x, torch.Tensor) and x.is_floating_point()]
        if func._schema.is_mutable:
            for x in results:
                self._formats.pop(x.untyped_storage(), None)
            return
        storages = {id(x.untyped_storage()) for x in given}
        made = [x for x in results if id(x.untyped_storage()) not in storages]
        formats = {self._formats.get(x.untyped_storage()) for x in given}
        if name in KEEPING and len(formats) == 1 and (kept := formats.pop()):
            for x in made:
                self._formats[x.untyped_storage()] = kept
        names = {self._parameter(x) for x in given if x.numel() > 1}
        if not backward and name not in _OPERANDS and len(names) == 1 and (parameter := names.pop()):
            for x in made:
                if x.numel() == prod(self._sizes[parameter]):
                    self._parameters[x.untyped_storage()] = parameter

    def _parameter(self, x: torch.Tensor) -> str:
        """Name of the parameter that `x` is, or is computed from; empty if it is none."""
        name: str = self._parameters.get(x.untyped_storage(), "")
        return name

    def _number(self, parameter: str) -> tuple[str, int]:
        """Name and bits of the format of a parameter."""
        fmt = self._weight_formats.get(parameter)
        return self._types[parameter] if fmt is None else (fmt.name, fmt.bits)

    def _format(self, x: torch.Tensor) -> tuple[str, int]:
        """Name and bits of the format of activations or gradients."""
        known: tuple[str, int] | None = self._formats.get(x.untyped_storage())
        return _type(x) if known is None else known

    def _once_a_sample(self, parameter: str) -> int:
        return self.samples * prod(self._sizes[parameter])

    def _work(self, operations: Sequence[str], purpose: str, number: str, times: int) -> None:
        for operation in operations:
            self.ledger.worked(Work(self.layer, purpose, operation, number), times)

    def _buffer(self, layer: str, array: str, operation: str, x: torch.Tensor, purpose: str) -> None:
        """Count an access to all of `x`, activations or gradients, of which the buffer `array` holds a sample."""
        number, bits = self._format(x)
        held = -(-x.numel() // self.samples)
        self.ledger.accessed(Access(layer, array, operation, number, bits, held * bits, purpose), x.numel())

    def _words(self, parameter: str, suffix: str, operation: str, words: int, purpose: str, layer: str) -> None:
        """Count accesses to a parameter; with a suffix, to its gradient, which is of the parameter's type."""
        number = self._types[parameter] if suffix else self._number(parameter)
        self.ledger.accessed(
            _parameter_access(layer, parameter, suffix, operation, number, self._sizes[parameter], purpose), words
        )


def count_update(
    ledger: Ledger, parameters: Mapping[str, torch.Tensor], optimizer: str, settings: Mapping[str, Any], steps: int = 1
) -> None:
    """Count `steps` updates of the `parameters` that are trained, by torch's optimizer of the class `optimizer`.

    `settings` are those of the optimizer. ValueError if the operations of the optimizer are not known.
    """
    rule = choose("optimizer", optimizer, _RULES)(settings)
    for name, x in parameters.items():
        if not x.requires_grad:
            continue
        layer, number, size = name.rpartition(".")[0] or ROOT, _type(x), x.numel()
        for operation, times in rule.operations.items():
            ledger.worked(Work(layer, "update", operation, number[0]), size * times * steps)
        arrays = [("", "read", 1), ("", "write", 1), (" gradient", "read", 1)]
        if rule.state_words:
            arrays += [(" optimizer state", operation, rule.state_words) for operation in ("read", "write")]
        for suffix, operation, each in arrays:
            access = _parameter_access(layer, name, suffix, operation, number, tuple(x.shape), "update")
            ledger.accessed(access, size * each * steps)


def eager(model: torch.nn.Module) -> torch.nn.Module:
    """The module that `torch.compile` or DistributedDataParallel has wrapped; else `model`."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, torch.nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def count_work(
    model: torch.nn.Module,
    inputs: Sequence[Any],
    keywords: Mapping[str, Any] | None = None,
    *,
    loss: Callable[[Any], torch.Tensor] | None = None,
    gradients: bool = True,
    weight_formats: Mapping[str, Format | str] | None = None,
) -> Ledger:
    """The ledger of one pass of `model` over `inputs`, forward and, with `gradients`, backward: work, accesses, links.

    `inputs` and `keywords` are what the model is called with; numbers in their tensors do not matter, and they may be
    on the meta device, as may the model. `loss` has the loss of the model's output; by default, gradients come to all
    outputs from outside, and the loss is not counted. Ones and toggles are 0. `weight_formats` are as in `Meter`.

    Hooks are called if they are of torch, of this library or of Brevitas; others could keep what they see.

    Samples are counted by the first axis of the first tensor. ValueError if the model cannot run without numbers.
    """
    model = eager(model)
    tensors = [x for x in tree_leaves((inputs, keywords)) if isinstance(x, torch.Tensor) and x.ndim]
    if not tensors:
        raise ValueError("the model is given no tensor with an axis of samples, so its work cannot be counted")
    samples = int(tensors[0].shape[0])
    ledger = Ledger(steps=1, samples=samples, batch=samples if gradients else 0)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, torch.Tensor] = {}

    def without_numbers(x: torch.Tensor) -> torch.Tensor:
        if id(x) not in made:
            device = "cpu" if x.device.type == "meta" else x.device
            made[id(x)] = torch.empty(x.shape, dtype=x.dtype, device=device, requires_grad=x.requires_grad)
        return made[id(x)]

    with fake, torch.enable_grad() if gradients else torch.no_grad():
        parameters = {name: without_numbers(x) for name, x in model.named_parameters()}
        tied = {name: without_numbers(x) for name, x in model.named_parameters(remove_duplicate=False)}
        held = tied | {name: without_numbers(x) for name, x in model.named_buffers(remove_duplicate=False)}
        arguments, named = tree_map_only(torch.Tensor, without_numbers, (tuple(inputs), dict(keywords or {})))
        names = {module: name or ROOT for name, module in model.named_modules()}
        meter = Meter(names, parameters, ledger, samples, weight_formats)
        try:
            with _without_hooks_of_others(model), meter.counting():
                functional_call(
                    _Pass(model, loss, gradients), {f"model.{name}": x for name, x in held.items()}, arguments, named
                )
        except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException) as error:
            why = f"{type(error).__name__}: {error}".rstrip(": ")
            raise ValueError(
                f"what {type(model).__name__} computes depends on numbers, not on shapes: {why}"
            ) from error
    return ledger


@dataclass
class Passes:
    """Counts of the passes of a wired model and of the steps of its optimizers, each kind counted once, by itself."""

    weight_formats: Mapping[str, Format | str]
    passes: dict[Any, Counts] = field(default_factory=dict)
    steps: dict[Any, Counts] = field(default_factory=dict)

    def count_pass(
        self, model: torch.nn.Module, args: tuple, keywords: Mapping, ledger: Ledger, is_trained: bool
    ) -> None:
        """Count a pass of `model`, without the messages of its links.

        Passes over tensors of equal shapes count the same. Warns if a pass cannot be counted, and then counts nothing.
        """
        leaves = [(x.shape, x.dtype) if isinstance(x, torch.Tensor) else type(x) for x in tree_leaves((args, keywords))]
        key = (*leaves, is_trained, model.training, torch.is_autocast_enabled())
        if key not in self.passes:
            self.passes[key] = Counts()
            try:
                once = count_work(model, args, keywords, gradients=is_trained, weight_formats=self.weight_formats)
            except Exception as error:  # of any operation of a model that does not work without numbers
                why = f"operations and memory accesses of {type(model).__name__} are not counted: {error}"
                warnings.warn(f"{why}; wire(model, ..., work=False) leaves them out", stacklevel=2)
            else:
                self.passes[key] = Counts(work=once.work, accesses=once.accesses)
        ledger.counts.repeat(self.passes[key])

    def count_step(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, ledger: Ledger) -> None:
        """Count a step of `optimizer`. Warns if its operations are not known, and then counts nothing."""
        settings = optimizer.param_groups[0]
        key = type(optimizer), settings.get("momentum")
        if key not in self.steps:
            trained = {id(x) for group in optimizer.param_groups for x in group["params"]}
            parameters = {name: x for name, x in model.named_parameters() if id(x) in trained}
            once = Ledger()
            try:
                count_update(once, parameters, type(optimizer).__name__, settings)
            except ValueError as error:
                warnings.warn(f"updates of {type(model).__name__} are not counted: {error}", stacklevel=2)
            self.steps[key] = once.counts
        ledger.counts.repeat(self.steps[key])


@contextmanager
def _without_hooks_of_others(model: torch.nn.Module) -> Iterator[None]:
    """Take off hooks that are of neither torch nor a library that computes by them: some keep the tensors they see."""
    held = [hooks for x in model.modules() for hooks in (x._forward_hooks, x._forward_pre_hooks) if hooks]
    before = [dict(hooks) for hooks in held]
    for hooks in held:
        for key, hook in list(hooks.items()):
            if getattr(hook, "__module__", "").partition(".")[0] not in ("torch", "lowbit_dtp", "brevitas"):
                del hooks[key]
    try:
        yield
    finally:
        for hooks, all_of_them in zip(held, before, strict=True):
            hooks.clear()
            hooks.update(all_of_them)


class _Pass(torch.nn.Module):
    """A model with its loss and, with `gradients`, its backward pass, in which a checkpoint computes again."""

    def __init__(self, model: torch.nn.Module, loss: Callable[[Any], torch.Tensor] | None, gradients: bool) -> None:
        super().__init__()
        self.model, self.loss, self.gradients = model, loss, gradients

    def forward(self, *inputs: Any, **keywords: Any) -> None:
        """A pass; gradients come to all outputs from outside if there is no loss."""
        output = self.model(*inputs, **keywords)
        ends = [
            x for x in tree_leaves(output if self.loss is None else self.loss(output)) if isinstance(x, torch.Tensor)
        ]
        ends = [x for x in ends if x.requires_grad]
        if self.gradients and ends:
            torch.autograd.backward(ends, [torch.empty_like(x) for x in ends])


def _macs(func: Any, args: tuple, kwargs: Mapping[str, Any], out: Any) -> int:
    """Multiply-accumulates of a product, half of its FLOPs."""
    name = func._schema.name.partition("::")[2]
    if name in _FORMULAS:
        return _FORMULAS[name](*args, **kwargs) // 2
    return int(flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)) // 2


def _parameter_access(
    layer: str, parameter: str, suffix: str, operation: str, number: tuple[str, int], shape: tuple[int, ...],
    purpose: str,
) -> Access:  # fmt: skip
    array = parameter.rpartition(".")[2] + suffix
    return Access(layer, array, operation, *number, prod(shape) * number[1], purpose)


def _type(x: torch.Tensor) -> tuple[str, int]:
    """Name and bits of the type of numbers."""
    return str(x.dtype).removeprefix("torch."), x.dtype.itemsize * 8
