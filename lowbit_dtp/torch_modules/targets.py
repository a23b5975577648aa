"""Target propagation for sequential torch models, convolutional ones say: stages that learn from links alone.

The rules are those for networks, `rules.DTP` and `rules.LDRL` say, whose layers are stages of torch modules here.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, ClassVar

import torch
from torch import nn

from ..activations import ACTIVATIONS, Activation
from ..backends import Array
from ..choices import choose
from ..layers import Layer
from ..ledger import Direction, Ledger
from ..links import Link, Signal
from ..network import Edge, Network, layer_names
from ..projections import Projection, Slot
from ..randomness import RandomStream
from ..rules.rule import BOTH, LearningRule, StepContext
from ..rules.target_prop import TargetRule
from ..tasks import Classify, Task

RULES = ("target-prop", "dtp", "sdtp", "drl", "l-drl", "straight-through")
"""Rules that can train stages."""
PHASES = (BOTH, "inverse", "forward")
"""What a step learns: everything, or only decoders, or only stages."""

_ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardtanh, nn.Identity
)  # fmt: skip
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool1d, nn.AvgPool1d)


class StagedModel:
    """A sequential model as stages, which learn by targets that cross links; and the decoders that give the targets.

    A stage begins at each child of `model` that has parameters, and takes the children after it that have none; those
    before the first belong to the first. `sample_shape` is the shape of one input. `links` are the links below each
    stage, or the formats "forward/feedback" of all but the lowest one, which then carries float32. Stages and links
    have the names of a `Network`: h1, h2, ..., output; input-h1, h1-h2, ...

    `decoders` are modules from the output of a stage to that of the stage below, lowest first, for the links that
    `rule` sends targets over; None derives them (see `decoder_of`), drawn from `seed`, with the rule's setting
    `decoder` as activation. The state that crosses a link is all of a sample in one message.

    Nothing but `Signal`s of links crosses from one stage to another: no graph of autograd does.
    ValueError, naming the stage or the rule, for what cannot be.
    """

    def __init__(
        self,
        model: nn.Sequential,
        sample_shape: Sequence[int],
        rule: LearningRule,
        links: str | Sequence[Link] = "float32/float32",
        *,
        decoders: Sequence[nn.Module] | None = None,
        task: Task | None = None,
        seed: int = 0,
    ) -> None:
        choose("rule for stages", rule.name, dict.fromkeys(RULES))
        self.model, self.rule, self.seed = model, rule, seed
        self.task = task or Classify()
        self.ledger, self.inference = Ledger(), Ledger()
        self.step = 0
        stages, shapes = _stages(model, tuple(sample_shape))
        sizes = list(map(prod, shapes))
        chain = _links(links, sizes)
        layers = []
        for link, stage, below, above in zip(chain, stages, shapes, shapes[1:], strict=False):
            layers.append(_Stage(link.upper, {link.name: _Modules(stage, below, above, Direction.FORWARD, "forward")}))
        self.network = Network(list(layers), chain)
        edges = self.network.edges
        routes = rule.routes(self.network) if isinstance(rule, TargetRule) else []
        if decoders is None:
            decoders = [self._derived(stages, shapes, edges.index(route)) for route in routes]
        if len(decoders) != len(routes):
            raise ValueError(f"rule {rule.name} needs {len(routes)} decoders, one for each of its links "
                f"({', '.join(route.link.name for route in routes)}), not {len(decoders)}")  # fmt: skip
        self.decoders = nn.ModuleList(decoders)
        for route, decoder in zip(routes, decoders, strict=True):
            i = edges.index(route)
            _check(route, decoder, shapes[i + 1], shapes[i])
            layers[i - 1].inputs[route.link.name] = _Modules(
                decoder, shapes[i + 1], shapes[i], Direction.FEEDBACK, "decoder"
            )

    def _derived(self, stages: Sequence[nn.Sequential], shapes: Sequence[tuple[int, ...]], i: int) -> nn.Module:
        """A decoder for the stage `i`, with the activation that the rule says."""
        assert isinstance(self.rule, TargetRule)
        activation: nn.Module | None = None
        if not self.rule.decoder:
            activation = next((m for m in reversed(list(stages[i - 1].modules())) if isinstance(m, _ACTIVATIONS)), None)
        elif (kind := ACTIVATIONS[self.rule.decoder].torch_module) is not None:
            activation = getattr(nn, kind)()
        like = next(self.model.parameters())
        with torch.random.fork_rng(devices=[like.device] if like.is_cuda else []):
            torch.manual_seed(self.seed * len(stages) + i)
            return decoder_of(stages[i], shapes[i], activation).to(like)

    def learn(self, inputs: torch.Tensor, target: torch.Tensor, epoch: float = 0.0, phase: str = BOTH) -> Any:
        """Add the gradients of a minibatch to `.grad` of the parameters, of the mean over it; the loss, or None.

        `inputs` [batch, *sample_shape]; `target` is that of the task: labels [batch]. `phase` is one of `PHASES`.
        Traffic, samples and steps count in `ledger`, where a sample is one of a phase that is not "inverse".
        """
        choose("phase", phase, dict.fromkeys(PHASES))
        context = StepContext(epoch, phase, RandomStream(self.seed, self.step), self.task)
        made = self.rule.step(self.network, inputs.detach().flatten(1), target, self.ledger, context)
        parameters = self.parameters()
        for key, gradient in made.gradients.items():
            parameter, x = parameters[key], torch.as_tensor(gradient)
            parameter.grad = x if parameter.grad is None else parameter.grad + x
        self.step += 1
        self.ledger.steps += 1
        if phase != "inverse":
            self.ledger.samples += len(inputs)
        self.ledger.batch = max(self.ledger.batch, len(inputs))
        return made.loss

    @torch.no_grad()
    def infer(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs [batch, outputs] over the links; counted in `inference`."""
        self.inference.samples += len(inputs)
        x: Any = inputs.flatten(1)
        outputs: Any = self.network.forward(x, self.inference, RandomStream(self.seed, self.step)).output
        return torch.as_tensor(outputs)

    def parameters(self) -> dict[tuple[str, str], nn.Parameter]:
        """Every parameter of stages and decoders, by stage and name."""
        return {
            (layer.name, name): parameter
            for layer in self.network.layers
            for projection in layer.inputs.values()
            for name, parameter in _modules(projection).parameters.items()
        }


