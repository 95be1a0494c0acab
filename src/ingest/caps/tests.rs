use super::*;
use proptest::prelude::*;

/// x264, 642x362 and 4:2:0; 642x362 and 4:4:4; 720x566 interlaced and 4:4:4. All are cropped.
const AVCC: [(&str, (u32, u32), Option<&str>); 3] = [
    (
        "01640016ffe1001b67640016acd940a42fe224c044000003000400000300503c58b65801000668ebe3cb22c0fdf8f800",
        (642, 362),
        Some("high"),
    ),
    (
        "01f40016ffe1001a67f40016919b281485fc7cf80880000003008000000a078b16cb01000668ebe3c44844fff8f800",
        (642, 362),
        Some("high-4:4:4"),
    ),
    (
        "01f4001effe1001b67f4001e919b2816849f9b011000000300100000030321f142996001000668fba3c44844fff8f800",
        (720, 566),
        Some("high-4:4:4"),
    ),
];
/// x265, 642x362: VPS and SPS.
const HVCC: &str = "0101600000009000000000003ff000fcfdf8f800000f02200001001840010c01ffff01600000030090000003000003003f\
    959809210001002c42010101600000030090000003000003003fa005120171c9265959a4932bc05a02000003000200000300\
    1410";
/// libaom, 642x362.
const AV1C: &str = "81010c000a0b0000000cc5036936be4010";

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).expect("hex")
}

fn size(width: u32, height: u32) -> Option<VideoSize> {
    Some(VideoSize { width, height })
}

fn field<'c, T: gst::glib::value::FromValue<'c>>(caps: &'c gst::Caps, name: &str) -> Option<T> {
    caps.structure(0)?.get::<T>(name).ok()
}

#[test]
fn h264_caps_carry_size_profile_and_config() {
    gst::init().unwrap();
    for (hex, (width, height), profile) in AVCC {
        let (caps, got) = video_track_caps(Codec::H264, &bytes(hex)).unwrap();
        assert_eq!(got, size(width, height));
        assert_eq!(field::<i32>(&caps, "width"), Some(width as i32));
        assert_eq!(field::<&str>(&caps, "profile"), profile);
        let want = "video/x-h264, stream-format=avc, alignment=au, codec_data=(buffer)";
        assert!(caps.can_intersect(&format!("{want}{hex}").parse::<gst::Caps>().unwrap()), "{caps}");
    }
}

#[test]
fn an_avcc_is_made_of_its_parameter_sets() {
    for (hex, _, _) in AVCC {
        let want = bytes(hex);
        let sps = size::nal_unit(&want[6..]).unwrap();
        let pps = size::nal_unit(&want[6 + 2 + sps.len() + 1..]).unwrap();
        assert_eq!(avcc(&[sps], &[pps]).map(hex::encode).as_deref(), Some(hex));
        assert_eq!(avcc(&[sps], &[]), None);
        assert_eq!(avcc(&[], &[pps]), None);
        assert_eq!(avcc(&[sps; 32], &[pps]), None);
    }
}

#[test]
fn h264_reordering_is_told_or_inferred_or_not_known() {
    let cases = [
        ("VUI", "67640016acd940a42fe224c044000003000400000300503c58b658", Some(2)),
        ("baseline", "6742000af44b20", Some(0)),
        ("main", "674d000af44b20", None),
        ("main, picture order type 2", "674d000ada2590", Some(0)),
    ];
    for (name, sps, want) in cases {
        assert_eq!(H264Sps::parse(&bytes(sps)).map(|sps| sps.reorder), Some(want), "{name}");
    }
}

#[test]
fn h265_and_av1_caps_carry_size_and_config() {
    gst::init().unwrap();
    let cases = [
        (Codec::H265, HVCC, "video/x-h265, stream-format=hvc1, alignment=au"),
        (Codec::Av1, AV1C, "video/x-av1, stream-format=obu-stream, alignment=tu, framerate=0/1"),
    ];
    for (codec, hex, want) in cases {
        let (caps, got) = video_track_caps(codec, &bytes(hex)).unwrap();
        assert_eq!(got, size(642, 362), "{codec}");
        let want = format!("{want}, width=642, height=362, codec_data=(buffer){hex}");
        assert_eq!(caps, want.parse::<gst::Caps>().unwrap());
    }
}

#[test]
fn sizes_may_be_unknown() {
    gst::init().unwrap();
    let broken_sps = "0164001effe1000467640016010004";
    for (codec, hex) in
        [(Codec::H264, broken_sps), (Codec::Av1, &AV1C[..8]), (Codec::Vp8, ""), (Codec::Vp9, "")]
    {
        let (caps, got) = video_track_caps(codec, &bytes(hex)).unwrap();
        assert_eq!(got, None, "{codec}");
        assert_eq!(field::<i32>(&caps, "width"), None);
    }
}

#[test]
fn what_is_no_video_configuration_is_named() {
    gst::init().unwrap();
    let short_lengths = AVCC[0].0.replacen("16ffe1", "16fde1", 1);
    let no_sps = HVCC.replacen("0f0220", "0f0020", 1);
    let cases = [
        (Codec::H264, "", "not an avcC of version 1"),
        (Codec::H264, "0264001effe1", "not an avcC of version 1"),
        (Codec::H264, &short_lengths, "NAL unit lengths are not 4 bytes"),
        (Codec::H264, "0164001effe0", "no sequence parameter set"),
        (Codec::H264, "0164001effe1001b67", "truncated"),
        (Codec::H265, &HVCC[..40], "not an hvcC of version 1"),
        (Codec::H265, &no_sps, "no sequence parameter set"),
        (Codec::Av1, "8001", "not an av1C of version 1"),
        (Codec::Aac, "1210", "not a video codec"),
    ];
    for (codec, hex, what) in cases {
        assert_eq!(video_track_caps(codec, &bytes(hex)), Err(CapsError { codec, what }));
    }
}

