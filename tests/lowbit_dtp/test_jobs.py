"""Several pieces of work at once: results, failures, deaths, messages and the end of it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lowbit_dtp import jobs, plugins
from lowbit_dtp.jobs import JobsError, run_all


def work(item: str) -> str:
    """Done to `item`: its text doubled, unless it is the name of something that goes wrong."""
    jobs.tell(f"begin {item}")
    if item == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "ends":
        os._exit(3)
    if item == "fails":
        raise ValueError("links: no link 'h9'")
    if item == "breaks":
        {}["key"]
    return item * 2


def surroundings(item: int) -> tuple[int, set[str], list[str]]:
    """Process, threads and plug-ins of the process that does `item`."""
    return os.getpid(), {os.environ[variable] for variable in jobs.THREAD_VARIABLES}, plugins.files()


@pytest.mark.parametrize("count", [1, 2])
def test_each_item_is_yielded_with_its_result_and_what_it_told(count):
    told = []
    found = list(run_all(work, ["a", "b", "c"], jobs=count, on_message=lambda item, said: told.append((item, said))))
    assert sorted(found) == [("a", "aa"), ("b", "bb"), ("c", "cc")]
    assert sorted(told) == [("a", "begin a"), ("b", "begin b"), ("c", "begin c")]


def test_a_piece_that_fails_or_dies_is_named_and_the_others_are_done():
    found = []
    with pytest.raises(JobsError) as raised:
        for pair in run_all(
            work, ["dies", "fails", "a", "breaks", "ends", "b"], jobs=2, name=lambda item: f"run {item}"
        ):
            found.append(pair)
    assert sorted(found) == [("a", "aa"), ("b", "bb")]
    assert set(raised.value.errors) == {"run dies", "run fails", "run breaks", "run ends"}
    assert raised.value.errors["run dies"] == "its process was killed by SIGKILL"
    assert raised.value.errors["run ends"] == "its process ended with status 3"
    assert raised.value.errors["run fails"] == "links: no link 'h9'"
    assert re.match(r"KeyError: 'key'\nTraceback .*{}\[\"key\"\]", raised.value.errors["run breaks"], re.DOTALL)
    assert "run fails: links: no link 'h9'" in str(raised.value).splitlines()


def test_a_failure_in_this_process_is_named_and_the_others_are_done():
    found = []
    with pytest.raises(JobsError, match=r"^fails: links: no link 'h9'$") as raised:
        for pair in run_all(work, ["fails", "a"], jobs=1):
            found.append(pair)
    assert found == [("a", "aa")]
    assert isinstance(raised.value.__cause__, ValueError)


def test_processes_have_their_threads_and_the_plugins(tmp_path):
    (tmp_path / "mine.py").write_text("")
    plugins.load([tmp_path / "mine.py"])
    before = {variable: os.environ.get(variable) for variable in jobs.THREAD_VARIABLES}
    found = [result for _, result in run_all(surroundings, [0, 1], jobs=2, threads=3)]
    assert os.getpid() not in {process for process, _, _ in found}
    assert [(threads, files) for _, threads, files in found] == [({"3"}, plugins.files())] * 2
    assert str(tmp_path / "mine.py") in plugins.files()
    assert {variable: os.environ.get(variable) for variable in jobs.THREAD_VARIABLES} == before


def test_no_jobs_is_refused():
    with pytest.raises(ValueError, match=r"^jobs must be 1 or more, not 0$"):
        list(run_all(work, ["a"], jobs=0))


SCRIPT = """
import sys, time
from pathlib import Path
from lowbit_dtp.jobs import run_all

def wait(path):
    Path(path).touch()
    while True:
        time.sleep(0.02)

if {guard}:
    for _ in run_all(wait, sys.argv[1:], jobs=2):
        pass
"""


def test_a_script_without_a_guard_is_told_about_it(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.format(guard="True"))
    line = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "a"), str(tmp_path / "b")]
    ended = subprocess.run(line, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    assert ended.stderr.splitlines()[-1] == (
        "lowbit_dtp.jobs.JobsError: process: it could not start, and ended with status 1; in a script, what is not to "
        'run in each process belongs below `if __name__ == "__main__":`'
    )


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_all_processes_end_with_the_one_that_started_them(tmp_path, sent):
    (tmp_path / "script.py").write_text(SCRIPT.format(guard="__name__ == '__main__'"))
    begun = [tmp_path / "a", tmp_path / "b"]
    line = [sys.executable, str(tmp_path / "script.py"), *map(str, begun)]
    process = subprocess.Popen(
        line,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    while not all(path.exists() for path in begun):
        assert process.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    found = [int(child) for child in children.read_text().split()] if children.exists() else []
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does
    else:
        process.send_signal(sent)
    _, said = process.communicate()
    if sent == signal.SIGINT:
        assert said.count("KeyboardInterrupt") == 1  # only of the process that was asked
    for child in found:
        while is_running(child):
            time.sleep(0.02)


def is_running(process: int) -> bool:
    """Whether a process of this number is there, and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
