//! AAC, Opus and G.711, packet by packet.

use super::*;

const HBR: [(&str, &str); 5] = [
    ("mode", "AAC-hbr"),
    ("config", "1190"),
    ("sizelength", "13"),
    ("indexlength", "3"),
    ("indexdeltalength", "3"),
];

fn aac(fmtp: &[(&str, &str)]) -> Box<dyn Depay> {
    gst::init().unwrap();
    make(&format(Codec::Aac, 48_000, 2, fmtp)).unwrap()
}

/// Timestamp, duration and payload in hex.
fn heard(out: &[Output]) -> Vec<(u32, u32, String)> {
    let heard = |unit: &Unit| (unit.timestamp, unit.duration.unwrap(), hex::encode(&unit.payload));
    units(out).into_iter().map(heard).collect()
}

fn s(timestamp: u32, payload: &str) -> Option<Sent> {
    Some(sent(timestamp, false, payload))
}

fn m(timestamp: u32, payload: &str) -> Option<Sent> {
    Some(sent(timestamp, true, payload))
}

#[test]
fn aac_access_units() {
    type Case<'a> = (&'a str, Vec<Option<Sent>>, &'a [(u32, &'a str)], u64);
    let cases: [Case<'_>; 10] = [
        ("one", vec![m(0, "0010 0018 aabbcc")], &[(0, "aabbcc")], 0),
        (
            "three",
            vec![m(u32::MAX, "0030 0008 0010 0008 aa bbbb cc")],
            &[(u32::MAX, "aa"), (1_023, "bbbb"), (2_047, "cc")],
            0,
        ),
        (
            "fragments",
            vec![s(7, "0010 0028 aa"), s(7, "0010 0028 bbcc"), m(7, "0010 0028 ddee")],
            &[(7, "aabbccddee")],
            0,
        ),
        ("first fragment lost", vec![None, m(7, "0010 0028 ddee"), m(9, "0010 0008 aa")], &[(9, "aa")], 1),
        (
            "middle lost",
            vec![s(7, "0010 0028 aa"), None, m(7, "0010 0028 ddee"), m(9, "0010 0008 aa")],
            &[(9, "aa")],
            1,
        ),
        ("end lost", vec![s(7, "0010 0028 aa"), None, m(9, "0010 0008 aa")], &[(9, "aa")], 1),
        ("too short at the marker", vec![m(7, "0010 0028 aa"), m(9, "0010 0008 aa")], &[(9, "aa")], 1),
        ("interleaved", vec![m(7, "0020 0008 0009 aa bb"), m(9, "0010 0008 aa")], &[(9, "aa")], 1),
        (
            "truncated",
            vec![m(7, "0020 0008 0010 aa bb"), m(9, "0010"), m(9, "00"), m(9, "0000")],
            &[(7, "aa")],
            4,
        ),
        ("padding only", vec![m(7, ""), m(9, "0010 0008 aa")], &[(9, "aa")], 0),
    ];
    for (name, packets, want, dropped) in cases {
        let mut depay = aac(&HBR);
        let mut out = run(&mut *depay, &packets);
        depay.finish(&mut out);
        let want: Vec<_> = want.iter().map(|(ts, payload)| (*ts, 1_024, payload.to_string())).collect();
        assert_eq!(heard(&out), want, "{name}");
        assert_eq!(depay.dropped(), dropped, "{name}");
    }
}

#[test]
fn aac_modes_and_durations() {
    // Config, clock rate, lengths of the header fields, packet, duration, channels.
    let lbr = [("mode", "AAC-lbr")];
    type Case<'a> = (&'a str, u32, &'a [(&'a str, &'a str)], &'a str, u32, u32);
    let cases: [Case<'_>; 4] = [
        ("1190", 48_000, &[], "0010 0018 aabbcc", 1_024, 2),
        // Frames of 960 samples.
        ("1194", 48_000, &[], "0010 0018 aabbcc", 960, 2),
        // HE-AAC: a 24 kHz core, the clock of its output.
        ("2b118800", 48_000, &[], "0010 0018 aabbcc", 2_048, 2),
        ("1588", 8_000, &lbr, "0008 0c aabbcc", 1_024, 1),
    ];
    for (config, clock_rate, mode, packet, duration, channels) in cases {
        let fmtp = match mode {
            [] => [&[("config", config)], &HBR[..1], &HBR[2..]].concat(),
            mode => [&[("config", config)][..], mode].concat(),
        };
        gst::init().unwrap();
        let mut depay = make(&format(Codec::Aac, clock_rate, channels, &fmtp)).unwrap();
        let out = run(&mut *depay, &[m(5, packet)]);
        assert_eq!(heard(&out), [(5, duration, "aabbcc".to_owned())], "{config}");
        assert_eq!(configs(&out)[0].channels, Some(channels), "{config}");
    }
}

