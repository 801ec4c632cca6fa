// The products of gemm_sm90.cu: their tiles, a block's shared memory and pieces of work, and the way that sums take out of it.
#pragma once

#include "common/cluster.cuh"
#include "common/activation.cuh"
#include "common/pack.cuh"
#include "common/reduce.cuh"
#include "common/stmatrix.cuh"

namespace {

// The tiles.
//
//   whose                      tile of C   k a stage   stages   shared memory                                 sums a thread
//   both warpgroups', 64 rows  128 x 256      64          4     4 x 48 KB ring, 2 x 16 KB on the way out          128
//   one warpgroup's, in turn   128 x 192      64          4     4 x 40 KB ring, 2 x 32 or 24 KB                   192
//
// 128 x 256 for two multiplying warpgroups: m64n256k16 is the shape that reads least shared memory a product, and its 128 sums
// leave 104 of 232 registers for addresses and the epilogue; but the tensor cores idle while the sums leave. Where an epilogue takes long,
// each warpgroup has a tile of its own, and one's sums leave behind the other's products: notes/gemm.md, "Turns". 64 of k: rows of 128
// bytes, the widest swizzle. Four stages are what fits beside the bands on the way out; 65,536 tokens make 1,536 tiles at n = 768, 11.6 waves of 132.
constexpr int WARPGROUP = 128;
constexpr int CONSUMERS = 2;
constexpr int THREADS = (1 + CONSUMERS) * WARPGROUP;
constexpr int GROUP_M = 64;
constexpr int TILE_M = 128;
constexpr int TILE_K = 64;
constexpr int STAGES = 4;

// Sums leave in bands of 64 rows and columns: rows of 128 bytes, the widest that a swizzled tile may have.
constexpr int BAND = 64;
constexpr int BAND_ELEMENTS = GROUP_M * BAND;
constexpr int BAND_BYTES = BAND_ELEMENTS * sizeof(bf16);

// An operand whose rows lie along m or n comes as tiles of 64 columns, one behind the other.
constexpr int WIDTH = 64;
constexpr int WIDTH_ELEMENTS = WIDTH * TILE_K;

enum class Layout { NT, NN, TN };
enum class Epilogue { STORE, ADD, GELU, GELU_GRADIENT, PARTIALS };

template <Epilogue EPILOGUE>
struct Tiles {
    static constexpr bool IN_TURN = EPILOGUE == Epilogue::GELU || EPILOGUE == Epilogue::GELU_GRADIENT;
    static constexpr bool IN_PARTS = EPILOGUE == Epilogue::PARTIALS;
    static constexpr int N = IN_TURN ? 192 : 256;
    // A warpgroup's rows, in products of 64, and its readers' warps a stage.
    static constexpr int HALVES = IN_TURN ? 2 : 1;
    static constexpr int READERS = (IN_TURN ? 1 : CONSUMERS) * WARPGROUP / WARP;
    static constexpr int SUMS = N / 2;
    // Of 504 that three warpgroups have together. Copying parts takes more than 24.
    static constexpr int CONSUMER_REGISTERS = IN_TURN ? 240 : 232;
    static constexpr int PRODUCER_REGISTERS = 504 - 2 * CONSUMER_REGISTERS;
    static constexpr int COLUMNS = N / BAND;
    static constexpr int BANDS = COLUMNS * HALVES;
    // With GELU a band has two, for C and for x.
    static constexpr int BUFFERS = EPILOGUE == Epilogue::GELU ? 4 : IN_TURN ? 3 : 2;
    static constexpr int SUM_FLOATS = EPILOGUE == Epilogue::GELU_GRADIENT ? WARPGROUP / WARP * BAND : 0;
    static constexpr int A_ELEMENTS = TILE_M * TILE_K;
    static constexpr int STAGE_ELEMENTS = A_ELEMENTS + N * TILE_K;
    static constexpr int STAGE_BYTES = STAGE_ELEMENTS * sizeof(bf16);
};

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

// How far a block's pieces are from each other, in tiles of a row, rows of tiles and parts, and how many there are in a row and a part. In shared
// memory because registers are scarce where it is needed once a tile.
struct Digits {
    int columns, rows;
    int more_columns, more_rows, more_parts;
};

// The last KB of what a block takes: one barrier each says that a stage is full, that it is empty, that a band has come, that it
// is a warpgroup's turn.
struct Barriers {
    Mbarrier full[STAGES];
    Mbarrier empty[STAGES];
    struct {
        Mbarrier band[3];
        Mbarrier turn;
    } of[CONSUMERS];
    Digits digits;
};

constexpr int SHARED_BYTES = 227 * 1024;  // all there is

// What a consumer has for its way out.
template <typename TILES>
struct alignas(1024) WayOut {
    bf16 bands[TILES::BUFFERS][BAND_ELEMENTS];  // [GROUP_M x BAND], swizzled
    float floats[TILES::N + TILES::SUM_FLOATS];

