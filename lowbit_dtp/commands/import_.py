"""`lowbit-dtp import`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import DataDir, Json
from .printing import print_result

DATA = {64: "digits", 784: "mnist", 3072: "cifar10"}
"""Data sets of the package by the number of their inputs."""


def import_(
    file: Annotated[Path, typer.Argument(help="An ONNX file with the quantizers of QONNX.", metavar="FILE")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write.  (default: runs/FILE)")] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Data set it is tested on.  (default: the one of the package with as many inputs)"),
    ] = None,
    data_dir: DataDir = None,
    input_factor: Annotated[
        float, typer.Option("--input-factor", help="What the file is given is inputs in [0, 1) times this: 256 say.")
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """Read a network of few-bit weights and signals that Brevitas, FINN or this program wrote, as a run.

    Whatever is between two layers becomes thresholds of whole numbers; classes are those of the file. The commands
    evaluate, export and price take the folder like a trained one.

    [bold]Example[/bold]: lowbit-dtp import tfc-w1a1.onnx --out runs/tfc && lowbit-dtp export runs/tfc --target c
    """
    from ..data import is_path, load
    from ..onnx_bridge import network_from_onnx
    from ..runs import save_imported
    from ..storage import StorageError

    name = data
    if name is None:
        inputs = network_from_onnx(file, "ufixed(8,0)", input_factor).sizes[0]
        if inputs not in DATA:
            raise StorageError(f"{file}: it takes {inputs} inputs, as no data set of the package has; give --data")
        name = DATA[inputs]
    samples = load(name, data_dir)
    net = network_from_onnx(file, samples.input_format, input_factor)
    folder = out or Path("runs") / file.stem
    error = save_imported(net, file, folder, samples, str(Path(name).absolute()) if is_path(name) else name)
    layers = {layer.name: layer.projection.number for layer in net.layers}
    links = {link.name: link.forward.name for link in net.links}
    print_result(
        {"folder": str(folder), "data": name, "sizes": net.sizes, "weights": layers, "links": links,
         "test_error_percent": error}, as_json,
    )  # fmt: skip
