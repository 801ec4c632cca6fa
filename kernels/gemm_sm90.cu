// Matrix products of a linear layer on Hopper: what gemm.cu computes, in bf16 with f32 sums, by wgmma from tiles that the copy
// engine (TMA) brings.
//
//   gemm_nt_sm90                 C = A B^T + bias                 A [m, k]  B [n, k]
//   gemm_nt_gelu_sm90            x = A B^T;  C = gelu(x + bias)   A [m, k]  B [n, k]
//   gemm_nn_sm90, _nn_add_sm90   C = A B,  C += A B               A [m, k]  B [k, n]
//   gemm_nn_gelu_gradient_sm90   C = (A B) gelu'(x + bias)        A [m, k]  B [k, n]   column_sums [m / 64, n] of C
//   gemm_tn_sm90                 partials of A^T B                A [k, m]  B [k, n]   f32, added to C by gemm_finish_sm90
//
// All matrices are row-major, described by tensor maps: addresses and rows are multiples of 16 bytes, sizes are any. A bias is
// [n] or null, never null beside GELU. What cannot be mapped goes to gemm.cu.
//
// A block stays on its multiprocessor and takes every gridDim.x-th piece of work: a tile of C, and in gemm_tn_sm90 a part of k of
// one, all tiles of a part before the next part, so that the blocks at work read the same rows of A and B, once from memory and
// then from L2. In the others all tiles of a row come first: they share a panel of A, and a layer's weight (at most 4.7 MB)
// stays in L2. The parts are a function of the shape alone (src/device/gemm_plan.rs) and are added in order.
//
// Each has a second self, as in gemm_nt_cluster_sm90, which runs in clusters of two blocks: they have tiles below each other and share
// that of B, half of which each brings for both. The same bits; gemm_plan.rs says which shapes it is for.
//
// Floor, y = x W^T with 65,536 x 768 x 3072: 309 GFLOP, 0.313 ms at 989 TFLOP/s; 508 MB, 0.169 ms at 3.0 TB/s. From L2 a tile of
// 128 x 256 needs 48 KB for each 4.2 MFLOP, 11 TB/s at full rate: more than L2 gives (some 6 to 7 TB/s), so single blocks are
// predicted to stop at 550 to 600 TFLOP/s. In clusters of two it is 32 KB, 7.5 TB/s. No figure from a GPU has been seen yet.
//
// Versions.
//   1. One warpgroup issues copies, two multiply 64 x 256 each; four stages; sums leave through shared memory and the copy
//      engine, while the next piece's first stages are on their way.
//   2. Clusters of two blocks, with multicast of B. For the copying thread's sake 40 and 232 registers instead of 24 and 240.
//   3. GELU in half the instructions, and a band's values before its buffer is waited for: notes/gemm.md, "GELU behind the sums".
//   4. GELU of x as it is kept: the same bits when it is computed again.

#include "common/cluster.cuh"
#include "common/gelu.cuh"
#include "common/pack.cuh"
#include "common/stmatrix.cuh"