#[test]
fn aac_as_latm() {
    // The example of RFC 6416, 7.3.1 (48 kHz, stereo), and two access units in an element.
    let one = [("cpresent", "0"), ("config", "400023203fc0")];
    let two = [("cpresent", "0"), ("config", "410023203fc0")];
    let mut depay = aac(&one);
    let long = format!("ff01{}", "aa".repeat(256));
    let packets = [
        m(0, "03aabbcc"),
        s(1_024, &long[..40]),
        m(1_024, &long[40..]),
        m(2_048, "03aa"),
        None,
        m(4_096, "01aa"),
        m(5_120, "01bb"),
    ];
    let out = run(&mut *depay, &packets);
    let want = [(0, "aabbcc".to_owned()), (1_024, "aa".repeat(256)), (5_120, "bb".to_owned())];
    assert_eq!(heard(&out), want.map(|(ts, payload)| (ts, 1_024, payload)));
    assert_eq!(depay.dropped(), 2);
    let config = configs(&out)[0];
    assert_eq!((config.rate, config.channels), (Some(48_000), Some(2)));
    let out = run(&mut *aac(&two), &[m(0, "01aa02bbcc")]);
    assert_eq!(heard(&out), [(0, 1_024, "aa".to_owned()), (1_024, 1_024, "bbcc".to_owned())]);
}

#[test]
fn aac_descriptions_that_cannot_be_followed_are_named() {
    gst::init().unwrap();
    let cases: [(&[(&str, &str)], &str); 9] = [
        (&[("mode", "AAC-hbr")], "config= is missing"),
        (&[("mode", "AAC-hbr"), ("config", "xx")], "config= is not hexadecimal"),
        (&[("mode", "AAC-hbr"), ("config", "12")], "not an AudioSpecificConfig"),
        (&[("mode", "AAC-hbr"), ("config", "b990")], "config= is not of AAC Main, LC, SSR or LTP"),
        (&[("mode", "generic"), ("config", "1190")], "sizelength is missing, or a length in fmtp is over 16"),
        (&[("mode", "AAC-hbr"), ("sizelength", "x")], "a length in fmtp is not a number"),
        (
            &[("mode", "AAC-hbr"), ("ctsdeltalength", "4")],
            "AU headers with times, indications or auxiliary data cannot be read",
        ),
        (&[("config", "400023203fc0")], "MP4A-LATM is read with cpresent=0 only"),
        (&[("cpresent", "0"), ("config", "1190")], "config= is not a StreamMuxConfig of one AAC stream"),
    ];
    for (fmtp, what) in cases {
        let got = make(&format(Codec::Aac, 48_000, 2, fmtp)).err();
        assert_eq!(got, Some(DepayError { codec: Codec::Aac, what }), "{fmtp:?}");
    }
}

#[test]
fn opus_packets_tell_their_duration() {
    gst::init().unwrap();
    let mut depay = make(&format(Codec::Opus, 48_000, 2, &[])).unwrap();
    // SILK 20 ms; 60 ms; hybrid 10 ms; CELT 2.5 ms; two frames of 20 ms; six of 20 ms; silence in one byte.
    let durations = [
        ("08aa", 960),
        ("18aa", 2_880),
        ("60aa", 480),
        ("80aa", 120),
        ("f9aa", 1_920),
        ("fb06aa", 5_760),
        ("f8", 960),
    ];
    for (payload, ticks) in durations {
        let mut out = Vec::new();
        depay.push(sent(9, true, payload).packet(0), &mut out);
        assert_eq!(heard(&out), [(9, ticks, payload.to_owned())]);
    }
    // No frame count, no frames, 140 ms, nothing.
    for payload in ["fb", "fb00", "fb07", ""] {
        let mut out = Vec::new();
        depay.push(sent(9, true, payload).packet(0), &mut out);
        assert_eq!(out, [], "{payload}");
    }
    assert_eq!(depay.dropped(), 3);
}

#[test]
fn opus_channels() {
    gst::init().unwrap();
    let cases: [(&[(&str, &str)], u32); 3] =
        [(&[], 2), (&[("sprop-stereo", "1")], 2), (&[("sprop-stereo", "0")], 1)];
    for (fmtp, channels) in cases {
        let mut depay = make(&format(Codec::Opus, 48_000, 2, fmtp)).unwrap();
        let out = run(&mut *depay, &[m(0, "08aa"), m(960, "08aa")]);
        let [config] = configs(&out)[..] else { panic!("{out:?}") };
        assert_eq!((config.rate, config.channels), (Some(48_000), Some(channels)));
        assert!(config.caps.structure(0).unwrap().has_field("streamheader"));
    }
    let error = make(&format(Codec::Opus, 8_000, 2, &[])).err();
    assert_eq!(error, Some(DepayError { codec: Codec::Opus, what: "the clock rate is not 48000" }));
}

#[test]
fn g711_samples_are_bytes() {
    gst::init().unwrap();
    let cases = [(Codec::Pcmu, 8_000, 1, 4), (Codec::Pcma, 8_000, 1, 4), (Codec::Pcma, 16_000, 2, 2)];
    for (codec, rate, channels, ticks) in cases {
        let mut depay = make(&format(codec, rate, channels, &[])).unwrap();
        let out = run(&mut *depay, &[m(0, "d5d5d5d5"), None, s(100, ""), s(100, "d5d5d5d5")]);
        let silence = "d5d5d5d5".to_owned();
        assert_eq!(heard(&out), [(0, ticks, silence.clone()), (100, ticks, silence)]);
        let config = configs(&out)[0];
        assert_eq!((config.rate, config.channels), (Some(rate), Some(channels)));
    }
    assert!(make(&format(Codec::Pcma, 0, 1, &[])).is_err());
}
