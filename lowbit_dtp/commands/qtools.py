"""`lowbit-dtp qtools`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Rule, Run, Seed, weights_by_layer
from .printing import print_table


def qtools(
    run: Run,
    rule: Rule = None,
    seed: Seed = None,
    weights: Annotated[str | None, typer.Option("--weights", help="Format of weights that are floats.")] = None,
    parameters: Annotated[str, typer.Option("--parameters", help="Where weights are: sram, dram or fixed.")] = "sram",
    activations: Annotated[str, typer.Option("--activations", help="Where signals are: sram or dram.")] = "sram",
    least_sram_bits: Annotated[int, typer.Option("--least-sram-bits", help="No SRAM is smaller than this.")] = 0,
    io_through_dram: Annotated[
        bool, typer.Option("--io-through-dram", help="Inputs and outputs are in DRAM, and pass through SRAM.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Count the energy of inference as QTools of QKeras does, layer by layer, to compare with its reports.

    [bold]Example[/bold]: lowbit-dtp qtools runs/demo --rule dtp --weights 'fixed<4,1>' --parameters fixed
    """
    from hw_models.qtools import Memory, energy, layers_of

    from .. import ledger as ledgers
    from ..comparison import deployed
    from ..report import si
    from ..runs import run_folders

    memory = Memory(parameters, activations, least_sram_bits, io_through_dram)
    folders: dict[str, Path] = {}  # formats are the same for every seed
    for spec, _, folder in run_folders(run, rule, seed):
        folders.setdefault(spec, folder)
    found = {}
    for spec, folder in folders.items():
        inference = ledgers.load(folder / "ledger.json")["inference"]
        exported, _ = deployed(inference, folder / "network.safetensors", weights_by_layer(weights))
        found[spec] = energy(layers_of(exported), memory)
    totals = {spec: sum(layer.total for layer in layers.values()) for spec, layers in found.items()}
    if as_json:
        rows = [
            {"rule": spec, "total": totals[spec], "layers": {name: asdict(layer) for name, layer in layers.items()}}
            for spec, layers in found.items()
        ]
        print(json.dumps(rows, indent=1))
        return
    parts = ("inputs", "parameters", "operations", "outputs", "sent")
    lines = [
        [spec, name, *(si(getattr(layer, part), "J") for part in parts)]
        for spec, layers in found.items()
        for name, layer in layers.items()
    ]
    print_table("Joules a sample, as QTools counts them", ("rule", "layer", *parts), lines, left=2)
    for spec, total in totals.items():
        print(f"{spec}: {si(total, 'J')}, all but the outputs, which are sums that the activation replaces")
