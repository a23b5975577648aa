"""`lowbit-dtp results`, `lowbit-dtp results save` and `lowbit-dtp results draw`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Json
from .printing import print_result, print_table

app = typer.Typer(no_args_is_help=True, help="Small folders with the results of runs, and what is drawn from them.")

Root = Annotated[
    Path, typer.Option("--root", help="Folder with results/findings.toml and docs.  (default: here)", metavar="FOLDER")
]


@app.command("save")
def results_save(
    run: Annotated[Path, typer.Argument(help="A run folder, a comparison, or a folder of them.", metavar="RUN")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write: results/NAME.", metavar="FOLDER")],
    as_json: Json = False,
) -> None:
    """Copy metrics, ledger, experiment and run.json of every run below RUN into a small folder, without weights.

    Runs that are under way are saved as far as they are.

    [bold]Example[/bold]: lowbit-dtp results save runs/fig3.3 --out results/fig3.3
    """
    from ..results import save

    saved = save(run, out)
    rows = [{"folder": str(x.folder), "epochs": x.epochs, "planned": x.planned} for x in saved]
    if as_json:
        print_result(rows, True)
        return
    lines = [[str(x.folder), str(x.epochs) + ("" if x.epochs == x.planned else f" of {x.planned}")] for x in saved]
    print_table(f"{len(saved)} run(s) saved", ("folder", "epochs"), lines)


@app.command("draw")
def results_draw(
    root: Root = Path(),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if something would change.")] = False,
    as_json: Json = False,
) -> None:
    """Draw the pictures of docs/pictures and write the tables of the docs, from the folder results alone.

    [bold]Example[/bold]: lowbit-dtp results draw
    """
    from ..findings import changed, write

    wrong = list(changed(root)) if check else write(root)
    print_result({"would change" if check else "written": list(map(str, wrong))}, as_json)
    if check and wrong:
        raise typer.Exit(1)
