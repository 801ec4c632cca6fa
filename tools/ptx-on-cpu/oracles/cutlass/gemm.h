// The matrix products that CUTLASS makes for Hopper, as oracles: D = A B + beta C in bf16 with sums in f32.
//
// Between them they use what no kernel of Triton does: warps with roles (setmaxnreg, named barriers), copies with multicast to blocks
// of a cluster, arrivals at other blocks' barriers (mapa), stmatrix in the way out, and both schedules of the consumers.
#pragma once
#include "cute/tensor.hpp"
#include "cutlass/cutlass.h"
#include "cutlass/device_kernel.h"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"

using namespace cute;
using Bf16 = cutlass::bfloat16_t;
using Row = cutlass::layout::RowMajor;
using Column = cutlass::layout::ColumnMajor;

// Two consumer warpgroups share a tile, or take tiles in turn.
struct Cooperative {
    using Main = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
    using Out = cutlass::epilogue::TmaWarpSpecializedCooperative;
};
struct PingPong {
    using Main = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
    using Out = cutlass::epilogue::TmaWarpSpecialized;
};

template <class LayoutA, class LayoutB, class Tile, class Cluster, class Schedule>
struct OracleGemm {
    using Out = typename cutlass::epilogue::collective::CollectiveBuilder<
        cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster, cutlass::epilogue::collective::EpilogueTileAuto, float,
        float, Bf16, Row, 8, Bf16, Row, 8, typename Schedule::Out>::CollectiveOp;
    using Main = typename cutlass::gemm::collective::CollectiveBuilder<
        cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Bf16, LayoutA, 8, Bf16, LayoutB, 8, float, Tile, Cluster,
        cutlass::gemm::collective::StageCountAutoCarveout<int(sizeof(typename Out::SharedStorage))>,
        typename Schedule::Main>::CollectiveOp;
    using Kernel = cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, Main, Out>;
};

// A row-major A is [m, k]; a column-major B is [n, k]. The names say whether each operand is given as it is used (n) or transposed (t).
template <int variant>
struct Variant;
template <>
struct Variant<0> : OracleGemm<Row, Column, Shape<_128, _256, _64>, Shape<_2, _1, _1>, Cooperative> {
    static constexpr const char* name = "gemm_nt_cooperative_2x1";
};
template <>
struct Variant<1> : OracleGemm<Row, Row, Shape<_64, _128, _64>, Shape<_1, _1, _1>, PingPong> {
    static constexpr const char* name = "gemm_nn_pingpong_1x1";
};
template <>
struct Variant<2> : OracleGemm<Column, Row, Shape<_128, _256, _64>, Shape<_1, _2, _1>, Cooperative> {
    static constexpr const char* name = "gemm_tn_cooperative_1x2";
};
template <>
struct Variant<3> : OracleGemm<Column, Column, Shape<_128, _128, _64>, Shape<_2, _1, _1>, Cooperative> {
    static constexpr const char* name = "gemm_tt_cooperative_2x1";
};
template <>
struct Variant<4> : OracleGemm<Row, Column, Shape<_64, _64, _32>, Shape<_2, _2, _1>, PingPong> {
    static constexpr const char* name = "gemm_nt_pingpong_2x2";
};
