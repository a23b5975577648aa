"""`lowbit-dtp export`."""

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
    target: Annotated[str, typer.Option("--target", help="mem ($readmemh files), c (C99), nir or qonnx.")] = "c",
    weights: Weights = None,
    signals: Signals = "fixed(8,1)",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write.  (default: RUN/export-TARGET)")] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Check all golden vectors.")] = True,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write a trained network as integers, with golden vectors at every link, and verify it bit for bit.

    [bold]Example[/bold]: lowbit-dtp export runs/demo --rule dtp --target c --weights 'fixed<8,1>'
    """
    from ..comparison import export_run
    from ..data import load
    from ..experiment import Experiment
    from ..runs import run_folders

    spec, number, folder = run_folders(run, rule, seed)[0]
    samples = load(Experiment.load(folder / "experiment.toml").data, data_dir)
    where = out or Path(run) / f"export-{target}"
    exported = export_run(spec, folder, where, target, weights, signals, verify, samples)
    print_result({"rule": spec, "seed": number, **asdict(exported)}, as_json)
    if exported.verify.startswith("failed"):
        raise typer.Exit(1)
