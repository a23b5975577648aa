"""Searches for the settings of rules: as many trials and epochs for each rule, judged by validation error alone.

The trials of a rule are an Optuna study in a storage that many processes, on many machines, may use at once: each asks
for a trial, trains it and tells the result. A trial whose process has died is found and done again. Only training and
validation samples are used: a trial is given no others.
"""

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, get_args, get_origin

import numpy as np

from .choices import choose
from .experiment import Comparison, Experiment, ExperimentError, with_settings
from .jobs import JobsError, cores, run_all, tell
from .randomness import generator
from .settings import defaults, hints
from .spaces import Space, spaces_of
from .storage import StorageError

try:
    import optuna
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial, TrialState
except ImportError:
    raise ImportError("a search needs Optuna: pip install 'lowbit-dtp[search]'") from None

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.study import Study

    from .data import Samples
    from .ensemble import Run
    from .rules import LearningRule

JOURNAL = "journal.log"
"""Storage of a search in its folder, where no other is named."""
FIRST_SEED = 1000
"""First seed of the runs of a trial, so that none is a run that a comparison reports."""
BEAT_SECONDS = 20.0
"""Seconds between two signs of life of a process that trains."""
DEAD_SECONDS = 180.0
"""Seconds without such a sign after which the process, on whatever machine, is taken for dead."""
POLL_SECONDS = 0.5
"""Seconds after which a process without work looks again whether there is some."""
TRIES = 3
"""How often settings are tried whose process dies; then others are drawn in their place."""
MEMBERS = 64
"""Most trials in one batch on a device, where its memory does not tell."""

FEWEST = 4
"""Fewest scores from which the importance of settings is estimated."""

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
}
"""How settings are drawn: independently (Bergstra, Bengio, JMLR 2012), or by a tree-structured Parzen estimator."""
PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5),
}
"""When a trial ends before its last epoch: never, or when its error is above the median of the others at that epoch."""

_DONE = (TrialState.COMPLETE, TrialState.PRUNED)
_COUNTED = (*_DONE, TrialState.RUNNING)


@dataclass(frozen=True)
class Search:
    """What is searched, and the budget."""

    comparison: Comparison
    trials: int
    """Trials of each rule."""
    seeds: int = 1
    """Runs of each trial; its score is their mean."""
    sampler: str = "random"
    pruner: str = "none"
    seed: int = 0
    """Seed of the sampler."""
    rules: tuple[str, ...] = field(init=False)
    spaces: dict[str, Space] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("trials", "seeds"):
            if getattr(self, name) < 1:
                raise ExperimentError(f"{name} must be 1 or more, not {getattr(self, name)}")
        choose("sampler", self.sampler, SAMPLERS)
        choose("pruner", self.pruner, PRUNERS)
        object.__setattr__(self, "rules", tuple(self.comparison.named_rules()))
        with self.comparison.naming("search"):
            object.__setattr__(self, "spaces", spaces_of(self.comparison, list(self.rules)))
        if self.epochs < 1:
            raise ExperimentError(f"epochs must be 1 or more, not {self.epochs}")
        for rule in self.rules:
            experiment = self.example(rule)
            if experiment.epochs != self.epochs:
                raise ExperimentError(
                    f"rules.{rule}.epochs = {experiment.epochs}, and those of other rules are {self.epochs}: a search "
                    "has the same budget for every rule; give --epochs"
                )
            experiment.built()  # raises errors before training

    @property
    def epochs(self) -> int:
        """Epochs of each run."""
        return int(self.comparison.content["epochs"])

    def experiments(self, rule: str, settings: dict[str, Any]) -> list[Experiment]:
        """The runs of a trial: `rule` with `settings`, one for each seed."""
        comparison, spec = with_settings(self.comparison, rule, settings)
        return [comparison.experiment(spec, FIRST_SEED + i) for i in range(self.seeds)]

    def example(self, rule: str) -> Experiment:
        """The first run of a trial of `rule`, with the lowest values of its space."""
        return self.experiments(rule, {name: values.extremes()[0] for name, values in self.spaces[rule].items()})[0]

    def definition(self, rule: str) -> dict[str, Any]:
        """All that the results of `rule` depend on, but for the number of trials."""
        experiment = vars(self.experiments(rule, {})[0])
        space = {name: values.as_dict() for name, values in self.spaces[rule].items()}
        own = ("seed", "plugins", "data")
        content = {name: value for name, value in experiment.items() if name not in own}
        content |= {"data": Path(experiment["data"]).name, "space": space}  # a path differs from machine to machine
        return content | {name: getattr(self, name) for name in ("seeds", "sampler", "pruner", "seed")}


