"""A comparison on a Dask cluster of two workers, one of which is killed: the same bits as in this process."""

import pytest

from lowbit_dtp import compare
from tests.lowbit_dtp.test_batches import EPOCHS, Followed, in_this_process, results, small


def test_a_run_whose_dask_worker_is_killed_goes_on_on_another(tmp_path):
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster:

        def worker() -> int:
            states = cluster.scheduler.workers.values()
            [name] = [x.name for x in states if any(task.key.endswith("-0") for task in x.processing)]
            return cluster.workers[name].pid

        followed = Followed(worker)
        compare(
            small(), tmp_path / "dask", technologies=["7nm"], export=False, dask=cluster.scheduler_address,
            observer=followed,
        )  # fmt: skip
    assert followed.chosen is None
    assert followed.begun.count("dtp") == 2
    assert set(followed.epochs["dtp"]) == set(range(1, EPOCHS + 1))
    assert followed.epochs["dtp"].count(1) == 1, "it went on from its checkpoint"
    assert results(tmp_path / "dask") == in_this_process(tmp_path / "here")
