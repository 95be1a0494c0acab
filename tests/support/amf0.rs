//! AMF 0 values, as far as RTMP commands use them (AMF 0 specification, section 2).

use thiserror::Error;

/// Objects nested deeper than this are refused.
const MAX_DEPTH: usize = 8;

/// One AMF 0 value. Undefined reads as `Null`, an ECMA array as `Object`.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Number(f64),
    Boolean(bool),
    String(String),
    Object(Vec<(String, Value)>),
    /// A strict array.
    Array(Vec<Value>),
    Null,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum Amf0Error {
    #[error("AMF 0 value ends before its last byte")]
    Truncated,
    #[error("AMF 0 type marker {0} is not one that RTMP commands use")]
    Marker(u8),
    #[error("AMF 0 objects nested deeper than {MAX_DEPTH}")]
    TooDeep,
}

impl Value {
    pub fn string(text: &str) -> Self {
        Self::String(text.to_owned())
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The property `key` of an object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Self::Object(properties) => {
                properties.iter().find(|(name, _)| name == key).map(|(_, value)| value)
            }
            _ => None,
        }
    }
}

/// The values one after the other, as a command message carries them. A string is cut at 65535 bytes.
pub fn encode(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|value| write_value(&mut out, value));
    out
}

/// Every value of `bytes` up to its end.
pub fn decode(bytes: &[u8]) -> Result<Vec<Value>, Amf0Error> {
    let mut rest = bytes;
    let mut values = Vec::new();
    while !rest.is_empty() {
        values.push(read_value(&mut rest, 0)?);
    }
    Ok(values)
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Number(number) => {
            out.push(0);
            out.extend(number.to_be_bytes());
        }
        Value::Boolean(flag) => out.extend([1, u8::from(*flag)]),
        Value::String(text) => {
            out.push(2);
            write_text(out, text);
        }
        Value::Object(properties) => {
            out.push(3);
            for (name, value) in properties {
                write_text(out, name);
                write_value(out, value);
            }
            out.extend([0, 0, 9]);
        }
        Value::Array(values) => {
            out.push(10);
            out.extend((values.len() as u32).to_be_bytes());
            values.iter().for_each(|value| write_value(out, value));
        }
        Value::Null => out.push(5),
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend(length.to_be_bytes());
    out.extend(&text.as_bytes()[..usize::from(length)]);
}

fn read_value(rest: &mut &[u8], depth: usize) -> Result<Value, Amf0Error> {
    if depth > MAX_DEPTH {
        return Err(Amf0Error::TooDeep);
    }
    match take::<1>(rest)?[0] {
        0 => Ok(Value::Number(f64::from_be_bytes(take(rest)?))),
        1 => Ok(Value::Boolean(take::<1>(rest)?[0] != 0)),
        2 => Ok(Value::String(read_text(rest)?)),
        3 => read_properties(rest, depth),
        5 | 6 => Ok(Value::Null),
        8 => {
            take::<4>(rest)?;
            read_properties(rest, depth)
        }
        10 => {
            let count = u32::from_be_bytes(take(rest)?);
            let values: Result<_, _> = (0..count).map(|_| read_value(rest, depth + 1)).collect();
            values.map(Value::Array)
        }
        marker => Err(Amf0Error::Marker(marker)),
    }
}

fn read_properties(rest: &mut &[u8], depth: usize) -> Result<Value, Amf0Error> {
    let mut properties = Vec::new();
    loop {
        let name = read_text(rest)?;
        if name.is_empty() && rest.first() == Some(&9) {
            take::<1>(rest)?;
            return Ok(Value::Object(properties));
        }
        properties.push((name, read_value(rest, depth + 1)?));
    }
}

fn read_text(rest: &mut &[u8]) -> Result<String, Amf0Error> {
    let length = usize::from(u16::from_be_bytes(take(rest)?));
    let (text, after) = rest.split_at_checked(length).ok_or(Amf0Error::Truncated)?;
    *rest = after;
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Amf0Error> {
    let (head, after) = rest.split_first_chunk::<N>().ok_or(Amf0Error::Truncated)?;
    *rest = after;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let values = [
            Value::string("connect"),
            Value::Number(1.0),
            Value::Object(vec![
                ("app".into(), Value::string("live")),
                ("inner".into(), Value::Object(vec![("yes".into(), Value::Boolean(true))])),
                ("list".into(), Value::Array(vec![Value::string("hvc1"), Value::Null])),
            ]),
            Value::Null,
        ];
        assert_eq!(decode(&encode(&values)).unwrap(), values);
    }

    #[test]
    fn every_cut_is_an_error_or_fewer_values() {
        let bytes = encode(&[Value::Object(vec![("key".into(), Value::string("value"))])]);
        for length in 1..bytes.len() {
            assert_eq!(decode(&bytes[..length]), Err(Amf0Error::Truncated), "cut at {length}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let mut value = Value::Null;
        for _ in 0..=MAX_DEPTH {
            value = Value::Object(vec![("a".into(), value)]);
        }
        assert_eq!(decode(&encode(&[value])), Err(Amf0Error::TooDeep));
    }
}
