// CUDA kernels of ChatGLM-6B: unpacking of INT8 and INT4 weights, and the steps of decoding one token a row.
//
// Packed weights, one row for each output feature, rows one after the other:
//     INT8   byte i = column i, signed
//     INT4   byte i = column 2i in the high nibble, column 2i + 1 in the low nibble, both signed
//     weight[o, i] = packed[o, i] * scale[o]
// By hand: the INT4 row [7, -1, -3, 2] is the bytes 0x7f 0xd2.
//
// Shapes: n rows of the input, i input features, o output features; b batch, h heads, d head size, e hidden, l layers.
// Number types: half_t, bfloat16_t and float; sums are float. No header is needed, so that any NVRTC compiles the file:
//     nvcc -cubin -arch=sm_90 quantization_kernels.cu
// Needs sm_75. From sm_80 on `linear_*` multiplies on the tensor cores (half_t, bfloat16_t), before in float.
// Every kernel has a PyTorch twin `..._reference` in cuda_kernels.py, which also says how each is launched.

// ---------------------------------------------------------------------------------------------------------------------
// Numbers
// ---------------------------------------------------------------------------------------------------------------------

struct half_t { unsigned short bits; };
struct bfloat16_t { unsigned short bits; };
struct alignas(16) Vector { unsigned int word[4]; };  // what a thread loads at once

#ifdef __CUDACC__
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define TENSOR_CORES 1
#endif

__device__ __forceinline__ float to_float(half_t x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

__device__ __forceinline__ half_t to_half(float x) {
    half_t y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Weights are read once: they should not displace the activations from the first-level cache. (Through the read-only
// path, `ld.global.nc`, the compiler would move these loads behind `wait_for_earlier_kernels`.)
__device__ __forceinline__ Vector load_once(const Vector *p) {
    Vector v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(p));
    return v;
}

// Bytes of a (selectors 0 to 3) and b (4 to 7), one selector a nibble of s, lowest byte first.
__device__ __forceinline__ unsigned int select_bytes(unsigned int a, unsigned int b, unsigned int s) {
    return __byte_perm(a, b, s);
}

// (x & mask) ^ flip in one instruction; left to itself the compiler makes two of it.
__device__ __forceinline__ unsigned int mask_flip(unsigned int x, unsigned int mask, unsigned int flip) {
    asm("lop3.b32 %0, %0, %1, %2, 0x6a;" : "+r"(x) : "r"(mask), "r"(flip));
    return x;
}

__device__ __forceinline__ float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }

// From sm_90 on the kernels of a decode graph overlap: the next one starts when all blocks of this one have, and reads
// nothing but weights before it waits for this one's end. Every kernel waits, so that whatever came earlier has ended.
__device__ __forceinline__ void let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ void wait_for_earlier_kernels() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// x * scale + offset for two packed numbers, each exact here.
__device__ __forceinline__ unsigned int multiply_add_pair(half_t, unsigned int x, unsigned int scale,
                                                          unsigned int offset) {
    asm("fma.rn.f16x2 %0, %0, %1, %2;" : "+r"(x) : "r"(scale), "r"(offset));
    return x;
}

#ifdef TENSOR_CORES
__device__ __forceinline__ unsigned int multiply_add_pair(bfloat16_t, unsigned int x, unsigned int scale,
                                                          unsigned int offset) {
    asm("fma.rn.bf16x2 %0, %0, %1, %2;" : "+r"(x) : "r"(scale), "r"(offset));
    return x;
}

// sum [16, 8] += a [16, 16] * b [16, 8] over a warp. Lane 4g + m holds of a: rows g and g + 8, of b: column g, both at
// depths {2m, 2m + 1} (first pair) and {2m + 8, 2m + 9} (second pair); of sum: rows g and g + 8, columns 2m and 2m + 1.
__device__ __forceinline__ void multiply_tile(half_t, float *sum, unsigned int a_first, unsigned int a8_first,
                                              unsigned int a_second, unsigned int a8_second, unsigned int b_first,
                                              unsigned int b_second) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a_first), "r"(a8_first), "r"(a_second), "r"(a8_second), "r"(b_first), "r"(b_second));
}

__device__ __forceinline__ void multiply_tile(bfloat16_t, float *sum, unsigned int a_first, unsigned int a8_first,
                                              unsigned int a_second, unsigned int a8_second, unsigned int b_first,
                                              unsigned int b_second) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a_first), "r"(a8_first), "r"(a_second), "r"(a8_second), "r"(b_first), "r"(b_second));
}
#endif
#endif  // __CUDACC__; elsewhere the tests define these functions on the CPU

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bfloat16_t x) { return __uint_as_float((unsigned int)x.bits << 16); }

template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ half_t from_float<half_t>(float x) { return to_half(x); }
template <> __device__ __forceinline__ bfloat16_t from_float<bfloat16_t>(float x) {  // halves to even, NaN stays NaN
    unsigned int bits = __float_as_uint(x);
    unsigned int rounded = x != x ? bits | 0x00400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
    bfloat16_t y;
    y.bits = (unsigned short)(rounded >> 16);
    return y;
}

// N consecutive numbers, loaded or stored with the widest accesses that their alignment allows.
template <typename T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
    T value[N];
};

