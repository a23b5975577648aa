"""CIFAR-10 in its published binary batches, and those batches made from copies of the images as JPEG files."""

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np

from ..storage import read_json, write_bytes, write_json
from .idx import opened, read_body
from .samples import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Names of the classes, in the order of their labels."""

IMAGE_SHAPE = (3, 32, 32)
"""Red, green and blue, each row by row."""

NOTE = "cifar10.json"
"""File beside batches that are not the published ones; its `note` is added to the source of the data set."""

_RECORD = 1 + 3 * 32 * 32


@dataclass(frozen=True)
class Batch:
    """A binary batch: for each image a byte for the label and 3,072 for the pixels."""

    name: str
    samples: int = 10_000

    def read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Images [samples, 3, 32, 32] and labels [samples], bytes. DataError unless the file is a whole batch."""
        with opened(path) as content:
            body = read_body(content, self.samples * _RECORD, 0, path)
        records = np.frombuffer(body, np.uint8).reshape(self.samples, _RECORD)
        labels = records[:, 0]
        if labels.max() >= len(CLASSES):
            at = int(labels.argmax())
            raise DataError(f"{path}: label {labels[at]} of sample {at} is not one of 0 to {len(CLASSES) - 1}")
        return records[:, 1:].reshape(-1, *IMAGE_SHAPE), labels


def note_beside(paths: list[Path]) -> str:
    """The notes beside these batches, each once; empty for published batches."""
    notes = [folder / NOTE for folder in dict.fromkeys(path.parent for path in paths)]
    return "; ".join(str(read_json(note).get("note", note)) for note in notes if note.exists())


def convert(copies: Path, folder: Path, train: list[Batch], test: Batch) -> list[Path]:
    """Write batches `train` and `test` to `folder`, from the JPEG files in `copies`, and a note that they are copies.

    `copies` is a folder, or a tar archive, with files `train/<class>/<name>.jpg` and `test/<class>/<name>.jpg`. Batches
    take the classes in turn, each in the order of its file names, so that every part of them is balanced. Returns the
    paths written. Raises DataError if `copies` has other files, or `folder` has batches that were not made from
    copies; ImportError without Pillow.
    """
    for batch in (*train, test):
        if (folder / batch.name).exists() and not (folder / NOTE).exists():
            raise DataError(f"{folder / batch.name}: is there, and not made from copies; name another folder")
    try:
        from PIL import __version__ as pillow
    except ImportError:
        raise ImportError("reading JPEG files needs Pillow: pip install pillow") from None
    files = _files(Path(copies))
    written = {}
    for part, batches in (("train", train), ("test", [test])):
        records = _records(files, Path(copies), part, sum(batch.samples for batch in batches))
        for batch in batches:
            taken, records = records[: batch.samples], records[batch.samples :]
            written[folder / batch.name] = taken.tobytes()
    write_json(folder / NOTE, {"note": "JPEG copies of the images, not the published files", "pillow": pillow})
    for path, content in written.items():
        write_bytes(path, content)
    return [*written, folder / NOTE]


def _files(copies: Path) -> dict[PurePosixPath, Path | bytes]:
    """JPEG files in a folder or an archive, by their last three names: `train/cat/0001.jpg`."""
    try:
        if copies.is_dir():
            return {PurePosixPath(*path.parts[-3:]): path for path in copies.glob("*/*/*.jp*g")}
        with tarfile.open(copies) as archive:
            members = {PurePosixPath(*PurePosixPath(m.name).parts[-3:]): archive.extractfile(m) for m in archive}
            return {name: file.read() for name, file in members.items() if file and name.suffix in (".jpg", ".jpeg")}
    except FileNotFoundError:
        raise DataError(f"{copies}: no such folder or archive") from None
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{copies}: not a folder or a tar archive that can be read ({error})") from None


def _records(files: Mapping[PurePosixPath, Path | bytes], copies: Path, part: str, count: int) -> np.ndarray:
    """Records [count, 3073] of the files in `part`, the classes in turn."""
    named = [sorted(name for name in files if name.parts[:2] == (part, kind)) for kind in CLASSES]
    for kind, names in zip(CLASSES, named, strict=True):
        if len(names) * len(CLASSES) != count:
            needed = count // len(CLASSES)
            raise DataError(f"{copies}: has {len(names)} files {part}/{kind}/*.jpg; {needed} are needed")
    records = np.empty((count, _RECORD), np.uint8)
    for i, record in enumerate(records):
        label = i % len(CLASSES)
        name = named[label][i // len(CLASSES)]
        record[0], record[1:] = label, _pixels(files[name], copies, name)
    return records


def _pixels(file: Path | bytes, copies: Path, name: PurePosixPath) -> np.ndarray:
    """The 3,072 bytes of an image, channel by channel."""
    from PIL import Image

    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as image:
            pixels = np.asarray(image)
    except OSError as error:
        raise DataError(f"{copies}: {name} is not an image that can be read ({error})") from None
    if pixels.shape != (32, 32, 3):
        raise DataError(f"{copies}: {name} has shape {pixels.shape}; 32 x 32 pixels in red, green, blue are needed")
    return pixels.transpose(2, 0, 1).ravel()
