// Pretraining batches made on the device: from the packed genome to k-mer tokens, positions, sequence boundaries, masks
// and labels, so that the host sends a step number and nothing else. Bit for bit what src/kmer makes; its documents are
// the specification (corpus.rs the draws, lengths and places, fill.rs the filling, hiding.rs the masks), and only
// integers decide.
//
//   sample_windows   one block: the lengths of the sequences, where each starts in the batch, and where in the genome
//   sample_tokens    a thread a token: the k-mer and its position; clears the token's flag
//   mask_choose      a thread a token: draws, and flags what its span or seed hides
//   mask_count       a block 1024 tokens: how many are hidden
//   mask_write       a block 1024 tokens: lists the hidden rows, ascending, with their labels, and replaces their tokens
//
// Shapes: packed genome [bytes], four bases a byte, the first in the high bits, every sequence starting at a byte;
// run_first [runs] and run_before [runs + 1] describe its runs of known bases, the longest first; cu_seqlens [capacity
// + 1] and windows [capacity], with capacity = budget / 7 + 1, as 7 tokens make the shortest sequence (past the last
// sequence cu_seqlens repeats the budget: empty sequences); tokens, positions, rows, labels [budget]; hidden [budget]
// bytes; hidden_counts [ceil(budget / 1024)]; counts [3]: sequences, hidden rows, tokens of the longest sequence. Of
// rows and labels the first counts[1] are written.
//
// Floor, 65,536 tokens: 1.2 MB written and read, less than a microsecond at 3.0 TB/s: five launches of a few
// microseconds each are what it costs, beside a training step of tens of milliseconds.
//
// Versions. No figure from a GPU has been seen yet.
//   1. As above. The flags are written by whoever hides a token, several threads writing the same 1, and ranked
//      afterwards: order never matters, so nothing has to be sorted. The alternative, each token asking all centres that
//      could reach it, draws up to 518 Philox blocks a token for spans as wide as RandomMask allows.

#include "common/philox.cuh"
#include "common/reduce.cuh"

// What windows are drawn from; constant over a training. In Rust a #[repr(C)] struct of the same fields.
struct Corpus {
    const uint8_t* packed;
    const uint64_t* run_first;   // base at which run j starts, counted from the first of `packed`
    const uint64_t* run_before;  // bases of the runs before run j together
    int runs;
    int k;
    int longest;  // k-mers in a sequence of full length
    int reverse_complement;
    uint32_t digits;  // byte c: the vocabulary's digit for the genome's code c (T, C, A, G)
    uint32_t unused;
};

// The draws of one batch for one purpose; the index of a draw fills the rest of the counter.
struct Draws {
    Philox philox;
    uint32_t micro_batch;
};

// What is hidden: spans around centres (seeds = 0) or fixed surroundings of seeds. The fields are those of hiding.rs'
// Plan.
struct Masking {
    uint64_t threshold;  // of a centre, or seeds a token, times 2^32
    uint32_t narrowest, widest;
    uint32_t reach;
    uint32_t seeds;
};

namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / WARP;
constexpr int ROWS_PER_THREAD = 4;
constexpr int TILE_ROWS = THREADS * ROWS_PER_THREAD;

constexpr int CLS = 2;
constexpr int SEP = 3;
constexpr int MASK = 4;
constexpr int SPECIALS = 5;              // tokens before the first k-mer
constexpr int SPECIALS_PER_SEQUENCE = 2; // [CLS] and [SEP]
constexpr int SHORTEST_K_MERS = 5;
constexpr int SHORTEST_TOKENS = SHORTEST_K_MERS + SPECIALS_PER_SEQUENCE;

constexpr uint32_t BECOMES_MASK = 3435973837u;    // round(0.8 * 2^32)
constexpr uint32_t BECOMES_RANDOM = 3865470566u;  // round(0.9 * 2^32)

__device__ __forceinline__ PhiloxBlock draw(const Draws& draws, uint32_t index) {
    return philox_block(draws.philox, static_cast<uint64_t>(draws.micro_batch) << 32 | index);
}