template <int N, typename T> __device__ __forceinline__ void load_floats(const T *p, float *value) {
    Pack<T, N> pack = *reinterpret_cast<const Pack<T, N> *>(p);
#pragma unroll
    for (int i = 0; i < N; i++) value[i] = to_float(pack.value[i]);
}

// The 32 / BITS weights of a word as floats, in column order, without scale; BITS 16 and 32 are not packed.
// An integer is put under the exponent of 2^23, whose last place is 1, and what comes with it is subtracted.
template <int BITS, typename T> struct Weights {
    __device__ static __forceinline__ void unpack(unsigned int word, float *value) {
        Pack<T, 32 / BITS> pack;
        *reinterpret_cast<unsigned int *>(&pack) = word;
#pragma unroll
        for (int i = 0; i < 32 / BITS; i++) value[i] = to_float(pack.value[i]);
    }
};

template <typename T> struct Weights<8, T> {
    __device__ static __forceinline__ void unpack(unsigned int word, float *value) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            value[i] = __uint_as_float(mask_flip(word >> 8 * i, 0xffu, 0x4b000080u)) - 8388736.0f;
    }
};

template <typename T> struct Weights<4, T> {
    __device__ static __forceinline__ void unpack(unsigned int word, float *value) {
#pragma unroll
        for (int i = 0; i < 8; i++)  // of byte i / 2 the high nibble first
            value[i] = __uint_as_float(mask_flip(word >> (i ^ 1) * 4, 0xfu, 0x4b000008u)) - 8388616.0f;
    }
};

// ---------------------------------------------------------------------------------------------------------------------
// unpack: output[o, i] = packed[o, i] * scale[o], rounded once to T (as the original's weight extraction)
// Grid (ceil(bytes / 4 / 256), rows), 256 threads: a thread unpacks 4 bytes. Any number of bytes a row.
// Called for prompts and gradients, before a matrix multiplication of many rows.
// ---------------------------------------------------------------------------------------------------------------------

template <int BITS, typename T>
__device__ __forceinline__ void unpack(const unsigned char *weight, const half_t *scale, T *output,
                                       long long row_bytes) {
    wait_for_earlier_kernels();
    const int COLUMNS = 32 / BITS;  // of a word
    const long long row = blockIdx.y, byte = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (byte >= row_bytes) return;
    const float row_scale = to_float(scale[row]);
    const bool aligned = row_bytes % 4 == 0;
    const long long bytes = row_bytes - byte < 4 ? row_bytes - byte : 4;
    unsigned int word = 0;
    weight += row * row_bytes + byte;
    if (aligned) {
        word = *reinterpret_cast<const unsigned int *>(weight);
    } else {
        for (int i = 0; i < bytes; i++) word |= (unsigned int)weight[i] << 8 * i;
    }
    float value[COLUMNS];
    Weights<BITS, T>::unpack(word, value);
    Pack<T, COLUMNS> pack;
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) pack.value[i] = from_float<T>(value[i] * row_scale);
    output += (row * row_bytes + byte) * (8 / BITS);
    if (aligned) {
        *reinterpret_cast<Pack<T, COLUMNS> *>(output) = pack;
    } else {
#pragma unroll
        for (int i = 0; i < COLUMNS; i++)
            if (i < bytes * (8 / BITS)) output[i] = pack.value[i];
    }
}

#define UNPACK(NAME, BITS, T)                                                                    \
    extern "C" __global__ void __launch_bounds__(256)                                            \
        NAME(const unsigned char *weight, const half_t *scale, T *output, long long row_bytes) { \
        unpack<BITS, T>(weight, scale, output, row_bytes);                                       \
    }

UNPACK(unpack_int4_half, 4, half_t)
UNPACK(unpack_int4_bfloat16, 4, bfloat16_t)
UNPACK(unpack_int4_float, 4, float)
UNPACK(unpack_int8_half, 8, half_t)
UNPACK(unpack_int8_bfloat16, 8, bfloat16_t)
UNPACK(unpack_int8_float, 8, float)

// ---------------------------------------------------------------------------------------------------------------------
// linear: output[n, o] = gelu?(sum_i input[n, i] * weight[o, i] * scale[o] + bias[o]) + factor * residual[n, o]
// Weights packed (BITS 4 or 8), or of the type T (BITS 16 or 32; no scale). Needs whole vectors: i a multiple of
// 128 / BITS, everything 16-byte aligned. Grid (ceil(n / 8), any), 256 threads: the blocks take the tiles of 16 output
// features by 8 rows in turn, best as many blocks as the GPU holds at once. The 8 warps of a block share out the input
// features of a tile and add up at its end, while the weights of the next one are on their way. `linear_*_wide_*`, with
// ceil(n / 32): 32 features by 32 rows, which reads neither as often. Called for each matrix of a decode step.
// ---------------------------------------------------------------------------------------------------------------------

#define LINEAR_WARPS 8
#define LINEAR_THREADS (32 * LINEAR_WARPS)
#define LINEAR_BLOCKS 2  // for which a multiprocessor has the registers

#ifdef TENSOR_CORES
// The weights of a word, and the matching inputs, as pairs of T in one order; which one does not matter to the sum.
template <int BITS, typename T> struct Pairs {  // not packed: a word is a pair
    __device__ static __forceinline__ void weights(unsigned int word, unsigned int *pair) { pair[0] = word; }
    __device__ static __forceinline__ void inputs(const unsigned int *word, unsigned int *pair) { pair[0] = word[0]; }
};

