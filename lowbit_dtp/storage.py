"""Files that are whole or not there: atomic writes, and JSON and tensor files that carry a format version.

The run folder is the seam between the packages, so all three read and write it through this module.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT_VERSION = 2
"""Version of everything written to a run folder. A reader refuses a newer one."""

_METADATA_KEY = "lowbit_dtp"


class StorageError(ValueError):
    """A file is missing, broken, or from a newer version; the message names it and says what would be right."""


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step: a crash or a full disk leaves the old file, or none."""
    path = Path(path)
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for text, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` with the format version, readable and in a stable order."""
    write_text(path, json.dumps({"format_version": FORMAT_VERSION, **content}, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote. Raises `StorageError` naming `path` if it cannot be that."""
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
    """Arrays and description that `write_tensors` wrote. Raises `StorageError` naming `path` if it cannot be that."""
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
    description = json.loads(metadata[_METADATA_KEY])
    check_version(path, description.pop("format_version", None))
    return tensors, description


def check_version(path: Path, version: object) -> None:
    """Raise `StorageError` unless `version` is one that this program reads."""
    if not isinstance(version, int):
        raise StorageError(f"{path}: has no format version; this program reads 1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise StorageError(
            f"{path}: format version {version} is newer than {FORMAT_VERSION}, the newest this program reads; "
            "upgrade lowbit-dtp"
        )
