//! AdamW over the flat buffers: one norm, one pass.

use serde::{Deserialize, Serialize};

use crate::autograd::{Parameters, Pass, SMALLER_MODEL, Tape};
use crate::device::cpu::adamw::{Update, UpdateArgument, update};
use crate::device::cpu::norm::sum_of_squares;
use crate::device::{Buffer, DType, Device, Launch, nvtx};
use crate::ops::{for_real, work};
use crate::philox::{Philox, Purpose};
use crate::{Error, Result};

/// The constants of AdamW. The default is DNABERT's pretraining.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay of matrices; biases and LayerNorm take none.
    pub weight_decay: f64,
    /// The global norm that gradients are scaled down to; 0 for no clipping.
    pub max_gradient_norm: f64,
    /// Whether bf16 weights have no f32 copy, and are rounded up or down at random instead, right on average.
    #[serde(default)]
    pub stochastic_rounding: bool,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-6,
            weight_decay: 0.01,
            max_gradient_norm: 1.0,
            stochastic_rounding: false,
        }
    }
}

/// The optimizer: its moments and the number of updates so far.
pub struct AdamW {
    /// Its constants.
    pub config: AdamWConfig,
    /// First moments, of the parameters that are trained.
    pub first: Buffer,
    /// Second moments, of the same.
    pub second: Buffer,
    /// Updates made.
    pub steps: u64,
    /// What stochastic rounding draws from, besides their number.
    pub seed: u64,
    /// The global gradient norm of the last update before clipping, and on devices with kernels the clipping factor. Here as
    /// the host knows it, ...
    norm: f64,
    /// ... or where a device left it, `[2]`.
    clip: Option<Buffer>,
}

