"""`lowbit-dtp train`."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .execution import observer, usable_device, use_threads
from .printing import print_result

if TYPE_CHECKING:
    from ..experiment import Experiment


def train(
    data: options.Data = None,
    rule: options.Spec = "dtp",
    epochs: options.Epochs = None,
    patience: options.Patience = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of weights, noise and order of samples.")] = 0,
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
    start: options.Start = None,
    threads: options.Threads = None,
    device: options.Device = "numpy",
    tf32: options.TF32 = False,
    diagnose: options.Diagnose = False,
    codings: options.Codings = None,
    split: options.Split = None,
    tensorboard: options.Tensorboard = False,
    mlflow: options.Mlflow = False,
    as_json: options.Json = False,
) -> None:
    """Train one network by one rule, into one run folder. The same command again continues where it was stopped.

    [bold]Example[/bold]: lowbit-dtp train --data digits --rule dtp --link h1-h2=ternary --out runs/ternary
    """
    from .. import ledger as ledgers
    from ..batches import Batch
    from ..data import load
    from ..runs import save_curves
    from ..storage import read_json
    from ..summary import link_rows

    device = usable_device(device, tf32)
    comparison = options.comparison_of(
        data, config, epochs=epochs, batch=batch, sizes=sizes, link=link, activation=activation, optimizer=optimizer,
        learning_rate=learning_rate, settings=settings, weight=weight, codings=codings, patience=patience,
        start=str(start) if start else None,
    )  # fmt: skip
    folder = out or Path("runs") / f"{Path(comparison.content['data']).stem}-train"
    rule = options.with_gradient(rule, gradient) if gradient else rule
    experiment = comparison.experiment(rule, seed)
    experiment.built()  # raises errors before training
    use_threads(threads)
    name = comparison.content["data"]
    if split:
        if device != "numpy" or diagnose:
            raise ValueError("--split trains on NumPy arrays without diagnosis; leave out --device and --diagnose")
        if not _train_split(experiment, rule, folder, name, data_dir, split, tensorboard, mlflow):
            return
    else:
        samples = load(name, data_dir)
        with observer(tensorboard, mlflow) as watching:
            watching.announce(rule, experiment)
            Batch(rule, (experiment,), (folder,)).train(samples, watching, device=device, diagnose=diagnose)
    save_curves(folder)
    links = link_rows(**ledgers.load(folder / "ledger.json"))
    result = {key: value for key, value in read_json(folder / "run.json").items() if key.endswith(("percent", "epoch"))}
    result |= {"folder": str(folder), "links": {name: asdict(row) for name, row in links.items()}}
    print_result(result, as_json)


def _train_split(
    experiment: "Experiment",
    rule: str,
    folder: Path,
    name: str,
    data_dir: Path | None,
    split: str,
    tensorboard: bool,
    mlflow: bool,
) -> bool:
    """Train on the ranks of torchrun; whether this is rank 0, which tells what happens."""
    from ..data import load, outline
    from ..distributed.process_group import ProcessGroup
    from ..distributed.runs import run_split

    with ProcessGroup() as ranks:
        work = partial(run_split, experiment, folder, partial(load, name, data_dir), split, ranks)
        if ranks.rank != 0:
            work()
            return False
        with observer(tensorboard, mlflow) as watching:
            watching.announce(rule, experiment)
            watching = watching.begin(rule, (experiment,), (folder,), outline(name, data_dir).train)
            try:
                work(on_step=watching.step, on_evaluation=partial(watching.evaluated, 0))
            finally:
                watching.end()
    return True
