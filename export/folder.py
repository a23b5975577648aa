"""Atomic replacement of a folder: the new one is complete before the old one is removed."""

import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from lowbit_dtp.storage import StorageError, locked, read_json, write_bytes, write_json

from .checksums import CHECKSUMS, Damage, FileSums, checksums, damage, read_checksums

MANIFEST = "manifest.json"
PAGE = "report.html"
_RANDOM = "[a-z0-9_]" * 8
"""What `tempfile.mkdtemp` ends a name with."""


def seal(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest` into `folder`, and the checksums of it, of all files that it lists, and of the page if any."""
    folder = Path(folder)
    write_json(folder / MANIFEST, dict(manifest))
    paths = [*(x["path"] for x in manifest["files"]), MANIFEST, *([PAGE] if (folder / PAGE).exists() else [])]
    write_bytes(folder / CHECKSUMS, checksums({path: (folder / path).read_bytes() for path in paths}))


def add_to_manifest(folder: Path, **entries: Any) -> None:
    """Add `entries` to the manifest of the export in `folder`: figures of a build, say."""
    manifest = read_json(Path(folder) / MANIFEST)
    manifest.pop("format_version", None)
    seal(folder, manifest | entries)


def first_damage(folder: Path) -> Damage | None:
    """Where the export in `folder` is not what was written; None if it is. Files that it does not list may be there.

    Raises StorageError naming a file that is missing.
    """
    folder = Path(folder)
    listed = read_checksums(_read(folder, CHECKSUMS))
    if isinstance(listed, Damage):
        return listed
    # The manifest first, since the others are located by it.
    paths = sorted(listed, key=lambda path: path != MANIFEST)
    return next(filter(None, (_damage(folder, path, listed[path]) for path in paths)), None)


def _damage(folder: Path, path: str, sums: FileSums) -> Damage | None:
    return damage(path, _read(folder, path), sums)


def _read(folder: Path, path: str) -> bytes:
    try:
        return (folder / path).read_bytes()
    except FileNotFoundError:
        raise StorageError(f"{folder / path}: no such file, although an export of this version has it") from None


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, which replaces it when the block ends without an error.

    After an error `folder` is as it was. A process that is killed leaves a folder `.NAME.*` behind, which the next
    `replacing` removes. Raises FileExistsError rather than replace something that is not an export, and LockedError if
    another process is replacing `folder`.
    """
    folder = Path(folder).absolute()
    with _terminating(), locked(folder, folder.parent / f".{folder.name}.lock"), ExitStack() as clean_up:
        _remove_stale(folder)
        if folder.exists() and not _is_replaceable(folder):
            raise FileExistsError(f"{folder} exists and is not an export (it has no {MANIFEST}); choose another folder")
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        clean_up.callback(shutil.rmtree, scratch, ignore_errors=True)
        new, old = scratch / "new", scratch / "old"
        new.mkdir()
        yield new
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise


def _remove_stale(folder: Path) -> None:
    """Remove what killed processes left beside `folder`, which is locked; put back an export that one moved away."""
    for scratch in folder.parent.glob(f".{escape(folder.name)}.{_RANDOM}"):
        if scratch.is_symlink() or not scratch.is_dir() or {x.name for x in scratch.iterdir()} - {"new", "old"}:
            continue
        if (scratch / "old").exists() and not folder.exists():
            (scratch / "old").rename(folder)
        shutil.rmtree(scratch, ignore_errors=True)


def _is_replaceable(folder: Path) -> bool:
    """Whether `folder` is an export, or empty."""
    return (folder / MANIFEST).is_file() or (folder.is_dir() and not any(folder.iterdir()))


@contextmanager
def _terminating() -> Iterator[None]:
    """Let SIGTERM end the process by SystemExit within, so that it cleans up, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
