//! All parameters in one flat buffer: a parameter is a name, a shape and an offset.

use crate::Result;
use crate::device::{Buffer, DType, Device};

/// What to do where a model itself does not fit a device.
pub const SMALLER_MODEL: &str = "choose a smaller model (--preset, --layers, --hidden), or a device with more memory";

/// Where a parameter lies in the flat buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its name in a Hugging Face checkpoint.
    pub name: String,
    /// Its shape, one or two sizes.
    pub shape: Vec<usize>,
    /// Index of its first element.
    pub offset: usize,
}

impl Spec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements' place in the flat buffer.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// A row-major matrix in the flat buffer; may span several parameters that lie end to end (query, key and value).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Index of the first element.
    pub offset: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
}

impl Matrix {
    /// The elements' place in the flat buffer.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.rows * self.columns
    }
}

/// A vector in the flat buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector {
    /// Index of the first element.
    pub offset: usize,
    /// Number of elements.
    pub len: usize,
}

impl Vector {
    /// The elements' place in the flat buffer.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// The values and gradients of all parameters, and what lies where.
pub struct Parameters {
    /// The parameters in the order of their offsets; the decayed ones (matrices) come first, and frozen ones last.
    pub specs: Vec<Spec>,
    /// Elements before this index take weight decay; biases and LayerNorm, behind it, do not, nor what is frozen.
    pub decayed: usize,
    /// The weights that operations read.
    pub values: Buffer,
    /// The weights that the optimizer keeps in f32, where `values` are their bf16 copies.
    pub master: Option<Buffer>,
    /// The gradients of the elements that are trained, which come first, in f32 (f64 where the weights are); operations add to them.
    pub gradients: Buffer,
}

impl Parameters {
    /// Zero weights for `specs`, all of which are trained.
    pub fn zeros(specs: Vec<Spec>, decayed: usize, dtype: DType) -> Self {
        let len = specs.last().map_or(0, |spec| spec.range().end);
        let (values, gradients) = (Buffer::zeros(len, dtype), Buffer::zeros(len, dtype));
        Self { specs, decayed, values, master: None, gradients }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Number of elements that are trained: the first of all.
    pub fn trained(&self) -> usize {
        self.gradients.len()
    }

    /// Whether the parameter at `offset` is trained; a frozen one has no place for a gradient.
    pub fn trains(&self, offset: usize) -> bool {
        offset < self.trained()
    }

    /// Moves everything to `device`, with the weights that operations read in `dtype`.
    ///
    /// # Errors
    /// Those of the device, out of memory among them.
    pub fn move_to(&mut self, device: &Device, dtype: DType) -> Result<()> {
        if matches!(device, Device::Cpu) && self.values.is_on_host() && self.values.dtype() == dtype {
            return Ok(());
        }
        let weights =
            self.master.take().unwrap_or_else(|| std::mem::replace(&mut self.values, Buffer::zeros(0, dtype)));
        let kept = if weights.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let copy = |buffer: &Buffer, dtype, what: &str| {
            buffer.copy_to(device, dtype).map_err(|error| error.needed_for(what, SMALLER_MODEL))
        };
        self.values = copy(&weights, dtype, "the model's weights")?;
        self.gradients = copy(&self.gradients, kept, "the gradients")?;
        self.master =
            if dtype == DType::Bf16 { Some(copy(&weights, kept, "the f32 copy of the weights")?) } else { None };
        Ok(())
    }

    /// Bytes of weights and of gradients, where they lie.
    pub fn memory_bytes(&self) -> [usize; 2] {
        let master = self.master.as_ref().map_or(0, Buffer::capacity_bytes);
        [self.values.capacity_bytes() + master, self.gradients.capacity_bytes()]
    }

    /// The weights at their best precision, on the host.
    ///
    /// # Errors
    /// Those of the device.
    pub fn host_values(&self) -> Result<Vec<f32>> {
        self.host_values_over(Vec::new())
    }

    /// As [`Parameters::host_values`], in the memory of `old` where it has the right size.
    ///
    /// # Errors
    /// Those of the device.
    pub fn host_values_over(&self, old: Vec<f32>) -> Result<Vec<f32>> {
        self.master.as_ref().unwrap_or(&self.values).to_f32_over(old)
    }

    /// The parameter called `name`.
    pub fn find(&self, name: &str) -> Option<&Spec> {
        self.specs.iter().find(|spec| spec.name == name)
    }
}
