//! The tape itself.
//!
//! Micrograd's idea at tensor size: an operation computes its output, hands it to the tape, and records a closure that
//! knows its inputs and what it saved. [`Tape::backward`] runs the closures in reverse. A node's output gradient is
//! complete when its turn comes, because every user of the output was recorded later.
//!
//! Buffers come from a pool. The sizes of one step repeat in the next, so later steps allocate nothing.

mod recompute;

use std::any::Any;
use std::rc::{Rc, Weak};
use std::time::Instant;

use super::{Call, Parameters, Pass, Profile};
use crate::device::cpu::dropout::{AttentionDropout, Dropout};
use crate::device::{Buffer, DType, Device, Work, nvtx};
use crate::kmer::batch::Batch;
use crate::philox::{Philox, Purpose};
use crate::{Error, Result};

/// A matrix of activations on a tape, `[rows, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    id: usize,
    /// Rows: tokens, or the rows that a head reads.
    pub rows: usize,
    /// Columns: hidden size, classes.
    pub columns: usize,
    /// Elements from row to row in memory: the columns, except in logits on devices with kernels, whose rows are aligned.
    pub stride: usize,
}

/// A batch in device memory.
pub struct DeviceBatch {
    /// Token ids, `[total_tokens]`.
    pub tokens: Buffer,
    /// Positions inside their sequence, `[total_tokens]`.
    pub positions: Buffer,
    /// Token types, `[total_tokens]`.
    pub token_types: Buffer,
    /// Starts of the sequences and the end of the last, `[sequences + 1]`.
    pub cu_seqlens: Buffer,
    /// The same on the host, for what is decided there.
    pub host_cu_seqlens: Vec<i32>,
    /// Rows that the head reads, `[rows]`.
    pub rows: Buffer,
    /// Their labels, `[rows]`; empty when only predicting.
    pub labels: Buffer,
    /// Tokens of the longest sequence.
    pub longest: usize,
    /// Pairs of tokens that attend to each other: the sum of the squared lengths.
    pub pairs: u64,
}

impl DeviceBatch {
    /// Copies a batch to the device.
    ///
    /// # Errors
    /// Those of the device.
    pub fn upload(device: &Device, batch: &Batch) -> Result<Rc<Self>> {
        Self::fill(batch, |length| Buffer::on(device, length, DType::I32))
    }

    /// As [`DeviceBatch::upload`], into memory of the tape's pool; [`Tape::recycle_batch`] gives it back.
    ///
    /// # Errors
    /// Those of the device.
    pub fn upload_pooled(tape: &mut Tape, batch: &Batch) -> Result<Rc<Self>> {
        Self::fill(batch, |length| tape.allocate_as(length, DType::I32))
    }

    fn fill(batch: &Batch, mut allocate: impl FnMut(usize) -> Result<Buffer>) -> Result<Rc<Self>> {
        let mut upload = |values: &[i32]| {
            let mut buffer = allocate(values.len())?;
            buffer.write(values)?;
            Ok(buffer)
        };
        Ok(Rc::new(Self {
            tokens: upload(&batch.tokens)?,
            positions: upload(&batch.positions)?,
            token_types: upload(&batch.token_types)?,
            cu_seqlens: upload(&batch.cu_seqlens)?,
            host_cu_seqlens: batch.cu_seqlens.clone(),
            rows: upload(&batch.rows)?,
            labels: upload(&batch.labels)?,
            longest: batch.max_length(),
            pairs: batch.pairs(),
        }))
    }
}

type Backward = Box<dyn FnOnce(&mut Tape, &mut Parameters) -> Result<()>>;

struct Node {
    /// Nothing for a stretch of operations, each of which has its clock.
    op: Option<&'static str>,
    layer: Option<usize>,
    backward: Backward,
}

