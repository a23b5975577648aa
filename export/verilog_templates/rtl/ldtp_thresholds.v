// Codes of UNITS neurons: the number of thresholds that a sum reaches, plus LOWEST.
//
// `sums` come in the cycle after `finishing`, at least STEPS cycles apart; COMPARATORS thresholds of each neuron are
// compared a cycle.
`default_nettype none
module ldtp_thresholds #(
  parameter NEURONS = 64,
  parameter UNITS = 4,
  parameter SUM_BITS = 12,
  parameter THRESHOLD_BITS = 12,
  parameter COMPARATORS = 1,
  parameter STEPS = 1,
  parameter CODE_BITS = 1,
  parameter [CODE_BITS-1:0] LOWEST = 0,
  parameter ROM_REGISTER = 0,  // 1: a register after the memory of thresholds
  parameter THRESHOLDS = ""  // file: STEPS lines a group of neurons; those of the first neuron least significant
) (
  input  wire clk,
  input  wire rst,
  input  wire finishing,
  input  wire [UNITS*SUM_BITS-1:0] sums,
  output reg  valid,
  output wire [UNITS*CODE_BITS-1:0] codes
);
  localparam GROUPS = (NEURONS + UNITS - 1) / UNITS;
  localparam TAIL = NEURONS - (GROUPS - 1) * UNITS;  // neurons in the last group
  localparam DEPTH = GROUPS * STEPS;
  localparam ADDRESS_BITS = (DEPTH > 1) ? $clog2(DEPTH) : 1;
  localparam [31:0] HIGHEST = DEPTH - 1;
  localparam [ADDRESS_BITS-1:0] LAST_ADDRESS = HIGHEST[ADDRESS_BITS-1:0];

  (* rom_style = "block" *) reg [UNITS*COMPARATORS*THRESHOLD_BITS-1:0] memory [0:DEPTH-1];
  reg [UNITS*COMPARATORS*THRESHOLD_BITS-1:0] thresholds;
  reg [ADDRESS_BITS-1:0] address;
  initial if (THRESHOLDS != "") $readmemh(THRESHOLDS, memory);

  // `read`: the next thresholds are read. Then, cycle by cycle: compare, count, out
  wire read, begins, ends;
  wire [UNITS*SUM_BITS-1:0] operands;
  wire wraps = address == LAST_ADDRESS;
  always @(posedge clk)
    if (rst) address <= {ADDRESS_BITS{1'b0}};
    else if (read) address <= wraps ? {ADDRESS_BITS{1'b0}} : address + 1'b1;

  generate
    if (STEPS == 1) begin : at_once
      assign read = finishing;
      assign begins = 1'b1;
      assign ends = 1'b1;
      assign operands = sums;
    end else begin : in_steps
      localparam STEP_BITS = $clog2(STEPS);
      localparam [31:0] HIGHEST_STEP = STEPS - 1;
      localparam [STEP_BITS-1:0] LAST_STEP = HIGHEST_STEP[STEP_BITS-1:0];
      reg arrived;
      reg [STEP_BITS-1:0] step;
      reg [UNITS*SUM_BITS-1:0] held;
      always @(posedge clk)
        if (rst) begin
          arrived <= 1'b0;
          step <= {STEP_BITS{1'b0}};
        end else begin
          arrived <= finishing;
          if (read) step <= (step == LAST_STEP) ? {STEP_BITS{1'b0}} : step + 1'b1;
        end
      always @(posedge clk) if (arrived) held <= sums;
      assign read = arrived | step != {STEP_BITS{1'b0}};
      assign begins = step == {STEP_BITS{1'b0}};
      assign ends = step == LAST_STEP;
      assign operands = held;
    end
  endgenerate

  wire [UNITS*SUM_BITS-1:0] compared;
  wire reads, reads_first, reads_last, reads_tail;
  generate
    if (ROM_REGISTER != 0) begin : registered
      reg [UNITS*COMPARATORS*THRESHOLD_BITS-1:0] found;
      reg [UNITS*SUM_BITS-1:0] kept;
      reg [3:0] flags;
      always @(posedge clk) begin
        found <= memory[address];
        thresholds <= found;
        kept <= operands;
        flags <= {read & !rst, begins, ends, wraps};
      end
      assign compared = kept;
      assign {reads, reads_first, reads_last, reads_tail} = flags;
    end else begin : direct
      always @(posedge clk) thresholds <= memory[address];
      assign compared = operands;
      assign {reads, reads_first, reads_last, reads_tail} = {read, begins, ends, wraps};
    end
  endgenerate

  reg [2:1] is_valid, is_first, is_last, is_tail;
  always @(posedge clk)
    if (rst) begin
      is_valid <= 2'b0;
      valid <= 1'b0;
    end else begin
      is_valid <= {is_valid[1], reads};
      valid <= is_valid[2] & is_last[2];
    end
  always @(posedge clk) begin
    is_first <= {is_first[1], reads_first};
    is_last <= {is_last[1], reads_last};
    is_tail <= {is_tail[1], reads_tail};
  end

  wire unused = is_tail[2];  // if all groups are full

  genvar u, j;
  generate
    for (u = 0; u < UNITS; u = u + 1) begin : unit
      wire [SUM_BITS-1:0] sum = compared[u*SUM_BITS +: SUM_BITS];
      wire [THRESHOLD_BITS:0] wide = {{THRESHOLD_BITS-SUM_BITS+1{sum[SUM_BITS-1]}}, sum};
      reg [COMPARATORS-1:0] reached;
      for (j = 0; j < COMPARATORS; j = j + 1) begin : comparator
        wire [THRESHOLD_BITS-1:0] threshold = thresholds[(u*COMPARATORS + j)*THRESHOLD_BITS +: THRESHOLD_BITS];
        wire [THRESHOLD_BITS:0] difference = wide - {threshold[THRESHOLD_BITS-1], threshold};
        wire unused_low = &difference[THRESHOLD_BITS-1:0];
        always @(posedge clk) reached[j] <= !difference[THRESHOLD_BITS];
      end
      integer k;
      reg [CODE_BITS-1:0] rank, code;
      wire [CODE_BITS-1:0] counted = is_first[2] ? LOWEST : code;
      always @* begin
        rank = counted;
        for (k = 0; k < COMPARATORS; k = k + 1) if (reached[k]) rank = rank + 1'b1;
      end
      wire absent;
      if (u >= TAIL) begin : in_tail
        assign absent = is_tail[2];
      end else begin : always_present
        assign absent = 1'b0;
      end
      always @(posedge clk) if (is_valid[2]) code <= absent ? {CODE_BITS{1'b0}} : rank;
      assign codes[u*CODE_BITS +: CODE_BITS] = code;
    end
  endgenerate
endmodule
`default_nettype wire
