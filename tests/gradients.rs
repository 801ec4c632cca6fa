//! Every operation's backward rule against central differences in f64, with dropout on.

use std::rc::Rc;

use helixgrad::autograd::{DeviceBatch, Matrix, Parameters, Spec, Tape, Tensor, Vector};
use helixgrad::device::attention_pattern::{AttentionPattern, BlockLists};
use helixgrad::device::big_bird::BigBird;
use helixgrad::device::{Buffer, DType, Device};
use helixgrad::kmer::batch::Batch;
use helixgrad::ops::{
    self, Activated, Adapters, AlibiBias, AttentionHooks, Embedding, Gate, Gelu, Normalisation, SparseBlocks, Summands,
};
use helixgrad::philox::{Philox, Purpose};

const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-7;

/// Deterministic values of about unit size; `stream` tells arrays apart.
fn values(len: usize, stream: u32) -> Vec<f64> {
    let philox = Philox::new(11, stream, Purpose::Init as u32);
    (0..len).map(|index| philox.normal(index as u64)).collect()
}

/// Parameters with one spec for each shape, filled with `values`.
fn parameters(shapes: &[&[usize]]) -> Parameters {
    let mut offset = 0;
    let mut specs = Vec::new();
    for (index, shape) in shapes.iter().enumerate() {
        specs.push(Spec { name: format!("p{index}"), shape: shape.to_vec(), offset });
        offset += shape.iter().product::<usize>();
    }
    let mut parameters = Parameters::zeros(specs, 0, DType::F64);
    parameters.values.slice_mut::<f64>().copy_from_slice(&values(offset, 99));
    parameters
}

fn matrix(parameters: &Parameters, index: usize) -> Matrix {
    let spec = &parameters.specs[index];
    Matrix { offset: spec.offset, rows: spec.shape[0], columns: spec.shape[1] }
}

fn vector(parameters: &Parameters, index: usize) -> Vector {
    let spec = &parameters.specs[index];
    Vector { offset: spec.offset, len: spec.len() }
}

/// Checks `op` for inputs of `shapes`: the gradient of `sum(y * probe)` by the tape and by differences.
fn check(
    shapes: &[(usize, usize)],
    parameters: &mut Parameters,
    op: impl Fn(&mut Tape, &Parameters, &[Tensor]) -> Tensor,
) {
    let inputs: Vec<Vec<f64>> =
        shapes.iter().enumerate().map(|(index, &(rows, columns))| values(rows * columns, index as u32)).collect();
    let mut tape = Tape::new(Device::Cpu, DType::F64);
    let run = |tape: &mut Tape, parameters: &Parameters, inputs: &[Vec<f64>]| {
        tape.start_training(5, 1, 0);
        let tensors: Vec<Tensor> = inputs
            .iter()
            .zip(shapes)
            .map(|(input, &(rows, columns))| tape.push(Buffer::from_slice(input), rows, columns))
            .collect();
        let y = op(tape, parameters, &tensors);
        (tensors, y)
    };
    let (tensors, y) = run(&mut tape, parameters, &inputs);
    let probe = values(y.rows * y.columns, 77);
    let dot = |tape: &Tape, y: Tensor| tape.value(y).slice::<f64>().iter().zip(&probe).map(|(a, b)| a * b).sum::<f64>();
    tape.put_gradient(y, Buffer::from_slice(&probe));
    parameters.gradients.fill_zero().unwrap();
    tape.backward(parameters).unwrap();
    let gradients: Vec<Vec<f64>> =
        tensors.iter().map(|&tensor| tape.take_gradient(tensor).unwrap().slice::<f64>().to_vec()).collect();

    let mut compared = 0;
    for (which, gradient) in gradients.iter().enumerate() {
        for (index, &gradient) in gradient.iter().enumerate() {
            let mut side = |sign: f64| {
                let mut moved = inputs.clone();
                moved[which][index] += sign * STEP;
                let (_, y) = run(&mut tape, parameters, &moved);
                dot(&tape, y)
            };
            let expected = (side(1.0) - side(-1.0)) / (2.0 * STEP);
            assert!(
                (gradient - expected).abs() < TOLERANCE * expected.abs().max(1.0),
                "input {which}[{index}]: {gradient} {expected}"
            );
            compared += 1;
        }
    }
    for index in 0..parameters.len() {
        let gradient = parameters.gradients.slice::<f64>()[index];
        let weight = parameters.values.slice::<f64>()[index];
        let mut side = |sign: f64| {
            parameters.values.slice_mut::<f64>()[index] = weight + sign * STEP;
            let (_, y) = run(&mut tape, parameters, &inputs);
            dot(&tape, y)
        };
        let expected = (side(1.0) - side(-1.0)) / (2.0 * STEP);
        parameters.values.slice_mut::<f64>()[index] = weight;
        assert!(
            (gradient - expected).abs() < TOLERANCE * expected.abs().max(1.0),
            "parameter [{index}]: {gradient} {expected}"
        );
        compared += 1;
    }
    assert!(compared > 0);
}

/// Three sequences of 5, 1 and 19 tokens (one over a dropout tile), with some rows for a head.
fn batch() -> Batch {
    let mut batch = Batch::new();
    for length in [5, 1, 19] {
        let start = batch.total_tokens() as i32;
        let tokens: Vec<i32> = (0..length).map(|i| 1 + (start + i * 7) % 10).collect();
        batch.push(&tokens);
    }
    batch.token_types.iter_mut().skip(3).step_by(2).for_each(|kind| *kind = 1);
    batch.rows = vec![0, 3, 5, 6, 20];
    batch.labels = vec![1, 0, 2, 3, 1];
    batch
}

#[test]
fn linear_with_and_without_bias() {
    let mut with = parameters(&[&[3, 4], &[3]]);
    let (weight, bias) = (matrix(&with, 0), vector(&with, 1));
    check(&[(5, 4)], &mut with, |tape, p, x| ops::linear(tape, p, x[0], weight, Some(bias)).unwrap());
    check(&[(5, 4)], &mut with, |tape, p, x| ops::logits(tape, p, x[0], weight, Some(bias)).unwrap());
    let mut without = parameters(&[&[3, 4]]);
    check(&[(300, 4)], &mut without, |tape, p, x| ops::linear(tape, p, x[0], weight, None).unwrap());
}

