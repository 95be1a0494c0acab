//! Real encoders and GStreamer's payloaders: every unit must come out as the payloader took it in.

use super::*;
use gst::prelude::*;
use gstreamer_app::AppSink;
use std::sync::LazyLock;

/// One encoded stream: what was sent, and the units it must become.
pub(super) struct Stream {
    pub format: Format,
    pub packets: Vec<Sent>,
    pub units: Vec<(bool, Vec<u8>)>,
    pub reorder: Option<u8>,
    /// As the encoder's parser has it.
    pub codec_data: Option<Vec<u8>>,
}

const VIDEO: &str = "videotestsrc num-buffers=40 pattern=smpte horizontal-speed=3 \
    ! video/x-raw,format=I420,width=162,height=122,framerate=25/1";
const AUDIO: &str =
    "audiotestsrc num-buffers=40 samplesperbuffer=960 wave=ticks ! audioconvert ! audioresample";

fn pull(pipeline: &gst::Pipeline, name: &str) -> Vec<(gst::Sample, Vec<u8>)> {
    let sink = pipeline.by_name(name).unwrap().downcast::<AppSink>().unwrap();
    let mut samples = Vec::new();
    while let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_seconds(20)) {
        let data = sample.buffer().unwrap().map_readable().unwrap().to_vec();
        samples.push((sample, data));
    }
    assert!(sink.is_eos(), "{name} did not end in 20 s");
    samples
}

/// Runs `encode`, splits it to the payloader `pay` and to here.
fn encode(codec: Codec, encode: &str, pay: &str) -> Stream {
    gst::init().unwrap();
    let sink = "appsink sync=false max-buffers=0";
    let pay = if pay.is_empty() { String::new() } else { format!("t. ! queue ! {pay} ! {sink} name=rtp") };
    let text = format!("{encode} ! tee name=t  t. ! queue ! {sink} name=units  {pay}");
    let pipeline = gst::parse::launch(&text).unwrap().downcast::<gst::Pipeline>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let units = pull(&pipeline, "units");
    let rtp = if pay.is_empty() { Vec::new() } else { pull(&pipeline, "rtp") };
    pipeline.set_state(gst::State::Null).unwrap();

    let mut format = format(codec, 90_000, 1, &[]);
    if let Some((sample, _)) = rtp.first() {
        let caps = sample.caps().unwrap().structure(0).unwrap();
        format.clock_rate = caps.get::<i32>("clock-rate").unwrap() as u32;
        format.channels =
            caps.get::<&str>("encoding-params").ok().and_then(|params| params.parse().ok()).unwrap_or(1);
        let texts =
            caps.iter().filter_map(|(key, value)| Some((key.to_string(), value.get::<String>().ok()?)));
        format.fmtp = texts.collect();
    }
    let caps = units[0].0.caps().unwrap().structure(0).unwrap();
    let codec_data = caps.get::<gst::Buffer>("codec_data").ok();
    let codec_data = codec_data.map(|data| data.map_readable().unwrap().to_vec());
    let packets = rtp.iter().map(|(_, data)| parse(data)).collect();
    let key = |sample: &gst::Sample| !sample.buffer().unwrap().flags().contains(gst::BufferFlags::DELTA_UNIT);
    let units = units.into_iter().map(|(sample, data)| (key(&sample), data)).collect();
    Stream { format, packets, units, reorder: Some(0), codec_data }
}

fn parse(data: &[u8]) -> Sent {
    let packet = rtp_types::RtpPacket::parse(data).unwrap();
    Sent { payload: packet.payload().to_vec(), timestamp: packet.timestamp(), marker: packet.marker_bit() }
}

/// Takes the NAL units of these types out: those that do not go into units.
fn without(stream: &mut Stream, kind: fn(u8) -> u8, left_out: &[u8]) {
    for (_, unit) in &mut stream.units {
        let (mut kept, mut rest) = (Vec::new(), &unit[..]);
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (nal, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            if !left_out.contains(&kind(nal[0])) {
                kept.extend_from_slice(length);
                kept.extend_from_slice(nal);
            }
            rest = after;
        }
        *unit = kept;
    }
}

fn h264(options: &str, pay: &str, reorder: u8) -> Stream {
    let encoder = format!(
        "{VIDEO} ! x264enc key-int-max=10 bitrate=600 {options} \
        ! h264parse ! video/x-h264,stream-format=avc,alignment=au"
    );
    let mut stream = encode(Codec::H264, &encoder, &format!("rtph264pay mtu=300 {pay}"));
    without(&mut stream, |header| header & 0x1F, &[7, 8, 9]);
    Stream { reorder: Some(reorder), ..stream }
}

fn h265(pay: &str) -> Stream {
    let encoder = format!(
        "{VIDEO} ! x265enc key-int-max=10 bitrate=600 speed-preset=ultrafast \
        option-string=repeat-headers=1:bframes=2:pools=1 ! h265parse ! video/x-h265,stream-format=hvc1,alignment=au"
    );
    let mut stream = encode(Codec::H265, &encoder, &format!("rtph265pay mtu=300 {pay}"));
    without(&mut stream, |header| header >> 1 & 0x3F, &[32, 33, 34, 35]);
    Stream { reorder: Some(2), ..stream }
}