@dataclass(frozen=True)
class Place:
    """Where the trials of a search are kept."""

    storage: str
    """Path of a journal file, or a URL of a data base: sqlite:///FILE, postgresql://USER@HOST/NAME."""
    label: str = ""
    """First part of the names of studies, which tells searches in one data base apart."""

    def study(self, search: Search, rule: str) -> "Study":
        """The study of `rule`, made if it is not there. ExperimentError if it is one of another search."""
        sampler = _ByNumber(SAMPLERS[search.sampler], search.seed, rule)
        with self.naming():
            study = optuna.create_study(
                storage=self.opened(), study_name=self.label + rule, sampler=sampler, load_if_exists=True,
                pruner=PRUNERS[search.pruner](),
            )  # fmt: skip
            here = json.loads(json.dumps(search.definition(rule)))
            there = study.user_attrs.get("definition")
            if there is None:
                study.set_user_attr("definition", here)
                there = study.user_attrs["definition"]
        there = json.loads(json.dumps(defaults(Experiment))) | there  # of settings that an older version did not have
        for name in here:
            if there[name] != here[name]:
                raise ExperimentError(
                    f"{self.shown}: holds a search of {rule} with {name} = {there[name]!r}, not {here[name]!r}; "
                    "choose another folder, or repeat the settings of that search"
                )
        return study

    @property
    def shown(self) -> str:
        """The storage as it may be shown, without a password."""
        if "://" not in self.storage:
            return self.storage
        from sqlalchemy.engine import make_url

        with self.naming():
            return str(make_url(self.storage).render_as_string(hide_password=True))

    def opened(self) -> "BaseStorage":
        """The storage, as Optuna has it; made if it is not there."""
        from optuna.storages import JournalStorage, RDBStorage
        from optuna.storages.journal import JournalFileBackend

        if "://" not in self.storage:
            Path(self.storage).parent.mkdir(parents=True, exist_ok=True)
            try:
                return JournalStorage(JournalFileBackend(self.storage))
            except (KeyError, TypeError, ValueError) as error:
                raise StorageError(f"{self.storage}: not a journal of trials ({type(error).__name__})") from None
        from sqlalchemy.exc import SQLAlchemyError

        url = self.storage
        if url.startswith("postgresql://"):
            url = url.replace("postgresql://", "postgresql+psycopg://", 1)
        waiting = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
        for left in (2, 1, 0):
            try:
                return RDBStorage(url, waiting)
            except ImportError as error:
                raise ImportError(f"{url.partition(':')[0]}: {error}; install it, or name another driver") from None
            except SQLAlchemyError:
                if not left:
                    raise
                time.sleep(1)  # another process may be making the tables
        raise AssertionError

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Within, errors of the storage name it."""
        kinds: tuple[type[Exception], ...] = (json.JSONDecodeError,)
        where = self.storage
        if "://" in self.storage:
            from sqlalchemy.exc import SQLAlchemyError

            kinds, where = (SQLAlchemyError,), self.storage.partition("://")[0]
        try:
            yield
        except kinds as error:
            reason = str(error).split("\n")[0]
            raise StorageError(f"{where}: not a storage that can be used ({reason})") from None


class _ByNumber(BaseSampler):
    """A sampler whose draws depend on its seed, the rule and the number of the trial, not on the process that asks."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int, rule: str) -> None:
        self._make, self._seed, self._rule = make, seed, rule
        self._sampler = make(0)

    def before_trial(self, study: "Study", trial: FrozenTrial) -> None:
        self._sampler = self._make(int(generator(self._seed, f"search {self._rule}", trial.number).integers(2**32)))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: "Study", trial: FrozenTrial) -> "dict[str, BaseDistribution]":
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: "Study", trial: FrozenTrial, search_space: "dict[str, BaseDistribution]"
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: "Study", trial: FrozenTrial, param_name: str, param_distribution: "BaseDistribution"
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


