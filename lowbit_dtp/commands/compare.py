"""`lowbit-dtp compare`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .execution import load_data, logging, progress, usable_device
from .export import export_run
from .options import (
    TECHNOLOGIES,
    TF32,
    Batch,
    Config,
    Data,
    DataDir,
    Device,
    Epochs,
    Gradient,
    Json,
    Links,
    Out,
    PlacementOption,
    Signals,
    Sizes,
    Technologies,
    Threads,
    Weights,
    comparison_of,
    split,
)
from .price import break_even, placement_of
from .printing import print_rows

if TYPE_CHECKING:
    from hw_models import Bill, HardwareConfig

    from ..experiment import Comparison
    from ..ledger import Ledger


def compare(
    data: Data = None,
    rules: Annotated[str | None, typer.Option("--rules", help="dtp,straight-through@fixed(4,-2),... in order.")] = None,
    epochs: Epochs = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Runs of each rule, with seeds 0, 1, ...")] = None,
    out: Out = None,
    config: Config = None,
    data_dir: DataDir = None,
    batch: Batch = None,
    sizes: Sizes = None,
    link: Links = None,
    gradient: Gradient = None,
    placement: PlacementOption = None,
    technology: Technologies = TECHNOLOGIES,
    weights: Weights = "fixed(8,1)",
    signals: Signals = "fixed(8,1)",
    threads: Threads = None,
    device: Device = "numpy",
    ensemble: Annotated[
        int | None, typer.Option("--ensemble", min=1, help="Most seeds to train in one batch.  (default: all)")
    ] = None,
    tf32: TF32 = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log curves for TensorBoard, too.")] = False,
    as_json: Json = False,
) -> None:
    """Train the same network by several rules; compare error, bits and joules; write a report.

    The same command again goes on where it was stopped, on another device if that is asked for.

    [bold]Example[/bold]: lowbit-dtp compare --data mnist --rules dtp,straight-through,fixed-lower --epochs 5 --seeds 1
    """
    device = usable_device(device, tf32)
    comparison = comparison_of(data, config, epochs, batch, sizes, link, gradient, placement, seeds=seeds,
                 compare=split(rules) if rules else None)  # fmt: skip
    folder = out or Path("runs") / comparison.content["data"]
    summary = run_comparison(
        comparison, folder, data_dir, technology, weights, signals, threads, device, ensemble, tensorboard
    )
    if as_json:
        print(json.dumps(summary, indent=1))
        return
    print_rows(summary)
    print(f"\nreport    {folder / 'report.html'}")
    if summary["exported"]:
        exported = summary["exported"]
        print(f"export    {exported['folder']} ({exported['rule']}, {exported['weights']}): C against golden vectors: "
              f"{exported['verify']}")  # fmt: skip
    print(
        f"\nnext      lowbit-dtp price {folder} --placement h1-h2=on-die:5mm\n"
        f"          lowbit-dtp export {folder} --target mem --weights 'fixed<6,1>'\n"
        f"          lowbit-dtp compare --data mnist --epochs 5 --seeds 1"
    )


def run_comparison(
    comparison: "Comparison", folder: Path, data_dir: Path | None, technologies: str, weights: str, signals: str,
    threads: int | None, device: str, ensemble: int | None, tensorboard: bool,
) -> dict[str, Any]:  # fmt: skip
    """Run every rule and seed of `comparison`, and write `summary.json`, the export and the report."""
    from hw_models import Technology

    from ..experiment import ExperimentError
    from ..formats import choose
    from ..network import link_names
    from ..report import write_report
    from ..runs import folder_name, provenance, run_ensemble, summary_row
    from ..storage import write_json

    names = list(dict.fromkeys(comparison.rules))
    seeds = range(comparison.seeds)
    if not names or not seeds:
        raise ExperimentError("compare needs at least one rule and one seed")
    placement = placement_of(comparison.placement)
    processes = [Technology.load(name) for name in split(technologies)]
    experiments = [(spec, seed, comparison.experiment(spec, seed)) for spec in names for seed in seeds]
    for _, _, experiment in experiments:  # every mistake is told before the first minute of training
        experiment.built()
    for link in placement.links:
        choose("link", link, dict.fromkeys(link_names(comparison.content["sizes"])))
    samples = load_data(comparison, data_dir, threads)
    at_a_time = 1 if device == "numpy" else ensemble or len(seeds)
    with progress() as bar:
        for spec in names:
            runs = [(experiment, folder / folder_name(spec) / f"seed-{seed}")
                    for other, seed, experiment in experiments if other == spec]  # fmt: skip
            for start in range(0, len(runs), at_a_time):
                batch, targets = zip(*runs[start : start + at_a_time], strict=True)
                label = f"{spec} {start}" + (f"-{start + len(batch) - 1}" if len(batch) > 1 else "")
                on_step = bar(label, batch[0].steps(len(samples.train)))
                with logging(targets, tensorboard) as log:
                    run_ensemble(batch, targets, samples, device=device, on_step=on_step, on_evaluation=log)
    rows = []
    for spec in names:
        row, training, inference = summary_row(spec, folder, seeds)
        rows.append(row | joules(training, inference, placement, processes))
    first = folder / folder_name(names[0]) / "seed-0"
    exported = export_run(first, folder / "export", "c", weights, signals, True, samples) | {"rule": names[0]}
    summary = {
        "rows": rows,
        "network": experiments[0][2].network().describe(),
        "data": {"name": samples.name, "source": samples.source, "image_shape": list(samples.image_shape),
                 "input_format": samples.input_format.name},
        "experiment": comparison.content,
        "placement": comparison.placement,
        "exported": exported,
        **provenance(),
    }  # fmt: skip
    write_json(folder / "summary.json", summary)
    write_report(folder)
    return summary


def joules(
    training: "Ledger", inference: "Ledger", placement: "HardwareConfig", processes: list[Any]
) -> dict[str, Any]:
    """The energy columns of a row."""
    from hw_models import price

    bills: dict[str, dict[str, Bill]] = {
        process.name: {
            "training": price(training, placement, process).per("sample"),
            "inference": price(inference, placement, process).per("sample"),
        }
        for process in processes
    }
    plain = {name: {use: bill.as_dict() for use, bill in uses.items()} for name, uses in bills.items()}
    return {
        "joules_per_sample": {name: uses["training"]["total"] for name, uses in plain.items()},
        "joules_per_inference": {name: uses["inference"]["total"] for name, uses in plain.items()},
        "energy_parts": {n: {use: bill["by_part"] for use, bill in uses.items()} for n, uses in plain.items()},
        "links_share": {n: (uses["training"]["links_share"] or {}).get("typical") for n, uses in plain.items()},
        "break_even_gradient_bits": break_even(training),
    }
