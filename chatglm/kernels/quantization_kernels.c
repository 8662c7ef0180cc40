/* Multiply activations with INT8 and INT4 weight matrices on a CPU, reading the packed bytes once.
 *
 * Weights, row by row as in the checkpoint (`chatglm/quantization.py` says how they are made):
 *
 *     INT8   byte i = weight i                                           [7, -1, -3, 2] = 07 ff fd 02
 *     INT4   byte i = weight 2i << 4 | weight 2i + 1 & 15                [7, -1, -3, 2] = 7f d2
 *     half scale per row
 *
 * Activations are rounded to 8 bits, too, in groups of 32 with one float scale each, so that a channel 100 times larger
 * than the rest spoils 31 neighbours only. A vector register holds 16 lanes of 4 bytes, and integer dot products add the
 * 4 products of a lane; so a group is what one lane meets in a block of 512 columns:
 *
 *     block of 512 columns = 8 steps x 16 lanes x 4 bytes;   group = the 8 x 4 numbers of one lane
 *     INT8   (step, lane, byte) is column 64 step + 4 lane + byte
 *     INT4   (step, lane, byte) is column 128 (step / 2) + 8 lane + 2 byte + step % 2
 *            (64 packed bytes give two steps: their high nibbles, the even columns, and their low nibbles, the odd ones)
 *
 *     y[n, o] = weight_scale[o] * sum over groups g of scale[n, g] * (integer dot product of the group) + bias[o]
 *
 * Where an instruction wants unsigned weights, `offset` (8 or 128) is added to them and `offset * total[n]` taken off the
 * sum, with total[n] = sum over g of scale[n, g] * (sum of the group's integers).
 *
 * Several rows share unpacked weights by way of a panel, in which a register's lanes are outputs instead of groups. The
 * gradient with respect to the input is the same product with groups of 32 outputs, see `quantized_input_gradient`.
 *
 * Shape legend: n rows of activations, i columns (input features), o outputs, k blocks = ceil(i / 512).
 * Every path (AVX-512 VNNI, AVX2, NEON, portable) computes the same integers; only the order of float sums differs.
 * Nothing is allocated; every output is assigned; all sizes are 64-bit. Caller: `chatglm/cpu_kernels.py`.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef _OPENMP
#define OPENMP(directive) _Pragma(#directive)
#else
#define OPENMP(directive)
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum { BLOCK = 512, STEPS = 8, LANES = 16, STEP_BYTES = 64 };
enum { FLOAT32 = 0, FLOAT16 = 1, BFLOAT16 = 2, INT8 = 3 };           /* element types, numbered as in cpu_kernels.py */
enum { PORTABLE = 0, NEON = 1, AVX2 = 2, AVX512 = 3 };               /* paths, numbered as in cpu_kernels.py */
enum { FEW_OUTPUTS = 16, FEW_ROWS = 16 };                            /* largest tile of the few-row kernels */
enum { MOST_FEW_ROWS = 32 };        /* with more, panels are faster; up to these, each row gets its bits as if alone */
enum { ROWS_TOGETHER = 4, L1_BLOCKS = 32 };     /* rows whose sums fit AVX-512's registers, blocks of rows in half an L1 */
enum { MANY_OUTPUTS = 64, MANY_TILE_ROWS = 264, PANEL_GROUPS = 8 };  /* largest tile of the many-row kernels */
enum { PANEL_OUTPUTS = 16 };                                         /* weight rows of an AVX2 panel */
enum { PREFETCH_BYTES = 8192 };                                      /* how far ahead weights are fetched, to L2 */


typedef struct {
    const uint8_t *packed;        /* [o, row_bytes] */
    const uint16_t *scale;        /* [o], half */
    int64_t outputs, columns, row_bytes;
    int32_t bits;
} weights_t;

typedef struct {
    int8_t *quantized;            /* [k, n, 8 steps, 16 lanes, 4 bytes], or [n, k, ...] */
    float *scale;                 /* [k, n, 16 lanes] or [n, k, 16 lanes] */
    float *total;                 /* [k, n] or [n, k], see above, per block */
    int64_t rows, blocks;
    int64_t row_step, block_step; /* 1 and n for [k, n]; k and 1 for [n, k], which AVX-512 reads few rows in */
} activations_t;

/* Where block k of a row is in the arrays of `activations_t`. */
static inline int64_t place_of(const activations_t *a, int64_t k, int64_t row) {
    return k * a->block_step + row * a->row_step;
}

/* Compute sums[n][o], without weight scale and bias, for a tile of `outputs` (1 to 16) times `rows` (1 to 12). */
typedef void few_rows_t(const weights_t *w, int64_t output, int64_t outputs, const activations_t *a, int64_t row,
                        int64_t rows, float sums[FEW_ROWS][FEW_OUTPUTS]);

static float bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t float_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

enum { INFINITE = 0x7f800000, NOT_A_NUMBER = 0x7fc00000, TINY = 0x04000000 }; /* bits of floats; TINY is 2^-119 */

/* Bits of |value|: as integers they are ordered as the numbers are, with infinity and NaN on top. */
static inline uint32_t magnitude_bits(float value) { return float_to_bits(value) & 0x7fffffffu; }

