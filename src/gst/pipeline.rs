use gstreamer::{self as gst, prelude::*};
use std::time::Duration;

/// How long a state change may take; one that takes longer will not end.
const STATE_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, thiserror::Error)]
pub enum PipelineError {
    #[error("{element}: {message} ({debug})")]
    Element { element: String, message: String, debug: String },
    #[error("the disk is full")]
    DiskFull,
    #[error("the pipeline did not reach {state:?} within {} s", STATE_DEADLINE.as_secs())]
    Frozen { state: gst::State },
    #[error("the pipeline did not finish within {} s", after.as_secs())]
    NoEos { after: Duration },
    #[error("the muxer is {bytes} bytes behind: one of its tracks is silent, or the disk stands still")]
    Behind { bytes: u32 },
    #[error("the pipeline cannot be built: {0}")]
    Build(String),
}

impl From<gst::glib::BoolError> for PipelineError {
    fn from(e: gst::glib::BoolError) -> Self {
        PipelineError::Build(e.message.into_owned())
    }
}

/// A GStreamer pipeline whose waits all have a deadline. It is stopped when dropped.
pub struct Pipeline {
    pipeline: gst::Pipeline,
    bus: gst::Bus,
}

impl Pipeline {
    pub fn new() -> Self {
        let pipeline = gst::Pipeline::new();
        let bus = pipeline.bus().expect("a pipeline is made with a bus");
        Self { pipeline, bus }
    }

    pub fn add(&self, element: &gst::Element) -> Result<(), PipelineError> {
        Ok(self.pipeline.add(element)?)
    }

    /// Changes state and waits for it. May block up to 10 s.
    pub fn set_state(&self, state: gst::State) -> Result<(), PipelineError> {
        let deadline = gst::ClockTime::try_from(STATE_DEADLINE).expect("10 s fit");
        let changed = self.pipeline.set_state(state).and_then(|_| self.pipeline.state(deadline).0);
        match changed {
            Ok(gst::StateChangeSuccess::Async) => Err(PipelineError::Frozen { state }),
            Ok(_) => Ok(()),
            Err(_) => Err(self.take_error().unwrap_or(PipelineError::Frozen { state })),
        }
    }

    /// Asks for PLAYING without waiting for it; what goes wrong later is told by [`wait_eos`](Self::wait_eos).
    pub fn play(&self) -> Result<(), PipelineError> {
        let state = gst::State::Playing;
        match self.pipeline.set_state(state) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.take_error().unwrap_or(PipelineError::Frozen { state })),
        }
    }

    /// Threads that its elements own: one for each pad with a streaming task.
    pub fn threads(&self) -> usize {
        let mut threads = 0;
        // What changes while it is counted is counted again; nobody adds elements to a running pipeline here.
        let _ = self.pipeline.iterate_recurse().foreach(|element| {
            let running = |pad: &gst::Pad| pad.task_state() == gst::TaskState::Started;
            threads += element.src_pads().iter().filter(|pad| running(pad)).count();
        });
        threads
    }

    /// Whether no streaming task runs: nothing more will come, not even an end of stream.
    pub fn is_idle(&self) -> bool {
        let mut idle = true;
        // What changes while it is looked at is at work.
        let looked = self.pipeline.iterate_recurse().foreach(|element| {
            idle &= element.pads().iter().all(|pad| pad.task_state() != gst::TaskState::Started);
        });
        idle && looked.is_ok()
    }

    /// The first error on the bus since the last call, if any. Never waits.
    pub fn take_error(&self) -> Option<PipelineError> {
        let message = self.bus.pop_filtered(&[gst::MessageType::Error])?;
        element_error(&message)
    }

    /// Waits until every sink has seen the end of stream, or an element failed.
    pub fn wait_eos(&self, limit: Duration) -> Result<(), PipelineError> {
        let wait = gst::ClockTime::from_mseconds(limit.as_millis() as u64);
        match self.bus.timed_pop_filtered(wait, &[gst::MessageType::Eos, gst::MessageType::Error]) {
            None => Err(PipelineError::NoEos { after: limit }),
            Some(message) => element_error(&message).map_or(Ok(()), Err),
        }
    }
}

impl Default for Pipeline {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // Going to NULL reports nothing that could still be acted on.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

fn element_error(message: &gst::Message) -> Option<PipelineError> {
    let gst::MessageView::Error(error) = message.view() else { return None };
    if error.error().matches(gst::ResourceError::NoSpaceLeft) {
        return Some(PipelineError::DiskFull);
    }
    let element = error.src().map_or_else(|| "pipeline".into(), |s| s.name().to_string());
    Some(PipelineError::Element {
        element,
        message: error.error().message().to_owned(),
        debug: error.debug().map(|d| d.to_string()).unwrap_or_default(),
    })
}
