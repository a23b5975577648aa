"""`lowbit-dtp evaluate`."""

from functools import cache
from typing import Annotated

import typer

from .execution import usable_device, use_threads
from .options import TF32, DataDir, Device, Json, Rule, Run, Seed
from .printing import print_result


def evaluate(
    run: Run,
    rule: Rule = None,
    seed: Seed = None,
    part: Annotated[str, typer.Option("--part", help="train, valid or test.")] = "test",
    data_dir: DataDir = None,
    device: Device = "numpy",
    tf32: TF32 = False,
    as_json: Json = False,
) -> None:
    """Classify a data set with trained networks; print the error and the bits of an inference.

    [bold]Example[/bold]: lowbit-dtp evaluate runs/demo --rule dtp --part valid
    """
    from ..choices import choose
    from ..data import load
    from ..experiment import Experiment
    from ..ledger import Ledger
    from ..network import Network
    from ..runs import run_folders
    from ..training import evaluate as error_percent

    device = usable_device(device, tf32)
    use_threads(None)
    rows, loaded = [], cache(load)
    for spec, number, folder in run_folders(run, rule, seed):
        samples = loaded(Experiment.load(folder / "experiment.toml").data, data_dir)
        chosen = choose("part", part, {name: getattr(samples, name) for name in ("train", "valid", "test")})
        book = Ledger()
        error = error_percent(Network.load(folder / "network.safetensors").on(device), chosen.on(device), book)
        bits = {link: book.bits(link, per="sample") for link in book.links()}
        rows.append({"rule": spec, "seed": number, "part": part, "samples": len(chosen), "error_percent": error,
                     "bits_per_inference": bits})  # fmt: skip
    print_result(rows, as_json)
