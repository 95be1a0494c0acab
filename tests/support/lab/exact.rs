//! What has to hold between what was sent and what is in the files.

use std::ops::Range;

use crate::flv::Kind;

use super::{Reel, Unit, Units};

const KINDS: [Kind; 2] = [Kind::Video, Kind::Audio];

/// Access units of one kind that follow each other in the files as they did when they were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Ordinal of the first among those of its kind in the reel.
    pub from: u64,
    pub count: u64,
}

impl Run {
    /// The ordinal after the last.
    pub fn end(&self) -> u64 {
        self.from + self.count
    }
}

/// What is in the parts is what was sent: each access unit of `sent` (numbers in the reel) once, in order.
pub fn compare_whole(reel: &Reel, sent: Range<u64>, parts: &[Units]) -> Result<(), String> {
    KINDS.into_iter().try_for_each(|kind| compare_kind(reel, kind, &sent, parts))
}

fn compare_kind(reel: &Reel, kind: Kind, sent: &Range<u64>, parts: &[Units]) -> Result<(), String> {
    let wanted = reel.count(kind, sent.start)..reel.count(kind, sent.end);
    let mut next = wanted.start;
    for (part, units) in parts.iter().enumerate() {
        for (index, unit) in units.of(kind).iter().enumerate() {
            if next < wanted.end && unit.hash == reel.of_kind(kind, next).0 {
                next += 1;
                continue;
            }
            let place = format!("{kind:?} {index} of part {} at {:.0} ms", part + 1, unit.pts_ms);
            let is = reel.find(kind, unit.hash, wanted.start).map_or("was never sent".into(), |n| {
                format!("is unit {} where {} was due", n - wanted.start, next - wanted.start)
            });
            return Err(format!("{place} {is}, of {} sent", wanted.end - wanted.start));
        }
    }
    let (found, count) = (next - wanted.start, wanted.end - wanted.start);
    if found == count {
        Ok(())
    } else {
        Err(format!("{kind:?}: {count} units sent, the first {found} in the files"))
    }
}

/// Each part begins with a key frame of video.
pub fn seams_at_key_frames(parts: &[Units]) -> Result<(), String> {
    let no_key = |units: &Units| units.video.first().is_some_and(|unit| !unit.key);
    match parts.iter().position(no_key) {
        Some(part) => Err(format!("part {} does not begin with a key frame", part + 1)),
        None => Ok(()),
    }
}

/// The stretches of what was sent that `units` consist of. The first begins at `from` (an ordinal) or later.
pub fn runs<'a>(
    reel: &Reel,
    kind: Kind,
    units: impl IntoIterator<Item = &'a Unit>,
    from: u64,
) -> Result<Vec<Run>, String> {
    let mut runs: Vec<Run> = Vec::new();
    for unit in units {
        let next = runs.last().map_or(from, Run::end);
        if let Some(run) = runs.last_mut()
            && reel.of_kind(kind, next).0 == unit.hash
        {
            run.count += 1;
            continue;
        }
        let found = reel.find(kind, unit.hash, next);
        let from = found.ok_or_else(|| format!("{kind:?} at {:.0} ms was never sent", unit.pts_ms))?;
        runs.push(Run { from, count: 1 });
    }
    Ok(runs)
}

/// How much later than in the reel the sound is, against the pictures around it, ms: one number for each access unit of
/// sound that has a picture beside it. Exact, and needs no decoding.
///
/// Where the files go from one stretch of the reel to another, the sound is held against the picture on its own side.
pub fn offsets_ms(reel: &Reel, units: &Units) -> Result<Vec<f64>, String> {
    let pictures = shifts(reel, Kind::Video, &units.video)?;
    let sounds = shifts(reel, Kind::Audio, &units.audio)?;
    let pass_ms = reel.pass_ms() as f64;
    // All passes look alike: only what is left over of whole passes tells.
    let apart = |a: f64, b: f64| {
        let rest = (a - b).rem_euclid(pass_ms);
        if rest > pass_ms / 2.0 { rest - pass_ms } else { rest }
    };
    let offset = |(at_ms, shift): &(f64, f64)| {
        let after = pictures.partition_point(|(picture_ms, _)| picture_ms <= at_ms);
        let beside = [after.checked_sub(1), Some(after), Some(after + 1)];
        let found = beside.into_iter().flatten().filter_map(|n| pictures.get(n));
        found.map(|(_, picture)| apart(*shift, *picture)).min_by(|a, b| a.abs().total_cmp(&b.abs()))
    };
    Ok(sounds.iter().filter_map(offset).collect())
}

