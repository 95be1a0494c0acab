//! RTSP messages out of a byte stream (RFC 2326, 4 to 7 and 10.12), bounded.
//!
//! `rtsp-types` reads a message once it is there as a whole; until then its bytes gather here, which bounds them and
//! keeps a slow sender from being parsed again with every byte. Interleaved packets, which are nearly all there is, are
//! handed out as slices of what was read.

use rtsp_types::{Message, Request, Response, headers};

/// Longest request or status line with its headers, bytes.
pub const MAX_HEAD_BYTES: usize = 16 << 10;
/// Most lines of a head.
pub const MAX_HEAD_LINES: usize = 64;
/// Longest body, bytes: a session description.
pub const MAX_BODY_BYTES: usize = 64 << 10;
/// `$`, channel, length (RFC 2326, 10.12).
const FRAME_HEADER_BYTES: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("a message head of more than {MAX_HEAD_BYTES} bytes")]
    HeadTooLong,
    #[error("a message head of more than {MAX_HEAD_LINES} lines")]
    TooManyLines,
    #[error("a message body of {0} bytes; {MAX_BODY_BYTES} is the most")]
    BodyTooLong(u64),
    #[error("Content-Length is not a number of bytes, or is told twice")]
    ContentLength,
    #[error("what came is no RTSP message: {0:?}")]
    Malformed(String),
}

/// One whole message.
#[derive(Debug, PartialEq)]
pub enum Incoming<'a> {
    Request(Request<Vec<u8>>),
    Response(Response<Vec<u8>>),
    /// One packet of an interleaved stream.
    Data {
        channel: u8,
        payload: &'a [u8],
    },
}

/// Puts messages together from the reads of one connection.
///
/// It holds at most one unfinished message.
#[derive(Debug, Default)]
pub struct MessageReader {
    /// The unfinished message.
    pending: Vec<u8>,
    /// Length of a request or response whose head is there as a whole.
    length: Option<usize>,
}

/// How much of the pending message is missing.
enum Missing {
    Bytes(usize),
    /// The end of its head.
    BlankLine,
}

