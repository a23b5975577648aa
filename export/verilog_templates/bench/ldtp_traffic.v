// Counts what the first MESSAGES messages of a link carry, and compares the counts with those predicted.
//
// Toggles are counted as in a ledger: each bit of each neuron is compared with the message before. Those of the bus are
// what the wires of the folded link do: each beat is compared with the beat before.
`default_nettype none
module ldtp_traffic #(
  parameter LINK = "",
  parameter MESSAGES = 1,
  parameter FIELDS = 1,
  parameter BITS = 1,
  parameter LANES = 1,
  parameter [63:0] ONES = 0,
  parameter [63:0] TOGGLES = 0,
  parameter [63:0] BUS_TOGGLES = 0
) (
  input  wire clk,
  input  wire rst,
  input  wire [LANES*BITS-1:0] data,
  input  wire take
);
  localparam BEATS = (FIELDS + LANES - 1) / LANES;
  localparam PADDED = BEATS * LANES * BITS;

  function integer ones_in(input [LANES*BITS-1:0] word);
    integer k;
    begin
      ones_in = 0;
      for (k = 0; k < LANES*BITS; k = k + 1) if (word[k]) ones_in = ones_in + 1;
    end
  endfunction

  integer messages, beat;
  reg [63:0] bits, ones, toggles, bus_toggles;
  reg [PADDED-1:0] message;
  reg [LANES*BITS-1:0] word;
  wire [LANES*BITS-1:0] then = message[beat*LANES*BITS +: LANES*BITS];
  always @(posedge clk)
    if (rst) begin
      messages <= 0;
      beat <= 0;
      bits <= 64'd0;
      ones <= 64'd0;
      toggles <= 64'd0;
      bus_toggles <= 64'd0;
    end else if (messages == MESSAGES) begin
      messages <= messages + 1;
      $display("link %0s: %0d bits, %0d ones, %0d toggles, %0d of the bus", LINK, bits, ones, toggles, bus_toggles);
      if (ones != ONES || toggles != TOGGLES || bus_toggles != BUS_TOGGLES) begin
        $display("failed at link %0s, traffic: expected %0d ones, %0d toggles, %0d of the bus", LINK, ONES, TOGGLES,
                 BUS_TOGGLES);
        $finish;
      end
    end else if (take && messages < MESSAGES) begin
      ones <= ones + {32'd0, ones_in(data)};
      if (messages > 0) toggles <= toggles + {32'd0, ones_in(data ^ then)};
      if (messages > 0 || beat > 0) bus_toggles <= bus_toggles + {32'd0, ones_in(data ^ word)};
      message[beat*LANES*BITS +: LANES*BITS] <= data;
      word <= data;
      beat <= (beat == BEATS - 1) ? 0 : beat + 1;
      if (beat == BEATS - 1) begin
        messages <= messages + 1;
        bits <= bits + FIELDS*BITS;
      end
    end
endmodule
`default_nettype wire
