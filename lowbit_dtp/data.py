"""Data sets, split into training, validation and test samples, and the order in which minibatches take them.

`digits` ships in scikit-learn. `mnist` and `fashion-mnist` are IDX files, gzipped or not, looked for in `folders()` and
downloaded into the first of them if absent.
"""

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .backends import Array, backend_of
from .backends.devices import mover, usable
from .choices import choose
from .formats import FixedPoint, Format, ufixed
from .links import Signal
from .randomness import generator
from .storage import write_bytes

FOLDER_VARIABLE = "LOWBIT_DTP_DATA"
"""Environment variable that names a folder to look for data sets in."""

CLASSES = 10
"""Classes in each of the data sets here: labels are 0 to 9."""

_GZIP_MAGIC = b"\x1f\x8b"

Bytes = npt.NDArray[np.uint8]


class DataError(ValueError):
    """A file of a data set is missing, unreadable or not what it should be; the message names it and says why."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Images and what they show."""

    stored: Array
    """[samples, neurons], each image row by row: the inputs themselves, or their codes."""
    labels: Array
    """Integers [samples], from 0."""
    format: Format | None = None
    """What the codes in `stored` stand for; None if it holds inputs as they are."""

    def __post_init__(self) -> None:
        if self.format is None or not isinstance(self.stored, np.ndarray):
            return
        if self.stored.dtype.kind != "u":
            raise TypeError(f"samples: codes of {self.format} are unsigned whole numbers, not {self.stored.dtype}")
        bits = self.format.bits
        if self.stored.dtype.itemsize * 8 > bits and int(self.stored.max(initial=0)) >= 1 << bits:
            raise ValueError(f"samples: code {self.stored.max()} does not fit in the {bits} bits of {self.format}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def inputs(self) -> Array:
        """All inputs [samples, neurons] in [0, 1]; of bytes, a new float32 array, four times as large."""
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
        """Inputs and labels of `which` samples, a slice or indices. Codes are a `Signal`, and sent as they are."""
        stored, labels = self.stored[which], self.labels[which]
        return stored if self.format is None else Signal(stored, self.format, self._float), labels


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images in three parts: to train on, to choose by, and to report on."""

    name: str
    train: Samples
    valid: Samples
    test: Samples
    classes: int
    input_format: FixedPoint
    """Carries every pixel exactly."""
    image_shape: tuple[int, ...]
    """(height, width)."""
    source: str
    """Whom to cite."""


@dataclass(frozen=True)
class Digest:
    """The MD5 that is published for a file, and what it is `of`: the unpacked "content", or the "gz" as published.

    Whoever gzips a file again changes the second alone, so only a fresh download can be held to a digest of "gz".
    """

    md5: str
    of: Literal["content", "gz"]


@dataclass(frozen=True)
class IdxFile:
    """A file of unsigned bytes in IDX format: images [samples, height, width] or labels [samples]."""

    name: str
    """Without `.gz`."""
    shape: tuple[int, ...]
    digest: Digest

    @property
    def header(self) -> bytes:
        """What the file begins with: the magic number 00 00 08 (unsigned bytes), dimensions, and each one's size."""
        return bytes([0, 0, 8, len(self.shape)]) + np.array(self.shape, ">u4").tobytes()


@dataclass(frozen=True)
class Source:
    """How a data set is published, and how it is split here: `sizes` are of train, valid and test, in file order."""

    citation: str
    input_format: FixedPoint
    sizes: tuple[int, int, int]
    files: tuple[IdxFile, ...] = ()
    """Images and labels to train on, images and labels to test on; none for what ships in scikit-learn."""
    mirrors: tuple[str, ...] = ()
    """Addresses that `<file>.gz` is appended to, in the order they are tried."""


def _idx_files(of: Literal["content", "gz"], *md5: str) -> tuple[IdxFile, ...]:
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    shapes: tuple[tuple[int, ...], ...] = ((60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,))
    return tuple(IdxFile(n, s, Digest(d, of)) for n, s, d in zip(names, shapes, md5, strict=True))


SOURCES = {
    "digits": Source(
        "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998; test part, from scikit-learn",
        ufixed(5, 1),
        (1_097, 300, 400),
    ),
    "mnist": Source(
        "Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits, 1998",
        ufixed(8, 0),
        (50_000, 10_000, 10_000),
        _idx_files(
            "content",
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    ),
    "fashion-mnist": Source(
        "H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017",
        ufixed(8, 0),
        (50_000, 10_000, 10_000),
        _idx_files(
            "gz",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
    ),
}
"""The data sets there are, by name."""


def load(name: str, folder: Path | str | None = None) -> DataSet:
    """The data set called `name`, from `folder` or the other `folders`, downloaded if it is in none.

    `digits`: 1,797 images of 8 x 8 inputs in 17 levels, as k/16; train, valid and test are the first 1,097, the next
    300 and the last 400. `mnist` and `fashion-mnist`: 28 x 28 inputs in 256 levels; train and valid are the first
    50,000 and the last 10,000 of the training file. A byte k becomes k/256, not k/255: that is the thesis' scaling to
    [0, 1] but for a factor 255/256, and `ufixed(8,0)` carries it exactly, in the 8 bits that the pixel has.

    Inputs are held once, as bytes: 55 MB for 70,000 images. Raises DataError naming the file if one is missing, damaged
    or another, and ValueError if there is no data set `name`.
    """
    source = choose("data set", name, SOURCES)
    parts = iter(_read_all(name, folder) if source.files else [_digits()])
    images, labels = next(parts)
    shape, samples, start = images.shape[1:], [], 0
    for size in source.sizes:
        if start == len(images):  # the next part begins with the next file
            (images, labels), start = next(parts), 0
        which, start = slice(start, start + size), start + size
        stored = images[which].reshape(size, -1)
        samples.append(Samples(stored, labels[which].astype(np.int64), source.input_format))
    train, valid, test = samples
    return DataSet(name, train, valid, test, CLASSES, source.input_format, shape, source.citation)


def folders(folder: Path | str | None = None) -> list[Path]:
    """Where data sets are looked for, in this order: `folder`, $LOWBIT_DTP_DATA, the user's cache folder."""
    from platformdirs import user_cache_path

    return [Path(f) for f in (folder, os.environ.get(FOLDER_VARIABLE), user_cache_path("lowbit-dtp")) if f]


def find(name: str, folder: Path | str | None = None) -> list[tuple[IdxFile, Path | None]]:
    """The files of data set `name`, and where each is found, unread; none for `digits`, which needs no file.

    Each of `folders(folder)` may hold it as `<name>/<file>` or `<file>`, with or without `.gz`.
    """
    places = [place for parent in folders(folder) for place in (parent / name, parent)]
    return [
        (file, next(filter(_exists, (place / f"{file.name}{end}" for place in places for end in ("", ".gz"))), None))
        for file in choose("data set", name, SOURCES).files
    ]


def fetch(name: str, folder: Path | str | None = None) -> list[Path]:
    """Where the files of data set `name` are, after download to `<first of folders>/<name>` of those not found.

    What is downloaded is checked and then written whole; what was found is checked by `load`. Raises DataError if no
    mirror gives a file, or it cannot be written.
    """
    return [path or _download(name, file, folder) for file, path in find(name, folder)]


def order(samples: int, seed: int, sweep: int) -> npt.NDArray[np.int64]:
    """Indices of `samples` samples in the order in which minibatches take them, drawn from `seed` and `sweep` alone.

    A sweep is a pass over the samples; they are counted from 0.
    """
    return generator(seed, "minibatches", sweep).permutation(samples)


def _digits() -> tuple[Bytes, Bytes]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)


def _read_all(name: str, folder: Path | str | None) -> list[tuple[Bytes, Bytes]]:
    """Images and labels to train on, and to test on, as the IDX files of `name` have them."""
    parts = [_read(file, path) for file, path in zip(SOURCES[name].files, fetch(name, folder), strict=True)]
    return list(zip(parts[::2], parts[1::2], strict=True))


def _read(file: IdxFile, path: Path) -> Bytes:
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return _parse(file, packed, path)


def _parse(file: IdxFile, packed: bytes, origin: Path | str) -> Bytes:
    """The array in an IDX file, gzipped or not, that came from `origin`. Raises DataError unless it is `file`."""
    content = _unpacked(packed, origin)
    header, magic = file.header, content[:4]
    if magic != header[:4]:
        kinds = {bytes([0, 0, 8, 1]): "IDX labels", bytes([0, 0, 8, 3]): "IDX images"}
        found = kinds.get(magic, f"something that begins with {magic.hex() or 'nothing'}")
        raise DataError(f"{origin}: holds {found}, not {kinds[header[:4]]} ({header[:4].hex()})")
    if len(content) >= len(header) and not content.startswith(header):
        shape = np.frombuffer(content[4 : len(header)], ">u4").tolist()
        raise DataError(f"{origin}: holds {_described(shape)}, not {_described(file.shape)}")
    length = len(header) + prod(file.shape)
    if len(content) != length:
        fault = "truncated" if len(content) < length else "too long"
        raise DataError(f"{origin}: is {fault}: {len(content)} bytes unpacked, not {length}")
    array = np.frombuffer(content, np.uint8, offset=len(header)).reshape(file.shape)
    if array.ndim == 1 and array.max() >= CLASSES:
        at = int(array.argmax())
        raise DataError(f"{origin}: label {array[at]} of sample {at} is not one of 0 to {CLASSES - 1}")
    _check_content(file, _md5(content), origin)
    return array


def _unpacked(packed: bytes, origin: Path | str) -> bytes:
    """`packed`, gunzipped if it begins like a gzip file, whatever it is called: some browsers unpack and keep `.gz`."""
    if not packed.startswith(_GZIP_MAGIC):
        return packed
    try:
        return gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{origin}: is a corrupt gzip file ({error})") from None


def _described(shape: Iterable[int]) -> str:
    count, *image = shape
    return f"{count} images of {' x '.join(map(str, image))} inputs" if image else f"{count} labels"


def _check_content(file: IdxFile, md5: str, origin: Path | str) -> None:
    """Raise DataError if `md5`, of the content, is not what is published for `file`, or is that of another file.

    MNIST's and Fashion-MNIST's files have the same names and shapes, and of the latter only the gz' digest is known.
    """
    for name, source in SOURCES.items():
        for other in source.files:
            if other.digest == Digest(md5, "content") and other != file:
                raise DataError(f"{origin}: is {other.name} of {name}; keep each data set in a folder of its name")
    if file.digest.of == "content" and md5 != file.digest.md5:
        raise DataError(
            f"{origin}: is corrupt or not the published file: its content has md5 {md5}, not {file.digest.md5}"
        )


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise DataError(f"{path}: cannot be looked for ({error.strerror})") from None


def _download(name: str, file: IdxFile, folder: Path | str | None) -> Path:
    """Path of `file`, now that it has been written; from the first mirror that gives what is published."""
    searched = folders(folder)
    path = searched[0] / name / f"{file.name}.gz"
    failures = []
    for mirror in SOURCES[name].mirrors:
        url = f"{mirror}{file.name}.gz"
        try:
            packed = _retrieved(file, url)
        except DataError as error:
            failures.append(str(error))
            continue
        try:
            write_bytes(path, packed)
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror})") from None
        return path
    raise DataError(
        f"{name}: no {file.name} or {file.name}.gz in {', '.join(map(str, searched))}, nor to be downloaded:\n"
        + "".join(f"  {failure}\n" for failure in failures)
        + f"Put the {len(SOURCES[name].files)} files of {name}, gzipped or not, in {path.parent} by hand; or name the "
        f"folder that has them in --data-dir or {FOLDER_VARIABLE}."
    )


def _retrieved(file: IdxFile, url: str) -> bytes:
    """What is at `url`, as it is packed there. Raises DataError unless it is `file`, as published."""
    from pooch import HTTPDownloader

    buffer = BytesIO()
    try:
        HTTPDownloader(chunk_size=2**16)(url, buffer, None)
    except OSError as error:  # of which those of requests are kinds
        response = getattr(error, "response", None)
        reason = type(error).__name__ if response is None else f"HTTP status {response.status_code}"
        raise DataError(f"{url}: {reason}") from None
    packed = buffer.getvalue()
    _parse(file, packed, url)
    if file.digest.of == "gz" and _md5(packed) != file.digest.md5:
        raise DataError(
            f"{url}: is corrupt or not the published file: it has md5 {_md5(packed)}, not {file.digest.md5}"
        )
    return packed
