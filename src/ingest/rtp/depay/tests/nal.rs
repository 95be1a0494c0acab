//! H.264 and H.265, packet by packet.

use super::*;

/// x264, 642x362, High; told in base64 below.
const SPS: &str = "67640016acd940a42fe224c044000003000400000300503c58b658";
const PPS: &str = "68ebe3cb22c0";
/// First macroblock 0, all slices I: IDR and not; slice type P; and a later slice of a picture.
const IDR: &str = "658884aabb";
const INTRA: &str = "418884aabb";
const INTER: &str = "419a21cc";
const LATER: &str = "41459acc";

fn with_length(nal: &str) -> String {
    format!("{:08x}{nal}", nal.len() / 2)
}

fn h264() -> Box<dyn Depay> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    gst::init().unwrap();
    let sets = [SPS, PPS].map(|set| STANDARD.encode(bytes(set))).join(",");
    make(&format(Codec::H264, 90_000, 1, &[("sprop-parameter-sets", &sets)])).unwrap()
}

/// Packets, `None` being lost ones, and the units they make: timestamp, key, NAL units. The number: units dropped.
type Case<'a> = (&'a str, Vec<Option<Sent>>, &'a [(u32, bool, &'a [&'a str])], u64);

fn check(make: fn() -> Box<dyn Depay>, cases: &[Case<'_>]) {
    for (name, packets, want, dropped) in cases {
        let mut depay = make();
        let mut out = run(&mut *depay, packets);
        depay.finish(&mut out);
        let want: Vec<_> = want
            .iter()
            .map(|(ts, key, nals)| (*ts, *key, nals.iter().map(|nal| with_length(nal)).collect::<String>()))
            .collect();
        assert_eq!(told(&out), want, "{name}");
        assert_eq!(depay.dropped(), *dropped, "{name}");
    }
}

fn s(timestamp: u32, payload: &str) -> Option<Sent> {
    Some(sent(timestamp, false, payload))
}

/// With the marker.
fn m(timestamp: u32, payload: &str) -> Option<Sent> {
    Some(sent(timestamp, true, payload))
}

#[test]
fn h264_packets_make_access_units() {
    let stap = |nals: &[&str]| {
        nals.iter().fold("78".to_owned(), |all, nal| format!("{all}{:04x}{nal}", nal.len() / 2))
    };
    let cases: [Case<'_>; 17] = [
        (
            "single NAL units",
            vec![m(1, IDR), s(2, INTER), m(2, LATER)],
            &[(1, true, &[IDR]), (2, false, &[INTER, LATER])],
            0,
        ),
        (
            "delimiters, filler and sets stay out",
            vec![s(1, "09f0"), s(1, SPS), s(1, PPS), s(1, "0605ffff"), s(1, "0cff80"), m(1, IDR)],
            &[(1, true, &["0605ffff", IDR])],
            0,
        ),
        ("STAP-A", vec![m(1, &stap(&[SPS, PPS, IDR]))], &[(1, true, &[IDR])], 0),
        ("STAP-A, truncated", vec![m(1, "7800ff658884"), m(2, INTER)], &[(2, false, &[INTER])], 1),
        ("FU-A", vec![s(1, "7c858884"), s(1, "7c05aa"), m(1, "7c45bb")], &[(1, true, &[IDR])], 0),
        ("FU-A without end", vec![s(1, "7c858884"), m(1, "7c05aa"), m(2, INTER)], &[(2, false, &[INTER])], 1),
        ("FU-A without start", vec![m(1, "7c45bb"), m(2, INTER)], &[(2, false, &[INTER])], 1),
        ("FU-A begun twice", vec![s(1, "7c858884"), s(1, "7c858884"), m(1, "7c45bb")], &[], 1),
        ("FU-A of two types", vec![s(1, "7c858884"), m(1, "7c41bb")], &[], 1),
        ("interleaved", vec![m(1, "7900006588"), m(2, "7d8588"), m(3, INTER)], &[(3, false, &[INTER])], 2),
        (
            "reserved types are passed over",
            vec![s(1, "1e00"), s(1, "00"), m(1, IDR)],
            &[(1, true, &[IDR])],
            0,
        ),
        ("padding only", vec![m(1, ""), m(1, IDR)], &[(1, true, &[IDR])], 0),
        (
            "a new timestamp ends a unit too",
            vec![s(1, IDR), s(2, INTER), s(2, LATER)],
            &[(1, true, &[IDR]), (2, false, &[INTER, LATER])],
            0,
        ),
        ("a sender of markers ends without one", vec![m(1, IDR), s(2, INTER)], &[(1, true, &[IDR])], 1),
        (
            "sets with marker, with another timestamp",
            vec![m(1, SPS), m(1, PPS), m(2, INTRA)],
            &[(2, true, &[INTRA])],
            0,
        ),
        (
            "open group of pictures",
            vec![s(1, SPS), s(1, PPS), m(1, INTRA), m(2, INTRA), s(3, SPS), s(3, PPS), m(3, INTER)],
            &[(1, true, &[INTRA]), (2, false, &[INTRA]), (3, false, &[INTER])],
            0,
        ),
        (
            "a marker on every slice",
            vec![m(1, INTER), m(1, LATER), m(2, INTER), m(2, LATER), m(3, INTER)],
            &[(1, false, &[INTER]), (2, false, &[INTER, LATER]), (3, false, &[INTER])],
            1,
        ),
    ];
    check(h264, &cases);
}

#[test]
fn h264_loss_tears_only_what_it_may_have_touched() {
    let sets = [s(1, SPS), s(1, PPS), m(1, IDR)];
    let after_sets = |rest: &[Option<Sent>]| [&sets, rest].concat();
    let cases: [Case<'_>; 7] = [
        (
            "whole before the loss",
            vec![m(1, IDR), None, m(3, INTER), m(4, INTER)],
            &[(1, true, &[IDR]), (4, false, &[INTER])],
            1,
        ),
        ("marker lost", vec![s(1, IDR), None, m(3, INTER), m(4, INTER)], &[(4, false, &[INTER])], 2),
        ("middle lost", vec![s(1, IDR), None, m(1, LATER), m(2, INTER)], &[(2, false, &[INTER])], 1),
        (
            "a delimiter begins a unit",
            vec![s(1, IDR), None, s(2, "09f0"), m(2, INTER)],
            &[(2, false, &[INTER])],
            1,
        ),
        (
            "a set begins a unit where it always does",
            after_sets(&[None, s(2, SPS), s(2, PPS), m(2, IDR)]),
            &[(1, true, &[IDR]), (2, true, &[IDR])],
            0,
        ),
        (
            "a set of a sender not known",
            vec![None, s(1, SPS), s(1, PPS), m(1, IDR), m(2, INTER)],
            &[(2, false, &[INTER])],
            1,
        ),
        (
            "lost twice",
            vec![s(1, IDR), None, None, s(1, LATER), None, m(1, LATER), m(2, INTER)],
            &[(2, false, &[INTER])],
            1,
        ),
    ];
    check(h264, &cases);
}

#[test]
fn h264_without_parameter_sets_gives_nothing_until_they_come() {
    let mut depay = video(Codec::H264);
    let packets = [m(1, IDR), s(2, SPS), s(2, PPS), m(2, IDR)];
    let out = run(&mut *depay, &packets);
    assert_eq!(told(&out), [(2, true, with_length(IDR))]);
    assert_eq!(depay.dropped(), 1);
    let config = configs(&out)[0];
    assert!(matches!(out[0], Output::Config(_)));
    assert_eq!(config.size, Some(VideoSize { width: 642, height: 362 }));
    assert_eq!(config.caps.structure(0).unwrap().get::<&str>("profile"), Ok("high"));
}

/// A camera that changes its picture size: the config comes right before the first unit of the new one.
#[test]
fn h264_tells_changed_parameter_sets_once() {
    let other = "67640016acb20414f7ff0007000440000003004000000c83c58b92";
    let packets = [
        m(1, IDR),
        s(2, SPS),
        s(2, PPS),
        m(2, IDR),
        s(3, other),
        s(3, PPS),
        m(3, IDR),
        s(4, other),
        m(4, IDR),
    ];
    let out = run(&mut *h264(), &packets);
    let order: String = out.iter().map(|o| if matches!(o, Output::Config(_)) { 'c' } else { 'u' }).collect();
    assert_eq!(order, "cuucuu");
    assert_ne!(configs(&out)[0].caps, configs(&out)[1].caps);
}

/// Once 256 parameter sets of 4 KiB each went into the caps, anew with every picture that changed one of them.
#[test]
fn the_caps_hold_no_more_parameter_sets_than_a_real_sender_has() {
    let mut depay = h264();
    let mut most = 0;
    for n in 0..40u32 {
        // A PPS begins with its id, Exp-Golomb coded: 13 bits for 64 and more.
        let id = format!("{:04x}", (65 + n) << 3);
        let set = format!("68{id}{}", "aa".repeat(4_000));
        let packets = [s(n, PPS), s(n, &set), m(n, IDR)];
        for output in run(&mut *depay, &packets) {
            let Output::Config(config) = output else { continue };
            let data = config.caps.structure(0).expect("caps").get::<gst::Buffer>("codec_data");
            most = most.max(data.expect("codec data").size());
        }
    }
    assert!((4_000..20_000).contains(&most), "{most} bytes");
}

#[test]
fn descriptions_that_cannot_be_followed_are_named() {
    let interleaved = "only packetization-mode 0 and 1 (no interleaving) can be read";
    let cases = [
        (Codec::H264, ("packetization-mode", "2"), interleaved),
        (
            Codec::H265,
            ("sprop-max-don-diff", "2"),
            "packets out of decoding order (sprop-max-don-diff) cannot be read",
        ),
        (Codec::H265, ("tx-mode", "MRST"), "layers in several streams (tx-mode) cannot be read"),
    ];
    for (codec, parameter, what) in cases {
        assert_eq!(make(&format(codec, 90_000, 1, &[parameter])).err(), Some(DepayError { codec, what }));
    }
    let odd = [("sprop-parameter-sets", "!!,Z2QAFqzZ,,aOvjyyLA,"), ("packetization-mode", "1")];
    assert!(make(&format(Codec::H264, 90_000, 1, &odd)).is_ok(), "what is no set is passed over");
}

const VPS: &str = "40010c01ffff01600000030090000003000003003f959809";
const SPS_265: &str =
    "42010101600000030090000003000003003fa005120171c9265959a4932bc05a020000030002000003001410";
const PPS_265: &str = "4401c172b46240";
/// IDR_W_RADL, CRA and TRAIL_R, each the first slice segment of its picture; and a later segment.
const IDR_265: &str = "2601afaabb";
const CRA: &str = "2a01afaabb";
const TRAIL: &str = "0201d0cc";
const LATER_265: &str = "020120cc";

fn h265() -> Box<dyn Depay> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    gst::init().unwrap();
    let [vps, sps, pps] = [VPS, SPS_265, PPS_265].map(|set| STANDARD.encode(bytes(set)));
    let fmtp = [("sprop-vps", &vps[..]), ("sprop-sps", &sps), ("sprop-pps", &pps)];
    make(&format(Codec::H265, 90_000, 1, &fmtp)).unwrap()
}

#[test]
fn h265_packets_make_access_units() {
    let ap = |nals: &[&str]| {
        nals.iter().fold("6001".to_owned(), |all, nal| format!("{all}{:04x}{nal}", nal.len() / 2))
    };
    let cases: [Case<'_>; 9] = [
        (
            "single NAL units",
            vec![m(1, IDR_265), s(2, TRAIL), m(2, LATER_265)],
            &[(1, true, &[IDR_265]), (2, false, &[TRAIL, LATER_265])],
            0,
        ),
        ("CRA is a key frame", vec![m(1, CRA)], &[(1, true, &[CRA])], 0),
        (
            "delimiters, filler and sets stay out",
            vec![s(1, "460110"), s(1, VPS), s(1, SPS_265), s(1, PPS_265), s(1, "4c01ff80"), m(1, IDR_265)],
            &[(1, true, &[IDR_265])],
            0,
        ),
        (
            "end of sequence has a header only",
            vec![s(1, IDR_265), m(1, "4801")],
            &[(1, true, &[IDR_265, "4801"])],
            0,
        ),
        ("AP", vec![m(1, &ap(&[VPS, SPS_265, PPS_265, IDR_265]))], &[(1, true, &[IDR_265])], 0),
        ("FU", vec![s(1, "620193af"), s(1, "620113aa"), m(1, "620153bb")], &[(1, true, &[IDR_265])], 0),
        ("FU without end", vec![s(1, "620193af"), m(1, "620113aa"), m(2, TRAIL)], &[(2, false, &[TRAIL])], 1),
        ("enhancement layers stay out", vec![s(1, IDR_265), m(1, "0209d0cc")], &[(1, true, &[IDR_265])], 0),
        (
            "loss",
            vec![m(1, IDR_265), None, m(3, TRAIL), m(4, TRAIL), None, s(6, "460110"), m(6, TRAIL)],
            &[(1, true, &[IDR_265]), (4, false, &[TRAIL]), (6, false, &[TRAIL])],
            1,
        ),
    ];
    check(h265, &cases);
    let out = run(&mut *h265(), &[m(1, IDR_265)]);
    assert_eq!(configs(&out)[0].size, Some(VideoSize { width: 642, height: 362 }));
}
