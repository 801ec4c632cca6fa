//! What the kernel tests share: dtypes, arguments, tolerance. Memory and launches are [`machine`](super::machine)'s.

use std::ffi::c_void;

use half::bf16;
use helixgrad::device::cpu::dropout::{AttentionDropout, AttentionDropoutArgument, Dropout, DropoutArgument};
use helixgrad::device::{Launch, TensorMap, Value};
use helixgrad::philox::{Philox, Purpose};
use proptest::prelude::*;

pub use super::machine::{Memory, run, run_3d};

/// A dtype that kernels come in.
pub trait Float: Copy + std::fmt::Debug + 'static {
    /// How kernel names end.
    const DTYPE: &'static str;
    /// What a guarded buffer holds in its place.
    type Bits: cuda_on_cpu::Element + bytemuck::Pod;
    fn bits(value: f32) -> Self::Bits;
    fn value(bits: Self::Bits) -> f32;
    /// The nearest value of this dtype.
    fn round(value: f32) -> f32 {
        Self::value(Self::bits(value))
    }
}

impl Float for f32 {
    const DTYPE: &'static str = "f32";
    type Bits = f32;
    fn bits(value: f32) -> f32 {
        value
    }
    fn value(bits: f32) -> f32 {
        bits
    }
}

impl Float for bf16 {
    const DTYPE: &'static str = "bf16";
    type Bits = u16;
    fn bits(value: f32) -> u16 {
        bf16::from_f32(value).to_bits()
    }
    fn value(bits: u16) -> f32 {
        bf16::from_bits(bits).to_f32()
    }
}

/// Normal deviates of the given scale, rounded to `T`: what a kernel's input holds.
pub fn normals<T: Float>(seed: u64, count: usize, scale: f64) -> Vec<f32> {
    let philox = Philox::of(seed, 0, Purpose::Init);
    (0..count as u64).map(|i| T::round((scale * philox.normal(i)) as f32)).collect()
}

/// Whole numbers in 0..bound.
pub fn below(seed: u64, count: usize, bound: usize) -> Vec<i32> {
    let philox = Philox::of(seed, 0, Purpose::Shuffle);
    (0..count as u64).map(|i| helixgrad::philox::below(philox.block(i)[0], bound as u32) as i32).collect()
}

/// As doubles: the input of the reference.
pub fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Rounded to `T`: the output of the plain formula.
pub fn rounded<T: Float>(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&value| T::round(value)).collect()
}

/// The same dropout for a kernel and for the CPU device.
pub fn dropout(p: f64, seed: u64) -> (DropoutArgument, Option<Dropout>) {
    let dropout = Dropout::new(p, Philox::new(seed, 7, Purpose::Dropout as u32 + 3));
    (DropoutArgument::of(dropout), dropout)
}

/// As [`dropout`], of attention probabilities.
pub fn attention_dropout(p: f64, seed: u64) -> (AttentionDropoutArgument, Option<AttentionDropout>) {
    let dropout = AttentionDropout::new(p, Philox::new(seed, 7, Purpose::Dropout as u32 + 3));
    (AttentionDropoutArgument::of(dropout), dropout)
}

/// A kernel's argument: where its value lies.
pub enum Argument {
    Pointer(*mut c_void),
    I32(i32),
    I64(i64),
    F32(f32),
    Dropout(DropoutArgument),
    Floats8([f32; 8]),
    /// The bytes of a struct, in words for its alignment.
    Struct(Vec<u64>),
    /// A tensor, and its map as the emulator reads it.
    TensorMap(TensorMap, Box<Value>),
}

impl Argument {
    pub const NULL: Self = Self::Pointer(std::ptr::null_mut());

    /// A struct that a kernel takes by value.
    pub fn of(value: &impl bytemuck::NoUninit) -> Self {
        let bytes = bytemuck::bytes_of(value);
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self::Struct(words)
    }

    /// Adds it to a launch through the library's driver.
    pub fn add_to(&self, launch: Launch) -> Launch {
        match self {
            Self::Pointer(value) => launch.value(*value as u64),
            Self::I32(value) => launch.value(*value),
            Self::I64(value) => launch.value(*value),
            Self::F32(value) => launch.value(*value),
            Self::Dropout(value) => launch.value(*value),
            Self::Floats8(value) => launch.value(*value),
            Self::Struct(words) => {
                let mut all = [0u64; 8];
                all[..words.len()].copy_from_slice(words);
                launch.value(all)
            }
            Self::TensorMap(map, _) => launch.tensor_map(map.clone()),
        }
    }

