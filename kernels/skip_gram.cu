// Skip-gram with negative sampling (Mikolov et al., 2013) over pairs of genes, in the order of src/genes/blocks.rs and with its bits.
//
//   an update    v is the vector of the gene that learns; n the output vectors of the gene to tell (y = 1) and of the negatives (y = 0)
//                for each n in its turn:  g = (y - sigma(v n)) alpha,  s += g n,  n += g v,  unless |v n| >= 6;   then v += s
//
// Shapes: input, output [genes, stride] f32, rows by blocks of genes: those of block b are rows firsts[b]..firsts[b + 1]; stride is a multiple
// of 16, and what lies behind a vector's numbers is 0. updates [.., 3]: gene and target, by their places in their blocks, and alpha. Those of
// rectangle (row, column), with number row * blocks + column, are updates starts[number]..starts[number + 1]. A launch is a diagonal: rectangles
// (row, (row + diagonal) % blocks), which share no row of either matrix. Negatives are drawn here, from the block of the column.
//
// Floor, 25,000 genes in 48 blocks of dimension 200, a million pairs in 48 launches: 2 M updates of 7.7 k operations are 16 G operations, 0.3 ms of an
// H200's f32 units; each launch reads and writes both matrices once at the least, 83 MB, which its L2 nearly holds: 48 times 0.02 ms. Neither is
// what it takes: updates of a rectangle follow from each other, and 48 of 132 multiprocessors have a warp. See kernels/notes/skip_gram.md.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A warp a rectangle. A lane has every 32nd number of a row, always the same, so that rows need no barriers. The rows of six targets are
//      loaded before the first is written, unless two of them are the same. Negatives of 32 updates are drawn at a time, their look-ups side by side.

#include "common/device.cuh"

