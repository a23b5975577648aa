"""Data sets, split into training, validation and test samples, and the order in which minibatches take them.

`digits` ships in scikit-learn. `mnist` and `fashion-mnist` are IDX files, gzipped or not, looked for in `folders()` and
downloaded into the first of them if absent; `cifar10` is looked for there, but not downloaded. A path names your
own data: see `own`. `Samples` and `DataSet.of` make a data set from arrays in memory.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..choices import choose
from .own import is_path, load_path
from .published import (
    CLASSES,
    FOLDER_VARIABLE,
    SOURCES,
    Digest,
    IdxFile,
    Source,
    convert_cifar10,
    fetch,
    find,
    folders,
    load_published,
    published_outline,
)
from .samples import DataError, DataSet, Outline, Samples, order

__all__ = [
    "CLASSES",
    "FOLDER_VARIABLE",
    "SOURCES",
    "DataError",
    "DataSet",
    "Digest",
    "IdxFile",
    "Loader",
    "Outline",
    "Samples",
    "Source",
    "convert_cifar10",
    "fetch",
    "find",
    "folders",
    "is_path",
    "load",
    "order",
    "outline",
    "register",
]

Loader = Callable[[Path | str | None], DataSet]
"""A function that makes a data set, given the folder to look in first, or None."""

_REGISTERED: dict[str, Loader] = {}


def load(name: str, folder: Path | str | None = None) -> DataSet:
    """The data set called `name`, from `folder` or the other `folders`, downloaded if not found; or the one at a path.

    `digits`: 1,797 images of 8 x 8 inputs in 17 levels, as k/16; train, valid and test are the first 1,097, the next
    300 and the last 400. `mnist` and `fashion-mnist`: 28 x 28 inputs in 256 levels; train and valid are the first
    50,000 and the last 10,000 of the training file. `cifar10`: 3 x 32 x 32 inputs in 256 levels; train and valid are
    the first 49,000 and the last 1,000 of the five training batches, as in the thesis, section 3.3.1. A byte k becomes
    k/256, not k/255: that is the thesis' scaling to [0, 1] times 255/256, and `ufixed(8,0)` carries it exactly, in the
    8 bits of the pixel.

    A name that ends in `.npz` or has a slash in it is a path, from the working directory if relative: see `own`.

    Inputs are stored once, as bytes: 55 MB for 70,000 images. Raises DataError naming the file if one is missing,
    damaged or not the published one, and ValueError if there is no data set `name`.
    """
    if is_path(name):
        return load_path(Path(name))
    return choose("data set", name, _loaders())(folder)


def outline(name: str, folder: Path | str | None = None) -> Outline:
    """The sizes of `load(name, folder)`; published data is neither read nor downloaded for it."""
    return published_outline(name) if name in SOURCES else load(name, folder).outline


def register(name: str, loader: Loader) -> None:
    """Make `load(name, folder)` call `loader(folder)`. ValueError if `name` is a path or a published data set."""
    if name in SOURCES or is_path(name):
        raise ValueError(f"data set {name!r}: choose a name without a slash that is not one of {', '.join(SOURCES)}")
    _REGISTERED[name] = loader


def _loaders() -> dict[str, Loader]:
    return {**_REGISTERED, **{name: partial(load_published, name) for name in SOURCES}}