static inline uint32_t maximum(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* half -> float: shift exponent and mantissa into place, then scale by 2^112 (exact for subnormal halves, too) */
static inline float half_to_float(uint16_t half) {
    const uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13;
    const float value = bits_to_float(magnitude) * 0x1p112f;
    const uint32_t finite = float_to_bits(value), special = magnitude | 0x7f800000u;
    return bits_to_float(((half & 0x7c00) == 0x7c00 ? special : finite) | (uint32_t)(half & 0x8000) << 16);
}

/* float -> half, to nearest even; too large becomes infinite, NaN stays NaN */
static inline uint16_t float_to_half(float value) {
    const uint32_t bits = float_to_bits(value), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000u) /* subnormal: let float addition round at 2^-24 */
        return (uint16_t)(sign | (float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | (magnitude - 0x38000000u + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

static inline uint16_t float_to_bfloat(float value) {
    const uint32_t bits = float_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* values[0..count) = elements start.. of an array of the given type */
static inline void load_floats(const void *array, int32_t type, int64_t start, int64_t count, float *values) {
    const uint16_t *halves = (const uint16_t *)array + start;
    if (type == FLOAT32) memcpy(values, (const float *)array + start, (size_t)count * sizeof(float));
    else if (type == FLOAT16) for (int64_t c = 0; c < count; c++) values[c] = half_to_float(halves[c]);
    else for (int64_t c = 0; c < count; c++) values[c] = bits_to_float((uint32_t)halves[c] << 16);
}

/* elements start.. of an array of the given type = values[0..count) */
static inline void store_floats(void *array, int32_t type, int64_t start, int64_t count, const float *values) {
    uint16_t *halves = (uint16_t *)array + start;
    if (type == FLOAT32) memcpy((float *)array + start, values, (size_t)count * sizeof(float));
    else if (type == FLOAT16) for (int64_t c = 0; c < count; c++) halves[c] = float_to_half(values[c]);
    else for (int64_t c = 0; c < count; c++) halves[c] = float_to_bfloat(values[c]);
}

/* Weight at (step, lane, byte) of a block of packed bytes, signed. */
static inline int weight_at(int bits, const uint8_t *block, int step, int lane, int byte) {
    if (bits == 8) return (int8_t)block[step * STEP_BYTES + lane * 4 + byte];
    const uint8_t packed = block[step / 2 * STEP_BYTES + lane * 4 + byte];
    return (int8_t)(step % 2 ? packed << 4 : packed & 0xf0) >> 4;
}

/* Write a block's integers in the order of the lanes. */
static inline void store_block(int bits, const int8_t q[BLOCK], int8_t *quantized) {
    if (bits == 8) memcpy(quantized, q, BLOCK);
    else /* the even columns of a stretch of 128 first, then the odd ones */
        for (int first = 0; first < BLOCK; first += 128)
            for (int c = 0; c < 64; c++) {
                quantized[first + c] = q[first + 2 * c];
                quantized[first + 64 + c] = q[first + 2 * c + 1];
            }
}

/* Round one block of a row to 8 bits, q = round(x / scale) with scale = max |x| of the group / 127; and with two levels
 * what is left by that to 8 bits more, q = round(256 (x / scale - q)), as a second row with scale / 256, `row_step` on.
 * Columns past the end are 0, and so is a group whose |x| are all below 2^-119, where 1 / scale would be infinite. NaN and
 * infinity make the group's scale NaN, so that they reach the output. `factor`, if not NULL, has a half for each column of
 * the block, which its x is multiplied with first. */
static void quantize_block(const void *input, int32_t type, int64_t start, int64_t count, const uint16_t *factor, int bits,
                           int levels, int64_t row_step, int8_t *quantized, float *scale, float *total) {
    /* columns c and c + width share a lane; a lane has span neighbouring columns of each stretch of width columns */
    const int width = bits == 4 ? 128 : 64, span = width / LANES;
    float x[BLOCK], inverse[128];
    uint32_t peak[128] = {0};
    memset(x, 0, sizeof x);
    load_floats(input, type, start, count, x);
    if (factor)
        for (int64_t c = 0; c < count; c++) x[c] *= half_to_float(factor[c]);
    for (int first = 0; first < BLOCK; first += width)
        for (int c = 0; c < width; c++) peak[c] = maximum(peak[c], magnitude_bits(x[first + c]));
    for (int lane = 0; lane < LANES; lane++) {
        uint32_t largest = 0;
        for (int c = lane * span; c < (lane + 1) * span; c++) largest = maximum(largest, peak[c]);
        scale[lane] = bits_to_float(largest < INFINITE ? largest : NOT_A_NUMBER) / 127;
        const float factor = largest >= TINY && largest < INFINITE ? 1 / scale[lane] : 0;
        for (int c = lane * span; c < (lane + 1) * span; c++) inverse[c] = factor;
    }
    for (int first = 0; first < BLOCK; first += width)
        for (int c = 0; c < width; c++) x[first + c] = inverse[c] == 0 ? 0 : x[first + c] * inverse[c];
    for (int level = 0; level < levels;
         level++, scale += row_step * LANES, quantized += row_step * BLOCK, total += row_step) {
        float sum[128] = {0};
        int8_t q[BLOCK];
        for (int first = 0; first < BLOCK; first += width)
            for (int c = 0; c < width; c++) {
                const float rounded = rintf(x[first + c]), rest = 256 * (x[first + c] - rounded);
                q[first + c] = (int8_t)rounded;
                sum[c] += rounded;
                x[first + c] = rest > 127 ? 127 : rest < -127 ? -127 : rest; /* -128 has no opposite */
            }
        store_block(bits, q, quantized);
        *total = 0;
        for (int lane = 0; lane < LANES; lane++)
            for (int c = lane * span; c < (lane + 1) * span; c++) *total += scale[lane] * sum[c];
        if (level + 1 < levels)
            for (int lane = 0; lane < LANES; lane++) scale[row_step * LANES + lane] = scale[lane] / 256;
    }
}

/* Sum over a row's blocks of what `quantize_block` returned. */
static inline float total_of(const activations_t *a, int64_t row) {
    float total = 0;
    for (int64_t k = 0; k < a->blocks; k++) total += a->total[place_of(a, k, row)];
    return total;
}

/* Return a weight row's block, copied to `padded` with zeros behind it where the row ends inside the block. */
static inline const uint8_t *weight_block(const weights_t *w, int64_t output, int64_t block, uint8_t padded[BLOCK]) {
    const int64_t bytes = BLOCK * w->bits / 8, start = block * bytes;
    const uint8_t *row = w->packed + output * w->row_bytes;
    if (start + bytes <= w->row_bytes) return row + start;
    memset(padded, 0, BLOCK);
    memcpy(padded, row + start, (size_t)(w->row_bytes - start));
    return padded;
}

/* ---- portable ---- */

static void few_rows_portable(const weights_t *w, int64_t output, int64_t outputs, const activations_t *a, int64_t row,
                              int64_t rows, float sums[FEW_ROWS][FEW_OUTPUTS]) {
    uint8_t padded[BLOCK];
    memset(sums, 0, sizeof(float[FEW_ROWS][FEW_OUTPUTS]));
    for (int64_t o = 0; o < outputs; o++)
        for (int64_t k = 0; k < a->blocks; k++) {
            const uint8_t *block = weight_block(w, output + o, k, padded);
            for (int64_t n = 0; n < rows; n++) {
                const int8_t *q = a->quantized + place_of(a, k, row + n) * BLOCK;
                const float *scale = a->scale + place_of(a, k, row + n) * LANES;
                for (int lane = 0; lane < LANES; lane++) {
                    int32_t sum = 0;
                    for (int step = 0; step < STEPS; step++)
                        for (int byte = 0; byte < 4; byte++)
                            sum += weight_at(w->bits, block, step, lane, byte) * q[step * STEP_BYTES + lane * 4 + byte];
                    sums[n][o] += scale[lane] * (float)sum;
                }
            }
        }
}

#if defined(__x86_64__)
/* ---- AVX2 ---- */
#define AVX2_TARGET __attribute__((target("avx2,fma")))
#define AVX2_INLINE static inline __attribute__((always_inline)) AVX2_TARGET

/* 32 packed bytes -> the unsigned weights (weight + 8) of two steps (INT4) */
AVX2_INLINE void unpack_avx2(__m256i packed, __m256i step[2]) {
    const __m256i low = _mm256_set1_epi8(0x0f);
    packed = _mm256_xor_si256(packed, _mm256_set1_epi8((char)0x88));
    step[0] = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
    step[1] = _mm256_and_si256(packed, low);
}

/* sum + weight * x, 32 products. INT4: unsigned weights, added in pairs to 16 sums of 16 bits; those of 8 steps fit, at
 * most 8 * 2 * 15 * 127. INT8: |weight| times x with the weight's sign, whose pairs fit, at most 2 * 128 * 127; added in
 * fours to 8 sums of 32 bits. */
AVX2_INLINE __m256i add_products_avx2(const int bits, __m256i sum, __m256i weight, __m256i x) {
    __m256i product = _mm256_maddubs_epi16(bits == 4 ? weight : _mm256_abs_epi8(weight),
                                           bits == 4 ? x : _mm256_sign_epi8(x, weight));
    if (bits == 8) product = _mm256_madd_epi16(product, _mm256_set1_epi16(1));
    sum = bits == 4 ? _mm256_add_epi16(sum, product) : _mm256_add_epi32(sum, product);
    __asm__("" : "+x"(sum)); /* compilers would else reorder the additions, and run out of registers */
    return sum;
}

/* The sums of `add_products_avx2` as 8 floats */
AVX2_INLINE __m256 lanes_avx2(const int bits, __m256i sum) {
    return _mm256_cvtepi32_ps(bits == 4 ? _mm256_madd_epi16(sum, _mm256_set1_epi16(1)) : sum);
}

/* Return the dot product of one weight row (INT4: of weights + 8) with one activation row: one sequential stream. */
AVX2_INLINE float dot_avx2(const int bits, const weights_t *w, int64_t output, const activations_t *a, int64_t row) {
    const int steps = 8 / bits; /* per 64 packed bytes */
    uint8_t padded[BLOCK];
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t k = 0; k < a->blocks; k++) {
        const int8_t *q = a->quantized + place_of(a, k, row) * BLOCK;
        const float *scale = a->scale + place_of(a, k, row) * LANES;
        const uint8_t *source = weight_block(w, output, k, padded);
        __m256i integer[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()}; /* of 8 lanes each */
        UNROLL
        for (int step = 0; step < STEPS; step += steps, source += STEP_BYTES) {
            _mm_prefetch((const char *)source + PREFETCH_BYTES, _MM_HINT_T1);
            UNROLL
            for (int half = 0; half < 2; half++) {
                __m256i weight[2] = {_mm256_loadu_si256((const __m256i *)(source + half * 32))};
                if (bits == 4) unpack_avx2(weight[0], weight);
                UNROLL
                for (int s = 0; s < steps; s++) {
                    const int8_t *x = q + (step + s) * STEP_BYTES + half * 32;
                    integer[half] = add_products_avx2(bits, integer[half], weight[s], _mm256_loadu_si256((const __m256i *)x));
                }
            }
        }
        UNROLL
        for (int half = 0; half < 2; half++)
            sum[half] = _mm256_fmadd_ps(lanes_avx2(bits, integer[half]), _mm256_loadu_ps(scale + half * 8), sum[half]);
    }
    const __m256 eight = _mm256_add_ps(sum[0], sum[1]);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* lane_sums[n][0..1] += one block of a weight row times `rows` (1 to 8) activation rows; the weights are unpacked once */
AVX2_INLINE void dot_block_avx2(const int bits, const uint8_t *source, const int8_t *q, const float *scale, const int rows,
                                __m256 *lane_sums) {
    const int steps = 8 / bits;
    for (int half = 0; half < 2; half++) {
        __m256i integer[8]; /* of 8 lanes each */
        UNROLL
        for (int n = 0; n < rows; n++) integer[n] = _mm256_setzero_si256();
        UNROLL
        for (int step = 0; step < STEPS; step += steps) {
            __m256i weight[2] = {_mm256_loadu_si256((const __m256i *)(source + step / steps * STEP_BYTES + half * 32))};
            if (bits == 4) unpack_avx2(weight[0], weight);
            UNROLL
            for (int n = 0; n < rows; n++)
                UNROLL
                for (int s = 0; s < steps; s++) {
                    const int8_t *x = q + n * BLOCK + (step + s) * STEP_BYTES + half * 32;
                    integer[n] = add_products_avx2(bits, integer[n], weight[s], _mm256_loadu_si256((const __m256i *)x));
                }
        }
        UNROLL
        for (int n = 0; n < rows; n++) {
            __m256 *sum = lane_sums + n * FEW_OUTPUTS * 2 + half;
            *sum = _mm256_fmadd_ps(lanes_avx2(bits, integer[n]), _mm256_loadu_ps(scale + n * LANES + half * 8), *sum);
        }
    }
}

/* `dot_block_avx2` for 8, 4, 2 or 1 rows; returns how many it took */
AVX2_INLINE int64_t dot_rows_avx2(const int bits, const uint8_t *source, const int8_t *q, const float *scale, int64_t rows,
                                  __m256 *lane_sums) {
    const int taken = rows >= 8 ? 8 : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
    if (taken == 8) dot_block_avx2(bits, source, q, scale, 8, lane_sums);
    else if (taken == 4) dot_block_avx2(bits, source, q, scale, 4, lane_sums);
    else if (taken == 2) dot_block_avx2(bits, source, q, scale, 2, lane_sums);
    else dot_block_avx2(bits, source, q, scale, 1, lane_sums);
    return taken;
}

/* Transpose 8 x 8 numbers of 32 bits. */
AVX2_INLINE void transpose_avx2(__m256i v[8]) {
    __m256i t[8];
    UNROLL
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    __m256i u[8];
    UNROLL
    for (int i = 0; i < 8; i += 4)
        UNROLL
        for (int j = 0; j < 2; j++) {
            u[i + 2 * j] = _mm256_unpacklo_epi64(t[i + j], t[i + j + 2]);
            u[i + 2 * j + 1] = _mm256_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    UNROLL
    for (int j = 0; j < 4; j++) {
        v[j] = _mm256_permute2x128_si256(u[j], u[j + 4], 0x20);
        v[j + 4] = _mm256_permute2x128_si256(u[j], u[j + 4], 0x31);
    }
}

/* sums [rows][16] = dot products of 16 weight rows with up to 12 activation rows. A block's columns of all weight rows are
 * taken before the next block's, so that activations stay in the L1 cache, while the next tile is fetched in the order of
 * memory. All is added in the order of `dot_avx2`: a row's sums do not depend on how many rows there are. */
AVX2_INLINE void few_rows_avx2(const int bits, const weights_t *w, int64_t output, const activations_t *a, int64_t row,
                               int64_t rows, float *sums) {
    __m256 lane_sums[FEW_ROWS * FEW_OUTPUTS * 2];
    uint8_t padded[BLOCK];
    const uint8_t *ahead = w->packed + (output + FEW_OUTPUTS) * w->row_bytes;
    memset(lane_sums, 0, (size_t)rows * FEW_OUTPUTS * 2 * sizeof *lane_sums);
    for (int64_t k = 0; k < a->blocks; k++)
        for (int64_t o = 0; o < FEW_OUTPUTS; o++) { /* outputs past the last repeat it; their sums are not stored */
            const int64_t index = output + o < w->outputs ? output + o : w->outputs - 1;
            const uint8_t *source = weight_block(w, index, k, padded);
            for (int line = 0; line < bits; line++, ahead += 64) _mm_prefetch((const char *)ahead, _MM_HINT_T1);
            for (int64_t n = 0; n < rows;)
                n += dot_rows_avx2(bits, source, a->quantized + place_of(a, k, row + n) * BLOCK,
                                   a->scale + place_of(a, k, row + n) * LANES, rows - n,
                                   lane_sums + (n * FEW_OUTPUTS + o) * 2);
        }
    for (int64_t n = 0; n < rows; n++)
        for (int64_t first = 0; first < FEW_OUTPUTS; first += 8) {
            __m256i v[8];
            for (int o = 0; o < 8; o++) {
                const __m256 *sum = lane_sums + (n * FEW_OUTPUTS + first + o) * 2;
                v[o] = _mm256_castps_si256(_mm256_add_ps(sum[0], sum[1]));
            }
            transpose_avx2(v);
            __m256 lane[8];
            for (int i = 0; i < 8; i++) lane[i] = _mm256_castsi256_ps(v[i]);
            const __m256 even = _mm256_add_ps(_mm256_add_ps(lane[0], lane[4]), _mm256_add_ps(lane[2], lane[6]));
            const __m256 odd = _mm256_add_ps(_mm256_add_ps(lane[1], lane[5]), _mm256_add_ps(lane[3], lane[7]));
            _mm256_storeu_ps(sums + n * FEW_OUTPUTS + first, _mm256_add_ps(even, odd));
        }
}

/* One block of 16 weight rows -> panel [16 lanes][8 steps][16 outputs][4 bytes]; unsigned if INT4, as it is if INT8.
 * `ahead` is where weights that will be read later are fetched from, as many bytes as the panel is made of. */
AVX2_INLINE void fill_panel_avx2(const int bits, const weights_t *w, int64_t output, int64_t block, uint8_t *panel,
                                 const uint8_t *ahead) {
    const int steps = 8 / bits;
    uint8_t padded[PANEL_OUTPUTS][BLOCK];
    const uint8_t *source[PANEL_OUTPUTS];
    for (int o = 0; o < PANEL_OUTPUTS; o++) { /* outputs past the last repeat it; their sums are not stored */
        const int64_t index = output + o;
        source[o] = weight_block(w, index < w->outputs ? index : w->outputs - 1, block, padded[o]);
    }
    for (int step = 0; step < STEPS; step += steps)
        for (int part = 0; part < 2; part++)
            for (int half = 0; half < 2; half++) {
                __m256i v[8];
                UNROLL
                for (int o = 0; o < 8; o++) {
                    const uint8_t *bytes = source[part * 8 + o] + step / steps * STEP_BYTES + half * 32;
                    v[o] = _mm256_loadu_si256((const __m256i *)bytes);
                }
                UNROLL
                for (int line = 0; line < 4; line++, ahead += 64) _mm_prefetch((const char *)ahead, _MM_HINT_T1);
                transpose_avx2(v);
                UNROLL
                for (int lane = 0; lane < 8; lane++) {
                    uint8_t *target = panel + (((half * 8 + lane) * STEPS + step) * 2 + part) * 32;
                    __m256i weight[2] = {v[lane]};
                    if (bits == 4) unpack_avx2(weight[0], weight);
                    UNROLL
                    for (int s = 0; s < steps; s++) _mm256_store_si256((__m256i *)(target + s * 64), weight[s]);
                }
            }
}

/* sums [rows][stride], 16 of each row += panel x activations of `rows` (1 to 4) rows */
AVX2_INLINE void multiply_panel_avx2(const int bits, const uint8_t *panel, const int8_t *q, const float *scale,
                                     const int rows, float *sums, int64_t stride) {
    for (int group = 0; group < LANES; group++) {
        __m256i integer[4][2];
        UNROLL
        for (int n = 0; n < rows; n++) integer[n][0] = integer[n][1] = _mm256_setzero_si256();
        UNROLL
        for (int step = 0; step < STEPS; step++, panel += 64) {
            const __m256i weight[2] = {_mm256_load_si256((const __m256i *)panel),
                                       _mm256_load_si256((const __m256i *)(panel + 32))};
            UNROLL
            for (int n = 0; n < rows; n++) {
                int32_t four;
                memcpy(&four, q + n * BLOCK + step * STEP_BYTES + group * 4, sizeof four);
                const __m256i x = _mm256_set1_epi32(four);
                integer[n][0] = add_products_avx2(bits, integer[n][0], weight[0], x);
                integer[n][1] = add_products_avx2(bits, integer[n][1], weight[1], x);
            }
        }
        UNROLL
        for (int n = 0; n < rows; n++) {
            const __m256 group_scale = _mm256_set1_ps(scale[n * LANES + group]);
            UNROLL
            for (int part = 0; part < 2; part++) {
                float *sum = sums + n * stride + part * 8;
                _mm256_storeu_ps(sum, _mm256_fmadd_ps(lanes_avx2(bits, integer[n][part]), group_scale, _mm256_loadu_ps(sum)));
            }
        }
    }
}

/* sums [rows][outputs] += panel x activations of `rows` rows of block k, from `row` on */
AVX2_INLINE void multiply_rows_avx2(const int bits, const uint8_t *panel, const activations_t *a, int64_t k, int64_t row,
                                    int64_t rows, float *sums, int64_t stride) {
    const int8_t *q = a->quantized + place_of(a, k, row) * BLOCK;
    const float *scale = a->scale + place_of(a, k, row) * LANES;
    for (; rows >= 4; rows -= 4, q += 4 * BLOCK, scale += 4 * LANES, sums += 4 * stride)
        multiply_panel_avx2(bits, panel, q, scale, 4, sums, stride);
    if (rows == 3) multiply_panel_avx2(bits, panel, q, scale, 3, sums, stride);
    if (rows == 2) multiply_panel_avx2(bits, panel, q, scale, 2, sums, stride);
    if (rows == 1) multiply_panel_avx2(bits, panel, q, scale, 1, sums, stride);
}

/* sums [rows][tile outputs, 16 or 64] = dot products of weight rows with up to MANY_TILE_ROWS activation rows; several
 * rows share each panel of weights, while the weights after this tile are fetched in the order of memory */
AVX2_INLINE void rows_avx2_fixed(const int bits, const weights_t *w, int64_t output, int64_t tile_outputs,
                                 const activations_t *a, int64_t row, int64_t rows, float *sums) {
    if (rows == 1 && tile_outputs == FEW_OUTPUTS) {
        for (int64_t o = 0; o < FEW_OUTPUTS; o++)
            sums[o] = output + o < w->outputs ? dot_avx2(bits, w, output + o, a, row) : 0;
    } else if (tile_outputs == FEW_OUTPUTS) {
        few_rows_avx2(bits, w, output, a, row, rows, sums);
    } else {
        _Alignas(32) uint8_t panel[BLOCK * PANEL_OUTPUTS];
        const uint8_t *ahead = w->packed + (output + tile_outputs) * w->row_bytes;
        memset(sums, 0, (size_t)(rows * tile_outputs) * sizeof(float));
        for (int64_t k = 0; k < a->blocks; k++)
            for (int64_t o = 0; o < tile_outputs; o += PANEL_OUTPUTS, ahead += BLOCK * bits / 8 * PANEL_OUTPUTS) {
                fill_panel_avx2(bits, w, output + o, k, panel, ahead);
                multiply_rows_avx2(bits, panel, a, k, row, rows, sums + o, tile_outputs);
            }
    }
    for (int64_t n = 0; n < rows && bits == 4; n++) {
        const float correction = 8 * total_of(a, row + n);
        for (int64_t o = 0; o < tile_outputs; o++) sums[n * tile_outputs + o] -= correction;
    }
}

AVX2_TARGET static void rows_avx2(const weights_t *w, int64_t output, int64_t tile_outputs, const activations_t *a,
                                  int64_t row, int64_t rows, float *sums) {
    if (w->bits == 4) rows_avx2_fixed(4, w, output, tile_outputs, a, row, rows, sums);
    else rows_avx2_fixed(8, w, output, tile_outputs, a, row, rows, sums);
}

/* ---- AVX-512 VNNI ---- */
#define AVX512_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")))
#define AVX512_INLINE static inline __attribute__((always_inline)) AVX512_TARGET

/* 64 packed bytes -> the unsigned weights (weight + offset) of one step (INT8) or two (INT4) */
AVX512_INLINE void unpack_avx512(int bits, __m512i packed, __m512i step[2]) {
    if (bits == 8) {
        step[0] = _mm512_xor_si512(packed, _mm512_set1_epi8((char)0x80));
    } else { /* 0x28: (packed ^ 0x88) & 0x0f */
        const __m512i flip = _mm512_set1_epi8((char)0x88), low = _mm512_set1_epi8(0x0f);
        step[0] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(packed, 4), flip, low, 0x28);
        step[1] = _mm512_ternarylogic_epi32(packed, flip, low, 0x28);
    }
}

/* Transpose 16 x 16 numbers of 32 bits. */
AVX512_INLINE void transpose_avx512(__m512i v[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            v[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            v[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; j++) {
            t[i + j] = _mm512_shuffle_i32x4(v[i + j], v[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_i32x4(v[i + j], v[i + j + 4], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        v[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
        v[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xdd);
    }
}

/* lane_sums[n][o] += blocks first..end of `outputs` (1 or 2) weight rows times `rows` (1 to 4) activation rows: weights
 * unpacked once for all of them, sums in registers. `lines` cache lines a block are fetched from `ahead`; returned moved on.
 * Weight rows past the last repeat it; their sums are not stored. */
AVX512_INLINE const uint8_t *dot_tile_avx512(const int bits, const weights_t *w, int64_t output, const int outputs,
                                             const activations_t *a, int64_t row, const int rows, int64_t first,
                                             int64_t end, const uint8_t *ahead, int64_t lines, __m512 *lane_sums) {
    const int steps = 8 / bits; /* per 64 packed bytes */
    uint8_t padded[2][BLOCK];
    __m512 sum[ROWS_TOGETHER][2];
    UNROLL
    for (int n = 0; n < rows; n++)
        UNROLL
        for (int o = 0; o < outputs; o++) sum[n][o] = lane_sums[n * FEW_OUTPUTS + o];
    for (int64_t k = first; k < end; k++) {
        const int8_t *q = a->quantized + place_of(a, k, row) * BLOCK;
        const float *scale = a->scale + place_of(a, k, row) * LANES;
        const uint8_t *source[2];
        __m512i integer[ROWS_TOGETHER][2];
        UNROLL
        for (int o = 0; o < outputs; o++)
            source[o] = weight_block(w, output + o < w->outputs ? output + o : w->outputs - 1, k, padded[o]);
        for (int64_t line = 0; line < lines; line++, ahead += 64) _mm_prefetch((const char *)ahead, _MM_HINT_T1);
        UNROLL
        for (int n = 0; n < rows; n++) integer[n][0] = integer[n][1] = _mm512_setzero_si512();
        UNROLL
        for (int step = 0; step < STEPS; step += steps) {
            __m512i unpacked[2][2];
            UNROLL
            for (int o = 0; o < outputs; o++)
                unpack_avx512(bits, _mm512_loadu_si512(source[o] + step / steps * STEP_BYTES), unpacked[o]);
            UNROLL
            for (int n = 0; n < rows; n++)
                UNROLL
                for (int s = 0; s < steps; s++) {
                    __m512i x = _mm512_loadu_si512(q + n * a->row_step * BLOCK + (step + s) * STEP_BYTES);
                    __asm__("" : "+v"(x)); /* one load for both outputs, which compilers would else fold into each */
                    UNROLL
                    for (int o = 0; o < outputs; o++) {
                        __m512i *chain = &integer[n][outputs == 1 ? (step + s) % 2 : o]; /* two hide the latency of one */
                        *chain = _mm512_dpbusd_epi32(*chain, unpacked[o][s], x);
                    }
                }
        }
        UNROLL
        for (int n = 0; n < rows; n++) {
            const __m512 group_scale = _mm512_loadu_ps(scale + n * a->row_step * LANES);
            if (outputs == 1) integer[n][0] = _mm512_add_epi32(integer[n][0], integer[n][1]);
            UNROLL
            for (int o = 0; o < outputs; o++)
                sum[n][o] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(integer[n][o]), group_scale, sum[n][o]);
        }
    }
    UNROLL
    for (int n = 0; n < rows; n++)
        UNROLL
        for (int o = 0; o < outputs; o++) lane_sums[n * FEW_OUTPUTS + o] = sum[n][o];
    return ahead;
}

/* Return the sums of the lanes of 16 vectors, in order: by halves of what is left, two vectors becoming one. */
AVX512_INLINE __m512 add_lanes_avx512(const __m512 v[LANES]) {
    __m512 two[8], four[4], half[2];
    UNROLL
    for (int i = 0; i < 8; i++)
        two[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    UNROLL
    for (int i = 0; i < 4; i++) {
        const __m512d a = _mm512_castps_pd(two[2 * i]), b = _mm512_castps_pd(two[2 * i + 1]);
        four[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    UNROLL
    for (int i = 0; i < 2; i++)
        half[i] = _mm512_add_ps(_mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0x44),
                                _mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0xee));
    return _mm512_add_ps(_mm512_shuffle_f32x4(half[0], half[1], 0x88), _mm512_shuffle_f32x4(half[0], half[1], 0xdd));
}

/* sums [rows][16] = dot products of 16 weight rows with up to 16 activation rows, in stretches of columns so long that the
 * rows that are multiplied together stay in the L1 cache. The tile after this one (for one row, what comes a little later)
 * is fetched meanwhile, in the order of memory, once and evenly. A row's sums are added in one order, however many rows there are. */
AVX512_INLINE void few_rows_avx512_fixed(const int bits, const weights_t *w, int64_t output, const activations_t *a,
                                         int64_t row, int64_t rows, float sums[FEW_ROWS][FEW_OUTPUTS]) {
    __m512 lane_sums[FEW_ROWS * FEW_OUTPUTS];
    const int64_t passes = (rows + ROWS_TOGETHER - 1) / ROWS_TOGETHER;
    const int64_t stretch = L1_BLOCKS / (rows < ROWS_TOGETHER ? rows : ROWS_TOGETHER);
    const int64_t lines = row ? 0 : (2 * bits + passes - 1) / passes; /* two weight rows have 2 * bits lines a block */
    const uint8_t *ahead = w->packed + output * w->row_bytes;
    ahead += rows == 1 ? PREFETCH_BYTES : FEW_OUTPUTS * w->row_bytes;
    for (int64_t i = 0; i < rows * FEW_OUTPUTS; i++) lane_sums[i] = _mm512_setzero_ps();
#define TAKE(count)                                                                                                        \
    case count:                                                                                                            \
        for (int64_t o = 0; o < FEW_OUTPUTS; o += 2)                                                                       \
            ahead = dot_tile_avx512(bits, w, output + o, 2, a, row + n, count, first, end, ahead, lines, sum + o);         \
        break;
    for (int64_t first = 0; first < a->blocks; first += stretch) {
        const int64_t end = first + stretch < a->blocks ? first + stretch : a->blocks;
        if (rows == 1) /* one sequential stream of weights */
            for (int64_t o = 0; o < FEW_OUTPUTS; o++)
                ahead = dot_tile_avx512(bits, w, output + o, 1, a, row, 1, first, end, ahead, lines / 2, lane_sums + o);
        else
            for (int64_t n = 0; n < rows; n += ROWS_TOGETHER) {
                __m512 *sum = lane_sums + n * FEW_OUTPUTS;
                switch (rows - n < ROWS_TOGETHER ? rows - n : ROWS_TOGETHER) { TAKE(4) TAKE(3) TAKE(2) TAKE(1) }
            }
    }
#undef TAKE
    for (int64_t n = 0; n < rows; n++) {
        const __m512 correction = _mm512_set1_ps((bits == 4 ? -8.0f : -128.0f) * total_of(a, row + n));
        _mm512_storeu_ps(sums[n], _mm512_add_ps(add_lanes_avx512(lane_sums + n * FEW_OUTPUTS), correction));
    }
}

AVX512_TARGET __attribute__((noinline)) static void few_rows_avx512(const weights_t *w, int64_t output, int64_t outputs,
                                                                    const activations_t *a, int64_t row, int64_t rows,
                                                                    float sums[FEW_ROWS][FEW_OUTPUTS]) {
    (void)outputs; /* sums past the last are not stored */
    if (w->bits == 4) few_rows_avx512_fixed(4, w, output, a, row, rows, sums);
    else few_rows_avx512_fixed(8, w, output, a, row, rows, sums);
}

/* One block of 64 weight rows -> panel [16 lanes][8 steps][64 outputs][4 bytes], unsigned. `ahead` is where weights that will
 * be read later are fetched from, as many bytes as the panel is made of. */
AVX512_INLINE void fill_panel_avx512(int bits, const weights_t *w, int64_t output, int64_t block, uint8_t *panel,
                                     const uint8_t *ahead) {
    const int steps = 8 / bits;
    uint8_t padded[LANES][BLOCK];
    for (int part = 0; part < MANY_OUTPUTS / LANES; part++) {
        const uint8_t *source[LANES];
        for (int o = 0; o < LANES; o++) { /* outputs past the last repeat it; their sums are not stored */
            const int64_t index = output + part * LANES + o;
            source[o] = weight_block(w, index < w->outputs ? index : w->outputs - 1, block, padded[o]);
        }
        for (int step = 0; step < STEPS; step += steps) {
            __m512i v[LANES];
            for (int o = 0; o < LANES; o++, ahead += 64) {
                v[o] = _mm512_loadu_si512(source[o] + step / steps * STEP_BYTES);
                _mm_prefetch((const char *)ahead, _MM_HINT_T1);
            }
            transpose_avx512(v);
            for (int lane = 0; lane < LANES; lane++) {
                __m512i unpacked[2];
                unpack_avx512(bits, v[lane], unpacked);
                for (int s = 0; s < steps; s++)
                    _mm512_store_si512(panel + ((lane * STEPS + step + s) * (MANY_OUTPUTS / LANES) + part) * 64, unpacked[s]);
            }
        }
    }
}

/* sums [rows][64 outputs] += panel (8 groups) x activations of `rows` (1 to 3) rows */
AVX512_INLINE void multiply_panel_avx512(const uint8_t *panel, const int8_t *q, const float *scale, const int rows,
                                         float *sums) {
    enum { PARTS = MANY_OUTPUTS / LANES };
    __m512 sum[3][PARTS];
    for (int n = 0; n < rows; n++)
        for (int part = 0; part < PARTS; part++) sum[n][part] = _mm512_load_ps(sums + n * MANY_OUTPUTS + part * LANES);
    for (int group = 0; group < PANEL_GROUPS; group++) {
        __m512i integer[3][PARTS];
        for (int n = 0; n < rows; n++)
            for (int part = 0; part < PARTS; part++) integer[n][part] = _mm512_setzero_si512();
        for (int step = 0; step < STEPS; step++) {
            __m512i weight[PARTS];
            for (int part = 0; part < PARTS; part++, panel += 64) weight[part] = _mm512_load_si512(panel);
            for (int n = 0; n < rows; n++) {
                int32_t four;
                memcpy(&four, q + n * BLOCK + step * STEP_BYTES + group * 4, sizeof four);
                const __m512i x = _mm512_set1_epi32(four);
                for (int part = 0; part < PARTS; part++)
                    integer[n][part] = _mm512_dpbusd_epi32(integer[n][part], weight[part], x);
            }
        }
        for (int n = 0; n < rows; n++) {
            const __m512 group_scale = _mm512_set1_ps(scale[n * LANES + group]);
            for (int part = 0; part < PARTS; part++)
                sum[n][part] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(integer[n][part]), group_scale, sum[n][part]);
        }
    }
    for (int n = 0; n < rows; n++)
        for (int part = 0; part < PARTS; part++) _mm512_store_ps(sums + n * MANY_OUTPUTS + part * LANES, sum[n][part]);
}

/* sums [rows][64 outputs] = dot products of 64 weight rows with up to MANY_TILE_ROWS activation rows */
AVX512_TARGET __attribute__((noinline)) static void many_rows_avx512(const weights_t *w, int64_t output, const activations_t *a, int64_t row,
                                               int64_t rows, float *sums) {
    _Alignas(64) uint8_t panel[BLOCK * MANY_OUTPUTS];
    const uint8_t *ahead = w->packed + (output + MANY_OUTPUTS) * w->row_bytes; /* the next tile, in the order of memory */
    memset(sums, 0, (size_t)(rows * MANY_OUTPUTS) * sizeof(float));
    for (int64_t k = 0; k < a->blocks; k++, ahead += BLOCK * w->bits / 8 * MANY_OUTPUTS) {
        if (w->bits == 4) fill_panel_avx512(4, w, output, k, panel, ahead);
        else fill_panel_avx512(8, w, output, k, panel, ahead);
        for (int group = 0; group < LANES; group += PANEL_GROUPS) { /* a part of the panel that stays in the L1 cache */
            const uint8_t *part = panel + group * STEPS * MANY_OUTPUTS * 4;
            for (int64_t n = 0; n < rows; n += 3) {
                const int8_t *q = a->quantized + place_of(a, k, row + n) * BLOCK + group * 4;
                const float *scale = a->scale + place_of(a, k, row + n) * LANES + group;
                float *sum = sums + n * MANY_OUTPUTS;
                if (rows - n >= 3) multiply_panel_avx512(part, q, scale, 3, sum);
                else if (rows - n == 2) multiply_panel_avx512(part, q, scale, 2, sum);
                else multiply_panel_avx512(part, q, scale, 1, sum);
            }
        }
    }
    for (int64_t n = 0; n < rows; n++) {
        const float correction = (w->bits == 4 ? 8 : 128) * total_of(a, row + n);
        for (int64_t o = 0; o < MANY_OUTPUTS; o++) sums[n * MANY_OUTPUTS + o] -= correction;
    }
}
#endif

#if defined(__aarch64__)
/* ---- NEON ---- */

/* sums of the 4 products of each lane, added to 4 lanes */
static inline int32x4_t dot_lanes(int32x4_t sum, int8x16_t weight, int8x16_t x) {
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(sum, weight, x);
#else
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(weight), vget_low_s8(x)));
    const int32x4_t high = vpaddlq_s16(vmull_high_s8(weight, x));
    return vaddq_s32(sum, vpaddq_s32(low, high));
#endif
}

/* sums of one weight row times `rows` (1 or 4) activation rows; 4 of the 16 lanes at a time */
static inline __attribute__((always_inline)) void dot_neon(const int bits, const weights_t *w, int64_t output,
                                                           const activations_t *a, int64_t row, const int rows,
                                                           float *sums) {
    uint8_t padded[BLOCK];
    float32x4_t sum[4];
    for (int n = 0; n < rows; n++) sum[n] = vdupq_n_f32(0);
    for (int64_t k = 0; k < a->blocks; k++) {
        const uint8_t *block = weight_block(w, output, k, padded);
        for (int quarter = 0; quarter < 4; quarter++) {
            const int8_t *q = a->quantized + place_of(a, k, row) * BLOCK + quarter * 16;
            const float *scale = a->scale + place_of(a, k, row) * LANES + quarter * 4;
            int32x4_t integer[4];
            for (int n = 0; n < rows; n++) integer[n] = vdupq_n_s32(0);
            UNROLL
            for (int step = 0; step < STEPS; step++) {
                const uint8_t *source = block + (bits == 4 ? step / 2 : step) * STEP_BYTES + quarter * 16;
                int8x16_t weight = vld1q_s8((const int8_t *)source);
                if (bits == 4) weight = vshrq_n_s8(step % 2 ? vshlq_n_s8(weight, 4) : weight, 4);
                UNROLL
                for (int n = 0; n < rows; n++)
                    integer[n] = dot_lanes(integer[n], weight, vld1q_s8(q + n * BLOCK + step * STEP_BYTES));
            }
            for (int n = 0; n < rows; n++)
                sum[n] = vfmaq_f32(sum[n], vcvtq_f32_s32(integer[n]), vld1q_f32(scale + n * LANES));
        }
    }
    for (int n = 0; n < rows; n++) sums[n * FEW_OUTPUTS] = vaddvq_f32(sum[n]);
}

static void few_rows_neon(const weights_t *w, int64_t output, int64_t outputs, const activations_t *a, int64_t row,
                          int64_t rows, float sums[FEW_ROWS][FEW_OUTPUTS]) {
    for (int64_t o = 0; o < outputs; o++)
        for (int64_t n = 0; n < rows;) {
            if (rows - n >= 4) {
                if (w->bits == 4) dot_neon(4, w, output + o, a, row + n, 4, &sums[n][o]);
                else dot_neon(8, w, output + o, a, row + n, 4, &sums[n][o]);
                n += 4;
            } else {
                if (w->bits == 4) dot_neon(4, w, output + o, a, row + n, 1, &sums[n][o]);
                else dot_neon(8, w, output + o, a, row + n, 1, &sums[n][o]);
                n += 1;
            }
        }
}
#endif

/* Whether this CPU can run a path. */
int32_t supports_path(int32_t path) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (path == AVX2) return avx2;
    if (path == AVX512)
        return avx2 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif defined(__aarch64__)
    if (path == NEON) return 1;
#endif
    return path == PORTABLE;
}

/* e^x for x <= 0, to 2e-7: 2^whole times a polynomial in the rest */
static inline float exponential(float x) {
    const float power = x < -87 ? -125.0f : x * 1.44269504f, whole = rintf(power), t = (power - whole) * 0.693147181f;
    const float fraction = 1 + t * (1 + t * (0.5f + t * (0.16666667f + t * (0.041666667f + t * 0.0083333333f))));
    return fraction * bits_to_float((uint32_t)((int32_t)whole + 127) << 23);
}

/* x times the sigmoid of 2 sqrt(2 / pi) (x + 0.044715 x^3): the tanh form of GELU */
static inline float gelu(float x) {
    const float z = 1.59576912f * (x + 0.044715f * x * x * x), small = exponential(z < 0 ? z : -z);
    return x * (z < 0 ? small : 1) / (1 + small);
}

typedef struct {
    const uint8_t *weight;        /* [o, i * bits / 8] */
    const uint16_t *scale;        /* [o], half */
    const void *bias;             /* [o] or NULL */
    int64_t outputs, columns;
    int32_t bits, bias_type;
    int32_t levels;               /* 1 or 2, for activations of 8 or 16 bits, see `multiply_quantized` */
} matrix_t;

/* What is done with a product before it is stored: act = GELU, then residual_scale * residual [n, o] is added. */
typedef struct {
    const float *residual;        /* or NULL */
    float residual_scale;
    int32_t gelu;
} epilogue_t;

/* output[n, o] = act(scale[o] * (input[n, :] . weight[o, :]) + bias[o]) + ..., see `epilogue_t`; input and output have
 * elements of their types. Scratch: see `multiply_quantized`. */
static void multiply(int32_t path, const matrix_t *m, const void *input, int32_t input_type, int64_t rows,
                     const epilogue_t *epilogue, void *output, int32_t output_type, int8_t *quantized, float *scale,
                     float *total, int32_t threads) {
    const int64_t outputs = m->outputs, columns = m->columns, blocks = (columns + BLOCK - 1) / BLOCK, levels = m->levels;
    const weights_t w = {m->weight, m->scale, outputs, columns, columns * m->bits / 8, m->bits};
    const int many = path >= AVX2 && rows > MOST_FEW_ROWS, row_by_row = path == AVX512 && !many;
    const activations_t a = {quantized, scale, total, rows * levels, blocks,
                             row_by_row ? blocks : 1, row_by_row ? 1 : rows * levels};
    const int64_t tile_outputs = many ? MANY_OUTPUTS : FEW_OUTPUTS, tile_rows = many ? MANY_TILE_ROWS : FEW_ROWS;
    const int64_t tiles = (outputs + tile_outputs - 1) / tile_outputs;
    few_rows_t *few_rows = few_rows_portable;
#if defined(__x86_64__)
    if (path == AVX512) few_rows = few_rows_avx512;
#elif defined(__aarch64__)
    if (path == NEON) few_rows = few_rows_neon;
#endif
    (void)threads; /* not used without OpenMP */
    OPENMP(omp parallel num_threads(threads))
    {
        OPENMP(omp for schedule(static))
        for (int64_t unit = 0; unit < rows * blocks; unit++) {
            const int64_t n = unit % rows, k = unit / rows, start = k * BLOCK, place = place_of(&a, k, n * levels);
            const int64_t count = columns - start < BLOCK ? columns - start : BLOCK;
            quantize_block(input, input_type, n * columns + start, count, NULL, m->bits, m->levels, a.row_step,
                           quantized + place * BLOCK, scale + place * LANES, total + place);
        }
        OPENMP(omp for schedule(static))
        for (int64_t tile = 0; tile < tiles; tile++) {
            _Alignas(64) float sums[MANY_TILE_ROWS * MANY_OUTPUTS];
            const int64_t first = tile * tile_outputs;
            const int64_t count = outputs - first < tile_outputs ? outputs - first : tile_outputs;
            float output_scale[MANY_OUTPUTS], output_bias[MANY_OUTPUTS] = {0};
            load_floats(m->scale, FLOAT16, first, count, output_scale);
            if (m->bias) load_floats(m->bias, m->bias_type, first, count, output_bias);
            for (int64_t row = 0; row < a.rows; row += tile_rows) {
                const int64_t together = a.rows - row < tile_rows ? a.rows - row : tile_rows;
#if defined(__x86_64__)
                if (path == AVX2) rows_avx2(&w, first, tile_outputs, &a, row, together, sums);
                else if (many) many_rows_avx512(&w, first, &a, row, together, sums);
                else
#endif
                few_rows(&w, first, count, &a, row, together, (float(*)[FEW_OUTPUTS])sums);
                for (int64_t n = 0; n < together; n += levels) {
                    const int64_t place = (row + n) / levels * outputs + first;
                    float *sum = sums + n * tile_outputs;
                    if (levels == 2)
                        for (int64_t o = 0; o < count; o++) sum[o] += sum[tile_outputs + o];
                    for (int64_t o = 0; o < count; o++) sum[o] = sum[o] * output_scale[o] + output_bias[o];
                    if (epilogue->gelu)
                        for (int64_t o = 0; o < count; o++) sum[o] = gelu(sum[o]);
                    if (epilogue->residual)
                        for (int64_t o = 0; o < count; o++) sum[o] += epilogue->residual_scale * epilogue->residual[place + o];
                    store_floats(output, output_type, place, count, sum);
                }
            }
        }
    }
}

/* output[n, o] = weight_scale[o] * (input[n, :] . weight[o, :]) + bias[o]
 *
 * input [n, i], bias [o] or NULL, output [n, o]: elements of `type`; weight [o, i * bits / 8]; weight_scale [o], half.
 * levels: 1 or 2, for activations of 8 or 16 bits; with 2, each row is multiplied as two, see `quantize_block`.
 * quantized [k, n * levels, 512], scale [k, n * levels, 16], total [k, n * levels]: scratch. `threads` at least 1.
 */
void multiply_quantized(int32_t path, int32_t bits, int32_t levels, int32_t type, const void *input, int64_t rows,
                        int64_t columns, const uint8_t *weight, const uint16_t *weight_scale, const void *bias,
                        int64_t outputs, void *output, int8_t *quantized, float *scale, float *total, int32_t threads) {
    const matrix_t matrix = {weight, weight_scale, bias, outputs, columns, bits, type, levels};
    const epilogue_t none = {NULL, 0, 0};
    multiply(path, &matrix, input, type, rows, &none, output, type, quantized, scale, total, threads);
}

/* ---- gradient with respect to the input ---- */

/* One block of 512 weight rows, 64 columns from `column` on -> 4 panels [16 lanes][8 steps][16 columns][4 rows]; INT4 as
 * unsigned weight + 8. Row 64 step + 4 lane + i of the block is row i of (lane, step). Rows and columns past the last are
 * 0 here; they meet activations that are 0, or sums that are not stored. */
static void fill_columns(const weights_t *w, int64_t block, int64_t column, uint8_t *panels) {
    const int64_t count = w->columns - column < MANY_OUTPUTS ? w->columns - column : MANY_OUTPUTS;
    uint8_t values[4][MANY_OUTPUTS] = {{0}};
    for (int step = 0; step < STEPS; step++)
        for (int lane = 0; lane < LANES; lane++) {
            for (int i = 0; i < 4; i++) {
                const int64_t row = block * BLOCK + step * 64 + lane * 4 + i;
                const uint8_t *bytes = w->packed + row * w->row_bytes + column * w->bits / 8;
                if (row >= w->outputs) memset(values[i], 0, MANY_OUTPUTS);
                else if (w->bits == 8) memcpy(values[i], bytes, (size_t)count);
                else for (int64_t c = 0; c < count / 2; c++) {
                    values[i][2 * c] = (uint8_t)((bytes[c] >> 4) ^ 8);
                    values[i][2 * c + 1] = (uint8_t)((bytes[c] & 15) ^ 8);
                }
            }
            for (int part = 0; part < MANY_OUTPUTS / PANEL_OUTPUTS; part++) {
                uint32_t words[PANEL_OUTPUTS];
                for (int c = 0; c < PANEL_OUTPUTS; c++) {
                    const int from = part * PANEL_OUTPUTS + c;
                    words[c] = values[0][from] | (uint32_t)values[1][from] << 8 | (uint32_t)values[2][from] << 16 |
                               (uint32_t)values[3][from] << 24;
                }
                memcpy(panels + ((part * LANES + lane) * STEPS + step) * sizeof words, words, sizeof words);
            }
        }
}

/* sums [rows][64], 16 of each row += panel x activations of `rows` rows of block k, from `row` on */
static void multiply_rows_portable(const uint8_t *panel, const activations_t *a, int64_t k, int64_t row, int64_t rows,
                                   float *sums) {
    for (int64_t n = 0; n < rows; n++)
        for (int lane = 0; lane < LANES; lane++) {
            const int8_t *q = a->quantized + place_of(a, k, row + n) * BLOCK + lane * 4;
            const float scale = a->scale[place_of(a, k, row + n) * LANES + lane];
            int32_t integer[PANEL_OUTPUTS] = {0};
            for (int step = 0; step < STEPS; step++) {
                const int8_t *weight = (const int8_t *)panel + (lane * STEPS + step) * PANEL_OUTPUTS * 4;
                for (int c = 0; c < PANEL_OUTPUTS; c++)
                    for (int i = 0; i < 4; i++) integer[c] += weight[c * 4 + i] * q[step * STEP_BYTES + i];
            }
            for (int c = 0; c < PANEL_OUTPUTS; c++) sums[n * MANY_OUTPUTS + c] += scale * (float)integer[c];
        }
}

#if defined(__x86_64__)
AVX2_TARGET static void multiply_columns_avx2(int bits, const uint8_t *panel, const activations_t *a, int64_t k, int64_t row,
                                              int64_t rows, float *sums) {
    if (bits == 4) multiply_rows_avx2(4, panel, a, k, row, rows, sums, MANY_OUTPUTS);
    else multiply_rows_avx2(8, panel, a, k, row, rows, sums, MANY_OUTPUTS);
}
#endif

/* result[n, i] = sum over o of gradient[n, o] * weight_scale[o] * weight[o, i]
 *
 * The products with the scales are rounded to 16 bits, as two rows of 8 bits, see `quantize_block`; the blocks are of 512
 * outputs, in the order of INT8. gradient [n, o], result [n, i]: elements of `type`; weight [o, i * bits / 8];
 * weight_scale [o], half. quantized [k, 2 n, 512], scale [k, 2 n, 16], total [k, 2 n] with k = ceil(o / 512): scratch.
 * `threads` at least 1. Caller: the backward pass of `chatglm/quantization.py`.
 */
void quantized_input_gradient(int32_t path, int32_t bits, int32_t type, const void *gradient, int64_t rows, int64_t columns,
                              const uint8_t *weight, const uint16_t *weight_scale, int64_t outputs, void *result,
                              int8_t *quantized, float *scale, float *total, int32_t threads) {
    enum { LEVELS = 2 };
    const int64_t blocks = (outputs + BLOCK - 1) / BLOCK, tiles = (columns + MANY_OUTPUTS - 1) / MANY_OUTPUTS;
    const weights_t w = {weight, weight_scale, outputs, columns, columns * bits / 8, bits};
    const activations_t a = {quantized, scale, total, rows * LEVELS, blocks, 1, rows * LEVELS};
    (void)path, (void)threads; /* not used on other machines, or without OpenMP */
    OPENMP(omp parallel num_threads(threads))
    {
        OPENMP(omp for schedule(static))
        for (int64_t unit = 0; unit < rows * blocks; unit++) {
            const int64_t n = unit % rows, start = unit / rows * BLOCK, place = unit * LEVELS;
            const int64_t count = outputs - start < BLOCK ? outputs - start : BLOCK;
            quantize_block(gradient, type, n * outputs + start, count, weight_scale + start, 8, LEVELS, a.row_step,
                           quantized + place * BLOCK, scale + place * LANES, total + place);
        }
        OPENMP(omp for schedule(static))
        for (int64_t tile = 0; tile < tiles; tile++) {
            _Alignas(64) uint8_t panels[BLOCK * MANY_OUTPUTS];
            _Alignas(64) float sums[MANY_TILE_ROWS * MANY_OUTPUTS];
            const int64_t first = tile * MANY_OUTPUTS;
            const int64_t count = columns - first < MANY_OUTPUTS ? columns - first : MANY_OUTPUTS;
            for (int64_t row = 0; row < a.rows; row += MANY_TILE_ROWS) {
                const int64_t together = a.rows - row < MANY_TILE_ROWS ? a.rows - row : MANY_TILE_ROWS;
                memset(sums, 0, sizeof sums);
                for (int64_t k = 0; k < blocks; k++) {
                    fill_columns(&w, k, first, panels);
                    for (int64_t c = 0; c < MANY_OUTPUTS; c += PANEL_OUTPUTS) {
#if defined(__x86_64__)
                        if (path >= AVX2) multiply_columns_avx2(bits, panels + c * BLOCK, &a, k, row, together, sums + c);
                        else
#endif
                        multiply_rows_portable(panels + c * BLOCK, &a, k, row, together, sums + c);
                    }
                }
                for (int64_t n = 0; n < together; n += LEVELS) {
                    float *sum = sums + n * MANY_OUTPUTS;
                    const float correction = bits == 4 ? 8 * (total_of(&a, row + n) + total_of(&a, row + n + 1)) : 0;
                    for (int64_t c = 0; c < count; c++) sum[c] += sum[MANY_OUTPUTS + c] - correction;
                    store_floats(result, type, (row + n) / LEVELS * columns + first, count, sum);
                }
            }
        }
    }
}

/* Quantise a float matrix row by row in the checkpoint's format: quotient rounded to even, scale kept as half.
 *
 * input [o, i]: elements of `type`; weight [o, i * bits / 8] and weight_scale [o], half: output. Even i with 4 bits.
 * Returns how many rows have a scale that is not finite.
 */
int64_t quantize_rows(int32_t bits, int32_t type, const void *input, int64_t outputs, int64_t columns, uint8_t *weight,
                      uint16_t *weight_scale, int32_t threads) {
    const float limit = bits == 4 ? 7 : 127;
    int64_t broken = 0;
    (void)threads; /* not used without OpenMP */
    OPENMP(omp parallel for num_threads(threads) schedule(static) reduction(+ : broken))
    for (int64_t o = 0; o < outputs; o++) {
        uint8_t *row = weight + o * columns * bits / 8;
        float x[BLOCK];
        uint32_t largest = 0;
        for (int64_t start = 0; start < columns; start += BLOCK) {
            const int64_t count = columns - start < BLOCK ? columns - start : BLOCK;
            if (count < BLOCK) memset(x, 0, sizeof x);
            load_floats(input, type, o * columns + start, count, x);
            for (int c = 0; c < BLOCK; c++) largest = maximum(largest, magnitude_bits(x[c]));
        }
        const float scale = bits_to_float(largest) / limit, divisor = largest == 0 ? 1 : scale;
        weight_scale[o] = float_to_half(scale);
        if ((weight_scale[o] & 0x7c00) == 0x7c00) broken++;
        for (int64_t start = 0; start < columns && largest < INFINITE; start += BLOCK) {
            const int64_t count = columns - start < BLOCK ? columns - start : BLOCK;
            int8_t q[BLOCK];
            load_floats(input, type, o * columns + start, count, x);
            for (int c = 0; c < BLOCK; c++) q[c] = (int8_t)rintf(x[c] / divisor);
            if (bits == 8) memcpy(row + start, q, (size_t)count);
            else for (int64_t c = 0; c < count / 2; c++)
                row[start / 2 + c] = (uint8_t)((uint8_t)q[2 * c] << 4 | (q[2 * c + 1] & 15));
        }
    }
    return broken;
}

/* ---- attention of new tokens ---- */

typedef float floats_t __attribute__((vector_size(64)));
typedef uint32_t words_t __attribute__((vector_size(64)));
typedef int32_t integers_t __attribute__((vector_size(64)));
typedef uint16_t halves_t __attribute__((vector_size(32)));
typedef int8_t bytes_t __attribute__((vector_size(16)));

enum { LARGEST_HEAD = 256 };

/* 16 elements of an array of the given type, which need not be aligned */
static inline __attribute__((always_inline)) floats_t load_vector(const void *array, int32_t type, int64_t start) {
    floats_t values;
    halves_t halves;
    if (type == FLOAT32) {
        memcpy(&values, (const float *)array + start, sizeof values);
        return values;
    }
    if (type == INT8) {
        bytes_t bytes;
        memcpy(&bytes, (const int8_t *)array + start, sizeof bytes);
#ifdef __AVX512F__
        const __m512 converted = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)bytes));
        memcpy(&values, &converted, sizeof values);
        return values;
#elif defined(__AVX2__)
        const __m128i low = (__m128i)bytes;
        const __m256 pair[2] = {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low)),
                                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(low, 8)))};
        memcpy(&values, pair, sizeof values);
        return values;
#endif
        return __builtin_convertvector(__builtin_convertvector(bytes, integers_t), floats_t);
    }
#ifdef __F16C__
    if (type == FLOAT16) {
        const __m128i *source = (const __m128i *)((const uint16_t *)array + start);
        const __m256 pair[2] = {_mm256_cvtph_ps(_mm_loadu_si128(source)), _mm256_cvtph_ps(_mm_loadu_si128(source + 1))};
        memcpy(&values, pair, sizeof values);
        return values;
    }
#endif
    memcpy(&halves, (const uint16_t *)array + start, sizeof halves);
    const words_t words = __builtin_convertvector(halves, words_t);
    if (type == BFLOAT16) return (floats_t)(words << 16);
    /* as half_to_float, for finite numbers */
    return (floats_t)((words_t)((floats_t)((words & 0x7fff) << 13) * 0x1p112f) | (words & 0x8000) << 16);
}

