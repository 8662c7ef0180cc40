/* Return the sum of `count` words, read by `threads` threads, each a sequential stream; called by quantized_decode.py. */
#include <stdint.h>

uint64_t sum_words(const uint64_t *words, int64_t count, int32_t threads) {
    uint64_t sum = 0;
    (void)threads; /* not used without OpenMP */
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : sum)
#endif
    for (int64_t i = 0; i < count; i++) sum += words[i];
    return sum;
}
