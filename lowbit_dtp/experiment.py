"""Experiments: a TOML file and what overrides it say in full what is to be run."""

import tomllib
from collections.abc import Container, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .choices import choose
from .formats import parse
from .storage import StorageError

if TYPE_CHECKING:
    from .data import DataSet
    from .network import Network
    from .optimizers import Optimizer
    from .rules import LearningRule
    from .tasks import Task

_RENAMED = {"noise_half_life": "half_noise_epoch", "stabilizer": "epsilon"}
"""Settings of experiments of version 0.1.0, by today's names."""
_OPTIMIZER_KEYS = ("learning_rate", "feedback_learning_rate")
_OF_ONE_RULE = ("sizes", "epochs", "batch", "activation", "output_activation", "initial_weights", "task", "links")
"""What the table of a rule may say instead of the file, for its own experiments."""


class ExperimentError(ValueError):
    """An experiment cannot be run as described; the message names the key or option and says what would be right."""


@dataclass(frozen=True)
class Experiment:
    """One run, in full: everything that its numbers depend on."""

    data: str
    sizes: list[int]
    rule: str
    epochs: int
    batch: int
    seed: int
    activation: str = "tanh"
    output_activation: str = "identity"
    initial_weights: str = "orthogonal"
    task: str = ""
    """What is learned; "" is the first of the rule's tasks."""
    links: dict[str, dict[str, str]] = field(default_factory=dict)
    """Formats `forward` and `feedback` of each link by name; float32 where not given."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the rule takes, `gradient` or `target_step` say."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """`name`, `learning_rate` and what else the optimizer takes."""
    start: str = ""
    """A run folder or network file, from which layers take their first weights: see `Network.start_from`. "": none."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ExperimentError(f"{name} must be a whole number, {least} or more, not {value!r}")

    def network(self) -> "Network":
        """The untrained network, with its links as built."""
        from .links import Link
        from .network import Network, link_names

        names = link_names(self.sizes)
        for name, given in self.links.items():
            if name not in names:
                sizes = "-".join(map(str, self.sizes))
                raise ExperimentError(f"links: no link {name!r} in a network {sizes}; there are: {', '.join(names)}")
            _check_keys(f"links.{name}", given, ("forward", "feedback"))
        formats = [self.links.get(name, {}) for name in names]
        links = [Link(parse(x.get("forward", "float32")), parse(x.get("feedback", "float32"))) for x in formats]
        return Network.build(
            self.sizes,
            links,
            self.seed,
            self.activation,
            output_activation=self.output_activation,
            initial_weights=self.initial_weights,
        )

    def learned_task(self) -> "Task":
        """What is learned. ExperimentError if the rule does not learn it."""
        from .rules import rule_named
        from .tasks import TASKS

        known = rule_named(self.rule).tasks
        task = choose("task", self.task or known[0], TASKS)
        if task.name not in known:
            raise ExperimentError(f"task: {self.rule} does not learn to {task.name}; it learns to {', '.join(known)}")
        return task

    def learning_rule(self) -> "LearningRule":
        """The rule, with its settings."""
        from .rules import rule_named

        kind = rule_named(self.rule)
        _check_keys(f"rules.{self.rule}", self.settings, [f.name for f in fields(kind)])  # type: ignore[arg-type]
        return kind(**self.settings)

    def make_optimizer(self) -> "Optimizer":
        """The optimizer, with its settings and no state."""
        from .optimizers import OPTIMIZERS

        settings = dict(self.optimizer)
        kind = choose("optimizer", settings.pop("name", "rmsprop"), OPTIMIZERS)
        known = [f.name for f in fields(kind) if f.name != "state"]
        _check_keys("optimizer", settings, [*known, "name"])
        if "learning_rate" not in settings:
            raise ExperimentError(f"rules.{self.rule}: no learning_rate; give one with --learning-rate")
        return kind(**settings)

    def built(self) -> "tuple[Network, LearningRule, Optimizer]":
        """The untrained network, the rule and the optimizer. ValueError, saying why, if they do not go together."""
        net, rule, optimizer = self.network(), self.learning_rule(), self.make_optimizer()
        self.learned_task()
        rule.prepare(net, self.seed)
        rule.training_links(net.links)
        rule.inference_links(net.links)
        if self.start:
            self._begin(net)
        return net, rule, optimizer

    def _begin(self, net: "Network") -> None:
        from .ledger import Ledger
        from .network import Network

        path = Path(self.start)
        path = path / "network.safetensors" if path.is_dir() else path
        try:
            net.start_from(Network.load(path))
        except StorageError as error:
            raise StorageError(f"start: {error}") from None
        except ValueError as error:
            raise ExperimentError(f"start: {path}: {error}") from None
        net.synchronise(Ledger())

    def check_sizes(self, data: "DataSet") -> None:
        """Raise ExperimentError if the network does not fit `data`."""
        if self.sizes[0] != data.train.stored.shape[1]:
            raise ExperimentError(f"sizes: {data.name} has {data.train.stored.shape[1]} inputs, not {self.sizes[0]}")
        if self.learned_task().name == "classify" and self.sizes[-1] < data.classes:
            raise ExperimentError(f"sizes: {data.name} has {data.classes} classes, so {self.sizes[-1]} outputs are few")

    def steps(self, samples: int) -> int:
        """Steps of the whole run on `samples` training samples."""
        return self.epochs * len(self.learning_rule().phases) * -(-samples // self.batch)

    def as_toml(self) -> str:
        """The experiment as the text of `experiment.toml`."""
        import tomli_w

        content = asdict(self)
        if not self.start:
            del content["start"]
        return tomli_w.dumps(content)

    @classmethod
    def load(cls, path: Path) -> "Experiment":
        """The experiment in an `experiment.toml`."""
        content = read_toml(path)
        _check_keys(str(path), content, [f.name for f in fields(cls)])
        for table in ("settings", "optimizer"):
            given = content.get(table, {})
            content[table] = {_RENAMED.get(key, key): value for key, value in given.items()}
        try:
            return cls(**content)
        except TypeError as error:
            raise StorageError(f"{path}: not an experiment ({error})") from None


@dataclass(frozen=True)
class Comparison:
    """A data set's experiments: the common part, and each rule's settings."""

    content: dict[str, Any]

    KEYS: ClassVar = (
        "data", "sizes", "activation", "output_activation", "initial_weights", "task", "epochs", "batch", "seeds",
        "compare", "placement", "links", "optimizer", "rules", "start",
    )  # fmt: skip

    @classmethod
    def load(cls, data: str | None = None, config: Path | None = None, **overrides: Any) -> "Comparison":
        """The file of data set `data`, overridden by the file `config` and then by what is not None in `overrides`.

        `config` may name its data set itself; a relative path in it is taken from its folder, and `data` from the
        working directory. Data of one's own has the defaults of `_defaults`. Tables are merged key by key.
        """
        over = read_toml(config) if config else {}
        if config:
            _check_keys(str(config), over, cls.KEYS)
        data = _located(data, Path()) or _located(over.get("data"), Path(config or "").parent) or "digits"
        known = {p.name.removesuffix(".toml"): p for p in (files(__package__) / "experiments").iterdir()}
        base = tomllib.loads(known[data].read_text()) if data in known else _defaults(data)
        overrides = {key: value for key, value in overrides.items() if value is not None}
        base["rules"] = _without(base["rules"], {**over, **overrides})
        over = {**over, "rules": _without(over.get("rules", {}), overrides)}
        content = _merge(_merge(base, over), overrides)
        content["data"] = data
        if content["sizes"] != base["sizes"]:  # links of the data set's own network mean nothing in another
            given = {**over.get("links", {}), **overrides.get("links", {})}
            content["links"] = _links_of(content["sizes"], content["links"], given)
        return cls(content)

    @property
    def rules(self) -> list[str]:
        """Rules to compare, as `rule` or `rule@gradient format`."""
        return list(self.content["compare"])

    @property
    def seeds(self) -> int:
        """Runs of each rule."""
        return int(self.content.get("seeds", 1))

    @property
    def placement(self) -> str:
        """Which link is what kind of wire, for the energy models."""
        return str(self.content.get("placement", ""))

    def experiment(self, spec: str, seed: int) -> Experiment:
        """The experiment with rule `spec` and `seed`."""
        from .rules import rule_named

        rule, _, gradient = spec.partition("@")
        kind = rule_named(rule)
        settings = dict(self.content["rules"].get(rule, {}))
        if gradient:
            if "gradient" not in {f.name for f in fields(kind)}:  # type: ignore[arg-type]
                raise ExperimentError(f"rule {spec!r}: {rule} sends no gradients over links, so it takes no format")
            settings["gradient"] = parse(gradient).name
        optimizer = dict(self.content["optimizer"])
        for key in _OPTIMIZER_KEYS:
            if key in settings:
                value = settings.pop(key)
                optimizer.setdefault(key, value)
        names = (
            "data", "sizes", "epochs", "batch", "activation", "output_activation", "initial_weights", "task", "links",
            "start",
        )  # fmt: skip
        common = {name: deepcopy(self.content[name]) for name in names if name in self.content}
        own = {name: deepcopy(settings.pop(name)) for name in _OF_ONE_RULE if name in settings}
        if own.get("sizes", common["sizes"]) != common["sizes"]:
            common["links"] = _links_of(own["sizes"], common["links"])
        common = _merge(common, own)
        return Experiment(rule=rule, seed=seed, settings=settings, optimizer=optimizer, **common)


def _located(data: str | None, folder: Path) -> str | None:
    """`data`, whole if it is a path, for a run to find it from wherever it is read."""
    from .data import is_path

    return str((folder / data).absolute()) if data and is_path(data) else data


def _defaults(data: str) -> dict[str, Any]:
    """An experiment for data that has no file of experiments: two hidden layers, float32 links, rules as for digits."""
    from .data import load

    samples = load(data)
    base = tomllib.loads((files(__package__) / "experiments" / "digits.toml").read_text())
    sizes = [samples.inputs, 100, 100, samples.classes]
    base["rules"] = _without(base["rules"], {"sizes": sizes})
    return {**base, "sizes": sizes, "links": {}, "placement": "", "compare": ["dtp", "straight-through", "backprop"]}


def _without(rules: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of rules without what is `given` for all of them."""
    tables: dict[str, Any] = {}
    for rule, table in rules.items():
        kept = {key: x for key, x in table.items() if key not in _OF_ONE_RULE or key not in given or key == "links"}
        if "links" in kept:
            kept["links"] = {name: x for name, x in kept["links"].items() if name not in given.get("links", {})}
        tables[rule] = kept
    return tables


def _links_of(sizes: Sequence[int], links: Mapping[str, Any], kept: Container[str] = ()) -> dict[str, Any]:
    """Those of `links` that a network of `sizes` has, or that are to be `kept`."""
    from .network import link_names

    names = link_names(sizes)
    return {name: link for name, link in links.items() if name in names or name in kept}


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file says. Raises StorageError naming `path` if it cannot be one."""
    try:
        return tomllib.loads(Path(path).read_text())
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StorageError(f"{path}: not TOML ({error})") from None


def _check_keys(where: str, content: Mapping[str, Any], known: Sequence[str]) -> None:
    if not isinstance(content, Mapping):
        raise ExperimentError(f"{where}: a table is needed, not {content!r}")
    for key in content:
        if key not in known:
            raise ExperimentError(f"{where}: no key {key!r}; there are: {', '.join(sorted(known))}")


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