#[test]
fn a_tensor_with_two_users_gets_both_gradients() {
    let mut p = parameters(&[&[4, 4], &[4, 4], &[4], &[4]]);
    let weights = (matrix(&p, 0), matrix(&p, 1));
    let norm = Normalisation { gamma: vector(&p, 2), beta: Some(vector(&p, 3)), eps: 1e-12 };
    check(&[(6, 4)], &mut p, |tape, p, x| {
        let a = ops::linear(tape, p, x[0], weights.0, None).unwrap();
        let b = ops::linear(tape, p, a, weights.1, None).unwrap();
        let c = ops::layernorm(tape, p, b, Summands { residual: Some(a), ..Summands::default() }, norm).unwrap();
        let d = ops::linear(tape, p, c, weights.0, None).unwrap();
        ops::layernorm(tape, p, d, Summands { residual: Some(x[0]), dropout: 0.3, bias: None }, norm).unwrap()
    });
}

#[test]
fn linear_gelu() {
    let mut p = parameters(&[&[7, 5], &[7]]);
    let (weight, bias) = (matrix(&p, 0), vector(&p, 1));
    for gelu in [Gelu::Exact, Gelu::Tanh] {
        for bias in [Some(bias), None] {
            check(&[(40, 5)], &mut p, |tape, p, x| ops::linear_gelu(tape, p, x[0], weight, bias, gelu).unwrap());
        }
    }
}

#[test]
fn feed_forward() {
    let mut p = parameters(&[&[7, 4], &[7], &[5, 7]]);
    let (up, down) = ((matrix(&p, 0), vector(&p, 1)), matrix(&p, 2));
    for (gelu, fate) in
        [(Gelu::Exact, Activated::Kept), (Gelu::Exact, Activated::Again), (Gelu::Tanh, Activated::Again)]
    {
        check(&[(40, 4)], &mut p, |tape, p, x| ops::feed_forward(tape, p, x[0], up, down, gelu, fate).unwrap());
    }
}

/// The block's input is also its residual, so its gradient has two parts.
#[test]
fn feed_forward_beside_its_residual() {
    let mut p = parameters(&[&[6, 4], &[6], &[4, 6], &[4], &[4], &[4]]);
    let (up, down) = ((matrix(&p, 0), vector(&p, 1)), matrix(&p, 2));
    let bias = Some(vector(&p, 3));
    let norm = Normalisation { gamma: vector(&p, 4), beta: Some(vector(&p, 5)), eps: 1e-12 };
    for fate in [Activated::Kept, Activated::Again] {
        check(&[(9, 4)], &mut p, |tape, p, x| {
            let y = ops::feed_forward(tape, p, x[0], up, down, Gelu::Exact, fate).unwrap();
            ops::layernorm(tape, p, y, Summands { bias, residual: Some(x[0]), dropout: 0.2 }, norm).unwrap()
        });
    }
}

#[test]
fn layernorm_with_every_mix_of_bias_residual_and_dropout() {
    for (case, dropout) in (0..4).flat_map(|case| [(case, 0.0), (case, 0.4)]) {
        let (bias, residual) = (case & 1 != 0, case & 2 != 0);
        let mut p = parameters(if bias { &[&[9], &[9], &[9]] } else { &[&[9], &[9]] });
        let bias = bias.then(|| vector(&p, 2));
        let norm = Normalisation { gamma: vector(&p, 0), beta: Some(vector(&p, 1)), eps: 1e-5 };
        let shapes: &[(usize, usize)] = if residual { &[(35, 9), (35, 9)] } else { &[(35, 9)] };
        check(shapes, &mut p, |tape, p, x| {
            ops::layernorm(tape, p, x[0], Summands { bias, residual: x.get(1).copied(), dropout }, norm).unwrap()
        });
    }
}

#[test]
fn layernorm_without_a_shift() {
    let mut p = parameters(&[&[9], &[9]]);
    let norm = Normalisation { gamma: vector(&p, 0), beta: None, eps: 1e-5 };
    for bias in [None, Some(vector(&p, 1))] {
        check(&[(35, 9), (35, 9)], &mut p, |tape, p, x| {
            let y = ops::layernorm_beside(tape, p, x[0], norm).unwrap();
            ops::layernorm(tape, p, y, Summands { bias, residual: Some(x[1]), dropout: 0.2 }, norm).unwrap()
        });
    }
}

/// The sum's other users come after LayerNorm, before it in the tape's way back, and twice over.
#[test]
fn layernorm_and_the_sum_that_others_use() {
    for (case, dropout) in (0..4).flat_map(|case| [(case, 0.0), (case, 0.4)]) {
        let (bias, residual) = (case & 1 != 0, case & 2 != 0);
        let shapes: &[&[usize]] = if bias { &[&[9], &[9], &[9, 9], &[9]] } else { &[&[9], &[9], &[9, 9]] };
        let mut p = parameters(shapes);
        let bias = bias.then(|| vector(&p, 3));
        let (norm, weight) =
            (Normalisation { gamma: vector(&p, 0), beta: Some(vector(&p, 1)), eps: 1e-5 }, matrix(&p, 2));
        let shapes: &[(usize, usize)] = if residual { &[(35, 9), (35, 9)] } else { &[(35, 9)] };
        check(shapes, &mut p, |tape, p, x| {
            let summands = Summands { bias, residual: x.get(1).copied(), dropout };
            let (y, z) = ops::layernorm_and_sum(tape, p, x[0], summands, norm).unwrap();
            let y = ops::linear(tape, p, y, weight, None).unwrap();
            let w = ops::linear(tape, p, z, weight, None).unwrap();
            let w = ops::residual(tape, p, w, Summands { residual: Some(y), ..Summands::default() }).unwrap();
            ops::residual(tape, p, w, Summands { residual: Some(z), ..Summands::default() }).unwrap()
        });
    }
}

