/* Checks or runs the integer network of network.c, written by lowbit-dtp.
 *
 *   reference check FOLDER   compares every golden vector in FOLDER; prints "passed" or where it failed
 *   reference run FILE       prints sums and codes of every link, logits and class for each line of FILE
 *
 * A line is a hexadecimal number; field i of it is neuron i, the least significant first.
 * Exit status: 0 passed, 1 a value differs, 2 a file or the command line is wrong.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "network.h"

typedef struct {
    FILE *stream;
    char path[4096];
    char line[NETWORK_DIGITS + 2];
    size_t fields, digits;
    int bits, is_signed;
} table;

static uint64_t compared_vectors, compared_values;

static void fail(const char *path, const char *problem)
{
    fprintf(stderr, "%s: %s\n", path, problem);
    exit(2);
}

/* In decimal, for C libraries whose printf has no 64 bits. */
static void print_number(int64_t value)
{
    char text[24];
    size_t start = sizeof text;
    uint64_t left = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    text[--start] = 0;
    do
        text[--start] = (char)('0' + left % 10);
    while (left /= 10);
    if (value < 0)
        text[--start] = '-';
    fputs(text + start, stdout);
}

static void print(const char *text, int64_t value)
{
    fputs(text, stdout);
    print_number(value);
}

static void open_table(table *t, const char *path, size_t fields, int bits, int is_signed)
{
    if (strlen(path) >= sizeof t->path)
        fail(path, "path too long");
    strcpy(t->path, path);
    t->stream = fopen(path, "r");
    if (t->stream == NULL)
        fail(path, "cannot be opened");
    t->fields = fields;
    t->digits = (fields * (size_t)bits + 3) / 4;
    t->bits = bits;
    t->is_signed = is_signed;
}

