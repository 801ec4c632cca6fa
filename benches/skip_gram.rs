//! Vectors of genes: updates by blocks of 25,000 genes, dimension 200, as many pairs as the shapes have tokens. (`kernels/skip_gram.cu` on devices with
//! kernels.)

mod common;

use std::time::Instant;

use common::run;
use helixgrad::device::Device;
use helixgrad::genes::blocks::Blocks;
use helixgrad::genes::device_blocks::DeviceBlocks;
use helixgrad::genes::skip_gram::{Model, Pair, Recipe};
use helixgrad::ops::work;
use helixgrad::philox::{Philox, below};

const GENES: usize = 25_000;
const DIMENSION: usize = 200;

pub(crate) fn main() {
    run("skip_gram", |bench| {
        let recipe = Recipe::default();
        let counts: Vec<u64> = (0..GENES as u64).map(|gene| 10_000_000 / (gene + 200)).collect();
        let blocks = Blocks::deal(&counts, Vec::new(), recipe, 1, 0);
        let mut model = Model::initialise(GENES, DIMENSION, 1);
        let draws = Philox::new(1, 0, 0);
        let gene = |word: u32| below(word, GENES as u32);
        let pair = |index| {
            let [one, other, ..] = draws.block(index);
            [gene(one), gene(other)]
        };
        let pairs: Vec<Pair> = (0..bench.shapes.tokens as u64).map(pair).collect();
        let episode = blocks.plan(&pairs, 0, pairs.len() as u64);
        let updates = episode.updates.len();
        let diagonal =
            work::skip_gram(updates / blocks.count(), recipe.negatives, GENES, model.input.padded_dimension());
        let work = (1..blocks.count()).fold(diagonal, |sum, _| sum + diagonal);
        let name = format!("{updates} updates, {0} x {0} blocks", blocks.count());
        match bench.device.clone() {
            Device::Cpu => {
                let mut split = blocks.split(&model);
                bench.timed(&name, work, |count| {
                    let started = Instant::now();
                    for _ in 0..count {
                        blocks.learn(&mut split, &episode);
                    }
                    Ok(started.elapsed().as_secs_f64())
                })?;
                blocks.join(&split, &mut model);
            }
            device => {
                let mut on_device = DeviceBlocks::new(&device, &blocks, &model)?;
                bench.timed(&name, work, |count| {
                    let before = device.mark()?;
                    for _ in 0..count {
                        on_device.learn(&episode)?;
                    }
                    device.seconds_between(&before, &device.mark()?)
                })?;
                on_device.join(&mut model)?;
            }
        }
        Ok(())
    });
}