static inline __attribute__((always_inline)) float sum_lanes(floats_t values) {
    float lanes[LANES];
    memcpy(lanes, &values, sizeof lanes);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int lane = 0; lane < width; lane++) lanes[lane] += lanes[lane + width];
    return lanes[0];
}

/* Keys and values of type INT8 are integers, and behind those of a token the half scale, see `chatglm/int8_states.py`. */
enum { SCALE_BYTES = 2 };

static inline float state_scale(const void *array, int32_t type, int64_t end) {
    uint16_t scale;
    if (type != INT8) return 1;
    memcpy(&scale, (const int8_t *)array + end, SCALE_BYTES);
    return half_to_float(scale);
}

static void store_state(void *array, int32_t type, int64_t start, int64_t size, const float *values) {
    if (type != INT8) {
        store_floats(array, type, start, size, values);
        return;
    }
    int8_t *integers = (int8_t *)array + start;
    uint32_t largest = 0;
    for (int64_t c = 0; c < size; c++) largest = maximum(largest, magnitude_bits(values[c]));
    const uint16_t half = float_to_half(bits_to_float(largest) / 127);
    const float scale = half_to_float(half);
    const int usable = scale > 0 && scale < INFINITY; /* not zero, infinite or NaN */
    for (int64_t c = 0; c < size; c++) {
        const float ratio = usable ? values[c] / scale : 0;
        integers[c] = (int8_t)rintf(ratio > 127 ? 127 : ratio < -127 ? -127 : ratio);
    }
    memcpy(integers + size, &half, SCALE_BYTES);
}