#[test]
fn audio_caps() {
    gst::init().unwrap();
    let opus = "4f70757348656164010238010080bb0000000000";
    let opus = &opus[..38];
    let surround = "4f7075734865616401063801c05d0000000001040200040102 0305".replace(' ', "");
    let cases = [
        (Codec::Aac, "1210", 44_100, 2, "audio/mpeg, mpegversion=4, stream-format=raw"),
        (Codec::Aac, "1190", 48_000, 2, "audio/mpeg, mpegversion=4"),
        (Codec::Aac, "11b0", 48_000, 6, "audio/mpeg, mpegversion=4"),
        (Codec::Aac, "1180", 48_000, 2, "audio/mpeg, mpegversion=4"),
        // HE-AAC, explicit: 24 kHz core, 48 kHz out.
        (Codec::Aac, "2b118800", 24_000, 2, "audio/mpeg, mpegversion=4"),
        // The rate as a 24-bit number: 44056 Hz.
        (Codec::Aac, "178056 0c10", 44_056, 2, "audio/mpeg, mpegversion=4"),
        (
            Codec::Opus,
            opus,
            48_000,
            2,
            "audio/x-opus, channel-mapping-family=0, stream-count=1, coupled-count=1",
        ),
        (
            Codec::Opus,
            &surround,
            48_000,
            6,
            "audio/x-opus, channel-mapping-family=1, stream-count=4, coupled-count=2",
        ),
        (
            Codec::Mp3,
            "fffb9064",
            44_100,
            2,
            "audio/mpeg, mpegversion=1, layer=3, parsed=true, mpegaudioversion=1",
        ),
        (Codec::Mp3, "fff340c4", 22_050, 1, "audio/mpeg, mpegversion=1, layer=3, mpegaudioversion=2"),
        (Codec::Mp3, "ffe348c4", 8_000, 1, "audio/mpeg, mpegversion=1, layer=3, mpegaudioversion=3"),
        (Codec::Pcma, "72", 8_000, 1, "audio/x-alaw"),
        (Codec::Pcmu, "83", 8_000, 2, "audio/x-mulaw"),
    ];
    for (codec, hex, rate, channels, want) in cases {
        let got = audio_track_caps(codec, &bytes(&hex.replace(' ', ""))).unwrap();
        assert_eq!((got.rate, got.channels), (rate, channels), "{codec} {hex}");
        let want = format!("{want}, rate={rate}, channels={channels}").parse::<gst::Caps>().unwrap();
        assert!(got.caps.is_subset(&want), "{} is not {want}", got.caps);
    }
}

#[test]
fn what_is_no_audio_configuration_is_named() {
    gst::init().unwrap();
    let cases = [
        (Codec::Aac, "12", "not an AudioSpecificConfig"),
        (Codec::Aac, "178000 0010", "sample rate outside 7350 to 96000 Hz"),
        (Codec::Aac, "1240", "reserved channel configuration"),
        (Codec::Opus, "4f707573", "not an OpusHead"),
        (Codec::Opus, "4f707573486561640100380080bb0000000000", "unknown version or no channels"),
        (Codec::Opus, "4f7075734865616401063801c05d00000000010402", "truncated channel mapping"),
        (Codec::Mp3, "fffd9064", "not a layer 3 frame"),
        (Codec::Mp3, "494433", "no frame header"),
        (Codec::Pcma, "", "empty"),
        (Codec::H264, "", "not an audio codec"),
    ];
    for (codec, hex, what) in cases {
        let got = audio_track_caps(codec, &bytes(&hex.replace(' ', "")));
        assert_eq!(got, Err(CapsError { codec, what }), "{codec} {hex}");
    }
}

fn damaged(config: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (damage, any::<prop::sample::Index>()).prop_map(move |(damage, end)| {
        let mut bytes = bytes(config);
        for (index, byte) in damage {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.index(2 * bytes.len()));
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_configurations_never_panic(
        avcc in damaged(AVCC[2].0),
        hvcc in damaged(HVCC),
        av1c in damaged(AV1C),
        sps in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        gst::init().unwrap();
        let _ = video_track_caps(Codec::H264, &avcc);
        let _ = video_track_caps(Codec::H265, &hvcc);
        let _ = video_track_caps(Codec::Av1, &av1c);
        let _ = video_track_caps(Codec::Av1, &[&[0x81, 0, 0, 0, 0x08], &sps[..]].concat());
        let _ = H264Sps::parse(&[&[0x67], &sps[..]].concat());
        let _ = H265Sps::parse(&[&[0x42, 1], &sps[..]].concat());
        let zeros = [&[0x67, 100][..], &[0; 40], &sps].concat();
        let _ = (H264Sps::parse(&zeros), H265Sps::parse(&zeros));
    }

    #[test]
    fn random_audio_configurations_never_panic(config in prop::collection::vec(any::<u8>(), 0..40)) {
        gst::init().unwrap();
        for codec in Codec::ALL {
            let _ = audio_track_caps(codec, &config);
            let _ = audio_track_caps(codec, &[b"OpusHead", &config[..]].concat());
            let _ = audio_track_caps(codec, &[&[0xFF, 0xFB], &config[..]].concat());
        }
    }
}
