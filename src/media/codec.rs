use std::fmt;

/// What a track carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaKind {
    Video,
    Audio,
}

/// The codecs reeld can receive. The lower-case words of `as_str` are the ones used in
/// `record_formats`, `pipelines/*.toml`, the API and the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    H264,
    H265,
    Av1,
    Vp8,
    Vp9,
    Aac,
    Opus,
    Mp3,
    Pcma,
    Pcmu,
    Vorbis,
}

impl Codec {
    pub const ALL: [Codec; 11] = [
        Codec::H264,
        Codec::H265,
        Codec::Av1,
        Codec::Vp8,
        Codec::Vp9,
        Codec::Aac,
        Codec::Opus,
        Codec::Mp3,
        Codec::Pcma,
        Codec::Pcmu,
        Codec::Vorbis,
    ];

    pub fn kind(self) -> MediaKind {
        match self {
            Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9 => MediaKind::Video,
            _ => MediaKind::Audio,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Codec::H264 => "h264",
            Codec::H265 => "h265",
            Codec::Av1 => "av1",
            Codec::Vp8 => "vp8",
            Codec::Vp9 => "vp9",
            Codec::Aac => "aac",
            Codec::Opus => "opus",
            Codec::Mp3 => "mp3",
            Codec::Pcma => "pcma",
            Codec::Pcmu => "pcmu",
            Codec::Vorbis => "vorbis",
        }
    }

    /// The codec called `word` in configuration files; `None` for an unknown word.
    pub fn parse(word: &str) -> Option<Codec> {
        Codec::ALL.into_iter().find(|c| c.as_str() == word)
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