/* One head: scores[t] = softmax(query . key[t] / sqrt(d)), context = sum over t of scores[t] value[t]. */
static inline __attribute__((always_inline)) void attend_head(const int32_t type, const int64_t parts, const float *query,
                                                              const void *key, const void *value, int64_t start,
                                                              int64_t length, const uint8_t *visible, float *scores,
                                                              float *context) {
    const int64_t size = parts * LANES, stride = size + (type == INT8 ? SCALE_BYTES : 0);
    floats_t q[LARGEST_HEAD / LANES], sum[LARGEST_HEAD / LANES];
    float largest = -INFINITY, total = 0;
    for (int64_t part = 0; part < parts; part++) {
        q[part] = load_vector(query, FLOAT32, part * LANES);
        sum[part] = (floats_t){0};
    }
    for (int64_t t = 0; t < length; t++) {
        floats_t product = q[0] * load_vector(key, type, start + t * stride);
        for (int64_t part = 1; part < parts; part++)
            product += q[part] * load_vector(key, type, start + t * stride + part * LANES);
        const float scale = state_scale(key, type, start + t * stride + size);
        scores[t] = visible && !visible[t] ? -INFINITY : sum_lanes(product) * scale;
        largest = scores[t] > largest ? scores[t] : largest;
    }
    for (int64_t t = 0; t < length; t++) scores[t] = exponential(scores[t] - largest);
    for (int64_t t = 0; t < length; t++) total += scores[t];
    for (int64_t t = 0; t < length; t++) {
        const float weight = scores[t] / total * state_scale(value, type, start + t * stride + size);
        for (int64_t part = 0; part < parts; part++)
            sum[part] += weight * load_vector(value, type, start + t * stride + part * LANES);
    }
    memcpy(context, sum, (size_t)size * sizeof(float));
}

