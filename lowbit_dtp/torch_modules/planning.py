"""Estimates of torch models: the ledgers that training would write, from shapes alone, with links where you want them.

    >>> with torch.device("meta"):
    ...     model = torch.nn.Sequential(torch.nn.Linear(4096, 10**6), torch.nn.Tanh(), torch.nn.Linear(10**6, 10))
    ...     inputs = torch.empty(8, 4096)
    >>> made = estimate_model(model, [inputs], {"1": "binary/fixed(4,1)"}, steps=100)
    >>> made.training.bits("1", Direction.FORWARD, per="sample"), made.training.bits("1", per="step")
    (1000000.0, 40000000.0)

No weight is needed: a model may be built on the meta device. Work and accesses are those of `work`; ones and toggles
are assumed, as by `estimation`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..estimation import ACTIVITY, Estimate, Rates
from ..events import Direction as Direction
from ..formats import Format
from ..ledger import Ledger
from .wiring import unwire, wire
from .work import count_update, count_work, eager


def estimate_model(
    model: torch.nn.Module,
    inputs: Sequence[Any],
    links: Mapping[str, str],
    rest: str | None = None,
    *,
    keywords: Mapping[str, Any] | None = None,
    loss: Callable[[Any], torch.Tensor] | None = None,
    optimizer: str = "SGD",
    settings: Mapping[str, Any] | None = None,
    weight_formats: Mapping[str, Format | str] | None = None,
    messages: str = "auto",
    steps: int = 1,
    activity: float = ACTIVITY,
) -> Estimate:
    """The ledgers that `steps` steps of training of `model`, and as many passes of inference, would write.

    `inputs` and `keywords` are a minibatch, of whose tensors only shapes matter; `loss` and `weight_formats` are as in
    `count_work`; `links`, `rest` and `messages` are as in `wire`. `optimizer` is the name of a class in `torch.optim`,
    `settings` are its settings. `activity` is the fraction of bits that are 1. The model is as before afterwards.

    ValueError as from `wire` and `count_work`.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps must be a whole number, 1 or more, not {steps!r}")
    model = eager(model)
    made: dict[str, Ledger] = {}
    wire(model, links, rest, messages=messages, work=False)
    try:
        for name in ("training", "inference"):
            gradients = name == "training"
            once = count_work(
                model, inputs, keywords, loss=loss if gradients else None, gradients=gradients,
                weight_formats=weight_formats,
            )  # fmt: skip
            made[name] = Ledger(steps=steps, samples=steps * once.samples, batch=once.batch)
            made[name].counts.repeat(once.counts, steps)
    finally:
        unwire(model)
    count_update(made["training"], dict(model.named_parameters()), optimizer, settings or {}, steps)
    rates = Rates.of(activity, None, "")
    assumed = {name: rates.assume(name, ledger) for name, ledger in made.items()}
    return Estimate(**made, assumed=assumed, notes=() if loss else ("the loss is not counted",))