namespace {

// The tiles.
//
//   tile of C        k a stage   stages   shared memory                                              sums a thread
//   128 x 256        64          4        4 x 48 KB ring, 2 x 16 KB on the way out, 2 KB column sums   128
//
// 128 x 256 for two multiplying warpgroups: m64n256k16 is the shape that reads least shared memory a product, and its 128 sums
// leave 104 of 232 registers for addresses and the epilogue. 64 of k: rows of 128 bytes, the widest swizzle. Four stages
// are what fits beside 16 KB a warpgroup on the way out; 65,536 tokens make 1,536 tiles at n = 768, 11.6 waves of 132.
constexpr int WARPGROUP = 128;
constexpr int CONSUMERS = 2;
constexpr int THREADS = (1 + CONSUMERS) * WARPGROUP;
constexpr int GROUP_M = 64;
constexpr int TILE_M = CONSUMERS * GROUP_M;
constexpr int TILE_N = 256;
constexpr int TILE_K = 64;
constexpr int STAGES = 4;
constexpr int PRODUCER_REGISTERS = 40;
constexpr int CONSUMER_REGISTERS = 232;

constexpr int A_ELEMENTS = TILE_M * TILE_K;
constexpr int B_ELEMENTS = TILE_N * TILE_K;
constexpr int STAGE_ELEMENTS = A_ELEMENTS + B_ELEMENTS;
constexpr int STAGE_BYTES = STAGE_ELEMENTS * sizeof(bf16);
constexpr int SUMS = TILE_N / 2;

// Sums leave in bands of 64 columns: rows of 128 bytes, the widest that a swizzled tile may have.
constexpr int BAND = 64;
constexpr int BANDS = TILE_N / BAND;
constexpr int BAND_ELEMENTS = GROUP_M * BAND;
constexpr int BAND_BYTES = BAND_ELEMENTS * sizeof(bf16);
constexpr int BUFFERS = 2;

// An operand whose rows lie along m or n comes as tiles of 64 columns, one behind the other.
constexpr int WIDTH = 64;
constexpr int WIDTH_ELEMENTS = WIDTH * TILE_K;

enum class Layout { NT, NN, TN };
enum class Epilogue { STORE, ADD, GELU, GELU_GRADIENT, PARTIALS };

}  // namespace

// The arguments of a product, passed by value; in Rust a #[repr(C)] struct of the same fields.
struct GemmSm90 {
    int m, n, k;
    int parts;  // that k is cut into
};

namespace {

// What a kernel was given; what it has no use for is null.
struct Operands {
    const TensorMap* a;
    const TensorMap* b;
    const TensorMap* c;
    const TensorMap* x;
    const bf16* bias;
    float* column_sums;
    float* partials;
};

// The last KB of what a block takes: one barrier each says that a stage is full, that it is empty, that a band has come.
struct Barriers {
    Mbarrier full[STAGES];
    Mbarrier empty[STAGES];
    Mbarrier band[CONSUMERS][BUFFERS];
};

struct Shared {
    bf16* ring;
    bf16* bands;         // [CONSUMERS][BUFFERS][GROUP_M x BAND], swizzled
    float* column_sums;  // [CONSUMERS][4 warps][BAND]
    Barriers* barriers;

    __device__ explicit Shared(unsigned char* memory)
        : ring(reinterpret_cast<bf16*>(memory)),
          bands(ring + STAGES * STAGE_ELEMENTS),
          column_sums(reinterpret_cast<float*>(bands + CONSUMERS * BUFFERS * BAND_ELEMENTS)),
          barriers(reinterpret_cast<Barriers*>(column_sums + CONSUMERS * 4 * BAND)) {}
};
static_assert(STAGES * STAGE_BYTES + CONSUMERS * (BUFFERS * BAND_BYTES + 4 * BAND * 4) + 1024 == 227 * 1024, "all there is");
static_assert(sizeof(Barriers) <= 1024, "the last KB");

// A stage of the ring and the parity of its phase.
struct Place {
    int stage = 0;
    unsigned parity = 0;