#[test]
fn residual_with_every_mix_of_bias_residual_and_dropout() {
    for (case, dropout) in (0..4).flat_map(|case| [(case, 0.0), (case, 0.4)]) {
        let (bias, residual) = (case & 1 != 0, case & 2 != 0);
        let mut p = parameters(if bias { &[&[9]] } else { &[] });
        let bias = bias.then(|| vector(&p, 0));
        let shapes: &[(usize, usize)] = if residual { &[(35, 9), (35, 9)] } else { &[(35, 9)] };
        check(shapes, &mut p, |tape, p, x| {
            ops::residual(tape, p, x[0], Summands { bias, residual: x.get(1).copied(), dropout }).unwrap()
        });
    }
}

/// Pre-LN: the stream goes through every block by its residual alone, and LayerNorm reads a sum that it does not replace.
#[test]
fn a_layer_with_layernorm_before_its_blocks() {
    let mut p = parameters(&[&[4], &[4], &[6, 4], &[4, 3], &[4], &[4, 4], &[4]]);
    let norm = Normalisation { gamma: vector(&p, 0), beta: Some(vector(&p, 1)), eps: 1e-5 };
    let (up, down, square) = (matrix(&p, 2), matrix(&p, 3), matrix(&p, 5));
    let biases = [vector(&p, 4), vector(&p, 6)];
    check(&[(34, 4)], &mut p, |tape, p, x| {
        let (y, stream) = ops::layernorm_and_sum(tape, p, x[0], Summands::default(), norm).unwrap();
        let y = ops::linear(tape, p, y, square, None).unwrap();
        let summands = Summands { bias: Some(biases[0]), residual: Some(stream), dropout: 0.3 };
        let (y, stream) = ops::layernorm_and_sum(tape, p, y, summands, norm).unwrap();
        let y = ops::gated_feed_forward(tape, p, y, up, down, Gate::Silu, 0.2).unwrap();
        let summands = Summands { bias: Some(biases[1]), residual: Some(stream), dropout: 0.1 };
        ops::residual(tape, p, y, summands).unwrap()
    });
}

#[test]
fn gated_feed_forward() {
    let mut p = parameters(&[&[14, 4], &[5, 7]]);
    let (up, down) = (matrix(&p, 0), matrix(&p, 1));
    for (gate, dropout) in [(Gate::Gelu, 0.0), (Gate::Gelu, 0.3), (Gate::Silu, 0.0), (Gate::Silu, 0.3)] {
        check(&[(40, 4)], &mut p, |tape, p, x| {
            ops::gated_feed_forward(tape, p, x[0], up, down, gate, dropout).unwrap()
        });
    }
}

/// Two adapters of one product that leave a gap between their columns, with dropout before them; and what stands between products then.
#[test]
fn low_rank_adapters() {
    let mut p = parameters(&[&[7, 5], &[6, 5], &[2, 3], &[4, 3]]);
    let (weight, a) = (matrix(&p, 0), matrix(&p, 1));
    let b = vec![(matrix(&p, 2), 0), (matrix(&p, 3), 3)];
    for dropout in [0.0, 0.3] {
        let adapters = Adapters { a, b: b.clone(), scale: 1.7, dropout };
        check(&[(40, 5)], &mut p, |tape, p, x| {
            let y = ops::linear(tape, p, x[0], weight, None).unwrap();
            ops::low_rank(tape, p, y, x[0], &adapters).unwrap()
        });
    }
    let mut p = parameters(&[&[6, 5], &[6], &[4, 5], &[6, 4]]);
    let (up, bias) = (matrix(&p, 0), vector(&p, 1));
    let adapters = Adapters { a: matrix(&p, 2), b: vec![(matrix(&p, 3), 0)], scale: 0.5, dropout: 0.2 };
    for gelu in [Gelu::Exact, Gelu::Tanh] {
        check(&[(9, 5)], &mut p, |tape, p, x| {
            let y = ops::linear(tape, p, x[0], up, None).unwrap();
            let y = ops::low_rank(tape, p, y, x[0], &adapters).unwrap();
            ops::gelu(tape, p, y, Some(bias), gelu).unwrap()
        });
    }
    let mut p = parameters(&[&[6, 5], &[4, 5], &[6, 4]]);
    let adapters = Adapters { a: matrix(&p, 1), b: vec![(matrix(&p, 2), 0)], scale: 0.5, dropout: 0.2 };
    for gate in [Gate::Gelu, Gate::Silu] {
        check(&[(9, 5)], &mut p, |tape, p, x| {
            let y = ops::linear(tape, p, x[0], up, None).unwrap();
            let y = ops::low_rank(tape, p, y, x[0], &adapters).unwrap();
            ops::gated(tape, y, gate, 0.3).unwrap()
        });
    }
}

/// `y + scale x A^T B^T`, in the columns of each adapter.
#[test]
fn low_rank_adapters_are_the_formula() {
    let p = parameters(&[&[5, 3], &[2, 3], &[2, 1], &[3, 1]]);
    let mut tape = Tape::new(Device::Cpu, DType::F64);
    let x = values(4 * 3, 1);
    let input = tape.push(Buffer::from_slice(&x), 4, 3);
    let y = ops::linear(&mut tape, &p, input, matrix(&p, 0), None).unwrap();
    let before = tape.to_f64(y).unwrap();
    let adapters =
        Adapters { a: matrix(&p, 1), b: vec![(matrix(&p, 2), 0), (matrix(&p, 3), 2)], scale: 2.5, dropout: 0.0 };
    let after = ops::low_rank(&mut tape, &p, y, input, &adapters).unwrap();
    let after = tape.to_f64(after).unwrap();
    let weights = p.values.slice::<f64>();
    let [a, first, second] = [1, 2, 3].map(|index: usize| &weights[p.specs[index].range()]);
    for row in 0..4 {
        let inner = |adapter: usize| (0..3).map(|i| x[row * 3 + i] * a[adapter * 3 + i]).sum::<f64>();
        for column in 0..5 {
            let added = if column < 2 { inner(0) * first[column] } else { inner(1) * second[column - 2] };
            let expected = before[row * 5 + column] + 2.5 * added;
            assert!((after[row * 5 + column] - expected).abs() < 1e-12, "{row} {column}");
        }
    }
}

