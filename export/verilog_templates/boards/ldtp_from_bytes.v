// From bytes to words of BYTES bytes, the first in the least significant bits.
`default_nettype none
module ldtp_from_bytes #(
  parameter BYTES = 2
) (
  input  wire clk,
  input  wire rst,
  input  wire [7:0] s_data,
  input  wire s_valid,
  output reg  [8*BYTES-1:0] m_data,
  output reg  m_valid,
  input  wire m_ready,
  output wire begun  // some bytes of a word have come
);
  localparam [BYTES-1:0] FIRST = 1;
  reg [BYTES-1:0] place;  // one bit, at the byte that is next
  assign begun = !place[0];
  wire [BYTES:0] turned = {place, place[BYTES-1]};
  wire unused = turned[BYTES];
  always @(posedge clk)
    if (rst) begin
      place <= FIRST;
      m_valid <= 1'b0;
    end else begin
      m_valid <= (s_valid & place[BYTES-1]) | (m_valid & !m_ready);
      if (s_valid) place <= turned[BYTES-1:0];
    end
  integer i;
  always @(posedge clk) for (i = 0; i < BYTES; i = i + 1) if (s_valid & place[i]) m_data[8*i +: 8] <= s_data;
endmodule
`default_nettype wire
