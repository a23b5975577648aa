"""`lowbit-dtp evaluate`."""

from functools import cache
from typing import Annotated

import typer

from .execution import usable_device, use_threads
from .options import TF32, Best, DataDir, Device, Json, Rule, Run, Seed
from .printing import print_result


def evaluate(
    run: Run,
    rule: Rule = None,
    seed: Seed = None,
    part: Annotated[str, typer.Option("--part", help="train, valid or test.")] = "test",
    best: Best = False,
    data_dir: DataDir = None,
    device: Device = "numpy",
    tf32: TF32 = False,
    as_json: Json = False,
) -> None:
    """Test trained networks on a data set; print the score of their task and the bits of an inference.

    [bold]Example[/bold]: lowbit-dtp evaluate runs/demo --rule dtp --part valid
    """
    from ..choices import choose
    from ..data import load
    from ..experiment import Experiment
    from ..ledger import Ledger
    from ..network import Network
    from ..runs import network_file, run_folders
    from ..training import evaluate as score_of

    device = usable_device(device, tf32)
    use_threads(None)
    rows, loaded = [], cache(load)
    for spec, number, folder in run_folders(run, rule, seed):
        experiment = Experiment.load(folder / "experiment.toml")
        samples, task = loaded(experiment.data, data_dir), experiment.learned_task()
        chosen = choose("part", part, {name: getattr(samples, name) for name in ("train", "valid", "test")})
        book = Ledger()
        net = Network.load(network_file(folder, best)).on(device)
        score = score_of(net, chosen.on(device), book, task=task, rule=experiment.learning_rule())
        bits = {link: book.bits(link, per="sample") for link in book.links()}
        rows.append({"rule": spec, "seed": number, "part": part, "samples": len(chosen), task.measure: score,
                     "bits_per_inference": bits})  # fmt: skip
    print_result(rows, as_json)