template <> struct Pairs<8, half_t> {  // columns (0, 1), (2, 3): 1024 + 128 + weight, less 1152
    __device__ static __forceinline__ void weights(unsigned int word, unsigned int *pair) {
        word ^= 0x80808080u;
        pair[0] = multiply_add_pair(half_t(), select_bytes(word, 0x64646464u, 0x4140u), 0x3c003c00u, 0xe480e480u);
        pair[1] = multiply_add_pair(half_t(), select_bytes(word, 0x64646464u, 0x4342u), 0x3c003c00u, 0xe480e480u);
    }
    __device__ static __forceinline__ void inputs(const unsigned int *word, unsigned int *pair) {
        pair[0] = word[0];
        pair[1] = word[1];
    }
};

template <> struct Pairs<8, bfloat16_t> {  // the upper halves of exact floats
    __device__ static __forceinline__ void weights(unsigned int word, unsigned int *pair) {
        float value[4];
        Weights<8, bfloat16_t>::unpack(word, value);
        pair[0] = select_bytes(__float_as_uint(value[0]), __float_as_uint(value[1]), 0x7632u);
        pair[1] = select_bytes(__float_as_uint(value[2]), __float_as_uint(value[3]), 0x7632u);
    }
    __device__ static __forceinline__ void inputs(const unsigned int *word, unsigned int *pair) {
        pair[0] = word[0];
        pair[1] = word[1];
    }
};

// INT4: equal nibbles of bytes 0 and 2, then of bytes 1 and 3: columns (1, 5), (0, 4), (3, 7), (2, 6).
__device__ __forceinline__ void int4_inputs(const unsigned int *word, unsigned int *pair) {
    pair[0] = select_bytes(word[0], word[2], 0x7632u);
    pair[1] = select_bytes(word[0], word[2], 0x5410u);
    pair[2] = select_bytes(word[1], word[3], 0x7632u);
    pair[3] = select_bytes(word[1], word[3], 0x5410u);
}

template <> struct Pairs<4, half_t> {  // low nibbles: 1024 + 8 + weight, less 1032; high: 1024 + 16 * (8 + weight)
    __device__ static __forceinline__ void weights(unsigned int word, unsigned int *pair) {
#pragma unroll
        for (int i = 0; i < 4; i += 2, word >>= 8) {
            pair[i] = multiply_add_pair(half_t(), mask_flip(word, 0x000f000fu, 0x64086408u), 0x3c003c00u, 0xe408e408u);
            pair[i + 1] =
                multiply_add_pair(half_t(), mask_flip(word, 0x00f000f0u, 0x64806480u), 0x2c002c00u, 0xd480d480u);
        }
    }
    __device__ static __forceinline__ void inputs(const unsigned int *word, unsigned int *pair) {
        int4_inputs(word, pair);
    }
};

template <> struct Pairs<4, bfloat16_t> {  // 128 + 8 + weight, less 136
    __device__ static __forceinline__ void weights(unsigned int word, unsigned int *pair) {
#pragma unroll
        for (int i = 0; i < 4; i++, word >>= 4)
            pair[i] =
                multiply_add_pair(bfloat16_t(), mask_flip(word, 0x000f000fu, 0x43084308u), 0x3f803f80u, 0xc308c308u);
    }
    __device__ static __forceinline__ void inputs(const unsigned int *word, unsigned int *pair) {
        int4_inputs(word, pair);
    }
};

