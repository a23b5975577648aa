"""Published data sets: where their files are looked for and downloaded from, and their digests."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from ..choices import choose
from ..formats import FixedPoint, ufixed
from ..storage import write_bytes
from . import cifar10
from .cifar10 import Batch
from .idx import opened, read_published, unpacked
from .samples import DataError, DataSet, Outline, Samples

FOLDER_VARIABLE = "LOWBIT_DTP_DATA"
"""Environment variable that names a folder to look for data sets in."""

CLASSES = 10
"""Classes in each of the data sets here: labels are 0 to 9."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Digest:
    """The MD5 that is published for a file, and what it is `of`: the unpacked "content", or the "gz" as published.

    Gzipping a file again changes only the second, so only a new download can be checked against a digest of "gz".
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


@dataclass(frozen=True)
class Source:
    """How a data set is published, and its split: `sizes` of train, valid and test, in file order."""

    citation: str
    input_format: FixedPoint
    image_shape: tuple[int, ...]
    """(height, width) of grey images, (3, height, width) of red, green and blue."""
    sizes: tuple[int, int, int]
    files: tuple[IdxFile | Batch, ...] = ()
    """Images and labels to train on, images and labels to test on; or batches, the last of them to test on; none for
    data that ships in scikit-learn."""
    mirrors: tuple[str, ...] = ()
    """Addresses that `<file>.gz` is appended to, in the order they are tried."""
    subfolders: tuple[str, ...] = ()
    """Folders that may hold the files, besides one of the data set's name."""
    by_hand: str = ""
    """Where to get files that are not downloaded."""


def _idx_files(of: Literal["content", "gz"], *md5: str) -> tuple[IdxFile, ...]:
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    shapes: tuple[tuple[int, ...], ...] = ((60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,))
    return tuple(IdxFile(n, s, Digest(d, of)) for n, s, d in zip(names, shapes, md5, strict=True))


SOURCES = {
    "digits": Source(
        "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998; test part, from scikit-learn",
        ufixed(5, 1),
        (8, 8),
        (1_097, 300, 400),
    ),
    "mnist": Source(
        "Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits, 1998",
        ufixed(8, 0),
        (28, 28),
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
        (28, 28),
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
    "cifar10": Source(
        "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        ufixed(8, 0),
        (3, 32, 32),
        (49_000, 1_000, 10_000),
        (*(Batch(f"data_batch_{n}.bin") for n in range(1, 6)), Batch("test_batch.bin")),
        subfolders=("cifar-10-batches-bin",),
        by_hand="They are in https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz; or `lowbit-dtp data convert` "
        "makes them of JPEG copies.",
    ),
}
"""The published data sets, by name."""


def load_published(name: str, folder: Path | str | None = None) -> DataSet:
    """The data set `name` of `SOURCES`, with its split."""
    source = SOURCES[name]
    paths = fetch(name, folder)
    parts = iter(_read_all(source, paths) if paths else [_digits()])
    images, labels = next(parts)
    shape, samples, start = images.shape[1:], [], 0
    for size in source.sizes:
        if start == len(images):  # the next part begins with the next file
            (images, labels), start = next(parts), 0
        which, start = slice(start, start + size), start + size
        stored = images[which].reshape(size, -1)
        samples.append(Samples(stored, labels[which].astype(np.int64), source.input_format))
    train, valid, test = samples
    cited = "; ".join(filter(None, (source.citation, cifar10.note_beside(paths) if name == "cifar10" else "")))
    return DataSet(name, train, valid, test, CLASSES, source.input_format, shape, cited)


def published_outline(name: str) -> Outline:
    """The outline of `load_published(name)`, which reads and downloads nothing."""
    source = SOURCES[name]
    train, _, test = source.sizes
    return Outline(name, prod(source.image_shape), CLASSES, train, test)


def folders(folder: Path | str | None = None) -> list[Path]:
    """Where data sets are looked for, in this order: `folder`, $LOWBIT_DTP_DATA, the user's cache folder."""
    from platformdirs import user_cache_path

    return [Path(f) for f in (folder, os.environ.get(FOLDER_VARIABLE), user_cache_path("lowbit-dtp")) if f]


def find(name: str, folder: Path | str | None = None) -> list[tuple[IdxFile | Batch, Path | None]]:
    """The files of data set `name`, and where each is found, unread; none for `digits`, which needs no file.

    Each of `folders(folder)` may hold it as `<name>/<file>` or `<file>`, with or without `.gz`. The folder of
    CIFAR-10's archive, `cifar-10-batches-bin`, may be in place of `<name>`, or in it.
    """
    source = choose("data set", name, SOURCES)
    inside = (*(Path(name) / sub for sub in source.subfolders), *map(Path, source.subfolders))
    places = [parent / place for parent in folders(folder) for place in (Path(name), Path(), *inside)]
    return [
        (file, next(filter(_exists, (place / f"{file.name}{end}" for place in places for end in ("", ".gz"))), None))
        for file in source.files
    ]


def fetch(name: str, folder: Path | str | None = None) -> list[Path]:
    """Where the files of data set `name` are, after download to `<first of folders>/<name>` of those not found.

    Downloaded files are checked before they are written; files that were found are checked by `load`. Raises DataError
    if no mirror has a file, or it cannot be written.
    """
    return [path or _download(name, file, folder) for file, path in find(name, folder)]


def convert_cifar10(copies: Path | str, folder: Path | str | None = None) -> list[Path]:
    """Make the batches of `cifar10`, in `<first of folders>/cifar10`, of JPEG files `train/<class>/*.jpg` in `copies`.

    See `cifar10.convert`. JPEG compression is lossy, so results on such copies are not results on CIFAR-10 itself:
    `DataSet.source` has a note, and so has every summary and report.
    """
    *train, test = (file for file in SOURCES["cifar10"].files if isinstance(file, Batch))
    return cifar10.convert(Path(copies), folders(folder)[0] / "cifar10", train, test)


def _digits() -> tuple[Bytes, Bytes]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)


