//! AV1 (RTP Payload Format For AV1, v1.0): OBU elements, cut across packets.

use super::assembly::{Assembly, End};
use super::{Depay, Output, Packet, TrackConfig, Unit};
use crate::ingest::caps::{av1c, video_track_caps};
use crate::media::Codec;

/// Most OBUs of a temporal unit.
const MAX_OBUS: usize = 4_096;
/// Longest sequence header OBU; a real one has about 12 bytes.
const MAX_SEQUENCE_BYTES: usize = 1 << 10;

const SEQUENCE_HEADER: u8 = 1;
const TEMPORAL_DELIMITER: u8 = 2;
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;
const TILE_LIST: u8 = 8;
const PADDING: u8 = 15;

pub(super) struct Av1 {
    assembly: Assembly,
    /// Where in the payload the OBU element starts that the next packet goes on with.
    open: Option<usize>,
    count: usize,
    sequence: Vec<u8>,
    /// The sequence header in use makes another config than the one told last.
    changed: bool,
    told: bool,
    seen: Seen,
}

/// Of the temporal unit under way.
#[derive(Default)]
struct Seen {
    sequence: bool,
    frame: bool,
    /// The first frame is a key frame that is shown.
    key: bool,
}

impl Av1 {
    pub fn new() -> Self {
        Self {
            assembly: Assembly::default(),
            open: None,
            count: 0,
            sequence: Vec::new(),
            changed: false,
            told: false,
            seen: Seen::default(),
        }
    }

    /// Adds the OBU elements of a packet. `None`: malformed, or not what must follow.
    fn take(&mut self, aggregation: Aggregation, mut rest: &[u8]) -> Option<()> {
        if aggregation.continues != self.open.is_some() {
            return None;
        }
        let mut index = 0;
        while !rest.is_empty() {
            index += 1;
            let sized = aggregation.elements == 0 || index < aggregation.elements;
            let (element, after) = if sized { split_leb128(rest)? } else { (rest, &[][..]) };
            let last = after.is_empty();
            let at = match self.open.take() {
                Some(at) => at,
                None => self.assembly.payload.len(),
            };
            self.assembly.append(element);
            if last && aggregation.goes_on {
                self.open = Some(at);
            } else {
                self.obu_done(at)?;
            }
            rest = after;
        }
        (aggregation.elements == 0 || index == aggregation.elements).then_some(())
    }

    /// Gives the OBU that begins at `at` a size field, or leaves it out.
    fn obu_done(&mut self, at: usize) -> Option<()> {
        if !self.assembly.is_under_way() {
            return None;
        }
        self.count += 1;
        let obu = self.assembly.payload.get(at..)?;
        let kind = obu_kind(*obu.first()?);
        if matches!(kind, TEMPORAL_DELIMITER | TILE_LIST | PADDING) {
            self.assembly.payload.truncate(at);
            return Some(());
        }
        let header = header_bytes(obu)?;
        const HAS_SIZE: u8 = 0x02;
        if obu[0] & HAS_SIZE == 0 {
            let (size, size_bytes) = leb128(obu.len() - header);
            self.assembly.payload[at] |= HAS_SIZE;
            let to = at + header;
            self.assembly.payload.splice(to..to, size[..size_bytes].iter().copied());
        }
        let obu = self.assembly.payload.get(at..)?;
        let (body, after) = split_leb128(&obu[header..])?;
        if !after.is_empty() {
            return None;
        }
        match kind {
            SEQUENCE_HEADER if obu.len() > MAX_SEQUENCE_BYTES => return None,
            SEQUENCE_HEADER => {
                self.seen.sequence = true;
                if self.sequence != obu {
                    self.sequence = obu.to_vec();
                    self.changed = true;
                }
            }
            FRAME | FRAME_HEADER if !self.seen.frame => {
                self.seen.frame = true;
                self.seen.key = shows_key_frame(*body.first()?);
            }
            _ => {}
        }
        (self.count <= MAX_OBUS).then_some(())
    }

    fn end(&mut self, end: End, out: &mut Vec<Output>) {
        if self.open.take().is_some() {
            self.assembly.spoil();
        }
        self.count = 0;
        let seen = std::mem::take(&mut self.seen);
        if self.assembly.is_under_way() && self.assembly.payload.is_empty() {
            return self.assembly.discard();
        }
        let Some((payload, timestamp)) = self.assembly.end(end) else { return };
        self.tell_config(out);
        if !self.told || self.changed {
            return self.assembly.count_dropped();
        }
        let key = seen.sequence && seen.key;
        out.push(Output::Unit(Unit { payload, timestamp, key, duration: None }));
    }

