"""Following a training: the base of progress bars and logs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .experiment import Experiment
    from .runs import Evaluation


class Observer:
    """What follows a training; its methods do nothing until they are overridden."""

    def announce(self, rule: str, experiment: "Experiment") -> None:
        """Runs of `rule` that differ from `experiment` in their seeds alone will be trained; nothing is yet."""

    def begin(self, rule: str, experiments: Sequence["Experiment"], folders: Sequence[Path], samples: int) -> None:
        """Runs of `rule`, which are trained at a time on so many `samples`, begin or go on."""

    def step(self, done: int) -> None:
        """So many steps of each are done."""

    def evaluated(self, index: int, evaluation: "Evaluation") -> None:
        """Run `index` of them has come to the end of an epoch."""

    def end(self) -> None:
        """They have ended, or failed."""
