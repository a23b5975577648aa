"""Checkpoints: one file from which a stopped run continues, bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np

from .ledger import Direction, Ledger
from .network import Network
from .optimizers import Optimizer
from .storage import StorageError, read_tensors, write_tensors
from .training import Progress


def save(path: Path, net: Network, optimizer: Optimizer, progress: Progress, notes: dict[str, Any]) -> None:
    """Write everything that changes in a run, and `notes`, as one safetensors file, in one step."""
    tensors = {f"network.{name}": x for name, x in net.tensors().items()}
    for (layer, name), x in optimizer.state.items():
        for group, words in (("optimizer", x[: optimizer.state_words]), ("numbers", x[optimizer.state_words :])):
            if words:
                tensors[f"{group}.{layer}.{name}"] = np.stack([np.asarray(word) for word in words])
    tensors |= {f"wires.{link}.{direction}": x for (link, direction), x in progress.ledger.wires.items()}
    position = {name: value for name, value in vars(progress).items() if name != "ledger"}
    position["loss"] = float(progress.loss)
    write_tensors(path, tensors, {"progress": position, "ledger": progress.ledger.as_dict(), "notes": notes})


def load(path: Path, net: Network, optimizer: Optimizer) -> tuple[Progress, dict[str, Any]]:
    """Restore `net` and `optimizer` as `save` wrote them; returns the progress of the run, and the notes.

    Raises `StorageError` naming `path` if it is not a checkpoint of such a network; nothing has changed then.
    """
    tensors, description = read_tensors(path)
    groups: dict[str, dict[str, np.ndarray]] = {"network": {}, "optimizer": {}, "numbers": {}, "wires": {}}
    try:
        for name, x in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = x
        ledger = Ledger.from_dict(description["ledger"])
        progress = Progress(**description["progress"], ledger=ledger)
        progress.loss = np.array(progress.loss)
        notes = description["notes"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{path}: not a checkpoint ({type(error).__name__}: {error})") from None
    shapes = {name: x.shape for name, x in groups["network"].items()}
    if shapes != {name: tuple(x.shape) for name, x in net.tensors().items()}:
        raise StorageError(f"{path}: a checkpoint of another network; its parameters are {shapes}")
    for layer in net.layers:
        for name, held, key in layer.slots():
            held[key] = groups["network"][f"{layer.name}.{name}"]
    optimizer.state = {}
    for key in groups["optimizer"] | groups["numbers"]:
        layer_name, _, name = key.partition(".")
        words = [*groups["optimizer"].get(key, ()), *groups["numbers"].get(key, ())]
        optimizer.state[layer_name, name] = tuple(np.ascontiguousarray(word) for word in words)
    for key, x in groups["wires"].items():
        link, _, direction = key.rpartition(".")
        ledger.wires[link, Direction(direction)] = x
    return progress, notes