// A lane's part of a tile's sums, 16 FEATURE_TILES output features by 8 ROW_TILES rows: lane 4g + m has features g and
// g + 8 and rows 2m and 2m + 1 of each. Unpacked weights are used for all rows, inputs for all features.
template <int BITS, typename T, bool WIDE> struct TensorTile {
    // LOADS: vectors of each of its rows of weights that a thread has under way, while it multiplies as many
    enum { FEATURE_TILES = WIDE ? 2 : 1, ROW_TILES = WIDE ? 4 : 1, ROWS = 8 * ROW_TILES };
    enum { LOADS = WIDE ? 1 : 4, PASSES = 1 };
    float sum[FEATURE_TILES][WIDE ? ROW_TILES : 2][4] = {};  // of one tile two sums, so that one need not wait

    // Adds weight * input over the columns of a vector: of the weights, rows g and g + 8 of each tile; of the inputs,
    // this lane's row of each tile.
    __device__ __forceinline__ void add(const Vector *weight, const T *input, int in_features, int rows, int group) {
        const int VECTORS = BITS < 16 ? 16 / BITS : 1;  // of inputs: 8 columns each, which are 4 pairs
        const int WORDS = 4 / VECTORS, PAIRS = 4 / WORDS;
        Vector x[VECTORS][ROW_TILES];
        auto load_inputs = [&](int vector) {  // past the last row it again: what comes of it is not stored
#pragma unroll
            for (int tile = 0; tile < ROW_TILES; tile++)
                x[vector][tile] = reinterpret_cast<const Vector *>(
                    input + (long long)min(8 * tile + group, rows - 1) * in_features)[vector];
        };
        load_inputs(0);
#pragma unroll
        for (int vector = 0; vector < VECTORS; vector++) {
            if (vector + 1 < VECTORS) load_inputs(vector + 1);
            unsigned int pairs[2 * FEATURE_TILES][4];
#pragma unroll
            for (int row = 0; row < 2 * FEATURE_TILES; row++) {
#pragma unroll
                for (int i = 0; i < WORDS; i++)
                    Pairs<BITS, T>::weights(weight[row].word[vector * WORDS + i], pairs[row] + i * PAIRS);
            }
#pragma unroll
            for (int tile = 0; tile < ROW_TILES; tile++) {
                if (tile && 8 * tile >= rows) break;  // the same for the whole block
                unsigned int inputs[4];
#pragma unroll
                for (int i = 0; i < WORDS; i++)
                    Pairs<BITS, T>::inputs(x[vector][tile].word + i * PAIRS, inputs + i * PAIRS);
#pragma unroll
                for (int feature = 0; feature < FEATURE_TILES; feature++) {
                    const unsigned int *a = pairs[2 * feature], *a8 = pairs[2 * feature + 1];
#pragma unroll
                    for (int i = 0; i < 4; i += 2)
                        multiply_tile(T(), sum[feature][WIDE ? tile : i / 2], a[i], a8[i], a[i + 1], a8[i + 1],
                                      inputs[i], inputs[i + 1]);
                }
            }
        }
    }

    __device__ __forceinline__ void store(float (*partial)[ROWS + 1], int group, int member) {
#pragma unroll
        for (int feature = 0; feature < FEATURE_TILES; feature++) {
#pragma unroll
            for (int tile = 0; tile < ROW_TILES; tile++) {
#pragma unroll
                for (int i = 0; i < 4; i++)
                    partial[16 * feature + group + i / 2 * 8][8 * tile + 2 * member + i % 2] =
                        WIDE ? sum[feature][tile][i] : sum[feature][0][i] + sum[feature][1][i];
            }
        }
    }
};
#endif

template <int BITS, typename T, bool WIDE> struct FloatTile {
    enum { FEATURE_TILES = 1, LOADS = 1, PASSES = WIDE ? 4 : 1, ROWS = 8 };  // for so many sums there are no registers
    float sum[2][ROWS] = {};  // features g and g + 8, all rows; over this lane's columns

    __device__ __forceinline__ void add(const Vector *weight, const T *input, int in_features, int rows, int) {
        const int COLUMNS = 32 / BITS;  // of a word
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float first[COLUMNS], second[COLUMNS], x[COLUMNS];
            Weights<BITS, T>::unpack(weight[0].word[i], first);
            Weights<BITS, T>::unpack(weight[1].word[i], second);
#pragma unroll
            for (int row = 0; row < ROWS; row++) {
                if (row >= rows) break;
                load_floats<COLUMNS>(input + (long long)row * in_features + i * COLUMNS, x);
#pragma unroll
                for (int column = 0; column < COLUMNS; column++) {
                    sum[0][row] += first[column] * x[column];
                    sum[1][row] += second[column] * x[column];
                }
            }
        }
    }

    __device__ __forceinline__ void store(float (*partial)[ROWS + 1], int group, int member) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int row = 0; row < ROWS; row++) {
                float value = sum[half][row];
                value += shuffle_xor(value, 1);
                value += shuffle_xor(value, 2);
                if (member == 0) partial[group + 8 * half][row] = value;
            }
        }
    }
};

#ifdef TENSOR_CORES
#define SHORT_TILE TensorTile
#else
#define SHORT_TILE FloatTile
#endif

