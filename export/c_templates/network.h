/* An integer network, written by lowbit-dtp. Conventions are in manifest.json. */
#ifndef NETWORK_H
#define NETWORK_H

#include <stddef.h>
#include <stdint.h>

#define NETWORK_LAYERS @LAYERS@
#define NETWORK_INPUTS @INPUTS@
#define NETWORK_CLASSES @CLASSES@
#define NETWORK_WIDEST @WIDEST@       /* most neurons of a layer, inputs included */
#define NETWORK_WORDS @WORDS@         /* of the largest signal */
#define NETWORK_EVEN_WORDS @EVEN_WORDS@    /* of the largest on link 0, 2, ... */
#define NETWORK_ODD_WORDS @ODD_WORDS@     /* of the largest on link 1, 3, ... */
#define NETWORK_DIGITS @DIGITS@       /* longest line of a golden file */
#define NETWORK_LOGIT_ONE @LOGIT_ONE@ /* a sum of 1, in logits */
#define NETWORK_LOGIT_BITS @LOGIT_BITS@
#define NETWORK_CLASS_BITS @CLASS_BITS@

typedef @CODE@ network_code;
typedef @SUM@ network_sum; /* holds every partial sum, threshold and logit */
typedef @LIMIT@ network_limit; /* holds every threshold */

/* How a layer's weights and the signal that they meet lie in memory. A number is one of equal steps above the lowest. */
enum network_layout {
    NETWORK_PLANES, /* a word for bit b of 32 numbers; then the next 32; then bit b + 1 */
    NETWORK_PAIRS,  /* weights: a word for 8 numbers of 4 bits; signal: a word for numbers j + 4 (low half) and j */
    NETWORK_BYTES   /* a byte for a number */
};

typedef struct {
    const char *name;
    size_t neurons;
    int bits;                  /* of a code */
    network_code lowest;       /* code of the lowest level; those above follow, modulo 2^bits */
    const uint16_t *steps;     /* by code, the steps above the lowest level; NULL if each code is one step */
    int planes;                /* bits of a number of steps */
} network_link;

typedef struct {
    const char *name;
    const char *outlet; /* its link upwards; the layer itself if it is the last */
    size_t neurons;
    size_t thresholds; /* a neuron; 0 for the last layer */
    int sum_bits;
    enum network_layout layout;
    int planes;  /* bits of a weight's number of steps */
    size_t row;  /* words of a plane, words a neuron, or bytes a neuron, as the layout has it */
    const void *weights;        /* [neurons][...] uint32_t, or uint8_t for bytes */
    network_sum step;           /* what a step of a weight times one of the signal adds to a sum */
    network_sum lowest;         /* what a step of the signal adds, whatever the weight */
    const network_sum *bases;   /* [neurons] what sums begin with; NULL if with 0 */
    const network_limit *limits; /* [neurons][thresholds], ascending */
} network_layer;

typedef struct {
    network_sum total; /* steps of all codes */
    uint32_t *words;   /* in the layout of the layer above */
} network_signal;

extern const network_link network_links[NETWORK_LAYERS];   /* link i is below layer i */
extern const network_layer network_layers[NETWORK_LAYERS];

/* Empty a signal on link `index`, whose words have place for it. Codes are then put into it. */
void network_start(size_t index, network_signal *signal);

/* Put the code of a neuron into a signal on link `index`; once for each neuron. */
void network_put(size_t index, network_signal *signal, size_t neuron, network_code code);

/* Sum of a neuron of layer `index` for the signal on link `index`. */
network_sum network_sum_of(size_t index, size_t neuron, const network_signal *signal);

/* Code that a neuron of layer `index`, not the last, sends on link `index + 1` for its sum. */
network_code network_code_of(size_t index, size_t neuron, network_sum sum);

/* Logit of a neuron of the last layer for its sum. */
network_sum network_logit_of(size_t neuron, network_sum sum);

/* Number of the largest logit; the lowest one on a tie. */
size_t network_class(const network_sum logits[NETWORK_CLASSES]);

/* Class of an input, given as codes of link 0. Not for two threads at once: signals are in static memory. */
size_t network_classify(const network_code input[NETWORK_INPUTS]);

#endif
