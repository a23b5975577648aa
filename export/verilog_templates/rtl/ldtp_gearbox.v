// From beats of IN codes to beats of OUT codes; one of them divides the other. A frame is of CODES codes, and a beat
// that it does not fill ends with zeros.
`default_nettype none
module ldtp_gearbox #(
  parameter CODES = 64,
  parameter BITS = 1,
  parameter IN = 2,
  parameter OUT = 4
) (
  input  wire clk,
  input  wire rst,
  input  wire [IN*BITS-1:0] s_data,
  input  wire s_valid,
  output wire s_ready,
  output wire [OUT*BITS-1:0] m_data,
  output wire m_valid,
  input  wire m_ready
);
  localparam NARROW = (IN < OUT) ? IN : OUT;
  localparam RATIO = ((IN < OUT) ? OUT : IN) / NARROW;
  localparam BEATS = (CODES + NARROW - 1) / NARROW;  // narrow beats in a frame
  localparam PART_BITS = $clog2(RATIO);
  localparam BEAT_BITS = (BEATS > 1) ? $clog2(BEATS) : 1;
  localparam [31:0] HIGHEST_PART = RATIO - 1;
  localparam [PART_BITS-1:0] LAST_PART = HIGHEST_PART[PART_BITS-1:0];
  localparam [31:0] HIGHEST_BEAT = BEATS - 1;
  localparam [BEAT_BITS-1:0] LAST_BEAT = HIGHEST_BEAT[BEAT_BITS-1:0];

  reg [BEAT_BITS-1:0] beat;
  reg [PART_BITS-1:0] part;
  wire step;
  wire ends_frame = beat == LAST_BEAT;
  wire ends_wide = part == LAST_PART | ends_frame;
  always @(posedge clk)
    if (rst) begin
      beat <= {BEAT_BITS{1'b0}};
      part <= {PART_BITS{1'b0}};
    end else if (step) begin
      beat <= ends_frame ? {BEAT_BITS{1'b0}} : beat + 1'b1;
      part <= ends_wide ? {PART_BITS{1'b0}} : part + 1'b1;
    end

  generate
    if (IN < OUT) begin : widen
      reg [OUT*BITS-1:0] collected;
      reg full;
      assign s_ready = !full | m_ready;
      assign step = s_valid & s_ready;
      assign m_data = collected;
      assign m_valid = full;
      always @(posedge clk) full <= !rst & ((step & ends_wide) | (full & !m_ready));
      integer k;
      always @(posedge clk)
        for (k = 0; k < RATIO; k = k + 1)
          if (step) begin
            if (part == k[PART_BITS-1:0]) collected[k*IN*BITS +: IN*BITS] <= s_data;
            else if (part == {PART_BITS{1'b0}}) collected[k*IN*BITS +: IN*BITS] <= {IN*BITS{1'b0}};
          end
    end else begin : narrow
      assign step = s_valid & m_ready;
      assign s_ready = m_ready & ends_wide;
      assign m_valid = s_valid;
      assign m_data = s_data[part*OUT*BITS +: OUT*BITS];
    end
  endgenerate
endmodule
`default_nettype wire