    pub fn place(&mut self) -> *mut c_void {
        match self {
            Self::Pointer(value) => (&raw mut *value).cast(),
            Self::I32(value) => (&raw mut *value).cast(),
            Self::I64(value) => (&raw mut *value).cast(),
            Self::F32(value) => (&raw mut *value).cast(),
            Self::Dropout(value) => (&raw mut *value).cast(),
            Self::Floats8(value) => (&raw mut *value).cast(),
            Self::Struct(words) => words.as_mut_ptr().cast(),
            Self::TensorMap(_, encoded) => (&raw mut encoded.0).cast(),
        }
    }
}

impl From<usize> for Argument {
    fn from(count: usize) -> Self {
        Self::I32(count as i32)
    }
}
impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Self::I32(value)
    }
}
impl From<i64> for Argument {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}
impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}
impl From<DropoutArgument> for Argument {
    fn from(value: DropoutArgument) -> Self {
        Self::Dropout(value)
    }
}
impl From<AttentionDropoutArgument> for Argument {
    fn from(value: AttentionDropoutArgument) -> Self {
        Self::of(&value)
    }
}
impl From<[f32; 8]> for Argument {
    fn from(value: [f32; 8]) -> Self {
        Self::Floats8(value)
    }
}

/// `launch!("name" as T, grid, block, schedule, [arguments])`: the kernel of that dtype.
macro_rules! launch {
    ($name:literal as $dtype:expr, $grid:expr, $block:expr, $schedule:expr, [$($argument:expr),* $(,)?]) => {
        $crate::harness::run(
            &format!("{}_{}", $name, $dtype), $grid, $block, $schedule,
            vec![$($crate::harness::Argument::from($argument)),*],
        )
    };
    ($name:literal, $grid:expr, $block:expr, $schedule:expr, [$($argument:expr),* $(,)?]) => {
        $crate::harness::run($name, $grid, $block, $schedule, vec![$($crate::harness::Argument::from($argument)),*])
    };
}
pub(crate) use launch;

/// How far a kernel may be from the truth.
///
/// With `reference` computed in f64 from the same inputs, and `plain` the CPU device's f32 result rounded to the output's
/// dtype (the plain computation of the same formula in that precision):
///
/// `max |kernel - reference| <= 2 max |plain - reference| + 8 * 2^-24 * (max |reference| + terms)`
///
/// where `terms` is the size of what the formula adds up: two sums of the same numbers in another order differ by their
/// rounding errors even where the result is near zero, and the plain one may be right by luck. NaN anywhere fails.
pub struct Tolerance {
    /// The sum of the sizes of the terms behind one output; 1 for a formula of a few terms of size one.
    pub terms: f64,
}

impl Tolerance {
    pub fn check(&self, what: &str, kernel: &[f32], plain: &[f32], reference: &[f64]) {
        assert_eq!(kernel.len(), reference.len(), "{what}: length");
        let allowed = 2.0 * worst(plain, reference).1 + 8.0 * 2f64.powi(-24) * (largest(reference) + self.terms);
        let (at, error) = worst(kernel, reference);
        assert!(
            error <= allowed,
            "{what}: element {at} of {} is {}, should be {}; off by {error:e}, allowed {allowed:e}",
            kernel.len(),
            kernel[at],
            reference[at]
        );
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// Where `values` are farthest from `reference`, and how far; a NaN is the farthest.
fn worst(values: &[f32], reference: &[f64]) -> (usize, f64) {
    let mut worst = (0, 0.0);
    for (at, (&value, &reference)) in values.iter().zip(reference).enumerate() {
        let error = (f64::from(value) - reference).abs();
        if error.is_nan() {
            return (at, error);
        }
        if error > worst.1 {
            worst = (at, error);
        }
    }
    worst
}

/// Numbers of columns at which kernels change their way: below, at and above a group, a warp's row and a tile, aligned and not.
pub fn columns() -> impl Strategy<Value = usize> {
    prop_oneof![
        1..20usize,
        20..300usize,
        Just(64),
        Just(256),
        Just(768),
        Just(1024),
        Just(1025),
        Just(1032),
        Just(2056)
    ]
}

/// Few cases each: a case runs thousands of emulated threads.
pub fn few() -> ProptestConfig {
    ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() }
}

#[test]
fn nan_is_never_within_tolerance() {
    let tolerance = Tolerance { terms: 1.0 };
    tolerance.check("right", &[1.0, 2.0], &[1.0, 2.0], &[1.0, 2.0]);
    for wrong in [[f32::NAN, 2.0], [1.0, f32::NAN], [1.0, 2.001]] {
        let check = || tolerance.check("wrong", &wrong, &[1.0, 2.0], &[1.0, 2.0]);
        assert!(std::panic::catch_unwind(check).is_err(), "{wrong:?}");
    }
}
