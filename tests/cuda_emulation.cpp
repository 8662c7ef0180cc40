// Runs the CUDA kernels on the CPU, so that their arithmetic, indices and barriers are tested without a GPU, and offers
// them through the few functions of the CUDA driver that the launcher uses, so that it is tested, too.
//
//     g++ -O1 -std=c++17 -shared -fPIC -DKERNEL_SOURCE='"…/quantization_kernels.cu"' cuda_emulation.cpp
//
// `-DTENSOR_CORES` takes the source's path for sm_80 and later.
//
// A thread of a block is a fiber; blocks run one after the other. A warp goes on as far as barriers let it, then the
// next does; `emulation_schedule` shuffles their order: a missing barrier shows as results that change with it.
// What this cannot show: the speed, races between blocks, and whether the instructions in the source's `asm` do on a
// GPU what is written for them here (from NVIDIA's PTX manual).

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <ucontext.h>
#include <vector>

// ---- what the source takes from CUDA ----

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one after the other

struct Index {
    unsigned int x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

using std::max;
using std::min;

static inline float __uint_as_float(unsigned int x) {
    float y;
    memcpy(&y, &x, 4);
    return y;
}
static inline unsigned int __float_as_uint(float x) {
    unsigned int y;
    memcpy(&y, &x, 4);
    return y;
}
static int atomicAdd(int *p, int x) {
    *p += x;
    return *p - x;
}
static void __threadfence() {}
static void __syncthreads();

// ---- what the source writes in PTX ----

struct half_t;
struct bfloat16_t;
struct Vector;
static inline float to_float(half_t x);
static inline half_t to_half(float x);
static inline Vector load_once(const Vector *p);
static unsigned int select_bytes(unsigned int a, unsigned int b, unsigned int s);
static unsigned int mask_flip(unsigned int x, unsigned int mask, unsigned int flip) { return (x & mask) ^ flip; }
static float shuffle_xor(float x, int mask);
static void let_next_kernel_start() {}  // one kernel runs after the other
static void wait_for_earlier_kernels() {}
static inline unsigned int multiply_add_pair(half_t, unsigned int x, unsigned int scale, unsigned int offset);
static inline unsigned int multiply_add_pair(bfloat16_t, unsigned int x, unsigned int scale, unsigned int offset);
static inline void multiply_tile(half_t, float *sum, unsigned int a, unsigned int a8, unsigned int second,
                                 unsigned int second8, unsigned int b, unsigned int b_second);
static inline void multiply_tile(bfloat16_t, float *sum, unsigned int a, unsigned int a8, unsigned int second,
                                 unsigned int second8, unsigned int b, unsigned int b_second);

#include KERNEL_SOURCE

// ---- fibers ----

static const size_t STACK = 128 * 1024;

struct Barrier {
    int arrived = 0, passed = 0;
};
struct Fiber {
    ucontext_t context;  // where it starts; later it jumps, which costs no system call
    jmp_buf place;
    std::vector<char> stack = std::vector<char>(STACK);
    int block_waits = 0, warp_waits = 0;  // barriers that this fiber has come to
    Barrier *barrier = nullptr;           // where it waits, for so many to have passed:
    int turn = 0;
    bool started = false, ended = true;
    bool can_go_on() const { return !ended && (!barrier || barrier->passed >= turn); }
};

static std::vector<Fiber *> fibers;
static std::vector<Barrier> warp_barriers;
static Barrier block_barrier;
static jmp_buf scheduler;
static int current;
static unsigned int schedule_seed;
static std::function<void()> body;

static void leave(Fiber *fiber) {
    if (!_setjmp(fiber->place)) _longjmp(scheduler, 1);
}

static void wait(Barrier &barrier, int &waits, int threads) {
    waits++;
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        barrier.passed++;
    }
    Fiber *self = fibers[current];
    self->barrier = &barrier;
    self->turn = waits;
    if (!self->can_go_on()) leave(self);
    self->barrier = nullptr;
}

static void __syncthreads() { wait(block_barrier, fibers[current]->block_waits, blockDim.x); }
static void wait_for_warp() { wait(warp_barriers[current / 32], fibers[current]->warp_waits, 32); }

static void run_fiber() {
    for (;;) {  // once a block
        body();
        fibers[current]->ended = true;
        leave(fibers[current]);
    }
}

static Fiber *new_fiber() {
    Fiber *fiber = new Fiber;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.data();
    fiber->context.uc_stack.ss_size = STACK;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, run_fiber, 0);
    return fiber;
}

static void go_on(Fiber *fiber) {
    if (_setjmp(scheduler)) return;
    if (fiber->started) _longjmp(fiber->place, 1);
    fiber->started = true;
    setcontext(&fiber->context);
}

