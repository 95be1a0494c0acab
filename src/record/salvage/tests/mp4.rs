//! MP4 of our muxer.

use super::*;
use crate::record::salvage::{
    found::{Found, Kind},
    mp4::{Step, finish, plan},
};

/// A file that its muxer ended.
struct Ended {
    bytes: Vec<u8>,
    /// Where the box between `ftyp` and the opening `moov` is.
    join: usize,
    /// From where to where each fragment is.
    fragments: Vec<(usize, usize)>,
}

impl Ended {
    fn new(sources: &[&str], fragment_ms: u32) -> Self {
        Self::of(record(&format!("reeldmp4mux fragment-duration={fragment_ms}"), sources))
    }

    fn of(bytes: Vec<u8>) -> Self {
        let size = |at: usize| u32::from_be_bytes(*bytes[at..].first_chunk().expect("a box")) as usize;
        let kind = |at: usize| &bytes[at + 4..at + 8];
        let join = size(0);
        assert_eq!(kind(join), b"mdat");
        let mut at = join + 16;
        at += size(at);
        let mut fragments = Vec::new();
        while kind(at) == b"moof" {
            let mdat = at + size(at);
            fragments.push((at, mdat + size(mdat)));
            at = mdat + size(mdat);
        }
        assert!(kind(at) == b"moov" && fragments.len() > 3, "{fragments:?}");
        Self { bytes, join, fragments }
    }

    fn media_end(&self) -> usize {
        self.fragments.last().expect("fragments").1
    }

    /// What the file was before its muxer ended it.
    fn part(&self) -> Vec<u8> {
        let mut bytes = self.bytes[..self.media_end()].to_vec();
        bytes[self.join..self.join + 16].copy_from_slice(b"\0\0\0\x10free\0\0\0\0\0\0\0\0");
        bytes
    }

    /// Where the last fragment ends that is before `at`; 0 when none is.
    fn whole(&self, at: usize) -> usize {
        self.fragments.iter().map(|f| f.1).filter(|end| *end <= at).max().unwrap_or(0)
    }

    /// What finishing makes of the first fragments, up to `whole`.
    fn finished(&self, whole: usize) -> Vec<u8> {
        let file = file_with(&self.part()[..whole]);
        finish(&file).expect("no error").expect("media");
        content(&file)
    }
}

fn made_whole(bytes: &[u8]) -> (Vec<u8>, Option<Found>) {
    let file = file_with(bytes);
    let found = finish(&file).expect("no error");
    (content(&file), found)
}

/// Frames and key frames of each track.
fn frames(found: &Found) -> Vec<(u64, u64)> {
    found.tracks.iter().map(|t| (t.frames, t.key_frames)).collect()
}

#[test]
fn a_killed_file_ends_as_its_muxer_would_have_ended_it() {
    let (h265, hev1, av1, vp9) = (h265("hvc1"), h265("hev1"), av1(), vp9());
    let avc3 = H264.replace("avc,", "avc3,");
    let late = B_FRAMES.replace("videotestsrc", "videotestsrc timestamp-offset=300000000");
    let mp3 = "audiotestsrc num-buffers=100 ! audio/x-raw,rate=44100,channels=1 ! lamemp3enc ! mpegaudioparse ! \
         queue ! m.audio_0";
    for (name, sources, video, audio) in [
        ("b-frames", vec![B_FRAMES, AAC], Some(("h264", 75)), Some(("aac", 48_000, 2))),
        ("late", vec![&*late, AAC], Some(("h264", 75)), Some(("aac", 48_000, 2))),
        ("avc3", vec![&*avc3], Some(("h264", 75)), None),
        ("h265", vec![&*h265, AAC], Some(("h265", 50)), Some(("aac", 48_000, 2))),
        ("hev1", vec![&*hev1], Some(("h265", 50)), None),
        ("av1", vec![&*av1, OPUS], Some(("av1", 50)), Some(("opus", 48_000, 2))),
        ("vp9", vec![&*vp9, OPUS], Some(("vp9", 50)), Some(("opus", 48_000, 2))),
        ("aac", vec![AAC], None, Some(("aac", 48_000, 2))),
        ("mp3", vec![mp3], None, Some(("mp3", 44_100, 1))),
    ] {
        let ended = Ended::new(&sources, 400);
        let (bytes, found) = made_whole(&ended.part());
        let found = found.expect("media");
        assert!(bytes == ended.bytes, "{name}: another end");
        assert_decodes(&bytes, name);
        let of = |wanted: fn(&Kind) -> bool| found.tracks.iter().find(|t| wanted(&t.kind));
        let got = of(|k| matches!(k, Kind::Video { .. }));
        assert_eq!(got.map(|t| (&*t.codec, t.frames)), video, "{name}");
        let size = Kind::Video { width: Some(160), height: Some(90) };
        assert!(got.is_none_or(|t| t.kind == size && (2..=10).contains(&t.key_frames)), "{name}: {got:?}");
        let got = of(|k| matches!(k, Kind::Audio { .. }));
        let kind = |(_, rate, channels)| Kind::Audio { rate: Some(rate), channels: Some(channels) };
        assert_eq!(
            got.map(|t| (&*t.codec, &t.kind)),
            audio.as_ref().map(|a| (a.0, kind(*a))).as_ref().map(|(c, k)| (*c, k)),
            "{name}"
        );
        assert!((1_900..3_500).contains(&found.duration_ms), "{name}: {}", found.duration_ms);
    }
}

