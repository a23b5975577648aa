"""Experiments: everything that a run depends on, from a TOML file and overriding options."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from . import settings as checking
from .choices import choose
from .formats import parse
from .storage import StorageError

if TYPE_CHECKING:
    from .backends import Array
    from .data import DataSet, Outline
    from .network import Network
    from .optimizers import Optimizer
    from .rules import LearningRule
    from .tasks import Task

_RENAMED = {"noise_half_life": "half_noise_epoch", "stabilizer": "epsilon"}
"""Today's names of settings in experiments of version 0.1.0."""
OPTIMIZER_KEYS = ("learning_rate", "feedback_learning_rate", "shifts")
"""Settings in the table of a rule that belong to its optimizer."""
OF_ONE_RULE = ("sizes", "epochs", "batch", "activation", "output_activation", "initial_weights", "task", "links")
"""Keys of the file that the table of a rule may override for its experiments; also `optimizer`, a name."""


class ExperimentError(ValueError):
    """An experiment cannot be run as described; the message names the key or option and gives a valid choice."""


@dataclass(frozen=True)
class Experiment:
    """One run: everything that its numbers depend on."""

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
    """Name of the task; "" is the first of the rule's tasks."""
    links: dict[str, dict[str, str]] = field(default_factory=dict)
    """Formats `forward` and `feedback` of each link by name; float32 where not given."""
    weights: dict[str, str | dict[str, str]] = field(default_factory=dict)
    """Few-bit formats of weights, as `Network.quantize_weights` takes them; float32 where not given."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the rule, for example `gradient` or `target_step`."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """`name`, `learning_rate` and other settings of the optimizer."""
    start: str = ""
    """A run folder or network file with initial weights for layers: see `Network.start_from`. "": none."""
    codings: list[str] = field(default_factory=list)
    """Codings whose bits the ledger counts, too: names in `codings`, or "all"."""
    stopping: dict[str, int] = field(default_factory=dict)
    """`patience`: the run ends when the validation score has not improved for so many epochs. Empty: after `epochs`."""
    training_error: bool = False
    """Whether the training samples are evaluated after each epoch, too. Changes no other number."""
    plugins: list[str] = field(default_factory=list, compare=False)
    """Files, and packages, of the plug-ins that define the rule, the data set or a format."""

    def __post_init__(self) -> None:
        _check_numbers(vars(self))
        for name, hint in checking.hints(Experiment).items():
            _check_type(name, getattr(self, name), hint)
        _check_stopping(self.stopping)
        object.__setattr__(self, "codings", _coding_names(self.codings))

    def network(self, like: "Array | None" = None) -> "Network":
        """The untrained network, with its links as built; `like` is that of `Network.build`."""
        from .links import Link
        from .network import Network, link_names, long_link_names

        names = link_names(self.sizes)
        for name, given in self.links.items():
            if name not in (*names, *long_link_names(self.sizes)):
                sizes = "-".join(map(str, self.sizes))
                raise ExperimentError(f"links: no link {name!r} in a network {sizes}; there are: {', '.join(names)}")
            _check_formats(name, given)
        formats = [self.links.get(name, {}) for name in names]
        links = [Link(parse(x.get("forward", "float32")), parse(x.get("feedback", "float32"))) for x in formats]
        return Network.build(
            self.sizes,
            links,
            self.seed,
            self.activation,
            output_activation=self.output_activation,
            initial_weights=self.initial_weights,
            like=like,
        )

    def learned_task(self) -> "Task":
        """The task. ExperimentError if the rule cannot learn it."""
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

        rule: LearningRule = _made(f"rules.{self.rule}", rule_named(self.rule), self.settings)
        return rule

    def make_optimizer(self) -> "Optimizer":
        """The optimizer, with its settings and no state."""
        kind, settings = _optimizer(self.optimizer)
        if "learning_rate" not in settings:
            raise ExperimentError(f"rules.{self.rule}: no learning_rate; give one with --learning-rate")
        optimizer: Optimizer = _made("optimizer", kind, settings)
        return optimizer

    def built(self, like: "Array | None" = None) -> "tuple[Network, LearningRule, Optimizer]":
        """The untrained network, the rule and the optimizer. ValueError with the reason if they do not fit together.

        `like` is that of `Network.build`.
        """
        net, rule, optimizer = self.network(like), self.learning_rule(), self.make_optimizer()
        self.learned_task()
        rule.prepare(net, self.seed)
        names = [link.name for link in net.links]
        for name, given in self.links.items():
            if name not in names:
                raise ExperimentError(f"links: {self.rule} uses no link {name!r}; there are: {', '.join(names)}")
            net.links[names.index(name)] = replace(net.link(name), **given)  # type: ignore[arg-type]
        net.quantize_weights(self.weights, optimizer.keeps_master)
        if not optimizer.keeps_master and not any(p.flips(p.name) for x in net.layers for p in x.inputs.values()):
            raise ExperimentError(
                f"optimizer: {self.optimizer['name']} trains binary weights, and there are none; "
                'give some by weights, rest = "binary" say, or another optimizer'
            )
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

    def check_sizes(self, data: "DataSet | Outline") -> None:
        """Raise ExperimentError if the network does not fit `data`."""
        classify = self.learned_task().name == "classify"
        _check_ends(data.name, self.sizes, data.inputs, data.classes if classify else 1)

    def steps(self, samples: int) -> int:
        """Steps of the whole run on `samples` training samples, if it is not stopped early."""
        return self.epochs * len(self.learning_rule().phases) * -(-samples // self.batch)

    def as_toml(self) -> str:
        """The experiment as the text of `experiment.toml`."""
        import tomli_w

        content = asdict(self)
        if not self.start:
            del content["start"]
        for name in ("plugins", "codings", "stopping", "training_error"):
            if not content[name]:
                del content[name]
        return tomli_w.dumps(content)

    @classmethod
    def load(cls, path: Path) -> "Experiment":
        """The experiment in an `experiment.toml`. Raises StorageError if a plug-in that it needs is not loaded."""
        content = read_toml(path)
        _check_keys(str(path), content, [f.name for f in fields(cls)])
        missing = [name for name in checking.hints(cls, required=True) if name not in content]
        if missing:
            raise StorageError(f"{path}: not an experiment: it has no {', '.join(missing)}")
        for table in ("settings", "optimizer"):
            content[table] = _renamed(content.get(table, {}))
        try:
            experiment = cls(**content)
        except ExperimentError as error:
            raise ExperimentError(f"{path}: {error}") from None
        experiment._check_plugins(path)
        return experiment

    def _check_plugins(self, path: Path) -> None:
        """Raise StorageError if `path` names something that is not registered because its plug-in is not loaded."""
        if not self.plugins:
            return
        from .plugins import advice, check_data
        from .rules import rule_named

        try:
            rule_named(self.rule)
            check_data(self.data)
            self.network()
        except ValueError as error:
            raise StorageError(f"{path}: {error}; the run was made with a plug-in: {advice(self.plugins)}") from None


@dataclass(frozen=True)
class Published:
    """A published result of a rule, with which a run can be compared."""

    rule: str
    quantity: str
    """`test error`, `test accuracy`, `training error` or `training cost`."""
    source: str
    value: float | None = None
    """In percent, but for a cost; None where only a curve or words are published."""
    std: float | None = None
    epochs: int | None = None
    """None, as all that follow, where it is not published."""
    seeds: int | None = None
    note: str = ""
    """What is said in words."""
    after: str = ""
    """Rule whose trained layers this one begins with; "": none."""


@dataclass(frozen=True)
class Comparison:
    """A data set's experiments: the common part, and each rule's settings."""

    content: dict[str, Any]
    sources: dict[str, Path] = field(default_factory=dict, compare=False)
    """The file that a key of `content` comes from, where that is not the data set's file."""
    base: str = field(default="", compare=False)
    """What `load` began with: the name of a file of the package or of a data set, or the path of data."""
    published: tuple[Published, ...] = field(default=(), compare=False)
    """What is published of the experiment."""

    TYPES: ClassVar[dict[str, Any]] = {
        "data": str, "sizes": list[int], "activation": str, "output_activation": str, "initial_weights": str,
        "task": str, "epochs": int, "batch": int, "seeds": int, "compare": list[str], "placement": str,
        "links": dict[str, dict[str, str]], "weights": dict[str, str | dict[str, str]], "optimizer": dict[str, Any],
        "rules": dict[str, dict[str, Any]],
        "start": str, "codings": list[str], "stopping": dict[str, int], "training_error": bool,
        "search": dict[str, dict[str, Any]],
    }  # fmt: skip
    """Keys of an experiment file, with their types."""

    @classmethod
    def load(cls, data: str | None = None, config: Path | None = None, **overrides: Any) -> "Comparison":
        """The file of data set `data`, overridden by the file `config` and then by `overrides` that are not None.

        `data` may also be another file of the package, `table3.1` for example, which names its data set. `config` may
        name its data set; a relative path in it is relative to its folder, and `data` to the working directory. Your
        own data has the defaults of `_defaults`. Tables are merged key by key. In a network of other sizes, only the
        first link of the data set's file is used, which carries its inputs.
        Errors in `config` name it.
        """
        with _naming(config):
            over = cls._read(config) if config else {}
        known = {p.name.removesuffix(".toml"): p for p in (files(__package__) / "experiments").iterdir()}
        with _naming(None if data else config):
            data = _located(data, Path()) or _located(over.get("data"), Path(config or "").parent) or "digits"
            base = tomllib.loads(known[data].read_text()) if data in known else _defaults(data)
        published = tuple(_made("published", Published, table) for table in base.pop("published", []))
        overrides = {key: value for key, value in overrides.items() if value is not None}
        base["rules"] = _without(base["rules"], over, overrides)
        sizes: list[int] = _merge(_merge(base, over), overrides)["sizes"]
        is_of_file = "sizes" in over and "sizes" not in overrides
        with _naming(config if is_of_file else None):
            base["links"] = _links_in(sizes, base)
            base["placement"] = _placement_in(sizes, base)
            if is_of_file:  # `check_sizes` does not know that they are of `config`
                _check_ends(data, sizes, base["sizes"][0], base["sizes"][-1])
        with _naming(config):
            _check_choices(over, _merge(base, over), sizes)
        content = _merge(_merge(base, over), overrides)
        content["data"] = base["data"] if data in known else data
        sources = {key: config for key in over if config and key not in overrides}
        return cls(content, sources, data, published)

    def naming(self, key: str) -> AbstractContextManager[None]:
        """Within, errors begin with the name of the file that `key` comes from, if that is not the data set's file."""
        return _naming(self.sources.get(key))

    @classmethod
    def _read(cls, path: Path) -> dict[str, Any]:
        """The content of the file `path`, with keys and types checked."""
        content = read_toml(path)
        _check_keys("", content, list(cls.TYPES))
        _check_numbers(content)
        for key, value in content.items():
            _check_type(key, value, cls.TYPES[key])
        for rule, table in content.get("rules", {}).items():
            content["rules"][rule] = _renamed(table)
        for tables in ("rules", "search"):
            if tables in content:
                content[tables] = {canonical(spec): table for spec, table in content[tables].items()}
        return content

    @property
    def rules(self) -> list[str]:
        """Rules to compare, as `rule` or `rule@gradient format`."""
        return list(self.content["compare"])

    def named_rules(self) -> list[str]:
        """`rules`, with formats as they are named. Raises ExperimentError if one is named twice."""
        rules = [canonical(spec) for spec in self.rules]
        for rule in rules:
            if rules.count(rule) > 1:
                raise ExperimentError(f"rule {rule!r} is named {rules.count(rule)} times; each rule is compared once")
        return rules

    @property
    def seeds(self) -> int:
        """Runs of each rule."""
        return int(self.content.get("seeds", 1))

    @property
    def placement(self) -> str:
        """The kind of wire of each link, for the energy models."""
        return str(self.content.get("placement", ""))

    def experiment(self, spec: str, seed: int) -> Experiment:
        """The experiment with rule `spec` and `seed`.

        Settings are those of the table of the rule, overridden by those of the table `rule@gradient format`, if any.
        """
        from .plugins import origins

        rule, gradient = parts_of(spec)
        tables = self.content["rules"]
        settings = _merge(tables.get(rule, {}), tables.get(canonical(spec), {}))
        if gradient:
            settings["gradient"] = gradient
        optimizer = dict(self.content["optimizer"])
        if "optimizer" in settings:
            optimizer["name"] = settings.pop("optimizer")
        for key in OPTIMIZER_KEYS:
            if key in settings:
                value = settings.pop(key)
                optimizer.setdefault(key, value)
        names = (
            "data", "sizes", "epochs", "batch", "activation", "output_activation", "initial_weights", "task", "links",
            "weights", "start", "codings", "stopping", "training_error",
        )  # fmt: skip
        common = {name: deepcopy(self.content[name]) for name in names if name in self.content}
        own = {name: deepcopy(settings.pop(name)) for name in OF_ONE_RULE if name in settings}
        links = own.pop("links", {})
        common |= own
        if common["sizes"] != self.content["sizes"]:
            common["links"] = deepcopy(_links_of_one_rule(common["sizes"], self.content))
        common["links"] = _merge(common.get("links", {}), links)
        formats = [text for link in common.get("links", {}).values() for text in link.values()]
        formats += [settings["gradient"]] if "gradient" in settings else []
        plugins = origins([("rule", rule), ("data set", common["data"]), *(("format", text) for text in formats)])
        return Experiment(rule=rule, seed=seed, settings=settings, optimizer=optimizer, plugins=plugins, **common)