    fn tell_config(&mut self, out: &mut Vec<Output>) {
        if !self.changed {
            return;
        }
        let Some(Ok((caps, size))) = av1c(&self.sequence).map(|av1c| video_track_caps(Codec::Av1, &av1c))
        else {
            return;
        };
        (self.changed, self.told) = (false, true);
        out.push(Output::Config(TrackConfig { caps, size, rate: None, channels: None, reorder: Some(0) }));
    }

    fn spoil(&mut self) {
        self.assembly.spoil();
        self.forget();
    }

    fn forget(&mut self) {
        self.open = None;
        self.count = 0;
        self.seen = Seen::default();
    }
}

impl Depay for Av1 {
    fn push(&mut self, packet: Packet<'_>, out: &mut Vec<Output>) {
        let Some((&header, elements)) = packet.payload.split_first() else { return };
        let aggregation = Aggregation::of(header);
        if self.assembly.ends_before(packet.timestamp) {
            self.end(End::NextUnit, out);
        }
        let begins = |torn: bool| aggregation.new_sequence || (!torn && begins_unit(aggregation, elements));
        if self.assembly.admit(packet.timestamp, begins) && self.take(aggregation, elements).is_none() {
            self.spoil();
        }
        if packet.marker {
            self.end(End::Marker, out);
        }
    }

    fn lost(&mut self) {
        self.assembly.lost();
        self.forget();
    }

    fn finish(&mut self, out: &mut Vec<Output>) {
        self.end(End::Stream, out);
    }

    fn dropped(&self) -> u64 {
        self.assembly.dropped()
    }
}

/// The aggregation header (section 4.4).
#[derive(Clone, Copy)]
struct Aggregation {
    /// Z: the first element goes on with the last of the packet before.
    continues: bool,
    /// Y: the last element goes on in the next packet.
    goes_on: bool,
    /// W: elements, the last without length; 0 when each has one.
    elements: usize,
    /// N: a coded video sequence begins.
    new_sequence: bool,
}

impl Aggregation {
    fn of(header: u8) -> Self {
        let [continues, goes_on, new_sequence] = [0x80, 0x40, 0x08].map(|bit| header & bit != 0);
        let new_sequence = new_sequence && !continues;
        Self { continues, goes_on, elements: usize::from(header >> 4 & 3), new_sequence }
    }
}

/// Whether the first OBU is one that stands only at the start of a temporal unit.
fn begins_unit(aggregation: Aggregation, elements: &[u8]) -> bool {
    let first = match aggregation.elements {
        1 => Some(elements),
        _ => split_leb128(elements).map(|(element, _)| element),
    };
    let kind = first.and_then(|element| element.first()).map(|header| obu_kind(*header));
    !aggregation.continues && matches!(kind, Some(TEMPORAL_DELIMITER | SEQUENCE_HEADER))
}

fn obu_kind(header: u8) -> u8 {
    header >> 3 & 0x0F
}

/// Length of an OBU's header without size field: 1, or 2 with the extension.
fn header_bytes(obu: &[u8]) -> Option<usize> {
    const EXTENSION: u8 = 0x04;
    let bytes = if obu.first()? & EXTENSION != 0 { 2 } else { 1 };
    (obu.len() >= bytes).then_some(bytes)
}

/// `show_existing_frame` 0, `frame_type` KEY_FRAME, `show_frame` 1 (AV1 specification, 5.9.2).
fn shows_key_frame(frame_header: u8) -> bool {
    frame_header >> 4 == 0b0001
}

/// Bytes after their size, and what follows them.
fn split_leb128(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut size = 0usize;
    // More would be longer than any packet and any unit.
    for index in 0..4 {
        let byte = *bytes.get(index)?;
        size |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return bytes[index + 1..].split_at_checked(size);
        }
    }
    None
}

/// `value` as leb128 (AV1 specification, 4.10.5) in as few bytes as it takes, and how many; at most 8 MiB.
fn leb128(mut value: usize) -> ([u8; 4], usize) {
    let mut bytes = [0; 4];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            return (bytes, index + 1);
        }
        *byte |= 0x80;
    }
    (bytes, 4)
}
