//! A stream of FLV tags (FLV 10.1, Annex E.2 to E.4), cut anywhere. Pure and bounded.

/// Signature, version, flags, and where the first tag begins.
const FILE_HEADER_BYTES: usize = 9;
/// Longest file header taken; the format knows one of 9 bytes.
const MAX_FILE_HEADER_BYTES: usize = 64;
const TAG_HEADER_BYTES: usize = 11;
/// After the file header and after each tag.
const PREVIOUS_SIZE_BYTES: usize = 4;
/// A tag gets this much memory on its header's word; more only as bytes arrive.
const FIRST_ALLOCATION: usize = 64 << 10;

/// One tag. Its type is the type id of the RTMP message that it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    pub type_id: u8,
    /// Sender's clock, ms, wraps after 49.7 days.
    pub timestamp_ms: u32,
    pub payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    #[error("not FLV")]
    Signature,
    #[error("an FLV tag of {length} bytes; {max} is the most")]
    TooLong { length: usize, max: usize },
}

/// Puts tags together. A payload byte is copied once, from the input into its tag.
#[derive(Debug)]
pub struct TagReader {
    max_tag_bytes: usize,
    head: [u8; TAG_HEADER_BYTES],
    head_len: usize,
    at: At,
}

#[derive(Debug)]
enum At {
    FileHeader,
    TagHeader,
    Body { tag: Tag, left: usize },
    Skip { left: usize },
}

impl TagReader {
    pub fn new(max_tag_bytes: usize) -> Self {
        Self { max_tag_bytes, head: [0; TAG_HEADER_BYTES], head_len: 0, at: At::FileHeader }
    }

    /// Reads from the front of `input` to the end of the next tag. `None`: all of `input` is taken.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Tag>, TagError> {
        while !input.is_empty() {
            match &mut self.at {
                At::FileHeader => {
                    if self.fill(input, FILE_HEADER_BYTES) {
                        self.at = self.file_header()?;
                    }
                }
                At::TagHeader => {
                    if self.fill(input, TAG_HEADER_BYTES) {
                        self.at = self.tag_header()?;
                    }
                }
                At::Skip { left } => {
                    *left -= take(input, *left).len();
                    if *left == 0 {
                        self.at = At::TagHeader;
                    }
                }
                At::Body { tag, left } => {
                    let part = take(input, *left);
                    tag.payload.extend_from_slice(part);
                    *left -= part.len();
                }
            }
            // A tag may be empty: it is whole without another byte.
            if let At::Body { tag, left: 0 } = &mut self.at {
                let payload = std::mem::take(&mut tag.payload);
                let whole = Tag { payload, ..*tag };
                self.at = At::Skip { left: PREVIOUS_SIZE_BYTES };
                return Ok(Some(whole));
            }
        }
        Ok(None)
    }

    /// Fills `head` up to `bytes`; true when it is full, and empties it.
    fn fill(&mut self, input: &mut &[u8], bytes: usize) -> bool {
        let part = take(input, bytes - self.head_len);
        self.head[self.head_len..self.head_len + part.len()].copy_from_slice(part);
        self.head_len += part.len();
        let full = self.head_len == bytes;
        if full {
            self.head_len = 0;
        }
        full
    }

    fn file_header(&self) -> Result<At, TagError> {
        let [b'F', b'L', b'V', _, _, a, b, c, d, ..] = self.head else { return Err(TagError::Signature) };
        let begins = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(FILE_HEADER_BYTES..=MAX_FILE_HEADER_BYTES).contains(&begins) {
            return Err(TagError::Signature);
        }
        Ok(At::Skip { left: begins - FILE_HEADER_BYTES + PREVIOUS_SIZE_BYTES })
    }

    fn tag_header(&self) -> Result<At, TagError> {
        let [kind, size @ .., t16, t8, t0, t24, _, _, _] = self.head;
        let left = u32::from_be_bytes([0, size[0], size[1], size[2]]) as usize;
        if left > self.max_tag_bytes {
            return Err(TagError::TooLong { length: left, max: self.max_tag_bytes });
        }
        let tag = Tag {
            type_id: kind & 0x1F,
            timestamp_ms: u32::from_be_bytes([t24, t16, t8, t0]),
            payload: Vec::with_capacity(left.min(FIRST_ALLOCATION)),
        };
        Ok(At::Body { tag, left })
    }
}

fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (part, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(tags: &[Tag]) -> Vec<u8> {
        let mut bytes = b"FLV\x01\x05\0\0\0\x09\0\0\0\0".to_vec();
        for tag in tags {
            let (size, time) = ((tag.payload.len() as u32).to_be_bytes(), tag.timestamp_ms.to_be_bytes());
            bytes.push(tag.type_id);
            bytes.extend(&size[1..]);
            bytes.extend([time[1], time[2], time[3], time[0], 0, 0, 0]);
            bytes.extend(&tag.payload);
            bytes.extend(((tag.payload.len() + TAG_HEADER_BYTES) as u32).to_be_bytes());
        }
        bytes
    }

    fn read(reader: &mut TagReader, mut input: &[u8]) -> Result<Vec<Tag>, TagError> {
        let mut tags = Vec::new();
        while let Some(tag) = reader.next(&mut input)? {
            tags.push(tag);
        }
        Ok(tags)
    }

    proptest! {
        #[test]
        fn tags_come_out_however_the_bytes_are_cut(
            sizes in prop::collection::vec((8u8..=18, any::<u32>(), 0usize..300), 0..8),
            pieces in prop::collection::vec(1usize..90, 1..20),
        ) {
            let tags: Vec<Tag> = sizes.into_iter().map(|(type_id, timestamp_ms, size)| {
                Tag { type_id, timestamp_ms, payload: (0..size).map(|i| i as u8).collect() }
            }).collect();
            let bytes = file(&tags);
            let (mut reader, mut rest, mut got) = (TagReader::new(1 << 20), &bytes[..], Vec::new());
            for size in pieces.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                got.extend(read(&mut reader, take(&mut rest, size)).unwrap());
            }
            prop_assert_eq!(got, tags);
        }

        #[test]
        fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let whole = [&b"FLV\x01\x05\0\0\0\x09\0\0\0\0"[..], &bytes].concat();
            let _ = read(&mut TagReader::new(100), &whole);
            let _ = read(&mut TagReader::new(100), &bytes);
        }
    }

    #[test]
    fn what_is_not_flv_or_too_long_is_refused() {
        assert_eq!(read(&mut TagReader::new(100), b"RIFF12345"), Err(TagError::Signature));
        assert_eq!(read(&mut TagReader::new(100), b"FLV\x01\x05\xFF\0\0\x09"), Err(TagError::Signature));
        let long = file(&[Tag { type_id: 9, timestamp_ms: 0, payload: vec![0; 101] }]);
        assert_eq!(read(&mut TagReader::new(100), &long), Err(TagError::TooLong { length: 101, max: 100 }));
    }
}
