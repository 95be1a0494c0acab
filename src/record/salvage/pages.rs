//! Reads a file once, from front to back, and sees what a power cut kept from the disk.
//!
//! What was never synced reaches the disk page by page, in any order, or not at all: the file is shorter then, or a page
//! in it is all zeros, whatever its neighbours are. So such a page inside media is a hole, and encoded media has none of
//! its own: H.264 and H.265 never have three zeros in a row (emulation prevention, ITU-T H.264, 7.4.1); arithmetic coders
//! (VP8, VP9, AV1, Opus) do not give out 32,768 equal bits; an access unit of Opus, AAC or MP3 has its padding in it and is
//! shorter than a page, or, AAC of many channels, has a header in front of each 269 bytes of it. PCM in Matroska is A-law
//! or µ-law, whose silence is not zero. A page counts only as far as the file goes: the last one may be short.

use std::{fs::File, io, os::unix::fs::FileExt};

const PAGE_BYTES: u64 = 4096;
const WINDOW_BYTES: usize = 1 << 20;

/// A file, and a window on it that moves on.
pub(super) struct Pages<'a> {
    pub file: &'a File,
    pub len: u64,
    window: Vec<u8>,
    /// Where the window begins: at a page.
    at: u64,
}

impl<'a> Pages<'a> {
    pub fn new(file: &'a File) -> io::Result<Self> {
        Ok(Self { file, len: file.metadata()?.len(), window: Vec::new(), at: 0 })
    }

    /// Whether a page that has a byte of `from..to` is a hole. Reads all of it.
    pub fn has_hole(&mut self, from: u64, to: u64) -> io::Result<bool> {
        let to = to.min(self.len);
        let mut page = from - from % PAGE_BYTES;
        while page < to {
            let end = (page + PAGE_BYTES).min(self.len);
            self.load(page, end)?;
            if self.seen(page, end).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0)) {
                return Ok(true);
            }
            page = end;
        }
        Ok(false)
    }

    /// The `N` bytes at `at`; `None` when the file ends before. Does not move the window.
    pub fn array<const N: usize>(&self, at: u64) -> io::Result<Option<[u8; N]>> {
        let end = at.checked_add(N as u64).filter(|end| *end <= self.len);
        let Some(end) = end else { return Ok(None) };
        if let Some(seen) = self.seen(at, end).and_then(|bytes| bytes.first_chunk()) {
            return Ok(Some(*seen));
        }
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(Some(bytes))
    }

    /// The bytes of `from..to`; `None` when the file ends before, or they are more than `max`.
    pub fn bytes(&self, from: u64, to: u64, max: u64) -> io::Result<Option<Vec<u8>>> {
        let wanted = to.checked_sub(from).filter(|bytes| *bytes <= max && to <= self.len);
        let Some(wanted) = wanted else { return Ok(None) };
        let mut bytes = vec![0; wanted as usize];
        self.file.read_exact_at(&mut bytes, from)?;
        Ok(Some(bytes))
    }

    /// Where in `from..to` a page ends with `N` bytes of zeros that all lie in it: the page was written up to there and
    /// synced, and what came later is lost.
    pub fn breaks_off<const N: usize>(&self, from: u64, to: u64) -> io::Result<bool> {
        let first = (from + N as u64).next_multiple_of(PAGE_BYTES);
        let mut page_end = first;
        while page_end <= to {
            if self.array::<N>(page_end - N as u64)?.is_some_and(|bytes| bytes.iter().all(|b| *b == 0)) {
                return Ok(true);
            }
            page_end += PAGE_BYTES;
        }
        Ok(false)
    }

    /// Whether `from..to` may have lost bytes though no page of it is a hole: what was written up to a sync ends within a
    /// page, and that page has zeros from there on. `to` is behind `from`.
    pub fn may_have_lost(&self, from: u64, to: u64) -> io::Result<bool> {
        let mut page_end = (from + 1).next_multiple_of(PAGE_BYTES);
        while page_end <= to {
            if self.array(page_end - 1)? == Some([0]) {
                return Ok(true);
            }
            page_end += PAGE_BYTES;
        }
        let rest = self.bytes(to - 1, page_end.min(self.len), PAGE_BYTES)?;
        Ok(rest.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0)))
    }

    fn load(&mut self, from: u64, to: u64) -> io::Result<()> {
        if self.seen(from, to).is_some() {
            return Ok(());
        }
        let wanted = usize::try_from(self.len - from).unwrap_or(usize::MAX).min(WINDOW_BYTES);
        self.window.resize(wanted, 0);
        self.at = from;
        self.file.read_exact_at(&mut self.window, from)
    }

    fn seen(&self, from: u64, to: u64) -> Option<&[u8]> {
        let start = usize::try_from(from.checked_sub(self.at)?).ok()?;
        self.window.get(start..usize::try_from(to.checked_sub(self.at)?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_zeros_is_a_hole_and_a_shorter_row_of_them_is_none() {
        let file = tempfile::tempfile().expect("a file");
        let mut data = vec![1; 3 * WINDOW_BYTES + 100];
        data[5000..5000 + 4096].fill(0);
        let hole = 2 * WINDOW_BYTES;
        data[hole - 10..hole + 4096].fill(0);
        data[3 * WINDOW_BYTES..].fill(0);
        file.write_all_at(&data, 0).expect("written");
        let mut pages = Pages::new(&file).expect("a file");
        let hole = hole as u64;
        for (range, expected) in [
            (0..20_000, false),
            (0..hole, false),
            (0..hole + 1, true),
            (hole + 4095..hole + 4096, true),
            (hole + 4096..pages.len - 100, false),
            (hole + 4096..pages.len, true),
        ] {
            assert_eq!(pages.has_hole(range.start, range.end).expect("read"), expected, "{range:?}");
        }
        let breaks_off = |from, to| pages.breaks_off::<8>(from, to).expect("read");
        assert_eq!((breaks_off(0, 8000), breaks_off(0, 8192), breaks_off(8186, 8192)), (false, true, false));
        let may_have_lost = |from, to| pages.may_have_lost(from, to).expect("read");
        // The page of zeros from 8192 on ends with that at 9096; the one before ends with them.
        assert!(may_have_lost(4000, 8192) && may_have_lost(8000, 8100));
        assert!(!may_have_lost(0, 4096) && !may_have_lost(8200, 8300) && !may_have_lost(8193, 12_288));
        assert_eq!(pages.array::<2>(pages.len - 1).expect("read"), None);
        assert_eq!(pages.bytes(0, 3, 2).expect("read"), None);
    }
}
