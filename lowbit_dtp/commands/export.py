"""`lowbit-dtp export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import DataDir, Json, Rule, Run, Seed, Signals, Weights
from .printing import print_result

if TYPE_CHECKING:
    from ..data import DataSet

"""Exit status that Typer makes of Ctrl-C."""
GOLDEN_SAMPLES = 32


def export(
    run: Run,
    rule: Rule = None,
    seed: Seed = None,
    target: Annotated[str, typer.Option("--target", help="mem ($readmemh files) or c (C99).")] = "c",
    weights: Weights = "fixed(8,1)",
    signals: Signals = "fixed(8,1)",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write.  (default: RUN/export-TARGET)")] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Run what was written, and compare.")] = True,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write a trained network as integers, with golden vectors at every link, and verify it bit for bit.

    [bold]Example[/bold]: lowbit-dtp export runs/demo --rule dtp --target c --weights 'fixed<8,1>'
    """
    from ..data import load
    from ..experiment import Experiment
    from ..runs import run_folders

    spec, number, folder = run_folders(run, rule, seed)[0]
    samples = load(Experiment.load(folder / "experiment.toml").data, data_dir)
    result = export_run(folder, out or Path(run) / f"export-{target}", target, weights, signals, verify, samples)
    result = {"rule": spec, "seed": number, **result}
    print_result(result, as_json)
    if str(result["verify"]).startswith("failed"):
        raise typer.Exit(1)


def export_run(
    run: Path, folder: Path, target: str, weights: str, signals: str, verify: bool, samples: "DataSet"
) -> dict[str, Any]:
    """Export the network of `run`, and what is to be said of it."""
    from export import export_network

    inputs = samples.test.inputs
    made = export_network(
        run / "network.safetensors", target, folder, weights, signals,
        inputs[:GOLDEN_SAMPLES], verify, (inputs, samples.test.labels),
    )  # fmt: skip
    accuracy = made.accuracy.as_dict() if made.accuracy else {}
    return {
        "target": target,
        "weights": ", ".join(dict.fromkeys(made.weights.values())),
        "signals": made.quantized_links,
        "folder": str(folder),
        "files": len(made.files),
        "accumulator_bits": made.sum_bits,
        "verify": made.verification.status if made.verification else "not asked for",
        "test_error_percent_float": accuracy.get("trained_error_percent"),
        "test_error_percent_integer": accuracy.get("integer_error_percent"),
        "agreement_percent": accuracy.get("agreement_percent"),
    }
