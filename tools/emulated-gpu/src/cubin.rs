//! What machine code says of its kernels: an ELF file with a few sections for each.

use crate::fatbin::{u16_at, u32_at, u64_at};

/// Shared memory that the system takes of each block on compute capability 9.0, and that a section of the code counts.
const RESERVED_SHARED: usize = 1024;
/// In `.nv.info.KERNEL`: the most threads in x, y and z, from `__launch_bounds__`.
const MAX_THREADS: u8 = 0x05;
/// In `.nv.info.KERNEL`: blocks of a cluster in x, y and z, from `__cluster_dims__`.
const CLUSTER: u8 = 0x3D;
/// In `.nv.info.KERNEL`: a parameter.
const PARAMETER: u8 = 0x17;
/// The format of an attribute with bytes of its own.
const SIZED: u8 = 4;

/// What one kernel needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    pub name: String,
    /// Bytes of each parameter.
    pub parameters: Vec<u32>,
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory of a block.
    pub shared: usize,
    /// The most threads of a block.
    pub threads: u32,
    /// Blocks of a cluster in x, y and z.
    pub cluster: [u32; 3],
}

/// Reads a cubin.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read(elf: &[u8]) -> Result<Vec<Resources>, String> {
    let sections = sections(elf).ok_or("the machine code is no ELF file, or cut off")?;
    let named = |name: &str| sections.iter().find(|section| section.name == name);
    let mut kernels = Vec::new();
    for text in &sections {
        let Some(name) = text.name.strip_prefix(".text.") else { continue };
        let info = named(&format!(".nv.info.{name}")).ok_or_else(|| format!("no .nv.info of {name}"))?;
        let shared = named(&format!(".nv.shared.{name}")).map_or(0, |section| section.size);
        let mut kernel = Resources {
            name: name.to_owned(),
            parameters: Vec::new(),
            registers: text.info >> 24,
            shared: shared.saturating_sub(if sm(elf) >= 90 { RESERVED_SHARED } else { 0 }),
            threads: 1024,
            cluster: [1; 3],
        };
        read_info(info.bytes, &mut kernel).ok_or_else(|| format!(".nv.info of {name} is cut off"))?;
        kernels.push(kernel);
    }
    Ok(kernels)
}

/// The chip that the code is for, as in 80 or 90: a byte of the ELF header's flags.
fn sm(elf: &[u8]) -> u32 {
    u32_at(elf, 0x30) >> 8 & 0xFF
}

fn read_info(bytes: &[u8], kernel: &mut Resources) -> Option<()> {
    let mut parameters = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let head = bytes.get(at..at + 4)?;
        let length = if head[0] == SIZED { u16_at(head, 2) as usize } else { 0 };
        let value = bytes.get(at + 4..at + 4 + length)?;
        match head[1] {
            MAX_THREADS if length >= 12 => kernel.threads = [0, 4, 8].map(|at| u32_at(value, at)).iter().product(),
            CLUSTER if length >= 12 => kernel.cluster = [0, 4, 8].map(|at| u32_at(value, at)),
            PARAMETER if length >= 12 => parameters.push((u16_at(value, 4), u32_at(value, 8) >> 18)),
            _ => {}
        }
        at += 4 + length;
    }
    parameters.sort_unstable();
    kernel.parameters = parameters.into_iter().map(|(_, size)| size).collect();
    Some(())
}

struct Section<'a> {
    name: &'a str,
    info: u32,
    size: usize,
    /// Empty for a section without bytes in the file.
    bytes: &'a [u8],
}

fn sections(elf: &[u8]) -> Option<Vec<Section<'_>>> {
    if elf.len() < 64 || !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size) = (u64_at(elf, 0x28) as usize, u16_at(elf, 0x3A) as usize);
    let (count, names) = (u16_at(elf, 0x3C) as usize, u16_at(elf, 0x3E) as usize);
    let header =
        |index: usize| elf.get(table + index * size..table + (index + 1) * size).filter(|bytes| bytes.len() >= 64);
    let range = |header: &[u8]| (u64_at(header, 24) as usize, u64_at(header, 32) as usize);
    let (start, length) = range(header(names)?);
    let strings = elf.get(start..start + length)?;
    (0..count)
        .map(|index| {
            let header = header(index)?;
            let (start, size) = range(header);
            let name = strings.get(u32_at(header, 0) as usize..)?.split(|byte| *byte == 0).next()?;
            // 8 is SHT_NOBITS.
            let bytes = if u32_at(header, 4) == 8 { &[][..] } else { elf.get(start..start + size)? };
            Some(Section { name: std::str::from_utf8(name).ok()?, info: u32_at(header, 44), size, bytes })
        })
        .collect()
}