@dataclass(frozen=True)
class Outcome:
    """A finished trial."""

    rule: str
    number: int
    settings: dict[str, Any]
    score: float | None
    """Validation score after the last epoch, a mean over seeds; None if it was not reached."""
    curve: dict[int, float]
    """Validation score after each epoch."""
    seconds: float
    note: str = ""
    """Why the last epoch was not reached."""

    @classmethod
    def of(cls, rule: str, trial: FrozenTrial) -> "Outcome":
        """The outcome of a trial of `rule` in the storage."""
        spent = trial.duration.total_seconds() if trial.duration else 0.0
        settings, note = trial.user_attrs.get("settings", {}), trial.user_attrs.get("note", "")
        score = None if note else trial.value
        return cls(rule, trial.number, settings, score, trial.intermediate_values, round(spent, 3), note)


def outcomes(search: Search, place: Place) -> dict[str, list[Outcome]]:
    """The finished trials of each rule, in the order in which they began, as many as the search has or fewer."""
    found = {}
    for rule in search.rules:
        study = place.study(search, rule)
        with place.naming():
            done = [trial for trial in study.get_trials(deepcopy=False) if trial.state in _DONE]
        found[rule] = [Outcome.of(rule, trial) for trial in done[: search.trials]]
    return found


def importances(search: Search, place: Place) -> dict[str, dict[str, float]]:
    """The share of each setting in the variance of the score, by rule: functional ANOVA (Hutter et al., ICML 2014).

    Rules with too few scores, or scores that are all alike, are left out.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    found = {}
    for rule in search.rules:
        with place.naming():
            done = [x for x in place.study(search, rule).get_trials() if x.state in _DONE][: search.trials]
        scored = [trial for trial in done if trial.state is TrialState.COMPLETE]
        if len(scored) >= FEWEST and len({trial.value for trial in scored}) > 1:
            study = optuna.create_study()
            study.add_trials(scored)
            found[rule] = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return found


def run_search(
    search: Search, place: Place, *, data_dir: Path | None = None, jobs: int | None = None, device: str = "numpy",
    ensemble: int | None = None, dask: str = "", on_trial: Callable[[Outcome], None] = lambda outcome: None,
) -> dict[str, list[Outcome]]:  # fmt: skip
    """Train the trials that are missing, and return all of them by rule.

    `jobs` processes work at once, by default as many as there are cores, or as the Dask scheduler `dask` has;
    processes elsewhere, with the same search and place, do their share. On a `device` other than NumPy's, one process
    trains `ensemble` trials of a rule in one batch. If trials are missing in the end, JobsError says why.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for rule in search.rules:
        place.study(search, rule)  # raises errors before training
    found = outcomes(search, place)
    if _is_complete(search, found):
        return found
    workers = jobs or (search.trials * len(search.rules) if dask else cores() if device == "numpy" else 1)
    try:
        for _ in run_all(
            partial(_work, search, place, data_dir, device, ensemble), range(1, workers + 1), jobs=workers, dask=dask,
            name=lambda number: f"worker {number}", on_message=lambda _, outcome: on_trial(outcome),
        ):  # fmt: skip
            pass
    except JobsError:
        if not _is_complete(search, outcomes(search, place)):
            raise
    return outcomes(search, place)


def _is_complete(search: Search, found: dict[str, list[Outcome]]) -> bool:
    return all(len(done) == search.trials for done in found.values())


def _work(
    search: Search, place: Place, data_dir: Path | None, device: str, ensemble: int | None, worker: int
) -> None:  # fmt: skip
    """Train trials until none is missing."""
    from .data import load

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    studies, watch = {rule: place.study(search, rule) for rule in search.rules}, _Watch()
    data = load(search.comparison.content["data"], data_dir)
    for rule in search.rules:
        search.example(rule).check_sizes(data)
    samples = data.train.on(device), data.valid.on(device)
    del data  # with the test samples
    with place.naming():
        while True:
            trials = {rule: study.get_trials(deepcopy=False) for rule, study in studies.items()}
            for rule, study in studies.items():
                watch.give_back_dead(study, trials[rule])
            counts = {rule: sum(trial.state in _COUNTED for trial in each) for rule, each in trials.items()}
            rule = min(counts, key=lambda name: counts[name])  # rules in turn, so that all have as many at any time
            if counts[rule] < search.trials:
                at_once = 1 if device == "numpy" else ensemble or _fitting(search.example(rule), search.seeds, device)
                asked = _asked(search, rule, studies[rule], min(at_once, search.trials - counts[rule]))
                for outcome in _train_all(search, rule, studies[rule], asked, samples, device):
                    tell(outcome)
            elif all(sum(trial.state in _DONE for trial in each) >= search.trials for each in trials.values()):
                return
            else:
                time.sleep(POLL_SECONDS)


