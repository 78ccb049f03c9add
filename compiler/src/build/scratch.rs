//! The folder that a build writes into before it moves files to their place: gone once they are there,
//! when the build fails, and when a signal ends it.

use super::files::cannot_write;
use crate::Error;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A folder in the one that files go to.
pub(super) struct Scratch(Remains);

/// What a build that ended here would leave behind.
#[derive(Clone, PartialEq, Eq)]
struct Remains {
    scratch: PathBuf,
    /// Folders that were made, the outermost first; those that nothing came into go again.
    made: Vec<PathBuf>,
}

/// Of every build that is under way.
static REMAINS: Mutex<Vec<Remains>> = Mutex::new(vec![]);

fn remains() -> MutexGuard<'static, Vec<Remains>> {
    REMAINS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scratch {
    /// Makes it, and `dir` and the folders that this is in where they are not there.
    pub fn new(dir: &Path) -> Result<Scratch, Error> {
        // Held until all is written down: a signal waits.
        let mut all = remains();
        let absent = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
        let mut made: Vec<PathBuf> =
            dir.ancestors().take_while(absent).map(Path::to_path_buf).collect();
        made.reverse();
        let scratch = fs::create_dir_all(dir)
            .and_then(|()| tempfile::Builder::new().prefix(".ingot-").tempdir_in(dir));
        let scratch = scratch.map_err(|e| {
            remove_empty(&made);
            cannot_write(dir, &e)
        })?;
        let own = Remains { scratch: scratch.keep(), made };
        all.push(own.clone());
        Ok(Scratch(own))
    }

    pub fn path(&self) -> &Path {
        &self.0.scratch
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut all = remains();
        self.0.remove();
        all.retain(|other| *other != self.0);
    }
}

/// Times that a folder is emptied: the build may still be writing into it.
const TRIES: usize = 100;

impl Remains {
    fn remove(&self) {
        let removed = || match fs::remove_dir_all(&self.scratch) {
            Err(e) => e.kind() == ErrorKind::NotFound,
            Ok(()) => true,
        };
        let _ = (0..TRIES).any(|_| removed());
        remove_empty(&self.made);
    }
}

/// A folder that is not empty stays: removing it fails.
fn remove_empty(made: &[PathBuf]) {
    made.iter().rev().for_each(|dir| _ = fs::remove_dir(dir));
}

/// From here on a signal that ends the process ends it once nothing half written is left.
#[cfg(unix)]
pub fn clean_up_on_signals() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;
    use signal_hook::low_level::emulate_default_handler;

    // What whoever started us ignores, as `nohup` does, stays ignored.
    let heard = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|&signal| !is_ignored(signal));
    let Ok(mut signals) = Signals::new(heard) else { return };
    std::thread::spawn(move || {
        for signal in &mut signals {
            // Held to the end: no build goes on.
            let all = remains();
            all.iter().for_each(Remains::remove);
            let _ = emulate_default_handler(signal);
        }
    });
}

#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: zero is a value of the struct; it is only written to, and nothing is installed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let asked = libc::sigaction(signal, std::ptr::null(), &mut action);
        asked == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Signals are not how processes end here.
#[cfg(not(unix))]
pub fn clean_up_on_signals() {}
