"""Atomic writes, one writer a folder at a time, and errors that name the file and the part."""

import copy
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import FixedNetwork
from lowbit_dtp import storage
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
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
    with pytest.raises(OSError) as error:
        storage.write_bytes(path, b"new")
    assert str(error.value) == f"[Errno 28] No space left on device: '{path}'"
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


def test_a_table_comes_back(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.csv", [{"format": "fixed(8,1)", "joules": 1e-300}, {"format": 'a "b"', "joules": 0.1}]
    storage.write_csv(path, rows)
    assert path.read_text() == 'format,joules\n"fixed(8,1)",1e-300\n"a ""b""",0.1\n'
    storage.write_csv(path, [])
    assert path.read_text() == "\n"


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
        (b'{"format_version": 0}', "has no format version; this program reads 1 to 2"),
        (b'{"format_version": true}', "has no format version; this program reads 1 to 2"),
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


WRITES = {
    "write_bytes": "storage.write_bytes(path, bytes(10**6))",
    "write_tensors": "storage.write_tensors(path, {'x': numpy.zeros(10**6)}, {})",
    "append_text": "storage.append_text(path, 'x' * 10**6)",
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_an_error_of_the_system_names_the_file(tmp_path: Path, write: str) -> None:
    path = tmp_path / "file"
    code = f"import pathlib, sys, numpy; from lowbit_dtp import storage; path = pathlib.Path(sys.argv[1]); {write}"

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], preexec_fn=limit_files, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == f"OSError: [Errno 27] File too large: '{path}'"


def test_a_full_disk_is_named_when_a_line_is_added() -> None:
    with pytest.raises(OSError) as error:
        storage.append_text(Path("/dev/full"), "line\n")
    assert str(error.value) == "[Errno 28] No space left on device: '/dev/full'"


HOLD = """
import sys
from pathlib import Path
from lowbit_dtp import storage
with storage.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.readline()
"""


def hold(folder: Path) -> subprocess.Popen:
    """A process that holds the lock of `folder` until it reads a line."""
    line = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    return process


@pytest.mark.parametrize("end", ["let go", "kill"])
def test_a_folder_is_locked_until_its_process_lets_go_or_dies(tmp_path: Path, end: str) -> None:
    process = hold(tmp_path / "run")
    try:
        with pytest.raises(storage.LockedError) as error, storage.locked(tmp_path / "run"):
            pass
        assert str(error.value) == (
            f"{tmp_path / 'run'}: process {process.pid} is writing to this folder; "
            "wait for it to end, or choose another folder"
        )
    finally:
        process.communicate("\n") if end == "let go" else process.kill()
        process.wait()
    assert (tmp_path / "run" / storage.LOCK).exists() == (end == "kill")
    with storage.locked(tmp_path / "run"):
        assert (tmp_path / "run" / storage.LOCK).read_text() == str(os.getpid())
    assert list((tmp_path / "run").iterdir()) == []


def parts(value: Any, path: tuple = ()) -> list[tuple]:
    """The path to every part of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [found for key, part in items for found in [(*path, key), *parts(part, (*path, key))]]


def name_of(path: tuple) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


NETWORK = Network.build([3, 4, 4, 2], [Link("ufixed(5,1)"), Link("binary", "binary"), Link()])
REMOVED = "removed"
OPTIONAL = {"decoder_activation", "inputs", "buffers", "label"}


@pytest.mark.parametrize("path", parts(NETWORK.describe()), ids=name_of)
@pytest.mark.parametrize("wrong", [REMOVED, None, 1.5, True, "x", [], {}, -1], ids=repr)
def test_a_network_file_with_a_wrong_header_is_refused_by_name(tmp_path: Path, path: tuple, wrong: Any) -> None:
    description = copy.deepcopy(NETWORK.describe())
    holder = description
    for key in path[:-1]:
        holder = holder[key]
    right = holder[path[-1]]
    if wrong is REMOVED:
        del holder[path[-1]]
    else:
        holder[path[-1]] = wrong
    file = tmp_path / "network.safetensors"
    storage.write_tensors(file, NETWORK.tensors(), description)
    is_optional = path[-1] in OPTIONAL or path[-2:-1] == ("inputs",)
    is_part_missing = wrong is REMOVED and isinstance(path[-1], str) and not is_optional
    accepted = {type(right), str, type(None)} if path[-1] == "decoder_activation" else {type(right)}
    is_of_another_type = wrong is not REMOVED and type(wrong) not in accepted
    for load in (Network.load, FixedNetwork.load):
        try:
            load(file)
        except ValueError as error:
            assert str(error).startswith(f"{file}: ")
            if is_part_missing:
                assert str(error) == f"{file}: not a network: in its header, {name_of(path)} is missing"
            elif is_of_another_type:
                assert f"in its header, {name_of(path)} must be " in str(error)
        else:
            assert not is_part_missing
            assert not is_of_another_type


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("[1]", "'lowbit_dtp' in its header is not a JSON object"),
        ("{", "'lowbit_dtp' in its header is not JSON (Expecting property name enclosed in double quotes: line 1"),
        ("{}", "has no format version; this program reads 1 to 2"),
        ('{"format_version": 2}', "not a network: in its header, input is missing"),
    ],
)
def test_a_header_that_is_not_ours(tmp_path: Path, metadata: str, message: str) -> None:
    from safetensors.numpy import save

    path = tmp_path / "x.safetensors"
    path.write_bytes(save({"x": np.zeros(2)}, {"lowbit_dtp": metadata}))
    for load in (Network.load, FixedNetwork.load):
        with pytest.raises(StorageError, match=f"^{re.escape(f'{path}: {message}')}"):
            load(path)
