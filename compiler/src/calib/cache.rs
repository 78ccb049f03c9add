//! What calibration found, kept beside the model so that it is found once.
//!
//! A file is named by a hash of all that it follows from (the tensors, the text, the settings), says
//! so inside, and carries a hash of its content: one that does not fit is left unread and written
//! again. Where nothing can be written, nothing is kept.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// First bytes of a file; another format is another text.
const MAGIC: &[u8; 8] = b"INGOTC01";
/// Magic, key, hash of the content.
const HEADER: usize = 8 + 16 + 16;

/// The folder of one model.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Beside a model: `.ingot` in its folder, or in the model where that is a folder.
    pub fn beside(model: &Path) -> Cache {
        let dir = if model.is_dir() { model } else { model.parent().unwrap_or(Path::new(".")) };
        Cache { dir: dir.join(".ingot") }
    }

    /// What was kept under a key.
    pub fn load(&self, kind: &str, key: u128) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.path(kind, key)).ok()?;
        let content = bytes.split_off(HEADER.min(bytes.len()));
        (bytes == header(key, &content)).then_some(content)
    }

    /// Keeps `content` under a key; what fails is no loss.
    pub fn store(&self, kind: &str, key: u128, content: &[u8]) {
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&self.dir)?;
            let mut file = NamedTempFile::new_in(&self.dir)?;
            file.write_all(&header(key, content))?;
            file.write_all(content)?;
            file.persist(self.path(kind, key))?;
            Ok(())
        };
        let _ = write();
    }

    /// Where it is kept.
    pub fn path(&self, kind: &str, key: u128) -> PathBuf {
        self.dir.join(format!("{key:032x}.{kind}"))
    }
}

/// A hash of bytes.
pub fn hash(bytes: &[u8]) -> u128 {
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    ir::random::digest(words.chain([bytes.len() as u64]))
}

fn header(key: u128, content: &[u8]) -> Vec<u8> {
    [&MAGIC[..], &key.to_le_bytes(), &hash(content).to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_kept_is_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::beside(folder.path());
        assert_eq!(cache.load("tokens", 7), None);
        cache.store("tokens", 7, b"some content");
        assert_eq!(cache.load("tokens", 7).as_deref(), Some(&b"some content"[..]));
        assert_eq!(cache.load("tokens", 8), None);
        assert_eq!(cache.load("other", 7), None);
    }

    #[test]
    fn a_damaged_or_foreign_file_is_left_unread() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::beside(folder.path());
        cache.store("tokens", 7, b"some content");
        let path = cache.path("tokens", 7);
        let whole = fs::read(&path).expect("was written");
        for at in [0, 10, 30, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).expect("writes");
            assert_eq!(cache.load("tokens", 7), None, "byte {at}");
        }
        fs::write(&path, &whole[..20]).expect("writes");
        assert_eq!(cache.load("tokens", 7), None);
        fs::rename(&path, cache.path("tokens", 9)).expect("renames");
        assert_eq!(cache.load("tokens", 9), None);
    }
}
