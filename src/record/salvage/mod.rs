//! Makes files whole that a killed daemon left as `.part`, one function per container.

mod ebml;
mod matroska;

use crate::{
    library::{AudioPart, Salvaged, VideoPart},
    media::Codec,
};
use matroska::{Kind, Salvage, Track};
use std::{fs::OpenOptions, path::Path};

/// Finishes `part`, a file that its muxer was not able to finish, in place; it is synced to the disk then. `None`, with
/// nothing changed, when there is nothing to play in it, or nothing known that can be done for what it is (an MP4 plays
/// as it is, up to its last fragment). After an error the file plays as before. Blocks; reads a few bytes of each access
/// unit.
///
/// It goes by what is in the file: the parts of one recording may be of several containers.
pub fn make_whole(part: &Path) -> Result<Option<Salvaged>, String> {
    let failed = |e: std::io::Error| format!("{} cannot be finished: {e}", part.display());
    let file = OpenOptions::new().read(true).write(true).open(part).map_err(failed)?;
    let Some(salvage) = matroska::finish(&file).map_err(failed)? else { return Ok(None) };
    file.sync_all().map_err(failed)?;
    Ok(Some(describe(salvage)))
}

fn describe(salvage: Salvage) -> Salvaged {
    let of = |wanted: fn(&Kind) -> bool| salvage.tracks.iter().find(|t| wanted(&t.kind) && t.frames > 0);
    let video = of(|kind| matches!(kind, Kind::Video { .. })).map(|track| {
        let Kind::Video { width, height } = track.kind else { unreachable!("a video track was looked for") };
        VideoPart { codec: codec(track), width, height, frames: track.frames, keyframes: track.key_frames }
    });
    let audio = of(|kind| matches!(kind, Kind::Audio { .. })).map(|track| {
        let Kind::Audio { rate, channels } = track.kind else {
            unreachable!("an audio track was looked for")
        };
        AudioPart { codec: codec(track), rate, channels, frames: track.frames }
    });
    Salvaged { duration_ms: salvage.duration_ms, video, audio }
}

/// Our word for a codec (Matroska codec mappings, RFC 9559's registry); its own where we have none.
fn codec(track: &Track) -> String {
    let known = match track.codec_id.as_str() {
        "V_VP8" => Some(Codec::Vp8),
        "V_VP9" => Some(Codec::Vp9),
        "V_AV1" => Some(Codec::Av1),
        "V_MPEG4/ISO/AVC" => Some(Codec::H264),
        "V_MPEGH/ISO/HEVC" => Some(Codec::H265),
        "A_VORBIS" => Some(Codec::Vorbis),
        "A_OPUS" => Some(Codec::Opus),
        "A_MPEG/L3" => Some(Codec::Mp3),
        id if id.starts_with("A_AAC") => Some(Codec::Aac),
        _ => None,
    };
    known.map_or_else(|| track.codec_id.clone(), |codec| codec.to_string())
}
