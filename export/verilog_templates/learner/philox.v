// Philox4x32-10 (Salmon et al., SC 2011), a round a cycle: the random numbers of training in Python, to the bit.
// Number `index` of a draw is word (index / 32) % 4 of counter index / 128 * 32 + index % 32.
`default_nettype none
module philox #(
    parameter [63:0] SEED = 0
) (
    input  wire        clk,
    input  wire        start,
    input  wire [31:0] index,
    input  wire [31:0] purpose,
    input  wire [63:0] step,
    output wire        done,
    output wire [31:0] word
);
  reg [31:0] c0, c1, c2, c3, k0, k1;
  reg [3:0] rounds;
  reg [1:0] chosen;
  wire [63:0] p0 = 64'hD2511F53 * {32'd0, c0};
  wire [63:0] p1 = 64'hCD9E8D57 * {32'd0, c2};

  assign done = rounds == 0;
  assign word = chosen == 0 ? c0 : chosen == 1 ? c1 : chosen == 2 ? c2 : c3;

  initial rounds = 0;
  always @(posedge clk)
    if (start) begin
      c0 <= {2'd0, index[31:7], index[4:0]};
      c1 <= purpose;
      c2 <= step[31:0];
      c3 <= step[63:32];
      k0 <= SEED[31:0];
      k1 <= SEED[63:32];
      chosen <= index[6:5];
      rounds <= 10;
    end else if (rounds != 0) begin
      c0 <= p1[63:32] ^ c1 ^ k0;
      c1 <= p1[31:0];
      c2 <= p0[63:32] ^ c3 ^ k1;
      c3 <= p0[31:0];
      k0 <= k0 + 32'h9E3779B9;
      k1 <= k1 + 32'hBB67AE85;
      rounds <= rounds - 1;
    end
endmodule
`default_nettype wire