static void run_block() {
    const int threads = blockDim.x;
    while ((int)fibers.size() < threads) fibers.push_back(new_fiber());
    warp_barriers.assign(threads / 32 + 1, Barrier());
    block_barrier = Barrier();
    for (int i = 0; i < threads; i++) {
        Fiber *fiber = fibers[i];
        fiber->block_waits = fiber->warp_waits = 0;
        fiber->barrier = nullptr;
        fiber->ended = false;
    }
    std::mt19937 random(schedule_seed);
    std::vector<int> warps(threads / 32 + (threads % 32 > 0));
    std::iota(warps.begin(), warps.end(), 0);
    std::vector<int> lanes(32);
    std::iota(lanes.begin(), lanes.end(), 0);
    for (int left = threads; left;) {
        const int before = left;
        bool any = false;
        if (schedule_seed) std::shuffle(warps.begin(), warps.end(), random);
        for (int warp : warps) {
            for (bool went_on = true; went_on;) {
                went_on = false;
                if (schedule_seed) std::shuffle(lanes.begin(), lanes.end(), random);
                for (int lane : lanes) {
                    const int i = 32 * warp + lane;
                    if (i >= threads || !fibers[i]->can_go_on()) continue;
                    current = i;
                    threadIdx = {(unsigned int)i, 0, 0};
                    go_on(fibers[i]);
                    left -= fibers[i]->ended;
                    went_on = any = true;
                }
            }
        }
        if (!any && left == before) {
            fprintf(stderr, "emulation: threads of a block wait for one another for ever\n");
            abort();
        }
    }
}

// ---- a warp's common operations: all 32 lanes must take part ----

static unsigned int exchange[2][32][32]
                            [6];  // [parity][warp][lane]: the next operation does not overwrite the last one's
static unsigned int (*publish(const unsigned int *words, int count))[6] {
    const int parity = fibers[current]->warp_waits % 2, warp = current / 32;
    memcpy(exchange[parity][warp][current % 32], words, count * sizeof *words);
    wait_for_warp();
    return exchange[parity][warp];
}

static float shuffle_xor(float x, int mask) {
    const unsigned int word = __float_as_uint(x);
    return __uint_as_float(publish(&word, 1)[(current % 32) ^ mask][0]);
}

template <typename T> static float number(unsigned int pair, int i) {
    T x;
    x.bits = (unsigned short)(pair >> 16 * i);
    return to_float(x);
}

template <typename T>
static void multiply_tile_of(float *sum, unsigned int a, unsigned int a8, unsigned int second, unsigned int second8,
                             unsigned int b, unsigned int b_second) {
    const unsigned int words[6] = {a, a8, second, second8, b, b_second};
    unsigned int (*lanes)[6] = publish(words, 6);
    const int lane = current % 32, group = lane / 4, member = lane % 4;
    for (int i = 0; i < 4; i++) {
        const int row = group + i / 2 * 8, column = 2 * member + i % 2;
        for (int depth = 0; depth < 16; depth++) {
            const int owner = depth % 8 / 2, later = depth / 8;  // among four lanes; first or second pair
            const float left = number<T>(lanes[row % 8 * 4 + owner][row / 8 + 2 * later], depth % 2);
            sum[i] += left * number<T>(lanes[column * 4 + owner][4 + later], depth % 2);
        }
    }
}

static inline void multiply_tile(half_t, float *sum, unsigned int a, unsigned int a8, unsigned int second,
                                 unsigned int second8, unsigned int b, unsigned int b_second) {
    multiply_tile_of<half_t>(sum, a, a8, second, second8, b, b_second);
}
static inline void multiply_tile(bfloat16_t, float *sum, unsigned int a, unsigned int a8, unsigned int second,
                                 unsigned int second8, unsigned int b, unsigned int b_second) {
    multiply_tile_of<bfloat16_t>(sum, a, a8, second, second8, b, b_second);
}

// ---- one thread's operations ----

