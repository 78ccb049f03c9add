//! Where everything goes: `--emit memory-map`, and `--mem`, which a library must fit.

use crate::Error;
use crate::output::{grouped, table};
use ir::Module;
use runtime::Library;
use std::str::FromStr;
use targets::object::Sizes;

/// One stretch of a device's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// What the user calls it.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Whether only what never changes may go there.
    pub read_only: bool,
}

impl FromStr for Region {
    type Err = String;

    fn from_str(text: &str) -> Result<Region, String> {
        let read = || {
            let (name, rest) = text.split_once(':').filter(|(name, _)| !name.is_empty())?;
            let (size, read_only) = match rest.split_once(',') {
                Some((size, "ro")) => (size, true),
                Some((size, "rw")) => (size, false),
                Some(_) => return None,
                None => (rest, false),
            };
            Some(Region { name: name.into(), bytes: size_bytes(size)?, read_only })
        };
        read().ok_or_else(|| "expected NAME:SIZE or NAME:SIZE,ro, as in flash:128M,ro".into())
    }
}

/// Sizes of memory count in powers of two, as linker scripts do.
fn size_bytes(text: &str) -> Option<u64> {
    let units = [("K", 10), ("M", 20), ("G", 30), ("", 0)];
    let (unit, shift) = units.into_iter().find(|(unit, _)| text.ends_with(unit))?;
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

/// Something that takes up memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    name: &'static str,
    bytes: u64,
    changes: bool,
    what: &'static str,
}

/// The parts of a library and of one conversation, larger ones first where they never change.
fn parts(library: &Library, sizes: Sizes) -> [Part; 6] {
    let part = |name, bytes, changes, what| Part { name, bytes, changes, what };
    [
        part("weights", library.weights.bytes, false, "read in place"),
        part("tables", sizes.tables_bytes, false, "tokenizer, chat template, messages"),
        part("code", sizes.placed_code_bytes, false, "run in place, functions on lines of 64"),
        part("state", library.state.bytes, true, "one conversation"),
        part("scratch", library.scratch_bytes, true, "one call in flight"),
        part("stack", library.stack_bytes, true, "the deepest chain of calls"),
    ]
}

/// Parts in regions.
struct Placement<'r> {
    regions: &'r [Region],
    parts: [Part; 6],
    /// The region of each part.
    places: [Option<usize>; 6],
}

impl<'r> Placement<'r> {
    /// Each part in the first region with room for it; what never changes prefers those that are
    /// read only.
    fn new(parts: [Part; 6], regions: &'r [Region]) -> Placement<'r> {
        let mut free: Vec<u64> = regions.iter().map(|r| r.bytes).collect();
        let places = parts.each_ref().map(|part| {
            let fits = |&i: &usize| {
                let suits = !(part.changes && regions[i].read_only);
                suits && part.bytes.next_multiple_of(64) <= free[i]
            };
            let all = 0..regions.len();
            let preferred = all.clone().filter(|&i| regions[i].read_only);
            let place = preferred.chain(all).find(fits);
            if let Some(i) = place {
                free[i] -= part.bytes.next_multiple_of(64);
            }
            place
        });
        Placement { regions, parts, places }
    }

    fn is_whole(&self) -> bool {
        self.places.iter().all(Option::is_some)
    }

    /// Parts by region, with what is left of each.
    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![["memory", "part", "bytes", "of"].map(String::from).to_vec()];
        let of = |place| (0..self.parts.len()).filter(move |&p| self.places[p] == place);
        for (i, region) in self.regions.iter().enumerate() {
            let used: u64 = of(Some(i)).map(|p| self.parts[p].bytes.next_multiple_of(64)).sum();
            for p in of(Some(i)) {
                rows.push(self.row(&region.name, p));
            }
            let free = grouped(region.bytes - used);
            rows.push(vec![region.name.clone(), "free".into(), free, grouped(region.bytes)]);
        }
        rows.extend(of(None).map(|p| self.row("(none)", p)));
        rows
    }

    fn row(&self, region: &str, part: usize) -> Vec<String> {
        let part = &self.parts[part];
        vec![region.into(), part.name.into(), grouped(part.bytes), String::new()]
    }
}

/// Refuses two regions of one name: a table could not tell them apart.
pub fn check_names(regions: &[Region]) -> Result<(), Error> {
    let again = |(i, r): &(usize, &Region)| regions[..*i].iter().any(|other| other.name == r.name);
    match regions.iter().enumerate().find(again) {
        Some((_, region)) => Err(Error::new("IG0401", format!("--mem {} twice", region.name))
            .help("a stretch of memory each, with a name of its own")),
        None => Ok(()),
    }
}

/// Refuses a library that does not fit.
pub fn check(library: &Library, sizes: Sizes, regions: &[Region]) -> Result<(), Error> {
    let placement = Placement::new(parts(library, sizes), regions);
    if regions.is_empty() || placement.is_whole() {
        return Ok(());
    }
    let places = placement.parts.iter().zip(placement.places);
    let missing: Vec<&Part> = places.filter(|(_, at)| at.is_none()).map(|(part, _)| part).collect();
    let names: Vec<&str> = missing.iter().map(|part| part.name).collect();
    let what = format!("--mem has no room for {}", names.join(", "));
    let error = table(&placement.rows()).lines().fold(Error::new("IG0507", what), Error::note);
    Err(error.help(advice(missing[0], regions)))
}

