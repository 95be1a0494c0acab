//! `pipelines/*.toml`: how encoded tracks become a file of one container. Loaded and checked at start.

use super::elements::{self, ElementsError};
use crate::media::{Codec, MediaKind, Track, TrackId, Tracks};
use gstreamer as gst;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};
use toml::Spanned;

/// `pipelines/*.toml` as they are shipped.
const SHIPPED: [(&str, &str); 4] = [
    ("pipelines/mkv.toml", include_str!("../../pipelines/mkv.toml")),
    ("pipelines/mp4.toml", include_str!("../../pipelines/mp4.toml")),
    ("pipelines/ts.toml", include_str!("../../pipelines/ts.toml")),
    ("pipelines/webm.toml", include_str!("../../pipelines/webm.toml")),
];

const MAX_WRITE_BUFFER_BYTES: u32 = 16 << 20;

/// What is wrong with a pipeline file, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateProblem {
    pub file: PathBuf,
    /// Counts from 1; 0 when it concerns the whole file.
    pub line: usize,
    pub what: String,
}

impl fmt::Display for TemplateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TemplateFile {
    container: Spanned<String>,
    extension: Spanned<String>,
    muxer: Spanned<String>,
    passthrough: Vec<Spanned<String>>,
    #[serde(default)]
    passthrough_on_request: Vec<Spanned<String>>,
    #[serde(default)]
    repack: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default)]
    write_buffer_bytes: u32,
    audio: Option<AudioFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AudioFile {
    codec: Spanned<String>,
    encoder: Spanned<String>,
    decoders: BTreeMap<Spanned<String>, Spanned<String>>,
}

/// One container's template.
#[derive(Clone, Debug)]
pub struct Template {
    pub file: PathBuf,
    pub container: String,
    pub extension: String,
    /// How much the file sink gathers before it writes; 0 = what the muxer hands it goes out at once.
    pub write_buffer_bytes: u32,
    muxer: String,
    passthrough: Vec<Codec>,
    passthrough_on_request: Vec<Codec>,
    repack: BTreeMap<Codec, String>,
    audio: Option<AudioTranscode>,
}

#[derive(Clone, Debug)]
struct AudioTranscode {
    codec: Codec,
    encoder: String,
    decoders: BTreeMap<Codec, String>,
}

/// How one track gets into the muxer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackPlan {
    pub track: TrackId,
    /// Codec in the file.
    pub codec: Codec,
    /// Elements between the access units and the muxer, in gst-launch syntax; `None` = straight in.
    pub elements: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{codec} cannot be written to {container}: {} neither lists it under passthrough nor tells how to transcode it; \
     choose another container for it with record_formats",
    file.display()
)]
pub struct PlanError {
    codec: Codec,
    container: String,
    file: PathBuf,
}

impl Template {
    pub fn load(file: &Path) -> Result<Self, Vec<TemplateProblem>> {
        let whole = |what: String| vec![TemplateProblem { file: file.to_owned(), line: 0, what }];
        let text = std::fs::read_to_string(file).map_err(|e| whole(format!("cannot be read: {e}")))?;
        Self::parse(&text, file)
    }

