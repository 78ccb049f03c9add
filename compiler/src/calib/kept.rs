//! Rounded weights as bytes, for the cache.

use super::Rounded;
use ir::quant::Quantised;
use ir::{DType, IntFormat};

/// Weights in the order of their names: name, format, dimensions, integers, scales, lows.
pub fn pack(rounded: &Rounded) -> Vec<u8> {
    let mut names: Vec<&String> = rounded.keys().collect();
    names.sort();
    let mut bytes = vec![];
    for name in names {
        let matrix = &rounded[name];
        for text in [name, &matrix.format.to_string()] {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        matrix.dims.iter().for_each(|d| bytes.extend(d.to_le_bytes()));
        // One byte each: integers of at most 8 bits, with or without a sign.
        bytes.extend(matrix.q.iter().map(|&q| q as u8));
        for x in matrix.scales.iter().chain(&matrix.lows).chain(&matrix.units) {
            bytes.extend(x.to_le_bytes());
        }
    }
    bytes
}

/// The same back; `None` for bytes that `pack` does not write.
pub fn unpack(mut bytes: &[u8]) -> Option<Rounded> {
    let mut rounded = Rounded::new();
    while !bytes.is_empty() {
        let mut text = || -> Option<String> {
            let length = word(&mut bytes)?;
            String::from_utf8(take(&mut bytes, length)?.to_vec()).ok()
        };
        let (name, format) = (text()?, text()?);
        let DType::Int(format) = DType::from_name(&format)? else { return None };
        let matrix = matrix(&mut bytes, format)?;
        rounded.insert(name, matrix);
    }
    Some(rounded)
}

fn matrix(bytes: &mut &[u8], format: IntFormat) -> Option<Quantised> {
    let dims = [word(bytes)?, word(bytes)?];
    if !format.fits(dims[1]) {
        return None;
    }
    let elements = dims[0].checked_mul(dims[1])?;
    let integer = |&b: &u8| if format.zero { i16::from(b) } else { i16::from(b as i8) };
    let q = take(bytes, elements)?.iter().map(integer).collect();
    let groups = elements / format.group_of(dims[1]);
    let mut floats = |count: u64| -> Option<Vec<f32>> {
        let bytes = take(bytes, count.checked_mul(4)?)?.chunks_exact(4);
        Some(bytes.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    };
    let scales = floats(groups)?;
    let lows = floats(if format.zero { groups } else { 0 })?;
    let units = floats(if format.nested { dims[0] } else { 0 })?;
    Some(Quantised { dims, format, q, scales, lows, units })
}

fn word(bytes: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?))
}

fn take<'b>(bytes: &mut &'b [u8], count: u64) -> Option<&'b [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(count).ok()?)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::Tensor;

    #[test]
    fn rounded_weights_come_back() {
        let data = (0..4 * 64).map(|i| ((i * 37) % 101) as f32 * 0.01 - 0.4).collect();
        let tensor = Tensor { dims: vec![4, 64], data };
        let formats = ["i4g32", "i4g32z", "i4g32n", "i8row", "i8g64z"];
        let round = |name: &&str| {
            let format = IntFormat::from_name(name).expect("a format");
            (name.to_string(), Quantised::round(&tensor, format))
        };
        let rounded: Rounded = formats.iter().map(round).collect();
        let bytes = pack(&rounded);
        assert_eq!(unpack(&bytes), Some(rounded));
        for cut in [1, 9, 20, bytes.len() - 1] {
            assert_eq!(unpack(&bytes[..cut]), None, "{cut} bytes");
        }
    }
}
