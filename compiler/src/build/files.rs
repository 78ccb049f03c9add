//! Files that are written beside their place first and moved there together.

use super::scratch::Scratch;
use crate::Error;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The error, with what to do where that is known.
pub(super) fn cannot_write(path: &Path, e: &io::Error) -> Error {
    use io::ErrorKind::{AlreadyExists, FileTooLarge, NotADirectory, QuotaExceeded, StorageFull};
    let error = Error::new("IG0601", "cannot write").file(path).note(e.to_string());
    match e.kind() {
        StorageFull | QuotaExceeded => error.help("make room, or write to another disk with -o"),
        FileTooLarge => error.help("files may not grow that large here: see `ulimit -f`"),
        AlreadyExists | NotADirectory => error.help("-o takes a folder, and found a file"),
        _ => error,
    }
}

/// Files on their way into a folder.
pub(super) struct Files<'d> {
    /// The folder.
    pub dir: &'d Path,
    done: Vec<(String, NamedTempFile)>,
    /// Dropped after the files.
    scratch: Scratch,
}

impl<'d> Files<'d> {
    /// None yet; the folder is made where it is not there.
    pub fn new(dir: &'d Path) -> Result<Files<'d>, Error> {
        Ok(Files { dir, done: vec![], scratch: Scratch::new(dir)? })
    }

    pub fn temporary(&self) -> Result<NamedTempFile, Error> {
        NamedTempFile::new_in(self.scratch.path()).map_err(|e| cannot_write(self.dir, &e))
    }

    pub fn add(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
    ) -> Result<(), Error> {
        let file = self.temporary()?;
        let mut to = BufWriter::with_capacity(1 << 20, file.as_file());
        let written = write(&mut to).and_then(|()| to.flush());
        drop(to);
        written.map_err(|e| cannot_write(&self.dir.join(name), &e))?;
        self.keep(name, file);
        Ok(())
    }

    pub fn text(&mut self, name: &str, text: &str) -> Result<(), Error> {
        self.add(name, |to| to.write_all(text.as_bytes()))
    }

    pub fn keep(&mut self, name: &str, file: NamedTempFile) {
        self.done.push((name.to_string(), file));
    }

    pub fn finish(self) -> Result<Vec<PathBuf>, Error> {
        let mut paths = vec![];
        for (name, file) in self.done {
            let path = self.dir.join(name);
            let folder = path.parent().expect("it is in a folder");
            fs::create_dir_all(folder).map_err(|e| cannot_write(folder, &e))?;
            make_readable(file.as_file()).map_err(|e| cannot_write(&path, &e))?;
            file.persist(&path).map_err(|e| cannot_write(&path, &e.error))?;
            paths.push(path);
        }
        Ok(paths)
    }
}

/// Temporary files are for their owner only; a library is for everyone.
fn make_readable(file: &File) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}
