//! Small kernels against what the PTX ISA says of their instructions: what no compiler's kernel among the oracles uses, and what
//! must be a fault. Memory is poisoned with NaN, and results are compared bit by bit.

mod arithmetic;
mod control;
mod copies;
mod counters;
mod faults;
mod hazards;
mod matrices;
mod memory;
mod synchronization;
mod warps;

use ptx_on_cpu::{Asynchronous, Counters, Fault, Launch, Memory, Module, Settings};

/// Registers that every kernel here has.
const REGISTERS: &str =
    ".reg .pred p, q, t; .reg .b16 h<8>; .reg .b32 a, b, c, d, e, r<32>; .reg .b64 x, y, z, v, w, s<16>;";

/// A kernel with one block, `out` in `w` and `in` in `v`, and the thread in `r0`.
struct Small {
    text: String,
    grid: u32,
    threads: u32,
    cluster: u32,
    shared: u32,
    settings: Settings,
}

impl Small {
    /// `module` stands in front of the kernel, as shared variables do.
    fn new(module: &str, body: &str) -> Self {
        let text = format!(
            ".version 8.6\n.target sm_90a\n.address_size 64\n{module}\n\
             .visible .entry kernel(.param .u64 out, .param .u64 in) {{\n{REGISTERS}\n\
             ld.param.u64 w, [out]; ld.param.u64 v, [in]; mov.u32 r0, %tid.x;\n{body}\nret;\n}}\n"
        );
        Self { text, grid: 1, threads: 32, cluster: 1, shared: 0, settings: Settings::default() }
    }

    fn threads(self, threads: u32) -> Self {
        Self { threads, ..self }
    }

    /// Runs it with these bytes in `in`. Returns what `out` has, of so many bytes.
    fn run(&self, input: &[u8], output: usize) -> Result<Vec<u8>, Fault> {
        self.counted(input, output).map(|(bytes, _)| bytes)
    }

    fn counted(&self, input: &[u8], output: usize) -> Result<(Vec<u8>, Counters), Fault> {
        let module = Module::parse(&self.text).unwrap_or_else(|why| panic!("{why}\n{}", self.text));
        let memory = Memory::new();
        let (out, input) = (memory.allocate(output), memory.upload(input));
        let launch = Launch {
            kernel: "kernel".into(),
            grid: [self.grid, 1, 1],
            block: [self.threads, 1, 1],
            cluster: [self.cluster, 1, 1],
            dynamic_shared: self.shared,
            parameters: module.kernel("kernel").unwrap().pack(&[out.to_le_bytes(), input.to_le_bytes()]).unwrap(),
        };
        let counters = ptx_on_cpu::run(&module, &launch, &memory, &self.settings)?;
        Ok((memory.read(out, output).unwrap(), counters))
    }

    /// Runs it in every way: in order, and strictly with several seeds. All must agree.
    fn run_all(&self, input: &[u8], output: usize) -> Vec<u8> {
        let run = |settings: Settings| {
            let small = Self { settings: settings.clone(), text: self.text.clone(), ..*self };
            small.run(input, output).unwrap_or_else(|fault| panic!("{settings:?}: {fault}"))
        };
        let first = run(Settings::default());
        for seed in 0..6 {
            let late = Settings { asynchronous: Asynchronous::Late, ..Settings::strict(seed) };
            assert_eq!(run(Settings::strict(seed)), first, "seed {seed}");
            assert_eq!(run(late), first, "late, seed {seed}");
        }
        first
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Computes `d` of `a`, `b` and `c`, a lane for each triple.
fn narrow(body: &str, operands: &[[u32; 3]]) -> Vec<u32> {
    let small = Small::new(
        "",
        &format!(
            "mad.wide.u32 s0, r0, 12, v; ld.global.u32 a, [s0]; ld.global.u32 b, [s0+4]; ld.global.u32 c, [s0+8];\n{body}\n\
             mad.wide.u32 s0, r0, 4, w; st.global.u32 [s0], d;"
        ),
    );
    let small = small.threads(operands.len() as u32);
    words(
        &small
            .run(&bytes(operands.as_flattened()), 4 * operands.len())
            .unwrap_or_else(|fault| panic!("{body}: {fault}")),
    )
}

/// Computes `z` of `x` and `y`, a lane for each pair.
fn wide(body: &str, operands: &[[u64; 2]]) -> Vec<u64> {
    let small = Small::new(
        "",
        &format!(
            "mad.wide.u32 s0, r0, 16, v; ld.global.u64 x, [s0]; ld.global.u64 y, [s0+8];\n{body}\n\
             mad.wide.u32 s0, r0, 8, w; st.global.u64 [s0], z;"
        ),
    );
    let input: Vec<u8> = operands.as_flattened().iter().flat_map(|word| word.to_le_bytes()).collect();
    let small = small.threads(operands.len() as u32);
    let output = small.run(&input, 8 * operands.len()).unwrap_or_else(|fault| panic!("{body}: {fault}"));
    output.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// The same of floats.
fn floats(body: &str, operands: &[[f32; 3]]) -> Vec<f32> {
    let operands: Vec<[u32; 3]> = operands.iter().map(|triple| triple.map(f32::to_bits)).collect();
    narrow(body, &operands).into_iter().map(f32::from_bits).collect()
}
