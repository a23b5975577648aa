import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowbit_dtp import storage
from lowbit_dtp.storage import StorageError


@pytest.mark.parametrize("broken", ["fsync", "replace"])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, old: bytes | None
) -> None:
    path = tmp_path / "file"
    if old is not None:
        storage.write_bytes(path, old)

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device$"):
        storage.write_bytes(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


def test_a_write_makes_folders_and_obeys_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    mask = os.umask(0o027)
    try:
        storage.write_text(path, "größer")
    finally:
        os.umask(mask)
    assert path.read_bytes() == "größer".encode()
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_json_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    storage.write_json(path, {"b": [1, 2.5], "a": {"c": None}})
    assert storage.read_json(path) == {"b": [1, 2.5], "a": {"c": None}}
    assert json.loads(path.read_text())["format_version"] == storage.FORMAT_VERSION


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"{", "not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        (b"\xff", "not JSON ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte)"),
        (b"[1]", "holds a JSON list, not an object"),
        (b"{}", "has no format version; this program reads 1 to 2"),
        (b'{"format_version": "1"}', "has no format version; this program reads 1 to 2"),
        (
            b'{"format_version": 3}',
            "format version 3 is newer than 2, the newest this program reads; upgrade lowbit-dtp",
        ),
    ],
)
def test_what_is_not_our_json(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StorageError, match=f"^{re.escape(f'{path}: {message}')}$"):
        storage.read_json(path)


def test_tensors_come_back(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {
        "floats": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32).T,
        "doubles": np.array([[1e-300]]),
        "codes": np.array([0, 2**32 - 1], np.uint32),
        "none": np.zeros((0, 3), np.uint8),
    }
    storage.write_tensors(path, tensors, {"name": "größer", "sizes": [1, 2]})
    back, description = storage.read_tensors(path)
    assert description == {"name": "größer", "sizes": [1, 2]}
    assert back.keys() == tensors.keys()
    for name, x in tensors.items():
        assert back[name].dtype == x.dtype
        np.testing.assert_array_equal(back[name], x)


def test_what_is_not_our_tensors(tmp_path: Path) -> None:
    from safetensors.numpy import save

    path = tmp_path / "x.safetensors"
    with pytest.raises(StorageError, match=f"^{re.escape(f'{path}: no such file')}$"):
        storage.read_tensors(path)
    path.write_bytes(save({"x": np.zeros(2)}))
    message = f"{path}: a safetensors file, but not of lowbit-dtp: its header has no 'lowbit_dtp'"
    with pytest.raises(StorageError, match=f"^{re.escape(message)}$"):
        storage.read_tensors(path)
    path.write_bytes(save({"x": np.zeros(2)}, {"lowbit_dtp": '{"format_version": 9}'}))
    message = f"{path}: format version 9 is newer than 2, the newest this program reads; upgrade lowbit-dtp"
    with pytest.raises(StorageError, match=f"^{re.escape(message)}$"):
        storage.read_tensors(path)


def test_tensors_cut_short_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    storage.write_tensors(path, {"x": np.arange(4.0)}, {})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(StorageError, match=rf"^{re.escape(str(path))}: not a whole safetensors file \(.+\)$"):
            storage.read_tensors(path)
