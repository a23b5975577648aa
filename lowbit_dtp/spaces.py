"""Search spaces: the values that a search tries for the settings of a rule.

They come from tables `[search.RULE]` of an experiment file, and for rules that have none from `spaces.toml`:

    [search.dtp]
    learning_rate = { low = 1e-4, high = 1e-2, log = true }
    schedule = { choices = ["minibatch", "alternating-epochs"] }
    links.h1-h2.feedback = { low = 0.01, high = 0.3, format = "ternary*{}" }
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from .experiment import OF_ONE_RULE, Comparison, ExperimentError, parts_of, rule_keys, with_settings
from .settings import check

if TYPE_CHECKING:
    from optuna.trial import Trial

KEYS = {
    "low?": float, "high?": float, "log?": bool, "int?": bool, "choices?": list[int | float | str | bool | list],
    "format?": str,
}  # fmt: skip
"""Keys of a range in a file."""
SAME_FOR_ALL = ("epochs", "task")
"""Keys of the table of a rule that are not searched, since a comparison of other budgets or tasks is none."""

Space = dict[str, "Range"]
"""Ranges of the settings of one rule by name; names of settings in tables have dots."""


@dataclass(frozen=True)
class Range:
    """The values that a search may try for one setting: numbers between two ends, or choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    """Whether the logarithm is spread evenly, rather than the number."""
    int: bool = False
    """Whether only whole numbers are tried."""
    choices: tuple[Any, ...] = ()
    format: str = "{}"
    """The text, with {} for the number, that the setting takes; "{}" for the number itself."""

    def __post_init__(self) -> None:
        if self.choices:
            if (self.low, self.high, self.log, self.int, self.format) != (None, None, False, False, "{}"):
                raise ExperimentError("choices are given, so there can be no low, high, log, int or format")
            return
        if self.low is None or self.high is None:
            raise ExperimentError("there must be low and high, or choices of which there is at least one")
        if not self.low < self.high:
            raise ExperimentError(f"low must be below high, not {self.low:g} to {self.high:g}")
        if self.log and self.low <= 0:
            raise ExperimentError(f"low must be above 0 where log = true, not {self.low:g}")
        if self.int and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise ExperimentError(f"low and high must be whole where int = true, not {self.low:g} and {self.high:g}")
        if self.format.count("{}") != 1:
            raise ExperimentError(f"format must have {{}} once, 'ternary*{{}}' for example, not {self.format!r}")

    @classmethod
    def read(cls, where: str, given: Any) -> "Range":
        """The range that a file gives at `where`. Raises ExperimentError naming it."""
        try:
            check("", given, KEYS)
            known = [key.removesuffix("?") for key in KEYS]
            unknown = [key for key in given if key not in known]
            if unknown:
                raise ExperimentError(f"no key {unknown[0]!r}; there are: {', '.join(known)}")
            return cls(**{**given, "choices": tuple(given["choices"])} if "choices" in given else given)
        except ValueError as error:
            raise ExperimentError(f"{where}: {error}") from None

    def draw(self, trial: "Trial", name: str) -> Any:
        """The value of the setting `name` that the sampler suggests; numbers have four digits."""
        if self.choices:
            labels = {_label(choice): choice for choice in self.choices}
            return labels[trial.suggest_categorical(name, list(labels))]
        if self.int:
            return self._written(trial.suggest_int(name, int(self.low or 0), int(self.high or 0), log=self.log))
        return self._written(float(f"{trial.suggest_float(name, self.low or 0, self.high or 0, log=self.log):.4g}"))

    def extremes(self) -> list[Any]:
        """Values that show whether a rule takes all of them: both ends, or every choice."""
        kind = int if self.int else float
        return list(self.choices) or [self._written(kind(end or 0)) for end in (self.low, self.high)]

    def as_dict(self) -> dict[str, Any]:
        """What `read` reads, without the defaults."""
        content = {key: value for key, value in asdict(self).items() if value != getattr(Range, key)}
        return {**content, "choices": list(self.choices)} if self.choices else content

    def _written(self, number: Any) -> Any:
        return number if self.format == "{}" else self.format.format(number)


