// Says how a kernel of CUTLASS's is launched: grid, block, cluster, shared memory and its one parameter, a struct that only CUTLASS can
// make. Runs without a driver: the function that encodes a tensor map is this file's own, and only notes what was asked for.
//
// The struct is written as bytes in which pointers and tensor maps are zero, with the places where they belong.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda.h>
#include <string>
#include <vector>

// Pointers and maps are found again in the struct by these.
constexpr unsigned long long pointer_mark = 0x5eed0a1100000000;
constexpr unsigned map_mark = 0x7ab1e0f0;
static std::vector<std::string> buffers;
static std::vector<std::string> maps;

template <class T>
static T* pointer(const char* buffer) {
    buffers.push_back(buffer);
    return reinterpret_cast<T*>(pointer_mark | (unsigned long long)(buffers.size() - 1) << 24);
}
static unsigned buffer_of(unsigned long long word) { return unsigned(word >> 24) & 0xff; }
static bool is_marked_pointer(unsigned long long word) {
    return (word & ~0xff000000ull) == pointer_mark && buffer_of(word) < buffers.size();
}

static void fail(const std::string& what) {
    fprintf(stderr, "launch: %s\n", what.c_str());
    exit(1);
}

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
    bool plain = interleave == CU_TENSOR_MAP_INTERLEAVE_NONE && is_marked_pointer(word) &&
                 (type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_UINT16);
    for (unsigned i = 0; i < rank; ++i) plain = plain && element_strides[i] == 1;
    if (!plain) fail("a tensor map of another kind than the manifest can say, of type " + std::to_string(type));
    const int swizzle_bytes[] = {0, 32, 64, 128};
    unsigned mark[2] = {map_mark, unsigned(maps.size())};
    maps.push_back("\"map\": \"" + buffers[buffer_of(word)] + "\", \"dims\": " + list(dims, rank) + ", \"strides\": " +
                   list(strides, rank - 1) + ", \"box\": " + list(box, rank) +
                   ", \"swizzle\": " + std::to_string(swizzle_bytes[swizzle]));
    memset(map, 0, sizeof *map);
    memcpy(map, mark, sizeof mark);
    return CUDA_SUCCESS;
}

// One line of JSON: `what` is the part that only the caller knows (name, kernel, buffers, outputs, formula and sizes).
template <class Kernel>
static void describe(const typename Kernel::Arguments& arguments, const std::string& what) {
    if (!Kernel::can_implement(arguments)) fail("CUTLASS does not take this problem: " + what);
    auto params = Kernel::to_underlying_arguments(arguments, nullptr);
    std::vector<unsigned char> bytes(sizeof params);
    memcpy(bytes.data(), &params, sizeof params);
    std::string places, hex;
    for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
        unsigned long long word;
        unsigned mark[2];
        memcpy(&word, &bytes[at], sizeof word);
        memcpy(mark, &word, sizeof mark);
        std::string place;
        if (at % 64 == 0 && mark[0] == map_mark && mark[1] < maps.size()) {
            place = maps[mark[1]];
            memset(&bytes[at], 0, sizeof(CUtensorMap));
        } else if (is_marked_pointer(word)) {
            place = "\"pointer\": \"" + buffers[buffer_of(word)] + "\"";
            memset(&bytes[at], 0, sizeof word);
        } else {
            continue;
        }
        places += (places.empty() ? "" : ", ") + std::string("{\"at\": ") + std::to_string(at) + ", " + place + "}";
    }
    for (unsigned char byte : bytes) {
        char digits[3];
        snprintf(digits, sizeof digits, "%02x", byte);
        hex += digits;
    }
    dim3 grid = Kernel::get_grid_shape(params), block = Kernel::get_block_shape();
    using Cluster = typename Kernel::ClusterShape;
    printf("{%s, \"grid\": [%u, %u, %u], \"block\": [%u, %u, %u], \"cluster\": [%d, %d, %d], \"shared\": %d, \"bytes\": \"%s\", "
           "\"places\": [%s]}\n",
           what.c_str(), grid.x, grid.y, grid.z, block.x, block.y, block.z, int(cute::size<0>(Cluster{})),
           int(cute::size<1>(Cluster{})), int(cute::size<2>(Cluster{})), int(Kernel::SharedStorageSize), hex.c_str(), places.c_str());
}