    __device__ __forceinline__ float* bias() { return floats; }                     // [N]
    __device__ __forceinline__ float* column_sums() { return floats + TILES::N; }  // [4 warps][BAND], where there are any
};

template <typename TILES>
struct Shared {
    bf16* ring;
    WayOut<TILES>* ways_out;
    Barriers* barriers;

    __device__ explicit Shared(unsigned char* memory)
        : ring(reinterpret_cast<bf16*>(memory)),
          ways_out(reinterpret_cast<WayOut<TILES>*>(ring + STAGES * TILES::STAGE_ELEMENTS)),
          barriers(reinterpret_cast<Barriers*>(memory + SHARED_BYTES - 1024)) {
        static_assert(STAGES * TILES::STAGE_BYTES + CONSUMERS * sizeof(WayOut<TILES>) + 1024 <= SHARED_BYTES, "no more than there is");
        static_assert(sizeof(Barriers) <= 1024, "the last KB");
    }
};

// The place of a step in the ring: all of a block's steps follow each other through its stages.
struct Place {
    unsigned step = 0;

    __device__ __forceinline__ int stage() const { return step % STAGES; }
    __device__ __forceinline__ int stage_before() const { return (step - 1) % STAGES; }
    // Of the phase in which the stage is full; it is empty for this step when the phase before is over.
    __device__ __forceinline__ unsigned parity() const { return step / STAGES % 2; }
};
static_assert((STAGES & (STAGES - 1)) == 0, "no division a step");

// A tile of C and a part of k. The blocks of a cluster have tiles below each other, of which the last may lie below C.
struct Piece {
    int tile, part;
    int first_m, first_n;
    int first_step, steps;
};

// A block's pieces: every gridDim.x / CLUSTER-th of the tiles of a row, row by row, part by part. With clusters a row is CLUSTER tiles high. A number's
// digits are added to, so that only the beginning takes divisions.
template <typename TILES, int CLUSTER>
struct Walk {
    const GemmSm90& gemm;
    const Digits& digits;
    int column, row, part;

    __device__ static Digits stride(const GemmSm90& gemm) {
        const int columns = divide_up(gemm.n, TILES::N), rows = divide_up(gemm.m, CLUSTER * TILE_M), stride = gridDim.x / CLUSTER;
        const int more = stride / columns;
        return {columns, rows, stride % columns, TILES::IN_PARTS ? more % rows : more, TILES::IN_PARTS ? more / rows : 0};
    }

    __device__ __forceinline__ Walk(const GemmSm90& gemm, const Digits& digits) : gemm(gemm), digits(digits) {
        const int first = blockIdx.x / CLUSTER, rows = first / digits.columns;
        column = first % digits.columns, row = TILES::IN_PARTS ? rows % digits.rows : rows, part = TILES::IN_PARTS ? rows / digits.rows : 0;
    }