    /// Parses and checks: every word known, every element installed.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Vec<TemplateProblem>> {
        let mut check = Check { text, file, problems: Vec::new() };
        let raw: TemplateFile = match toml::from_str(text) {
            Ok(raw) => raw,
            Err(e) => {
                check.problem(e.span().map_or(0, |s| s.start), e.message().to_owned());
                return Err(check.problems);
            }
        };
        let template = Self {
            file: file.to_owned(),
            container: check.word(&raw.container),
            extension: check.word(&raw.extension),
            write_buffer_bytes: raw.write_buffer_bytes.min(MAX_WRITE_BUFFER_BYTES),
            muxer: check.elements(&raw.muxer),
            passthrough: check.codecs(&raw.passthrough),
            passthrough_on_request: check.codecs(&raw.passthrough_on_request),
            repack: check.per_codec(&raw.repack),
            audio: raw.audio.as_ref().and_then(|audio| {
                let decoders = check.per_codec(&audio.decoders);
                let encoder = check.elements(&audio.encoder);
                check.codec(&audio.codec).map(|codec| AudioTranscode { codec, encoder, decoders })
            }),
        };
        if check.problems.is_empty() { Ok(template) } else { Err(check.problems) }
    }

    /// How each track gets into this container. `audio_as_is`: `record_audio=passthrough`.
    pub fn plan(&self, tracks: &Tracks, audio_as_is: bool) -> Result<Vec<TrackPlan>, PlanError> {
        tracks.iter().map(|track| self.plan_track(track, audio_as_is)).collect()
    }

    /// How many of the tracks are decoded and encoded on their way into this container.
    pub fn transcodes(&self, tracks: &Tracks, audio_as_is: bool) -> usize {
        let transcoded =
            |track: &&Track| self.plan_track(track, audio_as_is).is_ok_and(|plan| plan.codec != track.codec);
        tracks.iter().filter(transcoded).count()
    }

    fn plan_track(&self, track: &Track, audio_as_is: bool) -> Result<TrackPlan, PlanError> {
        let codec = track.codec;
        let as_is = self.passthrough.contains(&codec)
            || (audio_as_is && self.passthrough_on_request.contains(&codec));
        if as_is {
            return Ok(TrackPlan { track: track.id, codec, elements: self.repack.get(&codec).cloned() });
        }
        let transcode = self.audio.as_ref().filter(|_| track.kind() == MediaKind::Audio);
        let found = transcode.and_then(|audio| audio.decoders.get(&codec).map(|decoder| (audio, decoder)));
        let Some((audio, decoder)) = found else {
            return Err(PlanError { codec, container: self.container.clone(), file: self.file.clone() });
        };
        let elements = Some(format!("{decoder} ! {}", audio.encoder));
        Ok(TrackPlan { track: track.id, codec: audio.codec, elements })
    }

    /// A new muxer.
    pub fn make_muxer(&self) -> Result<gst::Element, ElementsError> {
        elements::make(&self.muxer)
    }
}

struct Check<'a> {
    text: &'a str,
    file: &'a Path,
    problems: Vec<TemplateProblem>,
}

impl Check<'_> {
    fn problem(&mut self, offset: usize, what: String) {
        let line = self.text.get(..offset).map_or(0, |before| before.matches('\n').count() + 1);
        self.problems.push(TemplateProblem { file: self.file.to_owned(), line, what });
    }

    fn word(&mut self, value: &Spanned<String>) -> String {
        let word = value.get_ref();
        if word.is_empty() || word.len() > 8 || !word.chars().all(|c| c.is_ascii_alphanumeric()) {
            self.problem(value.span().start, format!("{word:?}: 1 to 8 letters or digits, such as \"mp4\""));
        }
        word.clone()
    }

    fn codec(&mut self, value: &Spanned<String>) -> Option<Codec> {
        let codec = Codec::parse(value.get_ref());
        if codec.is_none() {
            let known = Codec::ALL.map(Codec::as_str).join(", ");
            self.problem(
                value.span().start,
                format!("unknown codec {:?}; known are {known}", value.get_ref()),
            );
        }
        codec
    }

    fn codecs(&mut self, values: &[Spanned<String>]) -> Vec<Codec> {
        values.iter().filter_map(|v| self.codec(v)).collect()
    }

    fn elements(&mut self, value: &Spanned<String>) -> String {
        if let Err(e) = elements::check(value.get_ref()) {
            self.problem(value.span().start, e.to_string());
        }
        value.get_ref().clone()
    }

    fn per_codec(&mut self, table: &BTreeMap<Spanned<String>, Spanned<String>>) -> BTreeMap<Codec, String> {
        let mut checked = BTreeMap::new();
        for (codec, value) in table {
            let elements = self.elements(value);
            checked.extend(self.codec(codec).map(|codec| (codec, elements)));
        }
        checked
    }
}

/// Every template of a pipelines folder, by container.
#[derive(Clone, Debug, Default)]
pub struct Templates(BTreeMap<String, Arc<Template>>);

impl Templates {
    /// Loads `*.toml`; all problems of all files at once.
    pub fn load(folder: &Path) -> Result<Self, Vec<TemplateProblem>> {
        let whole = |what: String| TemplateProblem { file: folder.to_owned(), line: 0, what };
        let entries = std::fs::read_dir(folder)
            .map_err(|e| vec![whole(format!("[paths] pipelines cannot be read: {e}"))])?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        files.retain(|f| f.extension().is_some_and(|x| x == "toml"));
        files.sort();
        match Self::collect(files.iter().map(|file| Template::load(file))) {
            Ok(Self(templates)) if templates.is_empty() => {
                Err(vec![whole("holds no *.toml; put mp4.toml and webm.toml there".into())])
            }
            collected => collected,
        }
    }

    /// Those that are shipped, as this program was built with them: for work without a configuration.
    pub fn shipped() -> Result<Self, Vec<TemplateProblem>> {
        Self::collect(SHIPPED.iter().map(|(file, text)| Template::parse(text, Path::new(file))))
    }

