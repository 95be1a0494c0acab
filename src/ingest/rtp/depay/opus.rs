//! Opus (RFC 7587): one Opus packet in each RTP packet.

use super::{Depay, DepayError, Output, Packet, Told, Unit};
use crate::ingest::{
    caps::{audio_track_caps, opus_head},
    rtp::Format,
};
use crate::media::Codec;

/// The RTP clock, whatever the audio was sampled at (RFC 7587, 4.1).
const CLOCK_RATE: u32 = 48_000;

pub(super) struct Opus {
    config: Told,
    dropped: u64,
}

impl Opus {
    pub fn new(format: &Format) -> Result<Self, DepayError> {
        let invalid = |what| DepayError { codec: Codec::Opus, what };
        if format.clock_rate != CLOCK_RATE {
            return Err(invalid("the clock rate is not 48000"));
        }
        // A sender that says nothing may send both; a stereo decoder plays mono packets, not the other way round.
        let channels = match format.fmtp("sprop-stereo") {
            Some("0") => 1,
            _ => 2,
        };
        let track = audio_track_caps(Codec::Opus, &opus_head(channels)).map_err(|e| invalid(e.what))?;
        Ok(Self { config: Told::audio(track), dropped: 0 })
    }
}

impl Depay for Opus {
    fn push(&mut self, packet: Packet<'_>, out: &mut Vec<Output>) {
        if packet.payload.is_empty() {
            return;
        }
        let Some(ticks) = duration(packet.payload) else {
            self.dropped += 1;
            return;
        };
        self.config.tell(out);
        out.push(Output::Unit(Unit {
            payload: packet.payload.to_vec(),
            timestamp: packet.timestamp,
            key: true,
            duration: Some(ticks),
        }));
    }

    fn lost(&mut self) {}

    fn finish(&mut self, _out: &mut Vec<Output>) {}

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Samples at 48 kHz in an Opus packet (RFC 6716, 3.1 and 3.2); `None` if it is none. A packet of one byte, as sent while
/// nobody speaks, has a frame of no bytes, and its duration.
fn duration(packet: &[u8]) -> Option<u32> {
    const MOST: u32 = CLOCK_RATE / 1_000 * 120;
    let toc = *packet.first()?;
    let frame = match toc >> 3 {
        config @ 0..=11 => [480, 960, 1_920, 2_880][usize::from(config & 3)],
        config @ 12..=15 => [480, 960][usize::from(config & 1)],
        config => [120, 240, 480, 960][usize::from(config & 3)],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1)? & 0x3F),
    };
    (1..=MOST).contains(&(frame * frames)).then_some(frame * frames)
}
