//! Elements from gst-launch descriptions, with errors an operator can act on.

use gstreamer as gst;

#[derive(Debug, Clone, thiserror::Error)]
pub enum ElementsError {
    #[error("element {} is not installed{}", quoted(names), hint(names))]
    Missing { names: Vec<String> },
    #[error("{description:?} is not a pipeline description: {why}")]
    Syntax { description: String, why: String },
}

/// Which Debian package brings an element that the shipped files or their comments name.
pub fn debian_package(element: &str) -> Option<&'static str> {
    let package = match element {
        "mp4mux" | "matroskamux" | "webmmux" | "alawdec" | "mulawdec" | "aacparse" | "vp8dec" | "vp9dec"
        | "mpegaudioparse" => "gstreamer1.0-plugins-good",
        "audioconvert" | "audiorate" | "audioresample" | "opusdec" | "opusenc" | "vorbisenc"
        | "vorbisdec" => "gstreamer1.0-plugins-base",
        "mpegtsmux" | "h264parse" | "h265parse" | "opusparse" | "vorbisparse" | "voaacenc" | "fdkaacenc" => {
            "gstreamer1.0-plugins-bad"
        }
        "x264enc" => "gstreamer1.0-plugins-ugly",
        _ if element.starts_with("av") => "gstreamer1.0-libav",
        _ if element.starts_with("vaapi") => "gstreamer1.0-vaapi",
        _ => return None,
    };
    Some(package)
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ")
}

fn hint(names: &[String]) -> String {
    let mut packages: Vec<_> = names.iter().filter_map(|n| debian_package(n)).collect();
    packages.sort_unstable();
    packages.dedup();
    match packages.as_slice() {
        [] => "; `gst-inspect-1.0` lists what is".into(),
        packages => format!("; on Debian: apt install {}", packages.join(" ")),
    }
}

/// Makes the described elements: one element as itself, several as a bin with its open pads as ghost pads.
pub fn make(description: &str) -> Result<gst::Element, ElementsError> {
    let mut context = gst::ParseContext::new();
    let flags = gst::ParseFlags::FATAL_ERRORS | gst::ParseFlags::NO_SINGLE_ELEMENT_BINS;
    gst::parse::bin_from_description_full(description, true, Some(&mut context), flags).map_err(|e| {
        let names = context.missing_elements();
        if names.is_empty() {
            return ElementsError::Syntax { description: description.into(), why: e.message().into() };
        }
        ElementsError::Missing { names }
    })
}

/// Whether [`make`] would work.
pub fn check(description: &str) -> Result<(), ElementsError> {
    make(description).map(drop)
}
