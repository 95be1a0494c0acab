//! H.265 (RFC 7798): single NAL units, aggregation packets and fragmentation units, in decoding order (no DONL).

use super::nal::{AccessUnits, NalCodec, NalKind, PPS, ParameterSets, SPS, VPS, split_sized};
use super::{Depay, DepayError, Output, Packet, TrackConfig, base64_list, h264::id};
use crate::ingest::{
    caps::{H265Sps, hvcc, video_track_caps},
    rtp::Format,
};
use crate::media::Codec;

pub(super) struct H265 {
    units: AccessUnits<Hevc>,
}

const AP: u8 = 48;
const FU: u8 = 49;
const PACI: u8 = 50;

fn kind_of(header: u8) -> u8 {
    header >> 1 & 0x3F
}

impl H265 {
    pub fn new(format: &Format) -> Result<Self, DepayError> {
        let invalid = |what| DepayError { codec: Codec::H265, what };
        if !matches!(format.fmtp("sprop-max-don-diff"), None | Some("0")) {
            return Err(invalid("packets out of decoding order (sprop-max-don-diff) cannot be read"));
        }
        if !matches!(format.fmtp("tx-mode"), None | Some("SRST")) {
            return Err(invalid("layers in several streams (tx-mode) cannot be read"));
        }
        let mut units = AccessUnits::new();
        for key in ["sprop-vps", "sprop-sps", "sprop-pps"] {
            for set in base64_list(format.fmtp(key)) {
                units.described_set(&set);
            }
        }
        Ok(Self { units })
    }

    /// RFC 7798, 4.4.3.
    fn fragment(&mut self, payload: &[u8]) {
        let [first, second, fu, fragment @ ..] = payload else { return self.units.spoil() };
        let (start, end) = (fu & 0x80 != 0, fu & 0x40 != 0);
        let header = [first & 0x81 | (fu & 0x3F) << 1, *second];
        self.units.fragment(&header, fragment, start, end);
    }
}

impl Depay for H265 {
    fn push(&mut self, packet: Packet<'_>, out: &mut Vec<Output>) {
        let payload = packet.payload;
        let &[header, _, ref body @ ..] = payload else { return };
        let kind = kind_of(header);
        let first_nal = match kind {
            AP => split_sized(body).map(|(nal, _)| nal),
            FU => None,
            _ => Some(payload),
        };
        if self.units.begin(packet, first_nal, out) {
            match kind {
                0..AP => self.units.nal(payload),
                AP => self.units.aggregate(body),
                FU => self.fragment(payload),
                PACI => self.units.spoil(),
                // Unspecified: to be ignored.
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

struct Hevc;

impl NalCodec for Hevc {
    const TYPE_MASK: u8 = 0x7E;

    /// ITU-T H.265, table 7-1.
    fn kind(nal: &[u8]) -> Option<NalKind> {
        let &[header, second, ref body @ ..] = nal else { return None };
        let layer = (header & 1) << 5 | second >> 3;
        if layer != 0 {
            // Enhancement layers: players show the base layer.
            return Some(NalKind::Filler);
        }
        Some(match kind_of(header) {
            kind @ 0..=31 => {
                let first = body.first()?;
                let random_access = (16..=23).contains(&kind);
                NalKind::Slice { first: first & 0x80 != 0, random_access, intra: random_access }
            }
            32 => NalKind::Set { kind: VPS, id: body.first()? >> 4 },
            33 => NalKind::Set { kind: SPS, id: H265Sps::parse(nal)?.id },
            34 => NalKind::Set { kind: PPS, id: id(body, 63)? },
            35 => NalKind::Delimiter,
            38 => NalKind::Filler,
            _ => NalKind::Other,
        })
    }

    fn config(sets: &ParameterSets) -> Option<TrackConfig> {
        let sps = sets.of(SPS);
        let hvcc = hvcc(&sets.of(VPS), &sps, &sets.of(PPS))?;
        let (caps, size) = video_track_caps(Codec::H265, &hvcc).ok()?;
        let reorder = H265Sps::parse(sps.first()?)?.reorder;
        Some(TrackConfig { caps, size, rate: None, channels: None, reorder: Some(reorder) })
    }
}
