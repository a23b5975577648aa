// A core that learns: difference target propagation in whole numbers, one multiplication a cycle.
//
// It runs a program of vector instructions for each sample, and another at the end of each minibatch. Sums are 32 bits
// in units of 2^-12, states and errors 8 bits in units of 2^-7; what one layer hears of another is one bit a neuron, and
// the gradient at the top.
//
// Samples arrive on s: the inputs, as the numbers that their codes stand for, and then the label; s_last is set with
// the label of the last sample of a minibatch. Every message that crosses a link leaves on m, a code a word, with the
// number of the message. While `idle`, weight `r_address` is on r_weight a cycle later.
`default_nettype none
module learner #(
    parameter VECTOR_WORDS = 2,
    parameter WEIGHT_WORDS = 2,
    parameter WEIGHT_BITS = 16,
    parameter PROGRAM_WORDS = 2,
    parameter [63:0] SEED = 0,
    parameter ERROR_FRACTION_BITS = 9,
    parameter TARGET_SHIFT = 2,
    parameter NOISE_SHIFT = 3,
    parameter PROGRAM_FILE = "",
    parameter WEIGHT_FILE = "",
    parameter POWER_FILE = ""
) (
    input  wire                          clk,
    input  wire                          rst,
    input  wire                          s_valid,
    output wire                          s_ready,
    input  wire signed [15:0]            s_data,
    input  wire                          s_last,
    output wire                          m_valid,
    input  wire                          m_ready,
    output wire        [7:0]             m_data,
    output wire        [7:0]             m_message,
    output wire                          m_last,
    output wire                          idle,
    input  wire        [23:0]            r_address,
    output wire signed [WEIGHT_BITS-1:0] r_weight
);
  localparam [3:0] LOAD = 0, PRODUCT = 1, OUTER = 2, SOFTMAX = 3, TOP = 4, BELOW = 5, NOISE = 6, INVERSE = 7;
  localparam [3:0] SEND = 8, UPDATE = 9, NEXT = 10;  // and 11, the end of a step

  localparam VECTOR_BITS = $clog2(VECTOR_WORDS);
  localparam ADDRESS_BITS = $clog2(WEIGHT_WORDS);
  localparam PROGRAM_BITS = $clog2(PROGRAM_WORDS);

  localparam SUM_FRACTION_BITS = 12;
  localparam signed [31:0] ONE = 1 << SUM_FRACTION_BITS;
  localparam FINER = SUM_FRACTION_BITS - ERROR_FRACTION_BITS;
  localparam HALF = (1 << FINER) / 2;
  localparam TARGET_RIGHT = TARGET_SHIFT > FINER ? TARGET_SHIFT - FINER : 0;
  localparam TARGET_LEFT = TARGET_SHIFT > FINER ? 0 : FINER - TARGET_SHIFT;
  localparam signed [48:0] MOST = (49'sd1 << (WEIGHT_BITS - 1)) - 1;

  // Memories, each with one port to read and one to write.
  reg signed [31:0] vectors[0:VECTOR_WORDS-1];
  reg signed [WEIGHT_BITS-1:0] weights[0:WEIGHT_WORDS-1];
  reg signed [31:0] gradients[0:WEIGHT_WORDS-1];
  reg [15:0] powers[0:255];
  reg [199:0] instructions[0:PROGRAM_WORDS-1];
  integer n;
  initial begin
    if (PROGRAM_FILE != "") $readmemh(PROGRAM_FILE, instructions);
    if (WEIGHT_FILE != "") $readmemh(WEIGHT_FILE, weights);
    if (POWER_FILE != "") $readmemh(POWER_FILE, powers);
    for (n = 0; n < WEIGHT_WORDS; n = n + 1) gradients[n] = 0;
    for (n = 0; n < VECTOR_WORDS; n = n + 1) vectors[n] = 0;
  end

  /* verilator lint_off UNUSEDSIGNAL */  // addresses are as wide as instructions have them
  reg [15:0] pc;
  reg [199:0] ir;
  wire [31:0] key = ir[31:0];
  wire signed [7:0] shift = ir[39:32];
  wire [15:0] sj = ir[55:40], si = ir[71:56], nj = ir[87:72], ni = ir[103:88];
  wire [23:0] w = ir[127:104];
  wire [15:0] e = ir[143:128], d = ir[159:144], b = ir[175:160], a = ir[191:176];
  wire as_bits = ir[192], to_states = ir[193];
  wire [3:0] op = ir[197:194];

  localparam [1:0] FETCH = 0, DECODE = 1, RUN = 2;
  reg [1:0] phase;
  reg [3:0] t;
  reg [15:0] i, j;
  reg [23:0] at, column;
  reg pending, last;
  reg signed [31:0] acc, x, y;
  reg [15:0] label;
  reg [31:0] row, element;
  reg [63:0] step;
  reg [7:0] quotient;

  reg [15:0] v_read, v_write;
  reg v_enable, g_enable, w_enable;
  reg signed [31:0] v_data;
  reg [23:0] w_read;
  /* verilator lint_on UNUSEDSIGNAL */
  reg signed [31:0] v_q, g_q;
  reg signed [WEIGHT_BITS-1:0] w_q;
  reg [15:0] power_q;
  reg [7:0] power_read;

  wire random_done;
  wire [31:0] random;
  reg random_start;
  philox #(.SEED(SEED)) generator (
      .clk(clk), .start(random_start), .index(element), .purpose(key), .step(step), .done(random_done), .word(random)
  );

  function signed [31:0] clipped(input signed [31:0] sum);
    clipped = sum > ONE ? ONE : sum < -ONE ? -ONE : sum;
  endfunction
  function signed [31:0] state_of(input signed [31:0] sum);
    state_of = (sum >>> 5) > 127 ? 127 : (sum >>> 5) < -128 ? -128 : sum >>> 5;
  endfunction
  function signed [31:0] saturated(input signed [31:0] number);
    saturated = number > 127 ? 127 : number < -127 ? -127 : number;
  endfunction
  function slope(input signed [31:0] sum);
    slope = sum > -ONE && sum < ONE;
  endfunction

  // A code on the top link, as the number it stands for: to nearest, ties to even, saturated.
  wire signed [31:0] above = x + (128 << FINER);
  wire signed [31:0] rounded = (FINER == 0 ? above : above - 1 + ((above >>> FINER) & 1) + HALF) >>> FINER;
  wire signed [31:0] error_code = (rounded < 0 ? 0 : rounded > 255 ? 255 : rounded) - 128;
  wire signed [31:0] target_step = (error_code <<< TARGET_LEFT) >>> TARGET_RIGHT;

  wire signed [31:0] heard = as_bits ? (v_q >= 0 ? 1 : -1) : {{16{v_q[15]}}, v_q[15:0]};
  wire signed [31:0] weight = {{(32 - WEIGHT_BITS) {w_q[WEIGHT_BITS-1]}}, w_q};
  wire [7:0] left = -shift;
  wire signed [31:0] shifted = shift[7] ? acc <<< left : acc >>> shift[6:0];
  wire signed [31:0] below_largest = (x - v_q) >>> 8;
  wire [9:0] bytes = {2'd0, random[7:0]} + {2'd0, random[15:8]} + {2'd0, random[23:16]} + {2'd0, random[31:24]};
  wire signed [31:0] noise = ($signed({22'd0, bytes}) - 510) <<< NOISE_SHIFT;
  wire signed [48:0] drawn = {17'd0, random} & ((49'd1 << shift[5:0]) - 1);
  wire signed [48:0] change = ($signed({{17{g_q[31]}}, g_q}) + drawn) >>> shift[5:0];
  wire signed [48:0] moved = $signed({{(49 - WEIGHT_BITS) {w_q[WEIGHT_BITS-1]}}, w_q}) - change;
  /* verilator lint_off UNUSEDSIGNAL */
  wire signed [48:0] updated = moved > MOST ? MOST : moved < -MOST ? -MOST : moved;
  /* verilator lint_on UNUSEDSIGNAL */
  wire kept = x > -128 && x < 127;

  assign idle = phase == RUN && op == LOAD && i == 0 && row == 0;
  assign s_ready = phase == RUN && op == LOAD;
  assign m_valid = phase == RUN && op == SEND && t == 2;
  assign m_data = as_bits ? {7'd0, x >= 0} : x[7:0];
  assign m_message = key[7:0];
  assign m_last = i == ni - 1;
  assign r_weight = w_q;

  // What the memories are asked in this cycle.
  always @* begin
    v_read = a + i;
    v_write = d + i;
    v_enable = 0;
    v_data = 0;
    w_read = phase == RUN && op == LOAD ? r_address : at;
    g_enable = 0;
    w_enable = 0;
    power_read = below_largest > 255 ? 255 : below_largest[7:0];
    random_start = 0;
    if (phase == RUN)
      case (op)
        LOAD: begin
          v_enable = s_valid && i < ni;
          v_data = {{16{s_data[15]}}, s_data};
        end
        PRODUCT:
        if (t == 1) begin
          v_enable = 1;
          v_write = d + j;
          v_data = to_states ? state_of(shifted) : shifted;
        end
        OUTER: begin
          if (t >= 2) v_read = b + j;
          g_enable = t == 3;
        end
        SOFTMAX: begin
          if (t >= 6) v_read = d + i;
          v_enable = t == 5 || t == 8;
          v_data = t == 5 ? {16'd0, power_q} : saturated({24'd0, quotient} - (j == label ? 128 : 0));
          if (t == 8) v_write = d + j;
          if (t == 6) v_read = d + j;
        end
        TOP: begin
          if (t == 1) v_read = b + i;
          v_enable = t >= 3;
          v_write = (t == 3 ? d : t == 4 ? e : a) + i;
          v_data = t == 3 ? (slope(y) ? saturated(error_code) : 0) : t == 4 ? clipped(y) - target_step : error_code;
        end
        BELOW: begin
          if (t == 1) v_read = b + i;
          if (t == 2) v_read = w[15:0] + i;
          v_enable = t >= 4;
          v_write = (t == 4 ? d : e) + i;
          v_data = t == 4 ? (slope(y) ? saturated(-x) : 0) : clipped(y) + (x <<< 5);
        end
        NOISE: begin
          random_start = t == 0;
          v_enable = t == 2 && random_done;
          v_data = clipped(v_q) + noise;
        end
        INVERSE: begin
          if (t == 1) v_read = b + i;
          v_enable = t == 2;
          v_data = kept ? saturated(x - state_of(v_q)) : 0;
        end
        UPDATE: begin
          random_start = t == 0;
          w_enable = t == 2 && random_done;
          g_enable = w_enable;
        end
        default: ;
      endcase
  end

  always @(posedge clk) begin
    v_q <= vectors[v_read[VECTOR_BITS-1:0]];
    w_q <= weights[w_read[ADDRESS_BITS-1:0]];
    g_q <= gradients[at[ADDRESS_BITS-1:0]];
    power_q <= powers[power_read];
    ir <= phase == FETCH ? instructions[pc[PROGRAM_BITS-1:0]] : ir;
    if (v_enable) vectors[v_write[VECTOR_BITS-1:0]] <= v_data;
    if (w_enable) weights[at[ADDRESS_BITS-1:0]] <= updated[WEIGHT_BITS-1:0];
    if (g_enable) gradients[at[ADDRESS_BITS-1:0]] <= op == OUTER ? g_q + x * {{16{v_q[15]}}, v_q[15:0]} : 0;
  end

  always @(posedge clk)
    if (rst) begin
      phase <= FETCH;
      pc <= 0;
      row <= 0;
      step <= 0;
      last <= 0;
      t <= 0;
    end else
      case (phase)
        FETCH: phase <= DECODE;
        DECODE: begin
          phase <= RUN;
          t <= 0;
          i <= 0;
          j <= 0;
          at <= w;
          column <= w;
          acc <= 0;
          pending <= 0;
          element <= op == NOISE ? row * ni : 0;
        end
        default:
        case (op)
          LOAD:
          if (s_valid) begin
            i <= i + 1;
            if (i == ni) begin
              label <= s_data;
              last <= s_last;
              finish;
            end
          end
          PRODUCT:
          if (t == 0) begin
            if (pending) acc <= acc + heard * weight;
            pending <= i != ni;
            if (i != ni) begin
              i <= i + 1;
              at <= at + {8'd0, si};
            end else if (!pending) t <= 1;
          end else begin
            t <= 0;
            acc <= 0;
            i <= 0;
            j <= j + 1;
            at <= column + {8'd0, sj};
            column <= column + {8'd0, sj};
            if (j == nj - 1) finish;
          end
          OUTER:
          case (t)
            0: t <= 1;
            1: begin
              x <= heard;
              j <= 0;
              t <= 2;
            end
            2: t <= 3;
            default: begin
              at <= at + 1;
              j <= j + 1;
              t <= 2;
              if (j == nj - 1) begin
                i <= i + 1;
                t <= 0;
                if (i == ni - 1) finish;
              end
            end
          endcase
          SOFTMAX:
          case (t)
            0: t <= 1;
            1: begin
              if (i == 0 || v_q > x) x <= v_q;
              i <= i == ni - 1 ? 0 : i + 1;
              t <= i == ni - 1 ? 2 : 0;
            end
            2: t <= 3;
            3: t <= 4;
            4: t <= 5;
            5: begin
              acc <= acc + {16'd0, power_q};
              i <= i == ni - 1 ? 0 : i + 1;
              t <= i == ni - 1 ? 6 : 2;
            end
            6: begin
              i <= 0;
              quotient <= 0;
              t <= 7;
            end
            7: begin
              if (i == 0) y <= (v_q <<< 7) + (acc >>> 1);
              else if (y >= $signed(acc << (8 - i[3:0]))) begin
                y <= y - (acc << (8 - i[3:0]));
                quotient <= {quotient[6:0], 1'b1};
              end else quotient <= {quotient[6:0], 1'b0};
              i <= i + 1;
              if (i == 8) t <= 8;
            end
            default: begin
              j <= j + 1;
              t <= 6;
              if (j == ni - 1) finish;
            end
          endcase
          TOP:
          case (t)
            1: begin
              x <= v_q;
              t <= 2;
            end
            2: begin
              y <= v_q;
              t <= 3;
            end
            5: next_element;
            default: t <= t + 1;
          endcase
          BELOW:
          case (t)
            1: begin
              x <= v_q;
              t <= 2;
            end
            2: begin
              x <= v_q - x;
              t <= 3;
            end
            3: begin
              y <= v_q;
              t <= 4;
            end
            5: next_element;
            default: t <= t + 1;
          endcase
          NOISE:
          if (t < 2) t <= t + 1;
          else if (random_done) begin
            element <= element + 1;
            next_element;
          end
          INVERSE:
          case (t)
            1: begin
              x <= v_q;
              t <= 2;
            end
            2: next_element;
            default: t <= 1;
          endcase
          SEND:
          case (t)
            0: t <= 1;
            1: begin
              x <= v_q;
              t <= 2;
            end
            default: if (m_ready) next_element;
          endcase
          UPDATE:
          if (t < 2) t <= t + 1;
          else if (random_done) begin
            at <= at + 1;
            element <= element + 1;
            j <= j + 1;
            t <= 0;
            if (j == nj - 1) begin
              j <= 0;
              i <= i + 1;
              if (i == ni - 1) finish;
            end
          end
          NEXT: begin
            row <= last ? 0 : row + 1;
            finish;
            if (!last) pc <= 0;
          end
          default: begin  // STEP
            step <= step + 1;
            last <= 0;
            finish;
            pc <= 0;
          end
        endcase
      endcase

  task next_element;
    begin
      i <= i + 1;
      t <= 0;
      if (i == ni - 1) finish;
    end
  endtask

  task finish;
    begin
      pc <= pc + 1;
      phase <= FETCH;
    end
  endtask
endmodule
`default_nettype wire
