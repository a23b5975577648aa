"""Options that commands share, and their parsing."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hw_models import HardwareConfig

    from ..experiment import Comparison

TECHNOLOGIES = "45nm,7nm"

Run = Annotated[Path, typer.Argument(help="A run folder, or a comparison of several.", metavar="RUN")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Data = Annotated[
    str | None,
    typer.Option("--data", help="digits, mnist, fashion-mnist, cifar10, or a .npz file or folder of IDX files."),
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder to look for data sets in first.")]
Spec = Annotated[str, typer.Option("--rule", help="Learning rule, or rule@gradient format.")]
Rule = Annotated[str | None, typer.Option("--rule", help="Only runs of this rule.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Only the run with this seed.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write.  (default: runs/DATA)")]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file whose keys override the data set's.")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes over the training data.")]
Batch = Annotated[int | None, typer.Option("--batch", help="Samples a minibatch.")]
Sizes = Annotated[str | None, typer.Option("--sizes", help="Neurons of each layer: 784-500-500-10.")]
Links = Annotated[
    list[str] | None,
    typer.Option(
        "--link", help="Formats of a link: h1-h2=binary, or h1-h2=ternary/binary for forward/feedback. Repeatable."
    ),
]
FewBitWeights = Annotated[
    list[str] | None,
    typer.Option(
        "--weight", help="Few-bit weights to train: h1=ternary, h1.feedback=binary, rest=fixed(4). Repeatable."
    ),
]
Gradient = Annotated[
    str | None, typer.Option("--gradient", help="Format in which straight-through sends gradients: fixed(4,-2), ...")
]
Activation = Annotated[str | None, typer.Option("--activation", help="Of hidden layers: tanh, relu, ...")]
Optimizer = Annotated[str | None, typer.Option("--optimizer", help="rmsprop, sgd, ...")]
Rate = Annotated[float | None, typer.Option("--learning-rate", help="Of forward weights, for every rule.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A key of the experiment file and its TOML value: rules.dtp.target_step=2.8. Repeatable."
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(
        "--patience", help="Stop a run when its validation score has not improved for so many epochs.  (default: never)"
    ),
]
Best = Annotated[
    bool, typer.Option("--best", help="The network of the epoch with the best validation score, not the last.")
]
Start = Annotated[
    Path | None,
    typer.Option(
        "--start", help="Run folder or network file whose hidden layers give the first weights.", metavar="RUN"
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="numpy: compiled kernels; cpu, cuda: torch, all seeds in one batch; auto: cuda if there is one.",
    ),
]
TF32 = Annotated[bool, typer.Option("--tf32", help="Let a GPU round the factors of float32 products to 11 bits.")]
Threads = Annotated[
    int | None, typer.Option("--threads", help="Threads to use, of each run. Changes the speed, not the results.")
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        envvar="LOWBIT_DTP_JOBS",
        help="Runs to train at once, each in a process of its own.  (default: the number of cores; on a GPU, 1)",
    ),
]
Dask = Annotated[
    str,
    typer.Option(
        "--dask", help="Train on the workers of the Dask scheduler at this address, or of this scheduler file."
    ),
]
Diagnose = Annotated[
    bool,
    typer.Option(
        "--diagnose",
        help="Compare updates with backpropagation's and measure targets and inverses, layer by layer, each epoch.",
    ),
]
Codings = Annotated[
    str | None,
    typer.Option(
        "--codings", help="Also count the bits of messages with these codings: all, or events,flips,... Slower."
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split", help="Layers of each rank of torchrun: 'h1|h2,output' for two ranks. See docs/distributed.md."
    ),
]
Tensorboard = Annotated[bool, typer.Option("--tensorboard", help="Also log curves for TensorBoard.")]
Mlflow = Annotated[bool, typer.Option("--mlflow", help="Also log runs with MLflow, at $MLFLOW_TRACKING_URI.")]
PlacementOption = Annotated[
    str | None, typer.Option("--placement", help="Wire of each link: h1-h2=board,rest=on-die:2mm.")
]
Memory = Annotated[
    str,
    typer.Option(
        "--memory",
        help="How weights are held: sram, dram, stationary, in-memory; or h1=dram,h2.feedback=sram,rest=stationary.",
    ),
]
Reuse = Annotated[
    str,
    typer.Option("--reuse", help="Samples that share a read of weights and a write of gradients: 50, or h1=50,rest=1."),
]
WordBits = Annotated[int, typer.Option("--word-bits", help="Pad each message to words of so many bits.")]
FeedbackEnds = Annotated[
    str, typer.Option("--feedback-weights", help="End of a link where its feedback weights are: h1-h2=upper.")
]
Baselines = Annotated[
    bool,
    typer.Option("--baselines/--no-baselines", help="Also backpropagation and straight-through, as they would be."),
]
OfMachine = Annotated[
    str | None,
    typer.Option("--machine", help="Price on this machine, in place of technologies: loihi, or a .toml file."),
]
Technologies = Annotated[str, typer.Option("--technology", help="Technologies to price on, comma-separated.")]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="Weights: a number of bits, whose scale each layer chooses; or a format, fixed(W,I); or h1=4,output=8.  "
        "(default: as trained, and fixed(8,1) of floats)",
    ),
]
Signals = Annotated[str, typer.Option("--signals", help="Format for links that were trained with real numbers.")]


def comparison_of(
    data: str | None, config: Path | None, *, sizes: str | None, link: Sequence[str] | None, optimizer: str | None,
    learning_rate: float | None, settings: Sequence[str] | None, weight: Sequence[str] | None = None,
    codings: str | None = None, patience: int | None = None, **more: Any,
) -> "Comparison":  # fmt: skip
    """The data set's experiment file, the user's, and the options, in rising order of precedence.

    `settings` are the texts of `--set`; all other options take precedence over them.
    """
    from ..experiment import Comparison, ExperimentError

    if sizes and not re.fullmatch(r"\d+(-\d+)+", sizes):
        raise ExperimentError(f"--sizes {sizes!r}: write the neurons of each layer with dashes between, 784-500-10 say")
    optimizing = {"name": optimizer, "learning_rate": learning_rate}
    overrides: dict[str, Any] = more | {
        "sizes": [int(size) for size in sizes.split("-")] if sizes else None,
        "links": _links(link or []) or None,
        "weights": _weights(weight or []) or None,
        "codings": split(codings) if codings else None,
        "stopping": {"patience": patience} if patience is not None else None,
        "optimizer": {key: value for key, value in optimizing.items() if value is not None} or None,
    }
    for text in settings or []:
        keys, value = setting(text)
        table = overrides
        for key in keys[:-1]:
            table[key] = table.get(key) or {}
            table = table[key]
        table[keys[-1]] = value
    return Comparison.load(data, config, **overrides)


def _links(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    from ..experiment import ExperimentError
    from ..formats import parse

    links = {}
    for text in texts:
        name, equals, formats = text.partition("=")
        if not equals:
            raise ExperimentError(f"--link {text!r}: write LINK=FORMAT or LINK=FORWARD/FEEDBACK, h1-h2=binary say")
        forward, _, feedback = formats.partition("/")
        links[name] = {"forward": parse(forward).name, "feedback": parse(feedback or forward).name}
    return links


def _weights(texts: Sequence[str]) -> dict[str, str]:
    from ..experiment import ExperimentError

    weights = {}
    for text in texts:
        name, equals, given = (part.strip() for part in text.partition("="))
        if not (name and equals and given):
            raise ExperimentError(f"--weight {text!r}: write LAYER=FORMAT or LAYER.ARRAY=FORMAT, h1=ternary say")
        weights[name] = given
    return weights


def setting(text: str) -> tuple[list[str], Any]:
    """Keys and value of a `--set`; a word that is not a TOML value is a string.

    Raises ExperimentError if it cannot be read, or names an unknown key.

    >>> setting("rules.dtp.target_step=2.8"), setting("activation=relu")
    ((['rules', 'dtp', 'target_step'], 2.8), (['activation'], 'relu'))
    """
    from ..experiment import ExperimentError

    name, equals, given = (part.strip() for part in text.partition("="))
    if not (name and equals and given):
        raise ExperimentError(f"--set {text!r}: write KEY=VALUE, rules.dtp.target_step=2.8 say")
    keys = name.split(".")
    for depth in range(len(keys)):
        known = _keys_in(keys[:depth])
        if known and keys[depth] not in known:
            table = f"table {'.'.join(keys[:depth])}" if depth else "an experiment file"
            raise ExperimentError(f"--set {text}: no key {keys[depth]!r} in {table}; there are: {', '.join(known)}")
        if known is None:
            raise ExperimentError(f"--set {text}: {'.'.join(keys[:depth])} is no table, so it has no keys")
    if _keys_in(keys) is not None:
        raise ExperimentError(f"--set {text}: {name} is a table; write {name}.KEY=VALUE")
    try:
        return keys, tomllib.loads(f"value = {given}")["value"]
    except tomllib.TOMLDecodeError:
        if not re.fullmatch(r"[A-Za-z][\w@().,*<> -]*", given):
            raise ExperimentError(
                f'--set {text}: {given!r} is no TOML value: a number, a word, "text", [1, 2]'
            ) from None
        return keys, given


def _keys_in(table: Sequence[str]) -> list[str] | None:
    """Known keys of a table of an experiment file; an empty list if any key is allowed, None if it is not a table."""
    from ..experiment import Comparison, rule_keys
    from ..optimizers import OPTIMIZERS
    from ..rules import RULES

    match table:
        case []:
            return sorted(key for key in Comparison.TYPES if key != "data")
        case ["rules"] | ["search"]:
            return sorted(RULES)
        case ["rules" | "search", rule]:
            return rule_keys(rule)
        case ["optimizer"]:
            names = {field.name for kind in OPTIMIZERS.values() for field in fields(kind)}
            return sorted({"name", *names} - {"state"})
        case ["stopping"]:
            return ["patience"]
        case ["links"] | ["weights"]:
            return []
        case ["links", _]:
            return ["feedback", "forward"]
    return None


def takes_gradient(rule: str) -> bool:
    """Whether a rule has a setting for the format of gradients."""
    from ..rules import rule_named

    return "gradient" in {field.name for field in fields(rule_named(rule))}  # type: ignore[arg-type]


def technologies(text: str) -> list[str]:
    """Names of technologies, between commas. An empty text is an unknown name, for which loading lists the known."""
    return split(text) or [text]


def hardware(
    placement: str, memory: str, reuse: str, word_bits: int, feedback_weights: str, coding: str = ""
) -> "HardwareConfig":
    """The machine that the options describe."""
    from hw_models.hardware import parsed_choices, parsed_table

    from ..comparison import placement_of

    return placement_of(
        placement, memory=parsed_choices(memory, "--memory", str), reuse=parsed_choices(reuse, "--reuse", float),
        word_bits=word_bits, feedback_weights=parsed_table(feedback_weights, "--feedback-weights", str, "h1-h2=upper"),
        coding=parsed_table(coding, "--coding", str, "h1-h2.feedback=silence"),
    )  # fmt: skip


def with_gradient(rule: str, gradient: str) -> str:
    """`rule` with the format of its gradients."""
    from ..experiment import ExperimentError
    from ..rules import RULES

    if "@" in rule:
        raise ExperimentError(f"--gradient {gradient}: rule {rule!r} names a gradient format already")
    if not takes_gradient(rule):
        known = ", ".join(name for name in sorted(RULES) if takes_gradient(name))
        raise ExperimentError(f"--gradient {gradient}: {rule} takes no gradient format; rules that take one: {known}")
    return f"{rule}@{gradient}"


def weights_by_layer(text: str | None) -> str | dict[str, str] | None:
    """The formats of `--weights`: one for all layers, or by layer, `rest` being the others.

    >>> weights_by_layer("fixed(4,1)"), weights_by_layer("h1=fixed(4,1),rest=8")
    ('fixed(4,1)', {'h1': 'fixed(4,1)', 'rest': '8'})
    """
    from ..experiment import ExperimentError

    if text is None or "=" not in text:
        return text
    weights: dict[str, str] = {}
    for part in split(text):
        name, equals, given = (x.strip() for x in part.partition("="))
        if not (name and equals and given) or name in weights:
            raise ExperimentError(f"--weights {text!r}: write FORMAT, or LAYER=FORMAT,..., h1=4,rest=8 say")
        weights[name] = given
    return weights


def split(text: str) -> list[str]:
    """Parts between commas, except commas in brackets.

    >>> split("dtp,straight-through@fixed(4,-2)")
    ['dtp', 'straight-through@fixed(4,-2)']
    """
    return [part.strip() for part in re.split(r",(?![^(<]*[)>])", text) if part.strip()]
