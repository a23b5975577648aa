"""Atomic writes, locks, and JSON and tensor files with a format version.

The three packages exchange data through the run folder, and read and write it through this module.
"""

import csv
import errno
import fcntl
import io
import json
import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .settings import check

FORMAT_VERSION = 2
"""Version of everything written to a run folder. A reader refuses a newer one."""

_METADATA_KEY = "lowbit_dtp"

LOCK = ".lock"
"""File in a folder, locked by the process that writes to the folder."""

NETWORK = {
    "input": {"name": str, "neurons": int},
    "layers": [
        {
            "name": str,
            "neurons": int,
            "activation": str,
            "decoder_activation?": str | None,
            "inputs?": {str: {"kind": str, "name": str, "direction": str, "fraction_bits?": int}},
            "buffers?": list[str],
        }
    ],
    "links": [{"lower": str, "upper": str, "forward": str, "feedback": str, "label?": str}],
}
"""Keys in the header of a network file; those that end in "?" are not in files of format version 1."""


class StorageError(ValueError):
    """A file is missing, broken, or from a newer version; the message names it and what would be right."""


class LockedError(ValueError):
    """Another process writes to a folder; the message names both."""


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step: a crash or a full disk leaves the old file, or none.

    OSError names `path`, whichever step failed.
    """
    path = Path(path)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def append_text(path: Path, text: str) -> None:
    """Write `text` at the end of `path`, as UTF-8. OSError names `path`; a part of `text` may then be there."""
    with _naming(Path(path)), Path(path).open("a") as file:
        file.write(text)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an OSError name `path`: write errors name no file, and those of temporary files name another."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def locked(folder: Path, lock: Path | None = None) -> Iterator[None]:
    """Within, no other process holds the lock of `folder`: the file `lock`, by default one in `folder`.

    The lock ends with the process that holds it, however that ends. Raises LockedError naming folder and process
    if another one holds it.
    """
    path = Path(lock or Path(folder) / LOCK)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _lock(path)
    if handle is None:
        try:
            holder = path.read_text().strip()
        except OSError:  # the other process has released it in the meantime
            holder = ""
        raise LockedError(
            f"{folder}: {f'process {holder}' if holder else 'another process'} is writing to this folder; "
            "wait for it to end, or choose another folder"
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is locked, so that a waiting process sees that it is gone
        os.close(handle)


def _lock(path: Path) -> int | None:
    """Descriptor of `path`, locked and naming this process; None if another process has locked it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):  # a file system without locks
                os.close(handle)
                raise
        if _is_same_file(handle, path):
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
            return handle
        os.close(handle)  # its last holder has removed the file: lock the one that is there now


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for text, as UTF-8."""
    write_bytes(path, text.encode())


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `rows` as a table of comma-separated values, one column for each key; all rows have the same keys."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: Path, content: Mapping[str, Any], *, compact: bool = False) -> None:
    """Write `content` with the format version, in a stable order: readable, or `compact` on one line."""
    layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    write_text(path, json.dumps({"format_version": FORMAT_VERSION, **content}, **layout) + "\n")


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises `StorageError` naming `path` if it cannot be read, or is not one."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))  # an editor may put a byte-order mark first
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise StorageError(f"{path}: not TOML (nested too deeply)") from None
    except ValueError as error:  # not UTF-8, not TOML, or an integer of thousands of digits
        raise StorageError(f"{path}: not TOML ({error})") from None


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file by `write_json`. Raises `StorageError` naming `path` if it is not one."""
    try:
        content = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StorageError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise StorageError(f"{path}: holds a JSON {type(content).__name__}, not an object")
    check_version(path, content.pop("format_version", None))
    return content


def write_tensors(path: Path, tensors: Mapping[str, Any], description: Mapping[str, Any]) -> None:
    """Write NumPy arrays and a JSON description of them as one safetensors file."""
    from numpy import ascontiguousarray
    from safetensors.numpy import save

    metadata = {_METADATA_KEY: json.dumps({"format_version": FORMAT_VERSION, **description})}
    write_bytes(path, save({name: ascontiguousarray(x) for name, x in tensors.items()}, metadata))


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays and description in a file by `write_tensors`. Raises `StorageError` naming `path` if it is not one."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).exists():
        raise StorageError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{path}: not a whole safetensors file ({error})") from None
    if _METADATA_KEY not in metadata:
        raise StorageError(f"{path}: a safetensors file, but not of lowbit-dtp: its header has no {_METADATA_KEY!r}")
    try:
        description = json.loads(metadata[_METADATA_KEY])
    except json.JSONDecodeError as error:
        raise StorageError(f"{path}: {_METADATA_KEY!r} in its header is not JSON ({error})") from None
    if not isinstance(description, dict):
        raise StorageError(f"{path}: {_METADATA_KEY!r} in its header is not a JSON object")
    check_version(path, description.pop("format_version", None))
    return tensors, description


def read_network(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays and description of a network file. Raises `StorageError` naming `path` and the wrong part."""
    tensors, description = read_tensors(path)
    try:
        check("", description, NETWORK)
    except ValueError as error:
        raise StorageError(f"{path}: not a network: in its header, {error}") from None
    return tensors, description


def check_version(path: Path, version: object) -> None:
    """Raise `StorageError` unless `version` is one that this program reads."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise StorageError(f"{path}: has no format version; this program reads 1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise StorageError(
            f"{path}: format version {version} is newer than {FORMAT_VERSION}, the newest this program reads; "
            "upgrade lowbit-dtp"
        )
