mod audio;
mod loss;
mod nal;
mod packetizer;
mod real;
mod video;

use super::*;

fn format(codec: Codec, clock_rate: u32, channels: u32, fmtp: &[(&str, &str)]) -> Format {
    let fmtp = fmtp.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    Format { codec, payload_type: 96, clock_rate, channels, fmtp }
}

fn video(codec: Codec) -> Box<dyn Depay> {
    gst::init().unwrap();
    make(&format(codec, 90_000, 1, &[])).unwrap()
}

/// A packet that owns its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    payload: Vec<u8>,
    timestamp: u32,
    marker: bool,
}

impl Sent {
    fn packet(&self, sequence: usize) -> Packet<'_> {
        Packet {
            payload: &self.payload,
            timestamp: self.timestamp,
            marker: self.marker,
            sequence: sequence as u16,
        }
    }
}

/// `payload` in hex, spaces allowed.
fn sent(timestamp: u32, marker: bool, payload: &str) -> Sent {
    Sent { payload: bytes(payload), timestamp, marker }
}

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex.replace(' ', "")).expect("hex")
}

/// What comes out when `None` stands for lost packets.
fn run(depay: &mut dyn Depay, packets: &[Option<Sent>]) -> Vec<Output> {
    let mut out = Vec::new();
    for (sequence, packet) in packets.iter().enumerate() {
        match packet {
            Some(packet) => depay.push(packet.packet(sequence), &mut out),
            None => depay.lost(),
        }
    }
    out
}

fn units(out: &[Output]) -> Vec<&Unit> {
    out.iter().filter_map(|o| if let Output::Unit(unit) = o { Some(unit) } else { None }).collect()
}

fn configs(out: &[Output]) -> Vec<&TrackConfig> {
    out.iter().filter_map(|o| if let Output::Config(config) = o { Some(config) } else { None }).collect()
}

/// Timestamp, key and payload in hex of every unit.
fn told(out: &[Output]) -> Vec<(u32, bool, String)> {
    units(out).into_iter().map(|unit| (unit.timestamp, unit.key, hex::encode(&unit.payload))).collect()
}

#[test]
fn a_codec_without_payload_format_here_is_refused_by_name() {
    for codec in [Codec::Mp3, Codec::Vorbis] {
        let error = make(&format(codec, 90_000, 2, &[])).err().expect("refused");
        assert_eq!(error.to_string(), format!("{codec} over RTP: no payload format that reeld reads"));
    }
}
