// How Rust finds and calls a kernel.
#pragma once

#include "core.h"

// Mirrored by `Entry` in src/kernel.rs.
struct cuda_on_cpu_entry {
    const char* name;
    void (*run)(void** arguments);
    const uint32_t* parameter_sizes;
    uint32_t parameters;
    uint32_t cluster[3];
};

namespace cuda_on_cpu {

template <class... Parameters, size_t... I>
inline void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<std::remove_reference_t<Parameters>>*>(arguments[I])...);
}

template <class... Parameters>
inline void call(void (*kernel)(Parameters...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<Parameters...>{});
}

template <class... Parameters>
struct ParameterSizes {
    static constexpr uint32_t count = sizeof...(Parameters);
    static constexpr uint32_t sizes[count + 1] = {sizeof(Parameters)..., 0};
};

template <class... Parameters>
ParameterSizes<Parameters...> parameter_sizes(void (*)(Parameters...));

}  // namespace cuda_on_cpu

#if defined(__clang__)
#define CUDA_ON_CPU_KEEP __attribute__((used, visibility("default")))
#else
#define CUDA_ON_CPU_KEEP __attribute__((used, externally_visible, visibility("default")))
#endif

#define EXPORT_KERNEL(name) EXPORT_KERNEL_AS(name, name)
#define EXPORT_KERNEL_AS(exported, ...)                                                                     \
    static void cuda_on_cpu_run_##exported(void** arguments) { ::cuda_on_cpu::call(__VA_ARGS__, arguments); } \
    extern "C" CUDA_ON_CPU_KEEP const cuda_on_cpu_entry cuda_on_cpu_entry_##exported = {                    \
        #exported, cuda_on_cpu_run_##exported,                                                              \
        decltype(::cuda_on_cpu::parameter_sizes(__VA_ARGS__))::sizes,                                       \
        decltype(::cuda_on_cpu::parameter_sizes(__VA_ARGS__))::count,                                       \
        {CUDA_ON_CPU_CLUSTER(__VA_ARGS__)}};
