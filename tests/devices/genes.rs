//! Vectors of genes are trained on a device to the bytes of the CPU, and a training that was begun on the one goes on on the other.

use std::fs;
use std::path::{Path, PathBuf};

use helixgrad::Result;
use helixgrad::device::Device;
use helixgrad::genes::blocks::Blocks;
use helixgrad::genes::device_blocks::DeviceBlocks;
use helixgrad::genes::skip_gram::{Model, Recipe};
use helixgrad::genes::train::{Options, train};

use crate::emulated;

/// Genes for two blocks.
const GENES: u64 = 1100;

/// What the work of every kernel is asked of.
pub fn learn(device: &Device) -> Result<()> {
    let counts: Vec<u64> = (0..GENES).map(|gene| GENES - gene).collect();
    let blocks = Blocks::deal(&counts, Vec::new(), Recipe::default(), 1, 0);
    let mut on_device = DeviceBlocks::new(device, &blocks, &Model::initialise(GENES as usize, 20, 1))?;
    on_device.learn(&blocks.plan(&[[1, 2], [700, 3], [5, 1000]], 0, 3)).map(drop)
}

fn options(out: PathBuf, device: &Device, rounds: u32) -> Options {
    Options {
        dimension: 40,
        min_count: 1,
        rounds,
        recipe: Recipe { sample: 0.0, alpha: 0.3, ..Recipe::default() },
        lock_free: true,
        device: device.clone(),
        seed: 3,
        out,
        resume: false,
        config: None,
        part_pairs: 1000,
        quiet: true,
    }
}

fn vectors(out: &Path) -> Vec<u8> {
    fs::read(out.join("vectors.bin")).unwrap()
}

#[test]
fn gene_vectors_are_the_cpus() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = folder.path().join("pairs.txt");
    let text: String = (0..3000).map(|i| format!("G{} G{}\n", i * 7919 % GENES, (i * 104_729 + 1) % GENES)).collect();
    fs::write(&pairs, text).unwrap();
    let out = |name: &str| folder.path().join(name);
    let on = |name: &str, device: &Device, rounds: u32, resume: bool| {
        let options = Options { resume, ..options(out(name), device, rounds) };
        train(std::slice::from_ref(&pairs), &options).unwrap()
    };
    let expected = on("cpu", &Device::Cpu, 2, false);
    assert!(expected.losses[1] < expected.losses[0], "{:?}", expected.losses);
    let device = crate::device();
    let found = on("device", &device, 2, false);
    assert_eq!(found.losses, expected.losses);
    assert!(vectors(&out("device")) == vectors(&out("cpu")), "the vectors are others");
    assert!(found.order.contains("2 x 2") && found.device == device.to_string(), "{found:?}");
    for (name, first, then) in [("here and there", &Device::Cpu, &device), ("there and here", &device, &Device::Cpu)] {
        on(name, first, 1, false);
        assert_eq!(on(name, then, 2, true).losses, expected.losses);
        assert!(vectors(&out(name)) == vectors(&out("cpu")), "{name}: the vectors are others");
    }
}

#[test]
fn what_the_kernel_has_no_room_for_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let device = emulated::device();
    let sound = options(folder.path().join("run"), &device, 1);
    for (options, finding) in [
        (Options { lock_free: false, ..sound.clone() }, "for updates in one order"),
        (Options { dimension: 513, ..sound.clone() }, "--dimension 513 on a GPU, whose kernel takes up to 512"),
        (Options { recipe: Recipe { negatives: 33, ..sound.recipe }, ..sound }, "--negatives 33 on a GPU"),
    ] {
        let message = train(&[], &options).unwrap_err().to_string();
        assert!(message.contains(finding) && message.contains("what to do"), "{message}");
        assert!(!options.out.exists());
    }
}