namespace {

// Updates drawn at a time, a lane each.
constexpr int UPDATES = WARP;
constexpr int MOST_NEGATIVES = 32;
// Gene2vec's: one gene to tell and five negatives.
constexpr int TOGETHER = 6;
// A negative that was the gene to tell itself.
constexpr int NONE = -1;

// The table of the logistic function: src/genes/skip_gram.rs says why it ends there and has this scale.
constexpr float REACH = 6.0f;
constexpr float TABLE_SCALE = 83.0f;
constexpr int TABLE = 1000;

// The generator of java.util.Random.
constexpr uint64_t MULTIPLIER = 25214903917u, INCREMENT = 11, STATE_MASK = (1ull << 48) - 1;
// `END` of src/genes/sampling.rs.
constexpr uint32_t SHARES_END = (1u << 31) - 1;

// A number of steps of the generator as one: state * multiplier + increment.
struct Steps {
    uint64_t multiplier, increment;
};
constexpr Steps steps(int count) {
    Steps all = {1, 0};
    for (int i = 0; i < count; ++i) all = {all.multiplier * MULTIPLIER & STATE_MASK, (all.increment * MULTIPLIER + INCREMENT) & STATE_MASK};
    return all;
}
// A lane takes every 32nd word.
constexpr uint64_t LANE_MULTIPLIER = steps(WARP).multiplier, LANE_INCREMENT = steps(WARP).increment;

struct Shared {
    // The gene to tell, and the negatives. An odd number of words a row: a lane a row is free of conflicts.
    int targets[UPDATES][MOST_NEGATIVES + 1];
    float sigma[TABLE];
    // -ln sigma.
    float surprise[TABLE];
};

// The place of the gene that `at` falls to: the first whose share ends there or behind.
__device__ __forceinline__ int find(const uint32_t* ends, int count, uint32_t at) {
    int low = 0, high = count - 1;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (ends[middle] < at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

template <int N>
__device__ __forceinline__ void load(const float* row, int stride, float (&values)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const int index = static_cast<int>(threadIdx.x) + i * WARP;
        values[i] = index < stride ? row[index] : 0.0f;
    }
}

template <int N>
__device__ __forceinline__ void store(float* row, int stride, const float (&values)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const int index = static_cast<int>(threadIdx.x) + i * WARP;
        if (index < stride) row[index] = values[i];
    }
}

__device__ __forceinline__ int place_in_table(float product) { return min(static_cast<int>((product + REACH) * TABLE_SCALE), TABLE - 1); }

// Of an update the targets first..first + COUNT, as far as there are so many: no two the same. Sums in the order of `dot` in src/genes/skip_gram.rs:
// its four sums of 16 lanes are here the even and odd numbers of two halves of a warp.
template <int COUNT, int N>
__device__ __forceinline__ void meet(float* output, int stride, const int* targets, int first, int end, float alpha, const float (&vector)[N],
                                     float (&sum)[N], const Shared& shared, double& loss, int& terms) {
    int target[COUNT];
    float rows[COUNT][N];
#pragma unroll
    for (int k = 0; k < COUNT; ++k) {
        target[k] = first + k < end ? targets[first + k] : NONE;
        if (target[k] != NONE) load(output + static_cast<int64_t>(target[k]) * stride, stride, rows[k]);
    }
    float products[COUNT];
#pragma unroll
    for (int k = 0; k < COUNT; ++k) {
        if (target[k] == NONE) continue;
        float even = 0.0f, odd = 0.0f;
#pragma unroll
        for (int i = 0; i < N; i += 2) even = fmaf(vector[i], rows[k][i], even);
#pragma unroll
        for (int i = 1; i < N; i += 2) odd = fmaf(vector[i], rows[k][i], odd);
        even += __shfl_xor_sync(FULL_WARP, even, 16);
        odd += __shfl_xor_sync(FULL_WARP, odd, 16);
        products[k] = even + odd;
#pragma unroll
        for (int offset = 8; offset > 0; offset /= 2) products[k] += __shfl_xor_sync(FULL_WARP, products[k], offset);
    }
#pragma unroll
    for (int k = 0; k < COUNT; ++k) {
        if (target[k] == NONE) continue;
        const bool is_told = first + k == 0;
        const float product = products[k];
        ++terms;
        loss += static_cast<double>(shared.surprise[place_in_table(fminf(fmaxf(is_told ? product : -product, -REACH), REACH))]);
        if (!(product > -REACH && product < REACH)) continue;
        const float step = ((is_told ? 1.0f : 0.0f) - shared.sigma[place_in_table(product)]) * alpha;
#pragma unroll
        for (int i = 0; i < N; ++i) {
            sum[i] = fmaf(step, rows[k][i], sum[i]);
            rows[k][i] = fmaf(step, vector[i], rows[k][i]);
        }
        store(output + static_cast<int64_t>(target[k]) * stride, stride, rows[k]);
    }
}

template <int N>
__device__ __forceinline__ void learn(float* input, float* output, const int* firsts, const uint32_t* shares, const float* logistic, const int* updates,
                                      const int* starts, const uint64_t* states, int diagonal, int stride, int negatives, double* losses) {
    __shared__ Shared shared;
    const int lane = threadIdx.x, blocks = gridDim.x, row = blockIdx.x, column = (row + diagonal) % blocks;
    const int rectangle = row * blocks + column, begin = starts[rectangle], end = starts[rectangle + 1];
    for (int i = lane; i < TABLE; i += WARP) {
        shared.sigma[i] = logistic[i];
        shared.surprise[i] = logistic[TABLE + i];
    }
    input += static_cast<int64_t>(firsts[row]) * stride;
    output += static_cast<int64_t>(firsts[column]) * stride;
    shares += firsts[column];
    const int genes = firsts[column + 1] - firsts[column];
    uint64_t state = states[rectangle];
    for (int i = 0; i < lane; ++i) state = (state * MULTIPLIER + INCREMENT) & STATE_MASK;

    double total = 0.0;
    int64_t all_terms = 0;
    for (int first = begin; first < end; first += UPDATES) {
        int gene = 0;
        float alpha = 0.0f;
        shared.targets[lane][0] = NONE;
        if (first + lane < end) {
            const int* update = updates + 3 * (static_cast<int64_t>(first) + lane);
            gene = update[0];
            shared.targets[lane][0] = update[1];
            alpha = __int_as_float(update[2]);
        }
        __syncwarp();
        for (int draw = lane; draw < UPDATES * negatives; draw += WARP) {
            const int negative = find(shares, genes, static_cast<uint32_t>(state >> 16) % SHARES_END);
            state = (state * LANE_MULTIPLIER + LANE_INCREMENT) & STATE_MASK;
            int* targets = shared.targets[draw / negatives];
            targets[1 + draw % negatives] = negative != targets[0] ? negative : NONE;
        }
        __syncwarp();
        const int* mine = shared.targets[lane];
        bool repeats = false;
        for (int one = 2; one <= negatives; ++one)
            for (int other = 1; other < one; ++other) repeats |= mine[one] == mine[other] && mine[one] != NONE;
        const unsigned repeating = __ballot_sync(FULL_WARP, repeats);

        double loss = 0.0;
        int terms = 0;
        for (int update = 0; update < min(UPDATES, end - first); ++update) {
            float* learning = input + static_cast<int64_t>(__shfl_sync(FULL_WARP, gene, update)) * stride;
            const float rate = __shfl_sync(FULL_WARP, alpha, update);
            const int* targets = shared.targets[update];
            float vector[N], sum[N] = {};
            load(learning, stride, vector);
            if (repeating >> update & 1) {
                for (int k = 0; k <= negatives; ++k)
                    meet<1>(output, stride, targets, k, negatives + 1, rate, vector, sum, shared, loss, terms);
            } else {
                for (int k = 0; k <= negatives; k += TOGETHER)
                    meet<TOGETHER>(output, stride, targets, k, negatives + 1, rate, vector, sum, shared, loss, terms);
            }
#pragma unroll
            for (int i = 0; i < N; ++i) vector[i] += sum[i];
            store(learning, stride, vector);
        }
        // Before others overwrite the targets.
        __syncwarp();
        total += loss;
        all_terms += terms;
    }
    if (lane == 0) {
        losses[2 * rectangle] = total;
        losses[2 * rectangle + 1] = static_cast<double>(all_terms);
    }
}

}  // namespace

// One warp for each block of genes, which is a row of the square; `negatives` 1 to 32, `stride` up to the kernel's width. shares [genes]: where each
// gene's share as a negative ends (src/genes/sampling.rs). logistic [2, 1000]: sigma, and its negative logarithm. states [blocks^2]: the generators
// of the rectangles at the first word. losses [blocks^2, 2]: of each rectangle the sum of -ln sigma, and how many terms it has.
#define SKIP_GRAM(NAME, WIDTH)                                                                                                               \
    extern "C" __global__ void __launch_bounds__(WARP)                                                                                       \
        NAME(float* input, float* output, const int* firsts, const uint32_t* shares, const float* logistic, const int* updates,              \
             const int* starts, const uint64_t* states, int diagonal, int stride, int negatives, double* losses) {                           \
        follow_earlier_kernels();                                                                                                            \
        learn<WIDTH / WARP>(input, output, firsts, shares, logistic, updates, starts, states, diagonal, stride, negatives, losses);          \
    }                                                                                                                                        \
    EXPORT_KERNEL(NAME)

SKIP_GRAM(skip_gram_f32_d128, 128)
SKIP_GRAM(skip_gram_f32_d256, 256)
SKIP_GRAM(skip_gram_f32_d512, 512)
