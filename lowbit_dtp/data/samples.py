"""Samples in memory: inputs and labels, checked when they are made, and a data set's three parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..backends import Array, backend_of
from ..backends.devices import mover, usable
from ..formats import Format, float32
from ..links import Signal
from ..randomness import generator

_UNCHECKED = (np.ndarray, np.memmap, list, tuple)
"""Types of arguments that are not checked yet; arrays on devices or of recorded steps come from checked ones."""

_INPUT_SHAPES = "[samples, neurons], or images [samples, height, width] or [samples, channels, height, width]"
_LABEL_SHAPES = "whole numbers from 0 [samples], or floating-point numbers [samples, outputs]"

LabelKind = Literal["classes", "values"]
"""Whether labels are classes, or values that the outputs should have."""


class DataError(ValueError):
    """Data is missing, unreadable or not what it should be; the message names the file or array and the reason."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs and their labels. Lists are converted to arrays, and images flattened, row by row.

    Raises DataError if there are no samples, inputs and labels differ in number, a number is not finite, or a label is
    negative or fractional; TypeError if codes are not unsigned.
    """

    stored: Array
    """[samples, neurons]: the inputs themselves, or their codes."""
    labels: Array
    """Classes, int64 [samples], from 0; or the values that the outputs should have, float32 [samples, outputs]."""
    format: Format | None = None
    """Format of the codes in `stored`; None if it holds the inputs themselves."""

    def __post_init__(self) -> None:
        if type(self.stored) in _UNCHECKED:
            object.__setattr__(self, "stored", _checked_inputs(self.stored, self.format))
        if type(self.labels) in _UNCHECKED:
            object.__setattr__(self, "labels", _checked_labels(self.labels))
        inputs, labels = self.stored.shape[0], self.labels.shape[0]
        if inputs != labels:
            raise DataError(f"labels: {labels} labels for {inputs} inputs; one label for each input is needed")
        if not inputs:
            raise DataError("inputs: there are no samples; one or more are needed")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def label_kind(self) -> LabelKind:
        """Whether labels are classes, or values that the outputs should have."""
        return "classes" if self.labels.ndim == 1 else "values"

    @property
    def inputs(self) -> Array:
        """All inputs [samples, neurons]; for codes, a new float32 array, four times as large as bytes."""
        inputs = self.part(slice(None))[0]
        return inputs.values if isinstance(inputs, Signal) else inputs

    @cached_property
    def _float(self) -> Array:
        """An array of the type that inputs have, where the samples are."""
        return backend_of(self.stored).moved(np.zeros(0, np.float32), self.stored)

    def on(self, device: str) -> "Samples":
        """The samples, whose arrays are NumPy's, on `device`: see `backends.devices.DEVICES`."""
        move = mover(usable(device))
        return Samples(move(self.stored), move(self.labels), self.format)

    def part(self, which: Any) -> tuple[Array | Signal, Array]:
        """Inputs and labels of `which` samples, a slice or indices. Codes are a `Signal`, which is sent unchanged."""
        stored, labels = self.stored[which], self.labels[which]
        return stored if self.format is None else Signal(stored, self.format, self._float), labels

    def split(self, sizes: Sequence[int]) -> "list[Samples]":
        """The first `sizes[0]` samples, the next `sizes[1]` and so on, in the same memory. All samples must be used."""
        if any(size < 1 for size in sizes) or sum(sizes) != len(self):
            given = " + ".join(map(str, sizes))
            raise DataError(f"split: {given} samples; parts of 1 or more that add up to {len(self)} are needed")
        ends = np.cumsum(sizes).tolist()
        parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        return [Samples(self.stored[part], self.labels[part], self.format) for part in parts]


@dataclass(frozen=True)
class Outline:
    """The sizes of a data set, without its numbers: all of it that counts of messages and operations depend on."""

    name: str
    inputs: int
    """Inputs of a sample."""
    classes: int
    """Outputs that a network needs."""
    train: int
    """Samples for training."""
    test: int
    """Samples for the test."""
    label_kind: LabelKind = "classes"


