//! What all ranks of a run must share: told by name when one differs.

use serde_json::Value;

use crate::crc32;
use crate::device::Device;
use crate::{Error, Result};

/// A name and a value.
pub type Fact = (String, String);

/// The program: its version, and the checksum of its file.
///
/// # Errors
/// [`Error::Io`] if it cannot be read.
pub fn build() -> Result<Vec<Fact>> {
    let path = std::env::current_exe().map_err(Error::io("find", "this program"))?;
    Ok(vec![("build of helixgrad".into(), format!("{} ({:08x})", env!("CARGO_PKG_VERSION"), crc32::of_file(&path)?))])
}

/// The chip that computes: another one may run other kernels, or the same sums in blocks of another size.
pub fn chip(device: &Device) -> Vec<Fact> {
    let chip = match device {
        Device::Cpu => processor(),
        Device::Kernels(driver) => {
            let (major, minor) = driver.compute_capability();
            format!("compute capability {major}.{minor}")
        }
    };
    vec![("chip".into(), chip)]
}

/// The lines of a command's options, as `config.toml` has them; but for the number of threads, which changes nothing.
pub fn options(config: &str) -> Vec<Fact> {
    let lines = config.lines().filter_map(|line| line.split_once(" = "));
    lines.filter(|(name, _)| *name != "threads").map(|(name, value)| (format!("--{name}"), value.to_owned())).collect()
}

/// The settings of a run, as its checkpoints have them.
pub fn settings(settings: &Value) -> Vec<Fact> {
    let entries = settings.as_object().into_iter().flatten();
    entries.map(|(name, value)| (name.clone(), value.to_string())).collect()
}

/// The processor's name, where the system tells it.
pub fn processor() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