def _label(choice: Any) -> Any:
    """A choice as the sampler knows it: itself, or text for a list."""
    return json.dumps(choice) if isinstance(choice, list) else choice


def spaces_of(comparison: Comparison, rules: list[str]) -> dict[str, Space]:
    """The space of each of `rules`, as `rule` or `rule@gradient format`.

    Raises ExperimentError, naming the key, for a setting that the rule does not have, a range that is empty or holds
    values that the rule refuses, and for tables of rules that are not searched.
    """
    tables = comparison.content.get("search", {})
    for name in tables:
        rule = parts_of(name)[0]
        if name not in rules and rule not in [parts_of(each)[0] for each in rules]:
            raise ExperimentError(f"search.{name}: {name} is not searched; the rules are: {', '.join(rules)}")
    spaces = {}
    for spec in rules:
        name = next((name for name in (spec, parts_of(spec)[0]) if name in tables), "")
        spaces[spec] = _read(f"search.{name}", tables[name]) if name else default_space(comparison, spec)
        _check(comparison, spec, f"search.{name or spec}", spaces[spec])
    return spaces


def default_space(comparison: Comparison, spec: str) -> Space:
    """The space of a rule without a table, from `spaces.toml`; settings that are given for all rules are left out."""
    rule, _ = parts_of(spec)
    known = tomllib.loads((files(__package__) / "spaces.toml").read_text())
    experiment, kind = comparison.experiment(spec, 0), _kind(rule)
    taken = {"learning_rate", *(field.name for field in fields(kind))}
    taken |= {"feedback_learning_rate"} if kind.uses_feedback_weights else set()
    tables = known["settings"], known["optimizers"].get(experiment.optimizer.get("name", "rmsprop"), {})
    ranges: dict[str, Any] = {}
    for table in (*tables, known["rules"].get(rule, {})):
        ranges |= table
    return {
        name: Range.read(f"spaces.toml, {name}", given)
        for name, given in ranges.items()
        if given and name in taken and name not in comparison.content["optimizer"]
    }


def _kind(rule: str) -> Any:
    from .rules import rule_named

    return rule_named(rule)


def _read(where: str, table: Mapping[str, Any]) -> Space:
    """The ranges in a table, by names with dots for those in tables within it."""
    space: Space = {}
    for key, given in table.items():
        if isinstance(given, Mapping) and given and all(isinstance(value, Mapping) for value in given.values()):
            space |= {f"{key}.{name}": each for name, each in _read(f"{where}.{key}", given).items()}
        else:
            space[key] = Range.read(f"{where}.{key}", given)
    return space


def _check(comparison: Comparison, spec: str, where: str, space: Space) -> None:
    """Raise ExperimentError unless the rule takes both ends of each range and every choice."""
    if not space:
        raise ExperimentError(f"{where}: nothing to search; give ranges of settings in a table [search.{spec}]")
    rule = parts_of(spec)[0]
    known = [key for key in rule_keys(rule) if key not in SAME_FOR_ALL]
    first = {name: values.extremes()[0] for name, values in space.items()}
    for name, values in space.items():
        key = name.split(".")[0]
        if key not in known:
            raise ExperimentError(f"{where}: no setting {key!r} of {rule} to search; there are: {', '.join(known)}")
        if name in comparison.content["optimizer"]:
            raise ExperimentError(
                f"{where}.{name}: optimizer.{name} = {comparison.content['optimizer'][name]!r} is set for all rules; "
                "leave one of them out"
            )
        for value in values.extremes():
            try:
                tried, tried_spec = with_settings(comparison, spec, first | {name: value})
                experiment = tried.experiment(tried_spec, 0)
                experiment.learning_rule()
                experiment.make_optimizer()
                if key in OF_ONE_RULE:
                    experiment.built()
            except ValueError as error:
                raise ExperimentError(f"{where}.{name}: {value!r} cannot be tried: {error}") from None
