"""`lowbit-dtp export`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Best, DataDir, Json, Rule, Run, Seed, Signals, weights_by_layer
from .printing import print_result

if TYPE_CHECKING:
    from export import Trial

    from ..data import DataSet

LEARNER = "learner"
"""The target that is no network of fixed weights: a core that trains, as the rule integer-dtp does."""
FIRST_STEPS = 100
"""Minibatches of its test bench, unless the run has fewer."""


def export(
    run: Run,
    rule: Rule = None,
    seed: Seed = None,
    target: Annotated[
        str,
        typer.Option("--target", help="c, mem ($readmemh files), verilog, qonnx, nir (spikes), aer (events), learner."),
    ] = "c",
    best: Best = False,
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
    fold: Annotated[
        str | None, typer.Option("--fold", help="verilog: outputs x inputs in parallel, 4x4, or h1=4x8,h2=8x4.")
    ] = None,
    target_cycles: Annotated[
        int | None, typer.Option("--target-cycles", help="verilog: the smallest folding with at most so many a frame.")
    ] = None,
    build: Annotated[
        str | None,
        typer.Option(
            "--build",
            help="verilog: make a bitstream for ice40-hx8k, ecp5-85k, ... by yosys and nextpnr. c: cortex-m, for "
            "its flash, memory and instructions under QEMU.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", min=1, help="learner: minibatches of its test bench.  (default: 100, or all of the run)"
        ),
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
    from export import fpga, microcontroller, write_page

    from ..comparison import export_run
    from ..data import load
    from ..experiment import Experiment
    from ..runs import run_folders

    spec, number, folder = run_folders(run, rule, seed)[0]
    samples = load(Experiment.load(folder / "experiment.toml").data, data_dir)
    where = out or Path(run) / f"export-{target}"
    if steps is not None and target != LEARNER:
        raise ValueError(f"--steps are those of --target {LEARNER}, not of {target}")
    if machine and target != "nir":
        raise ValueError(f"--machine says which cores spiking neurons take, so it is for --target nir, not {target}")
    if build == microcontroller.DEVICE:
        microcontroller.check(target)
    elif build:
        fpga.check(target, build)
    options = {"fold": fold, "target_cycles": target_cycles}
    given = {name: value for name, value in options.items() if value is not None}
    if target == LEARNER:
        for option in (*given, *(["weights"] if weights else []), *(["best"] if best else [])):
            raise ValueError(f"target {LEARNER} begins with the first weights, and has no option {option!r}")
        _learner(folder, where, steps, samples, verify, as_json)
        return
    exported = export_run(
        spec, folder, where, target, weights_by_layer(weights), signals, verify, samples, best, given, max_loss, _tell
    )
    result = {"rule": spec, "seed": number, **asdict(exported)}
    if machine:
        result["machine"] = cores_of(machine, where)
    if build == microcontroller.DEVICE:
        result["build"] = microcontroller.build(where)
        write_page(where)
    elif build:
        made = fpga.build(where, build, lambda line: print(line, file=sys.stderr))
        write_page(where)  # once more, with the figures of the build
        result["build"] = {**made.as_dict(), "tools": [f"{tool} {version}" for tool, version in made.tools.items()]}
    print_result(result, as_json)
    if exported.verify.startswith("failed"):
        raise typer.Exit(1)


def _learner(run: Path, folder: Path, steps: int | None, data: "DataSet", verify: bool, as_json: bool) -> None:
    """Write the core that trains the network of `run` as Verilog, with its first `steps`, and verify it."""
    from export.learning import verify as verified

    from ..experiment import Experiment
    from ..learner import first_steps

    experiment = Experiment.load(run / "experiment.toml")
    steps = steps or min(FIRST_STEPS, experiment.steps(len(data.train)))
    training = first_steps(experiment, data, steps)
    training.write(folder)
    result = verified(folder) if verify else None
    shown = {"folder": str(folder), "weights": training.core.weight_words, "steps": steps,
             "verify": result.status if result else "not run", "detail": result.detail if result else ""}  # fmt: skip
    print_result(shown, as_json)
    if result and result.status.startswith("failed"):
        raise typer.Exit(1)


def _tell(trial: "Trial") -> None:
    """Bits that were tried, on standard error."""
    bits = ", ".join(f"{name} {bits}" for name, bits in trial.bits.items())
    typer.echo(f"bits of weights: {bits}: lost on validation data {trial.lost_percent:+.2f} points", err=True)


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
