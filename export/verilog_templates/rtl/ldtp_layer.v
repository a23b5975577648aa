// A dense layer: UNITS neurons and LANES inputs at once, a frame of INPUTS codes in, a frame of NEURONS codes out.
//
// Beats of LANES codes arrive in a buffer of two frames, so that one can arrive while the other is computed. A frame
// takes GROUPS * PERIOD cycles. Beats of UNITS codes leave (the last one filled with zeros), or, from an output layer,
// one class. Nothing within stalls: a group is finished only if there is room for its codes.
`default_nettype none
module ldtp_layer #(
  parameter INPUTS = 64,
  parameter NEURONS = 64,
  parameter LANES = 4,
  parameter UNITS = 4,
  parameter PERIOD = 16,  // cycles of a group: one a beat, or more, for many thresholds or a serial output
  parameter CODE_BITS = 1,
  parameter CODE_KIND = 2,  // kinds are those of ldtp_level
  parameter LEVEL_BITS = 2,
  parameter [((CODE_KIND == 3) ? LEVEL_BITS << CODE_BITS : 1)-1:0] LEVELS = 0,
  parameter WEIGHT_BITS = 4,
  parameter WEIGHT_KIND = 0,
  parameter WEIGHT_LEVEL_BITS = 4,
  parameter [((WEIGHT_KIND == 3) ? WEIGHT_LEVEL_BITS << WEIGHT_BITS : 1)-1:0] WEIGHT_LEVELS = 0,
  parameter SUM_BITS = 12,
  parameter ROM_REGISTER = 0,
  parameter ROW_BEATS = 1,
  parameter WEIGHTS = "",
  parameter OUTPUT_LAYER = 0,
  // of a hidden layer
  parameter THRESHOLD_BITS = 12,
  parameter COMPARATORS = 1,
  parameter STEPS = 1,
  parameter OUT_BITS = 1,
  parameter [OUT_BITS-1:0] LOWEST = 0,
  parameter THRESHOLDS = "",
  // of an output layer
  parameter BIAS_BITS = 8,
  parameter LOGIT_BITS = 16,
  parameter CLASS_BITS = 4,
  parameter BIASES = "",
  parameter WIDTH = (OUTPUT_LAYER != 0) ? CLASS_BITS : UNITS * OUT_BITS
) (
  input  wire clk,
  input  wire rst,
  input  wire [LANES*CODE_BITS-1:0] s_data,
  input  wire s_valid,
  output wire s_ready,
  output wire [WIDTH-1:0] m_data,
  output wire m_valid,
  input  wire m_ready
);
  localparam BEATS = (INPUTS + LANES - 1) / LANES;
  localparam GROUPS = (NEURONS + UNITS - 1) / UNITS;
  localparam ADDRESS_BITS = (BEATS > 1) ? $clog2(BEATS) : 1;
  localparam CYCLE_BITS = (PERIOD > 1) ? $clog2(PERIOD) : 1;
  localparam GROUP_BITS = (GROUPS > 1) ? $clog2(GROUPS) : 1;
  localparam [31:0] FINAL_BEAT = BEATS - 1;
  localparam [CYCLE_BITS-1:0] LAST_BEAT = FINAL_BEAT[CYCLE_BITS-1:0];
  localparam [31:0] FINAL_CYCLE = PERIOD - 1;
  localparam [CYCLE_BITS-1:0] LAST_CYCLE = FINAL_CYCLE[CYCLE_BITS-1:0];
  localparam [31:0] FINAL_GROUP = GROUPS - 1;
  localparam [GROUP_BITS-1:0] LAST_GROUP = FINAL_GROUP[GROUP_BITS-1:0];
  // Groups between their last beat and the reader of the link, who gets one a period
  localparam LATENCY = 16 + $clog2(LANES) + $clog2(WEIGHT_LEVEL_BITS) + STEPS + ((OUTPUT_LAYER != 0) ? 2 * UNITS : 0);
  localparam DEPTH = (OUTPUT_LAYER != 0) ? 2 : 1 << $clog2(LATENCY / PERIOD + 2);
  localparam ROOM_BITS = $clog2(DEPTH + 1);
  localparam [31:0] ROOMS = DEPTH;
  localparam [ROOM_BITS-1:0] ALL = ROOMS[ROOM_BITS-1:0];

  // Which beat of which group is next
  wire frame_ready, last, valid;
  wire [LANES*CODE_BITS-1:0] codes;
  reg [CYCLE_BITS-1:0] cycle;
  reg [GROUP_BITS-1:0] group;
  reg [ROOM_BITS-1:0] room;
  wire ends_group = cycle == LAST_CYCLE;
  wire ends_frame = group == LAST_GROUP;
  wire sends = last & (OUTPUT_LAYER == 0 | ends_frame);
  wire go = frame_ready & !(sends & room == {ROOM_BITS{1'b0}});
  wire reserve = go & sends;
  wire taken = m_valid & m_ready;
  assign last = cycle == LAST_BEAT;
  generate
    if (PERIOD == BEATS) begin : all_beats
      assign valid = go;
    end else begin : some_idle
      assign valid = go & cycle <= LAST_BEAT;
    end
  endgenerate
  always @(posedge clk)
    if (rst) begin
      cycle <= {CYCLE_BITS{1'b0}};
      group <= {GROUP_BITS{1'b0}};
      room <= ALL;
    end else begin
      if (go) cycle <= ends_group ? {CYCLE_BITS{1'b0}} : cycle + 1'b1;
      if (go & ends_group) group <= ends_frame ? {GROUP_BITS{1'b0}} : group + 1'b1;
      if (reserve & !taken) room <= room - 1'b1;
      else if (taken & !reserve) room <= room + 1'b1;
    end

  ldtp_buffer #(.BEATS(BEATS), .WIDTH(LANES*CODE_BITS)) buffer (
    .clk(clk), .rst(rst), .s_data(s_data), .s_valid(s_valid), .s_ready(s_ready), .ready(frame_ready),
    .address(cycle[ADDRESS_BITS-1:0]), .done(go & ends_group & ends_frame), .data(codes));

  wire finishing;
  wire [UNITS*SUM_BITS-1:0] sums;
  ldtp_dot #(
    .INPUTS(INPUTS), .LANES(LANES), .UNITS(UNITS), .GROUPS(GROUPS), .CODE_BITS(CODE_BITS), .CODE_KIND(CODE_KIND),
    .LEVEL_BITS(LEVEL_BITS), .LEVELS(LEVELS), .WEIGHT_BITS(WEIGHT_BITS), .WEIGHT_KIND(WEIGHT_KIND),
    .WEIGHT_LEVEL_BITS(WEIGHT_LEVEL_BITS), .WEIGHT_LEVELS(WEIGHT_LEVELS), .SUM_BITS(SUM_BITS),
    .ROM_REGISTER(ROM_REGISTER), .ROW_BEATS(ROW_BEATS), .WEIGHTS(WEIGHTS)
  ) dot (
    .clk(clk), .rst(rst), .valid(valid), .last(last), .codes(codes), .finishing(finishing), .sums(sums));

  generate
    if (OUTPUT_LAYER != 0) begin : output_layer
      wire logit_valid, logit_last, class_valid;
      wire [LOGIT_BITS-1:0] logit;
      wire [CLASS_BITS-1:0] best;
      ldtp_logits #(
        .NEURONS(NEURONS), .UNITS(UNITS), .SUM_BITS(SUM_BITS), .BIAS_BITS(BIAS_BITS), .LOGIT_BITS(LOGIT_BITS),
        .BIASES(BIASES)
      ) logits (
        .clk(clk), .rst(rst), .finishing(finishing), .sums(sums), .valid(logit_valid), .last(logit_last),
        .logit(logit));
      ldtp_argmax #(.LOGIT_BITS(LOGIT_BITS), .CLASS_BITS(CLASS_BITS)) argmax (
        .clk(clk), .rst(rst), .s_valid(logit_valid), .s_last(logit_last), .logit(logit), .valid(class_valid),
        .best(best));
      ldtp_fifo #(.DEPTH(DEPTH), .WIDTH(WIDTH)) fifo (
        .clk(clk), .rst(rst), .word(best), .push(class_valid), .m_data(m_data), .m_valid(m_valid), .m_ready(m_ready));
    end else begin : hidden_layer
      wire codes_valid;
      wire [UNITS*OUT_BITS-1:0] sent;
      ldtp_thresholds #(
        .NEURONS(NEURONS), .UNITS(UNITS), .SUM_BITS(SUM_BITS), .THRESHOLD_BITS(THRESHOLD_BITS),
        .COMPARATORS(COMPARATORS), .STEPS(STEPS), .CODE_BITS(OUT_BITS), .LOWEST(LOWEST),
        .ROM_REGISTER(ROM_REGISTER), .THRESHOLDS(THRESHOLDS)
      ) comparators (
        .clk(clk), .rst(rst), .finishing(finishing), .sums(sums), .valid(codes_valid), .codes(sent));
      ldtp_fifo #(.DEPTH(DEPTH), .WIDTH(WIDTH)) fifo (
        .clk(clk), .rst(rst), .word(sent), .push(codes_valid), .m_data(m_data), .m_valid(m_valid),
        .m_ready(m_ready));
    end
  endgenerate
endmodule
`default_nettype wire
