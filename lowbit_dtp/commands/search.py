"""`lowbit-dtp search`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .execution import score_text, usable_device, use_threads
from .printing import print_table

if TYPE_CHECKING:
    from ..search import Outcome, Search
    from ..search_report import RuleResult


def search(
    experiment: Annotated[
        str, typer.Argument(help="digits, mnist, fig3.3, ... or a TOML file.", metavar="EXPERIMENT")
    ] = "digits",
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trials of each rule.")] = 20,
    rules: Annotated[
        str | None, typer.Option("--rules", help="dtp,straight-through@ternary*0.05,... in order.")
    ] = None,
    epochs: options.Epochs = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each trial; their mean score counts.")] = 1,
    sampler: Annotated[str, typer.Option("--sampler", help="random, or tpe.")] = "random",
    pruner: Annotated[str, typer.Option("--pruner", help="median: stop trials that lag behind; or none.")] = "none",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the sampler.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write.  (default: runs/EXPERIMENT-search)")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="Where trials are kept: a journal file, sqlite:///FILE or postgresql://USER@HOST/NAME. "
            "Machines with the same share the trials.  (default: a journal in the folder)",
        ),
    ] = None,
    data_dir: options.DataDir = None,
    batch: options.Batch = None,
    sizes: options.Sizes = None,
    activation: options.Activation = None,
    link: options.Links = None,
    weight: options.FewBitWeights = None,
    optimizer: options.Optimizer = None,
    settings: options.Set = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Trials to train at once.  (default: one for each core)")
    ] = None,
    dask: Annotated[str, typer.Option("--dask", help="Address of a Dask scheduler whose workers train trials.")] = "",
    threads: options.Threads = None,
    device: options.Device = "numpy",
    ensemble: Annotated[
        int | None, typer.Option("--ensemble", min=1, help="Most trials to train in one batch on a device.")
    ] = None,
    tf32: options.TF32 = False,
    as_json: options.Json = False,
) -> None:
    """Search settings of rules by validation error, with as many trials and epochs for each; write an experiment file.

    The same command again continues where it was stopped; on several machines with one --storage, they share the work.

    [bold]Example[/bold]: lowbit-dtp search mnist --rules dtp,straight-through --trials 30 --epochs 5
    """
    from ..search import JOURNAL, Place, Search, run_search
    from ..search_report import BEST, PAGE, write_results

    device = usable_device(device, tf32)
    is_file = experiment.endswith(".toml")
    comparison = options.comparison_of(
        None if is_file else experiment, Path(experiment) if is_file else None, epochs=epochs, batch=batch,
        sizes=sizes, link=link, activation=activation, optimizer=optimizer, learning_rate=None, settings=settings,
        weight=weight, compare=options.split(rules) if rules else None,
    )  # fmt: skip
    folder = out or Path("runs") / f"{Path(experiment).stem if is_file else Path(experiment).name}-search"
    wanted = Search(comparison, trials, seeds, sampler, pruner, seed)
    kept = storage if storage and "://" in storage else str(Path(storage or folder / JOURNAL).absolute())
    place = Place(kept, f"{folder.name}: " if storage else "")
    use_threads(threads)
    found = run_search(
        wanted, place, data_dir=data_dir, jobs=jobs, device=device, ensemble=ensemble, dask=dask, on_trial=_said
    )
    rows = write_results(folder, wanted, place, found)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    print_search(wanted, rows)
    print(f"\nbest      {folder / BEST}\npage      {folder / PAGE}")
    print(f"next      lowbit-dtp compare --config {folder / BEST}")


def _said(outcome: "Outcome") -> None:
    """A line on standard error for a finished trial."""
    settings = ", ".join(f"{name} {value}" for name, value in outcome.settings.items())
    result = outcome.note or f"validation score {outcome.score:.4g}"
    print(f"{outcome.rule} trial {outcome.number}: {result} ({settings})", file=sys.stderr, flush=True)


def print_search(wanted: "Search", rows: "list[RuleResult]") -> None:
    """The best settings of each rule."""
    lines = []
    for row in rows:
        score = "none" if row.score is None else score_text(row.score, row.measure)
        settings = ",\n".join(f"{name} = {value}" for name, value in row.settings.items())
        lines.append(
            [row.rule.replace("@", "\n@"), score, f"{row.trials}", f"{row.stopped}", f"{row.epochs}", settings]
        )
    runs = f"{wanted.seeds} run(s) of {wanted.epochs} epoch(s)"
    columns = ("rule", "validation", "trials", "ended\nearly", "epochs", "best settings")
    print_table(f"{wanted.trials} trials of each rule, each {runs}", columns, lines)
