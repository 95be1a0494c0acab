//! AAC as MP4A-LATM (RFC 6416, 6) with its configuration in the session description (`cpresent=0`).

use super::assembly::{Assembly, End};
use super::{Depay, DepayError, Output, Packet, Told, Unit, asc::Asc};
use crate::ingest::{caps::audio_track_caps, rtp::Format};
use crate::media::{Bits, Codec};

pub(super) struct Latm {
    config: Told,
    assembly: Assembly,
    /// Access units of an audioMuxElement.
    frames: u32,
    /// Ticks of an access unit.
    duration: u32,
}

fn invalid(what: &'static str) -> DepayError {
    DepayError { codec: Codec::Aac, what }
}

impl Latm {
    /// Whether `format`, of AAC, is this and not mpeg4-generic, which says its mode or lengths.
    pub fn is_described_by(format: &Format) -> bool {
        let generic = ["mode", "sizelength", "streamtype"].iter().any(|key| format.fmtp(key).is_some());
        format.fmtp("cpresent").is_some() || (!generic && format.fmtp("config").is_some())
    }

    pub fn new(format: &Format) -> Result<Self, DepayError> {
        if format.fmtp("cpresent") != Some("0") {
            return Err(invalid("MP4A-LATM is read with cpresent=0 only"));
        }
        let config = format.fmtp("config").ok_or(invalid("config= is missing"))?;
        let config = hex::decode(config.trim()).map_err(|_| invalid("config= is not hexadecimal"))?;
        let unknown = invalid("config= is not a StreamMuxConfig of one AAC stream");
        let (frames, asc) = stream_mux_config(&config).ok_or(unknown)?;
        let track = audio_track_caps(Codec::Aac, &asc).map_err(|e| invalid(e.what))?;
        let duration = Asc::parse(&asc).ok_or(unknown)?.ticks(format.clock_rate, track.rate);
        Ok(Self { config: Told::audio(track), assembly: Assembly::default(), frames, duration })
    }

    fn end(&mut self, end: End, out: &mut Vec<Output>) {
        let Some((element, mut timestamp)) = self.assembly.end(end) else { return };
        let Some(units) = split(&element, self.frames) else { return self.assembly.count_dropped() };
        self.config.tell(out);
        for unit in units {
            let payload = unit.to_vec();
            out.push(Output::Unit(Unit { payload, timestamp, key: true, duration: Some(self.duration) }));
            timestamp = timestamp.wrapping_add(self.duration);
        }
    }
}

impl Depay for Latm {
    fn push(&mut self, packet: Packet<'_>, out: &mut Vec<Output>) {
        if packet.payload.is_empty() {
            return;
        }
        if self.assembly.ends_before(packet.timestamp) {
            self.end(End::NextUnit, out);
        }
        if self.assembly.admit(packet.timestamp, |_| false) {
            self.assembly.append(packet.payload);
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

/// ISO/IEC 14496-3, 1.7.3: access units of an element, and the `AudioSpecificConfig`. `None` for several programs or
/// layers, and for what is not AAC.
fn stream_mux_config(config: &[u8]) -> Option<(u32, Vec<u8>)> {
    let mut bits = Bits::new(config);
    let (version, same_framing) = (bits.take(1)?, bits.take(1)?);
    let frames = bits.take(6)? + 1;
    let (programs, layers) = (bits.take(4)?, bits.take(3)?);
    if (version, same_framing, programs, layers) != (0, 1, 0, 0) {
        return None;
    }
    let mut shifted = Vec::new();
    while let Some(byte) = bits.take(8) {
        shifted.push(byte as u8);
    }
    // One bit is left: of whole bytes 15 were before.
    shifted.push(config.last()? << 7);

    let length = Asc::parse(&shifted)?.bits;
    let mut after = Bits::new(&shifted);
    for _ in 0..length {
        after.flag()?;
    }
    // Frames of any length (frameLengthType 0, 3 bits, then 8 of latmBufferFullness). Some senders put the extension of
    // backward compatible SBR there, and nothing after it.
    const SBR_SYNC: u32 = 0x2B7;
    let follows = after.take(11)?;
    shifted.truncate(length.div_ceil(8));
    if length % 8 > 0 {
        *shifted.last_mut()? &= 0xFF << (8 - length % 8);
    }
    (follows == SBR_SYNC || follows >> 8 == 0).then_some((frames, shifted))
}

/// The access units of an audioMuxElement, each after its length (1.7.3.1, PayloadLengthInfo and PayloadMux).
fn split(mut element: &[u8], frames: u32) -> Option<Vec<&[u8]>> {
    let mut units = Vec::new();
    for _ in 0..frames {
        let mut length = 0;
        loop {
            let (&byte, after) = element.split_first()?;
            element = after;
            length += usize::from(byte);
            if byte < 255 {
                break;
            }
        }
        let (unit, after) = element.split_at_checked(length)?;
        element = after;
        if !unit.is_empty() {
            units.push(unit);
        }
    }
    Some(units)
}
