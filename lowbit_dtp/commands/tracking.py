"""Logs of runs for TensorBoard and MLflow, which are optional."""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..experiment import Experiment
    from ..runs import Evaluation


class RunLog(Protocol):
    """The log of one run."""

    def evaluated(self, evaluation: "Evaluation") -> None:
        """Log the state after an epoch."""

    def end(self) -> None:
        """The run has ended, or failed."""


class Tracker(Protocol):
    """A place where runs are logged."""

    def begin(self, rule: str, experiment: "Experiment", folder: Path) -> RunLog:
        """The log of the run of `rule` in `folder`, which begins or continues."""


class TensorBoard:
    """Curves in the folder `tensorboard` of each run. ImportError without TensorBoard."""

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError("--tensorboard needs TensorBoard: pip install 'lowbit-dtp[tensorboard]'") from None
        self._kind = SummaryWriter

    def begin(self, rule: str, experiment: "Experiment", folder: Path) -> RunLog:
        return _TensorBoardLog(self._kind(str(folder / "tensorboard")))


class _TensorBoardLog:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def evaluated(self, evaluation: "Evaluation") -> None:
        for name, value in _numbers(evaluation).items():
            self._writer.add_scalar(name, value, evaluation.epoch)

    def end(self) -> None:
        self._writer.close()


class MLflow:
    """Runs at `MLFLOW_TRACKING_URI`, in the experiment `MLFLOW_EXPERIMENT_NAME`, by default `lowbit-dtp`.

    Parameters are the keys of the experiment; metrics, those of each epoch; of a finished run, also the bits of a
    sample on each link. A run that continues is logged as the same one. ImportError without MLflow, ValueError without
    the variable.
    """

    def __init__(self) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise ImportError("--mlflow needs MLflow: pip install 'lowbit-dtp[mlflow]'") from None
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            raise ValueError("--mlflow needs MLFLOW_TRACKING_URI in the environment: http://HOST:5000 say")
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "lowbit-dtp"
        known = self._client.get_experiment_by_name(name)
        self._experiment = known.experiment_id if known else self._client.create_experiment(name)

    def begin(self, rule: str, experiment: "Experiment", folder: Path) -> RunLog:
        from ..runs import flat

        client, where = self._client, str(Path(folder).absolute())
        parameters = {name: str(value) for name, value in flat(asdict(experiment)).items()}
        found = client.search_runs([self._experiment], "tags.`lowbit-dtp.folder` = '{}'".format(where.replace("'", "")))
        run = next((run for run in found if run.data.params == parameters), None)
        if run is None:
            tags = {"lowbit-dtp.folder": where.replace("'", "")}
            run = client.create_run(self._experiment, tags=tags, run_name=f"{rule} seed {experiment.seed}")
            for name, value in parameters.items():
                client.log_param(run.info.run_id, name, value)
        client.update_run(run.info.run_id, "RUNNING")
        return _MLflowLog(client, run.info.run_id, Path(folder))


class _MLflowLog:
    def __init__(self, client: Any, run: str, folder: Path) -> None:
        self._client, self._run, self._folder, self._epoch = client, run, folder, 0

    def evaluated(self, evaluation: "Evaluation") -> None:
        self._epoch = evaluation.epoch
        self._log(_numbers(evaluation))

    def end(self) -> None:
        from .. import ledger
        from ..summary import link_rows

        finished = (self._folder / "run.json").exists()
        if finished:
            rows = link_rows(**ledger.load(self._folder / "ledger.json"))
            sent = {(link, way): getattr(row, way).bits_per_sample for link, row in rows.items() for way in _WAYS}
            self._log({f"bits_per_sample.{link}.{way}": bits for (link, way), bits in sent.items() if bits is not None})
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")

    def _log(self, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, self._epoch) for name, value in numbers.items()]
        self._client.log_batch(self._run, metrics=metrics)


_WAYS = ("forward", "feedback")


def _numbers(evaluation: "Evaluation") -> dict[str, float]:
    """The numbers of an epoch by name; a rule may have no loss."""
    from ..runs import flat

    return {name: x for name, x in flat(evaluation.as_dict()).items() if name != "epoch" and x is not None}
