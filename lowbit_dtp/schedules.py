"""Learning-rate schedules: the factor of the learning rates in each epoch.

A schedule is written as its name and its arguments, `cosine(100)`, and a product of schedules as
`warmup(5)*cosine(100)`. It depends only on the number of completed epochs, so a stopped run continues unchanged, and a
recorded step reads the factor from an array.

    >>> schedule = parse("warmup(2)*step(3,0.5)")
    >>> [schedule.factor(epoch) for epoch in range(7)]
    [0.5, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from math import cos, isfinite, pi, prod

from .choices import choose


class Schedule(ABC):
    """A factor of the learning rates that depends on the epoch."""

    @abstractmethod
    def factor(self, epoch: int) -> float:
        """The factor after `epoch` completed epochs."""


@dataclass(frozen=True)
class Constant(Schedule):
    """Constant learning rates."""

    def factor(self, epoch: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Step(Schedule):
    """The rates times `gamma` after every `epochs` epochs."""

    epochs: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _check(self, "epochs", 1)
        _check(self, "gamma", 0)

    def factor(self, epoch: int) -> float:
        return float(self.gamma ** (epoch // self.epochs))


@dataclass(frozen=True)
class Exponential(Schedule):
    """The rates times `gamma` after every epoch."""

    gamma: float

    def __post_init__(self) -> None:
        _check(self, "gamma", 0)

    def factor(self, epoch: int) -> float:
        return float(self.gamma**epoch)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a period of a cosine, from 1 down to `least` after `epochs` epochs (Loshchilov and Hutter, 2017, eq. 5)."""

    epochs: int
    least: float = 0.0

    def __post_init__(self) -> None:
        _check(self, "epochs", 1)
        _check(self, "least", 0)

    def factor(self, epoch: int) -> float:
        return self.least + (1 - self.least) * (1 + cos(pi * min(epoch / self.epochs, 1.0))) / 2


@dataclass(frozen=True)
class Warmup(Schedule):
    """Equal steps up, to 1 in the last of the first `epochs` epochs."""

    epochs: int

    def __post_init__(self) -> None:
        _check(self, "epochs", 1)

    def factor(self, epoch: int) -> float:
        return min((epoch + 1) / self.epochs, 1.0)


@dataclass(frozen=True)
class Product(Schedule):
    """The product of several schedules."""

    schedules: tuple[Schedule, ...]

    def factor(self, epoch: int) -> float:
        return prod(schedule.factor(epoch) for schedule in self.schedules)


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "step": Step,
    "exponential": Exponential,
    "cosine": Cosine,
    "warmup": Warmup,
}
"""Every schedule, by name."""


def parse(text: str) -> Schedule:
    """The schedule that `text` spells. Raises ValueError, which gives the valid spellings."""
    parts = tuple(_parse_one(part.strip()) for part in str(text).split("*"))
    return parts[0] if len(parts) == 1 else Product(parts)


def _parse_one(text: str) -> Schedule:
    found = re.fullmatch(r"([\w-]+)(?:\(([^()]*)\))?", text)
    if not found:
        raise ValueError(f"{text!r} is no schedule; write a name and its arguments, as in cosine(100)")
    kind = choose("schedule", found[1], SCHEDULES)
    given = [part.strip() for part in found[2].split(",")] if found[2] else []
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    usage = f"{found[1]}({','.join(names)})" if names else found[1]
    try:
        return kind(*(int(x) if re.fullmatch(r"-?\d+", x) else float(x) for x in given))
    except TypeError:
        raise ValueError(f"schedule {text!r} is written {usage}") from None
    except ValueError as error:
        raise ValueError(f"schedule {text!r}: {error}; it is written {usage}") from None


def _check(schedule: Schedule, name: str, least: int) -> None:
    """Raise ValueError unless a setting is a number, `least` or more; a whole number of epochs."""
    value, whole = getattr(schedule, name), name == "epochs"
    kind = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not isfinite(value) or value < least:
        raise ValueError(f"{name} must be a {'whole' if whole else 'finite'} number, {least} or more, not {value!r}")