/// The record of one forward pass, and the memory it lives in.
pub struct Tape {
    device: Device,
    dtype: DType,
    values: Vec<Option<Buffer>>,
    gradients: Vec<Option<Buffer>>,
    nodes: Vec<Node>,
    pool: Vec<Buffer>,
    /// Not in the pool, where something smaller that stays could take it: [`Tape::lay_aside`].
    aside: Option<Buffer>,
    /// Made by [`Tape::once_a_batch`], or of no batch and kept by [`Tape::keep`]. A weak pointer keeps no batch from being recycled, but keeps its address from another.
    shared: Vec<(&'static str, Weak<DeviceBatch>, Tensor)>,
    /// Made by [`Tape::once`].
    constant: Vec<Rc<dyn Any>>,
    recording: bool,
    /// Tensors below this number are what [`Tape::unrecorded`] has made: nothing that is trained went into them.
    constants: usize,
    randomness: Option<Randomness>,
    dropout_sites: u32,
    /// The encoder layer that operations now belong to.
    layer: Option<usize>,
    /// What the running operation has stated about itself.
    work: Work,
    /// Whether a profiler's range is open for it.
    in_range: bool,
    /// Passes begun.
    passes: u64,
    /// The operation that ran last, or is running on the way back.
    place: (&'static str, Pass),
    profile: Option<Profile>,
    /// Asked whenever memory is asked for and before each operation on the way back: whether to give the pass up.
    stop: Option<Box<dyn Fn() -> bool>>,
}

/// What dropout draws from in one micro-batch.
#[derive(Clone, Copy, Debug)]
struct Randomness {
    seed: u64,
    step: u32,
    micro_batch: u32,
}

impl AsMut<Self> for Tape {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

impl Tape {
    /// An empty tape on `device` with activations of type `dtype`. It neither records nor drops out until
    /// [`Tape::start_training`].
    pub fn new(device: Device, dtype: DType) -> Self {
        Self {
            device,
            dtype,
            values: Vec::new(),
            gradients: Vec::new(),
            nodes: Vec::new(),
            pool: Vec::new(),
            aside: None,
            shared: Vec::new(),
            constant: Vec::new(),
            recording: false,
            constants: 0,
            randomness: None,
            dropout_sites: 0,
            layer: None,
            work: Work::default(),
            in_range: false,
            passes: 0,
            place: ("", Pass::Forward),
            profile: None,
            stop: None,
        }
    }

    /// From now on asks whenever an operation wants memory, and before each on the way back, whether to go on; where it says so, the operation returns [`Error::Interrupted`]. The
    /// gradients of such a pass are incomplete, and of no use.
    pub fn stop_when(&mut self, stop: Option<Box<dyn Fn() -> bool>>) {
        self.stop = stop;
    }

    fn check_stop(&self) -> Result<()> {
        match &self.stop {
            Some(stop) if stop() => Err(Error::Interrupted(" inside a step".into())),
            _ => Ok(()),
        }
    }

    /// Forgets the last pass, keeps its memory, and from now on records nodes and applies dropout. Dropout draws from
    /// (seed, step, micro-batch, number of the dropout in the pass).
    pub fn start_training(&mut self, seed: u64, step: u32, micro_batch: u32) {
        self.reset();
        self.recording = true;
        self.randomness = Some(Randomness { seed, step, micro_batch });
    }

    /// Whether this pass is one of training: dropout works.
    pub fn is_training(&self) -> bool {
        self.randomness.is_some()
    }

    /// Forgets the last pass and keeps its memory; from now on neither records nor drops out.
    pub fn start_inference(&mut self) {
        self.reset();
        self.recording = false;
        self.randomness = None;
    }

    fn reset(&mut self) {
        self.passes += 1;
        self.nodes.clear();
        self.constants = 0;
        self.shared.clear();
        self.dropout_sites = 0;
        self.enter_layer(None);
        self.place = ("", Pass::Forward);
        let used = self.values.drain(..).chain(self.gradients.drain(..)).flatten();
        self.pool.extend(used);
    }

    /// Where this tape computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type of its activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The next dropout of this pass; `None` when predicting or when `p` is 0.
    pub fn dropout(&mut self, p: f64) -> Option<Dropout> {
        Dropout::new(p, self.dropout_stream()?)
    }

    /// As [`Tape::dropout`], of attention probabilities.
    pub fn attention_dropout(&mut self, p: f64) -> Option<AttentionDropout> {
        AttentionDropout::new(p, self.dropout_stream()?)
    }

    fn dropout_stream(&mut self) -> Option<Philox> {
        let Randomness { seed, step, micro_batch } = self.randomness?;
        let site = self.dropout_sites;
        self.dropout_sites += 1;
        Some(Philox::new(seed, step, (Purpose::Dropout as u32 + site) | micro_batch << 16))
    }

    /// A buffer of `len` activations with unspecified contents (NaN in debug builds).
    ///
    /// # Errors
    /// Out of memory.
    pub fn allocate(&mut self, len: usize) -> Result<Buffer> {
        self.allocate_as(len, self.dtype)
    }

    /// As [`Tape::allocate`], of another type.
    ///
    /// # Errors
    /// Out of memory.
    pub fn allocate_as(&mut self, len: usize, dtype: DType) -> Result<Buffer> {
        self.check_stop()?;
        let bytes = len * dtype.size();
        // Best fit, the lowest address of equals, in whatever order they came back: so a step finds the memory that the one before
        // used for the same, and its launches are the same ones again.
        let fitting = self.pool.iter().enumerate().filter(|(_, buffer)| buffer.capacity_bytes() >= bytes);
        let best = fitting.min_by_key(|(_, buffer)| (buffer.capacity_bytes(), buffer.place()));
        let mut buffer = match best {
            // A far larger buffer is left for what needs it.
            Some((index, found)) if found.capacity_bytes() <= 2 * bytes + 4096 => self.pool.swap_remove(index),
            _ => self.allocate_new(len, dtype)?,
        };
        buffer.reshape(len, dtype);
        if cfg!(debug_assertions) {
            buffer.poison()?;
        }
        Ok(buffer)
    }

    /// Memory of the device. After the first pass only sizes that vary, as the number of masked tokens does, come here: they
    /// get a quarter to spare, and soon none comes any more. Where no memory is left, what the pool keeps is given up for it.
    fn allocate_new(&mut self, len: usize, dtype: DType) -> Result<Buffer> {
        let room = if self.passes > 1 { len + len / 4 } else { len };
        let buffer = match Buffer::on(&self.device, room, dtype) {
            Err(Error::OutOfMemory(_)) if !self.pool.is_empty() => {
                self.pool.clear();
                Buffer::on(&self.device, len, dtype)
            }
            other => other,
        };
        buffer.map_err(|error| {
            let purpose = match self.place {
                (op, Pass::Backward) => format!("the way back through {op}"),
                ("", _) => "the first operation".into(),
                (op, _) => format!("the operation after {op}"),
            };
            error.needed_for(
                purpose,
                "give --recompute gelu or layer, raise --micro-batches, or lower --tokens-per-step or --batch",
            )
        })
    }

    /// A buffer for statistics and partial sums: f32, or f64 where the activations are.
    ///
    /// # Errors
    /// Out of memory.
    pub fn allocate_scratch(&mut self, len: usize) -> Result<Buffer> {
        self.allocate_as(len, if self.dtype == DType::F64 { DType::F64 } else { DType::F32 })
    }

    /// Gives a buffer back to the pool.
    pub fn recycle(&mut self, buffer: Buffer) {
        self.pool.push(buffer);
    }

    /// Lays a buffer aside for [`Tape::allocate_aside`]: one layer after the other has the same use for it, and what is kept in between,
    /// such as queries, keys and values, must not take it from the pool.
    pub fn lay_aside(&mut self, buffer: Buffer) {
        self.pool.extend(self.aside.replace(buffer));
    }

    /// As [`Tape::allocate`], the buffer that was laid aside where it has this length.
    ///
    /// # Errors
    /// Out of memory.
    pub fn allocate_aside(&mut self, len: usize) -> Result<Buffer> {
        match self.aside.take_if(|buffer| buffer.len() == len) {
            Some(buffer) => Ok(buffer),
            None => self.allocate(len),
        }
    }

    /// Gives a batch's memory back to the pool, unless a recorded operation still needs it.
    pub fn recycle_batch(&mut self, batch: Rc<DeviceBatch>) {
        if let Some(batch) = Rc::into_inner(batch) {
            let DeviceBatch { tokens, positions, token_types, cu_seqlens, rows, labels, .. } = batch;
            self.pool.extend([tokens, positions, token_types, cu_seqlens, rows, labels]);
        }
    }

    /// Puts an operation's output on the tape.
    pub fn push(&mut self, buffer: Buffer, rows: usize, columns: usize) -> Tensor {
        self.push_strided(buffer, rows, columns, columns)
    }

    /// As [`Tape::push`], with rows `stride` elements apart; the elements between them are unspecified.
    pub fn push_strided(&mut self, buffer: Buffer, rows: usize, columns: usize, stride: usize) -> Tensor {
        assert_eq!(buffer.len(), rows * stride, "an output has another size than its shape");
        assert!(columns <= stride, "rows of an output overlap");
        self.values.push(Some(buffer));
        self.gradients.push(None);
        Tensor { id: self.values.len() - 1, rows, columns, stride }
    }

    /// What all operations of a kind share in one pass over a batch: `make` makes it when the first one asks for `what`.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn once_a_batch(
        &mut self,
        what: &'static str,
        batch: &Rc<DeviceBatch>,
        make: impl FnOnce(&mut Self) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let known = self.shared.iter().find(|(name, of, _)| *name == what && of.as_ptr() == Rc::as_ptr(batch));
        if let Some(&(_, _, tensor)) = known {
            return Ok(tensor);
        }
        let tensor = make(self)?;
        self.shared.push((what, Rc::downgrade(batch), tensor));
        Ok(tensor)
    }

    /// Keeps a tensor's memory to the end of the pass, whatever [`Tape::keep_only`] names.
    pub fn keep(&mut self, tensor: Tensor) {
        self.shared.push(("", Weak::new(), tensor));
    }

    /// What `make` makes on this tape's device, once for all passes: the first of its type that `fits`.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn once<T: 'static>(
        &mut self,
        fits: impl Fn(&T) -> bool,
        make: impl FnOnce(&Device) -> Result<T>,
    ) -> Result<Rc<T>> {
        let mut known = self.constant.iter().filter_map(|known| Rc::clone(known).downcast::<T>().ok());
        if let Some(known) = known.find(|known| fits(known)) {
            return Ok(known);
        }
        let made = Rc::new(make(&self.device)?);
        self.constant.push(Rc::clone(&made) as Rc<dyn Any>);
        Ok(made)
    }

    /// Runs the beginning of a pass, where `frozen`, without recording a way back: nothing in it is trained. Dropout works as elsewhere. What
    /// it makes gets no gradient, and only its output keeps its memory.
    ///
    /// # Errors
    /// Those of `forward`.
    pub fn unrecorded(&mut self, frozen: bool, forward: impl FnOnce(&mut Self) -> Result<Tensor>) -> Result<Tensor> {
        if !frozen || !self.recording {
            return forward(self);
        }
        debug_assert!(self.nodes.is_empty(), "what is trained went into what is frozen");
        self.recording = false;
        let output = forward(self);
        if let Ok(output) = output {
            self.keep_only(&[output]);
        }
        self.recording = true;
        self.constants = self.values.len();
        output
    }

    /// Whether a gradient of `tensor` is of use to anybody.
    pub fn wants_gradient(&self, tensor: Tensor) -> bool {
        tensor.id >= self.constants
    }

    /// Gives the memory of all other tensors, but those of [`Tape::once_a_batch`] and [`Tape::keep`], back to the pool, unless the pass is recorded
    /// and they will be needed on the way back: predicting takes the memory of one layer, not of all.
    pub fn keep_only(&mut self, tensors: &[Tensor]) {
        if self.recording {
            return;
        }
        for (id, value) in self.values.iter_mut().enumerate() {
            let mut kept = tensors.iter().chain(self.shared.iter().map(|(_, _, tensor)| tensor));
            if !kept.any(|tensor| tensor.id == id) {
                self.pool.extend(value.take());
            }
        }
    }

    /// The value of a tensor.
    ///
    /// # Panics
    /// If an operation has consumed it.
    pub fn value(&self, tensor: Tensor) -> &Buffer {
        self.values[tensor.id].as_ref().expect("a consumed tensor was read")
    }

    /// The value of a tensor as doubles on the host, `[rows, columns]` without what may lie between the rows.
    ///
    /// # Errors
    /// Those of the device.
    pub fn to_f64(&self, tensor: Tensor) -> Result<Vec<f64>> {
        let mut values = self.value(tensor).to_f64()?;
        if tensor.stride > tensor.columns {
            let mut at = 0..;
            values.retain(|_| at.next().is_some_and(|at: usize| at % tensor.stride < tensor.columns));
        }
        Ok(values)
    }

    /// Takes a tensor's value away, for an operation that works in place; nobody may read the tensor afterwards.
    ///
    /// # Panics
    /// If an operation has consumed it.
    pub fn take_value(&mut self, tensor: Tensor) -> Buffer {
        self.values[tensor.id].take().expect("a consumed tensor was consumed again")
    }

    /// Gives a tensor back what was taken away, or what has been computed again.
    ///
    /// # Panics
    /// If it has a value, or one of another size.
    pub fn put_value(&mut self, tensor: Tensor, value: Buffer) {
        assert_eq!(value.len(), tensor.rows * tensor.stride, "a value has another size than its tensor");
        assert!(self.values[tensor.id].replace(value).is_none(), "a tensor was given a second value");
    }

    /// Records how to go back through an operation that started at `started`.
    pub fn record(
        &mut self,
        op: &'static str,
        started: Instant,
        backward: impl FnOnce(&mut Self, &mut Parameters) -> Result<()> + 'static,
    ) {
        self.clock(op, Pass::Forward, started);
        self.place = (op, Pass::Forward);
        if self.recording {
            self.nodes.push(Node { op: Some(op), layer: self.layer, backward: Box::new(backward) });
        }
    }

    /// The gradient of an operation's output, complete and taken away.
    ///
    /// # Errors
    /// [`Error::Failed`] if nothing that depends on the tensor led to the loss.
    pub fn take_gradient(&mut self, tensor: Tensor) -> Result<Buffer> {
        self.gradients[tensor.id]
            .take()
            .ok_or_else(|| Error::Failed("a recorded operation does not contribute to the loss".into()))
    }

    /// The place for a gradient of an operation's input: the buffer, and whether it already holds a part of the
    /// gradient that has to be added to (otherwise its contents are unspecified and to be overwritten).
    /// Give it back with [`Tape::put_gradient`].
    ///
    /// # Errors
    /// Out of memory.
    pub fn gradient_slot(&mut self, tensor: Tensor) -> Result<(Buffer, bool)> {
        Ok(match self.gradients[tensor.id].take() {
            Some(buffer) => (buffer, true),
            None => (self.allocate(tensor.rows * tensor.stride)?, false),
        })
    }

    /// Sets the gradient of an operation's input.
    pub fn put_gradient(&mut self, tensor: Tensor, gradient: Buffer) {
        assert_eq!(gradient.len(), tensor.rows * tensor.stride, "a gradient has another size than its tensor");
        self.gradients[tensor.id] = Some(gradient);
    }

    /// Whether some gradient of `tensor` is already known.
    pub fn has_gradient(&self, tensor: Tensor) -> bool {
        self.gradients[tensor.id].is_some()
    }

    /// Runs the recorded nodes in reverse: adds to the gradients of `parameters`. The last operation (the loss) has
    /// put the gradient of its input already.
    ///
    /// # Errors
    /// Whatever a backward rule returns.
    pub fn backward(&mut self, parameters: &mut Parameters) -> Result<()> {
        let _pass = nvtx::range(|| Pass::Backward.name().into());
        self.back_to(0, parameters)?;
        self.enter_layer(None);
        Ok(())
    }

    /// Goes back until only the first `nodes` nodes are left.
    fn back_to(&mut self, nodes: usize, parameters: &mut Parameters) -> Result<()> {
        while self.nodes.len() > nodes {
            self.check_stop()?;
            let Some(Node { op, layer, backward }) = self.nodes.pop() else { break };
            self.enter_layer(layer);
            let Some(op) = op else {
                backward(self, parameters)?;
                continue;
            };
            let started = self.start(op);
            self.place = (op, Pass::Backward);
            backward(self, parameters)?;
            self.clock(op, Pass::Backward, started);
        }
        Ok(())
    }

    /// The operations that follow belong to this encoder layer, from 0, or to none: profiles tell them apart.
    pub fn enter_layer(&mut self, layer: Option<usize>) {
        if layer == self.layer {
            return;
        }
        if self.layer.is_some() {
            nvtx::pop();
        }
        if let Some(layer) = layer.filter(|_| nvtx::is_active()) {
            nvtx::push(&format!("layer {layer}"));
        }
        self.layer = layer;
    }

    /// Starts the clock of an operation, and its range in a profiler.
    pub fn start(&mut self, op: &'static str) -> Instant {
        if nvtx::is_active() {
            nvtx::push(op);
            self.in_range = true;
        }
        Instant::now()
    }

    /// States what the running operation costs at the least; `ops/work.rs` knows. Several statements add up.
    pub fn count(&mut self, work: Work) {
        self.work += work;
    }

    /// From now on measures every operation.
    pub fn start_profile(&mut self) {
        self.profile = Some(Profile::default());
    }

    /// What has been measured since [`Tape::start_profile`]; measuring ends.
    pub fn take_profile(&mut self) -> Option<Profile> {
        self.profile.take()
    }

    /// Counts work on `op` that started at `started`, if a profile is being taken.
    pub fn clock(&mut self, op: &'static str, pass: Pass, started: Instant) {
        let work = std::mem::take(&mut self.work);
        if std::mem::take(&mut self.in_range) {
            nvtx::pop();
        }
        if let Some(profile) = &mut self.profile {
            profile.calls.push(Call { op, pass, layer: self.layer, started, time: started.elapsed(), work });
        }
    }

    /// Bytes in all buffers of the tape, in use or pooled.
    pub fn memory_bytes(&self) -> usize {
        let used = self.values.iter().chain(&self.gradients).flatten();
        used.chain(&self.pool).chain(&self.aside).map(Buffer::capacity_bytes).sum()
    }
}
