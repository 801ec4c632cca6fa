// What the Hopper attention kernels share: the roles in a block and the ring between them, tiles of one head as TMA lays them
// into shared memory, their descriptors, and rows on their way out.
#pragma once

#include "common/attention.cuh"
#include "common/sm90.cuh"

constexpr int WARPGROUP = 4 * WARP;

// Two warpgroups with 64 rows each multiply, and one thread of a third copies for them. 65,536 registers: 2 x 128 x 240 + 128 x 24.
constexpr int ATTENTION_CONSUMERS = 2;
constexpr int ATTENTION_SM90_THREADS = (ATTENTION_CONSUMERS + 1) * WARPGROUP;
constexpr int CONSUMER_REGISTERS = 240, PRODUCER_REGISTERS = 24;
static_assert(ATTENTION_CONSUMERS * 64 == ATTENTION_ROWS, "the plan's rows");

// What a block works on after one another: a piece, a head of an entry of the plan, in each round that all blocks make. Pieces get shorter, so
// every second round goes backwards: who had the longest piece of one gets the shortest of the next.
struct AttentionRounds {
    int first, place;
    __device__ AttentionRounds() : first(0), place(blockIdx.x) {}
    __device__ bool more(int pieces) const { return first < pieces; }
    // In the last round some do not exist.
    __device__ int piece() const { return first + place; }
    // How many were before this one.
    __device__ int number() const { return first / static_cast<int>(gridDim.x); }
    __device__ void next() {
        first += gridDim.x;
        place = gridDim.x - 1 - place;
    }
};
struct AttentionWork {
    AttentionBlock block;
    int head;
    __device__ AttentionWork(const AttentionBlock* plan, int entries, int heads, const AttentionRounds& rounds)
        : block{-1, 0, 0}, head(rounds.piece() % heads) {
        const int entry = rounds.piece() / heads;
        if (entry < entries) block = plan[entry];
    }
};

// An mbarrier pair for each stage: full counts the copying thread and its bytes, or the warps that write, empty the warps that read. Both sides
// count uses from 0.
template <int STAGES>
struct Ring {
    Mbarrier full[STAGES];
    Mbarrier empty[STAGES];
};

template <int STAGES>
__device__ __forceinline__ void ring_init(Ring<STAGES>& ring, int writers = 1, int readers = ATTENTION_CONSUMERS * WARPGROUP / WARP) {
    for (int stage = 0; stage < STAGES; ++stage) {
        mbarrier_init(&ring.full[stage], writers);
        mbarrier_init(&ring.empty[stage], readers);
    }
}

// Use number `use` of a ring: which stage, and the parity of its turn.
template <int STAGES>
struct Turn {
    int stage;
    unsigned parity;
    __device__ explicit Turn(int use) : stage(use % STAGES), parity(use / STAGES % 2) {}
};

template <int STAGES>
__device__ __forceinline__ void wait_empty(Ring<STAGES>& ring, int use) {
    const Turn<STAGES> turn(use);
    mbarrier_wait(&ring.empty[turn.stage], turn.parity ^ 1);
}

// Waits until the stage is given back, and announces `bytes` bytes; returns the barrier to report them to.
template <int STAGES>
__device__ __forceinline__ Mbarrier* begin_fill(Ring<STAGES>& ring, int use, unsigned bytes) {
    wait_empty(ring, use);
    Mbarrier* full = &ring.full[Turn<STAGES>(use).stage];
    mbarrier_arrive_expect_tx(full, bytes);
    return full;
}

template <int STAGES>
__device__ __forceinline__ void wait_full(Ring<STAGES>& ring, int use) {
    const Turn<STAGES> turn(use);
    mbarrier_wait(&ring.full[turn.stage], turn.parity);
}

// By a whole warp whose products, and lanes, have read the stage.
template <int STAGES>
__device__ __forceinline__ void give_back(Ring<STAGES>& ring, int use) {
    __syncwarp();
    if (threadIdx.x % WARP == 0) mbarrier_arrive(&ring.empty[Turn<STAGES>(use).stage]);
}

// A tile of ROWS rows of a head lies in columns of at most 64 elements, 128 bytes: [D / width][ROWS][width], swizzled.
template <int D>
__host__ __device__ constexpr int head_tile_width() {
    return D < 64 ? D : 64;
}
template <int D>
__host__ __device__ constexpr Swizzle head_tile_swizzle() {
    return D < 64 ? Swizzle::rows_64 : Swizzle::rows_128;
}

// Where row `row`, a multiple of 8, of the tile's first column begins, in elements.
template <int D>
__host__ __device__ constexpr int head_tile_row(int row) {
    return row * head_tile_width<D>();
}

// Begins to copy rows row..row + ROWS and columns column..column + D of the map's matrix: ROWS * D * 2 bytes for the barrier.
// Rows behind the sequence are those of the next one, or zero: finite, and masked by whoever uses them.
template <int D, int ROWS>
__device__ __forceinline__ void load_head_tile(bf16* tile, const TensorMap* map, Mbarrier* barrier, int column, int row) {
    constexpr int WIDTH = head_tile_width<D>();
#pragma unroll
    for (int part = 0; part < D / WIDTH; ++part)
        tma_load(tile + part * ROWS * WIDTH, map, barrier, {column + part * WIDTH, row});
}

