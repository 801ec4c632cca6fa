use half::bf16;
use helixgrad::device::cpu::Real;
use helixgrad::device::cpu::adamw::{Update, update, update_stochastically};
use helixgrad::philox::{Philox, Purpose};
use proptest::prelude::*;

use super::harness::*;

/// Weights, gradients and both moments.
type State = [Vec<f32>; 4];

fn state<G: Float>(count: usize, seed: u64) -> State {
    let squares = normals::<f32>(seed + 3, count, 0.3).iter().map(|value| value * value).collect();
    [
        normals::<f32>(seed, count, 1.0),
        normals::<G>(seed + 1, count, 2.0),
        normals::<f32>(seed + 2, count, 0.3),
        squares,
    ]
}

fn constants(clip: f32, decayed: usize) -> Update {
    Update {
        learning_rate: 0.03,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-6,
        weight_decay: 0.1,
        step: 3,
        gradient_scale: f64::from(clip),
        decayed,
    }
}

/// The constants as the kernel takes them; mirrors `Update` of `kernels/adamw.cu`.
fn argument(update: &Update) -> [f32; 8] {
    let step = update.step as i32;
    [
        update.beta1,
        1.0 - update.beta1,
        update.beta2,
        1.0 - update.beta2,
        update.eps,
        1.0 - update.learning_rate * update.weight_decay,
        update.learning_rate / (1.0 - update.beta1.powi(step)),
        1.0 / (1.0 - update.beta2.powi(step)).sqrt(),
    ]
    .map(|value| value as f32)
}

fn cpu<R: Real>(state: &State, constants: &Update, cast: impl Fn(&[f32]) -> Vec<R>) -> [Vec<R>; 4] {
    let [mut weights, mut gradients, mut first, mut second] = state.each_ref().map(|values| cast(values));
    update(&mut weights, &mut gradients, &mut first, &mut second, constants);
    [weights, gradients, first, second]
}

fn check<G: Float>(name: &str, with_master: bool, count: usize, decayed: usize, clip: f32, seed: u64) {
    let before = state::<G>(count, seed);
    let constants = constants(clip, decayed);
    let [master, first, second] = [0, 2, 3].map(|i| Memory::of::<f32>("state", &before[i]));
    let gradients = Memory::of::<G>("gradients", &before[1]);
    let weights = Memory::poisoned::<bf16>("weights", count);
    let factor = Memory::of::<f32>("clip", &[clip]);
    let (count, decayed) = (count as i64, decayed as i64);
    let blocks = [2, 1];
    if with_master {
        launch!(
            "adamw_update" as name,
            blocks,
            [256, 1],
            seed,
            [&weights, &master, &gradients, &first, &second, count, decayed, &factor, argument(&constants),]
        );
        assert_eq!(weights.values::<bf16>(), rounded::<bf16>(&master.values::<f32>()));
    } else {
        launch!(
            "adamw_update" as name,
            blocks,
            [256, 1],
            seed,
            [&master, &gradients, &first, &second, count, decayed, &factor, argument(&constants),]
        );
    }
    let reference = cpu(&before, &constants, doubles);
    let plain = cpu(&before, &constants, <[f32]>::to_vec);
    for (what, memory, i) in [("weights", &master, 0), ("first", &first, 2), ("second", &second, 3)] {
        Tolerance { terms: 1.0 }.check(what, &memory.values::<f32>(), &plain[i], &reference[i]);
    }
    assert!(gradients.values::<G>().iter().all(|&gradient| gradient == 0.0));
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn one_update(count in 1..6000usize, share in 0.0..=1.0f64, clip in prop_oneof![Just(1.0f32), 0.01..1.0f32], seed in 0..1000u64) {
        let decayed = (count as f64 * share) as usize;
        check::<f32>("f32", false, count, decayed, clip, seed);
        check::<bf16>("bf16", true, count, decayed, clip, seed);
        check::<f32>("bf16_f32", true, count, decayed, clip, seed);
    }
}