/// Of a track that came after the header its fragments do not tell how far decoding is ahead. Wherever our end puts it,
/// each picture is shown when the muxer's shows it.
#[test]
fn a_track_that_came_after_the_header_keeps_its_times() {
    let ended = Ended::of(record_late("reeldmp4mux", &[B_FRAMES, AAC], ("video_0", 40)));
    let opening = &ended.bytes[..ended.fragments[0].0];
    assert!(!opening.windows(4).any(|w| w == b"edts"), "the video was there in time");
    let (bytes, found) = made_whole(&ended.part());
    let found = found.expect("media");
    assert_eq!(frames(&found)[0], (75, 4));
    assert_decodes(&bytes, "late");
    let times = shown(&ended.bytes);
    assert!(times.len() > 200 && times == shown(&bytes), "{times:?}");
}

/// When each access unit is shown.
fn shown(bytes: &[u8]) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, bytes).expect("written");
    let args = ["-v", "error", "-show_entries", "packet=stream_index,pts_time,size", "-of", "csv=p=0"];
    let output = Command::new("ffprobe").args(args).arg(file.path()).output().expect("ffprobe");
    let mut lines: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_file_is_cut_behind_its_last_whole_fragment_wherever_it_breaks_off() {
    for sources in [&[H264, AAC][..], &[AAC]] {
        let ended = Ended::new(sources, 200);
        // Of a file that ends there: it is read as often as it has bytes.
        let (from, end) = (ended.fragments[3].0, ended.fragments[5].1);
        let part = &ended.part()[..end];
        for cut in (1..from).step_by(401).chain(from..=part.len()) {
            let file = file_with(&part[..cut]);
            let whole = ended.whole(cut);
            let Some((steps, found)) = plan(&file).expect("no error") else {
                assert_eq!((whole, content(&file).len()), (0, cut));
                continue;
            };
            let [Step::End { at, .. }, Step::Sync, Step::Join { .. }, Step::Sync] = &steps[..] else {
                panic!("cut at {cut}: {steps:?}")
            };
            assert_eq!(*at, whole as u64, "cut at {cut}");
            assert!(frames(&found).iter().all(|(frames, keys)| *frames > 0 && *keys > 0));
        }
        for fragment in ended.fragments.iter().step_by(3) {
            assert_decodes(&ended.finished(fragment.1), "cut between fragments");
        }
    }
}

