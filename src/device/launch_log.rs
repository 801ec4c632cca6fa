//! The launches that a device was given last. A kernel that fails on a GPU says so at some later call: this is what the
//! message can still name then.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::Launch;

/// Launches that are remembered: a few layers' worth.
const REMEMBERED: usize = 16;

/// What is remembered of the last launches.
#[derive(Debug, Default)]
pub struct LaunchLog(Mutex<VecDeque<String>>);

impl LaunchLog {
    /// Remembers a launch.
    pub fn note(&self, launch: &Launch) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.truncate(REMEMBERED - 1);
        last.push_front(launch.to_string());
    }

    /// The launches as lines for an error message, the newest first; empty if there was none.
    pub fn describe(&self) -> String {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_empty() {
            return String::new();
        }
        let lines: String = last.iter().map(|launch| format!("\n    {launch}")).collect();
        format!(
            "\n  one of the last launches may have caused it, the newest first:{lines}\n  what to do: run again with \
             HELIXGRAD_CHECK_LAUNCHES=1, which waits for every launch and names the one that fails"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_the_oldest_are_forgotten() {
        let log = LaunchLog::default();
        assert_eq!(log.describe(), "");
        for number in 0..20 {
            log.note(&Launch::new(format!("kernel_{number}"), 3, 256).int(number));
        }
        let text = log.describe();
        let position = |name: &str| text.find(name);
        assert!(text.contains("kernel_19 (grid [3, 1, 1], block [256, 1, 1], 0 shared bytes, sizes [19])"), "{text}");
        assert!(position("kernel_19") < position("kernel_18 "));
        assert_eq!(position("kernel_3 "), None);
    }
}
