// A clock for the test bench in Verilator.
#include "Vtestbench.h"
#include "verilated.h"

int main() {
    VerilatedContext context;
    Vtestbench bench{&context};
    while (!context.gotFinish()) {
        bench.clk = !bench.clk;
        bench.eval();
    }
    bench.final();
    return 0;
}
