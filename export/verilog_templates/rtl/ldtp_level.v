// The level, in two's complement, that a code stands for.
`default_nettype none
module ldtp_level #(
  parameter BITS = 2,
  parameter KIND = 0,  // 0 two's complement, 1 unsigned, 2 one bit: 0 is -1 and 1 is +1, 3 TABLE
  parameter LEVEL_BITS = 2,
  parameter [((KIND == 3) ? LEVEL_BITS << BITS : 1)-1:0] TABLE = 0  // of kind 3: level of code 0 in the least significant bits
) (
  input  wire [BITS-1:0] code,
  output wire [LEVEL_BITS-1:0] level
);
  generate
    if (KIND == 3) begin : from_table
      reg [LEVEL_BITS-1:0] found;
      integer k;
      always @* begin
        found = {LEVEL_BITS{1'b0}};
        for (k = 0; k < (1 << BITS); k = k + 1) if (code == k[BITS-1:0]) found = TABLE[k*LEVEL_BITS +: LEVEL_BITS];
      end
      assign level = found;
    end else if (KIND == 2) begin : from_sign
      assign level = {!code[0], 1'b1};
    end else if (KIND == 1) begin : from_unsigned
      assign level = {1'b0, code};
    end else begin : from_signed
      assign level = code;
    end
  endgenerate
endmodule
`default_nettype wire
