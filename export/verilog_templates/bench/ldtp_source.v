// Sends the vectors of a golden file, beat by beat: all, then the first REPEATED ones again, at random times.
`default_nettype none
module ldtp_source #(
  parameter FILE = "",
  parameter VECTORS = 1,
  parameter REPEATED = 0,
  parameter FIELDS = 1,
  parameter BITS = 1,
  parameter LANES = 1,
  parameter HESITATE = 0,  // 1: at random times from the first vector on
  parameter WIDTH = LANES * BITS
) (
  input  wire clk,
  input  wire rst,
  output reg  [WIDTH-1:0] data,
  output wire valid,
  input  wire ready,
  output wire last,
  output wire repeating
);
  localparam BEATS = (FIELDS + LANES - 1) / LANES;

  reg [FIELDS*BITS-1:0] vectors [0:VECTORS-1];
  initial $readmemh(FILE, vectors);

  integer sent, beat, i;
  reg waiting;
  reg [15:0] noise;
  reg [FIELDS*BITS-1:0] vector;  // the one that is sent
  wire [31:0] next = (sent + 1 < VECTORS) ? sent + 1 : sent + 1 - VECTORS;
  assign repeating = sent >= VECTORS;
  assign valid = !rst && !waiting && sent < VECTORS + REPEATED;
  assign last = beat == BEATS - 1;
  always @* begin
    data = {WIDTH{1'b0}};
    for (i = 0; i < LANES; i = i + 1)
      if (beat*LANES + i < FIELDS) data[i*BITS +: BITS] = vector[(beat*LANES + i)*BITS +: BITS];
  end
  always @(posedge clk)
    if (rst) begin
      sent <= 0;
      vector <= vectors[0];
      beat <= 0;
      waiting <= 1'b0;
      noise <= 16'hbeef;
    end else begin
      noise <= {noise[14:0], noise[15] ^ noise[13] ^ noise[12] ^ noise[10]};
      if (valid && ready) begin
        beat <= last ? 0 : beat + 1;
        if (last) begin
          sent <= sent + 1;
          if (next < VECTORS) vector <= vectors[next];
        end
      end
      if (waiting || (valid && ready)) waiting <= (HESITATE != 0 || repeating) && noise[0];
    end
endmodule
`default_nettype wire
