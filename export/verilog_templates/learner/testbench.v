// Trains the core on samples.mem; compares each message with messages.mem, and the weights at the end with trained.mem.
// Counts the bits and ones of each message: the last lines are `message <number> <bits> <ones>`.
`default_nettype none
module testbench (
    input wire clk
);
`include "bench/sizes.vh"
  reg [2:0] age = 0;
  wire rst = age < 4;
  reg [16:0] samples[0:SAMPLE_WORDS-1];
  reg [15:0] messages[0:MESSAGE_WORDS-1];
  reg [WEIGHT_BITS-1:0] trained[0:WEIGHT_WORDS-1];
  integer fed = 0, heard = 0, checked = 0, failed = 0, cycles = 0, number;
  integer bits[0:MESSAGES-1], ones[0:MESSAGES-1];
  wire s_ready, m_valid, m_last, idle;
  wire [7:0] m_data, m_message;
  wire signed [WEIGHT_BITS-1:0] r_weight;
  wire s_valid = fed < SAMPLE_WORDS && !rst;
  wire [16:0] sample = samples[fed];
  wire [15:0] expected = messages[heard];
  wire done = fed == SAMPLE_WORDS && idle;
  reg [7:0] code;

  learner #(
      .VECTOR_WORDS(VECTOR_WORDS), .WEIGHT_WORDS(WEIGHT_WORDS), .WEIGHT_BITS(WEIGHT_BITS),
      .PROGRAM_WORDS(PROGRAM_WORDS), .SEED(SEED), .ERROR_FRACTION_BITS(ERROR_FRACTION_BITS),
      .TARGET_SHIFT(TARGET_SHIFT), .NOISE_SHIFT(NOISE_SHIFT),
      .PROGRAM_FILE("program.mem"), .WEIGHT_FILE("weights.mem"), .POWER_FILE("powers.mem")
  ) core (
      .clk(clk), .rst(rst), .s_valid(s_valid), .s_ready(s_ready), .s_data(sample[15:0]), .s_last(sample[16]),
      .m_valid(m_valid), .m_ready(1'b1), .m_data(m_data), .m_message(m_message), .m_last(m_last),
      .idle(idle), .r_address(checked[23:0]), .r_weight(r_weight)
  );

  initial begin
    $readmemh("bench/samples.mem", samples);
    $readmemh("bench/messages.mem", messages);
    $readmemh("bench/trained.mem", trained);
    for (number = 0; number < MESSAGES; number = number + 1) begin
      bits[number] = 0;
      ones[number] = 0;
    end
  end

  always @(posedge clk)
    if (rst) age <= age + 1;
    else begin
      cycles <= cycles + 1;
      if (s_valid && s_ready) fed <= fed + 1;
      if (m_valid) begin
        heard <= heard + 1;
        bits[m_message] <= bits[m_message] + WIDTHS[4*m_message+:4];
        ones[m_message] <= ones[m_message] + m_data[0] + m_data[1] + m_data[2] + m_data[3] + m_data[4] + m_data[5]
            + m_data[6] + m_data[7];
        if (heard >= MESSAGE_WORDS || {m_message, m_data} != expected) begin
          $display("failed at code %0d: expected %h, got %h", heard, expected, {m_message, m_data});
          $finish;
        end
      end
      if (done) begin
        if (checked > 0 && r_weight !== trained[checked-1]) begin
          $display("failed at weight %0d: expected %h, got %h", checked - 1, trained[checked-1], r_weight);
          $finish;
        end
        checked <= checked + 1;
        if (checked == WEIGHT_WORDS) begin
          if (heard != MESSAGE_WORDS) $display("failed: %0d codes of messages, not %0d", heard, MESSAGE_WORDS);
          else $display("passed: %0d samples, %0d codes, %0d weights, %0d cycles", SAMPLES, heard, WEIGHT_WORDS, cycles);
          for (number = 0; number < MESSAGES; number = number + 1)
            $display("message %0d %0d %0d", number, bits[number], ones[number]);
          $finish;
        end
      end
    end
endmodule
`default_nettype wire
