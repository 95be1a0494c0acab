//! Everything between reeld and GStreamer: elements from templates, reeld's own muxer, pipelines with deadlines.

pub mod decode;
mod elements;
mod inspect;
pub mod look;
pub mod mp4mux;
mod pipeline;
mod poster;
mod template;

pub use elements::{ElementsError, make as make_elements};
pub use inspect::{AudioContents, Contents, VideoContents, inspect};
pub use pipeline::{Pipeline, PipelineError};
pub use poster::{Poster, poster};
pub use template::{PlanError, Template, TemplateProblem, Templates, TrackPlan};

/// Starts GStreamer and registers reeld's own elements. May be called more than once.
pub fn init() -> Result<(), gstreamer::glib::BoolError> {
    gstreamer::init().map_err(|e| gstreamer::glib::bool_error!("GStreamer does not start: {e}"))?;
    mp4mux::register()
}