/// What is frozen has no place for a gradient, and what goes on below has the gradient that it had.
#[test]
fn frozen_parameters_get_no_gradient() {
    let p = || parameters(&[&[5, 5], &[6, 5], &[6], &[5, 6], &[5], &[5], &[5], &[5, 5], &[5]]);
    let gradients = |trained: usize| {
        let mut p = p();
        p.gradients = Buffer::zeros(trained, DType::F64);
        let mut tape = Tape::new(Device::Cpu, DType::F64);
        tape.start_training(5, 1, 0);
        let x = tape.push(Buffer::from_slice(&values(9 * 5, 1)), 9, 5);
        let y = ops::linear(&mut tape, &p, x, matrix(&p, 0), None).unwrap();
        let up = (matrix(&p, 1), vector(&p, 2));
        let z = ops::feed_forward(&mut tape, &p, y, up, matrix(&p, 3), Gelu::Exact, Activated::Kept).unwrap();
        let norm = Normalisation { gamma: vector(&p, 5), beta: Some(vector(&p, 6)), eps: 1e-5 };
        let summands = Summands { bias: Some(vector(&p, 4)), residual: Some(y), dropout: 0.2 };
        let z = ops::layernorm(&mut tape, &p, z, summands, norm).unwrap();
        let z = ops::linear(&mut tape, &p, z, matrix(&p, 7), Some(vector(&p, 8))).unwrap();
        tape.put_gradient(z, Buffer::from_slice(&values(9 * 5, 2)));
        tape.backward(&mut p).unwrap();
        (tape.take_gradient(x).unwrap().slice::<f64>().to_vec(), p.gradients.slice::<f64>().to_vec())
    };
    let (input, all) = gradients(p().len());
    let (same, first) = gradients(25);
    assert_eq!(input, same);
    assert_eq!(all[..25], first);
    assert!(all[25..].iter().all(|gradient| *gradient != 0.0));
}

/// The first half goes through the activation, and the second is multiplied with it.
#[test]
fn the_gate_is_the_first_half() {
    let mut p = parameters(&[&[2, 1], &[1, 1]]);
    p.values.slice_mut::<f64>().copy_from_slice(&[2.0, 3.0, 0.5]);
    for (gate, act) in [(Gate::Silu, 2.0 / (1.0 + f64::exp(-2.0))), (Gate::Gelu, 2.0 * 0.977_249_868_051_820_8)] {
        let mut tape = Tape::new(Device::Cpu, DType::F64);
        let x = tape.push(Buffer::from_slice(&[1.0f64]), 1, 1);
        let y = ops::gated_feed_forward(&mut tape, &p, x, matrix(&p, 0), matrix(&p, 1), gate, 0.0).unwrap();
        assert!((tape.to_f64(y).unwrap()[0] - act * 3.0 * 0.5).abs() < 1e-12, "{gate:?}");
    }
}

#[test]
fn rotary_positions() {
    let host = batch();
    let batch = DeviceBatch::upload(&Device::Cpu, &host).unwrap();
    let mut none = parameters(&[]);
    check(&[(25, 24)], &mut none, |tape, _, x| ops::rotary(tape, &batch, x[0], 2, 100.0).unwrap());
    // As attention uses them, with the bias of the layer before.
    let mut p = parameters(&[&[24, 3], &[24]]);
    let (weight, bias) = (matrix(&p, 0), vector(&p, 1));
    check(&[(25, 3)], &mut p, |tape, p, x| {
        let qkv = ops::linear(tape, p, x[0], weight, Some(bias)).unwrap();
        let qkv = ops::rotary(tape, &batch, qkv, 2, 100.0).unwrap();
        ops::attention(tape, &batch, qkv, 2, 0.2, &AttentionHooks::default()).unwrap()
    });
}

/// Queries and keys by the formula, positions from the start of each sequence; values as they were.
#[test]
fn rotary_positions_are_the_formula() {
    let host = batch();
    let batch = DeviceBatch::upload(&Device::Cpu, &host).unwrap();
    let (heads, head_dim, hidden, base) = (2, 6, 12, 10_000.0f64);
    let before = values(25 * 36, 4);
    let mut tape = Tape::new(Device::Cpu, DType::F64);
    let x = tape.push(Buffer::from_slice(&before), 25, 36);
    let y = ops::rotary(&mut tape, &batch, x, heads, base).unwrap();
    let after = tape.to_f64(y).unwrap();
    for (token, &position) in host.positions.iter().enumerate() {
        for (part, i) in (0..3).flat_map(|part| (0..hidden).map(move |i| (part, i))) {
            let at = |i: usize| before[token * 36 + part * hidden + i];
            let (first, j) = (i / head_dim * head_dim, i % head_dim);
            let angle = f64::from(position) * base.powf(-2.0 * (j % 3) as f64 / head_dim as f64);
            let expected = match (part, j < 3) {
                (2, _) => at(i),
                (_, true) => at(first + j) * angle.cos() - at(first + j + 3) * angle.sin(),
                (_, false) => at(first + j) * angle.cos() + at(first + j - 3) * angle.sin(),
            };
            let found = after[token * 36 + part * hidden + i];
            assert!((found - expected).abs() < 1e-13, "token {token}, part {part}, {i}: {found} {expected}");
        }
    }
    let odd = tape.push(Buffer::from_slice(&values(25 * 18, 4)), 25, 18);
    let error = ops::rotary(&mut tape, &batch, odd, 2, base).unwrap_err().to_string();
    assert!(error.contains("heads of 3 elements"), "{error}");
}