    __device__ __forceinline__ void next() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// A tile of C and a part of k. The blocks of a cluster have tiles below each other, of which the last may lie below C.
struct Piece {
    int tile, part;
    int first_m, first_n;
    int first_step, end_step;
};

__device__ __forceinline__ int tiles_of(const GemmSm90& gemm) { return divide_up(gemm.m, TILE_M) * divide_up(gemm.n, TILE_N); }

// Tiles, or with clusters groups of CLUSTER tiles below each other.
template <int CLUSTER>
__device__ __forceinline__ int groups_of(const GemmSm90& gemm) {
    return divide_up(gemm.m, CLUSTER * TILE_M) * divide_up(gemm.n, TILE_N);
}

template <int CLUSTER>
__device__ __forceinline__ Piece piece_of(const GemmSm90& gemm, int number, int rank) {
    const int groups = groups_of<CLUSTER>(gemm), tiles_n = divide_up(gemm.n, TILE_N);
    const int group = number % groups, part = number / groups;
    const int row = group / tiles_n * CLUSTER + rank, column = group % tiles_n;
    const int64_t steps = divide_up(gemm.k, TILE_K);
    return {row * tiles_n + column, part, row * TILE_M, column * TILE_N, static_cast<int>(part * steps / gemm.parts),
            static_cast<int>((part + 1) * steps / gemm.parts)};
}

// ---- copies ----

// Part of B's tile, for all blocks of the cluster.
template <int CLUSTER>
__device__ __forceinline__ void copy_b(const Operands& operands, bf16* tile, Mbarrier* full, const int (&at)[2]) {
    if constexpr (CLUSTER == 1)
        tma_load(tile, operands.b, full, at);
    else
        tma_multicast(tile, operands.b, full, at, (1 << CLUSTER) - 1);
}

// Of B's columns a block of a pair brings its half, and gets the other from its neighbour.
template <Layout LAYOUT, int CLUSTER>
__device__ __forceinline__ void copy_stage(const Operands& operands, const Piece& piece, int rank, int step, bf16* stage,
                                           Mbarrier* full) {
    const int k = step * TILE_K;
    bf16* tile_b = stage + A_ELEMENTS;
    mbarrier_arrive_expect_tx(full, STAGE_BYTES);
    if (LAYOUT == Layout::TN) {
        for (int i = 0; i < TILE_M / WIDTH; ++i)
            tma_load(stage + i * WIDTH_ELEMENTS, operands.a, full, {piece.first_m + i * WIDTH, k});
    } else {
        tma_load(stage, operands.a, full, {k, piece.first_m});
    }
    constexpr int SHARE = TILE_N / CLUSTER, COLUMNS = LAYOUT == Layout::NT ? TILE_N / 2 : WIDTH;
    bf16* share = tile_b + rank * SHARE * TILE_K;
    const int first_n = piece.first_n + rank * SHARE;
#pragma unroll
    for (int column = 0; column < SHARE; column += COLUMNS) {
        if (LAYOUT == Layout::NT)
            copy_b<CLUSTER>(operands, share + column * TILE_K, full, {k, first_n + column});
        else
            copy_b<CLUSTER>(operands, share + column * TILE_K, full, {first_n + column, k});
    }
}

template <Layout LAYOUT, int CLUSTER>
__device__ __forceinline__ void produce(const GemmSm90& gemm, const Operands& operands, const Shared& shared, int rank) {
    tma_prefetch(operands.a);
    tma_prefetch(operands.b);
    Place place;
    const int pieces = groups_of<CLUSTER>(gemm) * gemm.parts;
    for (int number = blockIdx.x / CLUSTER; number < pieces; number += gridDim.x / CLUSTER) {
        const Piece piece = piece_of<CLUSTER>(gemm, number, rank);
        for (int step = piece.first_step; step < piece.end_step; ++step) {
            // Read by all blocks that this one copies to.
            mbarrier_wait(&shared.barriers->empty[place.stage], place.parity ^ 1);
            copy_stage<LAYOUT, CLUSTER>(operands, piece, rank, step, shared.ring + place.stage * STAGE_ELEMENTS,
                                        &shared.barriers->full[place.stage]);
            place.next();
        }
    }
}

// ---- products ----

// The operands of consumer `group` in a stage. A k of 16 is 32 bytes on in rows along k, and 16 rows on in the others.
template <Layout LAYOUT>
__device__ __forceinline__ void multiply_stage(const bf16* stage, int group, float (&sums)[SUMS], bool accumulate) {
    constexpr bool A_ALONG_M = LAYOUT == Layout::TN, B_ALONG_N = LAYOUT != Layout::NT;
    constexpr unsigned EIGHT_ROWS = 8 * 128;
    const uint64_t a = wgmma_descriptor(stage + group * GROUP_M * TILE_K, Swizzle::rows_128, WIDTH_ELEMENTS * sizeof(bf16), EIGHT_ROWS);
    const uint64_t b = wgmma_descriptor(stage + A_ELEMENTS, Swizzle::rows_128, WIDTH_ELEMENTS * sizeof(bf16), EIGHT_ROWS);
#pragma unroll
    for (int k = 0; k < TILE_K / 16; ++k)
        wgmma<TILE_N, A_ALONG_M, B_ALONG_N>(sums, wgmma_step(a, k * (A_ALONG_M ? 2 * EIGHT_ROWS : 32)),
                                            wgmma_step(b, k * (B_ALONG_N ? 2 * EIGHT_ROWS : 32)), accumulate || k > 0);
}
static_assert(GROUP_M == WIDTH, "consumer g's rows of A along m are tile g of those that the copies write");

// A warp says that it is through with a stage, to every block that copies into it; the four of a warpgroup run apart a little.
template <int CLUSTER>
__device__ __forceinline__ void give_back(Mbarrier* empty) {
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    if (CLUSTER == 1) {
        if (lane == 0) mbarrier_arrive(empty);
    } else if (lane < CLUSTER) {
        mbarrier_arrive_in(empty, lane);
    }
}

template <Layout LAYOUT, int CLUSTER>
__device__ __forceinline__ void multiply(const Piece& piece, int group, const Shared& shared, Place& place,
                                         float (&sums)[SUMS]) {
    int last = 0;
    for (int step = piece.first_step; step < piece.end_step; ++step) {
        mbarrier_wait(&shared.barriers->full[place.stage], place.parity);
        wgmma_fence();
        multiply_stage<LAYOUT>(shared.ring + place.stage * STAGE_ELEMENTS, group, sums, step > piece.first_step);
        wgmma_commit();
        // The products of the stage before are done; those of this one go on while the next is waited for.
        wgmma_wait<1>();
        if (step > piece.first_step) give_back<CLUSTER>(&shared.barriers->empty[last]);
        last = place.stage;
        place.next();
    }
    wgmma_wait<0>();
    wgmma_hold(sums);
    give_back<CLUSTER>(&shared.barriers->empty[last]);
}

// ---- the way out ----

__device__ __forceinline__ float2 unpack_bf16(unsigned pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

// As pack_bf16, in one instruction even where the pair is unpacked again: seeing that, the compiler would convert each half by itself.
__device__ __forceinline__ unsigned pack_at_once(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const unsigned*>(&pair);
}

// A consumer's way out: its buffers, its rows of C, its thread's place in a band.
template <Epilogue EPILOGUE>
struct Exit {
    static constexpr bool LOADS = EPILOGUE == Epilogue::ADD || EPILOGUE == Epilogue::GELU_GRADIENT;
    const GemmSm90& gemm;
    const Operands& operands;
    bf16* buffers;
    float* column_sums;
    Mbarrier* arrived;
    int group;
    unsigned parities[BUFFERS] = {};
    unsigned used = 0;

    __device__ Exit(const GemmSm90& gemm, const Operands& operands, const Shared& shared, int group)
        : gemm(gemm),
          operands(operands),
          buffers(shared.bands + group * BUFFERS * BAND_ELEMENTS),
          column_sums(shared.column_sums + group * 4 * BAND),
          arrived(shared.barriers->band[group]),
          group(group) {}

    __device__ __forceinline__ bool leads() const { return threadIdx.x % WARPGROUP == 0; }
    __device__ __forceinline__ void meet() const { named_barrier_sync(1 + group, WARPGROUP); }

    // Starts to bring a band of what the sums are added to or multiplied with. By the leader, when the buffer is free.
    __device__ __forceinline__ void load_band(int row, int column, int buffer) const {
        const TensorMap* map = EPILOGUE == Epilogue::ADD ? operands.c : operands.x;
        mbarrier_arrive_expect_tx(&arrived[buffer], BAND_BYTES);
        tma_load(buffers + buffer * BAND_ELEMENTS, map, &arrived[buffer], {column, row});
    }

    // Before the products of a piece: its first bands.
    __device__ __forceinline__ void begin(const Piece& piece) const {
        if (!LOADS || !leads()) return;
        bulk_wait_read<0>();
        for (int band = 0; band < BUFFERS; ++band)
            if (piece.first_n + band * BAND < gemm.n)
                load_band(piece.first_m + group * GROUP_M, piece.first_n + band * BAND, band);
    }

    __device__ __forceinline__ float2 bias_of(int column) const {
        const bool none = EPILOGUE == Epilogue::STORE && operands.bias == nullptr;
        return make_float2(none || column >= gemm.n ? 0.0f : to_float(operands.bias[column]),
                           none || column + 1 >= gemm.n ? 0.0f : to_float(operands.bias[column + 1]));
    }

    // The sums of a piece to where they go.
    __device__ __forceinline__ void write(const Piece& piece, const float (&sums)[SUMS]) {
        const int row = piece.first_m + group * GROUP_M;
#pragma unroll
        for (int band = 0; band < BANDS; ++band) {
            const int column = piece.first_n + band * BAND;
            if (column >= gemm.n) break;
            const int buffer = LOADS ? band % BUFFERS : EPILOGUE == Epilogue::GELU ? 0 : used++ % BUFFERS;
            if (LOADS) {
                meet();
                mbarrier_wait(&arrived[buffer], parities[buffer]);
                parities[buffer] ^= 1;
            }
            write_band(column, band, buffers + buffer * BAND_ELEMENTS, sums);
            fence_proxy_async();
            meet();
            if (EPILOGUE == Epilogue::GELU_GRADIENT) write_column_sums(row, column);
            if (leads()) {
                tma_store(operands.c, buffers + buffer * BAND_ELEMENTS, {column, row});
                if (EPILOGUE == Epilogue::GELU) tma_store(operands.x, buffers + BAND_ELEMENTS, {column, row});
                bulk_commit();
                if (LOADS && band + BUFFERS < BANDS && column + BUFFERS * BAND < gemm.n) {
                    bulk_wait_read<0>();
                    load_band(row, column + BUFFERS * BAND, buffer);
                }
            }
        }
    }

    // The stores that last read the buffer (with GELU, both of them) are through with it.
    __device__ __forceinline__ void wait_for_buffer() const {
        if (leads()) {
            if (EPILOGUE == Epilogue::GELU)
                bulk_wait_read<0>();
            else
                bulk_wait_read<1>();
        }
        meet();
    }

    // 16 rows of the warp and 64 columns, 16 at a time: the registers of two neighbouring fragments are four matrices. What is computed for a band
    // is computed before its buffer is waited for.
    __device__ __forceinline__ void write_band(int column, int band, bf16* buffer, const float (&sums)[SUMS]) const {
        const int warp = static_cast<int>(threadIdx.x) % WARPGROUP / WARP, lane = static_cast<int>(threadIdx.x) % WARP;
        const int row = warp * 16 + lane % 16;
        const auto place = [&](int pair) { return buffer + swizzled<BAND>(row, pair * 16 + lane / 16 * 8); };
        float totals[BAND / 4];
        unsigned out[BAND / 16][4], kept[BAND / 16][4];
#pragma unroll
        for (int pair = 0; pair < BAND / 16; ++pair) {
            unsigned old[4];
            if (LOADS) ldmatrix_x4(old, place(pair));
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int eight = pair * 2 + half;
                const float2 shift =
                    EPILOGUE == Epilogue::ADD ? make_float2(0.0f, 0.0f) : bias_of(column + eight * 8 + lane % 4 * 2);
                totals[2 * eight] = totals[2 * eight + 1] = 0.0f;
#pragma unroll
                for (int low = 0; low < 2; ++low) {
                    const int matrix = half * 2 + low, at = (band * (BAND / 8) + eight) * 4 + low * 2;
                    float2 value = make_float2(sums[at], sums[at + 1]);
                    if (EPILOGUE == Epilogue::GELU) {
                        kept[pair][matrix] = pack_at_once(value.x, value.y);
                        // Of x as it is kept, so that the way back can compute the same once more.
                        value = unpack_bf16(kept[pair][matrix]);
                        value.x += shift.x, value.y += shift.y;
                        value.x = gelu<bf16>(value.x), value.y = gelu<bf16>(value.y);
                    } else if (EPILOGUE == Epilogue::GELU_GRADIENT) {
                        const float2 x = unpack_bf16(old[matrix]);
                        value.x *= gelu_slope<bf16>(x.x + shift.x), value.y *= gelu_slope<bf16>(x.y + shift.y);
                        totals[2 * eight] += value.x, totals[2 * eight + 1] += value.y;
                    } else if (EPILOGUE == Epilogue::ADD) {
                        const float2 before = unpack_bf16(old[matrix]);
                        value.x += before.x, value.y += before.y;
                    } else {
                        value.x += shift.x, value.y += shift.y;
                    }
                    out[pair][matrix] = pack_bf16(value.x, value.y);
                }
            }
        }
        if (!LOADS) wait_for_buffer();
#pragma unroll
        for (int pair = 0; pair < BAND / 16; ++pair) {
            stmatrix_x4(place(pair), out[pair]);
            if (EPILOGUE == Epilogue::GELU) stmatrix_x4(place(pair) + BAND_ELEMENTS, kept[pair]);
        }
        if (EPILOGUE == Epilogue::GELU_GRADIENT) {
            share_sums<BAND / 8>(totals, WARP / 2);
            share_sums<BAND / 16>(totals, WARP / 4);
            share_sums<BAND / 32>(totals, WARP / 8);
            // Of a lane's columns, eight apart, those that its bits above the fourth say.
            const int eight = lane / 16 * 4 + lane / 8 % 2 * 2 + lane / 4 % 2;
            float* to = column_sums + warp * BAND + eight * 8 + lane % 4 * 2;
            to[0] = totals[0], to[1] = totals[1];
        }
    }

    // Of 2 COUNT sums the lower half goes to the lower one of two lanes, `distance` apart, and the upper half to the upper one: half of the
    // shuffles and additions that all sums in all lanes would take.
    template <int COUNT>
    static __device__ __forceinline__ void share_sums(float (&sums)[BAND / 4], int distance) {
        const bool upper = threadIdx.x & distance;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const float other = __shfl_xor_sync(FULL_WARP, upper ? sums[i] : sums[i + COUNT], distance);
            sums[i] = (upper ? sums[i + COUNT] : sums[i]) + other;
        }
    }

