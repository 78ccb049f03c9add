//! Images of other systems, mapped into this process: code of ours needs nothing of its system, so
//! what a linker made of it for Windows or macOS runs here.

use memmap2::{Mmap, MmapMut};
use object::{Object, ObjectSegment};
use std::collections::BTreeMap;

/// A mapped image.
pub struct Image {
    map: Mmap,
    exports: BTreeMap<String, usize>,
}

impl Image {
    /// Maps a linked image (PE, Mach-O or ELF) whose code addresses everything relative to itself.
    pub fn new(bytes: &[u8]) -> Image {
        let file = object::File::parse(bytes).expect("an image");
        let segments = || file.segments().filter(|s| !s.data().expect("readable").is_empty());
        let base = segments().map(|s| s.address()).min().expect("a segment");
        let end = segments().map(|s| s.address() + s.size()).max().expect("a segment");
        let mut map = MmapMut::map_anon((end - base) as usize).expect("memory");
        for segment in segments() {
            let (at, data) = ((segment.address() - base) as usize, segment.data().expect("data"));
            let bytes = data.len().min(segment.size() as usize);
            map[at..at + bytes].copy_from_slice(&data[..bytes]);
        }
        let exports = file.exports().expect("exports").into_iter().map(|export| {
            let name = String::from_utf8_lossy(export.name()).into_owned();
            (name.trim_start_matches('_').to_string(), (export.address() - base) as usize)
        });
        let exports = exports.collect();
        Image { map: map.make_exec().expect("executable memory"), exports }
    }

    /// The address of an exported function, `_` before its name or not.
    pub fn function(&self, name: &str) -> *const u8 {
        let at = self.exports.get(name).unwrap_or_else(|| panic!("no {name} is exported"));
        self.map[*at..].as_ptr()
    }
}