#[test]
fn dropout_tanh_and_gather() {
    let batch = DeviceBatch::upload(&Device::Cpu, &batch()).unwrap();
    let mut none = parameters(&[]);
    check(&[(25, 3)], &mut none, |tape, _, x| {
        let dropped = ops::dropout(tape, x[0], 0.25).unwrap();
        let gathered = ops::gather(tape, &batch, dropped).unwrap();
        let squashed = ops::tanh(tape, gathered).unwrap();
        ops::dropout(tape, squashed, 0.25).unwrap()
    });
}

#[test]
fn relu() {
    let mut none = parameters(&[]);
    check(&[(9, 7)], &mut none, |tape, _, x| {
        let kept = ops::dropout(tape, x[0], 0.25).unwrap();
        ops::relu(tape, kept).unwrap()
    });
}

/// Every dropout of a pass, of a micro-batch and of a step draws anew, and what one draws is drawn again.
#[test]
fn no_two_dropouts_share_a_mask() {
    let mut tape = Tape::new(Device::Cpu, DType::F64);
    let mut masks = |step: u32, micro_batch: u32| -> [Vec<f64>; 2] {
        tape.start_training(5, step, micro_batch);
        let x = tape.push(Buffer::from_slice(&[1.0; 200]), 20, 10);
        [(); 2].map(|()| {
            let y = ops::dropout(&mut tape, x, 0.5).unwrap();
            tape.value(y).slice::<f64>().to_vec()
        })
    };
    let all = [masks(1, 0), masks(1, 1), masks(2, 0)].concat();
    for (index, mask) in all.iter().enumerate() {
        let kept = mask.iter().filter(|value| **value == 2.0).count();
        assert!((60..140).contains(&kept), "{kept} of 200");
        assert!(!all[..index].contains(mask), "mask {index}");
    }
    assert_eq!(masks(1, 1), all[2..4]);
}

#[test]
fn embedding_sums_into_every_table() {
    let batch = DeviceBatch::upload(&Device::Cpu, &batch()).unwrap();
    let mut p = parameters(&[&[11, 4], &[19, 4], &[2, 4]]);
    let tables = [0, 1, 2].map(|index| Some(matrix(&p, index)));
    // An id that does not occur: all are scaled, none is hidden; and one that does.
    for hidden_by in [None, Some(100), Some(8)] {
        let options = Embedding { padding: None, hidden_by };
        check(&[], &mut p, |tape, p, _| ops::embedding(tape, p, &batch, tables, options).unwrap());
    }
}

#[test]
fn embedding_of_fewer_tables() {
    let batch = DeviceBatch::upload(&Device::Cpu, &batch()).unwrap();
    for present in [[true, false, false], [true, true, false], [true, false, true]] {
        let shapes: Vec<&[usize]> =
            [&[11, 4][..], &[19, 4], &[2, 4]].into_iter().zip(present).filter(|(_, is)| *is).map(|(s, _)| s).collect();
        let mut p = parameters(&shapes);
        let mut next = 0..;
        let tables = present.map(|is| is.then(|| matrix(&p, next.next().unwrap())));
        for hidden_by in [None, Some(8)] {
            let options = Embedding { padding: None, hidden_by };
            check(&[], &mut p, |tape, p, _| ops::embedding(tape, p, &batch, tables, options).unwrap());
        }
    }
}

/// As Hugging Face's EsmEmbeddings: by hand, with a sequence of masks only among them.
#[test]
fn token_dropout_is_the_formula() {
    let (mask, mut host) = (2, Batch::new());
    let sequences: [&[i32]; 3] = [&[3, 2, 5, 6], &[2, 2], &[3, 7, 4]];
    for sequence in sequences {
        host.push(sequence);
    }
    let batch = DeviceBatch::upload(&Device::Cpu, &host).unwrap();
    let p = parameters(&[&[8, 4], &[4, 4]]);
    let tables = [Some(matrix(&p, 0)), Some(matrix(&p, 1)), None];
    let mut tape = Tape::new(Device::Cpu, DType::F64);
    let options = Embedding { padding: None, hidden_by: Some(mask) };
    let y = ops::embedding(&mut tape, &p, &batch, tables, options).unwrap();
    let (found, weights) = (tape.to_f64(y).unwrap(), p.values.slice::<f64>());
    let mut row = 0;
    for (sequence, scale) in sequences.iter().zip([0.88 / (1.0 - 1.0 / 4.0), 0.0, 0.88]) {
        for (position, &token) in sequence.iter().enumerate() {
            for i in 0..4 {
                let word = if token == mask { 0.0 } else { weights[token as usize * 4 + i] * scale };
                let expected = word + weights[(8 + position) * 4 + i];
                assert!((found[row * 4 + i] - expected).abs() < 1e-14, "row {row}: {} {expected}", found[row * 4 + i]);
            }
            row += 1;
        }
    }
}

#[test]
fn the_padding_entry_learns_nothing_from_lookups() {
    let mut with_padding = batch();
    with_padding.tokens[2] = 0;
    let batch = DeviceBatch::upload(&Device::Cpu, &with_padding).unwrap();
    let mut p = parameters(&[&[11, 4], &[19, 4], &[2, 4]]);
    let tables = [0, 1, 2].map(|index| Some(matrix(&p, index)));
    let mut tape = Tape::new(Device::Cpu, DType::F64);
    tape.start_training(1, 1, 0);
    let y = ops::embedding(&mut tape, &p, &batch, tables, Embedding { padding: Some(0), hidden_by: None }).unwrap();
    tape.put_gradient(y, Buffer::from_slice(&values(y.rows * 4, 1)));
    tape.backward(&mut p).unwrap();
    assert_eq!(p.gradients.slice::<f64>()[..4], [0.0; 4]);
    assert_ne!(p.gradients.slice::<f64>()[4..8], [0.0; 4]);
}

