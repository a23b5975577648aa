"""Machine: cores on meshes, chips and boards, what its events cost, and the place of a network on it.

A machine is a TOML file in `machines/`, or your own. It has a technology: constants of its own events (a synaptic
operation, a spike and hop), of a process (arithmetic and memory), or both.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from lowbit_dtp.choices import choose
from lowbit_dtp.formats import parse
from lowbit_dtp.ledger import Direction, Ledger, Work

from .hardware import Core, HardwareConfig, Wire
from .layout import INPUT, LayerSize, Mesh, distance, ends, others, share, sizes_of
from .technology import Constant, Technology
from .wires import wire_constants

FOLDER = Path(__file__).parent / "machines"
"""Where `Machine.load` finds machines by name."""

PARTS = ("synapses", "neurons", "links", "learning", "static")
"""Parts of a machine's cost."""

Layers = Mapping[str, Core]


class CoreLimits(NamedTuple):
    """What a core holds; None for what does not limit it."""

    neurons: int | None = None
    inputs: int | None = None
    """Different inputs, its neurons' together: axons."""
    synapses: int | None = None
    memory_bits: int | None = None
    """Bits for weights."""
    weight_bits: int | None = None
    """Bits that a weight takes, whatever its format; None for those of its format."""


NO_LIMITS, ONE_CORE = CoreLimits(), Mesh()


