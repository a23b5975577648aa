// Two frames of BEATS words: one is filled from the stream while the other is read, as often as needed.
//
// `ready` says that a frame is complete. `data` is word `address` of it, one cycle later. `done` gives it back.
`default_nettype none
module ldtp_buffer #(
  parameter BEATS = 16,
  parameter WIDTH = 4,
  parameter ADDRESS_BITS = (BEATS > 1) ? $clog2(BEATS) : 1
) (
  input  wire clk,
  input  wire rst,
  input  wire [WIDTH-1:0] s_data,
  input  wire s_valid,
  output wire s_ready,
  output wire ready,
  input  wire [ADDRESS_BITS-1:0] address,
  input  wire done,
  output reg  [WIDTH-1:0] data
);
  localparam [31:0] HIGHEST = BEATS - 1;
  localparam [ADDRESS_BITS-1:0] LAST = HIGHEST[ADDRESS_BITS-1:0];

  // The two halves are never the same, so no word is read while it is written.
  (* no_rw_check *) reg [WIDTH-1:0] frames [0:(2 << ADDRESS_BITS)-1];
  reg [ADDRESS_BITS-1:0] filling;
  reg fill_half, read_half;
  reg [1:0] frames_held;

  assign s_ready = !frames_held[1];
  assign ready = frames_held != 2'd0;
  wire take = s_valid & s_ready;
  wire filled = take & filling == LAST;

  always @(posedge clk) if (take) frames[{fill_half, filling}] <= s_data;
  always @(posedge clk) data <= frames[{read_half, address}];

  always @(posedge clk)
    if (rst) begin
      filling <= {ADDRESS_BITS{1'b0}};
      fill_half <= 1'b0;
      read_half <= 1'b0;
      frames_held <= 2'd0;
    end else begin
      if (take) filling <= filled ? {ADDRESS_BITS{1'b0}} : filling + 1'b1;
      fill_half <= fill_half ^ filled;
      read_half <= read_half ^ done;
      if (filled & !done) frames_held <= frames_held + 2'd1;
      else if (done & !filled) frames_held <= frames_held - 2'd1;
    end
endmodule
`default_nettype wire
