//! Static libraries with one member, as the linker of each system reads them.
//!
//! Dates and owners are zero, so equal input gives equal bytes.

use std::io::{self, Seek, SeekFrom, Write};

/// A flavour of the archive format: how names are written and where symbols are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// System V with GNU's index: one member `/`, offsets in big-endian order.
    Gnu,
    /// Darwin's: names before the data (`#1/LENGTH`), an index `__.SYMDEF SORTED`, members on 8 bytes.
    Darwin,
    /// Microsoft's: GNU's index, then a second one with sorted names in little-endian order.
    Coff,
}

const MAGIC: &[u8] = b"!<arch>\n";
const HEADER_BYTES: usize = 60;

/// A member of the index: its name as the header has it, and its contents.
type Index = (String, Vec<u8>);

/// Writes a library with one member, `name` written by `body`, and an index of `symbols`.
pub fn write<W: Write + Seek>(
    sink: &mut W,
    flavour: Flavour,
    name: &str,
    symbols: &[String],
    body: impl FnOnce(&mut W) -> io::Result<()>,
) -> io::Result<()> {
    // The index says where the member is, and its own size does not depend on that.
    let before = |at| -> Vec<Index> {
        match flavour {
            Flavour::Gnu => vec![("/".into(), gnu_index(symbols, at))],
            Flavour::Darwin => vec![darwin_index(symbols, at)],
            Flavour::Coff => {
                let first = ("/".to_string(), gnu_index(symbols, at));
                vec![first, ("/".into(), second_index(symbols, at))]
            }
        }
    };
    let sizes = before(0).iter().map(|(_, bytes)| HEADER_BYTES + bytes.len()).sum::<usize>();
    let member_at = (MAGIC.len() + sizes) as u32;
    sink.write_all(MAGIC)?;
    for (name, bytes) in before(member_at) {
        sink.write_all(&header(&name, bytes.len() as u64))?;
        sink.write_all(&bytes)?;
    }

    let (name, prefix) = match flavour {
        Flavour::Gnu | Flavour::Coff => (format!("{name}/"), vec![]),
        Flavour::Darwin => long_name(name, u64::from(member_at)),
    };
    sink.write_all(&header(&name, 0))?;
    let start = sink.stream_position()?;
    sink.write_all(&prefix)?;
    body(sink)?;
    let end = sink.stream_position()?;
    // Darwin counts the padding of a member as part of it, the others do not.
    let padding = if flavour == Flavour::Darwin { end.next_multiple_of(8) - end } else { end % 2 };
    sink.write_all(&b"\n\n\n\n\n\n\n"[..padding as usize])?;
    let size = end - start + if flavour == Flavour::Darwin { padding } else { 0 };
    sink.seek(SeekFrom::Start(u64::from(member_at)))?;
    sink.write_all(&header(&name, size))?;
    sink.seek(SeekFrom::Start(end + padding))?;
    Ok(())
}

/// The bytes before a member.
fn header(name: &str, size: u64) -> [u8; HEADER_BYTES] {
    let text = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 644);
    text.into_bytes().try_into().expect("names and sizes fit the format")
}

fn strings<'s>(symbols: impl Iterator<Item = &'s String>) -> Vec<u8> {
    symbols.flat_map(|s| s.bytes().chain([0])).collect()
}

fn padded(mut bytes: Vec<u8>, multiple: usize) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(multiple), 0);
    bytes
}

fn sorted(symbols: &[String]) -> Vec<&String> {
    let mut sorted: Vec<&String> = symbols.iter().collect();
    sorted.sort();
    sorted
}

fn gnu_index(symbols: &[String], member_at: u32) -> Vec<u8> {
    let mut index = (symbols.len() as u32).to_be_bytes().to_vec();
    index.extend(symbols.iter().flat_map(|_| member_at.to_be_bytes()));
    index.extend(strings(symbols.iter()));
    padded(index, 2)
}

fn second_index(symbols: &[String], member_at: u32) -> Vec<u8> {
    let mut index = vec![];
    for word in [1, member_at, symbols.len() as u32] {
        index.extend(word.to_le_bytes());
    }
    index.extend(symbols.iter().flat_map(|_| 1u16.to_le_bytes()));
    index.extend(strings(sorted(symbols).into_iter()));
    padded(index, 2)
}

fn darwin_index(symbols: &[String], member_at: u32) -> Index {
    let symbols = sorted(symbols);
    let (name, mut index) = long_name("__.SYMDEF SORTED", MAGIC.len() as u64);
    index.extend((symbols.len() as u32 * 8).to_le_bytes());
    let mut at = 0u32;
    for symbol in &symbols {
        index.extend(at.to_le_bytes());
        index.extend(member_at.to_le_bytes());
        at += symbol.len() as u32 + 1;
    }
    let names = padded(strings(symbols.into_iter()), 8);
    index.extend((names.len() as u32).to_le_bytes());
    index.extend(names);
    (name, padded(index, 8))
}

/// A name in front of the data, filled up so that the data of a member at `at` starts on 8 bytes.
fn long_name(name: &str, at: u64) -> Index {
    let data = at as usize + HEADER_BYTES;
    let end = (data + name.len()).next_multiple_of(8);
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(end - data, 0);
    (format!("#1/{}", bytes.len()), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::read::archive::ArchiveFile;
    use std::io::Cursor;

    #[test]
    fn every_flavour_reads_back() {
        let symbols = ["_b", "_a"].map(String::from);
        for flavour in [Flavour::Gnu, Flavour::Darwin, Flavour::Coff] {
            for body in ["odd", "even"] {
                let mut sink = Cursor::new(vec![]);
                let write = |to: &mut Cursor<Vec<u8>>| to.write_all(body.as_bytes());
                super::write(&mut sink, flavour, "m.o", &symbols, write).unwrap();
                let bytes = sink.into_inner();
                let file = ArchiveFile::parse(&*bytes).unwrap();
                let members: Vec<_> = file.members().map(|m| m.unwrap()).collect();
                let [member] = &members[..] else { panic!("{} members", members.len()) };
                assert_eq!(member.name(), b"m.o", "{flavour:?}");
                let data = member.data(&*bytes).unwrap();
                assert_eq!(&data[..body.len()], body.as_bytes(), "{flavour:?}");
                for symbol in file.symbols().unwrap().unwrap() {
                    let found = file.member(symbol.unwrap().offset()).unwrap();
                    assert_eq!(found.name(), b"m.o", "{flavour:?}");
                }
            }
        }
    }
}
