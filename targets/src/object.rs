//! Object files and archives.

use crate::target::Target;
use cranelift_module::{DataId, default_libcall_names};
pub use cranelift_object::ObjectProduct;
use cranelift_object::{ObjectBuilder, ObjectModule};
use object::SectionKind;
use object::write::SymbolSection;
use std::io::{self, Seek, SeekFrom, Write};

/// An empty object for a target.
pub fn module(target: &Target, name: &str) -> ObjectModule {
    let builder = ObjectBuilder::new(target.ordered.clone(), name, default_libcall_names());
    let mut builder = builder.expect("every target of ours has an object format");
    // A section per function lets a linker drop what a program does not call.
    builder.per_function_section(true);
    ObjectModule::new(builder)
}

/// Writes the finished object to `sink`; `weights` become the contents of the data declared as
/// `weights_id`, borrowed, never copied.
pub fn write(
    mut product: ObjectProduct,
    weights: Option<(DataId, &[u8])>,
    sink: &mut dyn Write,
) -> io::Result<()> {
    if let Some((id, bytes)) = weights {
        // SAFETY: the object asks for 'static data; it is consumed by this function, before the
        // borrow of `bytes` ends.
        let bytes: &'static [u8] = unsafe { std::mem::transmute(bytes) };
        place_weights(&mut product, id, bytes);
    }
    let object = &mut product.object;
    // Without this section GNU ld takes the object to want an executable stack.
    object.add_section(vec![], b".note.GNU-stack".to_vec(), SectionKind::Other);
    object.write_stream(sink).map_err(|e| io::Error::other(e.to_string()))
}

fn place_weights(product: &mut ObjectProduct, id: DataId, bytes: &'static [u8]) {
    let symbol = product.data_symbol(id);
    let object = &mut product.object;
    let section =
        object.add_section(vec![], b".rodata.weights".to_vec(), SectionKind::ReadOnlyData);
    object.set_section_data(section, bytes, 64);
    let symbol = object.symbol_mut(symbol);
    symbol.section = SymbolSection::Section(section);
    symbol.value = 0;
    symbol.size = bytes.len() as u64;
}

/// Writes a static library with one member, `member` written by `body`, and the index of `symbols`
/// that linkers look into. Dates and owners are zero, so equal input gives equal bytes.
pub fn write_archive<W: Write + Seek>(
    sink: &mut W,
    member: &str,
    symbols: &[String],
    body: impl FnOnce(&mut W) -> io::Result<()>,
) -> io::Result<()> {
    sink.write_all(b"!<arch>\n")?;
    let names: Vec<u8> = symbols.iter().flat_map(|s| s.bytes().chain([0])).collect();
    let index_bytes = (4 + 4 * symbols.len() + names.len()).next_multiple_of(2);
    sink.write_all(&entry("/", index_bytes as u64))?;
    let member_at = (8 + 60 + index_bytes) as u32;
    let mut index = (symbols.len() as u32).to_be_bytes().to_vec();
    index.extend(symbols.iter().flat_map(|_| member_at.to_be_bytes()));
    index.extend(names);
    index.resize(index_bytes, 0);
    sink.write_all(&index)?;
    sink.write_all(&entry(&format!("{member}/"), 0))?;
    let start = sink.stream_position()?;
    body(sink)?;
    let size = sink.stream_position()? - start;
    if size % 2 == 1 {
        sink.write_all(b"\n")?;
    }
    let end = sink.stream_position()?;
    sink.seek(SeekFrom::Start(u64::from(member_at)))?;
    sink.write_all(&entry(&format!("{member}/"), size))?;
    sink.seek(SeekFrom::Start(end))?;
    Ok(())
}

/// The 60 bytes before a member.
fn entry(name: &str, size: u64) -> [u8; 60] {
    let text = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 644);
    text.into_bytes().try_into().expect("names and sizes fit the format")
}
