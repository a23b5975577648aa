"""Accuracy lost by the conversion to integers: the trained and the integer network, on the same inputs."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lowbit_dtp.formats import parse
from lowbit_dtp.storage import read_tensors

from .fixed import FixedNetwork, chain_links, integer_fraction_bits
from .scales import trained_state

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class AccuracyLost:
    """Errors of the trained and the integer network."""

    samples: int
    trained_error_percent: float
    integer_error_percent: float
    agreement_percent: float
    """Percentage of samples that both put into the same class, right or wrong."""

    @property
    def lost_percent(self) -> float:
        """Error of the integer network minus that of the trained one, in percentage points."""
        return self.integer_error_percent - self.trained_error_percent

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "lost_percent": self.lost_percent}


def accuracy_lost(
    network: FixedNetwork, network_path: Path, inputs: npt.ArrayLike, labels: npt.ArrayLike
) -> AccuracyLost:
    """Compare `network` with the trained one in `network_path` on `inputs` [samples, inputs] and `labels` [samples]."""
    inputs, labels = np.asarray(inputs), np.asarray(labels)
    if labels.shape != inputs.shape[:1] or not len(labels):
        raise ValueError(
            f"labels must be one for each of {len(inputs)} samples, at least one, not of shape {labels.shape}"
        )
    trained = simulate(network_path, inputs).argmax(-1)
    integer = network.infer(inputs).classes
    return AccuracyLost(
        samples=len(labels),
        trained_error_percent=100 * float(np.mean(trained != labels)),
        integer_error_percent=100 * float(np.mean(integer != labels)),
        agreement_percent=100 * float(np.mean(trained == integer)),
    )


def simulate(network_path: Path, inputs: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> Floats:
    """Logits [batch, classes] of the trained network for `inputs` [batch, inputs], in NumPy floats.

    Networks that were trained in whole numbers are computed in float64, which holds their sums exactly.
    """
    tensors, description = read_tensors(Path(network_path))
    if any(integer_fraction_bits(layer) is not None for layer in description["layers"]):
        dtype = np.float64
    state: Floats = np.asarray(inputs, dtype)
    for layer, link in zip(description["layers"], chain_links(description), strict=True):
        fmt = parse(link["forward"])
        arrived = fmt.decode(fmt.encode(state), dtype)
        weight, bias = (
            tensors.get(f"{layer['name']}.{part}", np.zeros(1)).astype(dtype) for part in ("weight", "bias")
        )
        if (fraction_bits := integer_fraction_bits(layer)) is not None:
            weight *= 2.0**-fraction_bits
        state = trained_state(layer, tensors, arrived @ weight + bias)
    return state
