//! Asking for memory before it is needed.

/// Bytes that come together on the machines that we know.
const LINE: usize = 64;

/// Asks for the cache lines of `values` and waits for none of them: what is read soon, at a place that the processor cannot guess. Nothing on machines
/// other than x86-64.
#[inline(always)]
pub fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..size_of_val(values)).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86-64; the instruction reads nothing and faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().cast::<i8>().wrapping_add(offset)) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, LINE);
}
