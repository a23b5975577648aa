"""`lowbit-dtp export`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import DataDir, Json, Rule, Run, Seed, Signals, weights_by_layer
from .printing import print_result

if TYPE_CHECKING:
    from export import Trial


def export(
    run: Run,
    rule: Rule = None,
    seed: Seed = None,
    target: Annotated[str, typer.Option("--target", help="mem ($readmemh files) or c (C99).")] = "c",
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="Weights: a number of bits, whose scale each layer chooses; auto, for the fewest bits; a format, "
            "fixed(W,I); or by layer, h1=4,rest=auto.  (default: as trained, and fixed(8,1) of floats)",
        ),
    ] = None,
    max_loss: Annotated[
        float, typer.Option("--max-loss", help="Percentage points that auto may lose on validation data.", min=0)
    ] = 0.5,
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
    formats = weights_by_layer(weights)
    exported = export_run(spec, folder, where, target, formats, signals, verify, samples, max_loss, _tell)
    print_result({"rule": spec, "seed": number, **asdict(exported)}, as_json)
    if exported.verify.startswith("failed"):
        raise typer.Exit(1)


def _tell(trial: "Trial") -> None:
    """Bits that were tried, on standard error."""
    bits = ", ".join(f"{name} {bits}" for name, bits in trial.bits.items())
    typer.echo(f"bits of weights: {bits}: lost on validation data {trial.lost_percent:+.2f} points", err=True)