    // Adds the four warps' sums of a band, in order, to its row of column_sums.
    __device__ __forceinline__ void write_column_sums(int row, int column) const {
        const int thread = static_cast<int>(threadIdx.x) % WARPGROUP;
        if (thread >= BAND || column + thread >= gemm.n || row >= gemm.m) return;
        float sum = 0.0f;
#pragma unroll
        for (int warp = 0; warp < 4; ++warp) sum += column_sums[warp * BAND + thread];
        operands.column_sums[static_cast<int64_t>(row / GROUP_M) * gemm.n + column + thread] = sum;
    }
};

// Where four sums of a thread wait for gemm_finish_sm90, in float4: thread by thread, so that a warp writes 512 bytes.
__device__ __forceinline__ int64_t waiting(int part, int tiles, int tile, int group, int four, int thread) {
    return ((static_cast<int64_t>(part) * tiles + tile) * CONSUMERS + group) * (SUMS / 4 * WARPGROUP) + four * WARPGROUP + thread;
}

__device__ __forceinline__ void write_partials(const GemmSm90& gemm, const Piece& piece, int group, float* partials,
                                               const float (&sums)[SUMS]) {
    float4* to = reinterpret_cast<float4*>(partials) +
                 waiting(piece.part, tiles_of(gemm), piece.tile, group, 0, static_cast<int>(threadIdx.x) % WARPGROUP);
#pragma unroll
    for (int four = 0; four < SUMS / 4; ++four)
        to[four * WARPGROUP] = make_float4(sums[4 * four], sums[4 * four + 1], sums[4 * four + 2], sums[4 * four + 3]);
}

template <Layout LAYOUT, Epilogue EPILOGUE, int CLUSTER>
__device__ __forceinline__ void consume(const GemmSm90& gemm, const Operands& operands, const Shared& shared, int group,
                                        int rank) {
    Place place;
    const int pieces = groups_of<CLUSTER>(gemm) * gemm.parts;
    float sums[SUMS];
    if constexpr (EPILOGUE == Epilogue::PARTIALS) {
        for (int number = blockIdx.x / CLUSTER; number < pieces; number += gridDim.x / CLUSTER) {
            const Piece piece = piece_of<CLUSTER>(gemm, number, rank);
            multiply<LAYOUT, CLUSTER>(piece, group, shared, place, sums);
            if (piece.first_m < gemm.m) write_partials(gemm, piece, group, operands.partials, sums);
        }
    } else {
        Exit<EPILOGUE> exit(gemm, operands, shared, group);
        for (int number = blockIdx.x / CLUSTER; number < pieces; number += gridDim.x / CLUSTER) {
            const Piece piece = piece_of<CLUSTER>(gemm, number, rank);
            const bool there = piece.first_m < gemm.m;
            if (there) exit.begin(piece);
            multiply<LAYOUT, CLUSTER>(piece, group, shared, place, sums);
            if (there) exit.write(piece, sums);
        }
        // Shared memory must outlive the stores that read it.
        if (exit.leads()) bulk_wait_read<0>();
    }
}

template <Layout LAYOUT, Epilogue EPILOGUE, int CLUSTER>
__device__ __forceinline__ void gemm_sm90(const GemmSm90& gemm, const Operands& operands, unsigned char* memory) {
    const Shared shared(memory);
    const int rank = CLUSTER == 1 ? 0 : cluster_rank();
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; ++stage) {
            mbarrier_init(&shared.barriers->full[stage], 1);
            mbarrier_init(&shared.barriers->empty[stage], CLUSTER * CONSUMERS * WARPGROUP / WARP);
        }
        for (int group = 0; group < CONSUMERS; ++group)
            for (int buffer = 0; buffer < BUFFERS; ++buffer) mbarrier_init(&shared.barriers->band[group][buffer], 1);
        mbarrier_init_fence();
    }
    if (CLUSTER == 1)
        __syncthreads();
    else
        cluster_sync();
    const int warpgroup = static_cast<int>(threadIdx.x) / WARPGROUP;
    if (warpgroup == CONSUMERS) {
        registers_decrease<PRODUCER_REGISTERS>();
        if (threadIdx.x % WARPGROUP == 0) produce<LAYOUT, CLUSTER>(gemm, operands, shared, rank);
    } else {
        registers_increase<CONSUMER_REGISTERS>();
        consume<LAYOUT, EPILOGUE, CLUSTER>(gemm, operands, shared, warpgroup, rank);
    }
    // The neighbour still arrives at barriers here.
    if (CLUSTER > 1) cluster_sync();
}

}  // namespace

