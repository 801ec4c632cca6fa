// Groups of neighbouring elements, moved with 16-byte accesses where the memory allows it.
#pragma once

#include "common/device.cuh"

// N elements in registers, in the words that they are in memory (a bf16 of its own would take a register), with the alignment of one
// 16-byte access, or of the whole pack, where that is smaller.
template <typename T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
    static_assert(N * sizeof(T) % sizeof(uint32_t) == 0, "whole words");
    uint32_t words[N * sizeof(T) / sizeof(uint32_t)];
};

template <typename T, int N>
__device__ __forceinline__ void unpack(const Pack<T, N>& pack, float (&values)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
        if constexpr (sizeof(T) == 4)
            values[i] = __uint_as_float(pack.words[i]);
        else
            values[i] = __uint_as_float(i % 2 ? pack.words[i / 2] & 0xffff0000u : pack.words[i / 2] << 16);
    }
}

template <typename T, int N>
__device__ __forceinline__ Pack<T, N> pack_from(const float (&values)[N]) {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; i += 4 / sizeof(T)) {
        if constexpr (sizeof(T) == 4)
            pack.words[i] = __float_as_uint(values[i]);
        else
            pack.words[i / 2] = pack_bf16(values[i], values[i + 1]);
    }
    return pack;
}

__device__ __forceinline__ bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// Whether rows of this many elements, starting at an aligned pointer, are whole aligned groups.
__device__ __forceinline__ bool rows_are_groups(int columns) { return columns % GROUP == 0; }

// N elements at `from` as floats. VECTOR: all of them exist and are aligned. Otherwise only `valid` do; the rest is zero.
template <bool VECTOR, int N, typename T>
__device__ __forceinline__ void load_group(const T* from, int valid, float (&values)[N]) {
    if constexpr (VECTOR) {
        // A copy first: word by word out of memory, the compiler would load word by word.
        const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from);
        unpack(pack, values);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) values[i] = i < valid ? to_float(from[i]) : 0.0f;
    }
}

// The same at `column` of a row that may be missing: null, which stands for zeros.
template <bool VECTOR, int N, typename T>
__device__ __forceinline__ void load_group_or_zeros(const T* row, int column, int valid, float (&values)[N]) {
    if (row != nullptr) {
        load_group<VECTOR>(row + column, valid, values);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) values[i] = 0.0f;
    }
}

template <bool VECTOR, int N, typename T>
__device__ __forceinline__ void store_group(T* to, const float (&values)[N], int valid) {
    if constexpr (VECTOR) {
        *reinterpret_cast<Pack<T, N>*>(to) = pack_from<T>(values);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i)
            if (i < valid) to[i] = from_float<T>(values[i]);
    }
}

// The same as they are in memory.
template <bool VECTOR, typename T>
__device__ __forceinline__ Pack<T, GROUP> load_pack(const T* from, int valid) {
    if constexpr (VECTOR) {
        return *reinterpret_cast<const Pack<T, GROUP>*>(from);
    } else {
        float values[GROUP];
        load_group<false>(from, valid, values);
        return pack_from<T>(values);
    }
}

template <bool VECTOR, typename T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, GROUP>& pack, int valid) {
    if constexpr (VECTOR) {
        *reinterpret_cast<Pack<T, GROUP>*>(to) = pack;
    } else {
        float values[GROUP];
        unpack(pack, values);
        store_group<false>(to, values, valid);
    }
}
