// Logits of the output layer, one in two cycles: 16 * sum + bias.
//
// `sums` of UNITS neurons come in the cycle after `finishing`, at least 2 * UNITS cycles apart. A logit stays for two
// cycles, of which `valid` marks the first.
`default_nettype none
module ldtp_logits #(
  parameter NEURONS = 10,
  parameter UNITS = 2,
  parameter SUM_BITS = 12,
  parameter BIAS_BITS = 8,
  parameter LOGIT_BITS = 16,
  parameter BIASES = ""  // file: a line a neuron
) (
  input  wire clk,
  input  wire rst,
  input  wire finishing,
  input  wire [UNITS*SUM_BITS-1:0] sums,
  output reg  valid,
  output reg  last,
  output reg  [LOGIT_BITS-1:0] logit
);
  localparam NEURON_BITS = (NEURONS > 1) ? $clog2(NEURONS) : 1;
  localparam UNIT_BITS = (UNITS > 1) ? $clog2(UNITS) : 1;
  localparam [31:0] HIGHEST = NEURONS - 1;
  localparam [NEURON_BITS-1:0] LAST = HIGHEST[NEURON_BITS-1:0];
  localparam [31:0] HIGHEST_UNIT = UNITS - 1;
  localparam [UNIT_BITS-1:0] LAST_UNIT = HIGHEST_UNIT[UNIT_BITS-1:0];

  reg [BIAS_BITS-1:0] memory [0:NEURONS-1];
  initial if (BIASES != "") $readmemh(BIASES, memory);

  reg arrived, busy, second;
  reg [UNIT_BITS-1:0] unit;
  reg [NEURON_BITS-1:0] neuron;
  reg [UNITS*SUM_BITS-1:0] held;
  reg [BIAS_BITS-1:0] bias;
  wire at_last = neuron == LAST;
  always @(posedge clk)
    if (rst) begin
      arrived <= 1'b0;
      busy <= 1'b0;
      second <= 1'b0;
      unit <= {UNIT_BITS{1'b0}};
      neuron <= {NEURON_BITS{1'b0}};
    end else begin
      arrived <= finishing;
      busy <= arrived | (busy & !(second & (unit == LAST_UNIT | at_last)));
      second <= busy & !second;
      if (busy & second) begin
        unit <= (unit == LAST_UNIT | at_last) ? {UNIT_BITS{1'b0}} : unit + 1'b1;
        neuron <= at_last ? {NEURON_BITS{1'b0}} : neuron + 1'b1;
      end
    end
  always @(posedge clk) begin
    bias <= memory[neuron];
    if (arrived) held <= sums;
    else if (second) held <= held >> SUM_BITS;
  end

  wire [SUM_BITS-1:0] sum = held[SUM_BITS-1:0];
  wire [LOGIT_BITS+SUM_BITS+3:0] scaled = {{LOGIT_BITS{sum[SUM_BITS-1]}}, sum, 4'd0};
  wire [LOGIT_BITS+BIAS_BITS-1:0] offset = {{LOGIT_BITS{bias[BIAS_BITS-1]}}, bias};
  wire unused = &{scaled[LOGIT_BITS+SUM_BITS+3:LOGIT_BITS], offset[LOGIT_BITS+BIAS_BITS-1:LOGIT_BITS]};
  always @(posedge clk) valid <= !rst & busy & second;
  always @(posedge clk)
    if (second) begin
      logit <= scaled[LOGIT_BITS-1:0] + offset[LOGIT_BITS-1:0];
      last <= at_last;
    end
endmodule
`default_nettype wire
