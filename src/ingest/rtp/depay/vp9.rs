//! VP9 (RFC 9628), flexible and non-flexible mode.
//!
//! A picture of several spatial layers becomes one superframe, as an encoder would have given it out (VP9 bitstream
//! specification, annex B): a decoder shows its highest layer.

use super::assembly::{Assembly, End};
use super::{Depay, Output, Packet, Unit, picture_size::PictureSize};
use crate::media::{Bits, Codec, VideoSize};

/// Spatial layers of a picture, and frames of a superframe.
const MAX_LAYERS: usize = 8;

pub(super) struct Vp9 {
    assembly: Assembly,
    size: PictureSize,
    layers: Layers,
}

/// Of the picture under way.
#[derive(Default)]
struct Layers {
    /// Sizes of the frames that are whole, bytes.
    whole: Vec<usize>,
    /// The last packet left its frame open.
    open: bool,
    /// The first frame needs other pictures.
    inter: bool,
    /// Picture sizes of all layers, where told.
    sizes: Vec<VideoSize>,
    highest: u8,
}

impl Vp9 {
    pub fn new() -> Self {
        let size = PictureSize::new(Codec::Vp9);
        Self { assembly: Assembly::default(), size, layers: Layers::default() }
    }

    /// Adds a packet's part of a layer's frame to the picture. `None`: it does not fit there.
    fn take(&mut self, part: &Descriptor, data: &[u8]) -> Option<()> {
        let layers = &mut self.layers;
        let other_layer = layers.open && part.spatial_layer != layers.highest;
        if part.begins == layers.open || other_layer || data.is_empty() {
            return None;
        }
        if part.begins && layers.whole.is_empty() {
            layers.inter = part.inter;
        }
        if !part.sizes.is_empty() {
            layers.sizes.clone_from(&part.sizes);
        }
        layers.highest = part.spatial_layer;
        layers.open = !part.ends;
        self.assembly.append(data);
        if part.ends {
            let before: usize = layers.whole.iter().sum();
            layers.whole.push(self.assembly.payload.len().checked_sub(before)?);
        }
        (layers.whole.len() <= MAX_LAYERS).then_some(())
    }

    fn end(&mut self, end: End, out: &mut Vec<Output>) {
        let layers = std::mem::take(&mut self.layers);
        if layers.open {
            self.assembly.spoil();
        }
        let Some((mut payload, timestamp)) = self.assembly.end(end) else { return };
        let header = key_frame_size(&payload).filter(|_| !layers.inter);
        let key = header.is_some();
        let told = layers.sizes.get(usize::from(layers.highest)).copied();
        if !self.size.tell(header.map(|size| told.or(size)), out) {
            return self.assembly.count_dropped();
        }
        if layers.whole.len() > 1 {
            put_superframe_index(&mut payload, &layers.whole);
        }
        out.push(Output::Unit(Unit { payload, timestamp, key, duration: None }));
    }
}

impl Depay for Vp9 {
    fn push(&mut self, packet: Packet<'_>, out: &mut Vec<Output>) {
        if packet.payload.is_empty() {
            return;
        }
        let part = split(packet.payload);
        let begins = part.as_ref().is_some_and(|(part, _)| part.begins && part.spatial_layer == 0);
        if begins || self.assembly.ends_before(packet.timestamp) {
            self.end(End::NextUnit, out);
        }
        if self.assembly.admit(packet.timestamp, |_| begins)
            && part.and_then(|(part, data)| self.take(&part, data)).is_none()
        {
            self.assembly.spoil();
        }
        if packet.marker {
            self.end(End::Marker, out);
        }
    }

    fn lost(&mut self) {
        self.assembly.lost();
        self.layers = Layers::default();
    }

    fn finish(&mut self, out: &mut Vec<Output>) {
        self.end(End::Stream, out);
    }

    fn dropped(&self) -> u64 {
        self.assembly.dropped()
    }
}

/// What a payload descriptor tells (RFC 9628, 4.2).
#[derive(Debug, Default, PartialEq, Eq)]
struct Descriptor {
    inter: bool,
    begins: bool,
    ends: bool,
    spatial_layer: u8,
    sizes: Vec<VideoSize>,
}

