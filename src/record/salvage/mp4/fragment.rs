//! A fragment as `reeldmp4mux` writes it: one `moof`, one run for each track, and the `mdat` they are in.

use super::boxes::{BoxAt, child, children, u32_at, u64_at};
use crate::{
    gst::mp4mux::{FragmentSample, RunHead},
    record::salvage::pages::Pages,
};
use std::io;

/// Longer than a `moof` of ours: a fragment holds 8 MiB, of access units that may be a byte long.
const MAX_MOOF_BYTES: u64 = 256 << 20;

/// A fragment whose boxes are whole; what is in its `mdat` is not known yet.
pub(super) struct Fragment {
    pub at: u64,
    pub end: u64,
    pub runs: Vec<Run>,
}

/// The samples of one track, which lie one after the other.
pub(super) struct Run {
    pub head: RunHead,
    pub samples: Vec<FragmentSample>,
}

impl Run {
    pub fn bytes(&self) -> u64 {
        self.samples.iter().map(|s| u64::from(s.size)).sum()
    }

    pub fn end(&self) -> u64 {
        self.head.offset.saturating_add(self.bytes())
    }
}

impl Fragment {
    /// The fragment at `at`; `None` when it is not whole, or none.
    pub fn read(pages: &Pages, at: u64) -> io::Result<Option<Self>> {
        let Some(moof) = BoxAt::expect(pages, at, b"moof")? else { return Ok(None) };
        let Some(mdat) = BoxAt::expect(pages, moof.end, b"mdat")? else { return Ok(None) };
        let Some(content) = pages.bytes(moof.content, moof.end, MAX_MOOF_BYTES)? else { return Ok(None) };
        let trafs = children(&content).filter(|(kind, _)| kind == b"traf");
        let Some(runs) = trafs.map(|(_, traf)| run(traf, at)).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let fragment = Self { at, end: mdat.end, runs };
        Ok(fragment.fills(mdat.content).then_some(fragment))
    }

    /// Whether the runs are all that is in the `mdat`, in order.
    fn fills(&self, content: u64) -> bool {
        let end = self.runs.iter().try_fold(content, |at, run| (run.head.offset == at).then_some(run.end()));
        !self.runs.is_empty() && end == Some(self.end)
    }
}

/// `None` for what our muxer does not write.
fn run(traf: &[u8], moof_at: u64) -> Option<Run> {
    const OFFSET_DURATION_SIZE: u32 = 0x301;
    const FLAGS_COMPOSITION: u32 = 0xc00;
    let (trun, tfdt) = (child(traf, b"trun")?, child(traf, b"tfdt")?);
    let track = u32_at(child(traf, b"tfhd")?, 4)?;
    let flags = u32_at(trun, 0)? & 0xFF_FFFF;
    let video = match flags ^ OFFSET_DURATION_SIZE {
        0 => false,
        FLAGS_COMPOSITION => true,
        _ => return None,
    };
    let (count, offset) = (u32_at(trun, 4)? as usize, u32_at(trun, 8)?);
    let entries = trun.get(12..)?;
    let entry_bytes = if video { 16 } else { 8 };
    (count > 0 && entries.len() == count.checked_mul(entry_bytes)?).then_some(())?;
    let samples = entries.chunks_exact(entry_bytes).map(sample).collect::<Option<Vec<_>>>()?;
    let head = RunHead { track, decode_time: u64_at(tfdt, 4)?, offset: moof_at + u64::from(offset) };
    Some(Run { head, samples })
}

fn sample(entry: &[u8]) -> Option<FragmentSample> {
    const NON_SYNC: u32 = 0x1_0000;
    const MAX_SAMPLE_BYTES: u32 = 1 << 31;
    let size = u32_at(entry, 4).filter(|size| (1..MAX_SAMPLE_BYTES).contains(size))?;
    Some(FragmentSample {
        duration: u32_at(entry, 0)?,
        size,
        sync: u32_at(entry, 8).is_none_or(|flags| flags & NON_SYNC == 0),
        composition: u32_at(entry, 12).unwrap_or(0) as i32,
    })
}
