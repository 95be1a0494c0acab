//! The access units of a recorded file, known by the checksums of their data.

use std::{path::Path, process::Command};

use crate::flv::Kind;

/// One access unit of a file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Unit {
    pub pts_ms: f64,
    pub dts_ms: f64,
    pub key: bool,
    /// CRC-32 of the data.
    pub hash: u32,
}

/// The access units of a file, in decoding order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Units {
    pub video: Vec<Unit>,
    pub audio: Vec<Unit>,
}

impl Units {
    /// By ffprobe; an error is what it complains of.
    pub fn read(file: &Path) -> Result<Self, String> {
        let output = Command::new("ffprobe")
            .args(["-v", "error", "-of", "compact=p=0", "-show_data_hash", "CRC32"])
            .args(["-show_entries", "packet=codec_type,pts_time,dts_time,flags,data_hash"])
            .arg(file)
            .output()
            .map_err(|e| format!("ffprobe: {e}; apt-get install ffmpeg"))?;
        let complaints = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || !complaints.trim().is_empty() {
            return Err(format!("{}: {}: {}", file.display(), output.status, complaints.trim()));
        }
        let mut units = Self::default();
        for line in String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.is_empty()) {
            match parse(line) {
                Some((Kind::Video, unit)) => units.video.push(unit),
                Some((Kind::Audio, unit)) => units.audio.push(unit),
                None => return Err(format!("{}: ffprobe says {line:?}", file.display())),
            }
        }
        Ok(units)
    }

    pub fn of(&self, kind: Kind) -> &[Unit] {
        if kind == Kind::Video { &self.video } else { &self.audio }
    }
}

fn parse(line: &str) -> Option<(Kind, Unit)> {
    let mut kind = None;
    let (mut pts, mut dts, mut key, mut hash) = (None, None, false, None);
    for (name, value) in line.split('|').filter_map(|field| field.split_once('=')) {
        match name {
            "codec_type" if value == "video" => kind = Some(Kind::Video),
            "codec_type" if value == "audio" => kind = Some(Kind::Audio),
            "pts_time" => pts = value.parse::<f64>().ok(),
            "dts_time" => dts = value.parse::<f64>().ok(),
            "flags" => key = value.starts_with('K'),
            "data_hash" => hash = u32::from_str_radix(value.strip_prefix("CRC32:")?, 16).ok(),
            _ => {}
        }
    }
    // Matroska has presentation times only.
    let dts = dts.or(pts)?;
    Some((kind?, Unit { pts_ms: pts? * 1000.0, dts_ms: dts * 1000.0, key, hash: hash? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ffprobe_are_read() {
        let line = "codec_type=video|pts_time=0.042000|dts_time=0.021000|flags=K_|data_hash=CRC32:0e75dc4d";
        let unit = Unit { pts_ms: 42.0, dts_ms: 21.0, key: true, hash: 0x0E75_DC4D };
        assert_eq!(parse(line), Some((Kind::Video, unit)));
        let line = "codec_type=audio|pts_time=1.5|dts_time=N/A|flags=K_|data_hash=CRC32:1";
        let unit = Unit { pts_ms: 1500.0, dts_ms: 1500.0, key: true, hash: 1 };
        assert_eq!(parse(line), Some((Kind::Audio, unit)));
        assert_eq!(parse("codec_type=audio|pts_time=1.5"), None);
    }
}