    __device__ __forceinline__ bool ended() const { return TILES::IN_PARTS ? part >= gemm.parts : row >= digits.rows; }

    __device__ __forceinline__ void next() {
        column += digits.more_columns, row += digits.more_rows;
        if (column >= digits.columns) column -= digits.columns, ++row;
        if (TILES::IN_PARTS) {
            part += digits.more_parts;
            if (row >= digits.rows) row -= digits.rows, ++part;
        }
    }

    __device__ __forceinline__ Piece piece(int rank) const {
        const int tile_row = row * CLUSTER + rank;
        const int steps = divide_up(gemm.k, TILE_K);
        Piece piece = {tile_row * digits.columns + column, part, tile_row * TILE_M, column * TILES::N, 0, steps};
        if (TILES::IN_PARTS) {
            piece.first_step = static_cast<int>(int64_t{part} * steps / gemm.parts);
            piece.steps = static_cast<int>((part + 1) * int64_t{steps} / gemm.parts) - piece.first_step;
        }
        return piece;
    }
};

__device__ __forceinline__ float2 unpack_bf16(unsigned pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

// A consumer's way out: its buffers, its rows of C, its thread's place in a band. FORM is GELU's.
template <Epilogue EPILOGUE, template <typename> class FORM>
struct Exit {
    using T = Tiles<EPILOGUE>;
    static constexpr bool ADDS = EPILOGUE == Epilogue::ADD, MULTIPLIES = EPILOGUE == Epilogue::GELU_GRADIENT;
    // Of a tile's columns, those whose biases a thread brings.
    static constexpr int BIASES = ADDS ? 0 : divide_up(T::N, WARPGROUP);

    const GemmSm90& gemm;
    const Operands& operands;
    WayOut<T>& shared;
    Mbarrier* arrived;
    Mbarrier* turn;
    int group;
    // Of the bands that come, and above them that of the turns; the first turn is taken without waiting.
    unsigned parities;
    unsigned used = 0;
    // What is read before the products are done: biases on their way to shared memory (not touched until then: that would wait for them), or
    // what C was.
    bf16 biases[BIASES > 0 ? BIASES : 1];
    unsigned old[ADDS ? T::BANDS : 1][BAND / 16][4];

    __device__ Exit(const GemmSm90& gemm, const Operands& operands, const Shared<T>& shared, int group)
        : gemm(gemm),
          operands(operands),
          shared(shared.ways_out[group]),
          arrived(shared.barriers->of[group].band),
          turn(&shared.barriers->of[group].turn),
          group(group),
          parities(group == 0 ? 1 << T::BUFFERS : 0) {}

    __device__ __forceinline__ bool leads() const { return threadIdx.x % WARPGROUP == 0; }
    __device__ __forceinline__ void meet() const { named_barrier_sync(1 + group, WARPGROUP); }
    __device__ __forceinline__ bf16* buffer(int number) const { return shared.bands[number]; }

    // The thread's row of a band for ldmatrix and stmatrix: 16 rows of the warp and 64 columns, 16 at a time. The registers of two neighbouring
    // fragments are four matrices.
    __device__ __forceinline__ int place(int sixteen) const {
        const int warp = static_cast<int>(threadIdx.x) % WARPGROUP / WARP, lane = static_cast<int>(threadIdx.x) % WARP;
        return swizzled<BAND>(warp * 16 + lane % 16, sixteen * 16 + lane / 16 * 8);
    }

    // Bands follow each other column by column, the halves of a column's rows one after the other.
    __device__ __forceinline__ int column_of(const Piece& piece, int band) const { return piece.first_n + band / T::HALVES * BAND; }
    __device__ __forceinline__ int row_of(const Piece& piece, int band) const {
        return piece.first_m + (T::IN_TURN ? band % T::HALVES : group) * GROUP_M;
    }

    // Starts to bring a band of what the sums are added to or multiplied with. By the leader, when the buffer is free.
    __device__ __forceinline__ void load_band(const Piece& piece, int band) const {
        const int number = band % T::BUFFERS, column = column_of(piece, band);
        if (band >= T::BANDS || column >= gemm.n) return;
        mbarrier_arrive_expect_tx(&arrived[number], BAND_BYTES);
        tma_load(buffer(number), ADDS ? operands.c : operands.x, &arrived[number], {column, row_of(piece, band)});
    }

    __device__ __forceinline__ void wait_for_band(int band) {
        const int number = band % T::BUFFERS;
        mbarrier_wait(&arrived[number], parities >> number & 1);
        parities ^= 1 << number;
    }

    // With tiles in turn: until the other warpgroup's last stage is full.
    __device__ __forceinline__ void wait_for_turn() {
        mbarrier_wait(turn, parities >> T::BUFFERS & 1);
        parities ^= 1 << T::BUFFERS;
    }

    // What C was in a band, into registers.
    __device__ __forceinline__ void take_band(const Piece& piece, int band) {
        if (column_of(piece, band) >= gemm.n) return;
        wait_for_band(band);
#pragma unroll
        for (int sixteen = 0; sixteen < BAND / 16; ++sixteen) ldmatrix_x4(old[band][sixteen], buffer(band % T::BUFFERS) + place(sixteen));
    }

    // Before the products of a piece.
    __device__ __forceinline__ void begin(const Piece& piece) {
#pragma unroll
        for (int i = 0; i < BIASES; ++i) {
            const int column = piece.first_n + i * WARPGROUP + static_cast<int>(threadIdx.x) % WARPGROUP;
            const bool none = EPILOGUE == Epilogue::STORE && operands.bias == nullptr;
            biases[i] = none || column >= gemm.n ? from_float<bf16>(0.0f) : operands.bias[column];
        }
        if constexpr (ADDS || MULTIPLIES) {
            if (!leads()) return;
            bulk_wait_read<0>();
            for (int band = 0; band < T::BUFFERS; ++band) load_band(piece, band);
        }
    }

    // While they go on, once: puts the biases where they are wanted, and makes room for the other bands of what C was. (All warps are through with the
    // biases of the piece before: they have met since.)
    __device__ __forceinline__ void go_on(const Piece& piece) {
#pragma unroll
        for (int i = 0; i < BIASES; ++i) {
            const int column = i * WARPGROUP + static_cast<int>(threadIdx.x) % WARPGROUP;
            if (column < T::N) shared.bias()[column] = to_float(biases[i]);
        }
        if constexpr (ADDS) {
#pragma unroll
            for (int band = 0; band < T::BUFFERS; ++band) take_band(piece, band);
            meet();
            if (!leads()) return;
            for (int band = T::BUFFERS; band < T::BANDS; ++band) load_band(piece, band);
        }
    }

    // The sums of a piece to where they go.
    __device__ __forceinline__ void write(const Piece& piece, const float (&sums)[T::HALVES][T::SUMS]) {
        if constexpr (ADDS) {
#pragma unroll
            for (int band = T::BUFFERS; band < T::BANDS; ++band) take_band(piece, band);
        }
#pragma unroll
        for (int band = 0; band < T::BANDS; ++band) {
            const int column = column_of(piece, band), row = row_of(piece, band);
            if (column >= gemm.n) break;
            // The last piece of a row may have an odd number of bands, and then the next begins with the other buffer.
            const int number = EPILOGUE == Epilogue::STORE ? used++ % T::BUFFERS : EPILOGUE == Epilogue::GELU ? band % 2 * 2 : band % T::BUFFERS;
            if (MULTIPLIES) {
                // The column sums of the band before were read.
                meet();
                wait_for_band(band);
            } else {
                // The store that last read the buffer is through with it.
                if (leads()) bulk_wait_read<1>();
                meet();
            }
            write_band(band, buffer(number), sums[band % T::HALVES]);
            fence_proxy_async();
            meet();
            if (MULTIPLIES) write_column_sums(row, column);
            if (leads()) {
                tma_store(operands.c, buffer(number), {column, row});
                if (EPILOGUE == Epilogue::GELU) tma_store(operands.x, buffer(number + 1), {column, row});
                bulk_commit();
                if (MULTIPLIES && band + T::BUFFERS < T::BANDS) {
                    bulk_wait_read<0>();
                    load_band(piece, band + T::BUFFERS);
                }
            }
        }
    }

    // A thread has columns 8 i + 2 (lane % 4) and the next of a band.
    __device__ __forceinline__ void write_band(int band, bf16* buffer, const float (&sums)[T::SUMS]) const {
        const int warp = static_cast<int>(threadIdx.x) % WARPGROUP / WARP, lane = static_cast<int>(threadIdx.x) % WARP;
        const float* shifts = shared.bias() + band / T::HALVES * BAND + lane % 4 * 2;
#pragma unroll
        for (int sixteen = 0; sixteen < BAND / 16; ++sixteen) {
            unsigned before[4], out[4], kept[4];
            float totals[4] = {};
            bf16* at = buffer + place(sixteen);
            if (MULTIPLIES) ldmatrix_x4(before, at);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int pair = sixteen * 2 + half;
                const float2 shift = ADDS ? make_float2(0.0f, 0.0f) : *reinterpret_cast<const float2*>(shifts + pair * 8);
#pragma unroll
                for (int low = 0; low < 2; ++low) {
                    const int matrix = half * 2 + low, sum = (band / T::HALVES * (BAND / 8) + pair) * 4 + low * 2;
                    float2 value = make_float2(sums[sum], sums[sum + 1]);
                    if (EPILOGUE == Epilogue::GELU) {
                        kept[matrix] = pack_bf16(value.x, value.y);
                        // Of x as it is kept, so that the way back can compute the same once more.
                        value = unpack_bf16(kept[matrix]);
                        value.x += shift.x, value.y += shift.y;
                        value.x = FORM<bf16>::value(value.x), value.y = FORM<bf16>::value(value.y);
                    } else if (MULTIPLIES) {
                        const float2 x = unpack_bf16(before[matrix]);
                        value.x *= FORM<bf16>::slope(x.x + shift.x), value.y *= FORM<bf16>::slope(x.y + shift.y);
                        totals[2 * half] += value.x, totals[2 * half + 1] += value.y;
                    } else if (ADDS) {
                        const float2 was = unpack_bf16(old[band][sixteen][matrix]);
                        value.x += was.x, value.y += was.y;
                    } else {
                        value.x += shift.x, value.y += shift.y;
                    }
                    out[matrix] = pack_bf16(value.x, value.y);
                }
            }
            stmatrix_x4(at, out);
            if (EPILOGUE == Epilogue::GELU) stmatrix_x4(at + BAND_ELEMENTS, kept);
            if (MULTIPLIES) {
                warp_column_sums(totals);
                if ((lane & WARP / 8) == 0) shared.column_sums()[warp * BAND + sixteen * 16 + warp_sum_column_of_16()] = totals[0];
            }
        }
    }

    // Adds the four warps' sums of a band, in order, to its row of column_sums.
    __device__ __forceinline__ void write_column_sums(int row, int column) const {
        const int thread = static_cast<int>(threadIdx.x) % WARPGROUP;
        if (thread >= BAND || column + thread >= gemm.n || row >= gemm.m) return;
        float sum = 0.0f;
#pragma unroll
        for (int warp = 0; warp < 4; ++warp) sum += shared.column_sums()[warp * BAND + thread];
        operands.column_sums[static_cast<int64_t>(row / GROUP_M) * gemm.n + column + thread] = sum;
    }
};

}  // namespace