/* Rotate each new token's query and key, append its key and value to the cache, and attend to all that its row has cached.
 *
 * `batch` new tokens, `tokens` of each row of the cache, one behind the other: a token sees the keys of those before it.
 * mixed [b, h, 3, d]: query, key and value; cosine, sine [b, d] as `rotary_tables` makes them; keys, values
 * [b / tokens, h, capacity, d], to be written at positions [b]; visible [b, mask_stride], 1 for keys that may be seen, or
 * NULL; context [b, h, d]: output; scores [b, h, longest], longest the largest position + 1: scratch. mixed and context
 * have elements of `mixed_type`, cosine and sine of `table_type`, keys and values of `type` (with INT8, d + 2 bytes for d);
 * d a multiple of 16, at most 256.
 */
static void attend(int32_t type, int32_t table_type, int32_t mixed_type, const void *mixed, const void *cosine,
                   const void *sine, void *keys, void *values, const uint8_t *visible, int64_t mask_stride, void *context,
                   float *scores, int64_t longest, int64_t batch, int64_t tokens, int64_t heads, int64_t size,
                   int64_t capacity, const int64_t *positions, int32_t threads) {
    (void)threads; /* not used without OpenMP */
    OPENMP(omp parallel for num_threads(threads) schedule(static))
    for (int64_t head = 0; head < batch / tokens * heads; head++) /* of all rows; its tokens in their order */
        for (int64_t b = head / heads * tokens; b < (head / heads + 1) * tokens; b++) {
            const int64_t unit = b * heads + head % heads, quarter = size / 4, length = positions[b] + 1;
            const int64_t stride = size + (type == INT8 ? SCALE_BYTES : 0), start = head * capacity * stride;
            float token[3 * LARGEST_HEAD], cos[LARGEST_HEAD], sin[LARGEST_HEAD], rotated[2 * LARGEST_HEAD];
            load_floats(mixed, mixed_type, unit * 3 * size, 3 * size, token);
            load_floats(cosine, table_type, b * size, size, cos);
            load_floats(sine, table_type, b * size, size, sin);
            for (int64_t i = 0; i < 2 * size; i++) { /* number i of a half turns with number i + d/4 */
                const int64_t pair = i / quarter % 2 ? i - quarter : i + quarter;
                rotated[i] = token[i] * cos[i % size] + token[pair] * sin[i % size];
            }
            store_state(keys, type, start + positions[b] * stride, size, rotated + size);
            store_state(values, type, start + positions[b] * stride, size, token + 2 * size);
            for (int64_t i = 0; i < size; i++) rotated[i] /= sqrtf((float)size);
            float result[LARGEST_HEAD], *row_scores = scores + unit * longest;
            const uint8_t *row_visible = visible ? visible + b * mask_stride : NULL;
            if (type == BFLOAT16 && size == 128)
                attend_head(BFLOAT16, 8, rotated, keys, values, start, length, row_visible, row_scores, result);
            else if (type == FLOAT16 && size == 128)
                attend_head(FLOAT16, 8, rotated, keys, values, start, length, row_visible, row_scores, result);
            else if (type == INT8 && size == 128)
                attend_head(INT8, 8, rotated, keys, values, start, length, row_visible, row_scores, result);
            else attend_head(type, size / LANES, rotated, keys, values, start, length, row_visible, row_scores, result);
            store_floats(context, mixed_type, unit * size, size, result);
        }
}