def _asked(search: Search, rule: str, study: "Study", most: int) -> list[Trial]:
    """New trials, `most` or fewer: none that is superfluous since other processes have asked at the same time."""
    asked = []
    for _ in range(most):
        trial = study.ask()
        trial.set_user_attr("worker", _worker())
        counted = [x.number for x in study.get_trials(deepcopy=False) if x.state in _COUNTED]
        if counted.index(trial.number) >= search.trials:
            study.tell(trial, state=TrialState.FAIL)
            break
        settings = {name: values.draw(trial, name) for name, values in search.spaces[rule].items()}
        trial.set_user_attr("settings", settings)
        asked.append(trial)
    return asked


def _fitting(experiment: Experiment, seeds: int, device: str) -> int:
    """How many trials of `seeds` such runs to train in one batch on `device`: what fits in half of its memory."""
    from .backends.devices import free_bytes
    from .ensemble import member_bytes

    free = free_bytes(device)
    if free is None:
        return MEMBERS
    net, _, optimizer = experiment.built()
    return max(1, min(MEMBERS, free // (2 * member_bytes(net, optimizer, experiment.batch) * seeds)))


def _train_all(
    search: Search, rule: str, study: "Study", trials: Sequence[Trial], samples: "tuple[Samples, Samples]", device: str
) -> Iterator[Outcome]:
    """Train `trials`, in one batch those that can be, and tell the study what came out."""
    batches: dict[str, list[Trial]] = {}
    for trial in trials:
        settings = trial.user_attrs["settings"]
        apart = {name: value for name, value in settings.items() if not _may_differ(search, rule, name)}
        batches.setdefault(json.dumps(apart) if device != "numpy" else str(trial.number), []).append(trial)
    left = list(trials)
    try:
        with _beating(left):
            for batch in batches.values():
                _train(search, rule, study, batch, samples, device)
                for trial in batch:
                    left.remove(trial)
                    yield Outcome.of(rule, study.get_trials(deepcopy=False)[trial.number])
    except BaseException as error:
        for trial in left:
            _give_back(study, study.get_trials(deepcopy=False)[trial.number], failed=isinstance(error, Exception))
        raise


def _train(
    search: Search, rule: str, study: "Study", batch: Sequence[Trial], samples: "tuple[Samples, Samples]", device: str
) -> None:
    """Train the trials of `batch` and tell the study their scores."""
    runs = [search.experiments(rule, trial.user_attrs["settings"]) for trial in batch]
    epochs = _scores([run for each in runs for run in each], *samples, device)
    ended: dict[int, str] = {}
    scores = [math.nan] * len(batch)
    with suppress(optuna.exceptions.UpdateFinishedTrialError):  # taken for dead, a trial is that of another process
        try:
            for epoch, each in enumerate(epochs, 1):
                scores = [fmean(part) for part in np.reshape(each, (len(batch), search.seeds)).tolist()]
                for trial, score in zip(batch, scores, strict=True):
                    if trial.number not in ended and math.isfinite(score):
                        trial.report(score, epoch)
                        if epoch < search.epochs and trial.should_prune():
                            ended[trial.number] = f"above the median of the others after epoch {epoch}"
                if len(ended) == len(batch):
                    break
        except ValueError as error:  # numbers that are not finite, on a link that cannot send them
            ended = {trial.number: f"diverged: {error}" for trial in batch}
    for trial, score in zip(batch, scores, strict=True):
        note = ended.get(trial.number, "" if math.isfinite(score) else "diverged: the score is not finite")
        with suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError):
            if note:
                trial.set_user_attr("note", note)
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, score)


