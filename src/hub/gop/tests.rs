use super::*;
use crate::hub::stream::tests::{A, V, av_tracks, frame, with_video_caps};

/// Frames as (track, ms); tracks as (255, number of the video caps in `known`).
fn items(cache: &GopCache, known: &[&Tracks]) -> Vec<(u8, u64)> {
    let of = |tracks: &Tracks| known.iter().position(|k| *k == tracks).map_or(99, |at| at as u64);
    let tell = |item| match item {
        Item::Frame(f) => (f.track.0, f.dts_ns() / 1_000_000),
        Item::Tracks(tracks) => (255, of(&tracks)),
        other => panic!("{other:?}"),
    };
    cache.items().map(tell).collect()
}

fn times(cache: &GopCache) -> Vec<(u8, u64)> {
    items(cache, &[]).split_off(1)
}

#[test]
fn keeps_from_the_last_key_frame_with_the_audio_beside_it() {
    let (mut cache, tracks) = (GopCache::default(), av_tracks());
    cache.settle();
    for f in [frame(V, 0, true), frame(A, 10, true), frame(V, 40, false), frame(A, 90, true)] {
        cache.push(&f, &tracks);
    }
    cache.push(&frame(V, 80, true), &tracks);
    assert_eq!(times(&cache), [(1, 90), (0, 80)]);
}

#[test]
fn forgets_nothing_before_the_tracks_are_settled() {
    let (mut cache, tracks) = (GopCache::default(), av_tracks());
    for f in [frame(A, 0, true), frame(V, 5, true), frame(V, 45, true)] {
        cache.push(&f, &tracks);
    }
    assert_eq!(times(&cache), [(1, 0), (0, 5), (0, 45)]);
}

/// Once the cache was emptied by each change, and held what no decoder can begin with until the next key frame.
#[test]
fn frames_stay_behind_the_tracks_they_belong_to() {
    let (small, large) = (av_tracks(), with_video_caps("video/x-h264,width=640"));
    let known = [&small, &large];
    let mut cache = GopCache::default();
    cache.set_tracks(&small);
    cache.push(&frame(V, 0, true), &small);
    cache.settle();
    cache.push(&frame(A, 10, true), &small);
    cache.set_tracks(&large);
    cache.push(&frame(A, 30, true), &large);
    assert_eq!(items(&cache, &known), [(255, 0), (0, 0), (1, 10), (255, 1), (1, 30)]);
    cache.push(&frame(V, 20, true), &large);
    cache.push(&frame(V, 60, false), &large);
    assert_eq!(items(&cache, &known), [(255, 1), (1, 30), (0, 20), (0, 60)]);
}

#[test]
fn a_track_that_shows_up_late_is_told_from_the_start() {
    let both = av_tracks();
    let video = Tracks::new(vec![both.get(V).expect("video").clone()]);
    let larger = with_video_caps("video/x-h264,width=640");
    let larger_video = Tracks::new(vec![larger.get(V).expect("video").clone()]);
    let mut cache = GopCache::default();
    cache.set_tracks(&video);
    cache.push(&frame(V, 0, true), &video);
    cache.set_tracks(&larger_video);
    cache.push(&frame(V, 40, true), &larger_video);
    cache.set_tracks(&larger);
    assert_eq!(items(&cache, &[&both, &larger]), [(255, 0), (0, 0), (255, 1), (0, 40)]);
}

#[test]
fn another_codec_empties_it() {
    let mut cache = GopCache::default();
    let (h264, mut other) = (av_tracks(), av_tracks().iter().cloned().collect::<Vec<_>>());
    other[0].codec = crate::media::Codec::Vp8;
    let other = Tracks::new(other);
    cache.set_tracks(&h264);
    cache.settle();
    cache.push(&frame(V, 0, true), &h264);
    cache.set_tracks(&other);
    assert_eq!(items(&cache, &[&h264, &other]), [(255, 1)]);
}

#[test]
fn a_group_past_the_limit_is_skipped_until_the_next_key_frame() {
    let (mut cache, tracks) = (GopCache::default(), av_tracks());
    cache.settle();
    cache.push(&frame(V, 0, true), &tracks);
    let mut big = frame(V, 40, false);
    big.buffer = gstreamer::Buffer::with_size(MAX_GOP_BYTES).expect("memory");
    cache.push(&big, &tracks);
    cache.push(&frame(V, 80, false), &tracks);
    assert_eq!(times(&cache), []);
    cache.push(&frame(V, 120, true), &tracks);
    assert_eq!(times(&cache), [(0, 120)]);
}
