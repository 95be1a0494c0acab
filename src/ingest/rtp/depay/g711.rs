//! G.711 (RFC 3551, 4.5.14): samples, one byte each, no header.

use super::{Depay, DepayError, Output, Packet, Told, Unit};
use crate::ingest::{caps::g711_track_caps, rtp::Format};

pub(super) struct G711 {
    config: Told,
    channels: u32,
}

impl G711 {
    pub fn new(format: &Format) -> Result<Self, DepayError> {
        let channels = format.channels.max(1);
        let track = g711_track_caps(format.codec, format.clock_rate, channels)
            .map_err(|e| DepayError { codec: format.codec, what: e.what })?;
        Ok(Self { config: Told::audio(track), channels })
    }
}

impl Depay for G711 {
    fn push(&mut self, packet: Packet<'_>, out: &mut Vec<Output>) {
        if packet.payload.is_empty() {
            return;
        }
        self.config.tell(out);
        let ticks = packet.payload.len() as u32 / self.channels;
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
        0
    }
}