/* `attend` for one token a row, with everything of one type but for the cache */
void decode_attention(int32_t type, int32_t cache_type, const void *mixed, const void *cosine, const void *sine, void *keys,
                      void *values, const uint8_t *visible, int64_t mask_stride, void *context, float *scores,
                      int64_t longest, int64_t batch, int64_t heads, int64_t size, int64_t capacity,
                      const int64_t *positions, int32_t threads) {
    attend(cache_type, type, type, mixed, cosine, sine, keys, values, visible, mask_stride, context, scores, longest, batch,
           1, heads, size, capacity, positions, threads);
}

/* ---- one block for new tokens ---- */

typedef struct {
    const void *weight, *bias;    /* [e] */
    float epsilon;
} norm_t;

typedef struct {
    norm_t first, second;
    matrix_t query_key_value, dense, dense_h_to_4h, dense_4h_to_h;
} block_t;

/* output [e] = the layer norm of input [e]; e a multiple of 16 */
static void normalize(const norm_t *norm, int32_t type, const float *input, int64_t width, float *output) {
    floats_t sum = {0}, squares = {0};
    float chunk[BLOCK];
    for (int64_t c = 0; c < width; c += LANES) sum += load_vector(input, FLOAT32, c);
    const float mean = sum_lanes(sum) / (float)width;
    for (int64_t c = 0; c < width; c += LANES) {
        const floats_t centred = load_vector(input, FLOAT32, c) - mean;
        squares += centred * centred;
    }
    const float factor = 1 / sqrtf(sum_lanes(squares) / (float)width + norm->epsilon);
    for (int64_t c = 0; c < width; c++) output[c] = (input[c] - mean) * factor;
    for (int64_t start = 0; start < width; start += BLOCK) {
        const int64_t count = width - start < BLOCK ? width - start : BLOCK;
        load_floats(norm->weight, type, start, count, chunk);
        for (int64_t c = 0; c < count; c++) output[start + c] *= chunk[c];
        load_floats(norm->bias, type, start, count, chunk);
        for (int64_t c = 0; c < count; c++) output[start + c] += chunk[c];
    }
}