// One block a multiprocessor, at most one for each piece; of NAME_cluster_sm90 at most two for each pair of pieces. OPERANDS are
// made of the parameters that follow them.
#define GEMM_SM90(NAME, DTYPE, LAYOUT, EPILOGUE, OPERANDS, ...)                                                 \
    GEMM_SM90_KERNEL(NAME##_sm90_##DTYPE, , 1, LAYOUT, EPILOGUE, OPERANDS, __VA_ARGS__)                         \
    GEMM_SM90_KERNEL(NAME##_cluster_sm90_##DTYPE, __cluster_dims__(2, 1, 1), 2, LAYOUT, EPILOGUE, OPERANDS, __VA_ARGS__)
#define GEMM_SM90_KERNEL(NAME, DIMS, CLUSTER, LAYOUT, EPILOGUE, OPERANDS, ...)                                  \
    extern "C" __global__ void DIMS __launch_bounds__(THREADS, 1) NAME(                                         \
        GemmSm90 gemm, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, __VA_ARGS__) { \
        DYNAMIC_SHARED_ALIGNED(unsigned char, memory, 1024);                                                    \
        const Operands operands OPERANDS;                                                                       \
        gemm_sm90<Layout::LAYOUT, Epilogue::EPILOGUE, CLUSTER>(gemm, operands, memory);                         \
    }                                                                                                           \
    EXPORT_KERNEL(NAME)

#define TO_C ({&a, &b, &c, nullptr, nullptr, nullptr, nullptr})
#define TO_C_WITH_BIAS ({&a, &b, &c, nullptr, bias, nullptr, nullptr})
#define TO_C_AND_X ({&a, &b, &c, &x, bias, nullptr, nullptr})
#define TO_C_FROM_X ({&a, &b, &c, &x, bias, column_sums, nullptr})
#define TO_PARTIALS ({&a, &b, nullptr, nullptr, nullptr, nullptr, partials})

GEMM_SM90(gemm_nt, bf16, NT, STORE, TO_C_WITH_BIAS, const __grid_constant__ TensorMap c, const bf16* bias)
GEMM_SM90(gemm_nt_gelu, bf16, NT, GELU, TO_C_AND_X, const __grid_constant__ TensorMap c, const __grid_constant__ TensorMap x,
          const bf16* bias)
GEMM_SM90(gemm_nn, bf16, NN, STORE, TO_C, const __grid_constant__ TensorMap c)
GEMM_SM90(gemm_nn_add, bf16, NN, ADD, TO_C, const __grid_constant__ TensorMap c)
GEMM_SM90(gemm_nn_gelu_gradient, bf16, NN, GELU_GRADIENT, TO_C_FROM_X, const __grid_constant__ TensorMap c,
          const __grid_constant__ TensorMap x, const bf16* bias, float* column_sums)
GEMM_SM90(gemm_tn, bf16_f32, TN, PARTIALS, TO_PARTIALS, float* partials)

// gemm_finish_sm90_f32: C += the parts of gemm_tn_sm90, in order. gridDim.x = tiles, gridDim.y = 16: the eighths of each
// consumer's sums. Blocks of 128 threads. C [m, n] with ldc elements from row to row.
extern "C" __global__ void __launch_bounds__(WARPGROUP)
    gemm_finish_sm90_f32(GemmSm90 gemm, const float* partials, float* c, int64_t ldc) {
    const Piece piece = piece_of<1>(gemm, blockIdx.x, 0);
    const int group = blockIdx.y / 8, thread = threadIdx.x;
    const int row = piece.first_m + group * GROUP_M + thread / WARP * 16 + thread % WARP / 4;
#pragma unroll 1
    for (int i = 0; i < 4; ++i) {
        const int four = blockIdx.y % 8 * 4 + i;
        float sums[4] = {};
        for (int part = 0; part < gemm.parts; ++part) {
            const float4 values =
                reinterpret_cast<const float4*>(partials)[waiting(part, gridDim.x, blockIdx.x, group, four, thread)];
            sums[0] += values.x, sums[1] += values.y, sums[2] += values.z, sums[3] += values.w;
        }
        const int column = piece.first_n + four * 8 + thread % 4 * 2;
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (row + j / 2 * 8 < gemm.m && column + j % 2 < gemm.n) c[(row + j / 2 * 8) * ldc + column + j % 2] += sums[j];
    }
}
EXPORT_KERNEL(gemm_finish_sm90_f32)