static inline float to_float(half_t x) {
    _Float16 y;
    memcpy(&y, &x, 2);
    return y;
}
static inline half_t to_half(float x) {
    const _Float16 y = x;
    half_t z;
    memcpy(&z, &y, 2);
    return z;
}
static inline Vector load_once(const Vector *p) {
    if ((size_t)p % 16) {
        fprintf(stderr, "emulation: a 16-byte load from an address that is not a multiple of 16\n");
        abort();
    }
    return *p;
}
static unsigned int select_bytes(unsigned int a, unsigned int b, unsigned int s) {
    const unsigned long long bytes = (unsigned long long)b << 32 | a;
    unsigned int word = 0;
    for (int i = 0; i < 4; i++) word |= (unsigned int)(bytes >> (s >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return word;
}
template <typename T>
static unsigned int multiply_add_pair_of(unsigned int x, unsigned int scale, unsigned int offset) {
    unsigned int result = 0;
    for (int i = 0; i < 2; i++)
        result |= (unsigned int)from_float<T>(number<T>(x, i) * number<T>(scale, i) + number<T>(offset, i)).bits
                  << 16 * i;
    return result;
}
static inline unsigned int multiply_add_pair(half_t, unsigned int x, unsigned int scale, unsigned int offset) {
    return multiply_add_pair_of<half_t>(x, scale, offset);
}
static inline unsigned int multiply_add_pair(bfloat16_t, unsigned int x, unsigned int scale, unsigned int offset) {
    return multiply_add_pair_of<bfloat16_t>(x, scale, offset);
}

// ---- the CUDA driver ----

typedef std::function<void(void **)> Kernel;

template <typename... A, size_t... I>
static void apply(void (*kernel)(A...), void **parameters, std::index_sequence<I...>) {
    auto values = std::tuple<A...>(*(A *)parameters[I]...);
    body = [=] { std::apply(kernel, values); };
}
template <typename... A> static Kernel kernel_of(void (*kernel)(A...)) {
    return [=](void **parameters) { apply(kernel, parameters, std::index_sequence_for<A...>()); };
}

#define NUMBER_TYPES(NAME)                                                                      \
    {#NAME "_half", kernel_of(NAME##_half)}, {#NAME "_bfloat16", kernel_of(NAME##_bfloat16)}, { \
        #NAME "_float", kernel_of(NAME##_float)                                                 \
    }
static std::map<std::string, Kernel> kernels = {
    NUMBER_TYPES(unpack_int4),   NUMBER_TYPES(unpack_int8),      NUMBER_TYPES(linear_int4),
    NUMBER_TYPES(linear_int8),   NUMBER_TYPES(linear),           NUMBER_TYPES(linear_int4_wide),
    NUMBER_TYPES(linear_int8_wide), NUMBER_TYPES(layer_norm),    NUMBER_TYPES(rotary_tables),
    NUMBER_TYPES(attention),
};
static std::string loaded_image;
static int launches, overlapped;
struct Attribute {
    int id;
    char padding[4];
    union {
        char padding[64];
        long long alignment;
        int value;
    } value;
};
struct Config {
    unsigned int grid[3], block[3], shared_bytes;
    void *stream;
    Attribute *attributes;
    unsigned int attribute_count;
};

extern "C" {
void emulation_schedule(unsigned int seed) { schedule_seed = seed; }
int emulation_launches() { return launches; }
int cuInit(unsigned int) { return 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int) { return *value = attribute == 75 ? 9 : 0, 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return *context = (void *)(size_t)(device + 1), 0; }
int cuCtxSetCurrent(void *) { return 0; }
int cuModuleLoadData(void **module, const void *image) {
    loaded_image = (const char *)image;
    return *module = &loaded_image, loaded_image == "emulation" ? 0 : 200;  // no image for the device
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    if (module != &loaded_image || !kernels.count(name)) return 500;  // not found
    return *function = &kernels[name], 0;
}
int cuGetErrorString(int, const char **text) { return *text = "an error of the emulated driver", 0; }
int emulation_overlapped() { return overlapped; }
int cuLaunchKernel(void *function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z, unsigned int block_x,
                   unsigned int block_y, unsigned int block_z, unsigned int, void *, void **parameters, void **) {
    if (!grid_x || !grid_y || !grid_z || block_y != 1 || block_z != 1 || !block_x || block_x > 1024 || grid_y > 65535 ||
        grid_z > 65535)
        return 1;  // invalid value
    launches++;
    gridDim = {grid_x, grid_y, grid_z};
    blockDim = {block_x, 1, 1};
    (*(Kernel *)function)(parameters);
    std::vector<Index> blocks;
    for (unsigned int z = 0; z < grid_z; z++)
        for (unsigned int y = 0; y < grid_y; y++)
            for (unsigned int x = 0; x < grid_x; x++) blocks.push_back({x, y, z});
    if (schedule_seed) std::shuffle(blocks.begin(), blocks.end(), std::mt19937(schedule_seed));
    for (Index block : blocks) {
        blockIdx = block;
        run_block();
    }
    return 0;
}
int cuLaunchKernelEx(const Config *config, void *function, void **parameters, void **extra) {
    const unsigned int *grid = config->grid, *block = config->block;
    if (config->attribute_count != 1 || config->attributes->id != 6 || config->attributes->value.value != 1) return 1;
    overlapped++;
    return cuLaunchKernel(function, grid[0], grid[1], grid[2], block[0], block[1], block[2], config->shared_bytes,
                          config->stream, parameters, extra);
}
}
