// From words of BYTES bytes to bytes, the least significant first.
`default_nettype none
module ldtp_to_bytes #(
  parameter BYTES = 2
) (
  input  wire clk,
  input  wire rst,
  input  wire [8*BYTES-1:0] s_data,
  input  wire s_valid,
  output wire s_ready,
  output wire [7:0] m_data,
  output wire m_valid,
  input  wire m_ready
);
  reg [8*BYTES-1:0] left;
  reg [BYTES-1:0] bytes;  // a bit for each that is left
  assign m_data = left[7:0];
  assign m_valid = bytes[0];
  assign s_ready = !bytes[0];
  always @(posedge clk)
    if (rst) bytes <= {BYTES{1'b0}};
    else if (s_ready) begin
      left <= s_data;
      bytes <= {BYTES{s_valid}};
    end else if (m_ready) begin
      left <= left >> 8;
      bytes <= bytes >> 1;
    end
endmodule
`default_nettype wire
