"""Target `verilog`: one module for all layers, a top with AXI streams, memory files, and a self-checking test bench.

Between layers run streams of packed codes: beats of as many codes as neurons are computed side by side, handed over by
valid and ready. Sums, codes, logits and classes are those of `FixedNetwork`, and the test bench compares every one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .checksums import Damage
from .fixed import FixedNetwork, HiddenLayer, Integers, Levels, OutputLayer, signed_bits
from .folding import FoldedLayer, fold_layers
from .golden import Golden
from .memory_files import bias_bits, hex_lines
from .places import Place, bit_of_line

_TEMPLATES = Path(__file__).parent / "verilog_templates"

REPEATED = 20
"""Vectors of the network that are sent once more, with pauses at random on both sides."""

ROM_WORDS = 512
"""A memory with more words than this is made of many block RAMs, and gets a register behind their multiplexer."""

ROM_ROWS = 2048
"""Rows of a memory of weights at most: a block RAM of an ECP5 has them at nine bits. A deeper one is laid out wide."""


@dataclass(frozen=True)
class Options:
    """How layers are folded; see `folding.fold_layers`."""

    fold: str = ""
    target_cycles: int | None = None


@dataclass(frozen=True)
class Traffic:
    """What crosses a link in a number of messages."""

    messages: int
    bits: int
    ones: int
    toggles: int
    """As in a ledger: bits of each neuron's code that differ from the message before."""
    bus_toggles: int
    """Changes of level on the wires of the folded link, on which beats follow each other."""

    @classmethod
    def of(cls, codes: Integers, bits: int, lanes: int) -> "Traffic":
        """The traffic of `codes` [messages, neurons] of `bits` bits, in beats of `lanes` codes."""
        padded = np.pad(codes, [(0, 0), (0, -codes.shape[1] % lanes)])
        beats = padded.reshape(-1, lanes)
        return cls(
            messages=len(codes),
            bits=codes.size * bits,
            ones=int(np.bitwise_count(codes).sum()),
            toggles=int(np.bitwise_count(codes[1:] ^ codes[:-1]).sum()),
            bus_toggles=int(np.bitwise_count(beats[1:] ^ beats[:-1]).sum()),
        )


def files(network: FixedNetwork, golden: Sequence[Golden], options: Options) -> dict[str, bytes]:
    """Modules, memory files and the test bench, by path."""
    layers = fold_layers(network, options.fold, options.target_cycles)
    contents = {
        f"{part}/{path.name}": path.read_bytes() for part in ("rtl", "bench", "boards") for path in _static(part)
    }
    for layer in layers:
        contents |= _memories(layer, network)
        contents[f"rtl/layer_{layer.layer.name}.v"] = _wrapper(layer, network).encode()
    contents["rtl/network.v"] = _top(layers).encode()
    contents["boards/board.v"] = _board(layers).encode()
    contents["boards/testbench.v"] = _board_bench(network, layers, golden).encode()
    contents["bench/testbench.v"] = _test_bench(network, layers, golden).encode()
    return contents


def details(network: FixedNetwork, golden: Sequence[Golden], options: Options) -> dict[str, Any]:
    """What the manifest says about the hardware: folding and cycles of layers, and the predicted traffic of links."""
    layers = fold_layers(network, options.fold, options.target_cycles)
    return {
        "hardware": {
            "cycles_per_frame": max(layer.cycles for layer in layers),
            "layers": [
                {
                    "name": x.layer.name,
                    "outputs_in_parallel": x.fold.outputs,
                    "inputs_in_parallel": x.fold.inputs,
                    "comparators_per_output": x.comparators,
                    "cycles": x.cycles,
                }
                for x in layers
            ],
            "links": [
                {"name": name, "bus_bits": lanes * bits, **vars(traffic)}
                for name, lanes, bits, traffic in _traffic(layers, golden)
            ],
        }
    }


