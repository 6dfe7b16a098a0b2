//! AMF0 reader (Action Message Format 0, section 2): bounded in depth and in number of values.

use thiserror::Error;

/// How deep objects and arrays may nest. Real encoders nest two deep.
pub const MAX_DEPTH: usize = 32;
/// Values in one message, keys included. Real metadata has fewer than a hundred.
pub const MAX_VALUES: usize = 4096;

/// An AMF0 value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Number (section 2.2).
    Number(f64),
    /// Boolean (section 2.3).
    Boolean(bool),
    /// String, LongString or XMLDocument (sections 2.4, 2.14, 2.17).
    String(String),
    /// Object, TypedObject or ECMA array (sections 2.5, 2.18, 2.10), in the order sent.
    Object(Vec<(String, Value)>),
    /// Strict array (section 2.12).
    Array(Vec<Value>),
    /// Date: milliseconds since 1970 (section 2.13).
    Date(f64),
    /// Reference to an earlier object by index (section 2.9); kept unresolved, nothing here needs it.
    Reference(u16),
    /// Null (section 2.7).
    Null,
    /// Undefined or unsupported (sections 2.8, 2.15).
    Undefined,
}

/// Why a message is not AMF0; it ends the peer's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Amf0Error {
    /// The bytes end inside a value.
    #[error("AMF0 value is cut short")]
    Truncated,
    /// Deeper than [`MAX_DEPTH`].
    #[error("AMF0 values nest deeper than {MAX_DEPTH}")]
    TooDeep,
    /// More than [`MAX_VALUES`].
    #[error("more than {MAX_VALUES} AMF0 values in a message")]
    TooMany,
    /// A type marker that is not defined.
    #[error("AMF0 marker {0:#04x} is not defined")]
    Marker(u8),
}

impl Value {
    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(text) = self { Some(text) } else { None }
    }

    /// The number, if this is one.
    pub fn as_number(&self) -> Option<f64> {
        if let Value::Number(number) = self { Some(*number) } else { None }
    }

    /// A property of an object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let Value::Object(properties) = self else { return None };
        properties.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

/// Reads all values of a message.
///
/// A switch to AMF3 (marker 0x11) ends the list: what follows is not AMF0, and nothing we obey.
pub fn read(bytes: &[u8]) -> Result<Vec<Value>, Amf0Error> {
    let mut reader = Reader { bytes, values: 0 };
    let mut values = Vec::new();
    while let Some(&marker) = reader.bytes.first() {
        if marker == 0x11 {
            break;
        }
        values.push(reader.value(0)?);
    }
    Ok(values)
}