__device__ __forceinline__ float gelu(float x) {  // the tanh form
    return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

template <typename T> struct Linear {
    const T *input;  // neither this nor `residual` is `__restrict__`: the read-only cache may hold what was before
    const Vector *weight;
    const half_t *scale;
    const T *bias, *residual;
    float factor;
    int apply_gelu;
    T *output;
    int rows, in_features, out_features;
};

// A block's ROWS rows from `first_row` on, by all of its tiles of output features.
template <int BITS, typename T, typename Tile>
__device__ __forceinline__ void linear_pass(const Linear<T> &of, const int first_row) {
    const int COLUMNS = 128 / BITS;  // of a vector
    const int WEIGHT_ROWS = 2 * Tile::FEATURE_TILES, FEATURES = 8 * WEIGHT_ROWS, STRIDE = 4 * LINEAR_WARPS;
    const int TURNS = FEATURES * Tile::ROWS < 1024 ? 2 : 1;  // what the shared memory has room for
    __shared__ float partial[TURNS][LINEAR_WARPS][FEATURES][Tile::ROWS + 1];
    const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    const int vectors = of.in_features / COLUMNS, steps = (vectors + STRIDE * Tile::LOADS - 1) / (STRIDE * Tile::LOADS);
    const int tiles = (of.out_features + FEATURES - 1) / FEATURES;
    const int rows = min(of.rows - first_row, (int)Tile::ROWS);
    const T *input = of.input + (long long)first_row * of.in_features;

    // The four lanes of a group read 64 bytes of its rows, the warps of a block one such stretch after the other. Past
    // the last feature the last one is read again, and not stored; past the last column there are zeros.
    auto load_weights = [&](Vector(*load)[WEIGHT_ROWS], int tile, int step) {
        const Vector *row[WEIGHT_ROWS];
#pragma unroll
        for (int i = 0; i < WEIGHT_ROWS; i++)
            row[i] = of.weight + (long long)min(FEATURES * tile + group + 8 * i, of.out_features - 1) * vectors;
#pragma unroll
        for (int i = 0; i < Tile::LOADS; i++) {
            const int vector = STRIDE * (Tile::LOADS * step + i) + 4 * warp + member;
#pragma unroll
            for (int j = 0; j < WEIGHT_ROWS; j++)
                load[i][j] = vector < vectors && tile < tiles ? load_once(row[j] + vector) : Vector();
        }
    };

    // Where a tile ends, a thread has one of its features in every ROW_STEP-th row. What it needs there lies in no
    // cache, and is asked for with the weights.
    const int ROW_STEP = LINEAR_THREADS / FEATURES;
    const int own_feature = threadIdx.x % FEATURES, own_row = threadIdx.x / FEATURES;
    half_t scale = {};
    T bias = {};
    auto load_constants = [&](int tile) {
        const int feature = min(FEATURES * tile + own_feature, of.out_features - 1);
        if (BITS < 16) scale = of.scale[feature];
        if (of.bias) bias = of.bias[feature];
    };

    Vector load[2][Tile::LOADS][WEIGHT_ROWS];
    int tile = blockIdx.y, step = 0, turn = 0;
    load_weights(load[0], tile, step);
    load_constants(tile);
    wait_for_earlier_kernels();
    Tile sums;
    while (tile < tiles) {
#pragma unroll
        for (int now = 0; now < 2; now++) {  // the two sets of registers take turns
            if (tile >= tiles) break;        // the same for the whole block
            const bool last = step + 1 == steps;
            const int next_tile = last ? tile + gridDim.y : tile, next_step = last ? 0 : step + 1;
            const int feature = FEATURES * tile + own_feature;
            const float tile_scale = to_float(scale), tile_bias = to_float(bias);
            T residual = {};
            load_weights(load[1 - now], next_tile, next_step);
            if (last) {
                load_constants(next_tile);
                if (of.residual && own_row < rows && feature < of.out_features)
                    residual = of.residual[(long long)(first_row + own_row) * of.out_features + feature];
            }
#pragma unroll
            for (int i = 0; i < Tile::LOADS; i++) {  // past the last column, zeros times the last vector
                const int vector = min(STRIDE * (Tile::LOADS * step + i) + 4 * warp + member, vectors - 1);
                sums.add(load[now][i], input + vector * COLUMNS, of.in_features, rows, group);
            }
            if (last) {
                sums.store(partial[turn][warp], group, member);
                sums = Tile();
                __syncthreads();
#pragma unroll
                for (int i = 0; i < Tile::ROWS; i += ROW_STEP) {
                    const int row = own_row + i;
                    if (row >= rows || feature >= of.out_features) break;
                    const long long place = (long long)(first_row + row) * of.out_features + feature;
                    float value = 0.0f;
#pragma unroll
                    for (int j = 0; j < LINEAR_WARPS; j++) value += partial[turn][j][own_feature][row];
                    if (BITS < 16) value *= tile_scale;
                    if (of.bias) value += tile_bias;
                    if (of.apply_gelu) value = gelu(value);
                    if (of.residual) value += of.factor * to_float(i ? of.residual[place] : residual);
                    of.output[place] = from_float<T>(value);
                }
                turn = TURNS - 1 - turn;
                if (TURNS == 1) __syncthreads();  // `partial` has been read
            }
            tile = next_tile;
            step = next_step;
        }
    }
}

template <int BITS, typename T, typename Tile> __device__ __forceinline__ void linear(const Linear<T> &of) {
    let_next_kernel_start();
#pragma unroll 1
    for (int pass = 0; pass < Tile::PASSES; pass++) {
        const int first_row = Tile::ROWS * (Tile::PASSES * (int)blockIdx.x + pass);
        if (first_row >= of.rows) break;
        if (pass) __syncthreads();  // `partial` has been read
        linear_pass<BITS, T, Tile>(of, first_row);
    }
}

#define LINEAR(NAME, BITS, T, TILE, WIDE)                                                                 \
    extern "C" __global__ void __launch_bounds__(LINEAR_THREADS, LINEAR_BLOCKS)                           \
        NAME(const T *input, const Vector *weight, const half_t *scale, const T *bias, const T *residual, \
             float factor, int apply_gelu, T *output, int rows, int in_features, int out_features) {      \
        linear<BITS, T, TILE<BITS, T, WIDE>>({input, weight, scale, bias, residual, factor, apply_gelu,   \
                                              output, rows, in_features, out_features});                  \
    }
#define LINEAR_PACKED(NAME, NUMBER, BITS, T, TILE)        \
    LINEAR(NAME##_##NUMBER, BITS, T, TILE, false)         \
    LINEAR(NAME##_wide_##NUMBER, BITS, T, TILE, true)

LINEAR_PACKED(linear_int4, half, 4, half_t, SHORT_TILE)
LINEAR_PACKED(linear_int4, bfloat16, 4, bfloat16_t, SHORT_TILE)
LINEAR_PACKED(linear_int4, float, 4, float, FloatTile)
LINEAR_PACKED(linear_int8, half, 8, half_t, SHORT_TILE)
LINEAR_PACKED(linear_int8, bfloat16, 8, bfloat16_t, SHORT_TILE)
LINEAR_PACKED(linear_int8, float, 8, float, FloatTile)
LINEAR(linear_half, 16, half_t, SHORT_TILE, false)
LINEAR(linear_bfloat16, 16, bfloat16_t, SHORT_TILE, false)
LINEAR(linear_float, 32, float, FloatTile, false)

// ---------------------------------------------------------------------------------------------------------------------
// layer_norm: output[n] = (input[n] - mean) / sqrt(variance + epsilon) * weight + bias
// Grid n, up to 1024 threads in whole warps, 16 bytes a thread at once where rows are whole such vectors. Called twice
// a layer, and once before the output layer.
// ---------------------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float sum_over_block(float value) {
    __shared__ float partial[32];
    const int warps = blockDim.x / 32;
#pragma unroll
    for (int mask = 16; mask; mask /= 2) value += shuffle_xor(value, mask);
    __syncthreads();  // the last sum has been read
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    value = (int)(threadIdx.x % 32) < warps ? partial[threadIdx.x % 32] : 0.0f;
#pragma unroll
    for (int mask = 16; mask; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}

// Up to a vector of numbers from column `start` on, zeros past the end.
template <int N, typename T>
__device__ __forceinline__ void load_columns(const T *row, int start, int columns, bool whole, float *value) {
    if (whole) {
        load_floats<N>(row + start, value);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) value[i] = start + i < columns ? to_float(row[start + i]) : 0.0f;
    }
}

template <typename T>
__device__ __forceinline__ void layer_norm(const T *input, const T *__restrict__ weight, const T *__restrict__ bias,
                                           float epsilon, T *output, int hidden_size) {
    let_next_kernel_start();
    const int WIDTH = 16 / sizeof(T);  // numbers in a vector
    const int first = WIDTH * threadIdx.x, step = WIDTH * blockDim.x;
    input += (long long)blockIdx.x * hidden_size;
    output += (long long)blockIdx.x * hidden_size;
    const size_t addresses = (size_t)input | (size_t)weight | (size_t)bias | (size_t)output;
    const bool whole = hidden_size % WIDTH == 0 && addresses % 16 == 0, held = step >= hidden_size;
    float value[WIDTH], factor[WIDTH], offset[WIDTH], sum = 0.0f, squares = 0.0f;
    auto load_constants = [&](int start) {
        load_columns<WIDTH>(weight, start, hidden_size, whole, factor);
        load_columns<WIDTH>(bias, start, hidden_size, whole, offset);
    };
    if (held && first < hidden_size) load_constants(first);
    wait_for_earlier_kernels();
    for (int start = first; start < hidden_size; start += step) {
        load_columns<WIDTH>(input, start, hidden_size, whole, value);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) sum += value[i];
    }
    const float mean = sum_over_block(sum) / hidden_size;
    for (int start = first; start < hidden_size; start += step) {
        if (!held) load_columns<WIDTH>(input, start, hidden_size, whole, value);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            const float distance = start + i < hidden_size ? value[i] - mean : 0.0f;
            squares += distance * distance;
        }
    }
    const float scale = 1.0f / sqrtf(sum_over_block(squares) / hidden_size + epsilon);
    for (int start = first; start < hidden_size; start += step) {
        if (!held) {
            load_columns<WIDTH>(input, start, hidden_size, whole, value);
            load_constants(start);
        }
        Pack<T, WIDTH> pack;
#pragma unroll
        for (int i = 0; i < WIDTH; i++)
            pack.value[i] = from_float<T>((value[i] - mean) * scale * factor[i] + offset[i]);
        if (whole) {
            *reinterpret_cast<Pack<T, WIDTH> *>(output + start) = pack;
        } else {
#pragma unroll
            for (int i = 0; i < WIDTH; i++)
                if (start + i < hidden_size) output[start + i] = pack.value[i];
        }
    }
}