// The sum of the values of the threads before this one; `total` becomes the sum of all. `scratch` is [WARPS] in shared
// memory; it may be used again after the next barrier.
template <typename T>
__device__ __forceinline__ T block_exclusive_sum(T value, T& total, T* scratch) {
    const int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
    T inclusive = value;
#pragma unroll
    for (int offset = 1; offset < WARP; offset *= 2) {
        const T before = __shfl_up_sync(FULL_WARP, inclusive, offset);
        if (lane >= offset) inclusive += before;
    }
    if (lane == WARP - 1) scratch[warp] = inclusive;
    __syncthreads();
    T before = 0;
    total = 0;
#pragma unroll
    for (int i = 0; i < WARPS; ++i) {
        if (i < warp) before += scratch[i];
        total += scratch[i];
    }
    return before + inclusive - value;
}

// ---- windows ----

__device__ __forceinline__ int64_t drawn_tokens(const Corpus& corpus, const PhiloxBlock& block) {
    const uint32_t k_mers = block.words[0] < 0x80000000u
                                ? corpus.longest
                                : SHORTEST_K_MERS + philox_below(block.words[1], corpus.longest - SHORTEST_K_MERS + 1);
    return k_mers + SPECIALS_PER_SEQUENCE;
}

// How many windows of lost + 1 bases lie in the first `run` runs, all of which have as many bases.
__device__ __forceinline__ uint64_t windows_before(const Corpus& corpus, int run, uint64_t lost) {
    return corpus.run_before[run] - static_cast<uint64_t>(run) * lost;
}

// The first base of a window of `width` bases, chosen uniformly by `word`.
__device__ __forceinline__ uint64_t place(const Corpus& corpus, uint64_t width, uint64_t word) {
    // Runs are sorted by length: find the first that is too short, ...
    int low = 0, high = corpus.runs;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (corpus.run_before[middle + 1] - corpus.run_before[middle] >= width)
            low = middle + 1;
        else
            high = middle;
    }
    const uint64_t chosen = __umul64hi(word, windows_before(corpus, low, width - 1));
    // ... and, among those before it, the last that starts at or before the chosen window.
    high = low;
    low = 0;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (windows_before(corpus, middle, width - 1) <= chosen)
            low = middle + 1;
        else
            high = middle;
    }
    const int run = low - 1;
    return corpus.run_first[run] + chosen - windows_before(corpus, run, width - 1);
}

// The first base of sequence `i`, times two, plus one for the other strand.
__device__ __forceinline__ uint64_t window_of(const Corpus& corpus, const PhiloxBlock& block, int64_t tokens) {
    const uint64_t width = tokens - SPECIALS_PER_SEQUENCE + corpus.k - 1;
    const uint64_t word = static_cast<uint64_t>(block.words[2]) << 32 | block.words[3];
    const uint64_t other_strand = corpus.reverse_complement ? block.words[0] & 1u : 0u;
    return place(corpus, width, word) * 2 + other_strand;
}

__device__ __forceinline__ int base_code(const Corpus& corpus, uint64_t base) {
    return corpus.packed[base / 4] >> (6 - 2 * (base % 4)) & 3;
}

// The token of k-mer number `index` of a window of `k_mers` k-mers.
__device__ __forceinline__ int k_mer_token(const Corpus& corpus, uint64_t window, int index, int k_mers) {
    const bool other_strand = window % 2 != 0;
    const uint64_t first = window / 2;
    const uint64_t last = first + k_mers + corpus.k - 2;
    int number = 0;
    for (int i = index; i < index + corpus.k; ++i) {
        // T and A, C and G differ in the higher bit of the code.
        const int code = other_strand ? base_code(corpus, last - i) ^ 2 : base_code(corpus, first + i);
        number = number << 2 | static_cast<int>(corpus.digits >> (8 * code) & 3u);
    }
    return SPECIALS + number;
}

