//! Bias and GELU as kernels of their own: where they are no epilogue of the product before them.

use super::{column_sums, deliver, for_real, kernel, work};
use crate::Result;
use crate::autograd::{Parameters, Tape, Tensor, Vector};
use crate::device::{Buffer, DType, Device, Launch, cpu};

pub use crate::device::cpu::gelu::Gelu;

/// `gelu(x + bias)` where something stands between `x` and the product before it, or where there is no bias; `x` is `[rows, bias.len]`, and so is
/// the result.
///
/// # Errors
/// Those of the device.
pub fn gelu(tape: &mut Tape, parameters: &Parameters, x: Tensor, bias: Option<Vector>, gelu: Gelu) -> Result<Tensor> {
    let started = tape.start("gelu");
    let mut y = tape.allocate(x.rows * x.columns)?;
    let kept = tape.take_value(x);
    bias_gelu_forward(tape, parameters, (&kept, x.columns), bias, gelu, &mut y)?;
    tape.put_value(x, kept);
    let y = tape.push(y, x.rows, x.columns);

    tape.record("gelu", started, move |tape, parameters| {
        let mut dx = tape.take_gradient(y)?;
        bias_gelu_backward(tape, parameters, x, bias, gelu, &mut dx)?;
        deliver(tape, x, dx)
    });
    Ok(y)
}

/// `y = gelu(x + bias)`, both of rows of so many elements.
///
/// # Errors
/// None on the CPU.
pub fn bias_gelu_forward(
    tape: &mut Tape,
    parameters: &Parameters,
    (x, columns): (&Buffer, usize),
    bias: Option<Vector>,
    gelu: Gelu,
    y: &mut Buffer,
) -> Result<()> {
    tape.count(work::bias_gelu_forward(y.len(), tape.dtype().size()));
    if let Device::Cpu = tape.device() {
        for_real!(tape.dtype(), T => {
            let zeros = vec![0.0; if bias.is_none() { columns } else { 0 }];
            let bias = bias.map_or(&zeros[..], |bias| &parameters.values.slice::<T>()[bias.range()]);
            cpu::gelu::forward(gelu, x.slice(), bias, y.slice_mut());
        });
        return Ok(());
    }
    let shape = [y.len() / columns.max(1), columns];
    let shift = address(parameters, bias);
    tape.device().launch(&forward_launch(tape.dtype(), gelu, shape, x.address(), shift, y.address()))
}

/// `dy := dy gelu'(x + bias)`, and its column sums are added to the gradient of the bias, unless there is none or it is frozen.
///
/// # Errors
/// None on the CPU.
pub fn bias_gelu_backward(
    tape: &mut Tape,
    parameters: &mut Parameters,
    x: Tensor,
    bias: Option<Vector>,
    gelu: Gelu,
    dy: &mut Buffer,
) -> Result<()> {
    tape.count(work::bias_gelu_backward(dy.len(), tape.dtype().size()));
    if let Device::Cpu = tape.device() {
        for_real!(tape.dtype(), T => {
            let zeros = vec![0.0; if bias.is_none() { x.columns } else { 0 }];
            let values = bias.map_or(&zeros[..], |bias| &parameters.values.slice::<T>()[bias.range()]);
            let mut of_frozen = Vec::new();
            let d_bias = match bias.filter(|bias| parameters.trains(bias.offset)) {
                Some(bias) => &mut parameters.gradients.slice_mut()[bias.range()],
                None => {
                    of_frozen.resize(x.columns, 0.0);
                    &mut of_frozen[..]
                }
            };
            cpu::gelu::backward(gelu, tape.value(x).slice(), values, dy.slice_mut(), d_bias);
        });
        return Ok(());
    }
    let parts = column_sums::tiles(x.rows, x.columns).1;
    let partials = tape.allocate_scratch(parts * x.columns)?;
    let (kept, shift) = (tape.value(x).address(), address(parameters, bias));
    let addresses = [kept, shift, dy.address(), partials.address()];
    tape.device().launch(&backward_launch(tape.dtype(), gelu, [x.rows, x.columns], parts, addresses))?;
    if let Some(bias) = bias {
        column_sums::add_parts(tape.device(), &partials, parts, &mut parameters.gradients, bias)?;
    }
    tape.recycle(partials);
    Ok(())
}

/// 0 for none.
fn address(parameters: &Parameters, bias: Option<Vector>) -> u64 {
    bias.map_or(0, |bias| parameters.values.address_of(bias.offset))
}

/// The launch for `[rows, columns]` at these addresses.
pub(super) fn forward_launch(
    dtype: DType,
    gelu: Gelu,
    [rows, columns]: [usize; 2],
    x: u64,
    bias: u64,
    y: u64,
) -> Launch {
    let (tiles, parts) = column_sums::tiles(rows, columns);
    let launch = Launch::new(name(gelu, "forward", dtype), 1, 256).grid(tiles, parts, 1).block(32, 8, 1);
    let launch = launch.work(work::bias_gelu_forward(rows * columns, dtype.size()));
    launch.value(x).value(bias).value(y).int(rows).int(columns)
}

/// The launch that leaves column sums in `parts` rows of partials.
pub(super) fn backward_launch(
    dtype: DType,
    gelu: Gelu,
    [rows, columns]: [usize; 2],
    parts: usize,
    [x, bias, dy, partials]: [u64; 4],
) -> Launch {
    let launch = Launch::new(name(gelu, "backward", dtype), 1, 256).grid(columns.div_ceil(256), parts, 1);
    let launch = launch.block(32, 8, 1).work(work::bias_gelu_backward(rows * columns, dtype.size()));
    launch.value(x).value(bias).value(dy).int(rows).int(columns).value(partials)
}

/// Of the kernel of that pass.
fn name(gelu: Gelu, pass: &str, dtype: DType) -> String {
    let form = match gelu {
        Gelu::Exact => "bias_gelu",
        Gelu::Tanh => "bias_gelu_tanh",
    };
    kernel(&format!("{form}_{pass}"), dtype)
}
