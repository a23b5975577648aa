// Sums of weights times levels: UNITS neurons side by side, LANES inputs a cycle.
//
// A group of UNITS neurons takes BEATS beats, one a cycle at most; `valid` and `last` mark them, and `codes` follow one
// cycle later. A group's `sums` are there in the cycle after `finishing`, for one cycle at least.
`default_nettype none
module ldtp_dot #(
  parameter INPUTS = 64,
  parameter LANES = 4,
  parameter UNITS = 4,
  parameter GROUPS = 16,
  parameter CODE_BITS = 1,
  parameter CODE_KIND = 2,  // kinds are those of ldtp_level
  parameter LEVEL_BITS = 2,
  parameter [((CODE_KIND == 3) ? LEVEL_BITS << CODE_BITS : 1)-1:0] LEVELS = 0,
  parameter WEIGHT_BITS = 4,
  parameter WEIGHT_KIND = 0,
  parameter WEIGHT_LEVEL_BITS = 4,
  parameter [((WEIGHT_KIND == 3) ? WEIGHT_LEVEL_BITS << WEIGHT_BITS : 1)-1:0] WEIGHT_LEVELS = 0,
  parameter SUM_BITS = 12,
  parameter ROM_REGISTER = 0,  // 1: registers after memories, which are slow where they are made of many block RAMs
  parameter ROW_BEATS = 1,  // of a memory that is too deep for a block RAM; more than one only with ROM_REGISTER
  parameter WEIGHTS = ""  // file: ROW_BEATS beats a line, each neuron by neuron, the first in the least significant bits
) (
  input  wire clk,
  input  wire rst,
  input  wire valid,
  input  wire last,
  input  wire [LANES*CODE_BITS-1:0] codes,
  output wire finishing,
  output wire [UNITS*SUM_BITS-1:0] sums
);
  localparam BEATS = (INPUTS + LANES - 1) / LANES;
  localparam WIDTH = UNITS * LANES * WEIGHT_BITS;
  localparam DEPTH = (GROUPS * BEATS + ROW_BEATS - 1) / ROW_BEATS;
  localparam ADDRESS_BITS = (DEPTH > 1) ? $clog2(DEPTH) : 1;
  localparam [31:0] HIGHEST = DEPTH - 1;
  localparam [ADDRESS_BITS-1:0] LAST_ADDRESS = HIGHEST[ADDRESS_BITS-1:0];
  localparam TAIL = INPUTS - (BEATS - 1) * LANES;  // lanes with an input in the last beat

  // A product is a sum of terms, one for each digit of a weight:
  localparam NEGATE = CODE_KIND == 2 || WEIGHT_KIND == 2;  // the other factor or its complement
  localparam GATE = !NEGATE && ((CODE_KIND == 1 && CODE_BITS == 1) || (WEIGHT_KIND == 1 && WEIGHT_BITS == 1));
  localparam DIGITS = (NEGATE || GATE) ? 1 : (WEIGHT_LEVEL_BITS + 1) / 2;  // of two bits, the highest one signed
  localparam CARRIES = NEGATE || !GATE;
  localparam OTHER_BITS = (WEIGHT_KIND == 2 || (!NEGATE && WEIGHT_KIND == 1 && WEIGHT_BITS == 1)) ? LEVEL_BITS
                                                                                                : WEIGHT_LEVEL_BITS;
  localparam TERM_BITS = (NEGATE || GATE) ? OTHER_BITS : LEVEL_BITS + 2;
  localparam DIGIT_SUM_BITS = TERM_BITS + $clog2(LANES);
  localparam SHIFTED_BITS = DIGIT_SUM_BITS + 2 * (DIGITS - 1);
  localparam TOTAL_BITS = SHIFTED_BITS + $clog2(DIGITS);
  localparam LATE = (ROW_BEATS > 1) ? 2 : (ROM_REGISTER != 0) ? 1 : 0;  // cycles that weights take longer
  localparam LEVEL_STAGE = 2 + LATE;
  localparam STAGES = LEVEL_STAGE + 1 + $clog2(LANES) + $clog2(DIGITS);

  // Flags of the beat in each stage: 1 codes, LEVEL_STAGE levels and weights, then terms, then the adders
  reg [STAGES:1] beat_valid, beat_last;
  reg begins;
  always @(posedge clk)
    if (rst) beat_valid <= {STAGES{1'b0}};
    else beat_valid <= {beat_valid[STAGES-1:1], valid};
  always @(posedge clk) beat_last <= {beat_last[STAGES-1:1], last};
  always @(posedge clk)
    if (rst) begins <= 1'b1;
    else if (beat_valid[STAGES]) begins <= beat_last[STAGES];
  assign finishing = beat_valid[STAGES] & beat_last[STAGES];

  // Weights
  reg [ROW_BEATS*WIDTH-1:0] memory [0:DEPTH-1];
  reg [WIDTH-1:0] weights;
  reg [ADDRESS_BITS-1:0] address;
  initial if (WEIGHTS != "") $readmemh(WEIGHTS, memory);
  wire next = beat_valid[1];
  wire ends_row;
  always @(posedge clk)
    if (rst) address <= {ADDRESS_BITS{1'b0}};
    else if (next & ends_row) address <= (address == LAST_ADDRESS) ? {ADDRESS_BITS{1'b0}} : address + 1'b1;
  generate
    if (ROW_BEATS > 1) begin : wide_memory
      // All beats of a row are read and kept, then one is chosen: no multiplexer between block RAM and register.
      localparam PLACE_BITS = $clog2(ROW_BEATS);
      localparam [31:0] HIGHEST_PLACE = ROW_BEATS - 1;
      localparam [PLACE_BITS-1:0] LAST_PLACE = HIGHEST_PLACE[PLACE_BITS-1:0];
      localparam [31:0] HIGHEST_OF_LAST = GROUPS * BEATS - 1 - (DEPTH - 1) * ROW_BEATS;
      localparam [PLACE_BITS-1:0] LAST_OF_LAST = HIGHEST_OF_LAST[PLACE_BITS-1:0];
      reg [PLACE_BITS-1:0] place, read_place, kept_place;
      reg [ROW_BEATS*WIDTH-1:0] found, kept;
      assign ends_row = place == ((address == LAST_ADDRESS) ? LAST_OF_LAST : LAST_PLACE);
      always @(posedge clk)
        if (rst) place <= {PLACE_BITS{1'b0}};
        else if (next) place <= ends_row ? {PLACE_BITS{1'b0}} : place + 1'b1;
      always @(posedge clk) begin
        found <= memory[address];
        read_place <= place;
        kept <= found;
        kept_place <= read_place;
        weights <= kept[kept_place*WIDTH +: WIDTH];
      end
    end else if (ROM_REGISTER != 0) begin : deep_memory
      reg [WIDTH-1:0] found;
      assign ends_row = 1'b1;
      always @(posedge clk) begin
        found <= memory[address];
        weights <= found;
      end
    end else begin : shallow_memory
      assign ends_row = 1'b1;
      always @(posedge clk) weights <= memory[address];
    end
  endgenerate
  wire [LANES*CODE_BITS-1:0] arrived;
  generate
    if (LATE == 2) begin : later_codes
      reg [LANES*CODE_BITS-1:0] first, kept;
      always @(posedge clk) begin
        first <= codes;
        kept <= first;
      end
      assign arrived = kept;
    end else if (LATE == 1) begin : late_codes
      reg [LANES*CODE_BITS-1:0] kept;
      always @(posedge clk) kept <= codes;
      assign arrived = kept;
    end else begin : early_codes
      assign arrived = codes;
    end
  endgenerate

  genvar u, g, d;
  generate
    // Levels, and three times each, which are the same for all neurons
    for (g = 0; g < LANES; g = g + 1) begin : lane
      wire [LEVEL_BITS-1:0] found;
      reg [LEVEL_BITS-1:0] level;
      wire signed [TERM_BITS-1:0] once;
      ldtp_level #(.BITS(CODE_BITS), .KIND(CODE_KIND), .LEVEL_BITS(LEVEL_BITS), .TABLE(LEVELS))
        of_code (.code(arrived[g*CODE_BITS +: CODE_BITS]), .level(found));
      always @(posedge clk) level <= found;
      wire absent;
      if (g >= TAIL) begin : in_tail
        assign absent = beat_last[LEVEL_STAGE];
      end else begin : always_present
        assign absent = 1'b0;
      end
      if (NEGATE || GATE) begin : as_it_is
        assign once = {TERM_BITS{1'b0}};
      end else begin : multiples
        assign once = {{2{level[LEVEL_BITS-1]}}, level};
      end
      wire signed [TERM_BITS-1:0] thrice;
      if (DIGITS > 1) begin : three_times
        reg signed [TERM_BITS-1:0] tripled;
        always @(posedge clk)
          tripled <= {{2{found[LEVEL_BITS-1]}}, found} + {found[LEVEL_BITS-1], found, 1'b0};
        assign thrice = tripled;
      end else begin : no_low_digit
        assign thrice = {TERM_BITS{1'b0}};
      end
      wire unused_multiples = &{level, once, thrice};  // in some kinds of products
    end

    for (u = 0; u < UNITS; u = u + 1) begin : unit
      reg [DIGITS*LANES*TERM_BITS-1:0] terms;
      reg [DIGITS*LANES-1:0] ones;
      for (g = 0; g < LANES; g = g + 1) begin : product
        wire [WEIGHT_BITS-1:0] weight = weights[(u*LANES + g)*WEIGHT_BITS +: WEIGHT_BITS];
        wire [WEIGHT_LEVEL_BITS-1:0] factor;
        ldtp_level #(.BITS(WEIGHT_BITS), .KIND(WEIGHT_KIND), .LEVEL_BITS(WEIGHT_LEVEL_BITS), .TABLE(WEIGHT_LEVELS))
          of_weight (.code(weight), .level(factor));
        wire unused = &{weight, factor};  // one of them
        if (NEGATE) begin : negate
          wire [TERM_BITS-1:0] other;
          wire negative;
          if (CODE_KIND == 2 && WEIGHT_KIND == 2) begin : both
            assign other = {{TERM_BITS-1{1'b0}}, 1'b1};
            assign negative = weight[0] ^ !lane[g].level[1];
          end else if (CODE_KIND == 2) begin : by_code
            assign other = factor;
            assign negative = lane[g].level[1];
          end else begin : by_weight
            assign other = lane[g].level;
            assign negative = !weight[0];
          end
          always @(posedge clk) begin
            terms[g*TERM_BITS +: TERM_BITS] <= lane[g].absent ? {TERM_BITS{1'b0}} : other ^ {TERM_BITS{negative}};
            ones[g] <= negative & !lane[g].absent;
          end
        end else if (GATE) begin : gate
          wire [TERM_BITS-1:0] other;
          wire present;
          if (WEIGHT_KIND == 1 && WEIGHT_BITS == 1) begin : by_weight
            assign other = lane[g].level;
            assign present = weight[0];
          end else begin : by_code
            assign other = factor;
            assign present = lane[g].level[0];
          end
          always @(posedge clk) begin
            terms[g*TERM_BITS +: TERM_BITS] <= other & {TERM_BITS{present & !lane[g].absent}};
            ones[g] <= 1'b0;
          end
        end else begin : multiply
          wire [2*DIGITS-1:0] digits = {{2*DIGITS-WEIGHT_LEVEL_BITS+1{factor[WEIGHT_LEVEL_BITS-1]}},
                                        factor[WEIGHT_LEVEL_BITS-2:0]};
          for (d = 0; d < DIGITS; d = d + 1) begin : digit
            wire [1:0] value = digits[2*d +: 2];
            wire [TERM_BITS-1:0] once = lane[g].once;
            reg [TERM_BITS-1:0] term;
            if (d == DIGITS - 1) begin : highest
              always @* begin
                case (value)
                  2'd0: term = {TERM_BITS{1'b0}};
                  2'd1: term = once;
                  2'd2: term = ~{once[TERM_BITS-2:0], 1'b0};
                  2'd3: term = ~once;
                endcase
              end
              always @(posedge clk) ones[d*LANES + g] <= value[1] & !lane[g].absent;
            end else begin : lower
              always @* begin
                case (value)
                  2'd0: term = {TERM_BITS{1'b0}};
                  2'd1: term = once;
                  2'd2: term = {once[TERM_BITS-2:0], 1'b0};
                  2'd3: term = lane[g].thrice;
                endcase
              end
              always @(posedge clk) ones[d*LANES + g] <= 1'b0;
            end
            always @(posedge clk)
              terms[(d*LANES + g)*TERM_BITS +: TERM_BITS] <= lane[g].absent ? {TERM_BITS{1'b0}} : term;
          end
        end
      end

      // Sums of the lanes for each digit, then of the digits
      wire [DIGITS*SHIFTED_BITS-1:0] shifted;
      wire [DIGITS-1:0] left;
      for (d = 0; d < DIGITS; d = d + 1) begin : digit_sum
        wire [DIGIT_SUM_BITS-1:0] sum;
        ldtp_add_tree #(.COUNT(LANES), .BITS(TERM_BITS), .CARRIES(CARRIES && d == DIGITS - 1 ? 1 : 0)) of_lanes (
          .clk(clk), .numbers(terms[d*LANES*TERM_BITS +: LANES*TERM_BITS]), .carries(ones[d*LANES +: LANES]),
          .sum(sum), .carry(left[d]));
        if (d == 0 && DIGITS == 1) begin : only
          assign shifted = sum;
        end else if (d == 0) begin : lowest
          assign shifted[0 +: SHIFTED_BITS] = {{2*(DIGITS-1){sum[DIGIT_SUM_BITS-1]}}, sum};
        end else if (d < DIGITS - 1) begin : middle
          assign shifted[d*SHIFTED_BITS +: SHIFTED_BITS] =
            {{2*(DIGITS-1-d){sum[DIGIT_SUM_BITS-1]}}, sum, {2*d{left[d]}}};
        end else begin : highest
          assign shifted[d*SHIFTED_BITS +: SHIFTED_BITS] = {sum, {2*d{left[d]}}};  // (sum + one) * 4^d
        end
      end
      wire [TOTAL_BITS-1:0] total;
      wire carry;
      ldtp_add_tree #(.COUNT(DIGITS), .BITS(SHIFTED_BITS), .CARRIES(CARRIES ? 1 : 0)) of_digits (
        .clk(clk), .numbers(shifted), .carries(left), .sum(total), .carry(carry));

      // Accumulator; its width holds every sum, so what is above it may be left away
      wire [SUM_BITS+TOTAL_BITS-1:0] extended = {{SUM_BITS{total[TOTAL_BITS-1]}}, total};
      wire unused_high = &extended[SUM_BITS+TOTAL_BITS-1:SUM_BITS];
      reg [SUM_BITS-1:0] accumulator;
      wire [SUM_BITS-1:0] base = accumulator & {SUM_BITS{!begins}};
      if (CARRIES) begin : carried
        wire [SUM_BITS:0] doubled = {base, 1'b1} + {extended[SUM_BITS-1:0], carry};
        wire unused_low = doubled[0];
        always @(posedge clk) if (beat_valid[STAGES]) accumulator <= doubled[SUM_BITS:1];
      end else begin : plain
        wire unused_carry = carry;
        always @(posedge clk) if (beat_valid[STAGES]) accumulator <= base + extended[SUM_BITS-1:0];
      end
      assign sums[u*SUM_BITS +: SUM_BITS] = accumulator;
    end
  endgenerate
endmodule
`default_nettype wire