#define LAYER_NORM(NAME, T)                                                                               \
    extern "C" __global__ void __launch_bounds__(1024)                                                    \
        NAME(const T *input, const T *weight, const T *bias, float epsilon, T *output, int hidden_size) { \
        layer_norm<T>(input, weight, bias, epsilon, output, hidden_size);                                 \
    }

LAYER_NORM(layer_norm_half, half_t)
LAYER_NORM(layer_norm_bfloat16, bfloat16_t)
LAYER_NORM(layer_norm_float, float)

// ---------------------------------------------------------------------------------------------------------------------
// rotary_tables: cosine and signed sine [b, d] of the token in column `column[b]` of each row
// A token of the prompt has its column less the padding as first position and 0 as second; an answer's has the mask
// token's position, and 1, 2, … from `<sop>` on. The first half of a head turns with the first position, the second
// half with the second. Grid b, d threads. Called once a token.
// ---------------------------------------------------------------------------------------------------------------------

template <typename T>
__device__ __forceinline__ void rotary_tables(const long long *column, const long long *padding,
                                              const long long *context_length, const long long *mask_position,
                                              const float *frequency, T *cosine, T *sine, int head_size) {
    let_next_kernel_start();
    wait_for_earlier_kernels();
    const int i = threadIdx.x, quarter = head_size / 4, row = blockIdx.x;
    const long long answer = column[row] - context_length[row];  // 0 for <sop>
    const long long in_prompt = column[row] > padding[row] ? column[row] - padding[row] : 0;
    const long long position =
        i < 2 * quarter ? (answer < 0 ? in_prompt : mask_position[row]) : (answer < 0 ? 0 : answer + 1);
    const float angle = (float)position * frequency[i % quarter];
    cosine[row * head_size + i] = from_float<T>(cosf(angle));
    sine[row * head_size + i] = from_float<T>(i / quarter % 2 ? sinf(angle) : -sinf(angle));
}