// Operands of products are described once; another stage, row or step of the same tiles is some bytes further on (wgmma_step).

// The product sums over the head's elements: the operand's rows are rows of the tile. `tile` may point to a row that head_tile_row gave.
template <int D>
__device__ __forceinline__ uint64_t k_major(const bf16* tile) {
    return wgmma_descriptor(tile, head_tile_swizzle<D>(), 0, 8 * head_tile_width<D>() * sizeof(bf16));
}
template <int D, int ROWS>
__device__ __forceinline__ uint64_t k_major_step(uint64_t operand, int step) {
    constexpr int WIDTH = head_tile_width<D>();
    const int element = step * 16;
    return wgmma_step(operand, (element / WIDTH * (ROWS * WIDTH) + element % WIDTH) * sizeof(bf16));
}

// The product sums over the tile's ROWS rows: the operand's columns are the head's elements.
template <int D, int ROWS>
__device__ __forceinline__ uint64_t mn_major(const bf16* tile) {
    constexpr int WIDTH = head_tile_width<D>();
    return wgmma_descriptor(tile, head_tile_swizzle<D>(), ROWS * WIDTH * sizeof(bf16), 8 * WIDTH * sizeof(bf16));
}
template <int D>
__device__ __forceinline__ uint64_t mn_major_step(uint64_t operand, int step) {
    return wgmma_step(operand, step * 16 * head_tile_width<D>() * sizeof(bf16));
}

// Stage `stage` of tiles of ROWS rows.
template <int D, int ROWS>
__device__ __forceinline__ uint64_t stage_of(uint64_t operand, int stage) {
    return wgmma_step(operand, stage * (ROWS * D * sizeof(bf16)));
}

// Words of decisions about COLUMNS elements of a warp's 16 rows.
template <int COLUMNS>
constexpr int DRAWS = divide_up(COLUMNS, 16 * DRAWN_PIECES);

// The decisions of a thread about COLUMNS columns: byte p of word w is about those from 64 w + 16 p on. Made while the tensor cores multiply.
template <Rows ROWS, int COLUMNS>
__device__ __forceinline__ void draw(unsigned (&keep)[DRAWS<COLUMNS>], const AttentionDropout& dropout, uint64_t draws, int row_tile,
                                     int column_tile) {
    static_assert(COLUMNS % (16 * DRAWN_PIECES) == 0 || COLUMNS < 16 * DRAWN_PIECES, "whole words, or one");
#pragma unroll
    for (int word = 0; word < DRAWS<COLUMNS>; ++word) {
        keep[word] = 0xffffffffu;
        if (dropout.threshold != 0)
            keep[word] = attention_draw<ROWS>(dropout, draws, [&](int piece) {
                return make_int2(row_tile, column_tile + word * DRAWN_PIECES + piece);
            });
    }
}

// Accumulators of 16 rows a warp become the A operand of the next product: register for register the same elements.
template <int COLUMNS>
__device__ __forceinline__ void pack_accumulators(unsigned (&packed)[COLUMNS / 16][4], const float (&values)[COLUMNS / 2]) {
#pragma unroll
    for (int i = 0; i < COLUMNS / 4; ++i) packed[i / 4][i % 4] = pack_bf16(values[2 * i], values[2 * i + 1]);
}

template <int STEPS>
__device__ __forceinline__ void hold(unsigned (&registers)[STEPS][4]) {
#pragma unroll
    for (int step = 0; step < STEPS; ++step) wgmma_hold(registers[step]);
}

// Drops packed probabilities; the scale of those kept is applied once at the end.
template <Rows ROWS, int COLUMNS>
__device__ __forceinline__ void drop(unsigned (&packed)[COLUMNS / 16][4], const unsigned (&keep)[DRAWS<COLUMNS>], const AttentionDropout& dropout) {
    if (dropout.threshold == 0) return;
#pragma unroll
    for (int part = 0; part < COLUMNS / 16; ++part)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            packed[part][i] &= keep_mask<ROWS>(keep[part / DRAWN_PIECES], part % DRAWN_PIECES, i / 2, i % 2);
}

// Rounds a warp's 16 rows times `factors` (one for each of the thread's two) and writes the first `valid` of them to global memory, 16
// bytes a lane, through [16][D] elements of shared memory that are this warp's own.
template <int D>
__device__ __forceinline__ void store_warp_rows(bf16* to, int stride, int valid, bf16* staging, const float (&rows)[D / 2],
                                                const float (&factors)[2]) {
    const int lane = threadIdx.x % WARP, group = lane / 4, member = lane % 4;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            *reinterpret_cast<unsigned*>(staging + swizzled<D>(8 * half + group, n * 8) + 2 * member) =
                pack_bf16(rows[4 * n + 2 * half] * factors[half], rows[4 * n + 2 * half + 1] * factors[half]);
    __syncwarp();
    constexpr int CHUNKS = D / GROUP;
#pragma unroll
    for (int index = lane; index < 16 * CHUNKS; index += WARP) {
        const int row = index / CHUNKS, chunk = index % CHUNKS;
        if (row < valid)
            *reinterpret_cast<uint4*>(to + static_cast<int64_t>(row) * stride + chunk * GROUP) =
                *reinterpret_cast<const uint4*>(staging + swizzled<D>(row, chunk * GROUP));
    }
}
