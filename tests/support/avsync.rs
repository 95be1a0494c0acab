//! How far picture and sound of a file are apart, by a source that flashes and beeps at the same moment:
//! half a second after every full second the picture turns white and a tone sounds, both for a tenth of a second.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::media::{AAC, H264, run, source};

/// ns within each second.
const MARK_FROM_NS: u64 = 500_000_000;
const MARK_NS: u64 = 100_000_000;
/// Times of pictures are rounded down here and there.
const SLACK_NS: u64 = 1_000_000;
pub const BEEP_HZ: u32 = 1000;
/// A flash and a beep further apart than this do not belong together.
const MAX_APART_MS: f64 = 450.0;
/// Mean luma of a white picture; testsrc2 and videotestsrc stay far below.
const WHITE_LUMA: f64 = 200.0;
/// Part of its usual level that a beep begins with. Codecs smear an attack: low thresholds hear the smear.
const LOUD: f64 = 0.4;
/// Where the usual level of beeps is among all levels, the lowest being 0: they sound a tenth of the time.
const USUAL: f64 = 0.95;
/// How many of the ms after its beginning are loud in a beep, and not in a crack after a lost packet.
const BEEP_LASTS_MS: usize = 25;
/// Sound this close after a beep's end is the same beep.
const SAME_BEEP_MS: f64 = 300.0;

/// Whether a source flashes and beeps at this time since its start.
pub fn is_mark(at_ns: u64) -> bool {
    let within = (at_ns + SLACK_NS) % 1_000_000_000;
    (MARK_FROM_NS..MARK_FROM_NS + MARK_NS).contains(&within)
}

/// `-i` arguments of ffmpeg for 320x180 at 30 fps that flashes. Add `-re` before it to send it live.
pub const FLASHES: &[&str] = &[
    "-f",
    "lavfi",
    "-i",
    "testsrc2=size=320x180:rate=30,drawbox=color=white:t=fill:\
     enable='gte(mod(t+0.001,1),0.5)*lt(mod(t+0.001,1),0.6)'",
];

/// `-i` arguments of ffmpeg for 48 kHz mono that beeps `late_ms` after the flashes.
pub fn beeps(late_ms: u32) -> [String; 4] {
    let at = f64::from(late_ms) / 1000.0;
    let expression = format!("0.5*sin(2*PI*{BEEP_HZ}*t)*gte(mod(t+1-{at},1),0.5)*lt(mod(t+1-{at},1),0.6)");
    ["-f", "lavfi", "-i", &format!("aevalsrc='{expression}':s=48000")].map(str::to_owned)
}

/// A file of `seconds` in H.264 and AAC whose sound is `late_ms` behind; its container by its name.
pub fn file(folder: &str, name: &str, seconds: u32, late_ms: u32) -> PathBuf {
    let beeps = beeps(late_ms);
    let beeps: Vec<_> = beeps.iter().map(String::as_str).collect();
    source(folder, name, &[FLASHES, &beeps, &["-t", &seconds.to_string()], H264, AAC])
}

/// Pairs of a flash and its beep.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AvSync {
    /// How much later than its sound each picture is, ms.
    pub offsets_ms: Vec<f64>,
    /// Flashes and beeps that had no partner.
    pub unpaired: usize,
}

impl AvSync {
    /// Decodes the whole file. Panics when there is not one pair.
    pub fn measure(file: &Path) -> Self {
        let (flashes, beeps) = (flashes_ms(file), beeps_ms(file));
        let measured = Self::pair(&flashes, &beeps);
        let what = file.display();
        assert!(!measured.offsets_ms.is_empty(), "{what}: flashes at {flashes:?}, beeps at {beeps:?}");
        measured
    }

    fn pair(flashes: &[f64], beeps: &[f64]) -> Self {
        let nearest = |flash: &f64| {
            let apart = beeps.iter().map(|beep| flash - beep);
            apart.min_by(|a, b| a.abs().total_cmp(&b.abs())).filter(|apart| apart.abs() <= MAX_APART_MS)
        };
        let offsets_ms: Vec<_> = flashes.iter().filter_map(nearest).collect();
        let unpaired = (flashes.len() + beeps.len()).saturating_sub(2 * offsets_ms.len());
        Self { offsets_ms, unpaired }
    }

    pub fn mean_ms(&self) -> f64 {
        self.offsets_ms.iter().sum::<f64>() / self.offsets_ms.len() as f64
    }

    /// Not moved by a flash whose first picture was lost on the way.
    pub fn median_ms(&self) -> f64 {
        let mut sorted = self.offsets_ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    /// The offset furthest from 0, without its sign.
    pub fn max_ms(&self) -> f64 {
        self.offsets_ms.iter().fold(0.0, |max, offset| max.max(offset.abs()))
    }
}

/// When the picture turns white, ms in the file's own time.
pub fn flashes_ms(file: &Path) -> Vec<f64> {
    let filter = "signalstats,metadata=print:key=lavfi.signalstats.YAVG:file=-";
    let luma = filtered(file, &["-an", "-fps_mode", "passthrough", "-vf", filter], "YAVG=");
    let mut onsets = Vec::new();
    let mut was_white = false;
    for (at_ms, luma) in luma {
        let white = luma > WHITE_LUMA;
        if white && !was_white {
            onsets.push(at_ms);
        }
        was_white = white;
    }
    onsets
}

/// When beeps begin, ms in the file's own time.
pub fn beeps_ms(file: &Path) -> Vec<f64> {
    let key = "lavfi.astats.Overall.RMS_level";
    let filter = format!(
        "aresample=48000,asetnsamples=48,astats=metadata=1:reset=1:measure_perchannel=none:measure_overall=RMS_level,\
         ametadata=print:key={key}:file=-"
    );
    let levels = filtered(file, &["-vn", "-af", &filter], "RMS_level=");
    let levels: Vec<_> = levels.into_iter().map(|(at_ms, db)| (at_ms, 10f64.powf(db / 20.0))).collect();
    let mut sorted: Vec<_> = levels.iter().map(|(_, level)| *level).collect();
    sorted.sort_by(f64::total_cmp);
    let Some(usual) = sorted.get((sorted.len() as f64 * USUAL) as usize).filter(|usual| **usual > 0.0) else {
        return Vec::new();
    };
    let is_loud = |(_, level): &&(f64, f64)| *level >= LOUD * usual;
    let mut onsets = Vec::new();
    let mut last_loud = f64::NEG_INFINITY;
    for (index, level) in levels.iter().enumerate().filter(|(_, level)| is_loud(level)) {
        let follows = levels[index..].iter().take(2 * BEEP_LASTS_MS).filter(is_loud).count();
        let new = level.0 - last_loud > SAME_BEEP_MS;
        if new && follows < BEEP_LASTS_MS {
            continue;
        }
        if new {
            onsets.push(level.0);
        }
        last_loud = level.0;
    }
    onsets
}

/// Time in ms and value of what a filter says of each frame.
fn filtered(file: &Path, arguments: &[&str], key: &str) -> Vec<(f64, f64)> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-copyts", "-i"]).arg(file);
    let text = run(command.args(arguments).args(["-f", "null", "/dev/null"]));
    let mut values = Vec::new();
    let mut at_ms = f64::NAN;
    for line in text.lines() {
        if let Some((_, time)) = line.split_once("pts_time:") {
            at_ms = time.trim().parse::<f64>().expect("a time") * 1000.0;
        } else if let Some((_, value)) = line.split_once(key) {
            values.push((at_ms, value.trim().parse().unwrap_or(f64::NEG_INFINITY)));
        }
    }
    values
}