def _located(data: str | None, folder: Path) -> str | None:
    """`data`, as an absolute path if it is a path, so that a run finds it from every working directory."""
    from .data import is_path

    return str((folder / data).absolute()) if data and is_path(data) else data


def _defaults(data: str) -> dict[str, Any]:
    """An experiment for data that has no file of experiments: two hidden layers, float32 links, rules as for digits."""
    from .data import load

    samples = load(data)
    base = tomllib.loads((files(__package__) / "experiments" / "digits.toml").read_text())
    sizes = [samples.inputs, 100, 100, samples.classes]
    for table in base["rules"].values():
        if "sizes" in table:  # its own number of outputs, as for digits, or one for each class
            last = table["sizes"][-1]
            ends = {base["sizes"][0]: samples.inputs, base["sizes"][-1]: samples.classes}
            table["sizes"] = [samples.inputs, *table["sizes"][1:-1], ends.get(last, last)]
    return {**base, "sizes": sizes, "links": {}, "placement": "", "compare": ["dtp", "straight-through", "backprop"]}


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises StorageError naming `path` if it is not one."""
    try:
        return tomllib.loads(Path(path).read_text())
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StorageError(f"{path}: not TOML ({error})") from None


def _check_keys(where: str, content: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in content:
        if key not in known:
            prefix = f"{where}: " if where else ""
            raise ExperimentError(f"{prefix}no key {key!r}; there are: {', '.join(sorted(known))}")


def _check_type(name: str, value: Any, hint: Any) -> None:
    try:
        checking.check(name, value, hint)
    except ValueError as error:
        raise ExperimentError(str(error)) from None


def _check_numbers(content: Mapping[str, Any]) -> None:
    for name, least in (("epochs", 0), ("batch", 1), ("seed", 0), ("seeds", 1)):
        value = content.get(name, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ExperimentError(f"{name} must be a whole number, {least} or more, not {value!r}")


def _check_stopping(stopping: Mapping[str, int]) -> None:
    _check_keys("stopping", stopping, ("patience",))
    if stopping.get("patience", 1) < 1:
        raise ExperimentError(f"stopping.patience must be 1 epoch or more, not {stopping['patience']}")


def _check_ends(data: str, sizes: Sequence[int], inputs: int, classes: int) -> None:
    if sizes[0] != inputs:
        raise ExperimentError(f"sizes: {data} has {inputs} inputs, not {sizes[0]}")
    if sizes[-1] < classes:
        raise ExperimentError(f"sizes: {data} has {classes} classes, so {sizes[-1]} outputs are few")


def _check_formats(link: str, given: Mapping[str, Any]) -> None:
    """Raise ExperimentError unless `given` are formats of the link called `link`, by direction."""
    _check_keys(f"links.{link}", given, ("forward", "feedback"))
    for direction, text in given.items():
        _check_format(f"links.{link}.{direction}", text)


def _check_format(name: str, text: Any) -> None:
    _check_type(name, text, str)
    try:
        parse(text)
    except ValueError as error:
        raise ExperimentError(f"{name}: {error}") from None


def _made(table: str, kind: type, settings: Mapping[str, Any]) -> Any:
    """An object of the dataclass `kind` with `settings`. Raises ExperimentError naming `table` and the setting."""
    hints = {name: hint for name, hint in checking.hints(kind).items() if name != "state"}
    _check_keys(table, settings, list(hints))
    for name, value in settings.items():
        _check_type(f"{table}.{name}", value, hints[name])
    if "gradient" in settings:
        _check_format(f"{table}.gradient", settings["gradient"])
    missing = [name for name in checking.hints(kind, required=True) if name not in settings]
    if missing:
        raise ExperimentError(f"{table}: no {', '.join(missing)}")
    try:
        return kind(**settings)
    except ValueError as error:
        raise ExperimentError(f"{table}: {error}") from None


def _optimizer(table: Mapping[str, Any]) -> "tuple[type[Optimizer], dict[str, Any]]":
    """The kind of optimizer that `table` names, and its other settings."""
    from .optimizers import OPTIMIZERS

    settings = dict(table)
    name = settings.pop("name", "rmsprop")
    _check_type("optimizer.name", name, str)
    return choose("optimizer", name, OPTIMIZERS), settings


def parts_of(spec: str) -> tuple[str, str]:
    """The parts of `rule` or `rule@gradient format`, the format as it is named; empty if there is none."""
    from .rules import rule_named

    rule, at, gradient = spec.partition("@")
    kind = rule_named(rule)
    if at and "gradient" not in {f.name for f in fields(kind)}:  # type: ignore[arg-type]
        raise ExperimentError(f"rule {spec!r}: {rule} takes no gradient format")
    return rule, parse(gradient).name if at else ""


def canonical(spec: str) -> str:
    """`spec`, a `rule` or `rule@gradient format`, with the format as it is named.

    >>> canonical("straight-through@fixed<4,-2>")
    'straight-through@fixed(4,-2)'
    """
    name, at, gradient = spec.partition("@")
    return f"{name}@{parse(gradient).name}" if at else name


def rule_keys(rule: str) -> list[str]:
    """Keys of the table of `rule` in an experiment file."""
    from .rules import rule_named

    own = (f.name for f in fields(rule_named(rule)))  # type: ignore[arg-type]
    return sorted({*own, *OPTIMIZER_KEYS, *OF_ONE_RULE, "optimizer"})


def with_settings(comparison: Comparison, spec: str, settings: Mapping[str, Any]) -> tuple[Comparison, str]:
    """`comparison` with `settings` in the table of rule `spec`, by keys with dots for tables within; and the rule.

    The rule is another one if `spec` has a gradient format and `settings` another.
    """
    table: dict[str, Any] = {}
    for name, value in settings.items():
        *path, key = name.split(".")
        inner = table
        for part in path:
            inner = inner.setdefault(part, {})
        inner[key] = value
    spec, tables = canonical(spec), comparison.content["rules"]
    before = tables.get(spec, {})
    if "@" in spec and "gradient" in table:
        spec = canonical(f"{parts_of(spec)[0]}@{table.pop('gradient')}")
    return replace(comparison, content=comparison.content | {"rules": tables | {spec: _merge(before, table)}}), spec


def _links_in(sizes: Sequence[int], base: Mapping[str, Any]) -> dict[str, Any]:
    """Links of the data set's file `base` that are used in a network of `sizes`."""
    from .network import link_names

    names, links = link_names(sizes), base.get("links", {})
    if list(sizes) == base["sizes"]:
        return dict(links)
    return {name: link for name, link in links.items() if name == names[0] and sizes[0] == base["sizes"][0]}