@dataclass(frozen=True)
class Machine:
    """A machine that networks are placed on: its cores, wires, and the costs of its events."""

    name: str
    description: str
    source: str
    technology: Technology
    """Its constants, and below them those of its process."""
    event_driven: bool
    """Whether only inputs that are 1 are read and added, of formats with values 0 and 1."""
    process: str = ""
    """Name of the process for what the machine's own constants do not include; empty if there is none."""
    synaptic: tuple[tuple[float, str], ...] = ()
    """Constants of a synaptic operation, by the most bits that an operand may have; empty: the process computes."""
    covered: tuple[str, ...] = ()
    """Parts that other constants include."""
    left_out: tuple[str, ...] = ()
    """Parts for which there is no source; a bill says so."""
    memory: str = "sram"
    reuse: float = 1.0
    core: CoreLimits = NO_LIMITS
    mesh: Mesh = ONE_CORE
    chips_of_board: int = 1
    hop: Wire | None = None
    """Wire of one hop, with the length of one."""
    multicast: bool = False
    board_wire: Wire | None = None
    """Between chips of a board."""
    system_wire: Wire | None = None
    """Between boards."""
    units: Mapping[str, int] = field(default_factory=dict)
    """How many a core has of what a throughput is of: {"synaptic operation": 1}. One, where nothing is said."""
    step_seconds: float | None = None
    """Fixed time in which a layer computes, whatever it does; None if there is none."""
    barrier_seconds: float = 0.0
    """Time in which all cores wait for each other, once a layer."""
    layers: Layers = field(default_factory=dict)
    """First core of layers that have a place of their own."""

    @classmethod
    def names(cls) -> list[str]:
        """Names of the machines there are."""
        return sorted(_files())

    @classmethod
    def load(cls, name: str) -> "Machine":
        """The machine `name`, or the one in your own file, if `name` ends in `.toml`."""
        return cls.read(Path(name) if name.endswith(".toml") else choose("machine", name, _files()))

    @classmethod
    def read(cls, path: Path) -> "Machine":
        """The machine in a TOML file. Raises `StorageError` naming the file and the wrong field."""
        from .machine_files import read

        return read(Path(path))

    def place(
        self, network: Ledger | Mapping[str, int] | Sequence[int], layers: Layers | None = None
    ) -> HardwareConfig:
        """The configuration of `network` on this machine: the cores of each layer, and the wire of each link.

        `network` is a ledger, or the neurons of each layer, inputs first. `layers` are first cores that take the place
        of the machine's own choice: see `layout`, and `machine_files.read_layers`. Inputs come in at the first core.
        A link within a chip has the hops between the cores of its layers; one that leaves a chip or a board is that
        wire, crossed once for each other chip or board that receives, and the hops at both ends are not charged.
        ValueError if the network does not fit.
        """
        sizes = sizes_of(network)
        below = next(iter(network)) if isinstance(network, Mapping) else INPUT
        first = {**self.layers, **(layers or {})}
        for layer, core in first.items():
            choose("layer", layer, dict.fromkeys((below, *sizes)))
            if core not in self.mesh:
                raise ValueError(f"machine {self.name!r}: layer {layer}: no core {core}; {self.mesh}")
        cores = {below: (first.get(below, Core()),), **self._cores(sizes, first)}
        wires: dict[str, Wire] = {}
        for link, directions in _links(network, [below, *sizes]).items():
            lower, upper = (cores.get(layer, cores[below]) for layer in ends(link, list(sizes)))
            made = {f"{link}.{way.value}": self._wire(lower, upper, way) for way in directions}
            if len(set(made.values())) == 1:
                made = {link: next(iter(made.values()))}
            wires |= {key: wire for key, wire in made.items() if wire is not None}
        return HardwareConfig(links=wires, memory=self.memory, reuse=self.reuse, cores=cores)

    def synaptic_operation(self, work: Work) -> Constant:
        """The constant of one product of this kind; ValueError, naming the layer, if its operands are too wide."""
        operands = [name for name in (work.left, work.right) if name]
        bits = max(parse(name).bits for name in operands)
        for most, name in self.synaptic:
            if bits <= most:
                return self.technology.constants[name]
        raise ValueError(
            f"machine {self.name!r} multiplies numbers of at most {self.synaptic[-1][0]:g} bits; "
            f"layer {work.layer} multiplies {' x '.join(operands)}"
        )

    def constant(self, part: str, name: str, needed_by: str) -> Constant | None:
        """The machine's own constant for one of `PARTS`; None if others include it or it is left out.

        ValueError, naming `needed_by`, if there is none.
        """
        if part in self.covered or part in self.left_out:
            return None
        if name not in self.technology.constants:
            raise ValueError(f"machine {self.name!r} has no constant {name!r}, which {needed_by} needs, and no process")
        return self.technology.constants[name]

    def by_process(self, part: str, name: str) -> bool:
        """Whether the process does what the constant `name` would be for."""
        return bool(self.process) and name not in self.technology.constants and part not in self.covered + self.left_out

    @property
    def knows_static(self) -> bool:
        """Whether static power is known, or in other constants."""
        return "static" in self.covered or any(c.unit == "watt" for c in self.technology.constants.values())

    def static(self, config: HardwareConfig) -> list[tuple[Constant, float]]:
        """Constants in watts, and of how many parts in use: chips, cores, bits of memory, links that cross wires.

        All of the machine, if `config` has no cores.
        """
        if "static" in self.covered:
            return []
        used = {core for cores in config.cores.values() for core in cores}
        chips = len({core.chip for core in used}) or self.mesh.chips
        number = len(used) or self.mesh.number
        counts = {"chip": chips, "core": number, "memory bit": number * (self.core.memory_bits or 0)}
        own = [constant for constant in self.technology.constants.values() if constant.unit == "watt"]
        found: list[tuple[Constant, float]] = []
        for constant in own:
            if not counts.get(constant.per):
                raise ValueError(
                    f"machine {self.name!r}: constant {constant.name!r} is in watts per {constant.per}, "
                    "and the machine does not say how many it has"
                )
            found.append((constant, counts[constant.per]))
        for kind in dict.fromkeys(wire.kind for wire in config.links.values()):
            number = len({link.partition(".")[0] for link, wire in config.links.items() if wire.kind == kind})
            constants = () if self.technology.wire(kind) else Technology.load(kind).constants.values()
            found += [(each, number) for each in constants if each.unit == "watt" and each.per == "link"]
        return found

    def _cores(self, sizes: Mapping[str, LayerSize], first: Layers) -> dict[str, tuple[Core, ...]]:
        """The cores of each layer, lowest first."""
        mesh, taken = self.mesh, set[int]()
        needed = {layer: self._needs(layer, size) for layer, size in sizes.items()}
        placed: dict[str, list[int]] = {}
        for layer in (*(x for x in sizes if x in first), *(x for x in sizes if x not in first)):
            start = mesh.index(first[layer]) if layer in first else 0
            if layer in first or mesh.number == 1:
                placed[layer] = list(range(start, min(start + needed[layer], mesh.number)))
            else:
                free = mesh.free(start, taken)
                placed[layer] = [index for index, _ in zip(free, range(needed[layer]), strict=False)]
            taken.update(placed[layer])
            if len(placed[layer]) < needed[layer]:
                each = ", ".join(f"{layer} {number}" for layer, number in needed.items())
                raise ValueError(
                    f"machine {self.name!r}: the network needs {sum(needed.values())} cores ({each}), and there are "
                    f"{mesh.number}" + (f", {mesh.number - start} of them from {first[layer]} on" if start else "")
                )
        self._check_shared(sizes, placed)
        return {layer: tuple(map(mesh.core, placed[layer])) for layer in sizes}

    def _needs(self, layer: str, size: LayerSize) -> int:
        """How many cores a layer needs."""
        limits = []
        for name, need, have in self._demands(size, 1):
            if need > have:
                raise ValueError(
                    f"machine {self.name!r}: layer {layer} does not fit: a neuron needs {need} {name}, "
                    f"a core has {have}"
                )
            if name != "inputs" and need:
                limits.append(have // need)
        return share(size.neurons, min(limits)) if limits else 1

    def _demands(self, size: LayerSize, neurons: int) -> Iterator[tuple[str, int, int]]:
        """What so many neurons of a layer need of a core that limits it, and what a core has."""
        core = self.core
        if core.weight_bits is not None:
            bits = size.inputs * core.weight_bits * neurons
        else:
            held = size.weight_bits + (0 if self.synaptic else size.learning_bits)
            bits = share(held * neurons, size.neurons)
        for name, need, have in (
            ("neurons", neurons, core.neurons),
            ("inputs", size.inputs, core.inputs),
            ("synapses", size.inputs * neurons, core.synapses),
            ("bits of memory", bits, core.memory_bits),
        ):
            if have is not None:
                yield name, need, have

    def _check_shared(self, sizes: Mapping[str, LayerSize], placed: Mapping[str, Sequence[int]]) -> None:
        """Raise ValueError if layers on one core need more than that has."""
        tenants: dict[int, list[str]] = {}
        for layer, indices in placed.items():
            for index in indices:
                tenants.setdefault(index, []).append(layer)
        for index, layers in tenants.items():
            if len(layers) < 2:
                continue
            demands = [self._demands(sizes[x], share(sizes[x].neurons, len(placed[x]))) for x in layers]
            for each in zip(*demands, strict=True):
                need, (name, _, have) = sum(need for _, need, _ in each), each[0]
                if need > have:
                    raise ValueError(
                        f"machine {self.name!r}: layers {' and '.join(layers)} do not fit on core "
                        f"{self.mesh.core(index)}: they need {need} {name}, a core has {have}"
                    )

    def _wire(self, lower: Sequence[Core], upper: Sequence[Core], way: Direction) -> Wire | None:
        """The wire of a direction of a link; None if what crosses it is not charged by itself."""
        senders, receivers = (lower, upper) if way is Direction.FORWARD else (upper, lower)
        chips = [[core.chip for core in each] for each in (senders, receivers)]
        boards = [[chip // self.chips_of_board for chip in each] for each in chips]
        if len({*boards[0], *boards[1]}) > 1:
            return self.system_wire and replace(self.system_wire, times=others(*boards))
        if len({*chips[0], *chips[1]}) > 1:
            return self.board_wire and replace(self.board_wire, times=others(*chips))
        if self.hop is None:
            return None
        times, hops = distance(senders, receivers, self.multicast)
        pers = distances_of(self.hop.kind, self.technology)
        metres = None if self.hop.metres is None else self.hop.metres * hops
        if "hop" in pers:
            return Wire(self.hop.kind, metres, hops, times)
        return Wire(self.hop.kind, metres, None, times if "metre" in pers else times * hops)


def _files() -> dict[str, Path]:
    return {path.stem: path for path in FOLDER.glob("*.toml")}


def _links(network: Ledger | Mapping[str, int] | Sequence[int], layers: Sequence[str]) -> dict[str, list[Direction]]:
    """Links of a network, each with the directions in which it carries messages."""
    if isinstance(network, Ledger):
        ways: dict[str, list[Direction]] = {}
        for message in network.traffic:
            if message.direction not in ways.setdefault(message.link, []):
                ways[message.link].append(message.direction)
        return ways
    return {f"{lower}-{upper}": list(Direction) for lower, upper in pairwise(layers)}


def distances_of(kind: str, technology: Technology) -> set[str]:
    """What a kind of wire costs along: `hop`, `metre`."""
    constants, _ = wire_constants(kind, technology, "of a machine")
    return {constant.per.partition(" and ")[2] for constant in constants} - {""}
