/* An integer network, written by lowbit-dtp. Conventions are in manifest.json. */
#ifndef NETWORK_H
#define NETWORK_H

#include <stddef.h>
#include <stdint.h>

#define NETWORK_LAYERS @LAYERS@
#define NETWORK_INPUTS @INPUTS@
#define NETWORK_CLASSES @CLASSES@
#define NETWORK_WIDEST @WIDEST@       /* most neurons of a layer, inputs included */
#define NETWORK_DIGITS @DIGITS@       /* longest line of a golden file */
#define NETWORK_LOGIT_ONE @LOGIT_ONE@ /* a sum of 1, in logits */
#define NETWORK_LOGIT_BITS @LOGIT_BITS@
#define NETWORK_CLASS_BITS @CLASS_BITS@

typedef @WEIGHT@ network_weight;
typedef @CODE@ network_code;
typedef @SUM@ network_sum; /* holds every partial sum, threshold and logit */

typedef struct {
    const char *name;
    size_t neurons;
    int bits;               /* of a code */
    const int32_t *levels;  /* by code */
    const network_code *codes; /* by rank: the number of thresholds at or below the sum */
} network_link;

typedef struct {
    const char *name;
    const char *outlet; /* its link upwards; the layer itself if it is the last */
    size_t neurons;
    size_t thresholds; /* a neuron; 0 for the last layer */
    int sum_bits;
    const network_weight *weights; /* [neurons][below] */
    const network_sum *limits;     /* [neurons][thresholds], ascending */
} network_layer;

extern const network_link network_links[NETWORK_LAYERS];   /* link i is below layer i */
extern const network_layer network_layers[NETWORK_LAYERS];

/* Sums of layer `index` for the codes that arrive on link `index`. */
void network_sums(size_t index, const network_code *below, network_sum *sums);

/* Codes that layer `index`, not the last, sends on link `index + 1` for its sums. */
void network_codes(size_t index, const network_sum *sums, network_code *codes);

/* Logits of the last layer for its sums. */
void network_logits(const network_sum *sums, network_sum *logits);

/* Number of the largest logit; the lowest one on a tie. */
size_t network_class(const network_sum *logits);

/* Class of an input, given as codes of link 0. */
size_t network_classify(const network_code input[NETWORK_INPUTS]);

#endif
