// The sum of COUNT numbers in two's complement, $clog2(COUNT) cycles later.
//
// With CARRIES, each number `x` comes with a bit that is to be added to it: -x is ~x with a one. Each adder takes in one
// such bit at its carry input, for no more logic; the one that is left over goes with the sum.
`default_nettype none
module ldtp_add_tree #(
  parameter COUNT = 4,
  parameter BITS = 4,
  parameter CARRIES = 0,
  parameter SUM_BITS = BITS + $clog2(COUNT)
) (
  input  wire clk,
  input  wire [COUNT*BITS-1:0] numbers,
  input  wire [COUNT-1:0] carries,
  output wire [SUM_BITS-1:0] sum,
  output wire carry
);
  localparam LEVELS = $clog2(COUNT);

  wire unused_clk = clk;  // of one number

  genvar k, i;
  generate
    for (k = 0; k <= LEVELS; k = k + 1) begin : level
      localparam N = (COUNT + (1 << k) - 1) >> k;
      localparam W = BITS + k;
      wire [N*W-1:0] x;
      wire [N-1:0] c;
      wire unused = &c;  // without CARRIES
      if (k == 0) begin : given
        assign x = numbers;
        assign c = carries;
      end else begin : added
        localparam BELOW = (COUNT + (1 << (k - 1)) - 1) >> (k - 1);
        for (i = 0; i < N; i = i + 1) begin : pair
          reg [W-1:0] total;
          reg left;
          wire [W-2:0] a = level[k-1].x[2*i*(W-1) +: W-1];
          assign x[i*W +: W] = total;
          assign c[i] = left;
          if (2*i + 1 == BELOW) begin : single
            always @(posedge clk) begin
              total <= {a[W-2], a};
              left <= level[k-1].c[2*i];
            end
          end else if (CARRIES == 0) begin : plain
            wire [W-2:0] b = level[k-1].x[(2*i+1)*(W-1) +: W-1];
            always @(posedge clk) begin
              total <= {a[W-2], a} + {b[W-2], b};
              left <= 1'b0;
            end
          end else begin : carried
            wire [W-2:0] b = level[k-1].x[(2*i+1)*(W-1) +: W-1];
            wire [W:0] doubled = {a[W-2], a, 1'b1} + {b[W-2], b, level[k-1].c[2*i]};
            wire unused_low = doubled[0];
            always @(posedge clk) begin
              total <= doubled[W:1];
              left <= level[k-1].c[2*i+1];
            end
          end
        end
      end
    end
  endgenerate
  assign sum = level[LEVELS].x;
  assign carry = level[LEVELS].c[0];
endmodule
`default_nettype wire