/// What helps the first part without a place.
fn advice(missing: &Part, regions: &[Region]) -> &'static str {
    match missing.name {
        _ if missing.changes && regions.iter().all(|r| r.read_only) => {
            "memory that can be written is needed too, as in --mem ram:32M"
        }
        "weights" => "--quant w8a8 or w4a8, or --budget size=BYTES, makes weights smaller",
        "state" => "--context N or --kv with fewer bits makes a conversation smaller",
        "scratch" => "--prefill-chunk N and -C threads=1 make scratch smaller",
        _ => "a larger region, or one more --mem, is needed",
    }
}

/// The text of `NAME.memory-map`.
pub fn map(module: &Module, library: &Library, sizes: Sizes, regions: &[Region]) -> String {
    let parts = parts(library, sizes);
    let mut rows = vec![["part", "bytes", ""].map(String::from).to_vec()];
    rows.extend(parts.iter().map(|part| {
        let access = if part.changes { "read, write" } else { "read only" };
        vec![part.name.into(), grouped(part.bytes), format!("{access}: {}", part.what)]
    }));
    let mut text = left_last(&rows);
    if !regions.is_empty() {
        text.push('\n');
        text.push_str(&table(&Placement::new(parts, regions).rows()));
    }
    text.push_str("\nstate\n");
    text.push_str(&table(&state_rows(module, library)));
    text.push_str("\nweights\n");
    text.push_str(&left_last(&weight_rows(module, library)));
    text
}

fn state_rows(module: &Module, library: &Library) -> Vec<Vec<String>> {
    let state = &library.state;
    let row =
        |offset: u64, bytes: u64, name: &str| vec![name.into(), grouped(offset), grouped(bytes)];
    let [tokens, logits, kv] = [state.tokens, state.logits, state.kv].map(u64::from);
    let mut rows = vec![
        ["part", "offset", "bytes"].map(String::from).to_vec(),
        row(0, tokens, "header"),
        row(tokens, logits - tokens, "tokens"),
        row(logits, kv - logits, "logits"),
    ];
    let ends = state.caches.iter().skip(1).map(|slot| slot.key_offset).chain([state.bytes]);
    for ((cache, slot), end) in module.caches.iter().zip(&state.caches).zip(ends) {
        rows.push(row(slot.key_offset, end - slot.key_offset, &format!("^{}", cache.name)));
    }
    rows
}

fn weight_rows(module: &Module, library: &Library) -> Vec<Vec<String>> {
    let weights = &library.weights;
    let mut rows = vec![["offset", "bytes", "weight"].map(String::from).to_vec()];
    let ends = weights.order.iter().skip(1).map(|id| weights.offset(*id)).chain([weights.bytes]);
    for (&id, end) in weights.order.iter().zip(ends) {
        let (weight, offset) = (module.weight(id), weights.offset(id));
        let name = format!("${} : {}", weight.name, weight.ty());
        rows.push(vec![grouped(offset), grouped(end - offset), name]);
    }
    rows
}

/// A table whose last column is words.
fn left_last(rows: &[Vec<String>]) -> String {
    let numbers: Vec<Vec<String>> = rows.iter().map(|r| r[..r.len() - 1].to_vec()).collect();
    let words = rows.iter().map(|r| &r[r.len() - 1]);
    let lines = table(&numbers);
    lines
        .lines()
        .zip(words)
        .map(|(line, words)| format!("{line}  {words}").trim_end().to_string() + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(text: &str) -> Region {
        text.parse().expect("a region")
    }

    #[test]
    fn regions_are_read() {
        let flash = Region { name: "flash".into(), bytes: 128 << 20, read_only: true };
        assert_eq!(region("flash:128M,ro"), flash);
        assert_eq!((region("ram:32K").bytes, region("ram:7,rw").bytes), (32 << 10, 7));
        for wrong in ["flash", ":1M", "a:0", "a:x", "a:1M,wo", "a:-1", "a:99999999999G"] {
            assert!(wrong.parse::<Region>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_changes_is_not_read_only() {
        let part = |name, bytes, changes| Part { name, bytes, changes, what: "" };
        let parts = || {
            [
                part("weights", 1000, false),
                part("tables", 64, false),
                part("code", 64, false),
                part("state", 100, true),
                part("scratch", 100, true),
                part("stack", 64, true),
            ]
        };
        let regions = [region("ram:640"), region("flash:1088,ro")];
        let placement = Placement::new(parts(), &regions);
        // Weights leave 64 bytes of flash, so code goes to RAM.
        assert_eq!(placement.places, [Some(1), Some(1), Some(0), Some(0), Some(0), Some(0)]);
        let text = table(&placement.rows());
        assert_eq!(
            text,
            "memory     part  bytes     of\n\
             ram        code     64\n\
             ram       state    100\n\
             ram     scratch    100\n\
             ram       stack     64\n\
             ram        free    256    640\n\
             flash   weights  1 000\n\
             flash    tables     64\n\
             flash      free      0  1 088\n"
        );
        let small = [region("ram:256"), region("flash:4K,ro")];
        let placement = Placement::new(parts(), &small);
        assert_eq!(placement.places[3..], [Some(0), Some(0), None]);
        assert!(!placement.is_whole());
    }
}
