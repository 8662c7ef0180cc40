/* Run `count` times 16 dot products of registers in each of `threads` threads; called by rows.py. */
#include <stdint.h>
#if defined(__AVX512VNNI__)
#include <immintrin.h>

static int32_t run(int64_t count) {
    __m512i sum[16];
    const __m512i weight = _mm512_set1_epi32(0x01020304), x = _mm512_set1_epi32(0x02030405);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) sum[i] = _mm512_setzero_si512();
    for (int64_t k = 0; k < count; k++) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            sum[i] = _mm512_dpbusd_epi32(sum[i], weight, x);
            __asm__ volatile("" : "+v"(sum[i])); /* each is computed */
        }
    }
#pragma GCC unroll 16
    for (int i = 1; i < 16; i++) sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    return _mm512_reduce_add_epi32(sum[0]);
}

int32_t dot_products(int64_t count, int32_t threads) {
    int32_t sum = 0;
    (void)threads; /* not used without OpenMP */
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) reduction(+ : sum)
#endif
    for (int32_t thread = 0; thread < threads; thread++) sum += run(count);
    return sum;
}
#endif