static void open_golden(table *t, const char *folder, const char *set, const char *layer, const char *place,
                        const char *kind, size_t fields, int bits, int is_signed)
{
    char path[sizeof t->path];
    int length = snprintf(path, sizeof path, "%s/%s%s%s/%s.%s.mem", folder, set, layer[0] ? "/" : "", layer, place, kind);
    if (length < 0 || (size_t)length >= sizeof path)
        fail(folder, "path too long");
    open_table(t, path, fields, bits, is_signed);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* 1 if a line was read, 0 at the end of the file. */
static int read_line(table *t)
{
    if (fgets(t->line, (int)sizeof t->line, t->stream) == NULL) {
        if (ferror(t->stream))
            fail(t->path, "cannot be read");
        return 0;
    }
    if (strspn(t->line, "0123456789abcdef") != t->digits || t->line[t->digits] != '\n')
        fail(t->path, "a line is not a hexadecimal number of the right width");
    return 1;
}

static void read_expected(table *t)
{
    if (!read_line(t))
        fail(t->path, "has too few lines");
}

static void close_table(table *t)
{
    if (read_line(t))
        fail(t->path, "has too many lines");
    fclose(t->stream);
}

static int64_t field(const table *t, size_t index)
{
    uint64_t value = 0;
    size_t first = index * (size_t)t->bits;
    for (int i = 0; i < t->bits; i++) {
        size_t bit = first + (size_t)i;
        uint64_t digit = (uint64_t)hex_digit(t->line[t->digits - 1 - bit / 4]);
        value |= (digit >> bit % 4 & 1) << i;
    }
    if (t->is_signed && value >> (t->bits - 1))
        return (int64_t)value - ((int64_t)1 << t->bits);
    return (int64_t)value;
}

static void read_codes(const table *t, network_code *codes)
{
    for (size_t i = 0; i < t->fields; i++)
        codes[i] = (network_code)field(t, i);
}

static void read_sums(const table *t, network_sum *sums)
{
    for (size_t i = 0; i < t->fields; i++)
        sums[i] = (network_sum)field(t, i);
}

static void compare(const table *t, const char *place, size_t neuron, uint64_t vector, int64_t expected, int64_t got)
{
    compared_values++;
    if (expected == got)
        return;
    printf("failed at link %s", place);
    print(", neuron ", (int64_t)neuron);
    print(": line ", (int64_t)vector + 1);
    printf(" of %s", t->path);
    print(": expected ", expected);
    print(", got ", got);
    putchar('\n');
    exit(1);
}

static void check_sums(const table *t, const char *place, uint64_t vector, const network_sum *got)
{
    for (size_t i = 0; i < t->fields; i++)
        compare(t, place, i, vector, field(t, i), got[i]);
}

static void check_codes(const table *t, const char *place, uint64_t vector, const network_code *got)
{
    for (size_t i = 0; i < t->fields; i++)
        compare(t, place, i, vector, field(t, i), got[i]);
}

static void check_class(const table *t, const char *place, uint64_t vector, size_t got)
{
    int64_t expected = field(t, 0);
    compare(t, place, (size_t)expected, vector, expected, (int64_t)got);
}

static void open_codes(table *t, const char *folder, const char *set, const char *layer, size_t link)
{
    const network_link *l = &network_links[link];
    open_golden(t, folder, set, layer, l->name, "codes", l->neurons, l->bits, 0);
}

static void open_decision(table *logits, table *classes, const char *folder, const char *set, const char *layer)
{
    const char *place = network_layers[NETWORK_LAYERS - 1].outlet;
    open_golden(logits, folder, set, layer, place, "logits", NETWORK_CLASSES, NETWORK_LOGIT_BITS, 1);
    open_golden(classes, folder, set, layer, place, "classes", 1, NETWORK_CLASS_BITS, 0);
}

static network_code codes[NETWORK_WIDEST];
static network_sum sums[NETWORK_WIDEST], logits[NETWORK_CLASSES];

/* Sums of layer `index` for the codes below it. */
static void compute_sums(size_t index)
{
    static uint32_t words[NETWORK_WORDS];
    network_signal signal = {0, words};
    network_start(index, &signal);
    for (size_t i = 0; i < network_links[index].neurons; i++)
        network_put(index, &signal, i, codes[i]);
    for (size_t i = 0; i < network_layers[index].neurons; i++)
        sums[i] = network_sum_of(index, i, &signal);
}

/* Codes of layer `index` for its sums. */
static void compute_codes(size_t index)
{
    for (size_t i = 0; i < network_layers[index].neurons; i++)
        codes[i] = network_code_of(index, i, sums[i]);
}

static void compute_logits(void)
{
    for (size_t i = 0; i < NETWORK_CLASSES; i++)
        logits[i] = network_logit_of(i, sums[i]);
}

/* Layers first to last of golden set `set`, fed with its codes below layer first. */
static void check_layers(const char *folder, const char *set, const char *layer, size_t first, size_t last)
{
    static table input, sums_of[NETWORK_LAYERS], codes_of[NETWORK_LAYERS], logits_of, classes_of;
    int decides = last == NETWORK_LAYERS - 1;
    open_codes(&input, folder, set, layer, first);
    for (size_t i = first; i <= last; i++) {
        const network_layer *l = &network_layers[i];
        open_golden(&sums_of[i], folder, set, layer, l->outlet, "sums", l->neurons, l->sum_bits, 1);
        if (i + 1 < NETWORK_LAYERS)
            open_codes(&codes_of[i], folder, set, layer, i + 1);
    }
    if (decides)
        open_decision(&logits_of, &classes_of, folder, set, layer);
    for (uint64_t vector = 0; read_line(&input); vector++) {
        compared_vectors++;
        size_t whole = 0;
        read_codes(&input, codes);
        if (first == 0 && decides)
            whole = network_classify(codes);
        for (size_t i = first; i <= last; i++) {
            const char *place = network_layers[i].outlet;
            read_expected(&sums_of[i]);
            compute_sums(i);
            check_sums(&sums_of[i], place, vector, sums);
            if (i + 1 < NETWORK_LAYERS) {
                read_expected(&codes_of[i]);
                compute_codes(i);
                check_codes(&codes_of[i], place, vector, codes);
            }
        }
        if (decides) {
            read_expected(&logits_of);
            read_expected(&classes_of);
            compute_logits();
            check_sums(&logits_of, network_layers[last].outlet, vector, logits);
            check_class(&classes_of, network_layers[last].outlet, vector, first == 0 ? whole : network_class(logits));
        }
    }
    fclose(input.stream);
    for (size_t i = first; i <= last; i++) {
        close_table(&sums_of[i]);
        if (i + 1 < NETWORK_LAYERS)
            close_table(&codes_of[i]);
    }
    if (decides) {
        close_table(&logits_of);
        close_table(&classes_of);
    }
}

/* Sums at, and one below, every threshold of layer `index`, not the last. */
static void check_thresholds(const char *folder, size_t index)
{
    static table input, expected;
    const network_layer *layer = &network_layers[index];
    open_golden(&input, folder, "comparators", layer->name, layer->outlet, "sums", layer->neurons, layer->sum_bits, 1);
    open_codes(&expected, folder, "comparators", layer->name, index + 1);
    for (uint64_t vector = 0; read_line(&input); vector++) {
        compared_vectors++;
        read_expected(&expected);
        read_sums(&input, sums);
        compute_codes(index);
        check_codes(&expected, layer->outlet, vector, codes);
    }
    fclose(input.stream);
    close_table(&expected);
}

/* Equal logits. */
static void check_ties(const char *folder)
{
    static table input, expected;
    const network_layer *layer = &network_layers[NETWORK_LAYERS - 1];
    open_decision(&input, &expected, folder, "comparators", layer->name);
    for (uint64_t vector = 0; read_line(&input); vector++) {
        compared_vectors++;
        read_expected(&expected);
        read_sums(&input, logits);
        check_class(&expected, layer->outlet, vector, network_class(logits));
    }
    fclose(input.stream);
    close_table(&expected);
}

static int check(const char *folder)
{
    for (size_t i = 0; i < NETWORK_LAYERS; i++) {
        check_layers(folder, "layers", network_layers[i].name, i, i);
        if (i + 1 < NETWORK_LAYERS)
            check_thresholds(folder, i);
    }
    check_ties(folder);
    check_layers(folder, "network", "", 0, NETWORK_LAYERS - 1);
    print("passed: ", (int64_t)compared_vectors);
    print(" vectors, ", (int64_t)compared_values);
    fputs(" values\n", stdout);
    return 0;
}

static void print_sums(const char *place, const char *kind, const network_sum *values, size_t count)
{
    printf("%s %s", place, kind);
    for (size_t i = 0; i < count; i++)
        print(" ", values[i]);
    printf("\n");
}

static void print_codes(const network_link *link)
{
    printf("%s codes", link->name);
    for (size_t i = 0; i < link->neurons; i++)
        printf(" %u", (unsigned)codes[i]);
    printf("\n");
}

static int run(const char *path)
{
    static table input;
    const network_link *link = &network_links[0];
    open_table(&input, path, link->neurons, link->bits, 0);
    while (read_line(&input)) {
        read_codes(&input, codes);
        for (size_t i = 0; i < NETWORK_LAYERS; i++) {
            print_codes(&network_links[i]);
            compute_sums(i);
            print_sums(network_layers[i].outlet, "sums", sums, network_layers[i].neurons);
            if (i + 1 < NETWORK_LAYERS)
                compute_codes(i);
        }
        compute_logits();
        print_sums(network_layers[NETWORK_LAYERS - 1].outlet, "logits", logits, NETWORK_CLASSES);
        print("class ", (int64_t)network_class(logits));
        putchar('\n');
    }
    fclose(input.stream);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "check") == 0)
        return check(argv[2]);
    if (argc == 3 && strcmp(argv[1], "run") == 0)
        return run(argv[2]);
    fprintf(stderr, "usage: %s check FOLDER | run FILE\n", argc > 0 ? argv[0] : "reference");
    return 2;
}