    fn collect(
        loaded: impl Iterator<Item = Result<Template, Vec<TemplateProblem>>>,
    ) -> Result<Self, Vec<TemplateProblem>> {
        let (mut templates, mut problems) = (BTreeMap::<String, Arc<Template>>::new(), Vec::new());
        for template in loaded {
            match template {
                Ok(t) => match templates.get(&t.container) {
                    Some(first) => problems.push(TemplateProblem {
                        what: format!(
                            "container {:?} is described by {} already",
                            t.container,
                            first.file.display()
                        ),
                        file: t.file,
                        line: 0,
                    }),
                    None => drop(templates.insert(t.container.clone(), Arc::new(t))),
                },
                Err(more) => problems.extend(more),
            }
        }
        if problems.is_empty() { Ok(Self(templates)) } else { Err(problems) }
    }

    pub fn get(&self, container: &str) -> Option<&Arc<Template>> {
        self.0.get(container)
    }

    pub fn containers(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MP4: &str = include_str!("../../pipelines/mp4.toml");

    fn parse(text: &str) -> Result<Template, String> {
        super::super::init().expect("GStreamer");
        Template::parse(text, Path::new("p.toml"))
            .map_err(|problems| problems.iter().map(|p| format!("{p}\n")).collect::<String>())
    }

    fn track(codec: Codec) -> Tracks {
        let caps = gst::Caps::new_any();
        Tracks::new(vec![Track { id: TrackId(0), codec, caps, size: None, rate: None, channels: None }])
    }

    #[test]
    fn the_shipped_templates_are_right() {
        super::super::init().expect("GStreamer");
        let templates = Templates::load(Path::new("pipelines")).expect("no problem");
        let containers = ["mkv", "mp4", "ts", "webm"];
        assert_eq!(templates.containers().collect::<Vec<_>>(), containers);
        let built_in = Templates::shipped().expect("no problem");
        assert_eq!(built_in.containers().collect::<Vec<_>>(), containers);
    }

    #[test]
    fn a_codec_passes_through_is_transcoded_or_refused() {
        let mp4 = parse(MP4).expect("right");
        let plan =
            |codec, as_is| mp4.plan(&track(codec), as_is).map(|p| (p[0].codec, p[0].elements.is_some()));
        assert_eq!(plan(Codec::H264, false), Ok((Codec::H264, false)));
        assert_eq!(plan(Codec::Pcma, false), Ok((Codec::Aac, true)));
        assert_eq!(plan(Codec::Opus, false), Ok((Codec::Aac, true)));
        assert_eq!(plan(Codec::Opus, true), Ok((Codec::Opus, false)));
        let transcodes = |codec, as_is| mp4.transcodes(&track(codec), as_is);
        assert_eq!([(Codec::Opus, false), (Codec::Opus, true)].map(|(c, a)| transcodes(c, a)), [1, 0]);
        assert_eq!([Codec::H264, Codec::Pcma, Codec::Vp8].map(|c| transcodes(c, true)), [0, 1, 0]);
        let refused = plan(Codec::Vp8, false).expect_err("vp8 is not for MP4").to_string();
        assert!(refused.contains("vp8") && refused.contains("record_formats"), "{refused}");
    }

    #[test]
    fn problems_name_file_line_and_remedy() {
        for (from, to, expected) in [
            ("\"h265\"", "\"hevc\"", "p.toml:12: unknown codec \"hevc\"; known are h264"),
            (
                "muxer = \"reeldmp4mux",
                "muxer = \"nosuchmux",
                "p.toml:9: element \"nosuchmux\" is not installed",
            ),
            ("alawdec", "alawdec !!", "p.toml:25: "),
            ("codec = \"aac\"", "codek = \"aac\"", "p.toml:20: "),
            ("extension = \"mp4\"", "extension = \"../x\"", "p.toml:4: "),
        ] {
            assert!(MP4.contains(from), "{from}");
            let got = parse(&MP4.replacen(from, to, 1)).expect_err("a problem");
            assert!(got.contains(expected), "{to}: {got}");
        }
    }

    #[test]
    fn a_missing_element_is_named_with_its_package() {
        let got = parse(&MP4.replace("avenc_aac", "fdkaacenc2")).expect_err("a problem");
        assert!(got.contains("element \"fdkaacenc2\" is not installed"), "{got}");
        assert_eq!(elements::debian_package("avenc_aac"), Some("gstreamer1.0-libav"));
    }
}
