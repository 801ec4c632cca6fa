//! Coverage-guided fuzzing of everything that Helixgrad reads from files, in one process: `tools/fuzz.sh TARGET SECONDS`.
//!
//! A file may be refused, with an error that can be shown. What is a finding: a panic, an abort, an overflow of arithmetic, a
//! file that takes ten seconds, and one that takes more memory than ten times its size and a constant ([`CONSTANT`]).

#![no_main]

mod memory;
mod support;
mod targets;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

/// Bytes that any file may take: buffers, stacks' tables, a vocabulary, the windows of a round.
const CONSTANT: usize = 12 << 20;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let known = targets::ALL.iter().find(|(known, _)| *known == name);
    let Some((_, target)) = known else {
        panic!("FUZZ_TARGET={name:?} is none of {:?}", targets::ALL.map(|(name, _)| name));
    };
    // What is made once is made now, and is not the first file's.
    target(b"");
    *target
});

fuzz_target!(|input: &[u8]| {
    let target = *TARGET;
    let taken = memory::most_during(|| target(input));
    // What a file holds is what stands in it unpacked; a whole kilobyte of zeros is a megabyte of text.
    let bound = CONSTANT + 10 * support::unpacked_size(input);
    assert!(taken <= bound, "{taken} bytes of memory for {} of the file, more than {bound}", input.len());
});
