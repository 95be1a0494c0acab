//! AAC as mpeg4-generic (RFC 3640), modes AAC-hbr and AAC-lbr, without interleaving.

use super::{Depay, DepayError, Output, Packet, Told, Unit, asc::Asc};
use crate::ingest::{caps::audio_track_caps, rtp::Format};
use crate::media::{Bits, Codec};

pub(super) struct Aac {
    config: Told,
    /// Bits of the fields of an AU header.
    size_bits: u32,
    index_bits: u32,
    index_delta_bits: u32,
    /// Ticks of an access unit.
    duration: u32,
    fragments: Fragments,
    dropped: u64,
}

/// An access unit that has several packets.
enum Fragments {
    None,
    Some {
        timestamp: u32,
        size: usize,
        payload: Vec<u8>,
    },
    /// Packets are missing: what comes may be the rest of a unit, perhaps of the one of this timestamp, that was torn.
    Doubt {
        torn: Option<u32>,
    },
    /// The rest of a unit that is counted as dropped.
    Bad,
}

fn invalid(what: &'static str) -> DepayError {
    DepayError { codec: Codec::Aac, what }
}

impl Aac {
    pub fn new(format: &Format) -> Result<Self, DepayError> {
        let mode = format.fmtp("mode").unwrap_or_default().to_ascii_lowercase();
        let [size, index, index_delta] = match mode.as_str() {
            "aac-hbr" => [13, 3, 3],
            "aac-lbr" => [6, 2, 2],
            _ => [0, 0, 0],
        };
        let bits = |key, default| match format.fmtp(key) {
            None => Ok(default),
            Some(value) => {
                value.trim().parse::<u32>().map_err(|_| invalid("a length in fmtp is not a number"))
            }
        };
        let size_bits = bits("sizelength", size)?;
        let index_bits = bits("indexlength", index)?;
        let index_delta_bits = bits("indexdeltalength", index_delta)?;
        if !(1..=16).contains(&size_bits) || index_bits > 16 || index_delta_bits > 16 {
            return Err(invalid("sizelength is missing, or a length in fmtp is over 16"));
        }
        const FIELDS: [&str; 5] = [
            "ctsdeltalength",
            "dtsdeltalength",
            "randomaccessindication",
            "streamstateindication",
            "auxiliarydatasizelength",
        ];
        if FIELDS.iter().any(|key| !matches!(bits(key, 0), Ok(0))) {
            return Err(invalid("AU headers with times, indications or auxiliary data cannot be read"));
        }
        let config = format.fmtp("config").ok_or(invalid("config= is missing"))?;
        let config = hex::decode(config.trim()).map_err(|_| invalid("config= is not hexadecimal"))?;
        let track = audio_track_caps(Codec::Aac, &config).map_err(|e| invalid(e.what))?;
        let asc = Asc::parse(&config).ok_or(invalid("config= is not of AAC Main, LC, SSR or LTP"))?;
        Ok(Self {
            duration: asc.ticks(format.clock_rate, track.rate),
            config: Told::audio(track),
            size_bits,
            index_bits,
            index_delta_bits,
            fragments: Fragments::None,
            dropped: 0,
        })
    }

    /// Sizes of the units in a packet, and their bytes (RFC 3640, 3.2.1). `None`: malformed, or interleaved.
    fn split<'a>(&self, payload: &'a [u8]) -> Option<(Vec<usize>, &'a [u8])> {
        let (header_bits, rest) = payload.split_first_chunk::<2>()?;
        let header_bits = u32::from(u16::from_be_bytes(*header_bits));
        let (headers, data) = rest.split_at_checked(header_bits.div_ceil(8) as usize)?;
        let mut bits = Bits::new(headers);
        let mut left = header_bits;
        let mut sizes = Vec::new();
        while left > 0 {
            let index_bits = if sizes.is_empty() { self.index_bits } else { self.index_delta_bits };
            left = left.checked_sub(self.size_bits + index_bits)?;
            sizes.push(bits.take(self.size_bits)? as usize);
            if bits.take(index_bits)? != 0 {
                return None;
            }
        }
        (!sizes.is_empty()).then_some((sizes, data))
    }

    fn whole_units(&mut self, packet: Packet<'_>, sizes: &[usize], mut data: &[u8], out: &mut Vec<Output>) {
        self.drop_fragments();
        let mut timestamp = packet.timestamp;
        for &size in sizes {
            match data.split_at_checked(size) {
                Some((unit, rest)) if size > 0 => {
                    self.give(unit.to_vec(), timestamp, out);
                    data = rest;
                }
                _ => self.dropped += 1,
            }
            timestamp = timestamp.wrapping_add(self.duration);
        }
    }

    /// RFC 3640, 3.2.3: one unit only, its whole size in every packet; the last has the marker.
    fn fragment(&mut self, packet: Packet<'_>, whole: usize, data: &[u8], out: &mut Vec<Output>) {
        match std::mem::replace(&mut self.fragments, Fragments::None) {
            Fragments::Some { timestamp, size, mut payload }
                if timestamp == packet.timestamp && size == whole && payload.len() + data.len() <= size =>
            {
                payload.extend_from_slice(data);
                if payload.len() == size {
                    return self.give(payload, timestamp, out);
                }
                self.fragments = Fragments::Some { timestamp, size, payload };
            }
            Fragments::None => {
                let mut payload = Vec::with_capacity(whole);
                payload.extend_from_slice(data);
                self.fragments = Fragments::Some { timestamp: packet.timestamp, size: whole, payload };
            }
            Fragments::Bad => self.fragments = Fragments::Bad,
            Fragments::Doubt { torn } => {
                self.dropped += u64::from(torn != Some(packet.timestamp));
                self.fragments = Fragments::Bad;
            }
            Fragments::Some { .. } => {
                self.dropped += 1;
                self.fragments = Fragments::Bad;
            }
        }
        if packet.marker {
            self.drop_fragments();
        }
    }

    fn drop_fragments(&mut self) {
        if let Fragments::Some { .. } = std::mem::replace(&mut self.fragments, Fragments::None) {
            self.dropped += 1;
        }
    }

    fn give(&mut self, payload: Vec<u8>, timestamp: u32, out: &mut Vec<Output>) {
        self.config.tell(out);
        out.push(Output::Unit(Unit { payload, timestamp, key: true, duration: Some(self.duration) }));
    }
}

impl Depay for Aac {
    fn push(&mut self, packet: Packet<'_>, out: &mut Vec<Output>) {
        if packet.payload.is_empty() {
            return;
        }
        match self.split(packet.payload) {
            None => {
                self.drop_fragments();
                self.dropped += 1;
            }
            Some((sizes, data)) => match sizes[..] {
                [whole] if whole > data.len() => self.fragment(packet, whole, data, out),
                _ => self.whole_units(packet, &sizes, data, out),
            },
        }
    }

    fn lost(&mut self) {
        let torn = match self.fragments {
            Fragments::Some { timestamp, .. } => Some(timestamp),
            Fragments::Doubt { torn } => torn,
            Fragments::None | Fragments::Bad => None,
        };
        self.drop_fragments();
        self.fragments = Fragments::Doubt { torn };
    }

    fn finish(&mut self, _out: &mut Vec<Output>) {
        self.drop_fragments();
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}
