//! VP8, VP9 and AV1, packet by packet.

use super::*;

/// Packets, `None` being lost ones, and the units they make: timestamp, key, payload. The number: units dropped.
type Case<'a> = (&'a str, Vec<Option<Sent>>, &'a [(u32, bool, &'a str)], u64);

fn check(codec: Codec, cases: &[Case<'_>]) {
    for (name, packets, want, dropped) in cases {
        let mut depay = video(codec);
        let mut out = run(&mut *depay, packets);
        depay.finish(&mut out);
        let want: Vec<_> = want.iter().map(|(ts, key, hex)| (*ts, *key, hex.replace(' ', ""))).collect();
        assert_eq!(told(&out), want, "{name}");
        assert_eq!(depay.dropped(), *dropped, "{name}");
    }
}

fn s(timestamp: u32, payload: &str) -> Option<Sent> {
    Some(sent(timestamp, false, payload))
}

fn m(timestamp: u32, payload: &str) -> Option<Sent> {
    Some(sent(timestamp, true, payload))
}

fn size(width: u32, height: u32) -> Option<VideoSize> {
    Some(VideoSize { width, height })
}

/// Key frame of 320x180, scaling bits set.
const KEY8: &str = "500000 9d012a 4041 b480 aa";

#[test]
fn vp8_packets_make_frames() {
    let with = |descriptor: &str, frame: &str| format!("{descriptor} {frame}");
    let key = || m(1, &with("10", KEY8));
    let whole = (1, true, KEY8);
    let cases: [Case<'_>; 12] = [
        (
            "two packets",
            vec![s(1, &with("10", KEY8)), m(1, "00 bb"), m(2, "10 31cc")],
            &[(1, true, "5000009d012a4041b480aabb"), (2, false, "31cc")],
            0,
        ),
        (
            "partitions",
            vec![key(), s(2, "10 31"), s(2, "11 bb"), m(2, "11 cc")],
            &[whole, (2, false, "31bbcc")],
            0,
        ),
        ("short picture id", vec![m(1, &with("90 80 05", KEY8))], &[whole], 0),
        ("long picture id, TL0PICIDX, TID, KEYIDX", vec![m(1, &with("90 f0 8005 07 e1", KEY8))], &[whole], 0),
        ("KEYIDX only", vec![m(1, &with("90 10 01", KEY8))], &[whole], 0),
        (
            "descriptor only",
            vec![key(), m(2, "90 f0 8005"), m(3, "10"), m(4, "10 31")],
            &[whole, (4, false, "31")],
            2,
        ),
        ("no start", vec![key(), m(2, "00 31"), m(3, "10 31")], &[whole, (3, false, "31")], 1),
        ("no key frame yet", vec![m(1, "10 31"), m(2, &with("10", KEY8))], &[(2, true, KEY8)], 1),
        ("broken key frame", vec![m(1, "10 500000 9d012b 4001 b400 aa")], &[], 1),
        ("lost between frames", vec![key(), None, m(3, "10 31")], &[whole, (3, false, "31")], 0),
        ("marker lost", vec![key(), s(2, "10 31"), None, m(3, "10 31")], &[whole, (3, false, "31")], 1),
        ("start lost", vec![key(), None, m(2, "00 31"), m(3, "10 31")], &[whole, (3, false, "31")], 1),
    ];
    check(Codec::Vp8, &cases);
}

#[test]
fn vp8_tells_a_new_picture_size() {
    let packets =
        [m(1, &format!("10{KEY8}")), m(2, &format!("10{KEY8}")), m(3, "10 500000 9d012a 8002 6801 aa")];
    let out = run(&mut *video(Codec::Vp8), &packets);
    let sizes: Vec<_> = configs(&out).iter().map(|config| config.size).collect();
    assert_eq!(sizes, [size(320, 180), size(640, 360)]);
    assert_eq!(configs(&out)[1].caps.structure(0).unwrap().get::<i32>("height"), Ok(360));
}

/// Profile 0, 320x180.
const KEY9: &str = "82 498342 0013f0 0b30 aa";
const INTER9: &str = "86 00";

#[test]
fn vp9_packets_make_pictures() {
    let with = |descriptor: &str, frame: &str| format!("{descriptor} {frame}");
    let key = || m(1, &with("0c", KEY9));
    let whole = (1, true, KEY9);
    // Two layers, 160x90 and 320x180, with a group of pictures.
    let structure = "38 00a0 005a 0140 00b4 01 1401";
    let layers =
        [s(1, &with(&format!("ae 8001 00 00 {structure}"), KEY9)), m(1, &with("ec 8001 02 00", INTER9))];
    let superframe = &format!("{KEY9} {INTER9} d9 0a000000 02000000 d9");
    let cases: [Case<'_>; 12] = [
        (
            "two packets",
            vec![s(1, &with("08", KEY9)), m(1, "04 bb")],
            &[(1, true, "82498342 0013f0 0b30 aabb")],
            0,
        ),
        (
            "picture ids, flexible mode with references",
            vec![m(1, &with("9c 05", KEY9)), m(2, "fc 8005 00 0304 86")],
            &[whole, (2, false, "86")],
            0,
        ),
        ("too many references", vec![key(), m(2, "fc 8005 00 03030304 86")], &[whole], 1),
        (
            "non-flexible mode",
            vec![m(1, &with("ac 8005 00 07", KEY9)), m(2, "ec 8005 00 08 86")],
            &[whole, (2, false, "86")],
            0,
        ),
        ("header of a key frame, but P", vec![key(), m(2, &with("4c", KEY9))], &[whole, (2, false, KEY9)], 0),
        ("layers", layers.to_vec(), &[(1, true, superframe)], 0),
        (
            "a layer is torn",
            vec![key(), s(2, "68 00 00 86"), m(2, "64 02 00 86"), m(3, "4c 86")],
            &[whole, (3, false, "86")],
            1,
        ),
        ("a layer has no end", vec![key(), m(2, "48 86"), m(3, "4c 86")], &[whole, (3, false, "86")], 1),
        ("no key frame yet", vec![m(1, "4c 86"), m(2, &with("0c", KEY9))], &[(2, true, KEY9)], 1),
        ("lost between pictures", vec![key(), None, m(3, "4c 86")], &[whole, (3, false, "86")], 0),
        (
            "upper layer after a loss",
            vec![key(), None, m(2, "6c 02 00 86"), m(3, "4c 86")],
            &[whole, (3, false, "86")],
            1,
        ),
        ("marker lost", vec![key(), s(2, "4c 86"), None, m(3, "4c 86")], &[whole, (3, false, "86")], 1),
    ];
    check(Codec::Vp9, &cases);
}

#[test]
fn vp9_sizes_are_those_of_the_highest_layer_sent() {
    let structure = "38 00a0 005a 0140 00b4 01 1401";
    let base = |marker| sent(1, marker, &format!("ae 8001 00 00 {structure} {KEY9}"));
    let upper = sent(1, true, &format!("ec 8001 02 00 {INTER9}"));
    for (packets, want) in [(vec![base(true)], size(160, 90)), (vec![base(false), upper], size(320, 180))] {
        let packets: Vec<_> = packets.into_iter().map(Some).collect();
        let out = run(&mut *video(Codec::Vp9), &packets);
        assert_eq!(configs(&out)[0].size, want);
    }
    let out = run(&mut *video(Codec::Vp9), &[m(1, &format!("0c {KEY9}"))]);
    assert_eq!(configs(&out)[0].size, size(320, 180));
}

/// libaom, 642x362, without size; with it as it goes out.
const SEQUENCE: &str = "08 0000000cc5036936be4010";
const SEQUENCE_OUT: &str = "0a0b 0000000cc5036936be4010";

#[test]
fn av1_packets_make_temporal_units() {
    let key = || m(1, &format!("28 0c {SEQUENCE} 30 10aa"));
    let key_out = format!("{SEQUENCE_OUT} 3202 10aa");
    let whole = (1, true, &key_out[..]);
    let cases: [Case<'_>; 15] = [
        ("counted", vec![key()], &[whole], 0),
        ("with lengths", vec![m(1, &format!("08 0c {SEQUENCE} 03 3010aa"))], &[whole], 0),
        ("with size fields", vec![m(1, &format!("28 0d {SEQUENCE_OUT} 3202 10aa"))], &[whole], 0),
        (
            "delimiter, tile list and padding stay out",
            vec![m(1, &format!("08 02 1200 0c {SEQUENCE} 02 40ff 02 78ff 03 3010aa"))],
            &[whole],
            0,
        ),
        (
            "fragments",
            vec![key(), s(2, "50 3020"), s(2, "d0 bb"), m(2, "90 cc")],
            &[whole, (2, false, "3203 20bbcc")],
            0,
        ),
        ("extension", vec![key(), m(2, "10 34 08 20aa")], &[whole, (2, false, "3608 02 20aa")], 0),
        (
            "goes on with nothing",
            vec![key(), m(2, "90 cc"), m(3, "10 3020")],
            &[whole, (3, false, "3201 20")],
            1,
        ),
        ("not gone on with", vec![key(), s(2, "50 3020"), m(2, "10 3020")], &[whole], 1),
        (
            "goes on behind the marker",
            vec![key(), m(2, "50 3020"), m(3, "10 3020")],
            &[whole, (3, false, "3201 20")],
            1,
        ),
        ("fewer elements than counted", vec![key(), m(2, "30 02 3020")], &[whole], 1),
        ("length past the end", vec![key(), m(2, "00 05 3020")], &[whole], 1),
        ("no sequence header yet", vec![m(1, "10 3010")], &[], 1),
        (
            "shown again is no key frame",
            vec![m(1, &format!("28 0c {SEQUENCE} 1a 0190"))],
            &[(1, false, &format!("{SEQUENCE_OUT} 1a0190"))],
            0,
        ),
        (
            "a sequence begins after a loss",
            vec![None, key(), None, m(2, "10 3020"), m(3, "10 3020")],
            &[whole, (3, false, "3201 20")],
            1,
        ),
        (
            "marker lost",
            vec![key(), s(2, "10 3020"), None, s(2, "10 3020"), m(3, "10 3020")],
            &[whole, (3, false, "3201 20")],
            1,
        ),
    ];
    check(Codec::Av1, &cases);
    let out = run(&mut *video(Codec::Av1), &[key()]);
    let [config] = configs(&out)[..] else { panic!("{out:?}") };
    assert_eq!(config.size, size(642, 362));
    let av1c = config.caps.structure(0).unwrap().get::<gst::Buffer>("codec_data").unwrap();
    assert_eq!(hex::encode(av1c.map_readable().unwrap()), "81010c000a0b0000000cc5036936be4010");
}
