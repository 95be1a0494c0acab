//! AMF0 values, read with bounds.
//!
//! The types and the encoder are `scuffle-amf0`'s. Its decoder is not used: it allocates what an array's count
//! claims, recurses as deep as the input nests, and believes the count of ECMA arrays, which ffmpeg gets wrong
//! when it publishes live.

use scuffle_amf0::{Amf0Encoder, Amf0Marker};
pub use scuffle_amf0::{Amf0Object as Object, Amf0Value as Value};
use std::borrow::Cow;

/// Deepest nesting of objects and arrays; Enhanced RTMP's metadata needs 4.
pub const MAX_DEPTH: usize = 16;
/// Most values and members in one message.
pub const MAX_VALUES: usize = 2048;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmfError {
    #[error("AMF0: {needed} more bytes needed, {have} are left")]
    Truncated { needed: usize, have: usize },
    #[error("AMF0: marker {0} is not supported here")]
    Marker(u8),
    #[error("AMF0: nested deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("AMF0: more than {MAX_VALUES} values")]
    TooMany,
}

/// All values of a message body. Text that is not UTF-8 comes out with replacement characters; references and
/// `undefined` come out as `Null`, dates as their number.
pub fn decode_all(input: &[u8]) -> Result<Vec<Value<'_>>, AmfError> {
    let mut decoder = Decoder { input, values_left: MAX_VALUES };
    let mut values = Vec::new();
    while !decoder.input.is_empty() {
        values.push(decoder.value(0)?);
    }
    Ok(values)
}

/// The bytes of `values`, one after another. Object keys must be shorter than 64 KiB.
pub fn encode(values: &[Value<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Amf0Encoder::new(&mut bytes);
    for value in values {
        value.encode(&mut encoder).expect("a Vec takes every value whose keys are short");
    }
    bytes
}

/// An object of the given members.
pub fn object<'a>(members: impl IntoIterator<Item = (&'a str, Value<'a>)>) -> Value<'a> {
    Value::Object(members.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

pub fn text(value: &str) -> Value<'_> {
    Value::String(value.into())
}

/// The text of a string value.
pub fn as_text<'v>(value: &'v Value<'_>) -> Option<&'v str> {
    match value {
        Value::String(text) => Some(text.as_str()),
        _ => None,
    }
}

pub fn as_number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Number(number) => Some(*number),
        _ => None,
    }
}

/// Member `key` of an object value.
pub fn member<'v, 'a>(value: &'v Value<'a>, key: &'v str) -> Option<&'v Value<'a>> {
    match value {
        Value::Object(object) => object.iter().find(|(k, _)| k.as_str() == key).map(|(_, v)| v),
        _ => None,
    }
}

struct Decoder<'a> {
    input: &'a [u8],
    values_left: usize,
}

