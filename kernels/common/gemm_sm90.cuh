// The products of gemm_sm90.cu: their tiles, a block's shared memory and pieces of work, and the way that sums take out of it.
#pragma once

#include "common/cluster.cuh"
#include "common/gelu.cuh"
#include "common/pack.cuh"
#include "common/reduce.cuh"
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
            static_assert(BAND == 64, "columns of warp_column_sums");
            warp_column_sums(totals);
            float* to = column_sums + warp * BAND + warp_sum_column();
            to[0] = totals[0], to[1] = totals[1];
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

}  // namespace
