"""All-integer training of digits: learning, and a stopped run that continues bit for bit."""

from pathlib import Path

import numpy as np

from lowbit_dtp import checkpoint
from lowbit_dtp.data import load
from lowbit_dtp.experiment import Comparison
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import ShiftSGD
from lowbit_dtp.training import Progress, evaluate, fit


def test_it_learns_digits() -> None:
    experiment, data = Comparison.load("digits").experiment("integer-dtp", 0), load("digits")
    net, rule, optimizer = experiment.built()
    assert isinstance(optimizer, ShiftSGD)
    for step in fit(net, rule, optimizer, data.train, 20, experiment.batch):
        assert step.loss is None
    assert {str(x.dtype) for x in net.tensors().values()} == {"int16"}
    assert evaluate(net.with_links(rule.inference_links(net.links)), data.test, rule=rule) < 16


def test_a_run_that_stops_goes_on_bit_for_bit(tmp_path: Path) -> None:
    experiment, data, file = Comparison.load("digits").experiment("integer-dtp", 1), load("digits"), tmp_path / "run"
    nets: list[Network] = []
    for stop in (None, 30):
        net, rule, optimizer = experiment.built()
        progress = Progress()
        for step, _ in enumerate(fit(net, rule, optimizer, data.train, 2, 50, 1, progress), 1):
            if step == stop:
                checkpoint.save(file, net, optimizer, progress, {})
                break
        nets.append(net)
    net, rule, optimizer = experiment.built()
    progress, _ = checkpoint.load(file, net, optimizer)
    for _ in fit(net, rule, optimizer, data.train, 2, 50, 1, progress):
        pass
    assert progress.step > 30
    for name, x in net.tensors().items():
        assert x.dtype == np.int16
        np.testing.assert_array_equal(x, nets[0].tensors()[name], err_msg=name)
