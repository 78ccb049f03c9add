//! The bytes of a GGUF header, one field after the other, never past the end.

use super::{Array, damaged};
use crate::Error;
use serde_json::Value as Json;

/// A value of the metadata.
pub enum Value {
    /// A number, truth value or string.
    Scalar(Json),
    /// A list of one of them.
    Array(Array),
}

/// A position in the header.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// What a type number means, and how many bytes a value has at least.
#[derive(Clone, Copy)]
enum Kind {
    Int { bytes: usize, signed: bool },
    Float { bytes: usize },
    Bool,
    String,
    Array,
}

impl Kind {
    fn of_id(id: u32) -> Result<Kind, Error> {
        Ok(match id {
            0 => Kind::Int { bytes: 1, signed: false },
            1 => Kind::Int { bytes: 1, signed: true },
            2 => Kind::Int { bytes: 2, signed: false },
            3 => Kind::Int { bytes: 2, signed: true },
            4 => Kind::Int { bytes: 4, signed: false },
            5 => Kind::Int { bytes: 4, signed: true },
            6 => Kind::Float { bytes: 4 },
            7 => Kind::Bool,
            8 => Kind::String,
            9 => Kind::Array,
            10 => Kind::Int { bytes: 8, signed: false },
            11 => Kind::Int { bytes: 8, signed: true },
            12 => Kind::Float { bytes: 8 },
            other => return Err(damaged(format!("found value type {other}, 0 to 12 exist"))),
        })
    }

    fn least(self) -> usize {
        match self {
            Kind::Int { bytes, .. } | Kind::Float { bytes } => bytes,
            Kind::Bool => 1,
            Kind::String => 8,
            Kind::Array => 12,
        }
    }
}

impl<'a> Reader<'a> {
    /// The start of a file.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The next bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.at..];
        let Some(bytes) = rest.get(..n) else {
            return Err(damaged(format!(
                "cut short: {n} bytes are needed at offset {}, {} are left",
                self.at,
                rest.len()
            )));
        };
        self.at += n;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// A `u32`.
    pub fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A `u64`.
    pub fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of items of at least `least` bytes each, which the rest of the file can hold.
    pub fn count(&mut self, least: usize) -> Result<usize, Error> {
        let n = self.u64()?;
        let room = (self.bytes.len() - self.at) / least.max(1);
        match usize::try_from(n) {
            Ok(n) if n <= room => Ok(n),
            _ => Err(damaged(format!(
                "found a count of {n} at offset {}, the rest of the file holds at most {room}",
                self.at - 8
            ))),
        }
    }

    /// A string, which must be UTF-8.
    pub fn string(&mut self) -> Result<String, Error> {
        let (at, n) = (self.at, self.count(1)?);
        match std::str::from_utf8(self.take(n)?) {
            Ok(text) => Ok(text.to_string()),
            Err(_) => Err(damaged(format!("the string at offset {at} is not UTF-8"))),
        }
    }

    /// A type number and its value.
    pub fn value(&mut self) -> Result<Value, Error> {
        let kind = Kind::of_id(self.u32()?)?;
        Ok(Value::Scalar(match kind {
            Kind::Int { bytes, signed } => self.int(bytes, signed)?,
            Kind::Float { bytes } => float_json(self.float(bytes)?),
            Kind::Bool => Json::from(self.take(1)?[0] != 0),
            Kind::String => Json::from(self.string()?),
            Kind::Array => return self.list().map(Value::Array),
        }))
    }

    fn list(&mut self) -> Result<Array, Error> {
        let kind = Kind::of_id(self.u32()?)?;
        let n = self.count(kind.least())?;
        Ok(match kind {
            Kind::Int { bytes, signed } => Array::Ints(
                (0..n)
                    .map(|_| Ok(self.int(bytes, signed)?.as_i64().unwrap_or(i64::MAX)))
                    .collect::<Result<_, Error>>()?,
            ),
            Kind::Float { bytes } => {
                Array::Floats((0..n).map(|_| self.float(bytes)).collect::<Result<_, _>>()?)
            }
            Kind::Bool => Array::Bools(self.take(n)?.iter().map(|&b| b != 0).collect()),
            Kind::String => {
                Array::Strings((0..n).map(|_| self.string()).collect::<Result<_, _>>()?)
            }
            Kind::Array => return Err(damaged("arrays of arrays are not supported")),
        })
    }

    fn int(&mut self, bytes: usize, signed: bool) -> Result<Json, Error> {
        let raw = self.take(bytes)?;
        let negative = signed && raw[bytes - 1] & 0x80 != 0;
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes].copy_from_slice(raw);
        Ok(match signed {
            true => Json::from(i64::from_le_bytes(wide)),
            false => Json::from(u64::from_le_bytes(wide)),
        })
    }

    /// A float; one of 32 bits becomes the shortest decimal that rounds to it, as people wrote it.
    fn float(&mut self, bytes: usize) -> Result<f64, Error> {
        if bytes == 8 {
            return Ok(f64::from_le_bytes(self.array()?));
        }
        let x = f32::from_le_bytes(self.array()?);
        Ok(x.to_string().parse().unwrap_or(f64::from(x)))
    }
}

/// JSON has no NaN and no infinity: they become strings, which no hyper-parameter accepts.
fn float_json(x: f64) -> Json {
    match x.is_finite() {
        true => Json::from(x),
        false => Json::from(x.to_string()),
    }
}
