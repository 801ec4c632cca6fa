//! Packed bidirectional multi-head attention with dropout, one node.

use std::rc::Rc;

use super::attention_hooks::{AttentionHooks, SparseBlocks};
use super::attention_sm90::Hopper;
use super::column_sums::{add_parts, column_sums};
use super::{deliver, for_real, kernel, work};
use crate::Result;
use crate::autograd::{DeviceBatch, Tape, Tensor, Vector};
use crate::device::attention_kernels::{AttentionKernel, PLAN_ROWS};
use crate::device::cpu::attention::{Saved, Shape};
use crate::device::cpu::dropout::{AttentionDropout, AttentionDropoutArgument};
use crate::device::{DType, Launch, cpu};

/// What attention looks at, and with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Qkv {
    /// `[total_tokens, 3 hidden]`: queries, keys and values, each head by head.
    pub values: Tensor,
    /// `[3 hidden]`: a bias in them whose gradient is left to attention. It is the column sums of theirs, which some kernels have in registers
    /// and nobody after them.
    pub bias: Option<Vector>,
}

impl From<Tensor> for Qkv {
    fn from(values: Tensor) -> Self {
        Self { values, bias: None }
    }
}

/// The result is `[total_tokens, hidden]`. Tokens attend to all tokens of their own sequence, or to those that a pattern and a window of `hooks` leave.
/// Scores are scaled with `1 / sqrt(hidden / heads)`; `dropout` is the probability of dropping an attention probability, rounded to
/// a 256th.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) for hooks of another batch or number of heads, and on a GPU for heads that its kernels
/// do not take; those of the device.
pub fn attention(
    tape: &mut Tape,
    batch: &Rc<DeviceBatch>,
    qkv: impl Into<Qkv>,
    heads: usize,
    dropout: f64,
    hooks: &AttentionHooks,
) -> Result<Tensor> {
    let started = tape.start("attention");
    let Qkv { values: qkv, bias } = qkv.into();
    let (rows, hidden) = (qkv.rows, qkv.columns / 3);
    assert!(bias.is_none_or(|bias| bias.len == 3 * hidden), "attention: input and bias differ in size");
    hooks.check(batch, rows, heads)?;
    let call =
        Attention { heads, head_dim: hidden / heads, dropout: tape.attention_dropout(dropout), hooks: hooks.clone() };
    let kernels = tape.device().attention_kernels(tape.dtype(), call.head_dim, hooks.are_some())?;
    let mut output = tape.allocate(rows * hidden)?;
    let mut log_sum_exp = tape.allocate_scratch(rows * heads)?;
    let pairs = hooks.pattern.as_ref().map_or(batch.pairs, |pattern| pattern.pairs().min(batch.pairs));
    let work = work::attention_forward(rows, hidden, heads, pairs, tape.dtype().size());
    tape.count(work);
    let plan = match kernels {
        None => {
            for_real!(tape.dtype(), T => {
                let qkv = tape.value(qkv).slice::<T>();
                cpu::attention::forward(qkv, call.shape(batch), output.slice_mut(), log_sum_exp.slice_mut());
            });
            None
        }
        Some(kernels) => {
            let plan = plan(tape, batch, rows)?;
            let launch = if kernels.family.is_sm90() {
                call.hopper(tape, batch, qkv, plan).forward(&kernels.forward)
            } else {
                let launch = call
                    .launch(&kernels.forward, plan_entries(batch, rows))
                    .read(tape.value(qkv))
                    .read(&batch.cu_seqlens);
                let launch = launch.read(tape.value(plan)).int(heads).int(call.head_dim).value(call.scale() as f32);
                launch.value(AttentionDropoutArgument::of(call.dropout)).value(hooks.by_queries(tape))
            };
            tape.device().launch(&launch.work(work).write(&mut output).write(&mut log_sum_exp))?;
            Some(plan)
        }
    };
    let output = tape.push(output, rows, hidden);
    let log_sum_exp = tape.push(log_sum_exp, rows, heads);

    let batch = Rc::clone(batch);
    tape.record("attention", started, move |tape, parameters| {
        let d_output = tape.take_gradient(output)?;
        let mut d_qkv = tape.allocate(rows * 3 * hidden)?;
        let whole = kernels.and_then(|kernels| kernels.whole(batch.longest));
        // That kernel leaves a row of sums for each sequence.
        let sequences = batch.cu_seqlens.len() - 1;
        let mut bias_sums = match (whole, bias) {
            (Some(_), Some(bias)) => Some(tape.allocate_scratch(sequences * bias.len)?),
            _ => None,
        };
        tape.count(work::attention_backward(rows, hidden, heads, pairs, tape.dtype().size()));
        match kernels.zip(plan) {
            None => for_real!(tape.dtype(), T => {
                let saved = Saved {
                    qkv: tape.value(qkv).slice::<T>(),
                    output: tape.value(output).slice(),
                    log_sum_exp: tape.value(log_sum_exp).slice(),
                };
                cpu::attention::backward(saved, d_output.slice(), call.shape(&batch), d_qkv.slice_mut());
            }),
            Some((kernels, plan)) => {
                let mut terms = tape.allocate_scratch(2 * rows * heads)?;
                // Eight threads a row and head.
                let blocks = (rows * heads).div_ceil(256 / 8).max(1);
                let launch = Launch::new(kernel("attention_row_terms", tape.dtype()), blocks, 256);
                let launch = launch.read(tape.value(output)).read(&d_output).read(tape.value(log_sum_exp));
                let element = tape.dtype().size();
                let launch = launch.work(work::attention_row_terms(rows, hidden, heads, element));
                tape.device().launch(&launch.int(rows).int(heads).int(call.head_dim).write(&mut terms))?;
                let cost = |products| work::attention_gradients(rows, hidden, heads, pairs, products, element);
                if kernels.family.is_sm90() {
                    let hopper = call.hopper(tape, &batch, qkv, plan);
                    let launches = match whole {
                        Some(kernel) => {
                            let launch = hopper.backward_whole(kernel, &d_output, &terms).work(cost(5));
                            let launch = launch.write(&mut d_qkv);
                            vec![match &mut bias_sums {
                                Some(sums) => launch.write(sums),
                                None => launch.null(),
                            }]
                        }
                        None => vec![
                            hopper
                                .backward_queries(&kernels.backward_queries, &d_output, &terms)
                                .work(cost(3))
                                .write(&mut d_qkv),
                            hopper
                                .backward_keys(&kernels.backward_keys, &d_output, &terms)
                                .work(cost(4))
                                .write(&mut d_qkv),
                        ],
                    };
                    for launch in launches {
                        tape.device().launch(&launch)?;
                    }
                } else {
                    let sides = [
                        (&kernels.backward_queries, call.hooks.by_queries(tape), cost(3)),
                        (&kernels.backward_keys, call.hooks.by_keys(tape), cost(4)),
                    ];
                    for (kernel, hooks, work) in sides {
                        let launch = call
                            .launch(kernel, plan_entries(&batch, rows))
                            .read(tape.value(qkv))
                            .read(&d_output)
                            .read(&terms);
                        let launch =
                            launch.read(&batch.cu_seqlens).read(tape.value(plan)).int(heads).int(call.head_dim);
                        let launch = launch.int(rows).value(call.scale() as f32);
                        let launch = launch.value(AttentionDropoutArgument::of(call.dropout)).value(hooks);
                        tape.device().launch(&launch.work(work).write(&mut d_qkv))?;
                    }
                }
                tape.recycle(terms);
            }
        }
        match (bias, bias_sums) {
            (Some(bias), Some(sums)) => {
                add_parts(tape.device(), &sums, sequences, &mut parameters.gradients, bias)?;
                tape.recycle(sums);
            }
            (Some(bias), None) => column_sums(tape, parameters, &d_qkv, [rows, 3 * hidden], bias)?,
            (None, _) => {}
        }
        deliver(tape, qkv, d_qkv)?;
        tape.recycle(d_output);
        Ok(())
    });
    Ok(output)
}

