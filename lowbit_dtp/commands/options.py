"""Options that commands share, and what their texts mean."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..experiment import Comparison

TECHNOLOGIES = "45nm,7nm"

Run = Annotated[Path, typer.Argument(help="A run folder, or a comparison of several.", metavar="RUN")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Data = Annotated[str | None, typer.Option("--data", help="Data set: digits, mnist or fashion-mnist.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder to look for data sets in first.")]
Rule = Annotated[str | None, typer.Option("--rule", help="Only runs of this rule.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Only the run with this seed.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write.  (default: runs/DATA)")]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file whose keys override the data set's.")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes over the training data.")]
Batch = Annotated[int | None, typer.Option("--batch", help="Samples a minibatch.")]
Sizes = Annotated[str | None, typer.Option("--sizes", help="Neurons of each layer: 784-500-500-10.")]
Links = Annotated[
    list[str] | None,
    typer.Option("--link", help="Formats of a link: h1-h2=binary, or h1-h2=ternary/binary for up/down. Repeatable."),
]
Gradient = Annotated[
    str | None, typer.Option("--gradient", help="Format in which straight-through sends gradients: fixed(4,-2), ...")
]
Rate = Annotated[float | None, typer.Option("--learning-rate", help="Of the forward weights.")]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="numpy: compiled kernels; cpu, cuda: torch, all seeds in one batch; auto: cuda if there is one.",
    ),
]
TF32 = Annotated[bool, typer.Option("--tf32", help="Let a GPU round the factors of float32 products to 11 bits.")]
Threads = Annotated[int | None, typer.Option("--threads", help="Threads to use. Changes the speed, never a number.")]
PlacementOption = Annotated[
    str | None, typer.Option("--placement", help="Which wire each link is: h1-h2=board,rest=on-die:2mm.")
]
Technologies = Annotated[str, typer.Option("--technology", help="Technologies to price on, comma-separated.")]
Weights = Annotated[str, typer.Option("--weights", help="Fixed-point format of the weights: fixed(W,I).")]
Signals = Annotated[str, typer.Option("--signals", help="Format for links that were trained with real numbers.")]


def comparison_of(
    data: str | None, config: Path | None, epochs: int | None, batch: int | None, sizes: str | None,
    link: list[str] | None, gradient: str | None, placement: str | None, **more: Any,
) -> "Comparison":  # fmt: skip
    """The data set's experiment file, the user's, and the options, in rising order of precedence."""
    from ..experiment import Comparison, ExperimentError
    from ..formats import parse

    links = {}
    for text in link or []:
        name, equals, formats = text.partition("=")
        if not equals:
            raise ExperimentError(f"--link {text!r}: write LINK=FORMAT or LINK=UP/DOWN, h1-h2=binary say")
        up, _, down = formats.partition("/")
        links[name] = {"forward": parse(up).name, "feedback": parse(down or up).name}
    if sizes and not re.fullmatch(r"\d+(-\d+)+", sizes):
        raise ExperimentError(f"--sizes {sizes!r}: write the neurons of each layer with dashes between, 784-500-10 say")
    return Comparison.load(
        data, config, epochs=epochs, batch=batch, placement=placement, links=links or None,
        sizes=[int(size) for size in sizes.split("-")] if sizes else None,
        rules={"straight-through": {"gradient": parse(gradient).name}} if gradient else None,
        **more,
    )  # fmt: skip


def split(text: str) -> list[str]:
    """Parts between commas, but for commas in brackets.

    >>> split("dtp,straight-through@fixed(4,-2)")
    ['dtp', 'straight-through@fixed(4,-2)']
    """
    return [part.strip() for part in re.split(r",(?![^(<]*[)>])", text) if part.strip()]
