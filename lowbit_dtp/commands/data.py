"""`lowbit-dtp data` and `lowbit-dtp data fetch`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import DataDir, Json
from .printing import print_result

app = typer.Typer(no_args_is_help=False, invoke_without_command=True)


@app.callback()
def data_found(context: typer.Context, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the data sets and where their files are found. `data fetch NAME` downloads one.

    [bold]Example[/bold]: lowbit-dtp data fetch mnist
    """
    if context.invoked_subcommand:
        return
    from ..data import SOURCES, find

    found = {name: {f.name: p and str(p) for f, p in find(name, data_dir)} for name in SOURCES}
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for name, files in found.items():
        print(f"{name}: {'ships in scikit-learn' if not files else ''}")
        for file, path in files.items():
            print(f"  {file:26} {path or 'not found'}")


@app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="mnist or fashion-mnist.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Download a data set and check it against its published digests, unless it is there."""
    from ..data import fetch

    print_result({name: list(map(str, fetch(name, data_dir)))}, as_json)


@app.command("convert")
def data_convert(
    copies: Annotated[Path, typer.Argument(help="Folder or tar archive with train/CLASS/*.jpg and test/CLASS/*.jpg.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make the binary batches of cifar10 from JPEG copies of its images; every result on them has a note.

    [bold]Example[/bold]: lowbit-dtp data convert cifar10-jpeg.tar.xz --data-dir data
    """
    from ..data import convert_cifar10

    print_result({"cifar10": list(map(str, convert_cifar10(copies, data_dir)))}, as_json)
