//! Ctrl-C and SIGTERM. A process that is told to stop removes what it had half-written and exits with code 130, at once;
//! but a loop that can save its state is asked to do that first, and exits at the second time of asking. So is one that has promised
//! answers, which goes on computing until they are given.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::output::abandon;
use crate::report::say;
use crate::{Error, Result};

static REQUESTED: AtomicBool = AtomicBool::new(false);
/// Another rank was told to. Apart from the above: a launcher tells all ranks, and the second time of asking is the user's.
static REQUESTED_ELSEWHERE: AtomicBool = AtomicBool::new(false);
static SAVING: AtomicUsize = AtomicUsize::new(0);
static FINISHING: AtomicBool = AtomicBool::new(false);
static TOLD_TO_FINISH: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// From now on signals are handled as above. Where a handler cannot be installed the system's way stays: to stop at once.
pub fn install() {
    INSTALL.call_once(|| {
        #[cfg(unix)]
        keep_ignoring();
        let _ = ctrlc::set_handler(|| {
            if FINISHING.load(Ordering::SeqCst) && !TOLD_TO_FINISH.swap(true, Ordering::SeqCst) {
                say("stopping as soon as what was accepted is answered; press Ctrl-C again to stop at once");
                return;
            }
            let again = REQUESTED.swap(true, Ordering::SeqCst);
            if SAVING.load(Ordering::SeqCst) > 0 && !again {
                say("stopping as soon as everything is saved; press Ctrl-C again to stop at once, without saving");
                return;
            }
            abandon();
            say(&format!("error: {}", Error::Interrupted(String::new())));
            std::process::exit(130);
        });
    });
}

/// What the caller had this process ignore (`nohup` a hang-up, a shell script Ctrl-C for what it put into the background)
/// stays without effect: a handler alone would bring it back. Before any thread is started, since each inherits the mask.
#[cfg(unix)]
fn keep_ignoring() {
    use nix::sys::signal::{SigSet, Signal};
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    let is_ignored = |signal: &Signal| ignored >> (*signal as i32 - 1) & 1 == 1;
    let signals = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM].into_iter().filter(is_ignored);
    // A file over its size limit (ulimit -f) is then an error of the write that says so, and not the end without a word.
    let _ = signals.chain([Signal::SIGXFSZ]).collect::<SigSet>().thread_block();
}

/// While this lives, somebody asks [`requested`] again and again, and saves.
pub struct Saving(());

/// Begins a loop that can save its state.
pub fn saving() -> Saving {
    install();
    SAVING.fetch_add(1, Ordering::SeqCst);
    Saving(())
}

impl Drop for Saving {
    fn drop(&mut self) {
        SAVING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// From now on the first signal only makes [`told_to_finish`] true: nothing that computes is given up for it.
pub fn finish_first() {
    install();
    FINISHING.store(true, Ordering::SeqCst);
}

/// Whether a stop was asked for since [`finish_first`].
pub fn told_to_finish() -> bool {
    TOLD_TO_FINISH.load(Ordering::SeqCst)
}

/// Whether a stop was asked for, here or where another rank runs.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst) || REQUESTED_ELSEWHERE.load(Ordering::SeqCst)
}

/// Another rank was told to stop.
pub fn request_from_elsewhere() {
    REQUESTED_ELSEWHERE.store(true, Ordering::SeqCst);
}

/// An error if a stop was asked for: for long work inside a loop that saves.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn check() -> Result<()> {
    if requested() { Err(stopped()) } else { Ok(()) }
}

/// The error of long work that was stopped.
pub fn stopped() -> Error {
    Error::Interrupted("; go on with --resume".into())
}