#[test]
fn attention_with_and_without_dropout() {
    let batch = DeviceBatch::upload(&Device::Cpu, &batch()).unwrap();
    let mut none = parameters(&[]);
    for dropout in [0.0, 0.3] {
        check(&[(25, 12)], &mut none, |tape, _, x| {
            ops::attention(tape, &batch, x[0], 2, dropout, &AttentionHooks::default()).unwrap()
        });
    }
}

/// The layer before leaves the gradient of its bias to attention; that of keys is zero but for rounding.
#[test]
fn attention_with_the_layer_before_it() {
    let batch = DeviceBatch::upload(&Device::Cpu, &batch()).unwrap();
    let mut p = parameters(&[&[12, 5], &[12]]);
    let (weight, bias) = (matrix(&p, 0), vector(&p, 1));
    check(&[(25, 5)], &mut p, |tape, p, x| {
        let qkv = ops::qkv(tape, p, x[0], weight, Some(bias)).unwrap();
        ops::attention(tape, &batch, qkv, 2, 0.3, &AttentionHooks::default()).unwrap()
    });
}

#[test]
fn attention_over_several_query_blocks() {
    let mut long = Batch::new();
    long.push(&[7; 150]);
    let batch = DeviceBatch::upload(&Device::Cpu, &long).unwrap();
    let mut none = parameters(&[]);
    check(&[(150, 3)], &mut none, |tape, _, x| {
        ops::attention(tape, &batch, x[0], 1, 0.2, &AttentionHooks::default()).unwrap()
    });
}

fn blocks(lists: BlockLists, batch: &Batch) -> Rc<SparseBlocks> {
    Rc::new(SparseBlocks::on_host(lists, &batch.cu_seqlens))
}

/// A bias for `heads` heads, and a pattern of which some squares are skipped in a sequence of over 192 tokens.
fn hooks(heads: usize, batch: &Batch) -> AttentionHooks {
    let slopes: Vec<f64> = (0..heads).map(|head| 0.3 / (1 << head) as f64).collect();
    let pattern = AttentionPattern { block: 64, window: 0, global: 0, random: 2, seed: 3 };
    AttentionHooks {
        bias: Some(Rc::new(AlibiBias::new(&Device::Cpu, &slopes).unwrap())),
        pattern: Some(blocks(BlockLists::new(&pattern, &batch.cu_seqlens).unwrap(), batch)),
        window: None,
    }
}

/// A window, and the squares that it needs.
fn window(reach: usize, batch: &Batch) -> AttentionHooks {
    let lists = BlockLists::new(&AttentionPattern::window(reach), &batch.cu_seqlens).unwrap();
    AttentionHooks { window: Some(reach), pattern: Some(blocks(lists, batch)), ..AttentionHooks::default() }
}

#[test]
fn attention_with_a_bias() {
    let host = batch();
    let hooks = AttentionHooks { pattern: None, ..hooks(2, &host) };
    let batch = DeviceBatch::upload(&Device::Cpu, &host).unwrap();
    let mut none = parameters(&[]);
    check(&[(25, 12)], &mut none, |tape, _, x| ops::attention(tape, &batch, x[0], 2, 0.3, &hooks).unwrap());
}

#[test]
fn attention_over_a_block_sparse_pattern() {
    let mut host = Batch::new();
    host.push(&[7; 3]);
    host.push(&[7; 200]);
    let hooks = hooks(1, &host);
    assert!(hooks.pattern.as_ref().unwrap().lists().unwrap().squares() < 1 + 16, "some squares are skipped");
    let batch = DeviceBatch::upload(&Device::Cpu, &host).unwrap();
    let mut none = parameters(&[]);
    check(&[(203, 3)], &mut none, |tape, _, x| ops::attention(tape, &batch, x[0], 1, 0.2, &hooks).unwrap());
}

/// With the squares that the window needs and with all; with a bias; and where it is wider than the shorter sequence.
#[test]
fn attention_in_a_window() {
    let mut host = Batch::new();
    host.push(&[7; 9]);
    host.push(&[7; 140]);
    let batch = DeviceBatch::upload(&Device::Cpu, &host).unwrap();
    let mut none = parameters(&[]);
    let near = window(12, &host);
    assert_eq!(near.pattern.as_ref().unwrap().lists().unwrap().squares(), 1 + 7);
    let bias = hooks(1, &host).bias;
    for hooks in [near.clone(), AttentionHooks { pattern: None, ..near.clone() }, AttentionHooks { bias, ..near }] {
        check(&[(149, 3)], &mut none, |tape, _, x| ops::attention(tape, &batch, x[0], 1, 0.2, &hooks).unwrap());
    }
}

#[test]
fn attention_is_the_formula() {
    let mut long = batch();
    long.push(&[3; 400]);
    let (heads, dim, hidden) = (2, 2, 4);
    let (plain, hooked) = (AttentionHooks::default(), hooks(heads, &long));
    let windows = [1, 63, 64, 65, 500].map(|reach| (long.clone(), window(reach, &long)));
    for (batch, hooks) in [(batch(), plain), (long, hooked)].into_iter().chain(windows) {
        let qkv = values(batch.total_tokens() * 12, 3);
        let mut tape = Tape::new(Device::Cpu, DType::F64);
        tape.start_inference();
        let x = tape.push(Buffer::from_slice(&qkv), batch.total_tokens(), 12);
        let on_device = DeviceBatch::upload(&Device::Cpu, &batch).unwrap();
        let y = ops::attention(&mut tape, &on_device, x, heads, 0.5, &hooks).unwrap();
        for (sequence, pair) in batch.cu_seqlens.windows(2).enumerate() {
            let (start, length) = (pair[0] as usize, (pair[1] - pair[0]) as usize);
            for (query, head) in (0..length).flat_map(|query| (0..heads).map(move |head| (query, head))) {
                let at =
                    |token: usize, part: usize, i: usize| qkv[(start + token) * 12 + part * hidden + head * dim + i];
                let slope = hooks.bias.as_ref().map_or(0.0, |bias| bias.slopes()[head]);
                let score = |key: usize| {
                    (0..dim).map(|i| at(query, 0, i) * at(key, 1, i)).sum::<f64>() / (dim as f64).sqrt()
                        - slope * query.abs_diff(key) as f64
                };
                let is_seen = |key: &usize| match &hooks.pattern {
                    Some(pattern) => pattern
                        .lists()
                        .unwrap()
                        .seen(sequence, head, query / 64)
                        .iter()
                        .any(|seen| seen.block == *key as u32 / 64),
                    None => true,
                };
                let is_near = |key: &usize| hooks.window.is_none_or(|window| query.abs_diff(*key) <= window);
                let keys: Vec<usize> = (0..length).filter(is_seen).filter(is_near).collect();
                let sum: f64 = keys.iter().map(|&key| score(key).exp()).sum();
                for i in 0..dim {
                    let expected: f64 = keys.iter().map(|&key| score(key).exp() / sum * at(key, 2, i)).sum();
                    let found = tape.value(y).slice::<f64>()[(start + query) * hidden + head * dim + i];
                    assert!((found - expected).abs() < 1e-12, "sequence {sequence}, query {query}: {found} {expected}");
                }
            }
        }
    }
}

