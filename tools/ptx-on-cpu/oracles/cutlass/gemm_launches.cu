// Prints how each product of gemm.h is launched, one line of JSON each.
#include "gemm.h"
#include "cutlass/util/packed_stride.hpp"
#include "launch.h"

static std::string matrix(const char* name, int rows, int columns, const char* role) {
    return "\"" + std::string(name) + "\": {\"type\": \"bf16\", \"shape\": [" + std::to_string(rows) + ", " + std::to_string(columns) +
           "], \"role\": \"" + role + "\"}";
}

template <int variant>
static void describe_gemm(int m, int n, int k, float beta) {
    using Kernel = typename Variant<variant>::Kernel;
    // Fewer blocks than tiles, so that each computes several.
    cutlass::KernelHardwareInfo hardware;
    hardware.device_id = 0;
    hardware.sm_count = 4;
    hardware.max_active_clusters = 2;
    hardware.cluster_shape = {0, 0, 0};
    buffers.clear();
    maps.clear();
    auto* a = pointer<Bf16>("a");
    auto* b = pointer<Bf16>("b");
    auto* c = pointer<Bf16>("addend");
    auto* d = pointer<Bf16>("c");
    typename Kernel::Arguments arguments{
        cutlass::gemm::GemmUniversalMode::kGemm,
        {m, n, k, 1},
        {a, cutlass::make_cute_packed_stride(typename Kernel::StrideA{}, make_shape(m, k, 1)), b,
         cutlass::make_cute_packed_stride(typename Kernel::StrideB{}, make_shape(n, k, 1))},
        {{1.0f, beta},
         c,
         cutlass::make_cute_packed_stride(typename Kernel::StrideC{}, make_shape(m, n, 1)),
         d,
         cutlass::make_cute_packed_stride(typename Kernel::StrideD{}, make_shape(m, n, 1))},
        hardware};
    const bool transpose_a = Variant<variant>::name[5] == 't', transpose_b = Variant<variant>::name[6] == 't';
    std::string sizes = "\"m\": " + std::to_string(m) + ", \"n\": " + std::to_string(n) + ", \"k\": " + std::to_string(k) +
                        ", \"transpose_a\": " + (transpose_a ? "true" : "false") +
                        ", \"transpose_b\": " + (transpose_b ? "true" : "false") + ", \"beta\": " + std::to_string(beta);
    describe<Kernel>(arguments, "\"name\": \"" + std::string(Variant<variant>::name) +
                                    "\", \"kernel\": \"gemm\", \"formula\": \"matmul\", \"sizes\": {" + sizes +
                                    "}, \"outputs\": [\"c\"], \"buffers\": {" +
                                    matrix("a", transpose_a ? k : m, transpose_a ? m : k, "input") + ", " +
                                    matrix("b", transpose_b ? n : k, transpose_b ? k : n, "input") + ", " +
                                    matrix("addend", m, n, "input") + ", " + matrix("c", m, n, "output") + "}");
}

int main() {
    describe_gemm<0>(296, 328, 216, 0.5f);
    describe_gemm<1>(296, 328, 216, 0.5f);
    describe_gemm<2>(296, 328, 216, 0.5f);
    describe_gemm<3>(296, 328, 216, 0.5f);
    describe_gemm<4>(296, 328, 216, 0.5f);
}
