"""Checkpoints: one file from which a stopped run continues, bit for bit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .backends import Array
from .backends.shapes import ShapeArray
from .ledger import Direction, Ledger
from .network import Network
from .optimizers import Optimizer
from .storage import StorageError, read_tensors, write_tensors
from .training import Progress


def save(path: Path, net: Network, optimizer: Optimizer, progress: Progress, notes: dict[str, Any]) -> None:
    """Write everything that changes in a run, and `notes`, as one safetensors file, in one step."""
    position = {name: value for name, value in vars(progress).items() if name != "ledger"}
    position["loss"] = float(progress.loss)
    description = {"progress": position, "ledger": progress.ledger.as_dict(), "notes": notes}
    write_tensors(path, arrays_of(net, optimizer, progress.ledger), description)


def arrays_of(net: Network, optimizer: Optimizer, ledger: Ledger) -> dict[str, Array]:
    """Every array that changes in a run, by name, as `put_arrays` takes them; not those without numbers."""
    arrays = {f"network.{name}": x for name, x in net.tensors().items()}
    for (layer, name), x in optimizer.state.items():
        for group, words in (("optimizer", x[: optimizer.state_words]), ("numbers", x[optimizer.state_words :])):
            if words and not isinstance(words[0], ShapeArray):
                arrays[f"{group}.{layer}.{name}"] = np.stack([np.asarray(word) for word in words])
    arrays |= {f"wires.{link}.{direction}": x for (link, direction), x in ledger.wires.items()}
    return {name: x for name, x in arrays.items() if not isinstance(x, ShapeArray)}


def put_arrays(arrays: Mapping[str, Array], net: Network, optimizer: Optimizer, ledger: Ledger) -> None:
    """Put `arrays`, all or some of those that `arrays_of` gave, into a network, an optimizer and a ledger's wires."""
    groups: dict[str, dict[str, Array]] = {"network": {}, "optimizer": {}, "numbers": {}, "wires": {}}
    for name, x in arrays.items():
        group, _, rest = name.partition(".")
        groups[group][rest] = x
    for layer in net.layers:
        for name, held, key in layer.slots():
            held[key] = groups["network"].get(f"{layer.name}.{name}", held[key])
    for key in groups["optimizer"] | groups["numbers"]:
        layer_name, _, name = key.partition(".")
        words = [word for group in ("optimizer", "numbers") for word in np.asarray(groups[group].get(key, ()))]
        optimizer.state[layer_name, name] = tuple(np.ascontiguousarray(word) for word in words)
    for key, x in groups["wires"].items():
        link, _, direction = key.rpartition(".")
        ledger.wires[link, Direction(direction)] = x


def load(path: Path, net: Network, optimizer: Optimizer) -> tuple[Progress, dict[str, Any]]:
    """Restore `net` and `optimizer` as `save` wrote them; returns the progress of the run, and the notes.

    Raises `StorageError` naming `path` if it is not a checkpoint of such a network; nothing has changed then.
    """
    tensors, description = read_tensors(path)
    try:
        ledger = Ledger.from_dict(description["ledger"])
        progress = Progress(**description["progress"], ledger=ledger)
        progress.loss = np.array(progress.loss)
        notes = description["notes"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{path}: not a checkpoint ({type(error).__name__}: {error})") from None
    start = "network."
    shapes = {name.removeprefix(start): x.shape for name, x in tensors.items() if name.startswith(start)}
    if shapes != {name: tuple(x.shape) for name, x in net.tensors().items()}:
        raise StorageError(f"{path}: a checkpoint of another network; its parameters are {shapes}")
    optimizer.state = {}
    put_arrays(tensors, net, optimizer, ledger)
    return progress, notes