impl AdamW {
    /// An optimizer with zero moments, on `device` as the parameters are.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(config: AdamWConfig, parameters: &Parameters, device: &Device) -> Result<Self> {
        let zeros = || {
            let mut moment = Buffer::on(device, parameters.trained(), parameters.gradients.dtype())
                .map_err(|error| error.needed_for("the optimizer's moments", SMALLER_MODEL))?;
            moment.fill_zero()?;
            Ok(moment)
        };
        let clip = match device {
            Device::Cpu => None,
            Device::Kernels(_) => Some(Buffer::upload(device, &[0f32; 2])?),
        };
        Ok(Self { config, first: zeros()?, second: zeros()?, steps: 0, seed: 0, norm: 0.0, clip })
    }

    /// Clips the gradients by their global norm, updates the weights and sets the gradients to zero. On devices with kernels
    /// it waits for nothing: [`AdamW::norm`] does.
    ///
    /// # Errors
    /// [`Error::Failed`] if the norm is known here not to be finite; the weights are as before then. A device leaves them
    /// as they are, too, and the gradients: the next norm is no better, until somebody asks for it.
    pub fn update(&mut self, tape: &mut Tape, parameters: &mut Parameters, learning_rate: f64) -> Result<()> {
        let _pass = nvtx::range(|| Pass::Update.name().into());
        let started = tape.start("gradient_norm");
        self.measure(tape, parameters)?;
        tape.clock("gradient_norm", Pass::Update, started);
        if self.clip.is_none() {
            self.check(self.norm, self.steps + 1)?;
        }

        let started = tape.start("adamw");
        let limit = self.config.max_gradient_norm;
        // PyTorch's clip_grad_norm_: the small constant keeps the factor finite. Kernels read their own from `clip`.
        let gradient_scale = if limit > 0.0 { (limit / (self.norm + 1e-6)).min(1.0) } else { 1.0 };
        self.steps += 1;
        let constants = Update {
            learning_rate,
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            eps: self.config.eps,
            weight_decay: self.config.weight_decay,
            step: self.steps,
            gradient_scale,
            decayed: parameters.decayed,
        };
        let [weight, gradient] = [&parameters.values, &parameters.gradients].map(|buffer| buffer.dtype().size());
        let work = work::adamw(parameters.trained(), weight, gradient, parameters.master.is_some());
        tape.count(work);
        match tape.device() {
            Device::Cpu => for_real!(parameters.values.dtype(), T => {
                let trained = parameters.trained();
                let weights = &mut parameters.values.slice_mut::<T>()[..trained];
                let gradients = parameters.gradients.slice_mut();
                update(weights, gradients, self.first.slice_mut(), self.second.slice_mut(), &constants);
            }),
            device => {
                let count = parameters.trained();
                let blocks = count.div_ceil(1024);
                let rounded = parameters.master.is_none() && parameters.values.dtype() == DType::Bf16;
                let launch = match &mut parameters.master {
                    Some(master) => {
                        Launch::new("adamw_update_bf16_f32", blocks, 256).write(&mut parameters.values).write(master)
                    }
                    None => {
                        let kernel = if rounded { "adamw_update_stochastic_bf16_f32" } else { "adamw_update_f32" };
                        Launch::new(kernel, blocks, 256).write(&mut parameters.values)
                    }
                };
                let launch = launch.write(&mut parameters.gradients).write(&mut self.first).write(&mut self.second);
                let Some(clip) = &self.clip else { panic!("an optimizer of another device than the tape's") };
                let launch = launch.long(count).long(parameters.decayed).read_at(clip, 1);
                let mut launch = launch.work(work).value(UpdateArgument::of(&constants));
                if rounded {
                    let Philox { key: [low, high], step, stream } =
                        Philox::of(self.seed, self.steps as u32, Purpose::Rounding);
                    launch = launch.value([low, high, step, stream]);
                }
                device.launch(&launch)?;
            }
        }
        tape.clock("adamw", Pass::Update, started);
        Ok(())
    }

    /// The global gradient norm of the last update, before clipping. Waits for it.
    ///
    /// # Errors
    /// [`Error::Failed`] if it is not a finite number: since then nothing was updated.
    pub fn norm(&self) -> Result<f64> {
        let norm = match &self.clip {
            None => self.norm,
            Some(clip) => f64::from(clip.read::<f32>()?[0]),
        };
        self.check(norm, self.steps)?;
        Ok(norm)
    }

    fn check(&self, norm: f64, update: u64) -> Result<()> {
        if norm.is_finite() {
            return Ok(());
        }
        Err(Error::Failed(format!(
            "the gradient norm is {norm} in update {update}: training has diverged; lower the learning rate, or lengthen the warm-up"
        )))
    }

    /// Bytes of both moments.
    pub fn memory_bytes(&self) -> usize {
        self.first.capacity_bytes() + self.second.capacity_bytes()
    }

    /// Computes the norm, and on devices with kernels the clipping factor.
    fn measure(&mut self, tape: &mut Tape, parameters: &Parameters) -> Result<()> {
        // A fixed number of parts, so that the sum has the same bits on any chip.
        let parts = parameters.trained().div_ceil(2048).clamp(1, 1056);
        let mut partials = tape.allocate_as(parts, DType::F64)?;
        let work = work::norm(parameters.trained(), parameters.gradients.dtype().size());
        tape.count(work);
        match tape.device() {
            Device::Cpu => {
                let gradients = &parameters.gradients;
                self.norm = for_real!(gradients.dtype(), T => sum_of_squares::<T>(gradients.slice())).sqrt();
            }
            device => {
                let launch =
                    Launch::new("norm_partial_f32", parts, 256).read(&parameters.gradients).long(parameters.trained());
                device.launch(&launch.work(work).write(&mut partials))?;
                let limit = self.config.max_gradient_norm as f32;
                let launch = Launch::new("norm_finish", 1, 256).work(work::norm_finish(parts)).read(&partials);
                let launch = launch.int(parts).value(limit);
                let Some(clip) = &mut self.clip else { panic!("an optimizer of another device than the tape's") };
                device.launch(&launch.write(clip))?;
            }
        }
        tape.recycle(partials);
        Ok(())
    }
}
