"""A folder is replaced atomically, however the process ends."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from export.folder import MANIFEST, replacing
from lowbit_dtp.storage import LockedError

STOPPED = """
import os, sys
from pathlib import Path
from export.folder import replacing

with replacing(Path(sys.argv[1])) as new:
    (new / "manifest.json").write_text("new")
    print("at work", flush=True)
    sys.stdin.readline()
"""
MOVED = """
import os, signal, sys
from pathlib import Path
from export.folder import replacing

def rename(self, target, rename=Path.rename):
    rename(self, target)
    os.kill(os.getpid(), signal.SIGKILL)

Path.rename = rename
with replacing(Path(sys.argv[1])) as new:
    (new / "manifest.json").write_text("new")
"""


def start(code: str, folder: Path) -> subprocess.Popen:
    line = [sys.executable, "-c", code, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, **pipes, text=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A folder that is an export."""
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / MANIFEST).write_text("old")
    return tmp_path / "export"


def replace(folder: Path, content: str) -> None:
    with replacing(folder) as new:
        (new / MANIFEST).write_text(content)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_ended_leaves_the_old_export_and_nothing_else(export: Path, number: signal.Signals) -> None:
    process = start(STOPPED, export)
    assert process.stdout.readline() == "at work\n"
    assert len(names(export.parent)) == 3  # the export, the lock, the new folder
    process.send_signal(number)
    process.communicate(timeout=60)
    assert (export / MANIFEST).read_text() == "old"
    if number == signal.SIGKILL:
        assert len(names(export.parent)) == 3
        replace(export, "newer")
        assert (export / MANIFEST).read_text() == "newer"
    assert names(export.parent) == ["export"]
    assert process.returncode == {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 143}.get(number, -number)


def test_an_export_that_a_killed_process_had_moved_away_comes_back(export: Path) -> None:
    process = start(MOVED, export)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not export.exists()
    with pytest.raises(ZeroDivisionError), replacing(export):
        assert (export / MANIFEST).read_text() == "old"
        raise ZeroDivisionError
    assert (export / MANIFEST).read_text() == "old"
    assert names(export.parent) == ["export"]


def test_a_folder_that_another_process_replaces_is_refused_and_left_alone(export: Path) -> None:
    process = start(STOPPED, export)
    assert process.stdout.readline() == "at work\n"
    before = names(export.parent)
    with pytest.raises(LockedError, match=rf"^{export}: process {process.pid} is writing to this folder; "):
        replace(export, "newer")
    assert names(export.parent) == before
    process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert (export / MANIFEST).read_text() == "new"


def test_what_is_not_left_by_an_export_is_not_removed(export: Path) -> None:
    for name, file in ((".export.abcdefgh", "mine"), (".export.abc", "new"), (".exports.abcdefgh", "new")):
        (export.parent / name).mkdir()
        (export.parent / name / file).write_text("kept")
    (export.parent / ".export.01234567").symlink_to(export)
    before = names(export.parent)
    replace(export, "newer")
    assert names(export.parent) == before