#[test]
fn pages_that_a_power_cut_kept_from_the_disk_are_cut_away() {
    let mut random = Random::new();
    let (h265, av1, vp9) = (h265("hvc1"), av1(), vp9());
    for (name, sources) in [
        ("h264", vec![B_FRAMES, AAC]),
        ("h265", vec![&*h265, AAC]),
        ("av1", vec![&*av1, OPUS]),
        ("vp9", vec![&*vp9, OPUS]),
        ("aac", vec![AAC]),
    ] {
        let ended = Ended::new(&sources, 200);
        for turn in 0..60 {
            // As the writer left it, or as its muxer had ended it: then any page may be missing too.
            let mut bytes = if turn % 2 == 0 { ended.part() } else { ended.bytes.clone() };
            let synced = ended.fragments[random.below(ended.fragments.len() - 1)].1;
            if random.below(3) == 0 {
                bytes.truncate(synced + random.below(bytes.len() - synced));
            }
            // The rest of the page that was synced last.
            let mut lost = None;
            if random.below(2) == 0 {
                let end = synced.next_multiple_of(PAGE_BYTES).min(bytes.len());
                // What is zero anyway, as a size's first byte, is not lost.
                lost = (synced..end).find(|at| bytes[*at] != 0);
                bytes[synced..end].fill(0);
            }
            let one_in = 1 + random.below(12);
            lost = lost.or(lose_pages(&mut bytes, synced, one_in, &mut random));
            let whole = ended.whole(lost.unwrap_or(usize::MAX).min(bytes.len()));
            let (once, found) = made_whole(&bytes);
            assert!(
                found.is_some() && once == ended.finished(whole),
                "{name} {turn}: {whole}, lost {lost:?}, {synced} synced of {}",
                bytes.len()
            );
            if turn < 6 {
                assert_decodes(&once, name);
            }
            assert!(made_whole(&once) == (once, found), "{name} {turn}: a second time");
        }
    }
}

/// What may be on the disk when the power goes after `before` became `after`, which was not synced: the pages of either.
fn mixed(before: &[u8], after: &[u8], random: &mut Random) -> Vec<u8> {
    let len = match random.below(3) {
        0 => before.len(),
        1 => after.len(),
        _ => after.len().min(before.len()) + random.below(after.len().abs_diff(before.len()) + 1),
    };
    let mut mixed = vec![0; len];
    for (number, page) in mixed.chunks_mut(PAGE_BYTES).enumerate() {
        let source = if random.below(2) == 0 { before } else { after };
        let source = source.get(number * PAGE_BYTES..).unwrap_or_default();
        let known = source.len().min(page.len());
        page[..known].copy_from_slice(&source[..known]);
    }
    mixed
}

#[test]
fn a_repair_that_was_cut_short_is_done_again() {
    let mut random = Random::new();
    let ended = Ended::new(&[B_FRAMES, AAC], 200);
    let (whole, part) = (ended.fragments[8].1, ended.part());
    let finished = ended.finished(whole);
    let mut turned = ended.bytes.clone();
    turned[whole + 20..whole + 9000].fill(0);
    let mut no_moov = part.clone();
    no_moov[ended.join..ended.join + 16].copy_from_slice(&ended.bytes[ended.join..ended.join + 16]);
    for (name, broken, expected) in [
        ("cut", &part[..whole + 1000], &finished),
        ("turned, with a hole", &turned, &finished),
        ("turned, without its end", &no_moov, &ended.bytes),
        ("whole", &part, &ended.bytes),
        ("not turned", &[&part, &ended.bytes[part.len()..]].concat(), &ended.bytes),
        ("ended", &ended.bytes, &ended.bytes),
    ] {
        let steps = plan(&file_with(broken)).expect("no error").expect("media").0;
        assert_eq!(*expected == broken, steps == [Step::Sync], "{name}");
        let mut synced = broken.to_vec();
        let file = file_with(broken);
        for (number, step) in steps.iter().enumerate() {
            step.take(&file).expect("no error");
            let now = content(&file);
            assert!(made_whole(&now).0 == *expected, "{name}: killed after step {number}");
            for _ in 0..20 {
                let left = mixed(&synced, &now, &mut random);
                assert!(made_whole(&left).0 == *expected, "{name}: the power went after step {number}");
            }
            if *step == Step::Sync {
                synced = now;
            }
        }
        assert!(content(&file) == *expected, "{name}");
    }
}