#define ROTARY_TABLES(NAME, T)                                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                                         \
        NAME(const long long *column, const long long *padding, const long long *context_length,              \
             const long long *mask_position, const float *frequency, T *cosine, T *sine, int head_size) {     \
        rotary_tables<T>(column, padding, context_length, mask_position, frequency, cosine, sine, head_size); \
    }

ROTARY_TABLES(rotary_tables_half, half_t)
ROTARY_TABLES(rotary_tables_bfloat16, bfloat16_t)
ROTARY_TABLES(rotary_tables_float, float)

// ---------------------------------------------------------------------------------------------------------------------
// attention: rotate a token's query and key, append key and value to the cache, attend to all of it: context [b, h * d]
// query_key_value [b, h, 3, d]; cosine, sine [b, d]; column [b] of the token. Where the cache lies is read from device
// memory, so that a graph stays valid when it grows or another one is used:
//     place[0] capacity, [1] P-Tuning prefix length, [2] address of the key mask (bytes, 0 is hidden) or 0, [3] its row
//     stride, [4 + 2 layer] and [5 + 2 layer] addresses of keys and values [b, h, capacity, d]
// Grid (splits, h, b), 128 threads: the keys are shared out over `splits` blocks; the one that ends last adds up.
// d * sizeof(T) / 16 lanes read a key: a power of two up to 32. `partial` is [b, h, splits, d + 2] floats, `arrived`
// [b, h] zeros, left as zeros. A row whose column is below 0 has no cache, and its context is 0. Called once a layer.
// ---------------------------------------------------------------------------------------------------------------------

#define ATTENTION_THREADS 128
#define ATTENTION_LOADS 4  // keys that a group of lanes has under way
#define ATTENTION_SPAN 32  // fewest keys worth a block
#define MINUS_INFINITY __uint_as_float(0xff800000u)

template <typename T>
__device__ __forceinline__ float rotated(const T *x, const T *cosine, const T *sine, int i, int head_size) {
    const int quarter = head_size / 4, partner = i / quarter % 2 ? i - quarter : i + quarter;
    return to_float(x[i]) * to_float(cosine[i]) + to_float(x[partner]) * to_float(sine[i]);
}

