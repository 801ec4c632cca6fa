//! What all benches share: the device and its ceilings, shapes, random inputs, cold caches, the clock, the table.
//!
//! What is measured is chosen on the command line, beside criterion's options ([`options`]).
//!
//! A row is an operation and a direction. Its time is that of the operation alone, by the device's clock (CUDA events around every
//! launch) or on the CPU by the tape's; inputs are copied anew before it, and the caches flushed, outside of that time.

// Every bench is a crate of its own, and uses a part of this.
#![allow(dead_code)]

mod inputs;
mod options;

use std::cell::{OnceCell, RefCell};
use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use criterion::Criterion;
use helixgrad::autograd::{Matrix, Parameters, Pass, Spec, Tape, Tensor, Vector};
use helixgrad::bench::profile::{Meter, Recording, rows};
use helixgrad::device::{Buffer, Choices, DType, Device, Work};
use helixgrad::ops::Loss;
use helixgrad::optim::{AdamW, AdamWConfig};
use helixgrad::report::{Cell, Table};
use helixgrad::train::ceilings::{Ceilings, Limit, Sizes};
use helixgrad::{Error, Result};
use inputs::Inputs;
use options::Options;

/// Runs a bench: its rows, and the table of them at the end.
pub fn run(name: &str, bench: impl FnOnce(&mut Bench) -> Result<()>) {
    let outcome = Bench::new(name).and_then(|mut harness| {
        bench(&mut harness)?;
        harness.finish()
    });
    if let Err(error) = outcome {
        fail(&error);
    }
}

/// Criterion wants a time from every measurement, and knows no errors: so whoever has one ends the program.
fn fail(error: &Error) -> ! {
    eprintln!("error: {error}");
    std::process::exit(i32::from(error.exit_code()));
}

/// Sizes of the model whose operations are measured.
#[derive(Clone, Debug)]
pub struct Shapes {
    pub tokens: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub vocab: usize,
    pub heads: usize,
    pub lengths: Vec<usize>,
}

/// One line of the table.
struct Row {
    name: String,
    seconds: f64,
    work: Work,
}

pub struct Bench {
    name: String,
    /// What `--device` says.
    place: String,
    criterion: Criterion,
    pub device: Device,
    pub dtype: DType,
    pub shapes: Shapes,
    meter: Meter,
    ceilings: OnceCell<Ceilings>,
    flush: Rc<RefCell<Buffer>>,
    inputs: Rc<Inputs>,
    rows: Vec<Row>,
    /// How it is computed now, if not as the device does by itself.
    way: &'static str,
    json: Option<PathBuf>,
}