/// The descriptor and what follows it. `None`: malformed.
fn split(payload: &[u8]) -> Option<(Descriptor, &[u8])> {
    let (&first, mut rest) = payload.split_first()?;
    let [picture_id, inter, layers, flexible, begins, ends, structure] =
        [0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02].map(|bit| first & bit != 0);
    let mut byte = || -> Option<u8> {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        Some(byte)
    };
    if picture_id && byte()? & 0x80 != 0 {
        byte()?;
    }
    let mut spatial_layer = 0;
    if layers {
        spatial_layer = byte()? >> 1 & 7;
        if !flexible {
            let _tl0_pic_idx = byte()?;
        }
    }
    if flexible && inter {
        const MAX_REFERENCES: usize = 3;
        let more = |byte: u8| byte & 1 != 0;
        let mut references = 1;
        while more(byte()?) {
            references += 1;
            if references > MAX_REFERENCES {
                return None;
            }
        }
    }
    let sizes = if structure { scalability_structure(&mut byte)? } else { Vec::new() };
    Some((Descriptor { inter, begins, ends, spatial_layer, sizes }, rest))
}

/// RFC 9628, 4.2.1. Picture sizes, lowest layer first, where told.
fn scalability_structure(byte: &mut impl FnMut() -> Option<u8>) -> Option<Vec<VideoSize>> {
    let first = byte()?;
    let (layers, with_sizes, with_group) = ((first >> 5) + 1, first & 0x10 != 0, first & 0x08 != 0);
    let mut sizes = Vec::new();
    for _ in 0..if with_sizes { layers } else { 0 } {
        let mut pixels = || Some(u32::from(u16::from_be_bytes([byte()?, byte()?])));
        sizes.push(VideoSize { width: pixels()?, height: pixels()? });
    }
    for _ in 0..if with_group { byte()? } else { 0 } {
        for _ in 0..byte()? >> 2 & 3 {
            byte()?;
        }
    }
    let known = sizes.iter().all(|size| size.width > 0 && size.height > 0);
    Some(if known { sizes } else { Vec::new() })
}

/// VP9 bitstream specification, 6.2: of a key frame its size, or `None` if that cannot be read; of all else `None`.
pub(in crate::ingest) fn key_frame_size(frame: &[u8]) -> Option<Option<VideoSize>> {
    let mut bits = Bits::new(frame);
    const FRAME_MARKER: u32 = 2;
    if bits.take(2)? != FRAME_MARKER {
        return None;
    }
    let profile = bits.take(1)? | bits.take(1)? << 1;
    if profile == 3 {
        bits.take(1)?;
    }
    let (show_existing, inter) = (bits.flag()?, bits.flag()?);
    if show_existing || inter {
        return None;
    }
    Some(size_after_frame_type(&mut bits, profile))
}

fn size_after_frame_type(bits: &mut Bits<'_>, profile: u32) -> Option<VideoSize> {
    let _show_frame_and_error_resilient = bits.take(2)?;
    const SYNC_CODE: u32 = 0x49_83_42;
    if bits.take(24)? != SYNC_CODE {
        return None;
    }
    if profile >= 2 {
        let _twelve_bit = bits.take(1)?;
    }
    const RGB: u32 = 7;
    let with_format = profile == 1 || profile == 3;
    if bits.take(3)? == RGB {
        bits.take(if with_format { 1 } else { 0 })?;
    } else {
        // Range; subsampling and a reserved bit.
        bits.take(if with_format { 4 } else { 1 })?;
    }
    let (width, height) = (bits.take(16)? + 1, bits.take(16)? + 1);
    Some(VideoSize { width, height })
}

/// Annex B.2. `sizes`: of two to eight frames.
fn put_superframe_index(payload: &mut Vec<u8>, sizes: &[usize]) {
    // A unit has at most 8 MiB.
    const SIZE_BYTES: usize = 4;
    let header = 0xC0 | (SIZE_BYTES as u8 - 1) << 3 | (sizes.len() as u8 - 1);
    payload.push(header);
    for size in sizes {
        payload.extend((*size as u32).to_le_bytes());
    }
    payload.push(header);
}