fn av1(counted: bool) -> Stream {
    let video = VIDEO.replace("num-buffers=40", "num-buffers=14");
    let encoder = format!(
        "{video} ! av1enc cpu-used=8 usage-profile=realtime keyframe-max-dist=5 \
        target-bitrate=600 ! av1parse ! video/x-av1,stream-format=obu-stream,alignment=tu"
    );
    let mut stream = encode(Codec::Av1, &encoder, "");
    for (index, (_, unit)) in stream.units.iter_mut().enumerate() {
        stream.packets.extend(packetizer::av1(unit, index as u32 * 3_600, 200, counted));
        const DELIMITER: [u8; 2] = [0x12, 0];
        *unit = unit.strip_prefix(&DELIMITER).expect("begins with a temporal delimiter").to_vec();
    }
    stream
}

/// Streams of every codec, small.
pub(super) static STREAMS: LazyLock<Vec<(&str, Stream)>> = LazyLock::new(|| {
    let vpx = "deadline=1 keyframe-max-dist=10 target-bitrate=600000 cpu-used=8";
    vec![
        (
            "h264, slices, in-band sets",
            h264("tune=zerolatency option-string=slices=3:repeat-headers=1:aud=1", "config-interval=-1", 0),
        ),
        ("h264, B-frames, STAP-A", h264("bframes=2 b-adapt=false", "aggregate-mode=max-stap", 2)),
        ("h265, in-band sets", h265("config-interval=-1")),
        ("h265, AP", h265("aggregate-mode=max")),
        (
            "vp8",
            encode(Codec::Vp8, &format!("{VIDEO} ! vp8enc {vpx}"), "rtpvp8pay mtu=300 picture-id-mode=2"),
        ),
        (
            "vp9",
            encode(Codec::Vp9, &format!("{VIDEO} ! vp9enc {vpx}"), "rtpvp9pay mtu=300 picture-id-mode=2"),
        ),
        ("av1, W", av1(true)),
        ("av1, lengths", av1(false)),
        (
            "aac",
            encode(
                Codec::Aac,
                &format!("{AUDIO} ! avenc_aac bitrate=128000 ! aacparse"),
                "rtpmp4gpay mtu=1400",
            ),
        ),
        (
            "aac, fragments",
            encode(
                Codec::Aac,
                &format!("{AUDIO} ! avenc_aac bitrate=128000 ! aacparse"),
                "rtpmp4gpay mtu=120",
            ),
        ),
        (
            "latm",
            // It has no room for what AAC LC says of the SBR that it does not have.
            Stream {
                codec_data: None,
                ..encode(
                    Codec::Aac,
                    &format!("{AUDIO} ! avenc_aac bitrate=128000 ! aacparse"),
                    "rtpmp4apay mtu=120",
                )
            },
        ),
        ("opus", encode(Codec::Opus, &format!("{AUDIO} ! opusenc"), "rtpopuspay")),
        (
            "pcma",
            encode(
                Codec::Pcma,
                &format!("{AUDIO} ! audio/x-raw,rate=8000,channels=1 ! alawenc"),
                "rtppcmapay mtu=1400",
            ),
        ),
    ]
});

#[test]
fn every_unit_comes_out_as_the_payloader_took_it() {
    for (name, stream) in STREAMS.iter() {
        let mut depay = make(&stream.format).unwrap_or_else(|e| panic!("{name}: {e}: {:?}", stream.format));
        let mut out = Vec::new();
        for (sequence, packet) in stream.packets.iter().enumerate() {
            depay.push(packet.packet(sequence), &mut out);
        }
        depay.finish(&mut out);
        assert!(stream.units.len() >= 12, "{name}");
        assert!(stream.packets.len() > 20, "{name}: {} packets", stream.packets.len());
        assert!(matches!(out[0], Output::Config(_)), "{name}");
        let configs = configs(&out);
        assert_eq!(configs.len(), 1, "{name}: {configs:?}");
        assert_eq!(configs[0].reorder, stream.reorder, "{name}");
        if stream.format.codec.kind() == crate::media::MediaKind::Video {
            assert_eq!(configs[0].size, Some(VideoSize { width: 162, height: 122 }), "{name}");
            assert!(configs[0].caps.structure(0).unwrap().has_field("width"));
        }
        if let Some(want) = &stream.codec_data {
            let got = configs[0].caps.structure(0).unwrap().get::<gst::Buffer>("codec_data").unwrap();
            // That of H.264 leaves the chroma format at the end out, that of H.265 the flag that no set is in-band.
            let got = got.map_readable().unwrap();
            let same = got.len() >= want.len() && got.iter().zip(want).all(|(g, w)| g & 0x7F == w & 0x7F);
            assert!(same, "{name}: {} is not {}", hex::encode(got), hex::encode(want));
        }
        same_units(name, stream, &units(&out));
        assert_eq!(depay.dropped(), 0, "{name}");
    }
}

fn same_units(name: &str, stream: &Stream, got: &[&Unit]) {
    if stream.format.codec == Codec::Pcma {
        let all = |units: Vec<&[u8]>| units.concat();
        let want = all(stream.units.iter().map(|(_, unit)| &unit[..]).collect());
        return assert_eq!(all(got.iter().map(|unit| &unit.payload[..]).collect()), want);
    }
    assert_eq!(got.len(), stream.units.len(), "{name}");
    for (index, (unit, (key, want))) in got.iter().zip(&stream.units).enumerate() {
        assert_eq!(hex::encode(&unit.payload), hex::encode(want), "{name}, unit {index}");
        assert_eq!(unit.key, *key, "{name}, unit {index}");
    }
}