impl<'a> Decoder<'a> {
    fn value(&mut self, depth: usize) -> Result<Value<'a>, AmfError> {
        if depth > MAX_DEPTH {
            return Err(AmfError::TooDeep);
        }
        self.values_left = self.values_left.checked_sub(1).ok_or(AmfError::TooMany)?;
        let marker = self.take(1)?[0];
        const NUMBER: u8 = Amf0Marker::Number as u8;
        const BOOLEAN: u8 = Amf0Marker::Boolean as u8;
        const STRING: u8 = Amf0Marker::String as u8;
        const OBJECT: u8 = Amf0Marker::Object as u8;
        const NULL: u8 = Amf0Marker::Null as u8;
        const UNDEFINED: u8 = Amf0Marker::Undefined as u8;
        const REFERENCE: u8 = Amf0Marker::Reference as u8;
        const ECMA_ARRAY: u8 = Amf0Marker::EcmaArray as u8;
        const STRICT_ARRAY: u8 = Amf0Marker::StrictArray as u8;
        const DATE: u8 = Amf0Marker::Date as u8;
        const LONG_STRING: u8 = Amf0Marker::LongString as u8;
        const UNSUPPORTED: u8 = Amf0Marker::Unsupported as u8;
        const XML: u8 = Amf0Marker::XmlDocument as u8;
        const TYPED_OBJECT: u8 = Amf0Marker::TypedObject as u8;
        match marker {
            NUMBER => self.number(),
            BOOLEAN => Ok(Value::Boolean(self.take(1)?[0] != 0)),
            STRING => self.short_text().map(|t| Value::String(t.into())),
            LONG_STRING | XML => {
                let length = self.be32()? as usize;
                self.text(length).map(|t| Value::String(t.into()))
            }
            OBJECT => self.members(depth),
            TYPED_OBJECT => {
                self.short_text()?;
                self.members(depth)
            }
            ECMA_ARRAY => {
                self.take(4)?;
                self.members(depth)
            }
            STRICT_ARRAY => self.strict_array(depth),
            NULL | UNDEFINED | UNSUPPORTED => Ok(Value::Null),
            REFERENCE => self.take(2).map(|_| Value::Null),
            DATE => {
                let milliseconds = self.number()?;
                self.take(2)?;
                Ok(milliseconds)
            }
            other => Err(AmfError::Marker(other)),
        }
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], AmfError> {
        let Some((part, rest)) = self.input.split_at_checked(bytes) else {
            return Err(AmfError::Truncated { needed: bytes, have: self.input.len() });
        };
        self.input = rest;
        Ok(part)
    }

    fn number(&mut self) -> Result<Value<'a>, AmfError> {
        let bytes = self.take(8)?.try_into().expect("8 bytes were taken");
        Ok(Value::Number(f64::from_be_bytes(bytes)))
    }

    fn be32(&mut self) -> Result<u32, AmfError> {
        let bytes = self.take(4)?.try_into().expect("4 bytes were taken");
        Ok(u32::from_be_bytes(bytes))
    }

    fn text(&mut self, bytes: usize) -> Result<Cow<'a, str>, AmfError> {
        self.take(bytes).map(String::from_utf8_lossy)
    }

    fn short_text(&mut self) -> Result<Cow<'a, str>, AmfError> {
        let length = self.take(2)?;
        self.text(usize::from(u16::from_be_bytes([length[0], length[1]])))
    }

    /// Members up to the end marker; an ECMA array may also end with the message.
    fn members(&mut self, depth: usize) -> Result<Value<'a>, AmfError> {
        const END: [u8; 3] = [0, 0, Amf0Marker::ObjectEnd as u8];
        let mut object = Object::new();
        while !self.input.is_empty() {
            if let Some(rest) = self.input.strip_prefix(&END) {
                self.input = rest;
                break;
            }
            let key = self.short_text()?;
            let value = self.value(depth + 1)?;
            object.insert(key.into(), value);
        }
        Ok(Value::Object(object))
    }

    fn strict_array(&mut self, depth: usize) -> Result<Value<'a>, AmfError> {
        let mut values = Vec::new();
        for _ in 0..self.be32()? {
            values.push(self.value(depth + 1)?);
        }
        Ok(Value::Array(values.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_encoded_decodes() {
        let long = "long ".repeat(20_000);
        let values = [
            text("connect"),
            Value::Number(1.0),
            object([("app", text("live")), ("caps", object([("ok", Value::Boolean(true))]))]),
            Value::Null,
            Value::Array(vec![text("hvc1"), text("av01")].into()),
            text(&long),
        ];
        assert_eq!(decode_all(&encode(&values)).unwrap(), values);
    }

    #[test]
    fn an_ecma_array_with_a_wrong_count_is_read_to_its_end() {
        for count in [0u8, 1, 200] {
            let mut bytes = vec![8, 0, 0, 0, count];
            bytes.extend_from_slice(b"\0\x05width\0\x40\x94\0\0\0\0\0\0");
            bytes.extend_from_slice(b"\0\x06stereo\x01\x01\0\0\x09\x05");
            let values = decode_all(&bytes).unwrap();
            let want = object([("width", Value::Number(1280.0)), ("stereo", Value::Boolean(true))]);
            assert_eq!(values, [want, Value::Null]);
        }
    }

    #[test]
    fn hostile_input_is_refused_with_little_memory() {
        let nested = |marker: &[u8]| marker.repeat(10_000);
        let cases: [(Vec<u8>, AmfError); 8] = [
            (nested(b"\x03\0\x01a"), AmfError::TooDeep),
            (nested(b"\x08\0\0\0\0\0\x01a"), AmfError::TooDeep),
            (nested(b"\x0A\0\0\0\x01"), AmfError::TooDeep),
            (nested(b"\x05"), AmfError::TooMany),
            (b"\x0A\xFF\xFF\xFF\xFF".to_vec(), AmfError::Truncated { needed: 1, have: 0 }),
            (b"\x0C\xFF\xFF\xFF\xFFab".to_vec(), AmfError::Truncated { needed: 0xFFFF_FFFF, have: 2 }),
            (b"\x02\0\x09abc".to_vec(), AmfError::Truncated { needed: 9, have: 3 }),
            (b"\x11\x0A".to_vec(), AmfError::Marker(0x11)),
        ];
        for (bytes, want) in cases {
            assert_eq!(decode_all(&bytes), Err(want));
        }
    }

    #[test]
    fn text_that_is_not_utf8_stays_readable() {
        assert_eq!(decode_all(b"\x02\0\x03a\xFFb").unwrap(), [text("a\u{FFFD}b")]);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode_all(&bytes);
        }

        #[test]
        fn likely_markers_never_panic(bytes in prop::collection::vec(0u8..18, 0..400)) {
            let _ = decode_all(&bytes);
        }
    }
}