impl Bench {
    fn new(name: &str) -> Result<Self> {
        let options = Options::parse_and_hand_over();
        let criterion = Criterion::default()
            .sample_size(20)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2))
            .without_plots()
            .configure_from_args();
        let device = Device::parse(&options.device)?;
        let on_cpu = matches!(device, Device::Cpu);
        let dtype = match options.dtype.as_deref() {
            None if on_cpu => DType::F32,
            None | Some("bf16") if !on_cpu => DType::Bf16,
            Some("f32") => DType::F32,
            other => {
                let found = format!("--dtype {} on {device}", other.unwrap_or_default());
                return Err(Error::usage(found, "give f32, or bf16 on a GPU"));
            }
        };
        let lengths: &[usize] = if on_cpu { &[128, 512] } else { &[512, 2048, 16_384] };
        let shapes = Shapes {
            tokens: options.tokens.unwrap_or(if on_cpu { 4096 } else { 65_536 }),
            hidden: options.hidden,
            intermediate: options.intermediate,
            vocab: options.vocab,
            heads: options.heads,
            lengths: if options.lengths.is_empty() { lengths.to_vec() } else { options.lengths },
        };
        let (flush, (device, meter)) = (flushing(&device)?, Meter::new(&device));
        let (name, place, ceilings) = (name.into(), options.device, OnceCell::new());
        let (inputs, rows, way, json) = (Rc::default(), Vec::new(), "", options.json);
        Ok(Self { name, place, criterion, device, dtype, shapes, meter, ceilings, flush, inputs, rows, way, json })
    }

    /// Measures, and on a GPU once more for each other way to compute, on a device opened for it. Rows end in the way's name. What this
    /// machine has not is left out, with a word.
    pub fn in_ways(
        &mut self,
        ways: &[(&'static str, Choices)],
        measure: impl Fn(&mut Self) -> Result<()>,
    ) -> Result<()> {
        measure(self)?;
        if self.is_cpu() {
            return Ok(());
        }
        for &(way, choices) in ways {
            let device = match Device::open(&self.place, choices) {
                Ok(device) => device,
                Err(error) => {
                    eprintln!("{}, {way}: left out: {error}", self.name);
                    continue;
                }
            };
            (self.flush, (self.device, self.meter), self.way) = (flushing(&device)?, Meter::new(&device), way);
            measure(self)?;
        }
        Ok(())
    }

    /// Measured once there is something to judge.
    fn ceilings(&self) -> Result<Ceilings> {
        if let Some(ceilings) = self.ceilings.get() {
            return Ok(*ceilings);
        }
        let ceilings = Ceilings::measure(&self.device, self.dtype, &Sizes::of(&self.device))?;
        Ok(*self.ceilings.get_or_init(|| ceilings))
    }

    /// A call empties the caches of what is measured.
    pub fn flush(&self) -> impl Fn() -> Result<()> + use<> {
        let flush = Rc::clone(&self.flush);
        move || flush.borrow_mut().fill_zero()
    }

    pub fn is_cpu(&self) -> bool {
        matches!(self.device, Device::Cpu)
    }

    /// Random numbers around 0 with a deviation of about `deviation`, on the device.
    pub fn random(&self, count: usize, deviation: f64, seed: u64) -> Result<Buffer> {
        self.inputs.random(&self.device, self.dtype, count, deviation, seed)
    }

    /// Measures an operation in both directions, or in one. `inputs` are the shapes of its tensors; `forward` calls it on them and
    /// returns the tensor whose gradient leads back, or none if the operation has put a gradient itself.
    pub fn operation(
        &mut self,
        name: &str,
        op: &'static str,
        passes: &[Pass],
        parameters: Parameters,
        inputs: &[[usize; 2]],
        forward: impl Fn(&mut Tape, &Parameters, &[Tensor]) -> Result<Option<Tensor>>,
    ) -> Result<()> {
        const ROTATION: usize = 2;
        let sources: Vec<Vec<Buffer>> = (0..ROTATION as u64)
            .map(|turn| {
                let input = |(index, [rows, columns]): (usize, &[usize; 2])| {
                    self.random(rows * columns, 1.0, 1 + turn * 100 + index as u64)
                };
                inputs.iter().enumerate().map(input).collect()
            })
            .collect::<Result<_>>()?;
        let gradients = RefCell::new(Vec::<Buffer>::new());
        let parameters = RefCell::new(parameters);
        let mut turn = 0;
        let (device, dtype, flush, draws) = (self.device.clone(), self.dtype, self.flush(), Rc::clone(&self.inputs));
        let iteration = |tape: &mut Tape| -> Result<()> {
            turn = (turn + 1) % ROTATION;
            tape.start_training(7, 0, 0);
            let mut tensors = Vec::new();
            for (source, [rows, columns]) in sources[turn].iter().zip(inputs) {
                let mut copy = tape.allocate(source.len())?;
                copy.copy_from(&device, source)?;
                tensors.push(tape.push(copy, *rows, *columns));
            }
            flush()?;
            let output = forward(tape, &parameters.borrow(), &tensors)?;
            if passes.contains(&Pass::Backward) {
                if let Some(output) = output {
                    let count = output.rows * output.columns;
                    let mut known = gradients.borrow_mut();
                    if known.is_empty() {
                        known.push(draws.random(&device, dtype, count, 0.01, 999)?);
                    }
                    let mut gradient = tape.allocate(count)?;
                    gradient.copy_from(&device, &known[0])?;
                    tape.put_gradient(output, gradient);
                }
                flush()?;
                tape.backward(&mut parameters.borrow_mut())?;
            }
            Ok(())
        };
        let rows: Vec<(&'static str, Pass)> = passes.iter().map(|&pass| (op, pass)).collect();
        self.iterations(name, &rows, iteration)
    }

    /// Measures operations that `iteration` calls on a tape, each `(operation, pass)` a row of its own.
    pub fn iterations(
        &mut self,
        name: &str,
        ops: &[(&'static str, Pass)],
        mut iteration: impl FnMut(&mut Tape) -> Result<()>,
    ) -> Result<()> {
        for &(op, pass) in ops {
            let way = if self.way.is_empty() { String::new() } else { format!(", {}", self.way) };
            let id = format!("{}/{name}/{}{way}", self.name, pass.name());
            let mut tape = Tape::new(self.device.clone(), self.dtype);
            let mut samples = Vec::new();
            let mut last = None;
            let meter = &self.meter;
            self.criterion.bench_function(&id, |bencher| {
                bencher.iter_custom(|count| {
                    let recording = meter.record(&mut tape, count as usize, &mut iteration);
                    let recording = recording.unwrap_or_else(|error| fail(&error));
                    let seconds = seconds_of(&recording, op, pass);
                    samples.push(seconds / count as f64);
                    last = Some((recording, count));
                    Duration::from_secs_f64(seconds.max(1e-9))
                });
            });
            // Filtered out, or only listed.
            let Some((recording, count)) = last else { continue };
            samples.sort_by(f64::total_cmp);
            let mut work = Work::default();
            recording.calls.iter().filter(|call| (call.op, call.pass) == (op, pass)).for_each(|call| work += call.work);
            let work = Work { bytes: work.bytes / count as f64, flops: work.flops / count as f64 };
            self.rows.push(Row { name: id, seconds: samples[samples.len() / 2], work });
            self.kernel_rows(&recording, (op, pass), count as usize)?;
        }
        Ok(())
    }

    /// On devices with kernels: the kernels that the operation launched, if there were several.
    fn kernel_rows(&mut self, recording: &Recording, (op, pass): (&str, Pass), count: usize) -> Result<()> {
        let spans: Vec<_> = recording
            .spans
            .iter()
            .filter(|span| span.op == Some(op) && span.pass == Some(pass) && span.name != op)
            .cloned()
            .collect();
        if spans.is_empty() {
            return Ok(());
        }
        let kernels = rows(&spans, count, &self.ceilings()?);
        if kernels.len() > 1 {
            for kernel in kernels {
                let calls = kernel.calls_per_step;
                let work = Work {
                    bytes: kernel.bytes_per_call.unwrap_or(0.0) * calls,
                    flops: kernel.flops_per_call.unwrap_or(0.0) * calls,
                };
                let seconds = kernel.milliseconds_per_step * 1e-3;
                self.rows.push(Row { name: format!("    {}", kernel.name), seconds, work });
            }
        }
        Ok(())
    }

    /// Measures anything else that says how long it took, in seconds.
    pub fn timed(&mut self, name: &str, work: Work, mut run: impl FnMut(u64) -> Result<f64>) -> Result<()> {
        let id = format!("{}/{name}", self.name);
        let mut samples = Vec::new();
        self.criterion.bench_function(&id, |bencher| {
            bencher.iter_custom(|count| {
                let seconds = run(count).unwrap_or_else(|error| fail(&error));
                samples.push(seconds / count as f64);
                Duration::from_secs_f64(seconds.max(1e-9))
            });
        });
        if !samples.is_empty() {
            samples.sort_by(f64::total_cmp);
            self.rows.push(Row { name: id, seconds: samples[samples.len() / 2], work });
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.criterion.final_summary();
        if self.rows.is_empty() {
            return Ok(());
        }
        let ceilings = self.ceilings()?;
        let (unit, scale) = if self.is_cpu() { ("GFLOP/s", 1e9) } else { ("TFLOP/s", 1e12) };
        let mut table =
            Table::new(["", "µs", "MB", "GB/s", "of the memory %", unit, "of the product %", "roofline %", "limit"]);
        for row in &self.rows {
            let number = |value: f64, digits: usize| {
                if row.work.is_unknown() { Cell::from("") } else { Cell::number(value, digits) }
            };
            let (bytes, flops) = (row.work.bytes / row.seconds, row.work.flops / row.seconds);
            table.row([
                Cell::from(row.name.as_str()),
                Cell::number(row.seconds * 1e6, 1),
                number(row.work.bytes / 1e6, 1),
                number(bytes / 1e9, 1),
                number(100.0 * bytes / ceilings.bytes_per_second, 0),
                number(flops / scale, 1),
                number(100.0 * flops / ceilings.flops_per_second, 0),
                number(100.0 * ceilings.floor(row.work) / row.seconds, 0),
                ceilings.limit(row.work, row.seconds).map_or("", Limit::name).into(),
            ]);
        }
        println!(
            "\n{table}\n{} in {}; ceilings measured in this run: {}; medians",
            self.device,
            self.dtype.name(),
            ceilings.describe()
        );
        self.write_json(&ceilings)
    }

    fn write_json(&self, ceilings: &Ceilings) -> Result<()> {
        let Some(path) = &self.json else { return Ok(()) };
        let mut lines = String::new();
        for row in &self.rows {
            let line = serde_json::json!({
                "row": row.name.trim(),
                "device": self.device.to_string(),
                "dtype": self.dtype.name(),
                "seconds": row.seconds,
                "bytes": row.work.bytes,
                "flops": row.work.flops,
                "memory_bytes_per_second": ceilings.bytes_per_second,
                "product_flops_per_second": ceilings.flops_per_second,
            });
            lines += &format!("{line}\n");
        }
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(lines.as_bytes())).map_err(Error::io("write", path))
    }
}

/// Twice the largest L2 of a GPU of today, and more than a share of a server's L3.
fn flushing(device: &Device) -> Result<Rc<RefCell<Buffer>>> {
    Ok(Rc::new(RefCell::new(Buffer::on(device, 64 << 20, DType::F32)?)))
}

/// Seconds that an operation took: its kernels on devices that have them, its calls on the CPU.
fn seconds_of(recording: &Recording, op: &str, pass: Pass) -> f64 {
    let mine = recording.spans.iter().filter(|span| span.op == Some(op) && span.pass == Some(pass));
    mine.map(|span| span.seconds).sum()
}

/// Parameters for one operation: matrices of `[rows, columns]`, then vectors, with random values, on the device.
pub fn parameters(
    bench: &Bench,
    matrices: &[[usize; 2]],
    vectors: &[usize],
) -> Result<(Parameters, Vec<Matrix>, Vec<Vector>)> {
    let (mut specs, mut offset) = (Vec::new(), 0);
    let (mut matrix_places, mut vector_places) = (Vec::new(), Vec::new());
    for &[rows, columns] in matrices {
        matrix_places.push(Matrix { offset, rows, columns });
        specs.push(Spec { name: format!("matrix {offset}"), shape: vec![rows, columns], offset });
        offset = (offset + rows * columns).next_multiple_of(64);
    }
    let decayed = offset;
    for &len in vectors {
        vector_places.push(Vector { offset, len });
        specs.push(Spec { name: format!("vector {offset}"), shape: vec![len], offset });
        offset = (offset + len).next_multiple_of(64);
    }
    // The buffer ends behind the last gap.
    specs.push(Spec { name: "end".into(), shape: vec![64], offset });
    let mut parameters = Parameters::zeros(specs, decayed, DType::F32);
    parameters.values = bench.inputs.random(&Device::Cpu, DType::F32, parameters.len(), 0.05, 3)?;
    parameters.move_to(&bench.device, bench.dtype)?;
    Ok((parameters, matrix_places, vector_places))
}

/// An update of all parameters, DNABERT's 89 M on a GPU, a tenth of them on the CPU, from cold caches: what it is, and an iteration.
pub fn optimizer(bench: &Bench) -> Result<(String, impl FnMut(&mut Tape) -> Result<()> + use<>)> {
    let count = if bench.is_cpu() { 8_900_000 } else { 89_200_000 };
    let (mut parameters, ..) = parameters(bench, &[[count / 768, 768]], &[768])?;
    let mut optimizer = AdamW::new(AdamWConfig::default(), &parameters, &bench.device)?;
    let (name, flush) = (format!("{:.1} M parameters", parameters.len() as f64 / 1e6), bench.flush());
    // The update leaves zero gradients: the next round adds nothing to the weights, and takes as long.
    let iteration = move |tape: &mut Tape| {
        tape.start_training(0, 0, 0);
        flush()?;
        optimizer.update(tape, &mut parameters, 1e-4).map(drop)
    };
    Ok((name, iteration))
}

/// A loss of logits against a number for each of them, and its gradient.
pub fn targets(
    bench: &mut Bench,
    op: &'static str,
    [rows, columns]: [usize; 2],
    loss: impl Fn(&mut Tape, Tensor, &Buffer, f64) -> Result<Loss>,
) -> Result<()> {
    let targets: Vec<f32> = (0..rows * columns).map(|index| (index % 7 == 0) as u8 as f32).collect();
    let targets = Buffer::upload(&bench.device, &targets)?;
    let (parameters, ..) = parameters(bench, &[], &[])?;
    let name = format!("{rows}x{columns}");
    bench.operation(&name, op, &[Pass::Forward], parameters, &[[rows, columns]], |tape, _, logits| {
        loss(tape, logits[0], &targets, 1.0 / rows as f64)?;
        Ok(None)
    })
}
