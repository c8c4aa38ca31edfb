//! Ctrl-C and SIGTERM take everything down before the process ends.
//!
//! A thread waits for the signals; it, and not the interrupted code, tears down, because that code
//! may be stuck in anything. From then on a [`crate::run::Run`] refuses to make more.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static INSTALLED: Once = Once::new();

/// Has a signal asked for the end?
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Acquire)
}

/// Fails once a signal has asked for the end.
///
/// # Errors
/// After SIGINT, SIGTERM or SIGHUP.
pub fn check() -> Result<()> {
    if interrupted() {
        bail!("interrupted by a signal");
    }
    Ok(())
}

/// Catches the signals from here on (once; later calls do nothing).
pub fn install() {
    INSTALLED.call_once(|| match Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        Ok(mut signals) => {
            std::thread::spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    INTERRUPTED.store(true, Ordering::Release);
                    eprintln!("\nsignal {signal}: tearing down");
                    crate::run::destroy_all();
                    std::process::exit(128 + signal);
                }
            });
        }
        Err(error) => eprintln!("signals cannot be caught, a Ctrl-C leaves things behind: {error}"),
    });
}

/// Leaves the rest to the signal's thread when there was one, else returns.
pub fn let_it_finish() {
    while interrupted() {
        std::thread::park();
    }
}
