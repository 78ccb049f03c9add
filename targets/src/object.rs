//! Object files.

use crate::target::Target;
use cranelift_module::{DataId, default_libcall_names};
pub use cranelift_object::ObjectProduct;
use cranelift_object::{ObjectBuilder, ObjectModule};
use object::write::{SectionId, StandardSection, Symbol, SymbolSection};
use object::{BinaryFormat, Object, ObjectSection, SectionKind};
use std::io::{self, Write};

/// Bytes of the hash of the weights.
const HASH_BYTES: u64 = 8;

/// An empty object for a target.
pub fn module(target: &Target, name: &str) -> ObjectModule {
    let builder = ObjectBuilder::new(target.ordered.clone(), name, default_libcall_names());
    let mut builder = builder.expect("every target of ours has an object format");
    // A section per function lets a linker drop what a program does not call.
    builder.per_function_section(true);
    ObjectModule::new(builder)
}

/// Writes the finished object to `sink`; `weights` become the contents of data that was declared for
/// them, borrowed, never copied, and `hash` that of eight bytes.
pub fn write(
    mut product: ObjectProduct,
    weights: Option<(DataId, &[u8])>,
    hash: Option<(DataId, u64)>,
    sink: &mut dyn Write,
) -> io::Result<()> {
    if let Some((id, bytes)) = weights {
        // SAFETY: the object asks for 'static data; it is consumed by this function, before the
        // borrow of `bytes` ends.
        let bytes: &'static [u8] = unsafe { std::mem::transmute(bytes) };
        place_weights(&mut product, id, bytes);
    }
    if let Some((id, hash)) = hash {
        let symbol = product.data_symbol(id);
        let object = &mut product.object;
        let section = object.section_id(StandardSection::ReadOnlyData);
        let offset = object.append_section_data(section, &hash.to_le_bytes(), HASH_BYTES);
        move_symbol(object.symbol_mut(symbol), section, offset, HASH_BYTES);
    }
    let object = &mut product.object;
    if object.format() == BinaryFormat::Elf {
        // Without this section GNU ld takes the object to want an executable stack.
        object.add_section(vec![], b".note.GNU-stack".to_vec(), SectionKind::Other);
    }
    object.write_stream(sink).map_err(|e| io::Error::other(e.to_string()))
}

/// What an object has beside weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of machine code.
    pub code_bytes: u64,
    /// The same where each function starts on a line of its own, as linkers place them.
    pub placed_code_bytes: u64,
    /// Bytes of constants.
    pub tables_bytes: u64,
}

/// The sizes that `write` will write; `hash` as there.
pub fn sizes(product: &ObjectProduct, hash: bool) -> io::Result<Sizes> {
    let other = |e: &dyn std::fmt::Display| io::Error::other(e.to_string());
    let bytes = product.object.write().map_err(|e| other(&e))?;
    let file = object::File::parse(&bytes[..]).map_err(|e| other(&e))?;
    let mut sizes = Sizes { code_bytes: 0, placed_code_bytes: 0, tables_bytes: 0 };
    for section in file.sections() {
        match section.kind() {
            SectionKind::Text => {
                sizes.code_bytes += section.size();
                sizes.placed_code_bytes += section.size().next_multiple_of(64);
            }
            SectionKind::ReadOnlyData => sizes.tables_bytes += section.size(),
            _ => {}
        }
    }
    if hash {
        sizes.tables_bytes = sizes.tables_bytes.next_multiple_of(HASH_BYTES) + HASH_BYTES;
    }
    Ok(sizes)
}

/// Segment and section of the weights: their own, so that a linker script can place them.
pub fn weights_section(format: BinaryFormat) -> (&'static str, &'static str) {
    match format {
        BinaryFormat::MachO => ("__TEXT", "__weights"),
        BinaryFormat::Coff => ("", ".rdata$weights"),
        _ => ("", ".rodata.weights"),
    }
}

fn place_weights(product: &mut ObjectProduct, id: DataId, bytes: &'static [u8]) {
    let symbol = product.data_symbol(id);
    let object = &mut product.object;
    let (segment, section) = weights_section(object.format());
    let section = object.add_section(segment.into(), section.into(), SectionKind::ReadOnlyData);
    object.set_section_data(section, bytes, 64);
    move_symbol(object.symbol_mut(symbol), section, 0, bytes.len() as u64);
}

fn move_symbol(symbol: &mut Symbol, section: SectionId, offset: u64, bytes: u64) {
    symbol.section = SymbolSection::Section(section);
    symbol.value = offset;
    symbol.size = bytes;
}
