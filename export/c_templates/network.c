/* An integer network, written by lowbit-dtp. Conventions are in manifest.json. */
#include "network.h"

/* Functions that are compiled for each layer by itself, its sizes being constants. */
#ifdef __GNUC__
#define FOR_EACH_LAYER static inline __attribute__((always_inline))
#else
#define FOR_EACH_LAYER static inline
#endif

@TABLES@
FOR_EACH_LAYER size_t signal_words(size_t index)
{
    const network_link *link = &network_links[index];
    switch (network_layers[index].layout) {
    case NETWORK_PLANES:
        return network_layers[index].row * (size_t)link->planes;
    case NETWORK_PAIRS:
        return network_layers[index].row * 4;
    default:
        return (link->neurons + 3) / 4;
    }
}

FOR_EACH_LAYER void start(size_t index, network_signal *signal)
{
    size_t words = signal_words(index);
    for (size_t i = 0; i < words; i++)
        signal->words[i] = 0;
    signal->total = 0;
}

FOR_EACH_LAYER void put(size_t index, network_signal *signal, size_t neuron, network_code code)
{
    const network_link *link = &network_links[index];
    uint32_t number = ((uint32_t)code - link->lowest) & (((uint32_t)1 << link->bits) - 1);
    if (link->steps)
        number = link->steps[number];
    signal->total += (network_sum)number;
    switch (network_layers[index].layout) {
    case NETWORK_PLANES: {
        uint32_t *word = signal->words + neuron / 32;
        for (; number; number >>= 1, word += network_layers[index].row)
            *word |= (number & 1) << neuron % 32;
        break;
    }
    case NETWORK_PAIRS:
        signal->words[neuron / 8 * 4 + neuron % 4] |= neuron % 8 < 4 ? number << 16 : number;
        break;
    default:
        ((uint8_t *)signal->words)[neuron] = (uint8_t)number;
    }
}

/* Ones in each 4 bits. */
FOR_EACH_LAYER uint32_t ones_of_4(uint32_t x)
{
    x -= x >> 1 & 0x55555555;
    return (x & 0x33333333) + (x >> 2 & 0x33333333);
}

/* Bits that are 1 in both. */
FOR_EACH_LAYER uint32_t ones_in_both(const uint32_t *a, const uint32_t *b, size_t words)
{
    uint32_t ones = 0;
    while (words) {
        uint32_t bytes = 0; /* ones in each byte place: at most 30 x 8 */
        size_t now = words < 30 ? words : 30;
        words -= now;
        for (; now >= 2; now -= 2, a += 2, b += 2) {
            uint32_t both = ones_of_4(a[0] & b[0]) + ones_of_4(a[1] & b[1]);
            bytes += (both & 0x0f0f0f0f) + (both >> 4 & 0x0f0f0f0f);
        }
        if (now) {
            uint32_t one = ones_of_4(*a++ & *b++);
            bytes += (one & 0x0f0f0f0f) + (one >> 4 & 0x0f0f0f0f);
        }
        bytes = (bytes & 0x00ff00ff) + (bytes >> 8 & 0x00ff00ff);
        ones += (bytes + (bytes >> 16)) & 0xffff;
    }
    return ones;
}

/* Products of planes, each a population count. */
FOR_EACH_LAYER network_sum sum_of_planes(const uint32_t *weights, int weight_planes, const uint32_t *signal,
                                         int signal_planes, size_t words)
{
    network_sum sum = 0;
    for (int w = weight_planes; w-- > 0;) {
        const uint32_t *plane = weights + (size_t)w * words;
        network_sum part = 0;
        for (int s = signal_planes; s-- > 0;)
            part = part * 2 + (network_sum)ones_in_both(plane, signal + (size_t)s * words, words);
        sum = sum * 2 + part;
    }
    return sum;
}

/* Two products by one multiplication: the upper half of (a + b 2^16)(y + x 2^16) is a x + b y. */
FOR_EACH_LAYER uint32_t sum_of_pairs(const uint32_t *weights, const uint32_t *signal, size_t words)
{
    uint32_t sum = 0;
    for (; words; words--, signal += 4) {
        uint32_t w = *weights++;
        uint32_t products = (w & 0x000f000f) * signal[0];
        products += (w >> 4 & 0x000f000f) * signal[1];
        products += (w >> 8 & 0x000f000f) * signal[2];
        products += (w >> 12 & 0x000f000f) * signal[3]; /* 8 x 15 x 255 are below 2^16 */
        sum += products >> 16;
    }
    return sum;
}

