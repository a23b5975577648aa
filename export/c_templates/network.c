/* An integer network, written by lowbit-dtp. Conventions are in manifest.json. */
#include "network.h"

@TABLES@
void network_sums(size_t index, const network_code *below, network_sum *sums)
{
    const network_layer *layer = &network_layers[index];
    const network_link *link = &network_links[index];
    for (size_t neuron = 0; neuron < layer->neurons; neuron++) {
        const network_weight *weights = layer->weights + neuron * link->neurons;
        network_sum sum = 0;
        for (size_t i = 0; i < link->neurons; i++)
            sum += (network_sum)weights[i] * (network_sum)link->levels[below[i]];
        sums[neuron] = sum;
    }
}

void network_codes(size_t index, const network_sum *sums, network_code *codes)
{
    const network_layer *layer = &network_layers[index];
    for (size_t neuron = 0; neuron < layer->neurons; neuron++) {
        const network_sum *limits = layer->limits + neuron * layer->thresholds;
        size_t reached = 0, end = layer->thresholds;
        while (reached < end) {
            size_t middle = reached + (end - reached) / 2;
            if (sums[neuron] >= limits[middle])
                reached = middle + 1;
            else
                end = middle;
        }
        codes[neuron] = network_links[index + 1].codes[reached];
    }
}

void network_logits(const network_sum *sums, network_sum *logits)
{
    for (size_t neuron = 0; neuron < NETWORK_CLASSES; neuron++)
        logits[neuron] = sums[neuron] * NETWORK_LOGIT_ONE + biases[neuron];
}

size_t network_class(const network_sum *logits)
{
    size_t best = 0;
    for (size_t neuron = 1; neuron < NETWORK_CLASSES; neuron++)
        if (logits[neuron] > logits[best])
            best = neuron;
    return best;
}

size_t network_classify(const network_code input[NETWORK_INPUTS])
{
    network_code codes[NETWORK_WIDEST];
    network_sum sums[NETWORK_WIDEST], logits[NETWORK_CLASSES];
    network_sums(0, input, sums);
    for (size_t index = 1; index < NETWORK_LAYERS; index++) {
        network_codes(index - 1, sums, codes);
        network_sums(index, codes, sums);
    }
    network_logits(sums, logits);
    return network_class(logits);
}
