//! As much of EBML (RFC 8794) as finishing a Matroska file takes.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Longest header of an element: 4 bytes of id, 8 of size.
const MAX_HEADER_BYTES: usize = 12;

/// Where an element is. Positions are bytes from the start of what it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub id: u32,
    pub at: u64,
    /// Where its content begins.
    pub content: u64,
    /// Length of its content; `None`: not known when it was begun.
    pub size: Option<u64>,
    /// How many bytes the size itself takes.
    pub size_bytes: u64,
}

impl Element {
    /// Where it ends; `None` when it does not say, or says more than a file can hold.
    pub fn end(&self) -> Option<u64> {
        self.content.checked_add(self.size?)
    }

    /// Reads a header from the start of `bytes`, which are at `at`.
    pub fn parse(bytes: &[u8], at: u64) -> Option<Self> {
        let (id, id_bytes) = vint(bytes, 4, true)?;
        let (size, size_bytes) = vint(bytes.get(id_bytes..)?, 8, false)?;
        let unknown = size == (1 << (7 * size_bytes)) - 1;
        Some(Self {
            id: u32::try_from(id).ok()?,
            at,
            content: at + (id_bytes + size_bytes) as u64,
            size: (!unknown).then_some(size),
            size_bytes: size_bytes as u64,
        })
    }
}

/// A number of variable length, at most `max` bytes, and its length. `marked`: with the bit that tells the length.
pub(super) fn vint(bytes: &[u8], max: usize, marked: bool) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = first.leading_zeros() as usize + 1;
    if length > max {
        return None;
    }
    let head = if marked { first } else { first & (0xFF_u16 >> length) as u8 };
    let rest = bytes.get(1..length)?;
    Some((rest.iter().fold(u64::from(head), |value, byte| value << 8 | u64::from(*byte)), length))
}

/// The elements in `bytes`, as far as they are whole, with their contents.
pub(super) fn children(bytes: &[u8]) -> impl Iterator<Item = (Element, &[u8])> {
    let mut at = 0_usize;
    std::iter::from_fn(move || {
        let element = Element::parse(bytes.get(at..)?, at as u64)?;
        let end = usize::try_from(element.end()?).ok()?;
        let content = bytes.get(element.content as usize..end)?;
        at = end;
        Some((element, content))
    })
}

pub(super) fn unsigned(content: &[u8]) -> u64 {
    content.iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// 0 for what is neither 4 nor 8 bytes long.
pub(super) fn float(content: &[u8]) -> f64 {
    match content.len() {
        4 => f64::from(f32::from_bits(unsigned(content) as u32)),
        8 => f64::from_bits(unsigned(content)),
        _ => 0.0,
    }
}

/// A size in exactly `bytes` bytes; `None` when it does not fit, or would read as unknown.
pub(super) fn sized(size: u64, bytes: u64) -> Option<Vec<u8>> {
    let fits = (1..=8).contains(&bytes) && size < (1 << (7 * bytes)) - 1;
    let marked = size | 1 << (7 * bytes);
    fits.then(|| marked.to_be_bytes()[8 - bytes as usize..].to_vec())
}

/// Appends an element.
pub(super) fn write(out: &mut Vec<u8>, id: u32, content: &[u8]) {
    let id = id.to_be_bytes();
    out.extend(&id[id.iter().take_while(|b| **b == 0).count()..]);
    let size = content.len() as u64 | 1 << 56;
    out.extend(size.to_be_bytes());
    out.extend(content);
}

/// Appends an element that is a number.
pub(super) fn write_unsigned(out: &mut Vec<u8>, id: u32, value: u64) {
    write(out, id, &value.to_be_bytes());
}

/// A file, and how long it is.
pub(super) struct Source<'a> {
    pub file: &'a File,
    pub len: u64,
}

impl Source<'_> {
    /// As many of the `N` bytes at `at` as there are.
    pub fn head<const N: usize>(&self, at: u64) -> io::Result<([u8; N], usize)> {
        let mut head = [0; N];
        let mut read = 0;
        while read < N {
            match self.file.read_at(&mut head[read..], at + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok((head, read))
    }

    /// The element at `at`; `None` when its header is not whole or none.
    pub fn element(&self, at: u64) -> io::Result<Option<Element>> {
        let (head, read) = self.head::<MAX_HEADER_BYTES>(at)?;
        Ok(Element::parse(&head[..read], at))
    }

    /// The content of an element that is whole and not longer than `max`.
    pub fn content(&self, element: &Element, max: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(size) = element.size.filter(|size| *size <= max) else { return Ok(None) };
        if element.end().is_none_or(|end| end > self.len) {
            return Ok(None);
        }
        let mut content = vec![0; size as usize];
        self.file.read_exact_at(&mut content, element.content)?;
        Ok(Some(content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        write_unsigned(&mut out, 0xB3, 4000);
        write(&mut out, 0x1C53_BB6B, b"abc");
        let found: Vec<_> = children(&out).map(|(e, content)| (e.id, content.to_vec())).collect();
        assert_eq!(found, [(0xB3, 4000_u64.to_be_bytes().to_vec()), (0x1C53_BB6B, b"abc".to_vec())]);
        assert_eq!(sized(5, 8), Some(vec![1, 0, 0, 0, 0, 0, 0, 5]));
        assert_eq!((sized(126, 1), sized(127, 1), sized(1, 9)), (Some(vec![0xFE]), None, None));
        assert_eq!((float(&1.5_f64.to_be_bytes()), float(&0.5_f32.to_be_bytes())), (1.5, 0.5));
    }

    #[test]
    fn unknown_sizes_are_told_apart() {
        for bytes in [&[0xA3, 0xFF][..], &[0xA3, 1, 255, 255, 255, 255, 255, 255, 255]] {
            assert_eq!(Element::parse(bytes, 7).map(|e| (e.id, e.size)), Some((0xA3, None)));
        }
        assert_eq!(Element::parse(&[0, 0x81], 0), None);
        assert_eq!(Element::parse(&[0xA3], 0), None);
    }

    proptest::proptest! {
        #[test]
        fn nothing_from_outside_panics(data in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            proptest::prop_assert!(children(&data).count() <= data.len());
        }
    }
}