#[test]
fn a_factor_that_is_nan_changes_nothing() {
    let before = state::<f32>(20, 1);
    let [weights, gradients, first, second] = [0, 1, 2, 3].map(|i| Memory::of::<f32>("state", &before[i]));
    let factor = Memory::of::<f32>("clip", &[f32::NAN]);
    launch!("adamw_update" as "f32", [1, 1], [256, 1], 0, [
        &weights, &gradients, &first, &second, 20i64, 20i64, &factor, argument(&constants(1.0, 20)),
    ]);
    assert_eq!([weights, gradients, first, second].map(|memory| memory.values::<f32>()), before);
}

/// Weights in bf16 alone, rounded as on the CPU. Where the value itself differs in its last bit, it may fall on the other side of its draw: at
/// most one in 65,536 times a few, and then by one unit.
#[test]
fn stochastic_rounding_without_a_master() {
    for (count, seed) in [(1, 1), (5003, 2), (40_000, 3)] {
        let before = state::<f32>(count, seed);
        let constants = constants(0.7, count / 2);
        let rounding = Philox::of(seed, 3, Purpose::Rounding);
        let weights = Memory::of::<bf16>("weights", &before[0]);
        let [gradients, first, second] = [1, 2, 3].map(|i| Memory::of::<f32>("state", &before[i]));
        let factor = Memory::of::<f32>("clip", &[0.7]);
        let Philox { key: [low, high], step, stream } = rounding;
        let draws = Argument::of(&[low, high, step, stream]);
        launch!(
            "adamw_update_stochastic_bf16_f32",
            [2, 1],
            [256, 1],
            seed,
            [
                &weights,
                &gradients,
                &first,
                &second,
                count as i64,
                count as i64 / 2,
                &factor,
                argument(&constants),
                draws,
            ]
        );
        let [values, mut d, mut m, mut v] = before.clone();
        let mut expected: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
        update_stochastically(&mut expected, &mut d, [&mut m, &mut v], &constants, &rounding);
        let mut off = 0;
        for (found, expected) in weights.values::<bf16>().into_iter().zip(&expected) {
            let units = bf16::from_f32(found).to_bits().abs_diff(expected.to_bits());
            assert!(units <= 1, "{found} instead of {expected}");
            off += usize::from(units);
        }
        assert!(off * 2000 <= count, "{off} of {count} differ");
        assert!(gradients.values::<f32>().iter().all(|&gradient| gradient == 0.0));
    }
}

/// A chip's own NaN has all the low bits set: any draw but 0 would carry through it and make it -0, and training would go on with a lost weight.
#[test]
fn stochastic_rounding_leaves_what_is_not_finite() {
    const COUNT: usize = 24;
    let [mut weights, mut gradients, first, second] = state::<f32>(COUNT, 4);
    gradients[..8].fill(f32::from_bits(0x7fff_ffff));
    weights[8] = f32::INFINITY;
    weights[9] = f32::NEG_INFINITY;
    let weights_memory = Memory::of::<bf16>("weights", &weights);
    let [gradients, first, second] = [&gradients, &first, &second].map(|values| Memory::of::<f32>("state", values));
    let factor = Memory::of::<f32>("clip", &[1.0]);
    let Philox { key: [low, high], step, stream } = Philox::of(4, 3, Purpose::Rounding);
    let (draws, count) = (Argument::of(&[low, high, step, stream]), COUNT as i64);
    launch!(
        "adamw_update_stochastic_bf16_f32",
        [1, 1],
        [256, 1],
        4,
        [&weights_memory, &gradients, &first, &second, count, count, &factor, argument(&constants(1.0, COUNT)), draws]
    );
    let found = weights_memory.values::<bf16>();
    assert!(found[..8].iter().all(|weight| weight.is_nan()), "{found:?}");
    assert_eq!(found[8..10], [f32::INFINITY, f32::NEG_INFINITY]);
    assert!(found[10..].iter().all(|weight| weight.is_finite()), "{found:?}");
}
