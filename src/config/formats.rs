//! `record_formats`: which container a recording gets, by its video codec.

use super::{nearest, quoted};
use crate::media::{Codec, MediaKind};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Container {
    Mp4,
    Webm,
    Mkv,
    Ts,
}

impl Container {
    pub const ALL: [Container; 4] = [Container::Mp4, Container::Webm, Container::Mkv, Container::Ts];

    /// Its word in configuration, API and manifest, and the extension of its files.
    pub fn as_str(self) -> &'static str {
        match self {
            Container::Mp4 => "mp4",
            Container::Webm => "webm",
            Container::Mkv => "mkv",
            Container::Ts => "ts",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.as_str() == word)
    }

    /// The video codecs that go into it as they are.
    pub fn video_codecs(self) -> &'static [Codec] {
        match self {
            Container::Mp4 => &[Codec::H264, Codec::H265, Codec::Av1, Codec::Vp9],
            Container::Webm => &[Codec::Vp8, Codec::Vp9, Codec::Av1],
            Container::Mkv => &[Codec::H264, Codec::H265, Codec::Av1, Codec::Vp8, Codec::Vp9],
            Container::Ts => &[Codec::H264, Codec::H265],
        }
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("{} is not CODEC-CONTAINER; write for example h264-mp4", quoted(.0))]
    Shape(String),
    #[error("unknown video codec {}{}; the codecs are {}", quoted(.0), hint(.0, &codec_words()), codec_words().join(" "))]
    Codec(String),
    #[error("unknown container {}{}; the containers are {}", quoted(.0), hint(.0, &container_words()), container_words().join(" "))]
    Container(String),
    #[error("{codec} does not go into {container}; {container} takes {}, and {codec} goes into {}",
        join(.container.video_codecs()), join(&containers_of(*.codec)))]
    Pair { codec: Codec, container: Container },
    #[error("{codec} is given both {first} and {second}; keep one")]
    Twice { codec: Codec, first: Container, second: Container },
}

fn hint(word: &str, known: &[&'static str]) -> String {
    let near = nearest(word, known.iter().copied(), 0.6);
    near.map(|n| format!(", did you mean {n}?")).unwrap_or_default()
}

fn codec_words() -> Vec<&'static str> {
    video_codecs().map(Codec::as_str).collect()
}

fn container_words() -> Vec<&'static str> {
    Container::ALL.map(Container::as_str).to_vec()
}

fn video_codecs() -> impl Iterator<Item = Codec> {
    Codec::ALL.into_iter().filter(|c| c.kind() == MediaKind::Video)
}

fn containers_of(codec: Codec) -> Vec<Container> {
    Container::ALL.into_iter().filter(|c| c.video_codecs().contains(&codec)).collect()
}

fn join(words: &[impl fmt::Display]) -> String {
    words.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// The container of each video codec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordFormats {
    video: Vec<(Codec, Container)>,
    without_video: Container,
}

impl Default for RecordFormats {
    fn default() -> Self {
        let container = |codec| match codec {
            Codec::Vp8 | Codec::Vp9 => Container::Webm,
            _ => Container::Mp4,
        };
        let video = video_codecs().map(|codec| (codec, container(codec))).collect();
        Self { video, without_video: Container::Mp4 }
    }
}

impl RecordFormats {
    /// One container for whatever comes. That it takes the codec is for the caller to see.
    pub fn only(container: Container) -> Self {
        let video = video_codecs().map(|codec| (codec, container)).collect();
        Self { video, without_video: container }
    }

    /// Reads `h264-mp4,vp8-webm`, blanks allowed, upper or lower case; codecs that are not named keep
    /// their default. All mistakes in the list are returned.
    pub fn parse(text: &str) -> Result<Self, Vec<FormatError>> {
        let mut formats = Self::default();
        let mut given: Vec<(Codec, Container)> = Vec::new();
        let mut errors = Vec::new();
        for item in
            text.split(',').map(|item| item.trim().to_ascii_lowercase()).filter(|item| !item.is_empty())
        {
            match pair(&item).and_then(|new| once(&given, new)) {
                Ok(new) => given.push(new),
                Err(e) => errors.push(e),
            }
        }
        for (codec, container) in &mut formats.video {
            if let Some((_, chosen)) = given.iter().find(|(c, _)| c == codec) {
                *container = *chosen;
            }
        }
        if errors.is_empty() { Ok(formats) } else { Err(errors) }
    }