/// The constants of one call.
struct Attention {
    heads: usize,
    head_dim: usize,
    dropout: Option<AttentionDropout>,
    hooks: AttentionHooks,
}

impl Attention {
    fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    fn shape<'a>(&'a self, batch: &'a DeviceBatch) -> Shape<'a> {
        Shape {
            cu_seqlens: batch.cu_seqlens.slice(),
            heads: self.heads,
            head_dim: self.head_dim,
            scale: self.scale(),
            dropout: self.dropout,
            slopes: self.hooks.bias.as_deref().map(|bias| bias.slopes()),
            blocks: self.hooks.pattern.as_deref().and_then(SparseBlocks::lists),
            window: self.hooks.window,
        }
    }

    /// What the kernels for Hopper take.
    fn hopper<'a>(&self, tape: &'a Tape, batch: &'a DeviceBatch, qkv: Tensor, plan: Tensor) -> Hopper<'a> {
        Hopper {
            qkv: tape.value(qkv),
            cu_seqlens: &batch.cu_seqlens,
            plan: tape.value(plan),
            entries: plan_entries(batch, qkv.rows),
            rows: qkv.rows,
            heads: self.heads,
            head_dim: self.head_dim,
            scale: self.scale() as f32,
            dropout: AttentionDropoutArgument::of(self.dropout),
            multiprocessors: tape.device().multiprocessors(),
        }
    }

    /// Blocks that own fewer rows than a plan entry has share it.
    fn launch(&self, kernel: &AttentionKernel, entries: usize) -> Launch {
        let blocks = entries * (PLAN_ROWS / kernel.rows);
        Launch::new(kernel.name, blocks * self.heads, kernel.threads).shared(kernel.shared_bytes)
    }
}

/// Entries of the plan: a sequence contributes at most one that is not full.
fn plan_entries(batch: &DeviceBatch, rows: usize) -> usize {
    rows / PLAN_ROWS + batch.cu_seqlens.len() - 1
}

/// The blocks of rows of all sequences, the longest first, three numbers each, and behind them the sequences in the same order; made once for
/// all layers of a pass.
fn plan(tape: &mut Tape, batch: &Rc<DeviceBatch>, rows: usize) -> Result<Tensor> {
    tape.once_a_batch("attention plan", batch, |tape| {
        let (sequences, entries) = (batch.cu_seqlens.len() - 1, plan_entries(batch, rows));
        let length = 3 * entries + sequences;
        let mut plan = tape.allocate_as(length, DType::I32)?;
        let launch = Launch::new("attention_plan", 1, 256).work(work::attention_plan(sequences, entries));
        let launch = launch.read(&batch.cu_seqlens).int(sequences);
        tape.device().launch(&launch.int(entries).write(&mut plan))?;
        Ok(tape.push(plan, 1, length))
    })
}
