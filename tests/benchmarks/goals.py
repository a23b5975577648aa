"""The numbers to pass, on processors with AVX-512 and on those with AVX2, and which of them were passed."""

from collections.abc import Collection
from dataclasses import dataclass, field

from harness import in_threads, table

TORCH, ONNX, NUMPY = "torch float32", "onnxruntime int8", "NumPy float32"
EAGER = "eager torch"
MAIN, NARROW, ONE = "100 x 784 x 500", "100 x 240 x 240", "1 x 500 x 500"
LARGE = ("256 x 1024 x 1024", "1024 x 4096 x 4096")
DENSE = (MAIN, "100 x 500 x 500", NARROW, *LARGE, "10000 x 784 x 500")


@dataclass(frozen=True)
class Goal:
    """At least so many times as fast as a peer; or at most so many of `unit`, where that is given instead.

    `avx2` or `avx512` is None where nothing is asked of such a processor.
    """

    what: str
    where: str
    peer: str
    avx2: float | None
    avx512: float | None
    unit: str = ""

    def passed(self, measured: float, wanted: float) -> bool:
        return measured <= wanted if self.unit else measured >= wanted


GOALS = (
    Goal("binary x binary", MAIN, TORCH, 9.5, 27),
    *(Goal("binary x binary", shape, TORCH, 12, None) for shape in LARGE),
    Goal("binary x binary", NARROW, TORCH, 5, 10),
    Goal("binary x ternary", MAIN, TORCH, 7.5, 23),
    Goal("binary x 2 bits", MAIN, TORCH, 6.5, 17),
    Goal("binary x int8", MAIN, TORCH, 5, 8),
    Goal("binary x int16", MAIN, TORCH, 4.5, 4.5),
    Goal("binary x float32", MAIN, TORCH, 2.2, 4.1),
    Goal("weight gradient, binary x float32", MAIN, TORCH, 2.9, 3.7),
    Goal("2 x 2 bits", MAIN, TORCH, 3.5, 9.9),
    Goal("4 x 4 bits", MAIN, TORCH, 3.5, 9.9),
    Goal("2 x 2 bits", MAIN, ONNX, 1.4, 1.3),
    Goal("4 x 4 bits", MAIN, ONNX, 1.4, 1.3),
    *(Goal("float32 x float32", shape, NUMPY, 0.95, 0.95) for shape in DENSE),
    Goal("binary x binary", ONE, "", 3, 3, "µs"),
    Goal("binary x binary, from words", ONE, "", 3, 3, "µs"),
    *(Goal("pack", shape, "np.packbits", 2, 2) for shape in ("100 x 500", "100 x 784", "256 x 1024")),
    *(Goal("unpack", shape, "np.unpackbits", 4, 4) for shape in ("100 x 500", "100 x 784", "256 x 1024")),
    *(
        goal
        for case in ("DTP, alternating epochs (the thesis' scripts)", "DTP, both in each minibatch (Algorithm 1)")
        for goal in (Goal(case, in_threads(1), EAGER, 4, 5), Goal(case, in_threads(2), EAGER, 4, 4.5))
    ),
    Goal("the same, dense inputs", in_threads(1), EAGER, 2.2, 3.4),
    Goal("straight-through, autograd", in_threads(1), EAGER, 3, 4),
    *(
        Goal(case, in_threads(1), EAGER, 1, 1)
        for case in (
            "stochastic units, DTP, alternating epochs",
            "stochastic units, straight-through",
            "contrastive Hebbian learning, 784-100-10",
            "denoising auto-encoder by DTP, 784-1000-784",
        )
    ),
    # a sixth of what it took on a Zen 3, and on a Zen 5, when every step was taken in Python
    Goal("a step of 80-64-64-10, 8 samples", in_threads(1), "", 170, 42, "µs"),
    Goal("a step of 80-64-64-10, 8 samples", in_threads(1), "as written", 6, 6),
    Goal("first step, kernels compiled", "", "", 15, 15, "s of CPU"),
)


@dataclass
class Scores:
    """What was measured, beside the goals for a processor with AVX-512 or without.

    Ratios to `unlimited` peers, which used more than AVX2 where all else did not, say little.
    """

    avx512: bool
    unlimited: Collection[str] = ()
    measured: dict[tuple[str, str, str], tuple[float, float | None]] = field(default_factory=dict)

    def note(self, what: str, where: str, peer: str, value: float, share: float | None = None) -> str:
        """Keep a measured value: a ratio to `peer`, or a quantity without one. Returns its goal, "" if it has none.

        `share` is how much of its time the limit of the machine that it runs into would take alone.
        """
        self.measured[what, where, peer] = value, share
        found = (goal for goal in GOALS if (goal.what, goal.where, goal.peer) == (what, where, peer))
        goal = next(found, None)
        wanted = goal and self._wanted(goal)
        return "" if goal is None or wanted is None else f"{wanted:g} {goal.unit}".strip()

    def lines(self) -> list[str]:
        """How many goals were passed, and a table of them."""
        rows, passed, tried = [], 0, 0
        for goal in GOALS:
            if (wanted := self._wanted(goal)) is None:
                continue
            named = [goal.what, goal.where, goal.peer, f"{'≤' if goal.unit else '≥'} {wanted:g} {goal.unit}".strip()]
            if (goal.what, goal.where, goal.peer) not in self.measured:
                rows.append([*named, "", "not measured", ""])
                continue
            value, share = self.measured[goal.what, goal.where, goal.peer]
            passes = goal.passed(value, wanted)
            tried, passed, said = tried + 1, passed + passes, "yes" if passes else "**no**"
            said += ", against a peer with AVX-512" * (goal.peer in self.unlimited)
            bound = "" if share is None else f"{value * share if goal.unit else value / share:.3g}"
            rows.append([*named, f"{value:.3g}", said, bound])
        header = ["", "where", "times as fast as", "goal", "measured", "passed", "at the limit of its way"]
        return [f"{passed} of {tried} measured goals are passed.", "", *table(header, rows)]

    def _wanted(self, goal: Goal) -> float | None:
        return goal.avx512 if self.avx512 else goal.avx2