def decoder_of(stage: nn.Module, shape: Sequence[int], activation: nn.Module | None = None) -> nn.Sequential:
    """A decoder for `stage`, whose inputs have `shape`: its modules in reverse, each replaced by its transpose.

    A convolution becomes a transposed one, a pooling an upsampling to the size before it, without the places of the
    maxima, a linear module one in the other direction, and flattening the reverse. Activations, dropout and
    normalization are left out; a copy of `activation` comes last. Weights are torch's initial ones.
    ValueError, naming the module, for one without a known transpose.
    """
    made: list[nn.Module] = []
    x = torch.zeros(1, *shape)
    stage = copy.deepcopy(stage).cpu().eval()
    for module in _flat(stage):
        before = tuple(x.shape[1:])
        with torch.no_grad():
            x = module(x)
        if (transposed := _transposed(module, before, tuple(x.shape[1:]))) is not None:
            made.insert(0, transposed)
    if activation is not None:
        made.append(copy.deepcopy(activation))
    return nn.Sequential(*made)


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    """The modules in sequential ones."""
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _flat(child)
    else:
        yield module


def _transposed(module: nn.Module, before: tuple[int, ...], after: tuple[int, ...]) -> nn.Module | None:
    """A module from tensors of the shape `after` to those of `before`; None if nothing is needed."""
    if isinstance(module, nn.Linear):
        return nn.Linear(module.out_features, module.in_features)
    if isinstance(module, nn.Conv1d | nn.Conv2d) and not isinstance(module.padding, str):
        details = module.kernel_size, module.stride, module.padding, module.dilation
        missing = [  # pixels at the end that a stride skipped
            size - ((small - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
            for size, small, kernel, stride, padding, dilation in zip(before[1:], after[1:], *details, strict=True)
        ]
        kind: Any = nn.ConvTranspose1d if isinstance(module, nn.Conv1d) else nn.ConvTranspose2d
        kernel, stride, padding, dilation = details
        made: nn.Module = kind(
            module.out_channels, module.in_channels, kernel, stride, padding, missing, module.groups, dilation=dilation
        )
        return made
    if isinstance(module, _POOLS):
        return nn.Upsample(before[1:])
    if isinstance(module, nn.Flatten) and module.start_dim == 1:
        return nn.Unflatten(1, before)
    kind_of = type(module).__name__
    is_left_out = isinstance(module, _ACTIVATIONS) or any(word in kind_of for word in ("Dropout", "Norm"))
    if is_left_out and before == after:
        return None
    raise ValueError(f"no decoder is known for {module}; give decoders")


def _stages(model: nn.Sequential, shape: tuple[int, ...]) -> tuple[list[nn.Sequential], list[tuple[int, ...]]]:
    """The stages, and the shapes of a sample below the first and above each."""
    if not isinstance(model, nn.Sequential):
        raise ValueError(f"targets need a Sequential of modules, not {type(model).__name__}")
    parts: list[list[nn.Module]] = [[]]
    for child in model:
        has_parameters = any(True for _ in child.parameters())
        if has_parameters and any(True for module in parts[-1] for _ in module.parameters()):
            parts.append([])
        parts[-1].append(child)
    if len(parts) < 2:
        raise ValueError(f"targets need two modules with parameters or more, not {len(parts)}: the model has no links")
    stages, shapes = [nn.Sequential(*part) for part in parts], [shape]
    like = next(model.parameters())
    with torch.no_grad():
        x = torch.zeros(1, *shape).to(like)
        for stage in copy.deepcopy(stages):  # in which statistics of normalization may change
            x = stage.eval()(x)
            shapes.append(tuple(x.shape[1:]))
    return stages, shapes


def _links(links: str | Sequence[Link], sizes: Sequence[int]) -> list[Link]:
    """The link below each stage, with the names of its ends."""
    names = layer_names(sizes)
    if isinstance(links, str):
        forward, _, feedback = links.partition("/")
        between = Link(forward or "float32", feedback or "float32")  # type: ignore[arg-type]
        links = [Link(), *[between] * (len(sizes) - 2)]
    if len(links) != len(sizes) - 1:
        raise ValueError(f"{len(sizes) - 1} stages need {len(sizes) - 1} links, one below each, not {len(links)}")
    return [replace(x, lower=a, upper=b) for x, a, b in zip(links, names, names[1:], strict=False)]


def _check(route: Edge, decoder: nn.Module, above: tuple[int, ...], below: tuple[int, ...]) -> None:
    """Raise ValueError unless `decoder` makes states of the stage below from those of the one above."""
    like = next(decoder.parameters(), torch.zeros(0))
    with torch.no_grad():
        made = tuple(copy.deepcopy(decoder).eval()(torch.zeros(1, *above).to(like)).shape[1:])
    if made != below:
        raise ValueError(
            f"decoder of link {route.link.name} gives {made} for a state of {above}, but the stage below has {below}"
        )


@dataclass(eq=False)
class _Modules(Projection):
    """Torch modules between flat signals; their activation is part of them."""

    module: nn.Module
    below: tuple[int, ...]
    """Shape of a sample that arrives."""
    above: tuple[int, ...]
    direction: Direction
    label: str
    _last: tuple[torch.Tensor, torch.Tensor] | None = field(default=None, repr=False)

    kind: ClassVar[str] = "modules"

    def __post_init__(self) -> None:
        self._shape = torch.empty(prod(self.below), prod(self.above), device="meta")
        self.parameters: Mapping[str, nn.Parameter] = {
            f"{self.label}.{name}": parameter for name, parameter in self.module.named_parameters()
        }

    @property
    def name(self) -> str:
        return self.label

    @property
    def values(self) -> Array:
        """A tensor that has the shape of a dense projection, and no numbers."""
        return self._shape

    def slots(self) -> Iterator[Slot]:
        yield from ()

    @classmethod
    def read(cls, row: dict[str, Any], arrays: dict[str, Array], inputs: Mapping[str, Projection]) -> "_Modules":
        raise ValueError("a network file has no torch modules; load the state dict of the model")

    @property
    def trained(self) -> tuple[str, ...]:
        return tuple(self.parameters)

    def apply(self, signal: Signal) -> Array:
        values: Any = signal.values
        x = values.detach().reshape(-1, *self.below).requires_grad_(torch.is_grad_enabled())
        y: Any = self.module(x)
        signal.made[self.label] = self._last = x, y
        state: Array = y.detach().flatten(1)
        return state

    def respond(self, activation: Activation, signal: Signal) -> Array:
        return self.apply(signal)

    def gradients(self, signal: Signal, error: Array, spent: Array | None) -> dict[str, Any]:
        y, e = signal.made[self.label][1], torch.as_tensor(error)
        made = torch.autograd.grad(
            y, list(self.parameters.values()), e.reshape(y.shape), retain_graph=True, materialize_grads=True
        )
        return dict(zip(self.parameters, made, strict=True))

    def transpose(self, error: Array) -> Array:
        """The gradient at the signal that arrived last."""
        assert self._last is not None
        x, y = self._last
        gradient: Any = torch.autograd.grad(y, x, torch.as_tensor(error).reshape(y.shape), retain_graph=True)[0]
        below: Array = gradient.flatten(1)
        return below


def _modules(projection: Projection) -> _Modules:
    assert isinstance(projection, _Modules)
    return projection


class _Stage(Layer):
    """A layer of torch modules. It counts no work: see `torch.utils.flop_counter` for that of a torch model."""

    def __init__(self, name: str, inputs: dict[str, Projection]) -> None:
        super().__init__(name, inputs, ACTIVATIONS["identity"])

    def _count(self, *_: Any) -> None:
        pass

    def decode_change(self, before: Signal, after: Signal, ledger: Ledger, purpose: str) -> Array:
        with torch.no_grad():
            return self.decode(after, ledger, purpose) - self.decode(before, ledger, purpose)
