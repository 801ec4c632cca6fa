//! Attention over one long sequence on the CPU device: the memory grows with the length, not with its square.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use helixgrad::autograd::{DeviceBatch, Parameters, Tape};
use helixgrad::device::{Buffer, DType, Device};
use helixgrad::kmer::batch::Batch;
use helixgrad::ops::{self, AttentionHooks};
use helixgrad::philox::{Philox, Purpose};

/// The system's allocator, counting.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator unchanged; realloc and alloc_zeroed come through these two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DIM: usize = 8;

fn qkv(length: usize) -> Vec<f32> {
    let philox = Philox::of(5, 0, Purpose::Init);
    (0..(length * 3 * DIM) as u64).map(|index| philox.normal(index) as f32).collect()
}

/// The output of one sequence and head, and the most bytes that forward and backward held beyond their input.
fn run(qkv: &[f32]) -> (Vec<f32>, usize) {
    let length = qkv.len() / (3 * DIM);
    let mut batch = Batch::new();
    batch.push(&vec![1; length]);
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let batch = DeviceBatch::upload(&Device::Cpu, &batch).unwrap();
    let mut tape = Tape::new(Device::Cpu, DType::F32);
    tape.start_training(1, 1, 0);
    let x = tape.push(Buffer::from_slice(qkv), length, 3 * DIM);
    let y = ops::attention(&mut tape, &batch, x, 1, 0.0, &AttentionHooks::default()).unwrap();
    let output = tape.value(y).slice::<f32>().to_vec();
    tape.put_gradient(y, Buffer::from_slice(&output));
    tape.backward(&mut Parameters::zeros(Vec::new(), 0, DType::F32)).unwrap();
    assert!(tape.take_gradient(x).unwrap().slice::<f32>().iter().all(|gradient| gradient.is_finite()));
    (output, PEAK.load(Ordering::Relaxed) - before)
}

#[test]
fn sixteen_thousand_tokens_take_twice_the_memory_of_eight() {
    // With one thread the peak does not depend on who is quick.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let long = qkv(16_384);
    let (_, half) = pool.install(|| run(&long[..long.len() / 2]));
    let (output, whole) = pool.install(|| run(&long));
    println!("8,192 tokens: {half} bytes; 16,384: {whole}");
    assert!(whole as f64 <= 2.1 * half as f64, "{half} bytes for 8,192 tokens, {whole} for 16,384");
    // A matrix of all scores would take 1 GiB.
    assert!(whole < 64 << 20, "{whole}");

    let part = |row: usize, part: usize| &long[(row * 3 + part) * DIM..][..DIM];
    for query in [0, 8_191, 16_383] {
        let dot = |key: usize| part(query, 0).iter().zip(part(key, 1)).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let weights: Vec<f64> = (0..16_384).map(|key| (dot(key) / (DIM as f64).sqrt()).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for i in 0..DIM {
            let values = weights.iter().enumerate().map(|(key, weight)| weight * f64::from(part(key, 2)[i]));
            let expected = values.sum::<f64>() / sum;
            let found = f64::from(output[query * DIM + i]);
            assert!((found - expected).abs() < 1e-5, "query {query}: {found} {expected}");
        }
    }
}