// The sequence that holds `row`.
__device__ __forceinline__ int sequence_of(const int* cu_seqlens, int sequences, int row) {
    int low = 0, high = sequences;
    while (high - low > 1) {
        const int middle = low + (high - low) / 2;
        if (cu_seqlens[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

// ---- masking ----

// Flags the rows first..=last of a sequence, and no others.
__device__ __forceinline__ void hide(uint8_t* hidden, int64_t first, int64_t last, int sequence_first,
                                     int sequence_last) {
    first = first < sequence_first ? sequence_first : first;
    last = last > sequence_last ? sequence_last : last;
    for (int64_t row = first; row <= last; ++row) hidden[row] = 1;
}

__device__ __forceinline__ int replacement(const Masking& masking, const Draws& draws, int row, int token,
                                           int vocabulary) {
    if (masking.seeds) return MASK;
    const PhiloxBlock block = draw(draws, row);
    if (block.words[1] < BECOMES_MASK) return MASK;
    if (block.words[1] < BECOMES_RANDOM) return philox_below(block.words[2], vocabulary);
    return token;
}

}  // namespace

// One block. The sequences take the lengths that are drawn for them until one would leave too few tokens for another;
// that one, the last or the last but one, is what fill.rs makes of it.
extern "C" __global__ void __launch_bounds__(THREADS) sample_windows(Corpus corpus, Draws draws, int budget, int capacity,
                                                                     int* cu_seqlens, uint64_t* windows, int* counts) {
    follow_earlier_kernels();
    __shared__ int64_t scratch[WARPS];
    __shared__ int sequences, longest;
    if (threadIdx.x == 0) longest = 0;
    const auto write = [&](int i, int64_t before, int64_t tokens, const PhiloxBlock& block) {
        cu_seqlens[i] = static_cast<int>(before);
        windows[i] = window_of(corpus, block, tokens);
        atomicMax(&longest, static_cast<int>(tokens));
    };
    int64_t taken = 0;
    int settled = 0;  // threads whose sequence has the length that was drawn for it
    for (int first = 0;; first += THREADS) {
        const int i = first + static_cast<int>(threadIdx.x);
        const PhiloxBlock block = draw(draws, i);
        const int64_t tokens = drawn_tokens(corpus, block);
        int64_t total;
        const int64_t before = taken + block_exclusive_sum(tokens, total, scratch);
        const int64_t remaining = budget - before;
        const bool as_drawn = remaining - tokens >= SHORTEST_TOKENS;
        settled = __syncthreads_count(as_drawn);
        if (as_drawn) {
            write(i, before, tokens, block);
        } else if (static_cast<int>(threadIdx.x) == settled) {
            const bool is_last = remaining <= corpus.longest + SPECIALS_PER_SEQUENCE;
            write(i, before, is_last ? remaining : remaining - SHORTEST_TOKENS, block);
            if (!is_last) write(i + 1, budget - SHORTEST_TOKENS, SHORTEST_TOKENS, draw(draws, i + 1));
            sequences = i + (is_last ? 1 : 2);
        }
        if (settled < THREADS) break;
        taken += total;
    }
    __syncthreads();
    for (int i = sequences + static_cast<int>(threadIdx.x); i <= capacity; i += THREADS) cu_seqlens[i] = budget;
    if (threadIdx.x == 0) {
        counts[0] = sequences;
        counts[2] = longest;
    }
}
EXPORT_KERNEL(sample_windows)

// A thread a token.
extern "C" __global__ void __launch_bounds__(THREADS)
    sample_tokens(Corpus corpus, int budget, const int* cu_seqlens, const uint64_t* windows, const int* counts, int* tokens,
                  int* positions, uint8_t* hidden) {
    follow_earlier_kernels();
    const int64_t row = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (row >= budget) return;
    const int sequence = sequence_of(cu_seqlens, counts[0], static_cast<int>(row));
    const int length = cu_seqlens[sequence + 1] - cu_seqlens[sequence];
    const int position = static_cast<int>(row) - cu_seqlens[sequence];
    int token = CLS;
    if (position == length - 1)
        token = SEP;
    else if (position > 0)
        token = k_mer_token(corpus, windows[sequence], position - 1, length - SPECIALS_PER_SEQUENCE);
    tokens[row] = token;
    positions[row] = position;
    hidden[row] = 0;
}
EXPORT_KERNEL(sample_tokens)

// A thread a token: as a centre for spans, as the number of a seed for seeds.
extern "C" __global__ void __launch_bounds__(THREADS)
    mask_choose(Masking masking, Draws draws, int budget, const int* cu_seqlens, const int* counts, uint8_t* hidden) {
    follow_earlier_kernels();
    const int64_t row = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (row >= budget) return;
    const int sequence = sequence_of(cu_seqlens, counts[0], static_cast<int>(row));
    const int first = cu_seqlens[sequence], last = cu_seqlens[sequence + 1] - 1;
    const PhiloxBlock block = draw(draws, static_cast<uint32_t>(row));
    if (masking.seeds) {
        const uint32_t length = last - first + 1;
        const int64_t count = static_cast<int64_t>(length * masking.threshold >> 32);
        if (row - first >= count) return;
        const int64_t centre = first + static_cast<int64_t>(philox_below(block.words[0], length));
        hide(hidden, centre - masking.reach, centre + masking.reach, first, last);
    } else {
        if (row == first || row == last || block.words[0] >= masking.threshold) return;
        const int64_t width = masking.narrowest + philox_below(block.words[3], masking.widest - masking.narrowest + 1);
        hide(hidden, row - (width - 1) / 2, row + width / 2, first + 1, last - 1);
    }
}
EXPORT_KERNEL(mask_choose)

namespace {

// The flags of a thread's rows, and their number; rows past the budget have none.
__device__ __forceinline__ int thread_flags(const uint8_t* hidden, int64_t first, int budget,
                                            bool (&flags)[ROWS_PER_THREAD]) {
    int count = 0;
#pragma unroll
    for (int i = 0; i < ROWS_PER_THREAD; ++i) {
        flags[i] = first + i < budget && hidden[first + i] != 0;
        count += flags[i];
    }
    return count;
}

__device__ __forceinline__ int64_t first_row_of_thread() {
    return static_cast<int64_t>(blockIdx.x) * TILE_ROWS + threadIdx.x * ROWS_PER_THREAD;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS) mask_count(int budget, const uint8_t* hidden, int* hidden_counts) {
    follow_earlier_kernels();
    __shared__ int scratch[WARPS];
    bool flags[ROWS_PER_THREAD];
    const int count = block_sum<THREADS>(thread_flags(hidden, first_row_of_thread(), budget, flags), scratch);
    if (threadIdx.x == 0) hidden_counts[blockIdx.x] = count;
}
EXPORT_KERNEL(mask_count)

// The grid is that of mask_count.
extern "C" __global__ void __launch_bounds__(THREADS)
    mask_write(Masking masking, Draws draws, int budget, int vocabulary, const uint8_t* hidden, const int* hidden_counts,
               int* tokens, int* rows, int* labels, int* counts) {
    follow_earlier_kernels();
    __shared__ int scratch[WARPS];
    int before = 0;
    for (int tile = threadIdx.x; tile < static_cast<int>(blockIdx.x); tile += THREADS) before += hidden_counts[tile];
    before = block_sum<THREADS>(before, scratch);
    bool flags[ROWS_PER_THREAD];
    const int64_t first = first_row_of_thread();
    int total;
    int rank = before + block_exclusive_sum(thread_flags(hidden, first, budget, flags), total, scratch);
#pragma unroll
    for (int i = 0; i < ROWS_PER_THREAD; ++i) {
        if (!flags[i]) continue;
        const int row = static_cast<int>(first) + i;
        const int token = tokens[row];
        rows[rank] = row;
        labels[rank] = token;
        tokens[row] = replacement(masking, draws, row, token, vocabulary);
        ++rank;
    }
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) counts[1] = before + total;
}
EXPORT_KERNEL(mask_write)