/// Presentation time in the file, and how much later that is than in the reel; by presentation time.
fn shifts(reel: &Reel, kind: Kind, units: &[Unit]) -> Result<Vec<(f64, f64)>, String> {
    let mut shifts = Vec::with_capacity(units.len());
    let mut ordinals = runs(reel, kind, units, 0)?.into_iter().flat_map(|run| run.from..run.end());
    for unit in units {
        let ordinal = ordinals.next().expect("as many as units");
        shifts.push((unit.pts_ms, unit.pts_ms - reel.of_kind(kind, ordinal).2 as f64));
    }
    shifts.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(shifts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flv::{Flv, Tag};
    use std::sync::Arc;

    /// 1 s: ten pictures and twenty sounds, all different.
    fn reel() -> Arc<Reel> {
        let picture = |n: u32| {
            let key = if n.is_multiple_of(5) { 0x17 } else { 0x27 };
            Tag { kind: Kind::Video, timestamp_ms: n * 100, payload: vec![key, 1, 0, 0, 0, n as u8] }
        };
        let sound = |n: u32| Tag { kind: Kind::Audio, timestamp_ms: n * 50, payload: vec![0xAF, 1, n as u8] };
        Reel::new(Flv { media: (0..10).map(picture).chain((0..20).map(sound)).collect(), ..Flv::default() })
    }

    fn units(reel: &Reel, numbers: Range<u64>, later_ms: f64, sound_later_ms: f64) -> Units {
        let mut units = Units::default();
        for n in numbers {
            let sent = reel.unit(n);
            let at_ms = sent.at_ms as f64 + later_ms;
            let unit = |pts_ms| Unit { pts_ms, dts_ms: pts_ms, key: sent.key, hash: sent.hash };
            match sent.kind {
                Kind::Video => units.video.push(unit(at_ms)),
                Kind::Audio => units.audio.push(unit(at_ms + sound_later_ms)),
            }
        }
        units
    }

    #[test]
    fn all_that_was_sent_is_there_once() {
        let reel = reel();
        let whole = [units(&reel, 0..40, 0.0, 0.0), units(&reel, 40..70, 0.0, 0.0)];
        assert_eq!(compare_whole(&reel, 0..70, &whole), Ok(()));
        for (parts, word) in [
            (vec![units(&reel, 0..70, 0.0, 0.0), units(&reel, 69..70, 0.0, 0.0)], "where"),
            (vec![units(&reel, 0..40, 0.0, 0.0), units(&reel, 44..70, 0.0, 0.0)], "where"),
            (vec![units(&reel, 0..60, 0.0, 0.0)], "the first"),
        ] {
            let fault = compare_whole(&reel, 0..70, &parts).unwrap_err();
            assert!(fault.contains(word), "{fault}");
        }
        assert!(seams_at_key_frames(&whole[..1]).is_ok());
        assert!(seams_at_key_frames(&[units(&reel, 3..30, 0.0, 0.0)]).is_err());
    }

    #[test]
    fn stretches_are_found() {
        let reel = reel();
        let parts = [units(&reel, 0..20, 0.0, 0.0), units(&reel, 26..50, 0.0, 0.0)];
        let video = parts.iter().flat_map(|part| &part.video);
        let found = runs(&reel, Kind::Video, video, 0).unwrap();
        assert_eq!(found.len(), 2);
        let sent: u64 = found.iter().map(|run| run.count).sum();
        let count = |numbers: Range<u64>| {
            reel.count(Kind::Video, numbers.end) - reel.count(Kind::Video, numbers.start)
        };
        assert_eq!(sent, count(0..20) + count(26..50));
        assert_eq!(found[1].end(), reel.count(Kind::Video, 50));
        let stranger = Unit { pts_ms: 0.0, dts_ms: 0.0, key: true, hash: 1 };
        assert!(runs(&reel, Kind::Video, [&stranger], 0).is_err());
    }

    #[test]
    fn sound_that_is_late_is_measured_on_both_sides_of_a_cut() {
        let reel = reel();
        for late_ms in [0.0, 30.0, -60.0] {
            let mut file = units(&reel, 0..31, 0.0, late_ms);
            // 500 ms were cut out.
            let rest = units(&reel, 45..90, -500.0, late_ms);
            file.video.extend(rest.video);
            file.audio.extend(rest.audio);
            let offsets = offsets_ms(&reel, &file).unwrap();
            assert!(offsets.len() > 40);
            assert!(offsets.iter().all(|o| (o - late_ms).abs() < 1.0), "{late_ms}: {offsets:?}");
        }
    }
}