def _links_of_one_rule(sizes: Sequence[int], content: Mapping[str, Any]) -> dict[str, Any]:
    """Links in `content` for a rule with its own `sizes`: the first link has the same format as in other networks."""
    from .network import link_names

    names, links = link_names(sizes), content.get("links", {})
    inputs = links.get(link_names(content["sizes"])[0])
    first = {names[0]: inputs} if inputs and sizes[0] == content["sizes"][0] else {}
    return first | {name: link for name, link in links.items() if name in names}


def _without(rules: Mapping[str, Mapping[str, Any]], *given: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of `rules` without the keys that are `given` for all rules, link by link: options take precedence."""
    names = {name for over in given for name in OF_ONE_RULE if name in over} - {"links"}
    if any("name" in over.get("optimizer", {}) for over in given):
        names.add("optimizer")
    kept = {rule: {key: x for key, x in table.items() if key not in names} for rule, table in rules.items()}
    links = {name for over in given for name in over.get("links", {})}
    for table in kept.values():
        if "links" in table:
            table["links"] = {name: x for name, x in table["links"].items() if name not in links}
    return kept


def _placement_in(sizes: Sequence[int], base: Mapping[str, Any]) -> str:
    """Placement in the data set's file `base` of the links that are in a network of `sizes`."""
    from .network import link_names

    known = (*link_names(sizes), "rest")
    return ",".join(x for x in base.get("placement", "").split(",") if x.partition("=")[0].strip() in known)


def _check_choices(given: Mapping[str, Any], merged: Mapping[str, Any], sizes: Sequence[int]) -> None:
    """Raise ValueError if a file names something unknown, in a network of `sizes`. `merged` includes the defaults."""
    from .activations import ACTIVATIONS
    from .network import link_names, long_link_names
    from .rules import rule_named

    if "activation" in given:
        choose("activation", given["activation"], ACTIVATIONS)
    for name, formats in given.get("links", {}).items():
        if name not in long_link_names(sizes):
            choose("link", name, dict.fromkeys(link_names(sizes)))
        _check_formats(name, formats)
    if "optimizer" in given or "rules" in given:
        kind, optimizer = _optimizer(merged["optimizer"])
        _made("optimizer", kind, {"learning_rate": 1.0} | optimizer)
    for rule in given.get("rules", {}):
        settings = dict(merged["rules"][rule])
        for key in OF_ONE_RULE:
            if key in settings:
                _check_type(f"rules.{rule}.{key}", settings.pop(key), Comparison.TYPES[key])
        own, _ = _optimizer({"name": settings.pop("optimizer")}) if "optimizer" in settings else (kind, {})
        rates = {key: settings.pop(key) for key in OPTIMIZER_KEYS if key in settings}
        _made(f"rules.{rule}", own, {"learning_rate": 1.0} | rates)
        _made(f"rules.{rule}", rule_named(parts_of(rule)[0]), settings)
    _coding_names(given.get("codings", []))
    _check_stopping(given.get("stopping", {}))
    if "compare" in given and not given["compare"]:
        raise ExperimentError("compare must name at least one rule, not []")
    for spec in given.get("compare", []):
        parts_of(spec)


def _coding_names(names: Sequence[str]) -> list[str]:
    """Codings and bounds that `names` stand for. ExperimentError if there is no such."""
    from .codings import coding_names

    try:
        return list(coding_names(names))
    except ValueError as error:
        raise ExperimentError(f"codings: {error}") from None


def _renamed(settings: Any) -> Any:
    """Settings with today's names."""
    return {_RENAMED.get(k, k): v for k, v in settings.items()} if isinstance(settings, Mapping) else settings


@contextmanager
def _naming(path: Path | None) -> Iterator[None]:
    """Let errors about the content of `path` begin with its name."""
    try:
        yield
    except StorageError:
        raise
    except ValueError as error:
        if path is None:
            raise
        raise ExperimentError(f"{path}: {error}") from None


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
