// Compares what arrives with the vectors of a golden file: all, then the first REPEATED ones again.
`default_nettype none
module ldtp_check #(
  parameter FILE = "",
  parameter LINK = "",
  parameter VECTORS = 1,
  parameter REPEATED = 0,
  parameter FIELDS = 1,
  parameter BITS = 1,
  parameter LANES = 1,
  parameter SIGNED = 0,
  parameter CLASSES = 0  // 1: a value is the number of a neuron
) (
  input  wire clk,
  input  wire rst,
  input  wire [LANES*BITS-1:0] data,
  input  wire take,
  output wire done
);
  localparam BEATS = (FIELDS + LANES - 1) / LANES;

  reg [FIELDS*BITS-1:0] vectors [0:VECTORS-1];
  initial $readmemh(FILE, vectors);

  integer compared, beat, i, field, neuron;
  reg [BITS-1:0] expected, given;
  wire [31:0] row = (compared < VECTORS) ? compared : compared - VECTORS;
  assign done = compared == VECTORS + REPEATED;
  always @(posedge clk)
    if (rst) begin
      compared <= 0;
      beat <= 0;
    end else if (take && !done) begin
      for (i = 0; i < LANES; i = i + 1) begin
        field = beat*LANES + i;
        given = data[i*BITS +: BITS];
        expected = {BITS{1'b0}};
        if (field < FIELDS) expected = vectors[row][field*BITS +: BITS];
        else if (SIGNED != 0) expected = given;  // sums of no neuron may be anything; codes of no neuron are zero
        neuron = (CLASSES != 0) ? {{32{1'b0}}, expected} : field;
        if (given !== expected) begin
          $write("failed at link %0s, neuron %0d: line %0d of %0s: expected ", LINK, neuron, row + 1, FILE);
          if (SIGNED != 0) $display("%0d, got %0d", $signed(expected), $signed(given));
          else $display("%0d, got %0d", expected, given);
          $finish;
        end
      end
      beat <= (beat == BEATS - 1) ? 0 : beat + 1;
      if (beat == BEATS - 1) compared <= compared + 1;
    end
endmodule
`default_nettype wire
