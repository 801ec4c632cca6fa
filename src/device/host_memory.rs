//! The memory of this machine, to refuse in words what would end in an abort.

use std::fs;

use crate::error::size;
use crate::{Error, Result};

/// Refuses what takes `bytes` of memory or more, if this machine (or the container that this process is in) has less.
/// Where that is not known, only what no machine has is refused.
///
/// # Errors
/// [`Error::Usage`] with both numbers.
pub fn require(bytes: f64, what: &str, remedy: &str) -> Result<()> {
    const NOBODY_HAS: f64 = (1_u64 << 44) as f64;
    let total = total().map_or(NOBODY_HAS, |total| total as f64);
    if bytes <= total {
        return Ok(());
    }
    let (needed, total) = (size(bytes as usize), size(total as usize));
    Err(Error::usage(format!("{what} takes {needed} of memory or more, where {total} are there"), remedy))
}

/// Bytes, the least of what the machine has and what the process may use.
fn total() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let kilobytes: u64 =
            text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?.parse().ok()?;
        Some(kilobytes << 10)
    });
    // Control groups, version 2 and 1; without a limit there is no number, or a huge one.
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    groups.into_iter().filter_map(number).chain(machine).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_refused() {
        require(1024.0, "a page", "").unwrap();
        let error = require(1e18, "a genome of everything", "choose less").unwrap_err().to_string();
        assert!(error.contains("a genome of everything takes 931322574.62 GiB of memory or more"), "{error}");
    }
}
