// Number of the largest of the logits that come one after the other; the lowest number on a tie.
`default_nettype none
module ldtp_argmax #(
  parameter LOGIT_BITS = 16,
  parameter CLASS_BITS = 4
) (
  input  wire clk,
  input  wire rst,
  input  wire s_valid,
  input  wire s_last,
  input  wire [LOGIT_BITS-1:0] logit,
  output reg  valid,
  output reg  [CLASS_BITS-1:0] best
);
  reg [CLASS_BITS-1:0] number;
  reg signed [LOGIT_BITS-1:0] largest;
  reg none;
  wire larger = $signed(logit) > largest;
  always @(posedge clk)
    if (rst) begin
      number <= {CLASS_BITS{1'b0}};
      none <= 1'b1;
      valid <= 1'b0;
    end else begin
      valid <= s_valid & s_last;
      if (s_valid) begin
        none <= s_last;
        number <= s_last ? {CLASS_BITS{1'b0}} : number + 1'b1;
      end
    end
  always @(posedge clk)
    if (s_valid & (none | larger)) begin
      largest <= logit;
      best <= number;
    end
endmodule
`default_nettype wire