/// A hole is told by zeros up to a page's end. One picture that did not follow the rules cost all that came after it, up
/// to a minute, after a mere `kill -9`.
#[test]
fn what_a_publisher_sent_is_no_hole() {
    let ended = Ended::new(&[H264], 200);
    let media_at = |number: usize| {
        let (start, end) = ended.fragments[number];
        let moof = u32::from_be_bytes(*ended.bytes[start..].first_chunk().expect("a box")) as usize;
        start + moof + 8..end
    };
    let end_of = |bytes: &[u8]| {
        plan(&file_with(bytes)).expect("no error").map(|(steps, _)| match &steps[0] {
            Step::End { at, .. } => *at as usize,
            other => panic!("{other:?}"),
        })
    };
    let is_page_end = |at: &usize| at.is_multiple_of(PAGE_BYTES);
    let mut sent = ended.part();
    for number in [3, 5, 8] {
        let from = media_at(number).start;
        assert!(!(from..from + 12).any(|at| is_page_end(&at)), "a length that is no size");
        sent[from..from + 4].fill(0xEE);
    }
    assert_eq!(end_of(&sent), Some(ended.media_end()));

    // What was lost of a length up to the page's end.
    let mut lost = ended.part();
    let length = |at: usize| u32::from_be_bytes(*ended.bytes[at..].first_chunk().expect("a length")) as usize;
    let found = (1..ended.fragments.len()).find_map(|number| {
        let media = media_at(number);
        let page_end = media.clone().find(is_page_end)?;
        let units = std::iter::successors(Some(media.start), |at| Some(at + 4 + length(*at)));
        let around = units.take_while(|at| at + 9 <= page_end).last()?;
        (around + 4 + length(around) >= page_end).then_some((number, around, page_end))
    });
    let (number, around, page_end) = found.expect("a page's end in a NAL unit");
    lost[around..around + 4].fill(0xEE);
    lost[page_end - 5..page_end].fill(0);
    assert_eq!(end_of(&lost), Some(ended.fragments[number - 1].1));
}

/// Parameters that changed are in the access units: the muxer's end said so, and so must ours.
#[test]
fn parameter_sets_in_access_units_are_told() {
    let (h264, h265) = (H264.to_owned(), h265("hvc1"));
    for (source, to, from) in [(h264, b"avc1", b"avc3"), (h265, b"hvc1", b"hev1")] {
        let source = source.replace("parse !", "parse config-interval=-1 !");
        let mut ended = Ended::new(&[&source], 400);
        let at = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|w| w == what);
        let entry = at(&ended.bytes, to).expect("a sample entry");
        // The sets are the same: the file does not need to say more.
        let same = made_whole(&ended.part()).0;
        assert_eq!((at(&same, from), at(&same[ended.media_end()..], to).is_some()), (None, true));
        // Half as wide and high, and its sets are others.
        ended.bytes[entry + 28..entry + 32].copy_from_slice(&[0, 80, 0, 45]);
        let config = entry + 4 + 78;
        let size = u32::from_be_bytes(*ended.bytes[config..].first_chunk().expect("a box")) as usize;
        for byte in &mut ended.bytes[config + 8 + 23..config + size] {
            *byte ^= 0x10;
        }
        let (other, found) = made_whole(&ended.part());
        assert!(at(&other[ended.media_end()..], from).is_some(), "{}", String::from_utf8_lossy(from));
        let size = Kind::Video { width: Some(160), height: Some(90) };
        assert_eq!(found.expect("media").tracks[0].kind, size);
    }
}

#[test]
fn files_that_are_not_ours_stay_as_they_are() {
    let muxer = "mp4mux fragment-duration=400 fragment-mode=first-moov-then-finalise";
    let other = record(muxer, &[B_FRAMES, AAC]);
    let ended = Ended::new(&[AAC], 400);
    let opening = ended.fragments[0].0;
    let mut hole = ended.part();
    hole[..PAGE_BYTES].fill(0);
    for bytes in [&other[..], &other[..other.len() / 2], &[], &ended.part()[..opening], &hole] {
        assert_eq!(made_whole(bytes), (bytes.to_vec(), None));
    }
}

#[test]
fn a_long_rest_is_not_cut_away() {
    let ended = Ended::new(&[AAC], 400);
    let file = file_with(&ended.part()[..ended.fragments[2].1 + 50]);
    file.set_len(600 << 20).expect("a hole");
    let error = finish(&file).expect_err("damaged");
    assert!(error.to_string().contains("damaged at byte"), "{error}");
    assert_eq!(file.metadata().expect("metadata").len(), 600 << 20);
}

#[test]
fn no_bytes_make_it_panic() {
    let mut random = Random::new();
    let ended = Ended::new(&[H264, AAC], 400);
    for _ in 0..400 {
        let mut bytes = ended.bytes.clone();
        let near = [0, ended.fragments[0].0, ended.fragments[1].0, ended.media_end()][random.below(4)];
        for _ in 0..=random.below(4) {
            let at = (near + random.below(600)).min(bytes.len() - 1);
            bytes[at] = [0, 1, 0x7F, 0xFF][random.below(4)];
        }
        let _ = finish(&file_with(&bytes));
    }
}
