//! What a launch costs, and what loading the kernels costs. On the CPU, which launches nothing, what an operation costs beyond its
//! arithmetic: the smallest one through the tape, and handing work to the other cores.

mod common;

use std::time::Instant;

use common::{parameters, run};
use helixgrad::Result;
use helixgrad::autograd::Pass::Forward;
use helixgrad::device::graphs::Graphs;
use helixgrad::device::{Buffer, Device, Launch, Work};
use helixgrad::ops::tanh;

pub(crate) fn main() {
    run("launch", |bench| {
        let (parameters, ..) = parameters(bench, &[], &[])?;
        bench.operation("smallest operation", "tanh", &[Forward], parameters, &[[1, 1]], |tape, _, x| {
            tanh(tape, x[0]).map(Some)
        })?;
        bench.timed("put a launch together", Work::default(), |count| {
            let started = Instant::now();
            for number in 0..count {
                std::hint::black_box(Launch::new("tanh_forward_bf16", 1, 256).value(number).long(1));
            }
            Ok(started.elapsed().as_secs_f64())
        })?;
        #[cfg(feature = "cust")]
        {
            let open = || helixgrad::device::cust::open(0).map(Device::Kernels);
            drivers(bench, open, "cust")?;
        }
        let device = bench.device.clone();
        match &device {
            Device::Cpu => bench.timed("hand over to the cores", Work::default(), |count| {
                let started = Instant::now();
                for _ in 0..count {
                    rayon::join(|| std::hint::black_box(()), || std::hint::black_box(()));
                }
                Ok(started.elapsed().as_secs_f64())
            }),
            Device::Kernels(_) => drivers(bench, || Device::parse("cuda"), "cudarc"),
        }
    });
}

/// Launches that are handed over together: about a step of a model of two layers.
const IN_A_GRAPH: u64 = 128;

/// One driver: opening the GPU and loading all kernels; the host's part of a launch; launches back to back as the device sees them,
/// one by one and as graphs.
fn drivers(bench: &mut common::Bench, open: impl Fn() -> Result<Device>, through: &str) -> Result<()> {
    bench.timed(&format!("open and load the kernels, {through}"), Work::default(), |count| {
        let started = Instant::now();
        for _ in 0..count {
            std::hint::black_box(open()?);
        }
        Ok(started.elapsed().as_secs_f64())
    })?;
    let device = open()?;
    let mut x = Buffer::upload(&device, &[0.5f32])?;
    for (name, waits) in [("host's part of a launch", false), ("launches back to back", true)] {
        bench.timed(&format!("{name}, {through}"), Work::default(), |count| {
            device.synchronize()?;
            let started = Instant::now();
            for _ in 0..count {
                device.launch(&Launch::new("tanh_forward_f32", 1, 256).write(&mut x).long(1))?;
            }
            if waits {
                device.synchronize()?;
            }
            let seconds = started.elapsed().as_secs_f64();
            device.synchronize()?;
            Ok(seconds)
        })?;
    }
    let graphs = Graphs::over(device);
    bench.timed(&format!("launches in graphs of {IN_A_GRAPH}, {through}"), Work::default(), |count| {
        graphs.synchronize()?;
        let started = Instant::now();
        for number in 1..=count {
            graphs.launch(&Launch::new("tanh_forward_f32", 1, 256).write(&mut x).long(1))?;
            if number % IN_A_GRAPH == 0 {
                graphs.submit()?;
            }
        }
        graphs.synchronize()?;
        Ok(started.elapsed().as_secs_f64())
    })
}