    /// The container of a recording with this video codec. Without video it is MP4, whatever a list says.
    pub fn container(&self, video: Option<Codec>) -> Container {
        let chosen = video.and_then(|v| self.video.iter().find(|(codec, _)| *codec == v));
        chosen.map_or(self.without_video, |(_, container)| *container)
    }
}

fn pair(item: &str) -> Result<(Codec, Container), FormatError> {
    let (codec, container) = item.split_once('-').ok_or_else(|| FormatError::Shape(item.to_owned()))?;
    let (codec, container) = (codec.trim(), container.trim());
    let codec = Codec::parse(codec)
        .filter(|c| c.kind() == MediaKind::Video)
        .ok_or_else(|| FormatError::Codec(codec.to_owned()))?;
    let container =
        Container::parse(container).ok_or_else(|| FormatError::Container(container.to_owned()))?;
    match container.video_codecs().contains(&codec) {
        true => Ok((codec, container)),
        false => Err(FormatError::Pair { codec, container }),
    }
}

fn once(given: &[(Codec, Container)], new: (Codec, Container)) -> Result<(Codec, Container), FormatError> {
    match given.iter().find(|(codec, _)| *codec == new.0) {
        Some((codec, first)) if *first != new.1 => {
            Err(FormatError::Twice { codec: *codec, first: *first, second: new.1 })
        }
        _ => Ok(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_that_are_not_named_keep_their_default() {
        let formats = RecordFormats::parse(" H264 - mkv, av1-webm ,").unwrap();
        let cases = [
            (Some(Codec::H264), Container::Mkv),
            (Some(Codec::H265), Container::Mp4),
            (Some(Codec::Av1), Container::Webm),
            (Some(Codec::Vp8), Container::Webm),
            (Some(Codec::Vp9), Container::Webm),
            (None, Container::Mp4),
        ];
        for (video, expected) in cases {
            assert_eq!(formats.container(video), expected, "{video:?}");
        }
        assert_eq!(
            RecordFormats::parse("h264-mp4,h265-mp4,av1-mp4,vp8-webm,vp9-webm").unwrap(),
            RecordFormats::default()
        );
    }

    #[test]
    fn one_container_may_be_for_all() {
        for video in video_codecs().map(Some).chain([None]) {
            assert_eq!(RecordFormats::only(Container::Ts).container(video), Container::Ts);
        }
    }

    #[test]
    fn every_mistake_is_named_with_what_works() {
        let cases = [
            ("h264", "\"h264\" is not CODEC-CONTAINER; write for example h264-mp4"),
            (
                "h256-mp4",
                "unknown video codec \"h256\", did you mean h265?; the codecs are h264 h265 av1 vp8 vp9",
            ),
            ("opus-mp4", "unknown video codec \"opus\"; the codecs are h264 h265 av1 vp8 vp9"),
            ("h264-mpg", "unknown container \"mpg\", did you mean mp4?; the containers are mp4 webm mkv ts"),
            ("vp8-mp4", "vp8 does not go into mp4; mp4 takes h264 h265 av1 vp9, and vp8 goes into webm mkv"),
            ("vp9-ts", "vp9 does not go into ts; ts takes h264 h265, and vp9 goes into mp4 webm mkv"),
            ("h264-mp4,h264-ts", "h264 is given both mp4 and ts; keep one"),
        ];
        for (text, expected) in cases {
            let errors = RecordFormats::parse(text).unwrap_err();
            assert_eq!(join(&errors), expected, "{text}");
        }
        assert_eq!(RecordFormats::parse("vp8-mp4,x,h264-avi").unwrap_err().len(), 3);
    }
}
