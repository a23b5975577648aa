/* Reset vector: the start-up code of newlib, which asks the host for its arguments. */
void _start(void);

void (*const vectors[2])(void) __attribute__((section(".vectors"), used)) = {(void (*)(void))0x20400000, _start};