template <typename T>
__device__ __forceinline__ void attention(const T *query_key_value, const T *cosine, const T *sine,
                                          const long long *place, const long long *column, int layer, float *partial,
                                          int *arrived, T *context, int head_size) {
    let_next_kernel_start();
    const int WIDTH = 16 / sizeof(T);  // numbers in a vector
    __shared__ float query[ATTENTION_THREADS * 2], group_sum[ATTENTION_THREADS], group_max[ATTENTION_THREADS];
    __shared__ float group_value[ATTENTION_THREADS * WIDTH];
    __shared__ bool is_last;
    const int split = blockIdx.x, head = blockIdx.y, row = blockIdx.z, thread = threadIdx.x;
    const int capacity = (int)place[0], prefix = (int)place[1], new_key = prefix + (int)column[row], keys = new_key + 1;
    const long long row_head = (long long)row * gridDim.y + head;
    T *key_cache = reinterpret_cast<T *>(place[4 + 2 * layer]) + row_head * capacity * head_size;
    T *value_cache = reinterpret_cast<T *>(place[5 + 2 * layer]) + row_head * capacity * head_size;
    const unsigned char *key_mask = reinterpret_cast<const unsigned char *>(place[2]);
    if (key_mask) key_mask += row * place[3] - prefix;
    if (column[row] < 0) {  // a row that is not there: a graph may have more of them than the batch
        wait_for_earlier_kernels();
        for (int i = thread; split == 0 && i < head_size; i += ATTENTION_THREADS)
            context[row_head * head_size + i] = from_float<T>(0.0f);
        return;
    }

    const int share = max((keys + (int)gridDim.x - 1) / (int)gridDim.x, ATTENTION_SPAN);
    const int splits = (keys + share - 1) / share;  // that have any keys
    if (split >= splits) {
        wait_for_earlier_kernels();
        return;
    }
    const int begin = split * share, end = min(begin + share, keys);

    // what earlier tokens left is there before this token's query is
    const int lanes = head_size / WIDTH, group = thread / lanes, member = thread % lanes;
    const int groups = ATTENTION_THREADS / lanes;
    Pack<T, WIDTH> key_load[ATTENTION_LOADS], value_load[ATTENTION_LOADS];
    auto load_key = [&](int i, int key) {
        key_load[i] = reinterpret_cast<const Pack<T, WIDTH> *>(key_cache + (long long)key * head_size)[member];
        value_load[i] = reinterpret_cast<const Pack<T, WIDTH> *>(value_cache + (long long)key * head_size)[member];
    };
    auto load_keys = [&](int start) {
#pragma unroll
        for (int i = 0; i < ATTENTION_LOADS; i++) {
            const int key = start + i * groups + group;
            key_load[i] = value_load[i] = {};
            if (key < end && key != new_key) load_key(i, key);
        }
    };
    load_keys(begin);
    wait_for_earlier_kernels();

    query_key_value += row_head * 3 * head_size;
    cosine += row * head_size;
    sine += row * head_size;
    for (int i = thread; i < head_size; i += ATTENTION_THREADS) {
        query[i] =
            to_float(from_float<T>(rotated(query_key_value, cosine, sine, i, head_size))) / sqrtf((float)head_size);
        if (end == keys) {
            key_cache[(long long)new_key * head_size + i] =
                from_float<T>(rotated(query_key_value + head_size, cosine, sine, i, head_size));
            value_cache[(long long)new_key * head_size + i] = query_key_value[2 * head_size + i];
        }
    }
    __syncthreads();

    float part[WIDTH], value[WIDTH] = {}, sum = 0.0f, maximum = MINUS_INFINITY;
#pragma unroll
    for (int i = 0; i < WIDTH; i++) part[i] = query[member * WIDTH + i];
    for (int start = begin; start < end; start += ATTENTION_LOADS * groups) {  // the same for the whole block
        if (start > begin) load_keys(start);
        float score[ATTENTION_LOADS], highest = maximum;
#pragma unroll
        for (int i = 0; i < ATTENTION_LOADS; i++) {
            const int key = start + i * groups + group;
            if (key == new_key && key < end) load_key(i, key);
            const bool visible = key < end && (!key_mask || key < prefix || key_mask[key]);
            score[i] = visible ? 0.0f : MINUS_INFINITY;
        }
#pragma unroll
        for (int i = 0; i < ATTENTION_LOADS; i++) {
            float product = 0.0f;
#pragma unroll
            for (int j = 0; j < WIDTH; j++) product += part[j] * to_float(key_load[i].value[j]);
            for (int mask = lanes / 2; mask; mask /= 2) product += shuffle_xor(product, mask);
            score[i] += product;
            highest = fmaxf(highest, score[i]);
        }
        const float base = highest == MINUS_INFINITY ? 0.0f : highest;  // nothing visible yet
        const float shrink = expf(maximum - base);
        sum *= shrink;
#pragma unroll
        for (int j = 0; j < WIDTH; j++) value[j] *= shrink;
#pragma unroll
        for (int i = 0; i < ATTENTION_LOADS; i++) {
            const float weight = expf(score[i] - base);
            sum += weight;
#pragma unroll
            for (int j = 0; j < WIDTH; j++) value[j] += weight * to_float(value_load[i].value[j]);
        }
        maximum = highest;
    }

    // the groups of the block together
    if (member == 0) {
        group_sum[group] = sum;
        group_max[group] = maximum;
    }
#pragma unroll
    for (int j = 0; j < WIDTH; j++) group_value[group * head_size + member * WIDTH + j] = value[j];
    __syncthreads();
    partial += row_head * gridDim.x * (head_size + 2);
    for (int i = thread; i < head_size; i += ATTENTION_THREADS) {
        float total = 0.0f, block_sum = 0.0f, block_max = MINUS_INFINITY;
        for (int g = 0; g < groups; g++) block_max = fmaxf(block_max, group_max[g]);
        for (int g = 0; g < groups; g++) {
            const float weight = group_max[g] == MINUS_INFINITY ? 0.0f : expf(group_max[g] - block_max);
            block_sum += weight * group_sum[g];
            total += weight * group_value[g * head_size + i];
        }
        volatile float *block_partial = partial + split * (head_size + 2);
        block_partial[i] = total;
        if (i == 0) {
            block_partial[head_size] = block_sum;
            block_partial[head_size + 1] = block_max;
        }
    }

    // the blocks of the head together, by the last one
    __threadfence();
    __syncthreads();
    if (thread == 0) is_last = atomicAdd(arrived + row_head, 1) == splits - 1;
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    const volatile float *parts = partial;
    for (int i = thread; i < head_size; i += ATTENTION_THREADS) {
        float total = 0.0f, all_sum = 0.0f, all_max = MINUS_INFINITY;
        for (int s = 0; s < splits; s++) all_max = fmaxf(all_max, parts[s * (head_size + 2) + head_size + 1]);
        for (int s = 0; s < splits; s++) {
            const float block_max = parts[s * (head_size + 2) + head_size + 1];
            const float weight = block_max == MINUS_INFINITY ? 0.0f : expf(block_max - all_max);
            all_sum += weight * parts[s * (head_size + 2) + head_size];
            total += weight * parts[s * (head_size + 2) + i];
        }
        context[row_head * head_size + i] = from_float<T>(total / all_sum);
    }
    if (thread == 0) arrived[row_head] = 0;
}

#define ATTENTION(NAME, T)                                                                                       \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS)                                              \
        NAME(const T *query_key_value, const T *cosine, const T *sine, const long long *place,                   \
             const long long *column, int layer, float *partial, int *arrived, T *context, int head_size) {      \
        attention<T>(query_key_value, cosine, sine, place, column, layer, partial, arrived, context, head_size); \
    }

ATTENTION(attention_half, half_t)
ATTENTION(attention_bfloat16, bfloat16_t)
ATTENTION(attention_float, float)
