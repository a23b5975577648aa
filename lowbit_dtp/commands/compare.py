"""`lowbit-dtp compare`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .execution import observer, usable_device, use_threads
from .printing import print_summary

if TYPE_CHECKING:
    from ..experiment import Comparison


def compare(
    data: options.Data = None,
    rules: Annotated[str | None, typer.Option("--rules", help="dtp,straight-through@fixed(4,-2),... in order.")] = None,
    epochs: options.Epochs = None,
    patience: options.Patience = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Runs of each rule, with seeds 0, 1, ...")] = None,
    out: options.Out = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    batch: options.Batch = None,
    sizes: options.Sizes = None,
    activation: options.Activation = None,
    link: options.Links = None,
    weight: options.FewBitWeights = None,
    gradient: options.Gradient = None,
    optimizer: options.Optimizer = None,
    learning_rate: options.Rate = None,
    settings: options.Set = None,
    placement: options.PlacementOption = None,
    technology: options.Technologies = options.TECHNOLOGIES,
    export: Annotated[bool, typer.Option("--export/--no-export", help="Export the first rule's network as C.")] = True,
    weights: options.Weights = None,
    signals: options.Signals = "fixed(8,1)",
    jobs: options.Jobs = None,
    dask: options.Dask = "",
    threads: options.Threads = None,
    device: options.Device = "numpy",
    ensemble: Annotated[
        int | None, typer.Option("--ensemble", min=1, help="Most seeds to train in one batch.  (default: all)")
    ] = None,
    tf32: options.TF32 = False,
    diagnose: options.Diagnose = False,
    codings: options.Codings = None,
    tensorboard: options.Tensorboard = False,
    mlflow: options.Mlflow = False,
    as_json: options.Json = False,
) -> None:
    """Train the same network by several rules; compare error, bits and joules; write a report.

    The same command again continues where it was stopped, on another device if --device says so. As many runs as there
    are cores are trained at once, with a thread each; if one fails, the others go on.

    [bold]Example[/bold]: lowbit-dtp compare --data mnist --rules dtp,straight-through,fixed-lower --epochs 5 --seeds 1
    """
    from ..comparison import compare as run_comparison

    device = usable_device(device, tf32)
    comparison = options.comparison_of(
        data, config, epochs=epochs, batch=batch, sizes=sizes, link=link, placement=placement, activation=activation,
        optimizer=optimizer, learning_rate=learning_rate, settings=settings, weight=weight, seeds=seeds,
        compare=options.split(rules) if rules else None, codings=codings, patience=patience,
    )  # fmt: skip
    if gradient:
        _set_gradient(comparison, gradient)
    folder = out or Path("runs") / Path(comparison.content["data"]).stem  # which may be a path
    use_threads(threads)
    with observer(tensorboard, mlflow) as watching:
        summary = run_comparison(
            comparison, folder, data_dir=data_dir, technologies=options.technologies(technology), export=export,
            weights=options.weights_by_layer(weights), signals=signals, device=device, ensemble=ensemble,
            diagnose=diagnose, jobs=jobs, threads=threads, dask=dask, observer=watching,
        )  # fmt: skip
    if as_json:
        print(json.dumps(summary.as_dict(), indent=1))
        return
    print_summary(summary)
    print(f"\nreport    {folder / 'report.html'}")
    if summary.exported:
        exported = summary.exported
        print(f"export    {exported.folder} ({exported.rule}, {exported.weights}): C against golden vectors: "
              f"{exported.verify}")  # fmt: skip
    elif export:
        print(f"export    none: {summary.not_exported}")
    chain = [link for link in summary.network["links"] if not link.get("label")]
    middle = chain[len(chain) // 2]
    print(
        f"\nnext      lowbit-dtp price {folder} --placement {middle['lower']}-{middle['upper']}=on-die:5mm\n"
        f"          lowbit-dtp export {folder} --target mem --weights 'fixed<6,1>'\n"
        f"          lowbit-dtp compare --data mnist --epochs 5 --seeds 1"
    )


def _set_gradient(comparison: "Comparison", gradient: str) -> None:
    """Give plain straight-through the gradient format, also in its name."""
    from ..experiment import ExperimentError
    from ..formats import parse

    rules = comparison.rules
    if "straight-through" not in rules:
        raise ExperimentError(
            f"--gradient is the format of straight-through, which is not among the rules: {', '.join(rules)}"
        )
    name = f"straight-through@{parse(gradient).name}"
    comparison.content["compare"] = [name if rule == "straight-through" else rule for rule in rules]