@dataclass(frozen=True, eq=False)
class DataSet:
    """Samples in three parts, for training, validation and test.

    Raises DataError if the parts differ in inputs or kind of labels, or labels do not fit `classes`.
    """

    name: str
    train: Samples
    valid: Samples
    test: Samples
    classes: int
    """Outputs that a network needs: labels are 0 to `classes` - 1, or values [samples, classes]."""
    input_format: Format
    """Carries every input exactly."""
    image_shape: tuple[int, ...]
    """(height, width) of grey images, (3, height, width) of red, green and blue; (neurons,) of other data."""
    source: str
    """Citation of the data set."""

    def __post_init__(self) -> None:
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        for name, part in parts.items():
            if part.stored.shape[1] != self.inputs:
                raise DataError(
                    f"{name}: {part.stored.shape[1]} inputs a sample, and train has {self.inputs}; "
                    "all parts need the same number"
                )
            if part.label_kind != self.label_kind:
                raise DataError(
                    f"{name}: labels are {part.label_kind}, and those of train {self.label_kind}; "
                    "all parts need the same kind"
                )
            if self.label_kind == "values" and part.labels.shape[1] != self.classes:
                raise DataError(
                    f"{name}: labels of {part.labels.shape[1]} outputs; those of this data set have {self.classes}"
                )
            if self.label_kind == "classes" and part.labels.max() >= self.classes:
                at = int(part.labels.argmax(-1))
                raise DataError(f"{name}: label {part.labels[at]} of sample {at} is not one of 0 to {self.classes - 1}")

    @property
    def inputs(self) -> int:
        """Inputs of a sample."""
        return int(self.train.stored.shape[1])

    @property
    def outline(self) -> Outline:
        """Its sizes."""
        return Outline(self.name, self.inputs, self.classes, len(self.train), len(self.test), self.label_kind)

    @property
    def label_kind(self) -> LabelKind:
        """Whether labels are classes, or values that the outputs should have."""
        return self.train.label_kind

    @classmethod
    def of(
        cls,
        train: Samples,
        valid: Samples,
        test: Samples,
        name: str = "own data",
        *,
        classes: int | None = None,
        image_shape: Sequence[int] | None = None,
        source: str = "arrays in memory",
    ) -> "DataSet":
        """A data set of your own samples; `classes` is by default the highest label of the three parts plus 1."""
        if classes is None:
            labels = [part.labels for part in (train, valid, test)]
            classes = labels[0].shape[1] if train.label_kind == "values" else 1 + max(int(x.max()) for x in labels)
        shape = (int(train.stored.shape[1]),) if image_shape is None else tuple(image_shape)
        return cls(name, train, valid, test, classes, train.format or float32, shape, source)


def order(samples: int, seed: int, sweep: int) -> npt.NDArray[np.int64]:
    """Indices of `samples` samples in the order in which minibatches take them, drawn from `seed` and `sweep`.

    A sweep is a pass over the samples; they are counted from 0.
    """
    return generator(seed, "minibatches", sweep).permutation(samples)


def _checked_inputs(given: Any, fmt: Format | None) -> np.ndarray:
    """`given` as an array [samples, neurons]: of codes of `fmt`, or of finite float32 or float64."""
    array = _as_array("inputs", given, _INPUT_SHAPES)
    if fmt is not None:
        if array.dtype.kind != "u":
            raise TypeError(f"samples: codes of {fmt} are unsigned whole numbers, not {array.dtype}")
        bits = fmt.bits
        if array.dtype.itemsize * 8 > bits and int(array.max(initial=0)) >= 1 << bits:
            raise DataError(f"samples: code {array.max()} does not fit in the {bits} bits of {fmt}")
    elif array.dtype == np.uint8:
        raise DataError(
            "inputs: bytes, of which it is not said what they stand for; "
            "give Samples(inputs, labels, ufixed(8, 0)) for k/256, or floating-point numbers"
        )
    elif array.dtype.kind not in "biuf":
        raise DataError(f"inputs: an array of {array.dtype}; numbers are needed, {_INPUT_SHAPES}")
    elif array.dtype not in (np.float32, np.float64) or not isinstance(given, np.ndarray):
        array = array.astype(np.float32)
    if not 2 <= array.ndim <= 4:
        raise DataError(f"inputs: an array of shape {array.shape}; needed is {_INPUT_SHAPES}")
    if array.dtype.kind == "f":
        _check_finite("inputs", array)
    return array if array.ndim == 2 else array.reshape(len(array), -1)


def _checked_labels(given: Any) -> np.ndarray:
    """`given` as an array of classes, int64 [samples], or of values, float32 [samples, outputs]."""
    array = _as_array("labels", given, _LABEL_SHAPES)
    if array.ndim == 2 and array.dtype.kind == "f" and array.shape[1]:
        array = array.astype(np.float32, copy=False)
        _check_finite("labels", array)
        return array
    if array.ndim != 1 or (array.size and array.dtype.kind not in "biuf"):
        raise DataError(f"labels: an array of {array.dtype}, of shape {array.shape}; needed are {_LABEL_SHAPES}")
    with np.errstate(invalid="ignore"):
        whole = array.astype(np.int64, copy=False)
    wrong = (whole != array) | (whole < 0)
    if wrong.any():
        at = int(wrong.argmax())
        raise DataError(f"labels: {array[at]} for sample {at}; needed are {_LABEL_SHAPES}")
    return whole


def _as_array(what: str, given: Any, needed: str) -> np.ndarray:
    try:
        return np.asarray(given)
    except ValueError:
        raise DataError(f"{what}: a list whose rows differ in length; needed: {needed}") from None


def _check_finite(what: str, array: np.ndarray) -> None:
    if array.size and not np.isfinite([array.min(), array.max()]).all():  # NaN is the least and the greatest
        sample = int(np.argwhere(~np.isfinite(array))[0][0])
        values = array[sample]
        raise DataError(f"{what}: {values[~np.isfinite(values)][0]} in sample {sample}; finite numbers are needed")
