//! H.264 (RFC 6184), packetization modes 0 and 1: single NAL units, STAP-A and FU-A.

use super::nal::{AccessUnits, NalCodec, NalKind, PPS, ParameterSets, SPS, split_sized};
use super::{Depay, DepayError, Output, Packet, TrackConfig, base64_list};
use crate::ingest::{
    caps::{H264Sps, avcc, video_track_caps},
    rtp::Format,
};
use crate::media::{Bits, Codec};

pub(super) struct H264 {
    units: AccessUnits<Avc>,
}

const STAP_A: u8 = 24;
const FU_A: u8 = 28;

impl H264 {
    pub fn new(format: &Format) -> Result<Self, DepayError> {
        match format.fmtp("packetization-mode") {
            None | Some("0" | "1") => {}
            _ => {
                let what = "only packetization-mode 0 and 1 (no interleaving) can be read";
                return Err(DepayError { codec: Codec::H264, what });
            }
        }
        let mut units = AccessUnits::new();
        for set in base64_list(format.fmtp("sprop-parameter-sets")) {
            units.described_set(&set);
        }
        Ok(Self { units })
    }

    /// RFC 6184, 5.8.
    fn fragment(&mut self, payload: &[u8]) {
        let [indicator, fu, fragment @ ..] = payload else { return self.units.spoil() };
        let (start, end) = (fu & 0x80 != 0, fu & 0x40 != 0);
        let header = [indicator & 0xE0 | fu & 0x1F];
        self.units.fragment(&header, fragment, start, end);
    }
}

impl Depay for H264 {
    fn push(&mut self, packet: Packet<'_>, out: &mut Vec<Output>) {
        let payload = packet.payload;
        let Some(&indicator) = payload.first() else { return };
        let kind = indicator & 0x1F;
        let first_nal = match kind {
            STAP_A => split_sized(&payload[1..]).map(|(nal, _)| nal),
            FU_A => None,
            _ => Some(payload),
        };
        if self.units.begin(packet, first_nal, out) {
            match kind {
                1..=23 => self.units.nal(payload),
                STAP_A => self.units.aggregate(&payload[1..]),
                FU_A => self.fragment(payload),
                // STAP-B, MTAP and FU-B need packetization mode 2.
                25..=27 | 29 => self.units.spoil(),
                // Reserved: to be ignored (5.2).
                _ => {}
            }
        }
        self.units.packet_done(packet, out);
    }

    fn lost(&mut self) {
        self.units.lost();
    }

    fn finish(&mut self, out: &mut Vec<Output>) {
        self.units.finish(out);
    }

    fn dropped(&self) -> u64 {
        self.units.dropped()
    }
}

struct Avc;

/// The id that `bytes` begin with.
pub(super) fn id(bytes: &[u8], most: u8) -> Option<u8> {
    Bits::new(bytes).ue()?.try_into().ok().filter(|id| *id <= most)
}

impl NalCodec for Avc {
    const TYPE_MASK: u8 = 0x1F;

    /// ITU-T H.264, table 7-1.
    fn kind(nal: &[u8]) -> Option<NalKind> {
        let (header, body) = nal.split_first()?;
        Some(match header & 0x1F {
            kind @ (1 | 2 | 5) => {
                let mut bits = Bits::new(body);
                let first_macroblock = bits.ue()?;
                let intra = matches!(bits.ue()? % 5, 2 | 4);
                NalKind::Slice { first: first_macroblock == 0, random_access: kind == 5, intra }
            }
            // After profile, constraints and level.
            7 => NalKind::Set { kind: SPS, id: id(body.get(3..)?, 31)? },
            8 => NalKind::Set { kind: PPS, id: id(body, 255)? },
            9 => NalKind::Delimiter,
            12 => NalKind::Filler,
            _ => NalKind::Other,
        })
    }

    fn config(sets: &ParameterSets) -> Option<TrackConfig> {
        let sps = sets.of(SPS);
        let avcc = avcc(&sps, &sets.of(PPS))?;
        let (caps, size) = video_track_caps(Codec::H264, &avcc).ok()?;
        let reorder = H264Sps::parse(sps.first()?).and_then(|sps| sps.reorder);
        Some(TrackConfig { caps, size, rate: None, channels: None, reorder })
    }
}
