// Attention as CUTLASS's example 88 computes it for Hopper, as oracles: -DVARIANT=0 or 1 for a kernel, -DLAUNCHES for the program that
// prints how both are launched. Needs the example's folder among the include paths.
//
// output = softmax(Q K^T / sqrt(head_dim)) V a head, all of [heads * tokens, head_dim]; log_sum_exp is of base e.
#include <iostream> // the example's files count on it

#include "cute/tensor.hpp"
#include "cutlass/cutlass.h"

#include "collective/fmha_fusion.hpp"
#include "kernel/fmha_kernel_builder.hpp"

using namespace cute;
using Bf16 = cutlass::bfloat16_t;
using Rows = cute::tuple<int, _1, cute::tuple<int, int>>; // token, element, (batch, head)

template <class Tile, class Mask, class Schedule>
using Attention =
    typename cutlass::fmha::kernel::FmhaBuilder<Bf16, float, float, Tile, Rows, Rows, Rows, Mask, Schedule>::Kernel;

template <int variant>
struct Variant;
// Two warpgroups share a tile of queries; the last keys are masked. Eight loads of keys and values go round a ring of five.
template <>
struct Variant<0> {
    static constexpr const char* name = "attention_d128_cooperative";
    static constexpr int tokens = 456, head_dim = 128;
    static constexpr bool causal = false;
    using Kernel = Attention<Shape<_128, _128, _128>, cutlass::fmha::collective::ResidualFusion,
                             cutlass::gemm::KernelTmaWarpSpecializedCooperative>;
};
// Warpgroups take tiles in turn, later keys are masked.
template <>
struct Variant<1> {
    static constexpr const char* name = "attention_d64_causal_pingpong";
    static constexpr int tokens = 256, head_dim = 64;
    static constexpr bool causal = true;
    using Kernel =
        Attention<Shape<_128, _64, _64>, cutlass::fmha::collective::CausalFusion, cutlass::gemm::KernelTmaWarpSpecializedPingpong>;
};

#ifndef LAUNCHES
using Kernel = Variant<VARIANT>::Kernel;

extern "C" __global__ void __launch_bounds__(Kernel::MaxThreadsPerBlock, Kernel::MinBlocksPerMultiprocessor)
    attention(CUTLASS_GRID_CONSTANT Kernel::Params const params) {
    extern __shared__ char shared[];
    Kernel kernel;
    kernel(params, shared);
}
#else
#include "launch.h"

template <int variant>
static void describe_attention(int heads) {
    using V = Variant<variant>;
    using Kernel = typename V::Kernel;
    buffers.clear();
    maps.clear();
    constexpr int tokens = V::tokens, head_dim = V::head_dim;
    Rows stride = make_stride(head_dim, _1{}, make_stride(heads * tokens * head_dim, tokens * head_dim));
    cutlass::KernelHardwareInfo hardware;
    hardware.device_id = 0;
    hardware.sm_count = 3;
    auto* query = pointer<Bf16>("query");
    auto* key = pointer<Bf16>("key");
    auto* value = pointer<Bf16>("value");
    auto* output = pointer<Bf16>("output");
    auto* log_sum_exp = pointer<float>("log_sum_exp");
    typename Kernel::Arguments arguments{
        make_tuple(1, heads, tokens, tokens, head_dim),
        {query, stride, key, stride, value, stride},
        {output, stride, log_sum_exp, make_stride(_1{}, make_stride(heads * tokens, tokens))},
        hardware};
    std::string rows = std::to_string(heads * tokens), columns = std::to_string(head_dim), all;
    for (const char* name : {"query", "key", "value", "output"})
        all += "\"" + std::string(name) + "\": {\"type\": \"bf16\", \"shape\": [" + rows + ", " + columns + "], \"role\": \"" +
               (name[0] == 'o' ? "output" : "input") + "\"}, ";
    all += "\"log_sum_exp\": {\"type\": \"f32\", \"shape\": [" + rows + "], \"role\": \"output\"}";
    std::string sizes = "\"heads\": " + std::to_string(heads) + ", \"tokens\": " + std::to_string(tokens) + ", \"head_dim\": " + columns +
                        ", \"causal\": " + (V::causal ? "true" : "false") + ", \"natural\": true";
    describe<Kernel>(arguments, "\"name\": \"" + std::string(V::name) +
                                    "\", \"kernel\": \"attention\", \"formula\": \"attention\", \"sizes\": {" + sizes +
                                    "}, \"outputs\": [\"output\", \"log_sum_exp\"], \"buffers\": {" + all + "}");
}

int main() {
    describe_attention<0>(1);
    describe_attention<1>(2);
}
#endif