struct Reader<'a> {
    bytes: &'a [u8],
    values: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, Amf0Error> {
        if depth == MAX_DEPTH {
            return Err(Amf0Error::TooDeep);
        }
        self.count()?;
        let marker = self.take(1)?[0];
        Ok(match marker {
            0x00 => Value::Number(self.number()?),
            0x01 => Value::Boolean(self.take(1)?[0] != 0),
            0x02 => Value::String(self.short_string()?),
            0x03 => Value::Object(self.properties(depth)?),
            0x05 => Value::Null,
            0x06 | 0x0D => Value::Undefined,
            0x07 => Value::Reference(self.u16()?),
            0x08 => {
                // The count of an ECMA array is a hint (section 2.10); the end marker decides.
                self.take(4)?;
                Value::Object(self.properties(depth)?)
            }
            0x0A => self.array(depth)?,
            0x0B => {
                let date = self.number()?;
                self.take(2)?;
                Value::Date(date)
            }
            0x0C | 0x0F => {
                let length = self.u32()? as usize;
                Value::String(text(self.take(length)?))
            }
            0x10 => {
                self.short_string()?;
                Value::Object(self.properties(depth)?)
            }
            marker => return Err(Amf0Error::Marker(marker)),
        })
    }

    /// Properties up to the object end marker. Some encoders end an array with the message instead.
    fn properties(&mut self, depth: usize) -> Result<Vec<(String, Value)>, Amf0Error> {
        let mut properties = Vec::new();
        while !self.bytes.is_empty() {
            if self.bytes.starts_with(&[0, 0, 0x09]) {
                self.take(3)?;
                break;
            }
            self.count()?;
            let key = self.short_string()?;
            properties.push((key, self.value(depth + 1)?));
        }
        Ok(properties)
    }

    fn array(&mut self, depth: usize) -> Result<Value, Amf0Error> {
        let count = self.u32()? as usize;
        if count > MAX_VALUES {
            return Err(Amf0Error::TooMany);
        }
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(depth + 1)?);
        }
        Ok(Value::Array(values))
    }

    fn count(&mut self) -> Result<(), Amf0Error> {
        self.values += 1;
        if self.values > MAX_VALUES { Err(Amf0Error::TooMany) } else { Ok(()) }
    }

    fn short_string(&mut self) -> Result<String, Amf0Error> {
        let length = usize::from(self.u16()?);
        Ok(text(self.take(length)?))
    }

    fn number(&mut self) -> Result<f64, Amf0Error> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(f64::from_be_bytes(bytes))
    }

    fn u16(&mut self) -> Result<u16, Amf0Error> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, Amf0Error> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Amf0Error> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(Amf0Error::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rml_rtmp::rml_amf0::{self, Amf0Value};

    #[test]
    fn every_kind_of_value_is_read() {
        let bytes = [
            &[0x02, 0, 2, b'h', b'i'][..],
            &[0x03, 0, 1, b'a', 0x01, 1, 0, 0, 9],
            &[0x08, 0xFF, 0, 0, 0, 0, 1, b'b', 0x05, 0, 0, 9],
            &[0x0A, 0, 0, 0, 2, 0x06, 0x0D],
            &[0x0B, 0x3F, 0xF0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0x0C, 0, 0, 0, 1, b'x', 0x0F, 0, 0, 0, 1, b'y'],
            &[0x07, 0, 3],
            &[0x10, 0, 1, b'T', 0, 1, b'c', 0x05, 0, 0, 9],
            &[0x11, 0xAA, 0xBB],
        ]
        .concat();
        let string = |text: &str| Value::String(text.into());
        let expected = vec![
            string("hi"),
            Value::Object(vec![("a".into(), Value::Boolean(true))]),
            Value::Object(vec![("b".into(), Value::Null)]),
            Value::Array(vec![Value::Undefined, Value::Undefined]),
            Value::Date(1.0),
            string("x"),
            string("y"),
            Value::Reference(3),
            Value::Object(vec![("c".into(), Value::Null)]),
        ];
        assert_eq!(read(&bytes), Ok(expected));
    }

    #[test]
    fn hostile_values_end_in_an_error() {
        let nested = [0x0A, 0, 0, 0, 1].repeat(9000);
        let objects = [0x03, 0, 1, b'a'].repeat(9000);
        for (bytes, expected) in [
            (nested, Amf0Error::TooDeep),
            (objects, Amf0Error::TooDeep),
            (vec![0x05; MAX_VALUES + 1], Amf0Error::TooMany),
            (vec![0x0A, 0xFF, 0xFF, 0xFF, 0xFF], Amf0Error::TooMany),
            (vec![0x0C, 0xFF, 0xFF, 0xFF, 0xFF, 1], Amf0Error::Truncated),
            (vec![0x00, 1, 2], Amf0Error::Truncated),
            (vec![0x42], Amf0Error::Marker(0x42)),
        ] {
            assert_eq!(read(&bytes), Err(expected));
        }
    }

    fn oracle_value() -> impl Strategy<Value = Amf0Value> {
        let leaf = prop_oneof![
            any::<f64>().prop_filter("comparable", |n| !n.is_nan()).prop_map(Amf0Value::Number),
            any::<bool>().prop_map(Amf0Value::Boolean),
            "[a-zA-Zä ]{0,40}".prop_map(Amf0Value::Utf8String),
            Just(Amf0Value::Null),
            Just(Amf0Value::Undefined),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Amf0Value::StrictArray),
                prop::collection::hash_map("[a-z]{1,8}", inner, 0..6).prop_map(Amf0Value::Object),
            ]
        })
    }

    fn same(ours: &Value, theirs: &Amf0Value) -> bool {
        match (ours, theirs) {
            (Value::Number(a), Amf0Value::Number(b)) => a == b,
            (Value::Boolean(a), Amf0Value::Boolean(b)) => a == b,
            (Value::String(a), Amf0Value::Utf8String(b)) => a == b,
            (Value::Null, Amf0Value::Null) | (Value::Undefined, Amf0Value::Undefined) => true,
            (Value::Array(a), Amf0Value::StrictArray(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (Value::Object(a), Amf0Value::Object(b)) => {
                a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|b| same(value, b)))
            }
            (_, _) => false,
        }
    }

    proptest! {
        #[test]
        fn what_rml_amf0_writes_is_read_back(values in prop::collection::vec(oracle_value(), 0..6)) {
            let bytes = rml_amf0::serialize(&values).expect("serializable");
            let read = read(&bytes).expect("valid AMF0");
            prop_assert!(read.len() == values.len() && read.iter().zip(&values).all(|(a, b)| same(a, b)));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = read(&bytes);
        }
    }
}