/// Blocks of BigBird: each head's own when training, and one that counts twice when predicting; a short sequence beside them.
#[test]
fn attention_over_the_blocks_of_big_bird() {
    let mut host = Batch::new();
    host.push(&[3; 130]);
    host.push(&[3; 20]);
    let batch = DeviceBatch::upload(&Device::Cpu, &host).unwrap();
    let mut none = parameters(&[]);
    for training in [false, true] {
        let pattern = BigBird { block: 16, random: 1, positions: 130, layer: 1, training };
        let lists = BlockLists::big_bird(&pattern, 2, &host.cu_seqlens).unwrap();
        assert_eq!((lists.is_by_head(), lists.is_weighted()), (training, !training));
        let hooks = AttentionHooks { pattern: Some(blocks(lists, &host)), ..AttentionHooks::default() };
        check(&[(150, 12)], &mut none, |tape, _, x| ops::attention(tape, &batch, x[0], 2, 0.0, &hooks).unwrap());
    }
}

#[test]
fn hooks_of_another_batch_are_refused() {
    let batch = batch();
    let on_device = DeviceBatch::upload(&Device::Cpu, &batch).unwrap();
    let mut other = Batch::new();
    other.push(&[1; 25]);
    let none = AttentionHooks { window: Some(0), ..AttentionHooks::default() };
    for (hooks, what) in [
        (hooks(3, &batch), "3 slopes"),
        (hooks(2, &other), "pattern over 1 sequences of 25"),
        (none, "a window of 0 tokens"),
    ] {
        let mut tape = Tape::new(Device::Cpu, DType::F64);
        let x = tape.push(Buffer::from_slice(&values(25 * 12, 3)), 25, 12);
        let error = ops::attention(&mut tape, &on_device, x, 2, 0.0, &hooks).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn cross_entropy_value_and_gradient() {
    let batch = DeviceBatch::upload(&Device::Cpu, &batch()).unwrap();
    let logits = values(5 * 4, 8);
    let mut tape = Tape::new(Device::Cpu, DType::F64);
    let run = |tape: &mut Tape, logits: &[f64]| {
        tape.start_training(1, 1, 0);
        let x = tape.push(Buffer::from_slice(logits), 5, 4);
        (x, ops::cross_entropy(tape, &batch, x, 0.5).unwrap())
    };
    let (x, loss) = run(&mut tape, &logits);
    let gradient = tape.take_gradient(x).unwrap().slice::<f64>().to_vec();
    assert_eq!(loss.rows, 5);
    let mut hits = 0;
    let mut expected = 0.0;
    for (row, &label) in logits.chunks(4).zip(batch.labels.slice::<i32>()) {
        expected += row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[label as usize];
        hits += u64::from(row.iter().all(|&x| x <= row[label as usize]));
    }
    assert!((loss.sum - expected).abs() < 1e-12);
    assert_eq!(loss.hits, hits);
    for index in 0..logits.len() {
        let mut side = |sign: f64| {
            let mut moved = logits.clone();
            moved[index] += sign * STEP;
            run(&mut tape, &moved).1.sum
        };
        let expected = 0.5 * (side(1.0) - side(-1.0)) / (2.0 * STEP);
        assert!((gradient[index] - expected).abs() < 1e-8, "{index}");
    }
    let mut wrong = batch_with_label(4);
    let x = tape.push(Buffer::from_slice(&logits), 5, 4);
    assert!(ops::cross_entropy(&mut tape, &wrong, x, 1.0).is_err());
    wrong = batch_with_label(-1);
    let x = tape.push(Buffer::from_slice(&logits), 5, 4);
    assert!(ops::cross_entropy(&mut tape, &wrong, x, 1.0).is_err());
}

/// The weighted mean of PyTorch's CrossEntropyLoss(weight=...), the focal loss of Lin et al. by its formula, and the gradients of both
/// against differences.
#[test]
fn weighted_and_focal_cross_entropy() {
    let batch = DeviceBatch::upload(&Device::Cpu, &batch()).unwrap();
    let labels = batch.labels.slice::<i32>().to_vec();
    let weights = [0.25f32, 3.0, 1.0, 7.5];
    let mut tape = Tape::new(Device::Cpu, DType::F64);
    for gamma in [0.0, 0.5, 1.0, 2.0, 5.0] {
        let weighting = ops::Weighting::new(&Device::Cpu, weights.to_vec(), gamma).unwrap();
        let total = weighting.of(&labels);
        assert_eq!(total, labels.iter().map(|&label| f64::from(weights[label as usize])).sum::<f64>());
        // One row is right beyond any doubt, where 1 - p is 0.
        let mut logits = values(5 * 4, 8);
        logits[labels[0] as usize] = 900.0;
        let run = |tape: &mut Tape, logits: &[f64]| {
            tape.start_training(1, 1, 0);
            let x = tape.push(Buffer::from_slice(logits), 5, 4);
            let mut all = ops::Losses::new(&Device::Cpu).unwrap();
            let weighting = (&weighting, total);
            ops::weighted_cross_entropy_into(tape, &batch, x, weighting, 1.0 / total, &mut all).unwrap();
            (x, all.take().unwrap()[0])
        };
        let (x, loss) = run(&mut tape, &logits);
        let gradient = tape.take_gradient(x).unwrap().slice::<f64>().to_vec();
        let expected = logits.chunks(4).zip(&labels).map(|(row, &label)| {
            let largest = row.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
            let p = (row[label as usize] - largest).exp() / sum;
            f64::from(weights[label as usize]) * (1.0 - p).powf(gamma) * -p.ln()
        });
        let expected = expected.sum::<f64>() / total;
        assert!((loss.mean() - expected).abs() < 1e-12, "gamma {gamma}: {} {expected}", loss.mean());
        assert_eq!((loss.rows, loss.weight), (5, total));
        for index in 0..logits.len() {
            let mut side = |sign: f64| {
                let mut moved = logits.clone();
                moved[index] += sign * STEP;
                run(&mut tape, &moved).1.mean()
            };
            let expected = (side(1.0) - side(-1.0)) / (2.0 * STEP);
            assert!(
                (gradient[index] - expected).abs() < 1e-8,
                "gamma {gamma}, {index}: {} {expected}",
                gradient[index]
            );
        }
    }
}

fn batch_with_label(label: i32) -> Rc<DeviceBatch> {
    let mut batch = batch();
    batch.labels[2] = label;
    DeviceBatch::upload(&Device::Cpu, &batch).unwrap()
}

/// The value of a loss against targets by its formula, and its gradient against differences.
fn check_target_loss(
    loss_of: impl Fn(&mut Tape, Tensor, &Buffer, f64) -> ops::Loss,
    formula: impl Fn(usize, f64, f64) -> f64,
    targets: &[f32],
) -> ops::Loss {
    let logits = values(5 * 4, 8);
    let target_buffer = Buffer::from_slice(targets);
    let mut tape = Tape::new(Device::Cpu, DType::F64);
    let run = |tape: &mut Tape, logits: &[f64]| {
        tape.start_training(1, 1, 0);
        let x = tape.push(Buffer::from_slice(logits), 5, 4);
        (x, loss_of(tape, x, &target_buffer, 0.5))
    };
    let (x, loss) = run(&mut tape, &logits);
    let gradient = tape.take_gradient(x).unwrap().slice::<f64>().to_vec();
    let terms = (0..).zip(logits.iter().zip(targets)).map(|(at, (&x, &t))| formula(at % 4, x, f64::from(t)));
    assert!((loss.sum - terms.sum::<f64>() / 4.0).abs() < 1e-12);
    assert_eq!(loss.rows, 5);
    for index in 0..logits.len() {
        let mut side = |sign: f64| {
            let mut moved = logits.clone();
            moved[index] += sign * STEP;
            run(&mut tape, &moved).1.sum
        };
        let expected = 0.5 * (side(1.0) - side(-1.0)) / (2.0 * STEP);
        assert!((gradient[index] - expected).abs() < 1e-8, "{index}: {} {expected}", gradient[index]);
    }
    loss
}

#[test]
fn mean_squared_error_value_and_gradient() {
    let targets: Vec<f32> = values(5 * 4, 9).into_iter().map(|value| value as f32).collect();
    let loss_of =
        |tape: &mut Tape, x, targets: &Buffer, scale| ops::mean_squared_error(tape, x, targets, scale).unwrap();
    let loss = check_target_loss(loss_of, |_, x, t| (x - t).powi(2), &targets);
    assert_eq!(loss.hits, 0);
}

#[test]
fn binary_cross_entropy_value_and_gradient() {
    let logits = values(5 * 4, 8);
    // One row is all right; one has targets between 0 and 1.
    let right =
        |(index, x): (usize, &f64)| if index < 4 { f32::from(u8::from(*x > 0.0)) } else { (index % 3) as f32 / 2.0 };
    let targets: Vec<f32> = logits.iter().enumerate().map(right).collect();
    let probability = |x: f64| 1.0 / (1.0 + (-x).exp());
    let formula = |_, x: f64, t: f64| -t * probability(x).ln() - (1.0 - t) * (1.0 - probability(x)).ln();
    let loss_of =
        |tape: &mut Tape, x, targets: &Buffer, scale| ops::binary_cross_entropy(tape, x, targets, None, scale).unwrap();
    let hits = logits
        .chunks(4)
        .zip(targets.chunks(4))
        .filter(|(x, t)| x.iter().zip(*t).all(|(x, t)| (*x > 0.0) == (*t > 0.5)));
    let expected = hits.count() as u64;
    assert!((1..5).contains(&expected));
    assert_eq!(check_target_loss(loss_of, formula, &targets).hits, expected);
    // PyTorch's pos_weight.
    let weights = [3.0f32, 0.25, 1.0, 20.0];
    let positive = Buffer::from_slice(&weights);
    let formula = |class: usize, x: f64, t: f64| {
        -f64::from(weights[class]) * t * probability(x).ln() - (1.0 - t) * (1.0 - probability(x)).ln()
    };
    let loss_of = |tape: &mut Tape, x, targets: &Buffer, scale| {
        ops::binary_cross_entropy(tape, x, targets, Some(&positive), scale).unwrap()
    };
    assert_eq!(check_target_loss(loss_of, formula, &targets).hits, expected);
    // Far from zero nothing overflows.
    let mut tape = Tape::new(Device::Cpu, DType::F32);
    tape.start_training(1, 1, 0);
    let x = tape.push(Buffer::from_slice(&[-1e4f32, 1e4]), 1, 2);
    let loss = ops::binary_cross_entropy(&mut tape, x, &Buffer::from_slice(&[1.0f32, 1.0]), None, 1.0).unwrap();
    assert_eq!(loss.sum, 5000.0);
    assert_eq!(tape.take_gradient(x).unwrap().slice::<f32>(), [-0.5, 0.0]);
}
