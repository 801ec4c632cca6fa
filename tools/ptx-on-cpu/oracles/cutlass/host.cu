// Says how each product of gemm.h is launched: grid, block, cluster, shared memory and its one parameter, a struct that only CUTLASS
// can make. Runs without a driver: the function that encodes a tensor map is this file's own, and only notes what was asked for.
//
//   host M N K ALPHA BETA      one line of JSON a product on the standard output
//
// The struct is written as bytes in which pointers and tensor maps are zero, with the places where they belong.
#include "gemm.h"
#include "cutlass/util/packed_stride.hpp"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda.h>
#include <string>
#include <vector>

// Pointers and maps are found again in the struct by these.
constexpr unsigned long long pointer_mark = 0x5eed0a1100000000;
constexpr unsigned map_mark = 0x7ab1e0f0;
static const char* const buffers[] = {"a", "b", "c", "d"};
static std::vector<std::string> maps;

static unsigned buffer_of(unsigned long long word) { return unsigned(word >> 24) & 0xff; }
static bool is_pointer(unsigned long long word) {
    return (word & ~0xff000000ull) == pointer_mark && buffer_of(word) < 4;
}
static Bf16* pointer(unsigned buffer) { return reinterpret_cast<Bf16*>(pointer_mark | (unsigned long long)buffer << 24); }

template <class T>
static std::string list(const T* values, unsigned count) {
    std::string text = "[";
    for (unsigned i = 0; i < count; ++i) text += (i ? ", " : "") + std::to_string(values[i]);
    return text + "]";
}

extern "C" CUresult CUDAAPI cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                                                   const cuuint64_t* dims, const cuuint64_t* strides, const cuuint32_t* box,
                                                   const cuuint32_t* element_strides, CUtensorMapInterleave interleave,
                                                   CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
    auto word = reinterpret_cast<unsigned long long>(address);
    bool two_bytes = type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_UINT16;
    bool plain = interleave == CU_TENSOR_MAP_INTERLEAVE_NONE;
    for (unsigned i = 0; i < rank; ++i) plain = plain && element_strides[i] == 1;
    if (!is_pointer(word) || !two_bytes || !plain) {
        fprintf(stderr, "host: a tensor map of another kind than the oracles' format can say: type %d, interleave %d\n", type, interleave);
        exit(1);
    }
    const int swizzle_bytes[] = {0, 32, 64, 128};
    std::string text = "\"buffer\": \"" + std::string(buffers[buffer_of(word)]) + "\", \"dims\": " + list(dims, rank) +
                       ", \"strides\": " + list(strides, rank - 1) + ", \"box\": " + list(box, rank) +
                       ", \"swizzle\": " + std::to_string(swizzle_bytes[swizzle]);
    unsigned mark[2] = {map_mark, unsigned(maps.size())};
    maps.push_back(text);
    memset(map, 0, sizeof *map);
    memcpy(map, mark, sizeof mark);
    return CUDA_SUCCESS;
}

template <int variant>
static void describe(int m, int n, int k, float alpha, float beta) {
    using Kernel = typename Variant<variant>::Kernel;
    auto stride_a = cutlass::make_cute_packed_stride(typename Kernel::StrideA{}, make_shape(m, k, 1));
    auto stride_b = cutlass::make_cute_packed_stride(typename Kernel::StrideB{}, make_shape(n, k, 1));
    auto stride_c = cutlass::make_cute_packed_stride(typename Kernel::StrideC{}, make_shape(m, n, 1));
    auto stride_d = cutlass::make_cute_packed_stride(typename Kernel::StrideD{}, make_shape(m, n, 1));
    // Fewer blocks than tiles, so that each computes several.
    cutlass::KernelHardwareInfo hardware;
    hardware.device_id = 0;
    hardware.sm_count = 4;
    hardware.max_active_clusters = 2;
    hardware.cluster_shape = {0, 0, 0};
    typename Kernel::Arguments arguments{cutlass::gemm::GemmUniversalMode::kGemm,
                                         {m, n, k, 1},
                                         {pointer(0), stride_a, pointer(1), stride_b},
                                         {{alpha, beta}, pointer(2), stride_c, pointer(3), stride_d},
                                         hardware};
    maps.clear();
    if (!Kernel::can_implement(arguments)) {
        fprintf(stderr, "host: %s does not take %d x %d x %d\n", Variant<variant>::name, m, n, k);
        exit(1);
    }
    auto params = Kernel::to_underlying_arguments(arguments, nullptr);
    std::vector<unsigned char> bytes(sizeof params);
    memcpy(bytes.data(), &params, sizeof params);

    std::string places;
    for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
        unsigned long long word;
        unsigned mark[2];
        memcpy(&word, &bytes[at], sizeof word);
        memcpy(mark, &word, sizeof mark);
        std::string place;
        if (at % 64 == 0 && mark[0] == map_mark && mark[1] < maps.size()) {
            place = maps[mark[1]];
            memset(&bytes[at], 0, sizeof(CUtensorMap));
        } else if (is_pointer(word)) {
            place = "\"buffer\": \"" + std::string(buffers[buffer_of(word)]) + "\"";
            memset(&bytes[at], 0, sizeof word);
        } else {
            continue;
        }
        places += (places.empty() ? "" : ", ") + std::string("{\"at\": ") + std::to_string(at) + ", " + place + "}";
    }
    dim3 grid = Kernel::get_grid_shape(params), block = Kernel::get_block_shape();
    std::string hex;
    for (unsigned char byte : bytes) {
        char digits[3];
        snprintf(digits, sizeof digits, "%02x", byte);
        hex += digits;
    }
    using Cluster = typename Kernel::ClusterShape;
    printf("{\"name\": \"%s\", \"grid\": [%u, %u, %u], \"block\": [%u, %u, %u], \"cluster\": [%d, %d, %d], \"shared\": %d, "
           "\"bytes\": \"%s\", \"places\": [%s]}\n",
           Variant<variant>::name, grid.x, grid.y, grid.z, block.x, block.y, block.z, int(size<0>(Cluster{})), int(size<1>(Cluster{})),
           int(size<2>(Cluster{})), int(Kernel::SharedStorageSize), hex.c_str(), places.c_str());
}

int main(int count, char** arguments) {
    if (count != 6) {
        fprintf(stderr, "usage: host M N K ALPHA BETA\n");
        return 2;
    }
    int m = atoi(arguments[1]), n = atoi(arguments[2]), k = atoi(arguments[3]);
    float alpha = strtof(arguments[4], nullptr), beta = strtof(arguments[5], nullptr);
    describe<0>(m, n, k, alpha, beta);
    describe<1>(m, n, k, alpha, beta);
    describe<2>(m, n, k, alpha, beta);
    describe<3>(m, n, k, alpha, beta);
    describe<4>(m, n, k, alpha, beta);
}