def _scores(
    experiments: Sequence[Experiment], train: "Samples", valid: "Samples", device: str
) -> Iterator[list[float]]:  # fmt: skip
    """Validation scores of `experiments` after each epoch of training, in one batch where the device is not NumPy's."""
    from .ensemble import Run, stack
    from .training import Progress

    built = [experiment.built() for experiment in experiments]
    first, rules = experiments[0], [rule for _, rule, _ in built]
    if device == "numpy":
        each = [
            _fitted(experiment, Run(net, optimizer, Progress()), rule, experiment.seed, train, valid)
            for experiment, (net, rule, optimizer) in zip(experiments, built, strict=True)
        ]
        return ([score for scores in epoch for score in scores] for epoch in zip(*each, strict=True))
    differing = {
        setting.name: values
        for setting in fields(rules[0])  # type: ignore[arg-type]
        if len(set(map(repr, values := [getattr(rule, setting.name) for rule in rules]))) > 1
    }
    run = stack([Run(net, optimizer, Progress()) for net, _, optimizer in built], device)
    rule: Any = replace(rules[0], **differing)  # type: ignore[type-var]
    return _fitted(first, run, rule, [experiment.seed for experiment in experiments], train, valid)


def _fitted(
    experiment: Experiment, run: "Run", rule: "LearningRule", seed: int | list[int], train: "Samples", valid: "Samples"
) -> Iterator[list[float]]:
    """Validation scores of each member of `run` after each epoch."""
    from .training import Evaluator, fit

    net, optimizer, progress = run
    task = experiment.learned_task()
    score = Evaluator(net.with_links(rule.inference_links(net.links)), valid, task=task, rule=rule)
    for step in fit(net, rule, optimizer, train, experiment.epochs, experiment.batch, seed, progress, task=task):
        if step.epoch_ends:
            yield np.ravel(score()).tolist()


def _may_differ(search: Search, rule: str, name: str) -> bool:
    """Whether the setting `name` may differ between networks that are trained in one batch."""
    from .ensemble import RATES
    from .optimizers import OPTIMIZERS

    experiment = search.example(rule)
    if name in RATES:
        return not OPTIMIZERS[experiment.optimizer.get("name", "rmsprop")].integer
    hint = hints(type(experiment.learning_rule())).get(name)
    return float in get_args(hint) and any(get_origin(kind) is Sequence for kind in get_args(hint))


# --- processes that die -----------------------------------------------------------------------------------------------


@contextmanager
def _beating(trials: list[Trial]) -> Iterator[None]:
    """Within, `trials`, those that are still in the list, get a sign of life every `BEAT_SECONDS`."""
    ended = threading.Event()

    def beat() -> None:
        beats = 0
        while not ended.wait(BEAT_SECONDS):
            beats += 1
            for trial in list(trials):
                with suppress(
                    Exception
                ):  # finished in the meantime; or the storage is away, which the training will see
                    trial.set_user_attr("beat", beats)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _Watch:
    """Finds trials whose process has died, by its number on this machine, or for want of signs of life.

    Signs are compared with earlier ones and timed here, so clocks of machines may differ.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], tuple[Any, float]] = {}

    def give_back_dead(self, study: "Study", trials: Sequence[FrozenTrial]) -> None:
        """Have those among `trials` done again."""
        now = time.monotonic()
        for trial in trials:
            if trial.state is TrialState.RUNNING:
                key, sign = (study.study_name, trial.number), (trial.user_attrs.get("beat"), trial.last_step)
                if self._seen.get(key, (None, 0))[0] != sign:
                    self._seen[key] = sign, now
                if _has_ended(trial.user_attrs.get("worker", "")) or now - self._seen[key][1] > DEAD_SECONDS:
                    _give_back(study, trial)


def _give_back(study: "Study", trial: FrozenTrial, failed: bool = True) -> None:
    """Have a trial that has not been finished done again, unless another process has it done.

    Its settings are given up if that was the last of `TRIES` that `failed`.
    """
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (optuna.exceptions.UpdateFinishedTrialError, ValueError):  # another process was first
        return
    tries = trial.user_attrs.get("tries", 1) + failed
    if trial.params and tries <= TRIES:
        study.enqueue_trial(trial.params, {"tries": tries})


def _worker() -> str:
    """This process: machine, container and number."""
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {space.stat().st_ino if space.exists() else 0} {os.getpid()}"


def _has_ended(worker: str) -> bool:
    """Whether `worker` was a process of this machine and has ended."""
    where, _, number = worker.rpartition(" ")
    if not number.isdigit() or where != _worker().rpartition(" ")[0]:
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
