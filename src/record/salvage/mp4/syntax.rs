//! Whether what is in an `mdat` can be the access units that its `moof` tells of.

use super::fragment::Run;
use crate::{
    gst::mp4mux::{TrackHead, h264_size, h265_size},
    record::salvage::pages::Pages,
};
use std::io;

/// A longer parameter set is not looked at.
const MAX_SET_BYTES: u64 = 4096;

/// What the access units of a track begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syntax {
    /// NAL units behind lengths of so many bytes (14496-15, 4.3.3).
    H264 {
        length_bytes: u8,
    },
    H265 {
        length_bytes: u8,
    },
    /// OBUs (AV1, 5.3.2).
    Av1,
    /// A frame marker (VP9, 6.2).
    Vp9,
    /// Nothing that could be told from anything else.
    Any,
}

/// Knows a track's access units from anything else that may be in their place.
pub(super) struct Judge {
    pub track: u32,
    syntax: Syntax,
    /// Its sample entry, which has the first parameter sets in it.
    entry: Vec<u8>,
    /// Parameter sets in the access units that are not those of the sample entry, the last of each kind.
    seen: Vec<(u8, Vec<u8>)>,
}

/// What an access unit's parameter sets say: the track needs a sample entry that lets them be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct InBand {
    pub found: bool,
    pub size: Option<(u16, u16)>,
}

impl Judge {
    pub fn new(head: &TrackHead) -> Self {
        /// Of the box in a sample entry of video that has its codec's configuration.
        const CONFIG: usize = 86 + 8;
        let config = |at: usize| head.entry.get(CONFIG + at).copied().unwrap_or(3);
        let length_bytes = |at| (config(at) & 3) + 1;
        let syntax = match head.entry.get(4..8) {
            Some(b"avc1" | b"avc3") => Syntax::H264 { length_bytes: length_bytes(4) },
            Some(b"hvc1" | b"hev1") => Syntax::H265 { length_bytes: length_bytes(21) },
            Some(b"av01") => Syntax::Av1,
            Some(b"vp09") => Syntax::Vp9,
            _ => Syntax::Any,
        };
        Self { track: head.id, syntax, entry: head.entry.clone(), seen: Vec::new() }
    }

    /// From now on any access unit passes.
    pub fn give_up(&mut self) {
        self.syntax = Syntax::Any;
    }

    /// `None` when the run holds something else, and a power cut may have put that there: it leaves zeros. Whatever else is
    /// no access unit was sent as it is.
    pub fn look(&mut self, pages: &Pages, run: &Run) -> io::Result<Option<InBand>> {
        let mut in_band = InBand::default();
        let is_nal = matches!(self.syntax, Syntax::H264 { .. } | Syntax::H265 { .. });
        // In front of a NAL unit are at most three zeros of its length, and one or two may end the one before.
        if is_nal && pages.breaks_off::<8>(run.head.offset, run.end())? {
            return Ok(None);
        }
        let mut at = run.head.offset;
        for sample in &run.samples {
            let end = at + u64::from(sample.size);
            if !self.access_unit(pages, at, end, &mut in_band)? && pages.may_have_lost(at, end)? {
                return Ok(None);
            }
            at = end;
        }
        Ok(Some(in_band))
    }

    fn access_unit(&mut self, pages: &Pages, at: u64, end: u64, in_band: &mut InBand) -> io::Result<bool> {
        let first = || Ok::<_, io::Error>(pages.array::<1>(at)?.map_or(0, |[byte]| byte));
        match self.syntax {
            Syntax::Any => Ok(true),
            // The forbidden bit, a type that is not reserved, the reserved bit; 0 is a reserved type.
            Syntax::Av1 => first().map(|byte| byte & 0x81 == 0 && matches!(byte >> 3, 1..=8 | 15)),
            Syntax::Vp9 => first().map(|byte| byte >> 6 == 0b10),
            Syntax::H264 { length_bytes } | Syntax::H265 { length_bytes } => {
                self.nal_units(pages, at, end, u64::from(length_bytes), in_band)
            }
        }
    }

    /// Whether `at..end` is nothing but NAL units.
    fn nal_units(
        &mut self,
        pages: &Pages,
        mut at: u64,
        end: u64,
        length_bytes: u64,
        in_band: &mut InBand,
    ) -> io::Result<bool> {
        while at < end {
            let nal = at + length_bytes;
            // One header byte at least.
            if nal >= end {
                return Ok(false);
            }
            let length = match length_bytes {
                4 => pages.array(at)?.map_or(0, u32::from_be_bytes),
                3 => pages.array(at)?.map_or(0, |[a, b, c]| u32::from_be_bytes([0, a, b, c])),
                2 => pages.array(at)?.map_or(0, |bytes| u16::from_be_bytes(bytes).into()),
                _ => pages.array(at)?.map_or(0, |[byte]| u32::from(byte)),
            };
            let header = pages.array::<1>(nal)?.map_or(0, |[byte]| byte);
            at = nal + u64::from(length);
            if length == 0 || at > end || !self.is_header(header) {
                return Ok(false);
            }
            if self.is_parameter_set(header) {
                let set = pages.bytes(nal, at, MAX_SET_BYTES)?.unwrap_or_default();
                self.parameter_set(header, set, in_band);
            }
        }
        Ok(true)
    }

    /// The forbidden bit is 0, and so is no byte of zeros a header: type 0 is not specified in H.264, but is a slice in
    /// H.265, whose next byte is not known here.
    fn is_header(&self, header: u8) -> bool {
        const FORBIDDEN: u8 = 0x80;
        const TYPE: u8 = 0x1F;
        match self.syntax {
            Syntax::H264 { .. } => header & FORBIDDEN == 0 && header & TYPE != 0,
            _ => header & FORBIDDEN == 0,
        }
    }

    /// Sequence and picture parameter sets, and video parameter sets.
    fn is_parameter_set(&self, header: u8) -> bool {
        match self.syntax {
            Syntax::H264 { .. } => matches!(header & 0x1F, 7 | 8),
            _ => matches!(header >> 1, 32..=34),
        }
    }

    fn parameter_set(&mut self, header: u8, set: Vec<u8>, in_band: &mut InBand) {
        let known = self.entry.windows(set.len().max(1)).any(|bytes| bytes == set);
        if set.is_empty() || known || self.seen.iter().any(|(of, seen)| *of == header && *seen == set) {
            return;
        }
        in_band.found = true;
        let size = match (self.syntax, header & 0x1F, header >> 1) {
            (Syntax::H264 { .. }, 7, _) => h264_size(&set),
            (Syntax::H265 { .. }, _, 33) => h265_size(&set),
            _ => None,
        };
        if let Some((width, height)) = size {
            let (w, h) = in_band.size.unwrap_or_default();
            in_band.size = Some((width.max(w), height.max(h)));
        }
        self.seen.retain(|(of, _)| *of != header);
        self.seen.push((header, set));
    }
}
