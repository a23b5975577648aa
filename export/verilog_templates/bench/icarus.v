// A clock for simulators that let time pass; Verilator has one in simulate.cpp.
`timescale 1ns/1ps
`default_nettype none
module icarus;
  reg clk = 1'b0;
  always #5 clk = !clk;
  testbench testbench (.clk(clk));
endmodule
`default_nettype wire
