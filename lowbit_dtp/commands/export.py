"""`lowbit-dtp export`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .options import Best, DataDir, Json, Rule, Run, Seed, Signals, Weights
from .printing import print_result


def export(
    run: Run,
    rule: Rule = None,
    seed: Seed = None,
    target: Annotated[
        str,
        typer.Option("--target", help="c, mem ($readmemh files), verilog, qonnx, nir (spikes) or aer (events)."),
    ] = "c",
    best: Best = False,
    weights: Weights = None,
    signals: Signals = "fixed(8,1)",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write.  (default: RUN/export-TARGET)")] = None,
    fold: Annotated[
        str | None, typer.Option("--fold", help="verilog: outputs x inputs in parallel, 4x4, or h1=4x8,h2=8x4.")
    ] = None,
    target_cycles: Annotated[
        int | None, typer.Option("--target-cycles", help="verilog: the smallest folding with at most so many a frame.")
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option("--machine", help="nir: the cores that it takes on this machine: loihi, or a .toml file."),
    ] = None,
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
    options = {"fold": fold, "target_cycles": target_cycles}
    given = {name: value for name, value in options.items() if value is not None}
    if machine and target != "nir":
        raise ValueError(f"--machine says which cores spiking neurons take, so it is for --target nir, not {target}")
    exported = export_run(spec, folder, where, target, weights, signals, verify, samples, best, given)
    cores = {"machine": cores_of(machine, where)} if machine else {}
    print_result({"rule": spec, "seed": number, **asdict(exported), **cores}, as_json)
    if exported.verify.startswith("failed"):
        raise typer.Exit(1)


def cores_of(machine: str, folder: Path) -> str:
    """The cores of a machine that the spiking neurons of the export in `folder` take, in words.

    ValueError, naming the layer and the limit, if they do not fit.
    """
    from hw_models import Machine

    from ..storage import read_json

    content = read_json(folder / "manifest.json")
    found, layers = Machine.load(machine), content["spiking"]
    most = found.core.weight_bits
    for layer in layers:
        if most is not None and layer["weight_bits"] > most:
            raise ValueError(
                f"machine {found.name!r}: weights of layer {layer['name']} take {layer['weight_bits']} bits, and the "
                f"machine's have {most}; export with fewer: --weights 'fixed(4,1)'"
            )
    neurons = {"input": layers[0]["inputs"], **{layer["name"]: layer["neurons"] for layer in layers}}
    cores = found.place(neurons).cores
    each = []
    for layer in layers:
        held = f"for {layer['neurons']:,} neurons and {layer['synapses']:,} synapses"
        each.append(f"{layer['name']} {len(cores[layer['name']])}, {held}")
    used = len({core for layer in layers for core in cores[layer["name"]]})
    return f"{found.name}: {used:,} of {found.mesh.number:,} cores ({'; '.join(each)})"
