//! Registers as rows: a register of a warp is one value a lane, 32 side by side, so that an instruction is one loop that the
//! compiler makes vector code of. A row function works on places in the warp's register file.

use half::{bf16, f16};

use crate::syntax::Class;

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
/// A 32-bit register of a warp.
pub(crate) type Row = [u32; LANES];

/// An instruction over whole rows: the file, the places of its result and of its sources, and the lanes that take part.
pub(crate) type RowFunction = unsafe fn(*mut u32, &[u32], u32);

/// A row function with the registers it takes.
#[derive(Clone, Copy)]
pub(crate) struct RowOperation {
    pub function: RowFunction,
    pub result: Class,
    pub sources: &'static [Class],
}

/// A value of one lane: how it lies in a row.
pub(crate) trait Lane: Copy {
    const CLASS: Class;
    /// What results are collected in.
    type Results;

    /// # Safety
    /// `row` is the place of a register of this class in the file.
    unsafe fn read(file: *const u32, row: u32, lane: usize) -> Self;
    fn none() -> Self::Results;
    fn set(results: &mut Self::Results, lane: usize, value: Self);
    /// Writes the lanes of `mask`.
    ///
    /// # Safety
    /// `row` is the place of a register of this class in the file.
    unsafe fn write(file: *mut u32, row: u32, results: &Self::Results, mask: u32);
}

macro_rules! lane {
    ($type:ty, $bits:ty, $class:ident, |$get:ident| $from:expr, |$put:ident| $to:expr) => {
        impl Lane for $type {
            const CLASS: Class = Class::$class;
            type Results = [$bits; LANES];

            #[inline(always)]
            unsafe fn read(file: *const u32, row: u32, lane: usize) -> Self {
                // SAFETY: the caller's: a row of 32 values begins there, and lane is below 32.
                let $get = unsafe { *file.add(row as usize).cast::<$bits>().add(lane) };
                $from
            }

            #[inline(always)]
            fn none() -> Self::Results {
                [0; LANES]
            }

            #[inline(always)]
            fn set(results: &mut Self::Results, lane: usize, $put: Self) {
                results[lane] = $to;
            }

            #[inline(always)]
            unsafe fn write(file: *mut u32, row: u32, results: &Self::Results, mask: u32) {
                // SAFETY: the caller's: a row of 32 values begins there, which nothing else refers to.
                let target = unsafe { &mut *file.add(row as usize).cast::<Self::Results>() };
                if mask == u32::MAX {
                    *target = *results;
                } else {
                    for lane in 0..LANES {
                        target[lane] = if mask >> lane & 1 == 1 { results[lane] } else { target[lane] };
                    }
                }
            }
        }
    };
}

lane!(u32, u32, Narrow, |bits| bits, |value| value);
lane!(i32, u32, Narrow, |bits| bits as i32, |value| value as u32);
lane!(f32, u32, Narrow, |bits| f32::from_bits(bits), |value| value.to_bits());
lane!(u16, u32, Narrow, |bits| bits as u16, |value| u32::from(value));
lane!(i16, u32, Narrow, |bits| bits as i16, |value| u32::from(value as u16));
lane!(u8, u32, Narrow, |bits| bits as u8, |value| u32::from(value));
lane!(i8, u32, Narrow, |bits| bits as i8, |value| u32::from(value as u8));
lane!(f16, u32, Narrow, |bits| f16::from_bits(bits as u16), |value| u32::from(value.to_bits()));
lane!(bf16, u32, Narrow, |bits| bf16::from_bits(bits as u16), |value| u32::from(value.to_bits()));
lane!([f16; 2], u32, Narrow, |bits| [f16::from_bits(bits as u16), f16::from_bits((bits >> 16) as u16)], |value| {
    u32::from(value[0].to_bits()) | u32::from(value[1].to_bits()) << 16
});
lane!([bf16; 2], u32, Narrow, |bits| [bf16::from_bits(bits as u16), bf16::from_bits((bits >> 16) as u16)], |value| {
    u32::from(value[0].to_bits()) | u32::from(value[1].to_bits()) << 16
});
lane!(u64, u64, Wide, |bits| bits, |value| value);
lane!(i64, u64, Wide, |bits| bits as i64, |value| value as u64);
lane!(f64, u64, Wide, |bits| f64::from_bits(bits), |value| value.to_bits());

impl Lane for bool {
    const CLASS: Class = Class::Predicate;
    type Results = Row;

    #[inline(always)]
    unsafe fn read(file: *const u32, row: u32, lane: usize) -> Self {
        // SAFETY: the caller's: a predicate is one word, a bit a lane.
        unsafe { *file.add(row as usize) >> lane & 1 == 1 }
    }

    #[inline(always)]
    fn none() -> Row {
        [0; LANES]
    }

    #[inline(always)]
    fn set(results: &mut Row, lane: usize, value: Self) {
        results[lane] = u32::from(value) << lane;
    }

    #[inline(always)]
    unsafe fn write(file: *mut u32, row: u32, results: &Row, mask: u32) {
        let bits = results.iter().fold(0, |bits, bit| bits | bit);
        // SAFETY: the caller's: a predicate is one word.
        let word = unsafe { &mut *file.add(row as usize) };
        *word = *word & !mask | bits & mask;
    }
}

/// Whether the fast versions of row functions may run here.
pub(crate) fn has_fast_lanes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A [`RowOperation`] of a function of one lane: `row!(|a: f32, b: f32| -> f32 { a + b })`.
macro_rules! row {
    (|$($name:ident: $type:ty),+| -> $result:ty $body:block) => {{
        #[inline(always)]
        unsafe fn run(file: *mut u32, registers: &[u32], mask: u32) {
            #[allow(unused_imports)]
            use $crate::rows::Lane;
            let &[target, $($name),+] = registers else { return };
            let mut results = <$result as Lane>::none();
            for lane in 0..$crate::rows::LANES {
                // SAFETY: decode gives a row function registers of its own classes, allocate places in the file.
                $(let $name = unsafe { <$type as Lane>::read(file, $name, lane) };)+
                let value: $result = $body;
                <$result as Lane>::set(&mut results, lane, value);
            }
            // SAFETY: as above.
            unsafe { <$result as Lane>::write(file, target, &results, mask) };
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn fast(file: *mut u32, registers: &[u32], mask: u32) {
            // SAFETY: the caller's.
            unsafe { run(file, registers, mask) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        use run as fast;
        $crate::rows::RowOperation {
            function: if $crate::rows::has_fast_lanes() { fast } else { run },
            result: <$result as $crate::rows::Lane>::CLASS,
            sources: &[$(<$type as $crate::rows::Lane>::CLASS),+],
        }
    }};
}
pub(crate) use row;
