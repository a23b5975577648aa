"""`lowbit-dtp export`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .options import DataDir, Json, Rule, Run, Seed, Signals, Weights
from .printing import print_result


def export(
    run: Run,
    rule: Rule = None,
    seed: Seed = None,
    target: Annotated[
        str, typer.Option("--target", help="mem ($readmemh files), c (C99), verilog, qonnx or nir.")
    ] = "c",
    weights: Weights = None,
    signals: Signals = "fixed(8,1)",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write.  (default: RUN/export-TARGET)")] = None,
    fold: Annotated[
        str | None, typer.Option("--fold", help="verilog: outputs x inputs in parallel, 4x4, or h1=4x8,h2=8x4.")
    ] = None,
    target_cycles: Annotated[
        int | None, typer.Option("--target-cycles", help="verilog: the smallest folding with at most so many a frame.")
    ] = None,
    build: Annotated[
        str | None,
        typer.Option("--build", help="verilog: make a bitstream for ice40-hx8k, ecp5-85k, ... by yosys and nextpnr."),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Check all golden vectors.")] = True,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write a trained network as integers, with golden vectors at every link, and verify it bit for bit.

    [bold]Example[/bold]: lowbit-dtp export runs/demo --rule dtp --target c --weights 'fixed<8,1>'
    """
    from export import fpga

    from ..comparison import export_run
    from ..data import load
    from ..experiment import Experiment
    from ..runs import run_folders

    spec, number, folder = run_folders(run, rule, seed)[0]
    samples = load(Experiment.load(folder / "experiment.toml").data, data_dir)
    where = out or Path(run) / f"export-{target}"
    if build:
        fpga.check(target, build)
    options = {"fold": fold, "target_cycles": target_cycles}
    given = {name: value for name, value in options.items() if value is not None}
    exported = export_run(spec, folder, where, target, weights, signals, verify, samples, given)
    result = {"rule": spec, "seed": number, **asdict(exported)}
    if build:
        made = fpga.build(where, build, lambda line: print(line, file=sys.stderr))
        result["build"] = {**made.as_dict(), "tools": [f"{tool} {version}" for tool, version in made.tools.items()]}
    print_result(result, as_json)
    if exported.verify.startswith("failed"):
        raise typer.Exit(1)
