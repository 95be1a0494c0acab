//! What is lost or damaged never makes a unit that was not sent.

use super::real::STREAMS;
use super::*;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

/// All units of all streams, by timestamp, as they come out when nothing is lost.
fn originals(index: usize) -> HashMap<u32, Unit> {
    let stream = &STREAMS[index].1;
    let mut out = Vec::new();
    let mut depay = make(&stream.format).unwrap();
    for (sequence, packet) in stream.packets.iter().enumerate() {
        depay.push(packet.packet(sequence), &mut out);
    }
    depay.finish(&mut out);
    units(&out).into_iter().map(|unit| (unit.timestamp, unit.clone())).collect()
}

/// Timestamps whose packets all came, and the packet before them; none if the stream's first unit (it may be the key
/// frame that tells the config) did not come whole.
fn untouched(packets: &[Sent], missing: &[bool]) -> Vec<u32> {
    let mut all = Vec::new();
    let mut first = 0;
    for group in packets.chunk_by(|a, b| a.timestamp == b.timestamp) {
        let before = first.max(1) - 1;
        let touched = missing[before..first + group.len()].contains(&true);
        if touched && first == 0 {
            return Vec::new();
        }
        if !touched {
            all.push(group[0].timestamp);
        }
        first += group.len();
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn lost_packets_never_make_another_unit(
        lost in prop::collection::vec(any::<prop::sample::Index>(), 1..30),
        runs in 1usize..4,
    ) {
        for (index, (name, stream)) in STREAMS.iter().enumerate() {
            let originals = originals(index);
            let count = stream.packets.len();
            let mut missing = vec![false; count];
            for first in &lost {
                let first = first.index(count);
                missing[first..(first + runs).min(count)].fill(true);
            }
            let mut depay = make(&stream.format).unwrap();
            let mut out = Vec::new();
            let mut gap = false;
            for (sequence, packet) in stream.packets.iter().enumerate() {
                if missing[sequence] {
                    gap = true;
                    continue;
                }
                if std::mem::take(&mut gap) {
                    depay.lost();
                }
                depay.push(packet.packet(sequence), &mut out);
            }
            depay.finish(&mut out);
            for unit in units(&out) {
                prop_assert_eq!(Some(unit), originals.get(&unit.timestamp), "{}", name);
            }
            // What no loss can have touched is there: all its packets came, and the one before.
            let got: HashSet<u32> = units(&out).iter().map(|unit| unit.timestamp).collect();
            for timestamp in untouched(&stream.packets, &missing) {
                prop_assert!(got.contains(&timestamp), "{}: {} is left out", name, timestamp);
            }
        }
    }

    #[test]
    fn damaged_packets_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..60),
        cut in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..10),
    ) {
        for (_, stream) in STREAMS.iter() {
            let mut packets = stream.packets.clone();
            for (packet, at, byte) in &damage {
                let packet = packet.get_mut(&mut packets);
                if !packet.payload.is_empty() {
                    // The headers are in front.
                    let at = at.index(packet.payload.len().min(40));
                    packet.payload[at] = *byte;
                }
            }
            for (packet, length) in &cut {
                let packet = packet.get_mut(&mut packets);
                let length = length.index(packet.payload.len() + 1);
                packet.payload.truncate(length);
            }
            let mut depay = make(&stream.format).unwrap();
            let mut out = Vec::new();
            for (sequence, packet) in packets.iter().enumerate() {
                depay.push(packet.packet(sequence), &mut out);
            }
            depay.finish(&mut out);
        }
    }

    #[test]
    fn random_packets_never_panic(
        packets in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..40), 0u32..3, any::<bool>(), 0u8..10), 0..40),
    ) {
        for (_, stream) in STREAMS.iter() {
            let mut depay = make(&stream.format).unwrap();
            let mut out = Vec::new();
            for (payload, timestamp, marker, lost) in &packets {
                if *lost == 0 {
                    depay.lost();
                }
                let packet = Packet { payload, timestamp: *timestamp, marker: *marker, sequence: 0 };
                depay.push(packet, &mut out);
            }
            depay.finish(&mut out);
        }
    }

    #[test]
    fn random_descriptions_never_panic(
        codec in 0..Codec::ALL.len(),
        clock_rate in any::<u32>(),
        channels in any::<u32>(),
        values in prop::collection::vec("[0-9a-fA-F]{0,20}|[ -~]{0,20}", 4),
    ) {
        gst::init().unwrap();
        let keys = ["config", "sizelength", "sprop-parameter-sets", "sprop-sps"];
        let mut fmtp: Vec<_> = keys.into_iter().zip(values.iter().map(String::as_str)).collect();
        let _ = make(&format(Codec::ALL[codec], clock_rate, channels, &fmtp));
        fmtp[1] = ("cpresent", "0");
        let _ = make(&format(Codec::ALL[codec], clock_rate, channels, &fmtp));
    }
}

/// A unit is limited, whoever sends without end.
#[test]
fn a_unit_without_end_is_dropped_at_8_mib() {
    let fragment = |header: &str| {
        let mut payload = bytes(header);
        payload.resize(60_000, 0x80);
        Sent { payload, timestamp: 1, marker: false }
    };
    let endless = [
        (Codec::H264, "7c85", "7c05"),
        (Codec::H265, "620193", "620113"),
        (Codec::Vp8, "10", "00"),
        (Codec::Vp9, "08", "00"),
        (Codec::Av1, "58", "d0"),
    ];
    for (codec, first, next) in endless {
        let mut depay = video(codec);
        let mut out = Vec::new();
        depay.push(fragment(first).packet(0), &mut out);
        for sequence in 1..160 {
            depay.push(fragment(next).packet(sequence), &mut out);
        }
        depay.push(Packet { marker: true, ..fragment(next).packet(160) }, &mut out);
        assert_eq!(out, [], "{codec}");
        assert_eq!(depay.dropped(), 1, "{codec}");
    }
}
