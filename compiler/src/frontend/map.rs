//! Files in memory: mapped read-only, with pages given back once a tensor was read.

use crate::Error;
use memmap2::Mmap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A mapped file.
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    map: Mmap,
}

/// An error about a file that cannot be read, with the operating system's reason.
pub fn unreadable(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new("IG0101", "cannot read the file").file(path).note(why.to_string())
}

impl Mapped {
    /// Maps a regular file; pipes and devices are refused, because they have no size.
    pub fn open(path: &Path) -> Result<Mapped, Error> {
        let found = std::fs::metadata(path).map_err(|e| unreadable(path, e))?;
        if !found.is_file() {
            return Err(unreadable(path, "not a regular file"));
        }
        let file = File::open(path).map_err(|e| unreadable(path, e))?;
        // SAFETY: the mapping is read-only and its bytes are only ever read as integers. Whoever
        // shortens the file while it is compiled gets a bus error, as with any mapped input.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| unreadable(path, e))?;
        Ok(Mapped { path: path.to_path_buf(), map })
    }

    /// The path the user gave.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Gives the pages of a range back to the operating system; the next access reads the file.
    pub fn release(&self, start: usize, len: usize) {
        #[cfg(unix)]
        if len > 0 {
            // SAFETY: the mapping is shared, read-only and backed by the file: a dropped page
            // comes back with the same bytes, so no reader sees a change.
            let advised = unsafe {
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len)
            };
            // Refused advice costs memory, not correctness.
            drop(advised);
        }
        #[cfg(not(unix))]
        let _ = (start, len);
    }
}