/* Map hidden [b, e], elements of `type`, to what the block makes of it, in place; numbers in between are floats, keys and
 * values of `cache_type`. Tokens that come together get what they would get one by one, to the last bit, as long as
 * `multiply` has each row's sums in the same order, see `rows_as_alone` in `chatglm/cpu_decode.py`.
 *
 * cosine ... visible, longest ... positions: see `attend`. work [b, 6 e + inner]: scratch, as are scores [b, h, longest]
 * and the rest, see `multiply_quantized`, for the larger of e and inner columns and the matrices' most levels.
 */
void decode_block(int32_t path, int32_t type, int32_t cache_type, const block_t *block, void *hidden, float residual_scale,
                  const void *cosine, const void *sine, void *keys, void *values, const uint8_t *visible,
                  int64_t mask_stride, int64_t longest, int64_t batch, int64_t tokens, int64_t heads, int64_t size,
                  int64_t capacity, const int64_t *positions, float *work, float *scores, int8_t *quantized, float *scale, float *total,
                  int32_t threads) {
    const int64_t width = heads * size;
    float *residual = work, *mixed = residual + batch * width, *context = mixed + 3 * batch * width;
    float *state = context + batch * width, *inner = state + batch * width;
    const epilogue_t none = {NULL, 0, 0}, act = {NULL, 0, 1}, add = {residual, residual_scale, 0};
    load_floats(hidden, type, 0, batch * width, state);
    for (int64_t b = 0; b < batch; b++) normalize(&block->first, type, state + b * width, width, residual + b * width);
    multiply(path, &block->query_key_value, residual, FLOAT32, batch, &none, mixed, FLOAT32, quantized, scale, total,
             threads);
    attend(cache_type, type, FLOAT32, mixed, cosine, sine, keys, values, visible, mask_stride, context, scores, longest,
           batch, tokens, heads, size, capacity, positions, threads);
    multiply(path, &block->dense, context, FLOAT32, batch, &add, state, FLOAT32, quantized, scale, total, threads);
    for (int64_t b = 0; b < batch; b++) normalize(&block->second, type, state + b * width, width, residual + b * width);
    multiply(path, &block->dense_h_to_4h, residual, FLOAT32, batch, &act, inner, FLOAT32, quantized, scale, total,
             threads);
    multiply(path, &block->dense_4h_to_h, inner, FLOAT32, batch, &add, hidden, type, quantized, scale, total, threads);
}
