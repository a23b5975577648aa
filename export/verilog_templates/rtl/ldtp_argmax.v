// Number of the largest of the logits that come one after the other; the lowest number on a tie.
//
// A logit stays for two cycles, of which `s_valid` marks the first: it is compared in one and kept in the other.
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
  reg none, larger, compared, ends;
  always @(posedge clk)
    if (rst) begin
      number <= {CLASS_BITS{1'b0}};
      none <= 1'b1;
      valid <= 1'b0;
      compared <= 1'b0;
    end else begin
      compared <= s_valid;
      valid <= compared & ends;
      if (compared) begin
        none <= ends;
        number <= ends ? {CLASS_BITS{1'b0}} : number + 1'b1;
      end
    end
  always @(posedge clk) begin
    larger <= none | $signed(logit) > largest;
    ends <= s_last;
  end
  always @(posedge clk)
    if (compared & larger) begin
      largest <= logit;
      best <= number;
    end
endmodule
`default_nettype wire
