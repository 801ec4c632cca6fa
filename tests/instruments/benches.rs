//! What can be said of the benches without running them: their files, and what their command line means.

use std::fs;
use std::path::Path;

use clap::Parser;
use helixgrad::device::{DType, Device};
use helixgrad::philox::Philox;

#[path = "../../benches/common/inputs.rs"]
mod inputs;
#[allow(dead_code)]
#[path = "../../benches/common/options.rs"]
mod options;

use inputs::Inputs;
use options::{Options, split};

#[test]
fn every_file_of_kernels_has_a_bench() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let files = fs::read_dir(root.join("kernels")).unwrap().map(|entry| entry.unwrap().path());
    let mut found = 0;
    for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "cu")) {
        let stem = file.file_stem().unwrap().to_str().unwrap().trim_end_matches("_sm90").trim_end_matches("_whole");
        let op = stem.trim_end_matches("_forward").trim_end_matches("_backward");
        assert!(root.join("benches").join(op).with_extension("rs").is_file(), "no benches/{op}.rs for {file:?}");
        assert!(manifest.contains(&format!("[[bench]]\nname = \"{op}\"\nharness = false\n")), "{op} in Cargo.toml");
        found += 1;
    }
    assert!(found > 15, "{found} files");
}

#[test]
fn options_of_the_benches_are_told_from_criterions() {
    let line = "--bench --quick --tokens 512 alone --lengths=128,1_024 --sample-size 10 --device cpu --save-baseline x";
    let (ours, rest) = split(line.split(' ').map(str::to_owned));
    assert_eq!(rest.join(" "), "--bench --quick alone --sample-size 10 --save-baseline x");
    let options = Options::try_parse_from(ours).unwrap();
    assert_eq!((options.tokens, options.lengths, options.device.as_str()), (Some(512), vec![128, 1024], "cpu"));
    assert_eq!((options.hidden, options.vocab), (768, 4101));
    for wrong in ["--tokens", "--tokens 0", "--hidden many", "--lengths 128,,512", "--heads -3"] {
        let (ours, rest) = split(wrong.split(' ').map(str::to_owned));
        assert!(rest.is_empty() && Options::try_parse_from(ours).is_err(), "{wrong}");
    }
}

/// Four ways to compute each shape draw no more than one does, and whatever the cores, each number is the one of its index.
#[test]
fn inputs_are_drawn_once_and_as_one_thread_draws_them() {
    let alone = |count: u64, deviation: f64, seed| -> Vec<f32> {
        let draws = Philox::new(seed, 0, 0xBE);
        (0..count).map(|index| ((draws.uniform(index) - 0.5) * deviation * 12f64.sqrt()) as f32).collect()
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
    pool.install(|| {
        let inputs = Inputs::default();
        let draw = |dtype, count: usize, deviation, seed| {
            inputs.random(&Device::Cpu, dtype, count, deviation, seed).unwrap().to_f32().unwrap()
        };
        for _way in 0..4 {
            for (count, deviation, seed) in [(1000, 1.0, 1), (70_001, 1.0, 1), (70_001, 1.0, 101), (500, 0.01, 1)] {
                assert_eq!(draw(DType::F32, count, deviation, seed), alone(count as u64, deviation, seed));
            }
        }
        let rounded = |value: f32| half::bf16::from_f32(value).to_f32();
        assert_eq!(draw(DType::Bf16, 300, 1.0, 1), alone(300, 1.0, 1).into_iter().map(rounded).collect::<Vec<_>>());
        assert_eq!(inputs.drawn(), 2 * 70_001 + 500);
    });
}
