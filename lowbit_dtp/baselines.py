"""Baselines beside a run or an estimate: what others would cost on the same network, from estimated ledgers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .data import Outline
from .estimation import ACTIVITY, Estimate, data_for, estimate
from .experiment import Experiment
from .formats import FixedPoint, parse
from .ledger import Ledger
from .network import link_names

if TYPE_CHECKING:
    from hw_models import HardwareConfig, Technology

    from .bands import Priced

OTHERWISE = "rmsprop"
"""Optimizer of baselines, where that of the experiment trains no float weights."""


FIRST = "backprop float32"
"""The baseline to which ratios are given, if nothing else is asked for."""


@dataclass(frozen=True)
class Baselines:
    """Ledgers of training and inference of each baseline, by its name, and why others have none."""

    experiment: Experiment
    """One of those of the same network."""
    ledgers: dict[str, Mapping[str, Ledger]]
    missing: dict[str, str] = field(default_factory=dict)

    def priced(self, config: "HardwareConfig", technologies: "Sequence[Technology]") -> "list[Priced]":
        """The bills a sample, without codings. What cannot be priced is added to `missing`: a constant is, say."""
        from hw_models import price

        from .bands import Priced

        bills, plain = [], replace(config, coding={})
        for name, ledgers in self.ledgers.items():
            for use, ledger in ledgers.items():
                for technology in technologies if ledger.samples else ():
                    try:
                        bill = price(ledger, plain.within(ledger), technology).per("sample")
                    except ValueError as error:
                        self.missing[name] = str(error)
                        continue
                    bills.append(Priced(name, use, bill))
        return bills


def baselines_of(
    experiment: Experiment, data: Outline, *, activity: float = ACTIVITY, like: Path | str | None = None
) -> Baselines:
    """The baselines of the network, data and minibatches of `experiment`; `activity` and `like` as for estimates.

    Where no link carries few bits down, all widths of straight-through's gradient are one baseline, the first. Only
    backpropagation has a ledger of inference: that of straight-through is the experiment's.
    """
    from hw_models.baselines import BASELINES, GRADIENT, in_number, with_gradients

    made = Baselines(experiment, {})
    estimates: dict[str, Estimate | ValueError] = {}
    for baseline in BASELINES:
        if baseline.rule not in estimates:
            try:
                described = as_baseline(experiment, baseline.rule, GRADIENT if baseline.gradient else "")
                estimates[baseline.rule] = estimate(described, data=data, activity=activity, like=like)
            except ValueError as error:
                estimates[baseline.rule] = error
        found = estimates[baseline.rule]
        if isinstance(found, ValueError):
            made.missing[baseline.name] = str(found)
        elif not baseline.gradient:
            training = in_number(found.training, baseline.number)
            made.ledgers[baseline.name] = {
                "training": training, "inference": _inference(found.inference, baseline.number)
            }  # fmt: skip
        else:
            training = with_gradients(found.training, baseline.gradient)
            if all(training != ledgers["training"] for ledgers in made.ledgers.values()):
                made.ledgers[baseline.name] = {"training": training}
    return made


def _inference(ledger: Ledger, number: str) -> Ledger:
    """Inference in whole numbers as exported, with thresholds; in floats as simulated, with functions."""
    from hw_models import as_exported
    from hw_models.baselines import in_number

    whole = isinstance(parse(number), FixedPoint)
    return as_exported(ledger, number, number) if whole else in_number(ledger, number)


def as_baseline(experiment: Experiment, rule: str, gradient: str = "") -> Experiment:
    """`experiment` with another rule: on the links between neighbours; with float weights, if without `gradient`."""
    from .optimizers import OPTIMIZERS

    optimizer = str(experiment.optimizer.get("name", OTHERWISE))
    if not OPTIMIZERS[optimizer].keeps_master or optimizer == "shift-sgd":
        optimizer = OTHERWISE
    names = link_names(experiment.sizes)
    return replace(
        experiment,
        rule=rule,
        settings={"gradient": gradient} if gradient else {},
        optimizer={"name": optimizer},
        links={name: formats for name, formats in experiment.links.items() if name in names},
        weights=experiment.weights if gradient else {},
        task=experiment.learned_task().name,
    )


def same_network(experiment: Experiment, other: Experiment) -> bool:
    """Whether both have the same baselines, on the same data."""
    first, second = (replace(as_baseline(x, "straight-through", "binary"), seed=0) for x in (experiment, other))
    return first == second


def data_of(experiment: Experiment, training: Ledger, inference: Ledger) -> Outline:
    """The data that a run had, by its ledgers, of one seed or several."""
    samples, inferences = training.samples // max(1, training.epochs), inference.samples // max(1, inference.runs)
    return data_for(experiment.sizes, experiment.learned_task(), max(1, samples), max(1, inferences))
