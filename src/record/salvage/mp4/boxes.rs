//! Boxes of an MP4 file (ISO/IEC 14496-12, 4.2), read.

use crate::record::salvage::pages::Pages;
use std::io;

/// Where a box is, bytes from the start of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BoxAt {
    pub kind: [u8; 4],
    pub at: u64,
    /// Where its content begins.
    pub content: u64,
    pub end: u64,
}

impl BoxAt {
    /// The box at `at`; `None` where there is none, or it does not end within the file.
    pub fn read(pages: &Pages, at: u64) -> io::Result<Option<Self>> {
        let Some([s0, s1, s2, s3, kind @ ..]) = pages.array::<8>(at)? else { return Ok(None) };
        let (header, size) = match u32::from_be_bytes([s0, s1, s2, s3]) {
            1 => (16, pages.array(at + 8)?.map_or(0, u64::from_be_bytes)),
            size => (8, u64::from(size)),
        };
        let end = at.checked_add(size).filter(|end| size >= header && *end <= pages.len);
        Ok(end.map(|end| Self { kind, at, content: at + header, end }))
    }

    /// As `read`, of that kind only.
    pub fn expect(pages: &Pages, at: u64, kind: &[u8; 4]) -> io::Result<Option<Self>> {
        Ok(Self::read(pages, at)?.filter(|found| found.kind == *kind))
    }
}

/// The boxes in `bytes`, as far as they are whole: kind and content. Sizes are of 32 bits.
pub(super) fn children(bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (&[s0, s1, s2, s3, k0, k1, k2, k3], _) = rest.split_first_chunk()?;
        let (child, after) = rest.split_at_checked(u32::from_be_bytes([s0, s1, s2, s3]) as usize)?;
        let content = child.get(8..)?;
        rest = after;
        Some(([k0, k1, k2, k3], content))
    })
}

/// The content of the first box of that kind.
pub(super) fn child<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    children(bytes).find(|(found, _)| found == kind).map(|(_, content)| content)
}

/// As `child`, along a path of kinds.
pub(super) fn descendant<'a>(bytes: &'a [u8], path: &[&[u8; 4]]) -> Option<&'a [u8]> {
    path.iter().try_fold(bytes, |bytes, kind| child(bytes, kind))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
