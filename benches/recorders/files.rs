//! The stream that is published, and what became of it on disk.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// Frames that ffprobe finds in a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Frames {
    pub video: u64,
    pub audio: u64,
}

/// Makes the input once: 75 s of 1280x720p30 H.264 at 2 Mbit/s, GOP 2 s, no B-frames, with AAC-LC at 128 kbit/s.
pub fn make_input(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("720p30-2000k.flv");
    if path.is_file() {
        return Ok(path);
    }
    eprintln!("making {} (once, about 15 s of CPU)", path.display());
    fs::create_dir_all(folder).context("cannot make the input folder")?;
    let unfinished = path.with_extension("flv.part");
    let video = "-c:v libx264 -preset ultrafast -profile:v main -pix_fmt yuv420p -b:v 2000k -maxrate 2000k \
                 -bufsize 2000k -g 60 -keyint_min 60 -sc_threshold 0 -bf 0 -x264-params nal-hrd=cbr:force-cfr=1";
    let audio = "-c:a aac -b:a 128k -ar 44100 -ac 2";
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y"])
        .args(["-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=30,noise=alls=12:allf=t"])
        .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100,aformat=channel_layouts=stereo"])
        .args(["-t", "75"])
        .args(video.split_whitespace().chain(audio.split_whitespace()))
        .args(["-f", "flv"])
        .arg(&unfinished)
        .status()
        .context("cannot run ffmpeg (apt-get install ffmpeg)")?;
    ensure!(status.success(), "ffmpeg could not make the input: {status}");
    fs::rename(&unfinished, &path).context("cannot keep the input")?;
    Ok(path)
}

/// Counts the packets of a recording; an error when it is missing or ffprobe finds a fault.
pub fn count_frames(path: &Path) -> Result<Frames> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_packets", "-show_entries", "stream=codec_type,nb_read_packets"])
        .args(["-of", "csv=p=0"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .context("cannot run ffprobe (apt-get install ffmpeg)")?;
    let faults = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && faults.trim().is_empty(), "{}: {}", path.display(), faults.trim());
    Ok(parse_counts(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_counts(csv: &str) -> Frames {
    let mut frames = Frames::default();
    for (kind, count) in csv.lines().filter_map(|line| line.split_once(',')) {
        let count = count.trim_end_matches(',').parse::<u64>().unwrap_or(0);
        match kind {
            "video" => frames.video += count,
            "audio" => frames.audio += count,
            _ => {}
        }
    }
    frames
}