def place(manifest: Mapping[str, Any], damage: Damage) -> Place | None:
    """The place in a memory: a line is what some neurons of a layer take in one cycle, all or a part of each."""
    found = re.fullmatch(r"(\w+)\.(weights|thresholds|biases)\.mem", damage.path)
    if not found:
        return None
    index = next(k for k, layer in enumerate(manifest["layers"]) if layer["name"] == found[1])
    layer, hardware = manifest["layers"][index], manifest["hardware"]["layers"][index]
    outputs, each = hardware["outputs_in_parallel"], hardware["inputs_in_parallel"]
    if found[2] == "biases":
        return layer["output_name"], damage.line - 1
    numbers, bits = manifest["links"][index]["neurons"], layer["weights"]["bits"]
    if found[2] == "thresholds":
        never = max(layer["highest_sum"]) + 1
        numbers, each = layer["thresholds_per_neuron"], hardware["comparators_per_output"]
        bits = max(layer["threshold_bits"], signed_bits(never, never))
    steps = -(-numbers // each)
    row = _row_beats(steps * -(-layer["neurons"] // outputs)) if found[2] == "weights" else 1
    word, bit = divmod(bit_of_line(damage), bits * each * outputs)
    step = (damage.line - 1) * row + min(word, row - 1)
    neuron = step // steps * outputs + min(bit // (bits * each), outputs - 1)
    return layer["output_name"], min(neuron, layer["neurons"] - 1)


def _row_beats(beats: int) -> int:
    """Beats of weights in a row of their memory."""
    return -(-beats // ROM_ROWS)


def _static(part: str) -> list[Path]:
    return sorted((_TEMPLATES / part).iterdir())


@dataclass(frozen=True)
class _Kind:
    """How a memory or a link holds levels: a kind of `ldtp_level`."""

    number: int
    bits: int
    level_bits: int
    table: str = "1'b0"

    @classmethod
    def of_signals(cls, levels: Levels) -> "_Kind":
        bits = levels.bits
        if levels.values == (-1, 1):
            return cls(2, 1, 2)
        if bits > 1 and all(levels.by_code[levels.codes] == _signed(levels.codes, bits)):
            return cls(0, bits, bits)
        if all(levels.by_code[levels.codes] == levels.codes):
            return cls(1, bits, bits + 1)
        return cls._table(levels)

    @classmethod
    def of_weights(cls, levels: Levels) -> "_Kind":
        """Levels are stored as they are if they take no more bits than their codes."""
        if levels.values == (-1, 1):
            return cls(2, 1, 2)
        if 1 < signed_bits(levels.values[0], levels.values[-1]) <= levels.bits:
            return cls(0, levels.bits, levels.bits)
        if levels.values[0] >= 0 and levels.values[-1].bit_length() <= levels.bits:
            return cls(1, levels.bits, levels.bits + 1)
        return cls._table(levels)

    @classmethod
    def _table(cls, levels: Levels) -> "_Kind":
        width = max(2, signed_bits(levels.values[0], levels.values[-1]))
        entries = levels.by_code.tolist()
        number = sum((value & (1 << width) - 1) << width * code for code, value in enumerate(entries))
        return cls(3, levels.bits, width, f"{width << levels.bits}'h{number:x}")

    def stored(self, values: Integers, levels: Levels) -> Integers:
        """What is held for each of `values`."""
        if self.number in (0, 1):
            return values
        return levels.codes[np.searchsorted(levels.values, values)]


def _signed(codes: Integers, bits: int) -> Integers:
    return np.where(codes >= 1 << bits - 1, codes - (1 << bits), codes)


def _memories(folded: FoldedLayer, network: FixedNetwork) -> dict[str, bytes]:
    layer, fold = folded.layer, folded.fold
    kind = _Kind.of_weights(layer.weight_levels)
    weights = np.zeros((folded.groups * fold.outputs, folded.beats * fold.inputs), np.int64)
    weights[: layer.neurons, : layer.below.neurons] = kind.stored(layer.weight.T, layer.weight_levels)
    tiles = weights.reshape(folded.groups, fold.outputs, folded.beats, fold.inputs).swapaxes(1, 2)
    words = tiles.reshape(folded.groups * folded.beats, -1)
    row = _row_beats(len(words))
    lines = np.pad(words, [(0, -len(words) % row), (0, 0)]).reshape(-1, row * words.shape[1])
    contents = {f"{layer.name}.weights.mem": hex_lines(lines, kind.bits)}
    if isinstance(layer, HiddenLayer):
        fill, bits = _thresholds(layer)
        count = layer.thresholds.shape[1]
        thresholds = np.full((folded.groups * fold.outputs, folded.steps * folded.comparators), fill)
        thresholds[: layer.neurons, :count] = layer.thresholds
        thresholds[layer.neurons :] = 0
        shape = folded.groups, fold.outputs, folded.steps, folded.comparators
        tables = thresholds.reshape(shape).swapaxes(1, 2).reshape(folded.groups * folded.steps, -1)
        contents[f"{layer.name}.thresholds.mem"] = hex_lines(tables, bits)
    else:
        contents[f"{layer.name}.biases.mem"] = hex_lines(network.output.bias[:, None], bias_bits(network))
    return contents


def _thresholds(layer: HiddenLayer) -> tuple[int, int]:
    """A threshold that no sum reaches, and the width of thresholds with it."""
    never = int(layer.sum_bounds[1].max()) + 1
    return never, max(layer.threshold_bits, signed_bits(never, never))


def _parameters(folded: FoldedLayer, network: FixedNetwork) -> dict[str, Any]:
    layer = folded.layer
    codes = _Kind.of_signals(layer.below.levels)
    weights = _Kind.of_weights(layer.weight_levels)
    parameters = {
        "INPUTS": layer.below.neurons,
        "NEURONS": layer.neurons,
        "LANES": folded.fold.inputs,
        "UNITS": folded.fold.outputs,
        "PERIOD": folded.period,
        "CODE_BITS": codes.bits,
        "CODE_KIND": codes.number,
        "LEVEL_BITS": codes.level_bits,
        "LEVELS": codes.table,
        "WEIGHT_BITS": weights.bits,
        "WEIGHT_KIND": weights.number,
        "WEIGHT_LEVEL_BITS": weights.level_bits,
        "WEIGHT_LEVELS": weights.table,
        "SUM_BITS": layer.sum_bits,
        "ROM_REGISTER": int(folded.beats * folded.groups > ROM_WORDS),
        "ROW_BEATS": _row_beats(folded.beats * folded.groups),
        "WEIGHTS": f'"{layer.name}.weights.mem"',
    }
    if isinstance(layer, HiddenLayer):
        return parameters | {
            "THRESHOLD_BITS": _thresholds(layer)[1],
            "COMPARATORS": folded.comparators,
            "STEPS": folded.steps,
            "OUT_BITS": layer.above.levels.bits,
            "LOWEST": int(layer.above.levels.codes[0]),
            "THRESHOLDS": f'"{layer.name}.thresholds.mem"',
        }
    return parameters | {
        "OUTPUT_LAYER": 1,
        "BIAS_BITS": bias_bits(network),
        "LOGIT_BITS": network.output.logit_bits,
        "CLASS_BITS": network.output.class_bits,
        "BIASES": f'"{layer.name}.biases.mem"',
    }


def _instance(module: str, parameters: Mapping[str, Any], name: str, ports: Mapping[str, str]) -> str:
    given = ",\n".join(f"    .{key}({value})" for key, value in parameters.items())
    head = f"  {module} #(\n{given}\n  ) {name} (" if parameters else f"  {module} {name} ("
    return head + ", ".join(f".{port}({net})" for port, net in ports.items()) + ");\n"


def _out_width(folded: FoldedLayer) -> tuple[int, int]:
    """Codes in a beat that leaves a layer, and bits of one."""
    layer = folded.layer
    if isinstance(layer, HiddenLayer):
        return folded.fold.outputs, layer.above.levels.bits
    assert isinstance(layer, OutputLayer)
    return 1, layer.class_bits


_STREAMS = {name: name for name in ("clk", "rst", "s_data", "s_valid", "s_ready", "m_data", "m_valid", "m_ready")}


def _wrapper(folded: FoldedLayer, network: FixedNetwork) -> str:
    lanes, bits = _out_width(folded)
    return f"""// Layer {folded.layer.name}: {folded.fold} at once, {folded.cycles} cycles a frame.
`default_nettype none
module layer_{folded.layer.name} (
  input  wire clk,
  input  wire rst,
  input  wire [{folded.fold.inputs * folded.layer.below.levels.bits - 1}:0] s_data,
  input  wire s_valid,
  output wire s_ready,
  output wire [{lanes * bits - 1}:0] m_data,
  output wire m_valid,
  input  wire m_ready
);
{_instance("ldtp_layer", _parameters(folded, network), "core", _STREAMS)}endmodule
`default_nettype wire
"""


def _bytes(bits: int) -> int:
    return -(-bits // 8) * 8


def _top(layers: Sequence[FoldedLayer]) -> str:
    """The network with AXI streams of whole bytes. `to_NAME` is the link that arrives at layer NAME."""
    first, last = layers[0], layers[-1]
    beat = first.fold.inputs * first.layer.below.levels.bits
    _, class_bits = _out_width(last)
    lines = []
    for index, folded in enumerate(layers):
        name, below = folded.layer.name, folded.layer.below
        lanes = _out_width(layers[index - 1])[0] if index else folded.fold.inputs
        lines.append(
            f"  // {below.name}: {below.neurons} codes of {below.levels.bits} bits, {lanes} a beat\n"
            f"  wire [{lanes * below.levels.bits - 1}:0] to_{name};\n  wire to_{name}_valid, to_{name}_ready;\n"
        )
        nets = {"s_data": f"to_{name}", "s_valid": f"to_{name}_valid", "s_ready": f"to_{name}_ready"}
        clock = {"clk": "aclk", "rst": "rst"}
        if lanes != folded.fold.inputs:
            lines.append(
                f"  wire [{folded.fold.inputs * below.levels.bits - 1}:0] into_{name};\n"
                f"  wire into_{name}_valid, into_{name}_ready;\n"
            )
            sizes = {"CODES": below.neurons, "BITS": below.levels.bits, "IN": lanes, "OUT": folded.fold.inputs}
            into = {"m_data": f"into_{name}", "m_valid": f"into_{name}_valid", "m_ready": f"into_{name}_ready"}
            lines.append(_instance("ldtp_gearbox", sizes, f"gearbox_{name}", clock | nets | into))
            nets = {port.replace("m_", "s_"): net for port, net in into.items()}
        above = f"to_{layers[index + 1].layer.name}" if index + 1 < len(layers) else "result"
        out = {"m_data": above, "m_valid": f"{above}_valid", "m_ready": f"{above}_ready"}
        lines.append(_instance(f"layer_{name}", {}, f"layer_{name}", clock | nets | out))
    name, padding = first.layer.name, _bytes(class_bits) - class_bits
    result = f"{{{padding}'d0, result}}" if padding else "result"
    body = "\n".join(lines)
    unused = f"\n  wire unused = &s_axis_tdata[{_bytes(beat) - 1}:{beat}];" if _bytes(beat) > beat else ""
    return f"""// The whole network: {first.layer.below.neurons} codes of {first.layer.below.levels.bits} bits in, {
        first.fold.inputs
    } a beat, the first in the least significant bits; a class out.
//
// `s_axis_tlast` marks the last beat of a frame. `frame_error` stays high once it came anywhere else, or did not come.
`default_nettype none
module network (
  input  wire aclk,
  input  wire aresetn,
  input  wire [{_bytes(beat) - 1}:0] s_axis_tdata,
  input  wire s_axis_tvalid,
  output wire s_axis_tready,
  input  wire s_axis_tlast,
  output wire [{_bytes(class_bits) - 1}:0] m_axis_tdata,
  output wire m_axis_tvalid,
  input  wire m_axis_tready,
  output wire m_axis_tlast,
  output reg  frame_error
);
  wire rst = !aresetn;
{body}
  wire [{class_bits - 1}:0] result;
  wire result_valid, result_ready;
  assign to_{name} = s_axis_tdata[{beat - 1}:0];{unused}
  assign to_{name}_valid = s_axis_tvalid;
  assign s_axis_tready = to_{name}_ready;
  assign m_axis_tdata = {result};
  assign m_axis_tvalid = result_valid;
  assign result_ready = m_axis_tready;
  assign m_axis_tlast = 1'b1;

{_frame_check(first.beats)}endmodule
`default_nettype wire
"""


def _frame_check(beats: int) -> str:
    bits = max(1, (beats - 1).bit_length())
    return f"""  reg [{bits - 1}:0] beat;
  wire at_last = beat == {bits}'d{beats - 1};
  always @(posedge aclk)
    if (rst) begin
      beat <= {bits}'d0;
      frame_error <= 1'b0;
    end else if (s_axis_tvalid & s_axis_tready) begin
      beat <= at_last ? {bits}'d0 : beat + 1'b1;
      frame_error <= frame_error | (at_last != s_axis_tlast);
    end
"""


def _traffic(layers: Sequence[FoldedLayer], golden: Sequence[Golden]) -> Iterator[tuple[str, int, int, Traffic]]:
    """Name, codes a beat, bits a code and predicted traffic of each link, for the vectors of the whole network."""
    vectors = {x.path: x for x in golden}
    lanes = layers[0].fold.inputs
    for folded in layers:
        link = folded.layer.below
        codes = vectors[f"network/{link.name}.codes.mem"].values
        yield link.name, lanes, link.levels.bits, Traffic.of(codes, link.levels.bits, lanes)
        lanes = _out_width(folded)[0]


def _board(layers: Sequence[FoldedLayer]) -> str:
    """The network behind a serial port."""
    first = layers[0]
    beat = _bytes(first.fold.inputs * first.layer.below.levels.bits)
    result = _bytes(_out_width(layers[-1])[1])
    bits = max(1, (first.beats - 1).bit_length())
    return f"""// A board with a serial port: beats of {beat // 8} bytes come in, the class of a frame goes out.
//
// The next frame is to be sent when the class has come. A frame that is begun and not continued for 2^20 cycles is
// forgotten. The LED changes with each class.
`default_nettype none
module board #(
  parameter CLOCKS_PER_BIT = 104  // 115200 baud at 12 MHz
) (
  input  wire clk,
  input  wire rx,
  output wire tx,
  output reg  led
);
  reg [4:0] age = 5'd0;
  wire rst = !age[4];
  always @(posedge clk) if (rst) age <= age + 5'd1;

  wire [7:0] in_byte, out_byte;
  wire in_valid, out_valid, out_ready, begun, ready, word_valid, result_valid, result_ready;
  wire [{beat - 1}:0] word;
  wire [{result - 1}:0] result;
  reg [{bits - 1}:0] beat;
  wire last = beat == {bits}'d{first.beats - 1};
  reg [20:0] quiet;
  reg forget;
  always @(posedge clk)
    if (rst | forget) begin
      beat <= {bits}'d0;
      quiet <= 21'd0;
      forget <= 1'b0;
    end else begin
      if (word_valid & ready) beat <= last ? {bits}'d0 : beat + 1'b1;
      quiet <= in_valid ? 21'd0 : quiet[20] ? quiet : quiet + 21'd1;
      forget <= quiet[20] & (begun | beat != {bits}'d0);
    end
  always @(posedge clk)
    if (rst) led <= 1'b0;
    else if (result_valid & result_ready) led <= !led;

  ldtp_uart #(.CLOCKS_PER_BIT(CLOCKS_PER_BIT)) uart (
    .clk(clk), .rst(rst), .rx(rx), .tx(tx), .m_data(in_byte), .m_valid(in_valid), .s_data(out_byte),
    .s_valid(out_valid), .s_ready(out_ready));
  ldtp_from_bytes #(.BYTES({beat // 8})) from_bytes (
    .clk(clk), .rst(rst | forget), .s_data(in_byte), .s_valid(in_valid), .m_data(word), .m_valid(word_valid),
    .m_ready(ready), .begun(begun));
  wire unused_last, unused_error;
  network network (
    .aclk(clk), .aresetn(!(rst | forget)), .s_axis_tdata(word), .s_axis_tvalid(word_valid), .s_axis_tready(ready),
    .s_axis_tlast(last), .m_axis_tdata(result), .m_axis_tvalid(result_valid), .m_axis_tready(result_ready),
    .m_axis_tlast(unused_last), .frame_error(unused_error));
  ldtp_to_bytes #(.BYTES({result // 8})) to_bytes (
    .clk(clk), .rst(rst), .s_data(result), .s_valid(result_valid), .s_ready(result_ready), .m_data(out_byte),
    .m_valid(out_valid), .m_ready(out_ready));
endmodule
`default_nettype wire
"""


def _board_bench(network: FixedNetwork, layers: Sequence[FoldedLayer], golden: Sequence[Golden]) -> str:
    """A test bench for the board: a computer's end of the serial port, with the golden vectors of the network."""
    first = layers[0]
    beat = first.fold.inputs * first.layer.below.levels.bits
    result = _bytes(network.output.class_bits)
    bench = _Bench(network, layers, golden)
    source = bench.source(f"network/{first.layer.below.name}.codes.mem", first.fold.inputs)
    place = network.output.output_name
    check = bench.check(f"network/{place}.classes.mem", place, 1, "found", "found_valid", 0, CLASSES=1)
    padding = _bytes(beat) - beat
    data = f"{{{padding}'d0, data}}" if padding else "data"
    limit = 4 * (bench.vectors + 4) * (first.beats * _bytes(beat) // 8 * 80 + sum(x.cycles for x in layers)) + 10000
    return f"""// The board with a computer at its serial port, which sends the golden vectors and compares the classes.
`timescale 1ns/1ps
`default_nettype none
module board_bench;
  reg clk = 1'b0;
  always #5 clk = !clk;
  integer cycle = 0;
  wire rst = cycle < 40;
  wire to_board, from_board, led, valid, ready, last, repeating, byte_valid, byte_ready, got_valid, got_word, begun;
  wire [{beat - 1}:0] data;
  wire [7:0] sent, got;
  wire [{result - 1}:0] word;
  wire [{network.output.class_bits - 1}:0] found = word[{network.output.class_bits - 1}:0];
  wire found_valid = got_word;
  wire [0:0] done;
  wire free;
  reg waiting;  // for the answer to a frame, as the computer's program does
  assign ready = free & !waiting;
  always @(posedge clk) waiting <= !rst & (valid & ready & last | waiting & !got_word);
{source}  ldtp_to_bytes #(.BYTES({_bytes(beat) // 8})) to_bytes (
    .clk(clk), .rst(rst), .s_data({data}), .s_valid(valid & !waiting), .s_ready(free), .m_data(sent),
    .m_valid(byte_valid), .m_ready(byte_ready));
  ldtp_uart #(.CLOCKS_PER_BIT(8)) computer (
    .clk(clk), .rst(rst), .rx(from_board), .tx(to_board), .m_data(got), .m_valid(got_valid), .s_data(sent),
    .s_valid(byte_valid), .s_ready(byte_ready));
  ldtp_from_bytes #(.BYTES({result // 8})) from_bytes (
    .clk(clk), .rst(rst), .s_data(got), .s_valid(got_valid), .m_data(word), .m_valid(got_word), .m_ready(1'b1),
    .begun(begun));
  board #(.CLOCKS_PER_BIT(8)) board (.clk(clk), .rx(to_board), .tx(from_board), .led(led));
{check}  always @(negedge clk) begin
    cycle <= cycle + 1;
    if (done[0]) begin
      $display("passed: {bench.vectors} vectors, {bench.values} values");
      $finish;
    end else if (cycle > {limit}) begin
      $display("stuck: not all classes came");
      $finish;
    end
  end
endmodule
`default_nettype wire
"""


class _Bench:
    """The parts of a test bench, which run one after the other, each on a clock of its own."""

    def __init__(self, network: FixedNetwork, layers: Sequence[FoldedLayer], golden: Sequence[Golden]) -> None:
        self.network, self.layers = network, layers
        self.golden = {x.path: x for x in golden}
        self.parts: list[str] = []
        self.vectors = self.values = self.limit = 0

    def _file(self, path: str, lanes: int, **more: Any) -> dict[str, Any]:
        found = self.golden[path]
        return {
            "FILE": f'"golden/{path}"',
            "VECTORS": len(found.values),
            "FIELDS": found.values.shape[1],
            "BITS": found.bits,
            "LANES": lanes,
            **more,
        }

    def source(self, path: str, lanes: int, **more: Any) -> str:
        self.vectors += len(self.golden[path].values)
        ports = ("clk", "rst", "data", "valid", "ready", "last", "repeating")
        return _instance("ldtp_source", self._file(path, lanes, **more), "source", dict(zip(ports, ports, strict=True)))

    def check(self, path: str, place: str, lanes: int, data: str, take: str, index: int, **more: Any) -> str:
        self.values += self.golden[path].values.size
        parameters = self._file(path, lanes, LINK=f'"{place}"', **more)
        ports = {"clk": "clk", "rst": "rst", "data": data, "take": take, "done": f"done[{index}]"}
        return _instance("ldtp_check", parameters, f"check_{index}", ports)

    def _part(self, checks: Sequence[str], body: str, cycles: int, name: str) -> None:
        number = len(self.parts)
        self.limit = max(self.limit, cycles)
        inner = (body + "".join(checks)).replace("\n  ", "\n    ")
        self.parts.append(f"""  generate if (1) begin : part_{number}  // {name}
    wire clk, rst, valid, ready, last, repeating;
    wire [{len(checks) - 1}:0] done;
    assign clk = clocks[{number}];
    assign rst = resets;
    assign finished[{number}] = &done;
  {inner.rstrip()}
  end endgenerate
""")

    def layer(self, folded: FoldedLayer) -> None:
        """A layer alone, its sums and its codes or logits and classes."""
        layer, fold = folded.layer, folded.fold
        folder = f"layers/{layer.name}"
        source = f"{folder}/{layer.below.name}.codes.mem"
        lanes, bits = _out_width(folded)
        body = f"""  wire [{fold.inputs * layer.below.levels.bits - 1}:0] data;
  wire [{lanes * bits - 1}:0] sent;
  wire sent_valid, sent_ready;
  assign sent_ready = noise[3] | noise[5];
  reg summed;
  always @(posedge clk) summed <= dut.core.finishing;
"""
        body += self.source(source, fold.inputs, HESITATE=1)
        nets = ("clk", "rst", "data", "valid", "ready", "sent", "sent_valid", "sent_ready")
        body += _instance(f"layer_{layer.name}", {}, "dut", dict(zip(_STREAMS, nets, strict=True)))
        checks = self._results(folder, folded, "dut.core", "summed", 0)
        cycles = (len(self.golden[source].values) + 3) * max(folded.cycles, 4 * folded.beats + 4 * folded.groups)
        self._part(checks, body, cycles, folder)

    def _results(self, folder: str, folded: FoldedLayer, core: str, summed: str, index: int, **more: Any) -> list[str]:
        """Checks of what leaves the layer `core`, from number `index` on; `summed` says that sums are there."""
        layer, fold, place = folded.layer, folded.fold, folded.layer.output_name
        sums, codes = f"{folder}/{place}.sums.mem", f"{folder}/{place}.codes.mem"
        sent, taken = f"{core}.m_data", f"{core}.m_valid & {core}.m_ready"
        checks = [self.check(sums, place, fold.outputs, f"{core}.sums", summed, index, SIGNED=1, **more)]
        if isinstance(layer, HiddenLayer):
            return [*checks, self.check(codes, place, fold.outputs, sent, taken, index + 1, **more)]
        logits, classes = f"{folder}/{place}.logits.mem", f"{folder}/{place}.classes.mem"
        output = f"{core}.output_layer"
        return [
            *checks,
            self.check(logits, place, 1, f"{output}.logit", f"{output}.logit_valid", index + 1, SIGNED=1, **more),
            self.check(classes, place, 1, sent, taken, index + 2, CLASSES=1, **more),
        ]

    def comparators(self, folded: FoldedLayer) -> None:
        """The thresholds of a layer alone, or the search for the largest logit."""
        layer, place = folded.layer, folded.layer.output_name
        folder = f"comparators/{layer.name}"
        if isinstance(layer, HiddenLayer):
            source, units = f"{folder}/{place}.sums.mem", folded.fold.outputs
            parameters = _parameters(folded, self.network)
            parameters["CODE_BITS"] = parameters["OUT_BITS"]
            names = (
                "NEURONS",
                "UNITS",
                "SUM_BITS",
                "THRESHOLD_BITS",
                "COMPARATORS",
                "STEPS",
                "CODE_BITS",
                "LOWEST",
                "ROM_REGISTER",
            )
            chosen = {name: parameters[name] for name in (*names, "THRESHOLDS")}
            body = f"""  wire [{units * layer.sum_bits - 1}:0] data;
  reg [{units * layer.sum_bits - 1}:0] sums;
  wire [{units * layer.above.levels.bits - 1}:0] codes;
  wire codes_valid;
  integer waited;
  assign ready = waited == {folded.steps - 1};
  always @(posedge clk) waited <= (rst || ready) ? 0 : waited + 1;
  always @(posedge clk) if (valid & ready) sums <= data;
"""
            body += self.source(source, units)
            ports = {"clk": "clk", "rst": "rst", "finishing": "valid & ready", "sums": "sums", "valid": "codes_valid"}
            body += _instance("ldtp_thresholds", chosen, "dut", ports | {"codes": "codes"})
            check = self.check(f"{folder}/{place}.codes.mem", place, units, "codes", "codes_valid", 0)
        else:
            output = self.network.output
            source = f"{folder}/{place}.logits.mem"
            body = f"""  wire [{output.logit_bits - 1}:0] data;
  wire [{output.class_bits - 1}:0] best;
  wire best_valid;
  reg second;
  assign ready = second;
  always @(posedge clk) second <= !rst & valid & !second;
"""
            body += self.source(source, 1)
            chosen = {"LOGIT_BITS": output.logit_bits, "CLASS_BITS": output.class_bits}
            ports = {"clk": "clk", "rst": "rst", "s_valid": "valid & !second", "s_last": "last", "logit": "data"}
            body += _instance("ldtp_argmax", chosen, "dut", ports | {"valid": "best_valid", "best": "best"})
            check = self.check(f"{folder}/{place}.classes.mem", place, 1, "best", "best_valid", 0, CLASSES=1)
        cycles = len(self.golden[source].values) * layer.neurons * max(folded.steps, 2)
        self._part([check], body, cycles, folder)

    def whole(self) -> None:
        """The network: each link's sums and codes, the class, and the traffic; then again with pauses at random."""
        first, last = self.layers[0], self.layers[-1]
        source = f"network/{first.layer.below.name}.codes.mem"
        count = len(self.golden[source].values)
        more = {"REPEATED": min(REPEATED, count)}
        bits = first.layer.below.levels.bits
        width, result = first.fold.inputs * bits, _out_width(last)[1]
        padding = _bytes(width) - width
        data = f"{{{padding}'d0, data}}" if padding else "data"
        body = f"""  wire [{width - 1}:0] data;
  wire [{_bytes(result) - 1}:0] sent;
  wire sent_valid, sent_ready, sent_last, frame_error;
  assign sent_ready = !repeating | noise[3] | noise[5];
  integer cycles, begun, results;
  always @(posedge clk)
    if (rst) begin
      cycles <= 0;
      results <= 0;
    end else begin
      cycles <= cycles + 1;
      if (sent_valid & sent_ready) begin
        results <= results + 1;
        if (results == 0) begun <= cycles;
        if (results == {count - 1} && results > 0) $display("cycles: %0d", (cycles - begun) / {max(count - 1, 1)});
      end
      if (frame_error || !sent_last) begin
        $display("stuck: frame_error");
        $finish;
      end
    end
"""
        body += self.source(source, first.fold.inputs, **more)
        axis = {"aclk": "clk", "aresetn": "!rst", "s_axis_tdata": data, "s_axis_tvalid": "valid"}
        axis |= {"s_axis_tready": "ready", "s_axis_tlast": "last", "m_axis_tdata": "sent"}
        axis |= {"m_axis_tvalid": "sent_valid", "m_axis_tready": "sent_ready", "m_axis_tlast": "sent_last"}
        body += _instance("network", {}, "dut", axis | {"frame_error": "frame_error"})
        checks: list[str] = []
        for folded in self.layers:
            core, summed = f"dut.layer_{folded.layer.name}.core", f"summed_{folded.layer.name}"
            body += f"  reg {summed};\n  always @(posedge clk) {summed} <= {core}.finishing;\n"
            checks += self._results("network", folded, core, summed, len(checks), **more)
        for folded, (name, lanes, bits, traffic) in zip(
            self.layers, _traffic(self.layers, list(self.golden.values())), strict=True
        ):
            link = f"dut.to_{folded.layer.name}"
            chosen = {"LINK": f'"{name}"', "MESSAGES": count, "FIELDS": folded.layer.below.neurons, "BITS": bits}
            chosen |= {"LANES": lanes, "ONES": f"64'd{traffic.ones}", "TOGGLES": f"64'd{traffic.toggles}"}
            chosen["BUS_TOGGLES"] = f"64'd{traffic.bus_toggles}"
            ports = {"clk": "clk", "rst": "rst", "data": link, "take": f"{link}_valid & {link}_ready"}
            body += _instance("ldtp_traffic", chosen, f"traffic_{folded.layer.name}", ports)
        slowest = max(max(x.cycles, 4 * x.beats + 4 * x.groups) for x in self.layers)
        self._part(checks, body, (count + more["REPEATED"] + 2 * len(self.layers) + 2) * slowest, "network")


def _test_bench(network: FixedNetwork, layers: Sequence[FoldedLayer], golden: Sequence[Golden]) -> str:
    bench = _Bench(network, layers, golden)
    for folded in layers:
        bench.layer(folded)
        bench.comparators(folded)
    bench.whole()
    count = len(bench.parts)
    parts = "\n".join(bench.parts)
    return f"""// Compares every golden vector, part by part: each layer alone, its comparators alone, then the network.
//
// Ends with a line "passed: ...", or "failed at link ...".
`default_nettype none
module testbench (
  input wire clk
);
  integer part = 0, cycle = 0;
  wire [{count - 1}:0] finished;
  reg [{count - 1}:0] clocks_on = {count}'d1;
  wire [{count - 1}:0] clocks = clocks_on & {{{count}{{clk}}}};
  wire resets = cycle < 4;
  reg [15:0] noise = 16'hace1;
  always @(posedge clk) noise <= {{noise[14:0], noise[15] ^ noise[13] ^ noise[12] ^ noise[10]}};
  always @(negedge clk) begin
    cycle <= cycle + 1;
    if (!resets && finished[part]) begin
      if (part == {count - 1}) begin
        $display("passed: {bench.vectors} vectors, {bench.values} values");
        $finish;
      end
      part <= part + 1;
      cycle <= 0;
      clocks_on <= clocks_on << 1;
    end else if (cycle > {bench.limit + 10000}) begin
      $display("stuck: part %0d did not end", part);
      $finish;
    end
  end

{parts}endmodule
`default_nettype wire
"""
