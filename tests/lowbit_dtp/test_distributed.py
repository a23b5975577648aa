"""Ranks as processes, joined by gloo: a run folder like that of one process, and what happens if a rank is lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lowbit_dtp import Comparison
from lowbit_dtp.data import load
from lowbit_dtp.distributed import HEADER_BYTES, WireError
from lowbit_dtp.distributed.transport import Envelope
from lowbit_dtp.runs import run

SPLIT = "h1|h2,output"
TRAIN = ("train", "--data", "digits", "--rule", "dtp", "--epochs", "4", "--codings", "silence")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def begin(folder: Path, *options: str, of_rank: dict[int, list[str]] | None = None) -> list[subprocess.Popen[str]]:
    """Two ranks that train into `folder`."""
    port, command = free_port(), [sys.executable, "-m", "lowbit_dtp", *TRAIN, "--split", SPLIT, "--out", str(folder)]
    return [
        subprocess.Popen(
            [*command, *options, *(of_rank or {}).get(rank, [])],
            env=os.environ | {
                "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip


def ended(ranks: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit status and standard error of each rank."""
    said = [rank.communicate(timeout=240)[1] for rank in ranks]
    return [(rank.returncode, text) for rank, text in zip(ranks, said, strict=True)]


def test_a_rank_is_killed_and_the_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    alone, split = tmp_path / "alone", tmp_path / "split"
    run(replace(Comparison.load("digits").experiment("dtp", 0), epochs=4, codings=("silence",)), alone, load("digits"))
    ranks = begin(split)
    until = time.monotonic() + 200
    while not (split / "metrics.jsonl").exists() or not (split / "metrics.jsonl").read_text():
        assert time.monotonic() < until, ended(ranks)
        time.sleep(0.02)
    ranks[1].send_signal(signal.SIGKILL)
    (status, text), _ = ended(ranks)
    assert status == 2 and "lowbit-dtp: rank 0 lost rank 1, so all ranks stop" in text, text
    assert "Traceback" not in text
    assert not (split / "run.json").exists()
    for status, text in ended(begin(split)):
        assert status == 0, text
    for name in ("network.safetensors", "best.safetensors", "ledger.json"):
        assert (split / name).read_bytes() == (alone / name).read_bytes(), name


def test_ranks_with_different_experiments_are_refused(tmp_path: Path) -> None:
    found = ended(begin(tmp_path / "run", of_rank={1: ["--batch", "25"]}))
    for status, text in found:
        assert status == 2
        assert "rank 1 (h2, output) has another experiment than rank 0: batch: 25, not 50" in text, text
    assert not (tmp_path / "run").exists()


def test_without_torchrun_the_message_says_how_to_start_it(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    command = [sys.executable, "-m", "lowbit_dtp", *TRAIN, "--split", SPLIT, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, env=clean, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--split needs several ranks, and RANK is not in the environment; start it by torchrun" in done.stderr


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (Envelope("link h1-h2, forward 'activations'", 4, 16, 2), "message number 4 came, not 3"),
        (Envelope("link h1-h2, forward 'activations'", 3, 8, 2), "bytes 8 came, not 16"),
        (Envelope("link h1-h2, forward 'activations'", 3, 16, 1), "samples 1 came, not 2"),
        (Envelope("link h2-h3, forward 'activations'", 3, 16, 2), "another message came"),
    ],
)
def test_a_message_that_is_not_the_one_due_names_the_link(sent: Envelope, said: str) -> None:
    due = Envelope("link h1-h2, forward 'activations'", 3, 16, 2)
    message = sent.wrapped(np.zeros(sent.size, np.uint8))
    with pytest.raises(WireError) as error:
        due.opened(message, 1)
    assert str(error.value) == (
        f"link h1-h2, forward 'activations', from rank 1: {said}; all ranks must run the same experiment"
    )
    with pytest.raises(WireError, match="what came is no message of lowbit-dtp"):
        due.opened(np.full(HEADER_BYTES, 7, np.uint8), 1)
