"""Your own data: a `.npz` file, or a folder of IDX files.

A `.npz` file holds arrays `train_inputs`, `train_labels`, `valid_inputs`, `valid_labels`, `test_inputs` and
`test_labels`; or `inputs`, `labels` and `split`, three whole numbers: how many samples, in the order of the arrays, are
for train, valid and test. A folder has a file `*train-images*` and a file `*train-labels*`, the same for `test` (or
`t10k`), and for `valid`; without the latter, the last sixth of the training samples is for validation, as in MNIST.

Inputs are [samples, neurons], or images [samples, height, width] or [samples, channels, height, width]. A byte k is
taken as k/256, like pixels of the published data sets; other numbers are converted to float32. Labels are classes,
whole numbers [samples] from 0, or values of the outputs, floating-point numbers [samples, outputs].
"""

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..formats import ufixed
from .idx import opened, read_any
from .samples import DataError, DataSet, Samples

_PARTS = ("train", "valid", "test")


def is_path(name: str) -> bool:
    """Whether `name` is a path, not the name of a data set: it ends in `.npz` or has a slash; `./mine` is a folder."""
    return name.endswith(".npz") or "/" in name or os.sep in name


def load_path(path: Path) -> DataSet:
    """The data set in the `.npz` file or folder `path`. Raises DataError naming the file and array that is wrong."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    (train, valid, test), shape = _read_idx_folder(path) if path.is_dir() else _read_npz(path)
    with _naming(f"{path}: "):
        return DataSet.of(train, valid, test, path.stem, image_shape=shape, source=str(path))


def _read_npz(path: Path) -> tuple[list[Samples], tuple[int, ...]]:
    arrays = _arrays(path)
    together = [name for name in ("inputs", "labels", "split") if name in arrays]
    needed = ["inputs", "labels", "split"] if together else [f"{p}_{x}" for p in _PARTS for x in ("inputs", "labels")]
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise DataError(
            f"{path}: has no array {', '.join(missing)}; it has {', '.join(arrays) or 'none'}. Needed are inputs, "
            "labels and split, or train_inputs, train_labels, valid_inputs, valid_labels, test_inputs and test_labels"
        )
    if not together:
        parts = []
        for part in _PARTS:
            with _naming(f"{path}: {part}_"):
                parts.append(_samples(arrays[f"{part}_inputs"], arrays[f"{part}_labels"]))
        return parts, arrays["train_inputs"].shape[1:]
    split = arrays["split"]
    if split.shape != (3,) or split.dtype.kind not in "iu":
        raise DataError(
            f"{path}: split: an array of {split.dtype}, of shape {split.shape}; needed are three whole numbers, "
            "the samples of train, valid and test"
        )
    with _naming(f"{path}: "):
        return _samples(arrays["inputs"], arrays["labels"]).split(split.tolist()), arrays["inputs"].shape[1:]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a .npz file of numbers ({error})") from None


def _read_idx_folder(path: Path) -> tuple[list[Samples], tuple[int, ...]]:
    parts, shape = {}, ()
    for part, names in (("train", ("train",)), ("valid", ("valid",)), ("test", ("test", "t10k"))):
        images, labels = (_only(path, [f"{name}-{what}" for name in names]) for what in ("images", "labels"))
        if part == "valid" and images is labels is None:
            continue
        if images is None or labels is None:
            what = f"{names[0]}-{'labels' if images else 'images'}"
            raise DataError(f"{path}: has no file *{what}*; each part needs images and labels as IDX files")
        inputs, classes = _idx(images), _idx(labels)
        shape = shape or inputs.shape[1:]
        with _naming(f"{labels if len(inputs) else images}: "):
            parts[part] = _samples(inputs, classes)
    if "valid" not in parts:
        count = len(parts["train"])
        if count < 6:
            raise DataError(
                f"{path}: a sixth of {count} samples is none to validate on; add *valid-images* and *valid-labels*"
            )
        parts["train"], parts["valid"] = parts["train"].split((count - count // 6, count // 6))
    return [parts[part] for part in _PARTS], shape


def _only(folder: Path, names: list[str]) -> Path | None:
    """The one file whose name has one of `names` in it."""
    found = sorted(path for path in folder.iterdir() if any(name in path.name for name in names))
    if len(found) > 1:
        raise DataError(f"{folder}: has {', '.join(path.name for path in found)}; one of them is needed")
    return found[0] if found else None


def _idx(path: Path) -> np.ndarray:
    with opened(path) as content:
        return read_any(content, path)


def _samples(inputs: np.ndarray, labels: np.ndarray) -> Samples:
    if inputs.dtype == np.uint8:
        return Samples(inputs, labels, ufixed(8, 0))
    return Samples(inputs.astype(np.float32) if inputs.dtype == np.float64 else inputs, labels)


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Put `where` before the message of a DataError."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{where}{error}") from None
