use super::*;
use crate::gst::Pipeline;
use crate::media::{MediaKind, TrackId};
use std::{path::Path, process::Command, time::Duration};

/// A file's access units of one kind; of video the key frames only.
fn units(file: &Path, kind: MediaKind) -> (Track, Vec<gst::Buffer>) {
    super::super::init().unwrap();
    let pipeline = Pipeline::new();
    let source = gst::ElementFactory::make("filesrc").property("location", file).build().unwrap();
    let demuxer = gst::ElementFactory::make("matroskademux").build().unwrap();
    pipeline.add(&source).unwrap();
    pipeline.add(&demuxer).unwrap();
    source.link(&demuxer).unwrap();
    let found: Arc<Mutex<(Option<gst::Caps>, Vec<gst::Buffer>)>> = Arc::default();
    let into = found.clone();
    demuxer.connect_pad_added(move |demuxer, pad| {
        let bin = demuxer.parent().and_downcast::<gst::Bin>().unwrap();
        let sink = gst::ElementFactory::make("fakesink").property("async", false).build().unwrap();
        sink.set_property("sync", false);
        bin.add(&sink).unwrap();
        let caps = pad.current_caps().unwrap();
        let wanted = if kind == MediaKind::Video { "video/" } else { "audio/" };
        if caps.structure(0).unwrap().name().starts_with(wanted) {
            into.lock().unwrap().0 = Some(caps);
            let into = into.clone();
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                let buffer = info.buffer().unwrap();
                if kind == MediaKind::Audio || !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT) {
                    into.lock().unwrap().1.push(buffer.clone());
                }
                gst::PadProbeReturn::Ok
            });
        }
        pad.link(&sink.static_pad("sink").unwrap()).unwrap();
        sink.sync_state_with_parent().unwrap();
    });
    pipeline.play().unwrap();
    pipeline.wait_eos(Duration::from_secs(60)).unwrap();
    let (caps, units) = std::mem::take(&mut *found.lock().unwrap());
    (track_of(caps.unwrap()), units)
}

fn track_of(caps: gst::Caps) -> Track {
    let structure = caps.structure(0).unwrap();
    let number = |field| structure.get::<i32>(field).ok().map(|n| n as u32);
    let codec = match structure.name().as_str() {
        "video/x-h264" => Codec::H264,
        "video/x-h265" => Codec::H265,
        "video/x-vp8" => Codec::Vp8,
        "video/x-vp9" => Codec::Vp9,
        "video/x-av1" => Codec::Av1,
        "audio/mpeg" => Codec::Aac,
        "audio/x-opus" => Codec::Opus,
        "audio/x-alaw" => Codec::Pcma,
        "audio/x-mulaw" => Codec::Pcmu,
        other => panic!("{other}"),
    };
    let (rate, channels) = (number("rate"), number("channels"));
    Track { id: TrackId(0), codec, size: None, rate, channels, caps }
}

fn ffmpeg(dir: &Path, name: &str, arguments: &str) -> std::path::PathBuf {
    let file = dir.join(name);
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-y"]).args(arguments.split_whitespace());
    assert!(command.arg(&file).status().expect("apt-get install ffmpeg").success(), "{arguments}");
    file
}

/// Every codec that has a decoder: a picture that moves, one that stands still, and black.
#[test]
fn every_codec_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    for (codec, options) in [
        (Codec::H264, "libx264 -preset ultrafast -bf 2"),
        (Codec::H265, "libx265 -preset ultrafast -x265-params log-level=none"),
        (Codec::Vp8, "libvpx -deadline realtime -cpu-used 8 -b:v 500k"),
        (Codec::Vp9, "libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 500k"),
        (Codec::Av1, "libaom-av1 -cpu-used 8 -usage realtime -b:v 500k"),
    ] {
        let encoded = |name: &str, source: &str| {
            let arguments = format!("-f lavfi -i {source} -t 1 -pix_fmt yuv420p -c:v {options} -g 5");
            units(&ffmpeg(dir.path(), name, &arguments), MediaKind::Video)
        };
        let look = |(track, keys): &(Track, Vec<gst::Buffer>)| -> Vec<Picture> {
            assert_eq!((track.codec, keys.len() >= 2), (codec, true));
            keys.iter().map(|key| picture(track, key).unwrap_or_else(|e| panic!("{codec}: {e}"))).collect()
        };
        let moving = look(&encoded("moving.mkv", "testsrc2=size=320x180:rate=10"));
        let far = moving[1].difference(&moving[0]);
        assert!(far.mean > 1.0 && far.most > 50, "{codec}: {far:?}");
        assert!((40.0..200.0).contains(&moving[0].mean()) && moving[0].brightest() > 200, "{codec}");
        let black = look(&encoded("black.mkv", "color=black:size=320x180:rate=10"));
        assert!(
            (15.0..18.0).contains(&black[0].mean()) && black[0].brightest() < 20,
            "{codec}: {} {}",
            black[0].mean(),
            black[0].brightest()
        );
    }
}

#[test]
fn every_sound_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    for (codec, options) in [
        (Codec::Aac, "aac -b:a 64k"),
        (Codec::Opus, "libopus -b:a 64k"),
        (Codec::Pcma, "pcm_alaw -ar 8000 -ac 1"),
        (Codec::Pcmu, "pcm_mulaw -ar 8000 -ac 1"),
    ] {
        let heard = |source: &str| {
            let file = ffmpeg(dir.path(), "a.mkv", &format!("-f lavfi -i {source} -t 1 -c:a {options}"));
            let (track, units) = units(&file, MediaKind::Audio);
            assert_eq!(track.codec, codec);
            loudness(&track, &units).unwrap_or_else(|e| panic!("{codec}: {e}"))
        };
        let tone = "sine=frequency=440:sample_rate=48000";
        let (loud, soft) = (heard(tone), heard(&format!("{tone},volume=-26dB")));
        // ffmpeg's tone has an eighth of the full amplitude.
        assert!((-24.0..-18.0).contains(&loud) && (-50.0..-44.0).contains(&soft), "{codec}: {loud} {soft}");
        let silent = heard("anullsrc=sample_rate=48000");
        assert!(silent <= -65.0, "{codec}: {silent}");
    }
}

#[test]
fn what_cannot_be_decoded_is_an_error() {
    super::super::init().unwrap();
    let caps = |text: &str| text.parse::<gst::Caps>().unwrap();
    let broken = track_of(caps("video/x-vp8"));
    let nonsense = gst::Buffer::from_slice(vec![7_u8; 300]);
    assert!(matches!(picture(&broken, &nonsense), Err(LookError::Failed(_))));
    let unknown = Track { codec: Codec::Vorbis, ..track_of(caps("audio/x-opus,rate=48000,channels=2")) };
    assert!(matches!(loudness(&unknown, &[nonsense]), Err(LookError::Failed(_))));
}
