//! Runs a case in the emulator.

use std::collections::BTreeMap;

use ptx_on_cpu::{Launch, Memory, Module, Settings, Swizzle, TensorMap, run};

use crate::case::Case;
use crate::manifest::{Map, Role};

/// What is in the buffers after the launch, or the fault.
pub fn execute(case: &Case, module: &Module, settings: &Settings) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let oracle = &case.oracle;
    let memory = Memory::new();
    let addresses: BTreeMap<&str, u64> = case
        .before
        .iter()
        .map(|(name, bytes)| {
            // What the kernel has to write is memory that nobody wrote; its poison is NaN, or -1.
            let fresh = matches!(oracle.buffers[name].role, Role::Output | Role::Scratch);
            (name.as_str(), if fresh { memory.allocate(bytes.len()) } else { memory.upload(bytes) })
        })
        .collect();
    let kernel = module.kernel(&oracle.kernel).ok_or_else(|| format!("no kernel {}", oracle.kernel))?;
    let parameters = kernel.pack(&case.parameters(&|name| addresses[name], &encode))?;
    let launch = Launch {
        kernel: oracle.kernel.clone(),
        grid: oracle.grid,
        block: oracle.block,
        cluster: oracle.cluster,
        dynamic_shared: oracle.shared as u32,
        parameters,
    };
    let counters = run(module, &launch, &memory, settings).map_err(|fault| fault.to_string())?;
    if let Some(warning) = counters.warnings.first() {
        return Err(format!("warning: {warning}"));
    }
    let read = |name: &String| memory.read(addresses[name.as_str()], case.before[name].len());
    case.before.keys().map(|name| Ok((name.clone(), read(name)?))).collect()
}

fn encode(map: &Map, address: u64, element_bytes: usize) -> Vec<u8> {
    let swizzle = match map.swizzle {
        32 => Swizzle::Bytes32,
        64 => Swizzle::Bytes64,
        128 => Swizzle::Bytes128,
        _ => Swizzle::None,
    };
    let map = TensorMap {
        address,
        element_bytes: element_bytes as u32,
        dims: map.dims.clone(),
        strides: map.strides.clone(),
        tile: map.tile.clone(),
        swizzle,
    };
    map.encode().unwrap_or_else(|finding| panic!("{finding}")).to_vec()
}