impl MessageReader {
    /// Takes the bytes of one read and hands out every message that they complete, in order. After an error the
    /// connection cannot be understood any more.
    pub fn read<E: From<MessageError>>(
        &mut self,
        mut input: &[u8],
        mut take: impl FnMut(Incoming<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(&first) = input.first() {
            if self.pending.is_empty() && matches!(first, b'\r' | b'\n') {
                // Between messages (RFC 2326, 4.1).
                input = &input[1..];
            } else if let Some((channel, payload)) = frame(input).filter(|_| self.pending.is_empty()) {
                take(Incoming::Data { channel, payload })?;
                input = &input[FRAME_HEADER_BYTES + payload.len()..];
            } else if self.fill(&mut input)? {
                self.hand_out(&mut take)?;
            }
        }
        Ok(())
    }

    /// Whether a message has begun that is not there as a whole.
    pub fn is_unfinished(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Moves bytes to the pending message; true when it is whole.
    fn fill(&mut self, input: &mut &[u8]) -> Result<bool, MessageError> {
        match self.missing() {
            Missing::Bytes(missing) => {
                let (now, rest) = input.split_at(missing.min(input.len()));
                self.pending.extend_from_slice(now);
                *input = rest;
                Ok(matches!(self.missing(), Missing::Bytes(0)))
            }
            Missing::BlankLine => {
                while let Some((&byte, rest)) = input.split_first() {
                    self.pending.push(byte);
                    *input = rest;
                    if byte == b'\n' && self.pending.ends_with(b"\r\n\r\n") {
                        let body = body_length(&self.pending)?;
                        self.length = Some(self.pending.len() + body);
                        return Ok(body == 0);
                    }
                    if self.pending.len() > MAX_HEAD_BYTES {
                        return Err(MessageError::HeadTooLong);
                    }
                    if byte == b'$' && self.pending.len() == 1 {
                        break;
                    }
                }
                Ok(false)
            }
        }
    }

    fn missing(&self) -> Missing {
        match (self.length, &self.pending[..]) {
            (Some(length), pending) => Missing::Bytes(length - pending.len()),
            (None, &[b'$', _, high, low, ref payload @ ..]) => {
                Missing::Bytes(usize::from(u16::from_be_bytes([high, low])) - payload.len())
            }
            (None, pending @ [b'$', ..]) => Missing::Bytes(FRAME_HEADER_BYTES - pending.len()),
            (None, _) => Missing::BlankLine,
        }
    }

    fn hand_out<E: From<MessageError>>(
        &mut self,
        take: &mut impl FnMut(Incoming<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let length = self.length.take();
        if let Some((channel, payload)) = frame(&self.pending).filter(|_| length.is_none()) {
            let taken = take(Incoming::Data { channel, payload });
            self.pending.clear();
            return taken;
        }
        let pending = std::mem::take(&mut self.pending);
        match Message::<Vec<u8>>::parse(&pending) {
            Ok((Message::Request(request), n)) if n == pending.len() => take(Incoming::Request(request)),
            Ok((Message::Response(response), n)) if n == pending.len() => take(Incoming::Response(response)),
            _ => Err(malformed(&pending).into()),
        }
    }
}

/// The interleaved packet that `input` begins with, if it is there as a whole.
fn frame(input: &[u8]) -> Option<(u8, &[u8])> {
    let &[b'$', channel, high, low, ref rest @ ..] = input else { return None };
    Some((channel, rest.get(..usize::from(u16::from_be_bytes([high, low])))?))
}

/// What a head says about the length of its body.
fn body_length(head: &[u8]) -> Result<usize, MessageError> {
    let lines = head.split(|&b| b == b'\n');
    if lines.clone().count() > MAX_HEAD_LINES {
        return Err(MessageError::TooManyLines);
    }
    let named = headers::CONTENT_LENGTH;
    let mut values = lines.filter_map(|line| {
        let colon = line.iter().position(|&b| b == b':')?;
        let (name, value) = line.split_at(colon);
        name.trim_ascii().eq_ignore_ascii_case(named.as_str().as_bytes()).then(|| value[1..].trim_ascii())
    });
    let Some(value) = values.next() else { return Ok(0) };
    let length = str::from_utf8(value).ok().and_then(|v| v.parse::<u64>().ok());
    match (length, values.next()) {
        (Some(length), None) if length <= MAX_BODY_BYTES as u64 => Ok(length as usize),
        (Some(length), None) => Err(MessageError::BodyTooLong(length)),
        _ => Err(MessageError::ContentLength),
    }
}

/// Tells the first word of the message; not what follows: URLs and headers may hold credentials.
fn malformed(message: &[u8]) -> MessageError {
    let word = message.split(|b| b.is_ascii_whitespace()).next().unwrap_or_default();
    MessageError::Malformed(String::from_utf8_lossy(&word[..word.len().min(20)]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtsp_types::{Method, StatusCode};

    const OPTIONS: &[u8] = b"OPTIONS rtsp://host/a RTSP/1.0\r\nCSeq: 1\r\n\r\n";
    const ANNOUNCE: &[u8] =
        b"ANNOUNCE rtsp://host/a RTSP/1.0\r\nCSeq: 2\r\ncontent-length:  5\r\n\r\nv=0\r\n";
    const ANSWER: &[u8] = b"RTSP/1.0 200 OK\r\nCSeq: 9\r\n\r\n";

    /// What is handed out, as text, when the bytes come in reads of `at_once`.
    fn read(bytes: &[u8], at_once: usize) -> Result<Vec<String>, MessageError> {
        let (mut reader, mut seen) = (MessageReader::default(), Vec::new());
        for part in bytes.chunks(at_once.max(1)) {
            reader.read(part, |incoming| {
                seen.push(match incoming {
                    Incoming::Request(r) => format!("{:?} {}", r.method(), r.body().len()),
                    Incoming::Response(r) => format!("{}", u16::from(r.status())),
                    Incoming::Data { channel, payload } => format!("${channel} {payload:?}"),
                });
                Ok::<_, MessageError>(())
            })?;
            assert!(reader.pending.len() <= MAX_HEAD_BYTES + MAX_BODY_BYTES + 4);
        }
        assert!(!reader.is_unfinished(), "{:?}", reader.pending);
        Ok(seen)
    }

    #[test]
    fn messages_come_whole_however_they_were_cut() {
        let bytes =
            [OPTIONS, b"$\0\0\x03abc", ANNOUNCE, b"\r\n", b"$\x01\0\0", ANSWER, b"$\xff\0\x01$"].concat();
        let want =
            ["Options 0", "$0 [97, 98, 99]", "Announce 5", "$1 []", "200", "$255 [36]"].map(String::from);
        for at_once in 1..=bytes.len() {
            assert_eq!(read(&bytes, at_once).as_deref(), Ok(&want[..]), "{at_once} bytes at once");
        }
    }

    #[test]
    fn requests_and_responses_are_read() {
        let mut reader = MessageReader::default();
        let mut methods = Vec::new();
        reader
            .read(&[ANNOUNCE, ANSWER].concat(), |incoming| {
                match incoming {
                    Incoming::Request(request) => {
                        assert_eq!(request.body(), b"v=0\r\n");
                        methods.push(request.method().clone());
                    }
                    Incoming::Response(response) => assert_eq!(response.status(), StatusCode::Ok),
                    Incoming::Data { .. } => panic!("no data was sent"),
                }
                Ok::<_, MessageError>(())
            })
            .expect("good messages");
        assert_eq!(methods, [Method::Announce]);
    }

    #[test]
    fn what_is_too_much_or_no_message_is_refused() {
        let head = |lines: &str| format!("OPTIONS * RTSP/1.0\r\n{lines}\r\n").into_bytes();
        let cases = [
            (vec![b'x'; MAX_HEAD_BYTES + 1], MessageError::HeadTooLong),
            (head(&"a: b\r\n".repeat(MAX_HEAD_LINES)), MessageError::TooManyLines),
            (head("Content-Length: 65537\r\n"), MessageError::BodyTooLong(65_537)),
            (head("Content-Length: -1\r\n"), MessageError::ContentLength),
            (head("Content-Length: 1\r\ncontent-length: 1\r\n"), MessageError::ContentLength),
            (b"GET /x?secret HTTP/1.1\r\n\r\n".to_vec(), MessageError::Malformed("GET".into())),
            (head("no colon\r\n"), MessageError::Malformed("OPTIONS".into())),
            // Once the user and the password in the URL came with it, to the log.
            (
                b"ANNOUNCE rtsp://user:secret@h/a RTSP/9\r\n\r\n".to_vec(),
                MessageError::Malformed("ANNOUNCE".into()),
            ),
        ];
        for (bytes, error) in cases {
            assert_eq!(read(&bytes, 100), Err(error), "{:?}", String::from_utf8_lossy(&bytes[..40]));
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics_and_nothing_is_kept_without_bound(
            parts in proptest::collection::vec(proptest::sample::select(vec![
                OPTIONS.to_vec(), ANNOUNCE.to_vec(), ANSWER.to_vec(), b"$\0\x01\0".to_vec(), b"Content-Length: 7".to_vec(),
                b"\r\n\r\n".to_vec(), b":".to_vec(), b"RTSP/1.0 ".to_vec(), vec![0xff; 3], b"$".to_vec(),
            ]), 0..20),
            at_once in 1usize..50,
        ) {
            let mut reader = MessageReader::default();
            for part in parts.concat().chunks(at_once) {
                if reader.read(part, |_| Ok::<_, MessageError>(())).is_err() {
                    break;
                }
                proptest::prop_assert!(reader.pending.len() <= MAX_HEAD_BYTES + MAX_BODY_BYTES + 4);
            }
        }
    }
}