def _read_all(source: Source, paths: Sequence[Path]) -> list[tuple[Bytes, Bytes]]:
    """Images and labels to train on, and to test on."""
    parts = [_read(file, path) for file, path in zip(source.files, paths, strict=True) if isinstance(file, IdxFile)]
    if parts:
        return list(zip(parts[::2], parts[1::2], strict=True))
    batches = [file.read(path) for file, path in zip(source.files, paths, strict=True) if isinstance(file, Batch)]
    images, labels = zip(*batches[:-1], strict=True)
    return [(np.concatenate(images), np.concatenate(labels)), batches[-1]]


def _read(file: IdxFile, path: Path) -> Bytes:
    with opened(path) as content:
        return _checked(file, content, path)


def _checked(file: IdxFile, content: BinaryIO, origin: Path | str) -> Bytes:
    """The array in the unpacked content of an IDX file. Raises DataError unless it is `file`."""
    header, array = read_published(content, file.shape, origin)
    if array.ndim == 1 and array.max() >= CLASSES:
        at = int(array.argmax())
        raise DataError(f"{origin}: label {array[at]} of sample {at} is not one of 0 to {CLASSES - 1}")
    _check_content(file, _md5(header, array), origin)
    return array


def _check_content(file: IdxFile, md5: str, origin: Path | str) -> None:
    """Raise DataError if `md5`, of the content, is not the published one of `file`, or is that of another file.

    MNIST's and Fashion-MNIST's files have the same names and shapes; for the latter only digests of "gz" are known.
    """
    for name, source in SOURCES.items():
        for other in source.files:
            if isinstance(other, IdxFile) and other.digest == Digest(md5, "content") and other != file:
                raise DataError(f"{origin}: is {other.name} of {name}; keep each data set in a folder of its name")
    if file.digest.of == "content" and md5 != file.digest.md5:
        raise DataError(
            f"{origin}: is corrupt or not the published file: its content has md5 {md5}, not {file.digest.md5}"
        )


def _md5(*parts: bytes | Bytes) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        digest.update(part.data if isinstance(part, np.ndarray) else part)
    return digest.hexdigest()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise DataError(f"{path}: cannot be looked for ({error.strerror})") from None


def _download(name: str, file: IdxFile | Batch, folder: Path | str | None) -> Path:
    """Download `file` from the first mirror that has the published one; returns its path."""
    searched, source = folders(folder), SOURCES[name]
    absent = f"{name}: no {file.name} or {file.name}.gz in {', '.join(map(str, searched))}"
    put = (
        f"Put the {len(source.files)} files of {name}, gzipped or not, in {searched[0] / name}; or name the "
        f"folder that has them in --data-dir or {FOLDER_VARIABLE}."
    )
    if isinstance(file, Batch):
        raise DataError(f"{absent}.\n{put} {source.by_hand}")
    path = searched[0] / name / f"{file.name}.gz"
    failures = []
    for mirror in source.mirrors:
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
    raise DataError(f"{absent}, nor to be downloaded:\n" + "".join(f"  {failure}\n" for failure in failures) + put)


def _retrieved(file: IdxFile, url: str) -> bytes:
    """The content at `url`, packed as it is there. Raises DataError unless it is `file`, as published."""
    from pooch import HTTPDownloader

    buffer = BytesIO()
    try:
        HTTPDownloader(chunk_size=2**16)(url, buffer, None)
    except OSError as error:  # errors of requests are subclasses
        response = getattr(error, "response", None)
        reason = type(error).__name__ if response is None else f"HTTP status {response.status_code}"
        raise DataError(f"{url}: {reason}") from None
    packed = buffer.getvalue()
    with unpacked(BytesIO(packed), url) as content:
        _checked(file, content, url)
    if file.digest.of == "gz" and _md5(packed) != file.digest.md5:
        raise DataError(
            f"{url}: is corrupt or not the published file: it has md5 {_md5(packed)}, not {file.digest.md5}"
        )
    return packed
