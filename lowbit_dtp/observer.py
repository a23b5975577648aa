"""Observers of a training: the base of progress bars and logs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .experiment import Experiment
    from .runs import Evaluation


class Observer:
    """Observer of a training; its methods do nothing until they are overridden."""

    def announce(self, rule: str, experiment: "Experiment") -> None:
        """Called before training runs of `rule` that differ from `experiment` only in their seeds."""

    def begin(
        self, rule: str, experiments: Sequence["Experiment"], folders: Sequence[Path], samples: int
    ) -> "Observer":
        """Runs of `rule`, trained in one batch on so many `samples`, begin or continue.

        Returns the observer of these runs, whose methods below are called: others may be trained at the same time.
        """
        return self

    def compiling(self, kernel: str) -> None:
        """A kernel is about to be compiled."""

    def step(self, done: int) -> None:
        """Each run has done so many steps."""

    def evaluated(self, index: int, evaluation: "Evaluation") -> None:
        """Run `index` of the batch has finished an epoch."""

    def end(self) -> None:
        """The runs have ended, or failed."""
