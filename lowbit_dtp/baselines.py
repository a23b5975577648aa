"""Baselines beside a run or an estimate: what others would cost on the same network, from estimated ledgers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .data import Outline
from .estimation import ACTIVITY, data_for, estimate
from .experiment import Experiment
from .formats import FixedPoint, parse
from .ledger import Ledger
from .network import link_names

if TYPE_CHECKING:
    from hw_models import HardwareConfig, Technology
    from hw_models.baselines import Baseline

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
    ledgers: Mapping[str, Mapping[str, Ledger]]
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

    A baseline that would do the same as an earlier one is left out: straight-through's gradients, where no link
    carries few bits down. Only backpropagation has a ledger of inference: that of straight-through is the experiment's.
    """
    from hw_models.baselines import BASELINES, in_number

    found: dict[str, Mapping[str, Ledger]] = {}
    missing: dict[str, str] = {}
    before: list[Ledger] = []
    for baseline in BASELINES:
        try:
            made = estimate(as_baseline(experiment, baseline), data=data, activity=activity, like=like)
        except ValueError as error:
            missing[baseline.name] = str(error)
            continue
        ledgers = {"training": in_number(made.training, baseline.number)}
        if not baseline.gradient:
            ledgers["inference"] = _inference(made.inference, baseline.number)
        if ledgers["training"] not in before:
            before.append(ledgers["training"])
            found[baseline.name] = ledgers
    return Baselines(experiment, found, missing)


def _inference(ledger: Ledger, number: str) -> Ledger:
    """Inference in whole numbers as exported, with thresholds; in floats as simulated, with functions."""
    from hw_models import as_exported
    from hw_models.baselines import in_number

    whole = isinstance(parse(number), FixedPoint)
    return as_exported(ledger, number, number) if whole else in_number(ledger, number)


def as_baseline(experiment: Experiment, baseline: "Baseline") -> Experiment:
    """`experiment` with the rule of `baseline`: on the links between neighbours, with float weights for backprop."""
    from .optimizers import OPTIMIZERS

    optimizer = str(experiment.optimizer.get("name", OTHERWISE))
    if not OPTIMIZERS[optimizer].keeps_master or optimizer == "shift-sgd":
        optimizer = OTHERWISE
    names = link_names(experiment.sizes)
    return replace(
        experiment,
        rule=baseline.rule,
        settings={"gradient": baseline.gradient} if baseline.gradient else {},
        optimizer={"name": optimizer},
        links={name: formats for name, formats in experiment.links.items() if name in names},
        weights=experiment.weights if baseline.gradient else {},
        task=experiment.learned_task().name,
    )


def same_network(experiment: Experiment, other: Experiment) -> bool:
    """Whether both have the same baselines, on the same data."""
    from hw_models.baselines import BASELINES

    first, second = ([replace(as_baseline(x, each), seed=0) for each in BASELINES] for x in (experiment, other))
    return first == second


def data_of(experiment: Experiment, training: Ledger, inference: Ledger) -> Outline:
    """The data that a run had, by its ledgers, of one seed or several."""
    samples, inferences = training.samples // max(1, training.epochs), inference.samples // max(1, inference.runs)
    return data_for(experiment.sizes, experiment.learned_task(), max(1, samples), max(1, inferences))
