//! Everything between reeld and GStreamer: elements from templates, reeld's own muxer, pipelines with deadlines.

mod elements;
mod pipeline;
mod template;

pub use elements::{ElementsError, make as make_elements};
pub use pipeline::{Pipeline, PipelineError};
pub use template::{PlanError, Template, TemplateProblem, Templates, TrackPlan};

/// Starts GStreamer and registers reeld's own elements. May be called more than once.
pub fn init() -> Result<(), gstreamer::glib::Error> {
    gstreamer::init()?;
    Ok(())
}
