//! VP8 (RFC 7741): a frame is the payloads behind its packets' descriptors.

use super::assembly::{Assembly, End};
use super::{Depay, Output, Packet, Unit, picture_size::PictureSize};
use crate::media::{Codec, VideoSize};

pub(super) struct Vp8 {
    assembly: Assembly,
    size: PictureSize,
}

impl Vp8 {
    pub fn new() -> Self {
        Self { assembly: Assembly::default(), size: PictureSize::new(Codec::Vp8) }
    }

    fn end(&mut self, end: End, out: &mut Vec<Output>) {
        let Some((payload, timestamp)) = self.assembly.end(end) else { return };
        let key = payload.first().is_some_and(|first| first & 1 == 0);
        if !self.size.tell(key.then(|| key_frame_size(&payload)), out) {
            return self.assembly.count_dropped();
        }
        out.push(Output::Unit(Unit { payload, timestamp, key, duration: None }));
    }
}

impl Depay for Vp8 {
    fn push(&mut self, packet: Packet<'_>, out: &mut Vec<Output>) {
        if packet.payload.is_empty() {
            return;
        }
        let part = split(packet.payload);
        let begins = part.is_some_and(|(begins, _)| begins);
        if begins || self.assembly.ends_before(packet.timestamp) {
            self.end(End::NextUnit, out);
        }
        if self.assembly.admit(packet.timestamp, |_| begins) {
            match part {
                Some((begins, data)) if begins || !self.assembly.payload.is_empty() => {
                    self.assembly.append(data)
                }
                _ => self.assembly.spoil(),
            }
        }
        if packet.marker {
            self.end(End::Marker, out);
        }
    }

    fn lost(&mut self) {
        self.assembly.lost();
    }

    fn finish(&mut self, out: &mut Vec<Output>) {
        self.end(End::Stream, out);
    }

    fn dropped(&self) -> u64 {
        self.assembly.dropped()
    }
}

/// Whether a frame begins with the packet, and its part of the frame (RFC 7741, 4.2). `None`: malformed.
fn split(payload: &[u8]) -> Option<(bool, &[u8])> {
    const EXTENDED: u8 = 0x80;
    const START: u8 = 0x10;
    const PARTITION: u8 = 0x07;
    let (&first, mut rest) = payload.split_first()?;
    if first & EXTENDED != 0 {
        let (&extension, after) = rest.split_first()?;
        let [picture_id, tl0_pic_idx, tid_or_key_idx] = [0x80, 0x40, 0x30].map(|bits| extension & bits != 0);
        let long = picture_id && after.first()? & 0x80 != 0;
        let fields = [picture_id, long, tl0_pic_idx, tid_or_key_idx].into_iter().filter(|there| *there);
        rest = after.get(fields.count()..)?;
    }
    let begins = first & START != 0 && first & PARTITION == 0;
    (!rest.is_empty()).then_some((begins, rest))
}

/// RFC 6386, 9.1.
pub(in crate::ingest) fn key_frame_size(frame: &[u8]) -> Option<VideoSize> {
    let &[_, _, _, 0x9D, 0x01, 0x2A, a, b, c, d, ..] = frame else { return None };
    let pixels = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3FFF);
    let size = VideoSize { width: pixels(a, b), height: pixels(c, d) };
    (size.width > 0 && size.height > 0).then_some(size)
}
