"""`lowbit-dtp train`."""

from pathlib import Path
from typing import Annotated

import typer

from .execution import load_data, logging, progress, usable_device
from .options import (
    TF32,
    Batch,
    Config,
    Data,
    DataDir,
    Device,
    Epochs,
    Gradient,
    Json,
    Links,
    Out,
    Rate,
    Sizes,
    Threads,
    comparison_of,
)
from .printing import print_result


def train(
    data: Data = None,
    rule: Annotated[str, typer.Option("--rule", help="Learning rule, or rule@gradient format.")] = "dtp",
    epochs: Epochs = None,
    seed: Annotated[int, typer.Option("--seed", help="Of weights, noise and order.")] = 0,
    out: Out = None,
    config: Config = None,
    data_dir: DataDir = None,
    batch: Batch = None,
    sizes: Sizes = None,
    link: Links = None,
    gradient: Gradient = None,
    learning_rate: Rate = None,
    threads: Threads = None,
    device: Device = "numpy",
    tf32: TF32 = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log curves for TensorBoard, too.")] = False,
    as_json: Json = False,
) -> None:
    """Train one network by one rule, into one run folder. The same command again goes on where it was stopped.

    [bold]Example[/bold]: lowbit-dtp train --data digits --rule dtp --link h1-h2=ternary --out runs/ternary
    """
    from .. import ledger as ledgers
    from ..runs import link_row, run_ensemble
    from ..storage import read_json

    device = usable_device(device, tf32)
    comparison = comparison_of(data, config, epochs, batch, sizes, link, gradient, None)
    if learning_rate is not None:
        comparison.content["optimizer"]["learning_rate"] = learning_rate
    folder = out or Path("runs") / f"{comparison.content['data']}-train"
    experiment = comparison.experiment(rule, seed)
    experiment.built()  # raises now what training would raise
    with progress() as bar, logging([folder], tensorboard) as log:
        samples = load_data(comparison, data_dir, threads)
        on_step = bar(rule, experiment.steps(len(samples.train)))
        run_ensemble([experiment], [folder], samples, device=device, on_step=on_step, on_evaluation=log)
    books = ledgers.load(folder / "ledger.json")
    result = {key: value for key, value in read_json(folder / "run.json").items() if key.endswith(("percent", "epoch"))}
    result |= {"folder": str(folder), "links": {x: link_row(x, **books) for x in books["training"].links()}}
    print_result(result, as_json)
