"""`lowbit-dtp reproduce`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .execution import observer, usable_device, use_threads
from .printing import print_table, print_text


def reproduce(
    name: Annotated[str, typer.Argument(help="fig3.2, fig3.2-relu, cifar10, fig3.3, table3.1 or fig3.4.")],
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Fewer epochs than published.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Fewer seeds than published.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write.  (default: runs/NAME)")] = None,
    data_dir: options.DataDir = None,
    technology: options.Technologies = options.TECHNOLOGIES,
    jobs: options.Jobs = None,
    dask: options.Dask = "",
    threads: options.Threads = None,
    device: options.Device = "numpy",
    ensemble: Annotated[
        int | None, typer.Option("--ensemble", min=1, help="Most seeds to train in one batch.  (default: all)")
    ] = None,
    tf32: options.TF32 = False,
    tensorboard: options.Tensorboard = False,
    as_json: options.Json = False,
) -> None:
    """Train an experiment of the thesis; show its results beside the published ones, and write a page.

    It takes as many epochs and seeds as published, which may be days; with fewer, the page says so. The same command
    again continues where it was stopped, and a finished one continues to more --epochs and --seeds.

    [bold]Example[/bold]: lowbit-dtp reproduce fig3.3 --epochs 30 --seeds 3
    """
    from ..reproduction import PAGE, in_cells
    from ..reproduction import reproduce as run

    device = usable_device(device, tf32)
    use_threads(threads)
    folder = out or Path("runs") / name
    with observer(tensorboard) as watching:
        made = run(
            name, folder, epochs=epochs, seeds=seeds, data_dir=data_dir,
            technologies=options.technologies(technology), device=device, ensemble=ensemble, jobs=jobs, threads=threads,
            dask=dask, observer=watching,
        )  # fmt: skip
    if as_json:
        print(json.dumps(made.as_dict(), indent=1))
        return
    columns = ("rule", "quantity", "published", "measured", "best epoch")
    lines = [
        [row["rule"], row["quantity"], *(",\n".join(filter(None, map(row.get, names))) for names in
         (("published", "note", "of"), ("measured", "of_measured"))), row["chosen"]]
        for row in map(in_cells, made.lines)
    ]  # fmt: skip
    print_table(f"{name}: published and measured", columns, lines, left=2)
    print_text(f"Scale: {made.scale or 'as published'}.")
    print(f"\npage      {folder / PAGE}\nnext      lowbit-dtp results save {folder} --out results/{name}")
