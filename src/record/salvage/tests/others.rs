//! Matroska and transport streams.

use super::*;
use crate::record::salvage::{found::Found, matroska, ts};

fn made_whole(bytes: &[u8], finish: fn(&File) -> std::io::Result<Option<Found>>) -> (Vec<u8>, Option<Found>) {
    let file = file_with(bytes);
    let found = finish(&file).expect("no error");
    (content(&file), found)
}

const ANNEX_B: &str = "videotestsrc num-buffers=75 ! video/x-raw,width=160,height=90,framerate=25/1 ! \
     x264enc speed-preset=veryfast bframes=2 key-int-max=20 bitrate=500 ! h264parse config-interval=-1 ! \
     video/x-h264,stream-format=byte-stream,alignment=au ! queue max-size-time=0 ! m.";

fn transport_stream() -> Vec<u8> {
    let aac = AAC.replace("m.audio_0", "m.");
    record("mpegtsmux", &[ANNEX_B, &aac])
}

#[test]
fn a_transport_stream_is_told_of() {
    let h265 =
        h265("hvc1").replace("stream-format=hvc1", "stream-format=byte-stream").replace("m.video_0", "m.");
    let h265 = h265.replace("h265parse", "h265parse config-interval=-1");
    let aac = AAC.replace("m.audio_0", "m.").replace("channels=2", "channels=1");
    for (sources, codec, frames, channels) in [
        (vec![ANNEX_B, &*AAC.replace("m.audio_0", "m.")], "h264", 75, 2),
        (vec![&*h265, &*aac], "h265", 50, 1),
    ] {
        let bytes = record("mpegtsmux", &sources);
        let (after, found) = made_whole(&bytes, ts::finish);
        assert!(after == bytes, "{codec}: it was whole");
        let found: crate::library::Salvaged = found.expect("media").into();
        let video = found.video.expect("video");
        assert_eq!((&*video.codec, video.frames), (codec, frames));
        assert_eq!((video.width, video.height), (Some(160), Some(90)), "{codec}");
        assert!((2..=10).contains(&video.keyframes), "{}", video.keyframes);
        let audio = found.audio.expect("audio");
        assert_eq!((&*audio.codec, audio.rate, audio.channels), ("aac", Some(48_000), Some(channels)));
        assert!((2_900..3_100).contains(&found.duration_ms), "{}", found.duration_ms);
    }
}

#[test]
fn a_transport_stream_is_cut_at_a_whole_access_unit() {
    let mut random = Random::new();
    let bytes = transport_stream();
    let mut whole = 0;
    for turn in 0..200 {
        let mut cut = bytes.clone();
        match turn % 3 {
            0 => cut.truncate(1 + random.below(bytes.len())),
            1 => cut.truncate(random.below(bytes.len() / PAGE_BYTES) * PAGE_BYTES),
            _ => {
                let synced = random.below(bytes.len());
                lose_pages(&mut cut, synced, 5, &mut random);
            }
        }
        let (once, found) = made_whole(&cut, ts::finish);
        let Some(found) = found else {
            assert!(once == cut && cut.len() < 40_000, "{}", cut.len());
            continue;
        };
        whole += 1;
        assert!(once.len().is_multiple_of(188) && cut.starts_with(&once));
        assert_eq!(made_whole(&once, ts::finish), (once.clone(), Some(found)), "a second time");
        if turn % 10 < 3 && once.len() > 60_000 {
            assert_decodes(&once, &format!("turn {turn}"));
        }
    }
    assert!(whole > 100, "{whole}");
}

#[test]
fn matroska_is_cut_at_a_hole() {
    let mut random = Random::new();
    let vp9 = vp9();
    for (name, sources) in [("h264", vec![B_FRAMES, AAC]), ("vp9", vec![&*vp9, OPUS])] {
        let bytes = record("matroskamux offset-to-zero=true max-cluster-duration=500000000", &sources);
        let all = made_whole(&bytes, matroska::finish).1.expect("media");
        for turn in 0..40 {
            let mut holed = bytes.clone();
            let synced = 8192 + random.below(bytes.len() - 8192);
            if lose_pages(&mut holed, synced, 4, &mut random).is_none() {
                continue;
            }
            let (once, found) = made_whole(&holed, matroska::finish);
            let found = found.expect("media");
            assert!(found.tracks.iter().zip(&all.tracks).all(|(some, all)| some.frames <= all.frames));
            assert_eq!(
                made_whole(&once, matroska::finish),
                (once.clone(), Some(found)),
                "{name}: a second time"
            );
            if turn < 10 {
                assert_decodes(&once, &format!("{name} {turn}, synced {synced}"));
            }
        }
    }
}

/// A power cut took the first sound, and ffmpeg failed on what was left: "Cannot determine format of input stream 0:1".
#[test]
fn a_matroska_track_without_a_block_is_no_track() {
    let vp9 = vp9();
    let bytes = record("matroskamux offset-to-zero=true max-cluster-duration=200000000", &[&vp9, OPUS]);
    let all = made_whole(&bytes, matroska::finish).1.expect("media");
    let is_sound = |track: &&crate::record::salvage::found::Track| track.codec == "opus";
    assert!(all.tracks.iter().find(is_sound).is_some_and(|track| track.frames > 0));
    // Until the sound has its first block, the file is cut byte by byte.
    let cut = (1..bytes.len()).step_by(7).find_map(|length| {
        let (file, found) = made_whole(&bytes[..length], matroska::finish);
        found.filter(|found| found.tracks.iter().any(|t| t.frames > 0)).map(|found| (file, found))
    });
    let (once, found) = cut.expect("a picture");
    let silent = found.tracks.iter().find(is_sound).is_some_and(|track| track.frames == 0);
    assert!(silent, "the first block is a picture: {found:?}");
    assert_decodes(&once, "pictures alone");
    let (twice, again) = made_whole(&once, matroska::finish);
    assert!(twice == once, "a second time");
    assert!(again.expect("media").tracks.iter().find(is_sound).is_none());
}

#[test]
fn no_bytes_make_it_panic() {
    let mut random = Random::new();
    let bytes = transport_stream();
    for _ in 0..200 {
        let mut bytes = bytes[..20_000].to_vec();
        for _ in 0..40 {
            let packet = random.below(bytes.len() / 188) * 188;
            bytes[packet + 1 + random.below(60)] = random.below(256) as u8;
        }
        let _ = ts::finish(&file_with(&bytes));
    }
}
