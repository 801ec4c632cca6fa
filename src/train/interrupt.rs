//! Ctrl-C and SIGTERM. A process that is told to stop removes what it had half-written and exits with code 130, at once;
//! but a loop that can save its state is asked to do that first, and exits at the second time of asking.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::output::abandon;
use crate::report::say;
use crate::{Error, Result};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static SAVING: AtomicUsize = AtomicUsize::new(0);
static INSTALL: Once = Once::new();

/// From now on signals are handled as above. Where a handler cannot be installed the system's way stays: to stop at once.
pub fn install() {
    INSTALL.call_once(|| {
        let _ = ctrlc::set_handler(|| {
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

/// Whether a stop was asked for.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// An error if a stop was asked for: for long work inside a loop that saves.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn check() -> Result<()> {
    if requested() { Err(Error::Interrupted("; go on with --resume".into())) } else { Ok(()) }
}
