//! Machine code as cuobjdump lists it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use helixgrad::device::kernels::embedded;

/// One instruction: "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24", with its predicate ("@!P1 ") in front if it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// In bytes, from the kernel's first instruction.
    pub address: u32,
    pub text: String,
}

impl Instruction {
    /// "HGMMA.64x128x16.F32.BF16"
    pub fn opcode(&self) -> &str {
        let unpredicated =
            if self.text.starts_with('@') { self.text.split_once(' ').unwrap_or_default().1 } else { &self.text };
        unpredicated.split_whitespace().next().unwrap_or_default()
    }

    /// Whether the opcode is `name`, with or without more behind a dot: "BAR.SYNC" is BAR.SYNC.DEFER_BLOCKING, too.
    pub fn is(&self, name: &str) -> bool {
        self.opcode().strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Where a branch goes to.
    pub fn target(&self) -> Option<u32> {
        let place = self.text.rsplit_once("0x").filter(|_| self.is("BRA"))?.1;
        u32::from_str_radix(place, 16).ok()
    }
}

/// Instructions one behind the other, by address: a kernel, or a part of one.
#[derive(Clone, Copy, Debug)]
pub struct Code<'a>(pub &'a [Instruction]);

impl<'a> Code<'a> {
    pub fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|instruction| instruction.is(name)).count()
    }

    /// The places of all instructions of this name, to cut the code at.
    pub fn places(&self, name: &str) -> Vec<usize> {
        (0..self.0.len()).filter(|&place| self.0[place].is(name)).collect()
    }

    pub fn part(&self, places: Range<usize>) -> Code<'a> {
        Code(&self.0[places])
    }

    /// The loops, from the target of a conditional branch backwards to that branch, in the order of their ends; a handful of instructions that
    /// wait for a barrier are one, too. ptxas lays such waits behind the kernel, and a branch without a condition leads back from there.
    pub fn loops(&self) -> Vec<Code<'a>> {
        let ends = (0..self.0.len()).filter_map(|end| {
            let target = self.0[end]
                .target()
                .filter(|&target| target <= self.0[end].address && self.0[end].text.starts_with('@'))?;
            let first = self.0.iter().position(|instruction| instruction.address == target)?;
            Some(Code(&self.0[first..=end]))
        });
        ends.collect()
    }

    /// The loop around the most instructions of this name of those that hold no other with any of them: the inner one.
    pub fn loop_around(&self, name: &str) -> Option<Code<'a>> {
        let with: Vec<Code> = self.loops().into_iter().filter(|code| code.count(name) > 0).collect();
        let holds = |outer: &Code, inner: &Code| {
            let (outer, inner) = (outer.0.as_ptr_range(), inner.0.as_ptr_range());
            outer != inner && outer.start <= inner.start && inner.end <= outer.end
        };
        let inner = with.iter().filter(|outer| !with.iter().any(|inner| holds(outer, inner)));
        inner.max_by_key(|code| code.count(name)).copied()
    }
}

/// The kernels of `kernels/FILE.cu` for `target` ("sm_90a"), by name; nothing, and a line that says so, where this build has none or the toolkit's
/// cuobjdump is missing.
pub fn kernels(file: &str, target: &str) -> Option<BTreeMap<String, Vec<Instruction>>> {
    let Some((tool, found)) = cuobjdump().zip(embedded().iter().find(|found| found.name == file)) else {
        println!("skipped: no kernels in this build, or no cuobjdump (in CUDA's toolkit; pip: nvidia-cuda-cuobjdump)");
        return None;
    };
    let fatbin = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(fatbin.path(), found.fatbin).unwrap();
    let output =
        Command::new(tool).args(["--dump-sass", "--gpu-architecture", target]).arg(fatbin.path()).output().unwrap();
    let kernels = parse(&String::from_utf8_lossy(&output.stdout));
    if kernels.is_empty() && output.status.success() {
        println!("skipped: {file} is not compiled for {target} in this build");
        return None;
    }
    assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    Some(kernels)
}

/// Kernels by name. A line of a listing with an instruction is "/*1a30*/ @!P0 BRA 0xc10 ; /* 0x000... */".
fn parse(listing: &str) -> BTreeMap<String, Vec<Instruction>> {
    let functions = listing.split("Function : ").skip(1).map(|function| {
        let instructions = function.lines().filter_map(|line| {
            let (address, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
            let address = u32::from_str_radix(address, 16).ok()?;
            let text = rest.split_once(';')?.0.trim().to_owned();
            Some(Instruction { address, text })
        });
        (function.lines().next().unwrap_or_default().trim().to_owned(), instructions.collect())
    });
    functions.collect()
}

/// cuobjdump of the toolkit: where nvcc is, or on the path.
fn cuobjdump() -> Option<PathBuf> {
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os);
    let folders = homes.map(|home| Path::new(&home).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/.cuda/nvidia/cu13/bin");
    let mut tools = folders.chain([installed.into()]).chain(std::env::split_paths(&path));
    tools.find_map(|folder| Some(folder.join("cuobjdump")).filter(|tool| tool.is_file()))
}

#[test]
fn a_listing_is_read() {
    let listing = "\
code for sm_90a
\t\tFunction : one
\t.headerflags\t@\"EF_CUDA_SM90\"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                /* 0x00000a00ff017b82 */
                                                                          /* 0x000fe20000000800 */
        /*0010*/                   HGMMA.64x64x16.F32 R24, gdesc[UR8], R24 ;  /* 0x0 */
        /*0020*/                   MUFU.EX2 R3, R3 ;                      /* 0x0 */
        /*0030*/                   HGMMA.64x64x16.F32 R24, gdesc[UR8], R24 ;  /* 0x0 */
        /*0040*/              @!P0 BRA 0x20 ;                             /* 0x0 */
        /*0050*/               @P1 BRA 0x10 ;                             /* 0x0 */
        /*0060*/                   BRA 0x10;                              /* 0x0 */
\t\tFunction : two
        /*0000*/                   EXIT ;                                 /* 0x0 */
";
    let kernels = parse(listing);
    assert_eq!(kernels.keys().collect::<Vec<_>>(), ["one", "two"]);
    let one = Code(&kernels["one"]);
    assert_eq!((one.0.len(), one.count("HGMMA"), one.count("MUFU.EX2"), one.count("MUFU.EX")), (7, 2, 1, 0));
    assert_eq!((one.0[4].opcode(), one.0[4].target(), one.0[1].target()), ("BRA", Some(0x20), None));
    assert_eq!(one.places("HGMMA"), [1, 3]);
    let loops: Vec<_> = one.loops().iter().map(|code| (code.0[0].address, code.0.len())).collect();
    assert_eq!(loops, [(0x20, 3), (0x10, 5)]);
    assert_eq!(one.loop_around("HGMMA").map(|code| code.0.len()), Some(3));
    assert!(one.loop_around("STG").is_none());
}