FOR_EACH_LAYER network_sum sum_of_bytes(const uint8_t *weights, const uint8_t *signal, size_t bytes)
{
    network_sum sum = 0;
    for (; bytes >= 4; bytes -= 4, weights += 4, signal += 4) {
        sum += (network_sum)((uint32_t)weights[0] * signal[0]);
        sum += (network_sum)((uint32_t)weights[1] * signal[1]);
        sum += (network_sum)((uint32_t)weights[2] * signal[2]);
        sum += (network_sum)((uint32_t)weights[3] * signal[3]);
    }
    for (; bytes; bytes--)
        sum += (network_sum)((uint32_t)*weights++ * *signal++);
    return sum;
}

FOR_EACH_LAYER network_sum sum_of(size_t index, size_t neuron, const network_signal *signal)
{
    const network_layer *layer = &network_layers[index];
    const uint32_t *words = layer->weights;
    network_sum sum;
    switch (layer->layout) {
    case NETWORK_PLANES:
        words += neuron * layer->row * (size_t)layer->planes;
        sum = sum_of_planes(words, layer->planes, signal->words, network_links[index].planes, layer->row);
        break;
    case NETWORK_PAIRS:
        sum = (network_sum)sum_of_pairs(words + neuron * layer->row, signal->words, layer->row);
        break;
    default: {
        const uint8_t *bytes = layer->weights;
        sum = sum_of_bytes(bytes + neuron * layer->row, (const uint8_t *)signal->words, layer->row);
    }
    }
    sum = sum * layer->step + signal->total * layer->lowest;
    return layer->bases ? sum + layer->bases[neuron] : sum;
}

FOR_EACH_LAYER network_code code_of(size_t index, size_t neuron, network_sum sum)
{
    const network_layer *layer = &network_layers[index];
    const network_link *above = &network_links[index + 1];
    const network_limit *limits = layer->limits + neuron * layer->thresholds;
    size_t reached = 0, end = layer->thresholds;
    while (reached < end) {
        size_t middle = reached + (end - reached) / 2;
        if (sum >= limits[middle])
            reached = middle + 1;
        else
            end = middle;
    }
    return (network_code)((above->lowest + reached) & (((size_t)1 << above->bits) - 1));
}

FOR_EACH_LAYER void send(size_t index, const network_signal *below, network_signal *above)
{
    start(index + 1, above);
    for (size_t i = 0; i < network_layers[index].neurons; i++)
        put(index + 1, above, i, code_of(index, i, sum_of(index, i, below)));
}

void network_start(size_t index, network_signal *signal)
{
    start(index, signal);
}

void network_put(size_t index, network_signal *signal, size_t neuron, network_code code)
{
    put(index, signal, neuron, code);
}

network_sum network_sum_of(size_t index, size_t neuron, const network_signal *signal)
{
    return sum_of(index, neuron, signal);
}

network_code network_code_of(size_t index, size_t neuron, network_sum sum)
{
    return code_of(index, neuron, sum);
}

network_sum network_logit_of(size_t neuron, network_sum sum)
{
    return sum * NETWORK_LOGIT_ONE + biases[neuron];
}

size_t network_class(const network_sum logits[NETWORK_CLASSES])
{
    size_t best = 0;
    for (size_t neuron = 1; neuron < NETWORK_CLASSES; neuron++)
        if (logits[neuron] > logits[best])
            best = neuron;
    return best;
}

size_t network_classify(const network_code input[NETWORK_INPUTS])
{
    static uint32_t even_words[NETWORK_EVEN_WORDS], odd_words[NETWORK_ODD_WORDS];
    network_signal even = {0, even_words}, odd = {0, odd_words};
    network_sum logits[NETWORK_CLASSES];
    start(0, &even);
    for (size_t i = 0; i < NETWORK_INPUTS; i++)
        put(0, &even, i, input[i]);
@SENDS@
    for (size_t i = 0; i < NETWORK_CLASSES; i++)
        logits[i] = network_logit_of(i, sum_of(NETWORK_LAYERS - 1, i, &@LAST@));
    return network_class(logits);
}
