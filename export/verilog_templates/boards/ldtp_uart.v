// A serial port with 8 data bits, no parity and one stop bit.
`default_nettype none
module ldtp_uart #(
  parameter CLOCKS_PER_BIT = 104
) (
  input  wire clk,
  input  wire rst,
  input  wire rx,
  output wire tx,
  output reg  [7:0] m_data,
  output reg  m_valid,  // for one cycle
  input  wire [7:0] s_data,
  input  wire s_valid,
  output wire s_ready
);
  localparam BITS = $clog2(CLOCKS_PER_BIT);
  localparam [31:0] BIT = CLOCKS_PER_BIT - 1;
  localparam [31:0] HALF = CLOCKS_PER_BIT / 2;

  // In: wait for the middle of the start bit, then take a bit each time
  reg [1:0] line;
  reg [BITS-1:0] in_clock;
  reg [3:0] in_bit;
  reg receiving;
  always @(posedge clk) line <= {line[0], rx};
  always @(posedge clk)
    if (rst) begin
      receiving <= 1'b0;
      m_valid <= 1'b0;
      in_bit <= 4'd0;
      in_clock <= {BITS{1'b0}};
    end else begin
      m_valid <= 1'b0;
      if (!receiving) begin
        receiving <= !line[1];
        in_bit <= 4'd0;
        in_clock <= HALF[BITS-1:0];
      end else if (in_clock != {BITS{1'b0}}) in_clock <= in_clock - 1'b1;
      else begin
        in_clock <= BIT[BITS-1:0];
        in_bit <= in_bit + 4'd1;
        if (in_bit == 4'd0) receiving <= !line[1];  // else it was no start bit
        else if (in_bit == 4'd9) begin
          receiving <= 1'b0;
          m_valid <= line[1];
        end
      end
    end
  always @(posedge clk) if (in_clock == {BITS{1'b0}} && in_bit < 4'd9) m_data <= {line[1], m_data[7:1]};

  // Out: start bit, data, stop bit
  reg [9:0] out;
  reg [BITS-1:0] out_clock;
  reg [3:0] out_bits;
  assign tx = out[0];
  assign s_ready = out_bits == 4'd0;
  always @(posedge clk)
    if (rst) begin
      out <= 10'h3ff;
      out_bits <= 4'd0;
      out_clock <= {BITS{1'b0}};
    end else if (s_ready) begin
      out_clock <= BIT[BITS-1:0];
      if (s_valid) begin
        out <= {1'b1, s_data, 1'b0};
        out_bits <= 4'd10;
      end
    end else if (out_clock != {BITS{1'b0}}) out_clock <= out_clock - 1'b1;
    else begin
      out_clock <= BIT[BITS-1:0];
      out <= {1'b1, out[9:1]};
      out_bits <= out_bits - 4'd1;
    end
endmodule
`default_nettype wire
