// A queue of DEPTH words before an output register, which holds its word until the next one: a link changes only when
// it carries something new. The sender keeps count of the room: a word that comes when the queue is full is lost.
`default_nettype none
module ldtp_fifo #(
  parameter DEPTH = 2,  // a power of two, at least 2
  parameter WIDTH = 4
) (
  input  wire clk,
  input  wire rst,
  input  wire [WIDTH-1:0] word,
  input  wire push,
  output reg  [WIDTH-1:0] m_data,
  output reg  m_valid,
  input  wire m_ready
);
  localparam POINTER_BITS = $clog2(DEPTH);

  reg [WIDTH-1:0] words [0:DEPTH-1];
  reg [POINTER_BITS:0] pushed, popped;

  wire pop = pushed != popped & (!m_valid | m_ready);

  always @(posedge clk) if (push) words[pushed[POINTER_BITS-1:0]] <= word;
  always @(posedge clk) if (pop) m_data <= words[popped[POINTER_BITS-1:0]];

  always @(posedge clk)
    if (rst) begin
      pushed <= {POINTER_BITS+1{1'b0}};
      popped <= {POINTER_BITS+1{1'b0}};
      m_valid <= 1'b0;
    end else begin
      if (push) pushed <= pushed + 1'b1;
      if (pop) popped <= popped + 1'b1;
      m_valid <= pop | (m_valid & !m_ready);
    end
endmodule
`default_nettype wire
