//! GStreamer's `rtmp2src`, and the way of its bytes to a task of ours.

use crate::ingest::source::{PullError, Scheme, SourceUri};
use gstreamer::{self as gst, prelude::*};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// Bytes and buffers that may wait for the task, seconds of a good camera; the streaming thread never waits for it.
const QUEUE_BYTES: usize = 16 << 20;
const QUEUE_BUFFERS: usize = 8192;

/// One connection to an RTMP server; it ends when this is dropped.
pub(super) struct Fetch {
    pipeline: gst::Pipeline,
    bus: gst::Bus,
    inbox: mpsc::Receiver<gst::Buffer>,
    shared: Arc<Shared>,
    /// What `rtmp2src` pushes to. It belongs to no element: no other thread is between them.
    _pad: gst::Pad,
}

#[derive(Default)]
struct Shared {
    waiting_bytes: AtomicUsize,
    /// The server ended the stream.
    ended: AtomicBool,
    /// The task fell behind.
    overflow: AtomicBool,
}

impl Fetch {
    /// Begins to connect. `address`: where the host of `uri` is, checked. Needs a tokio runtime.
    pub fn start(uri: &SourceUri, address: SocketAddr, timeout: Duration) -> Result<Self, PullError> {
        let source = element(uri, address, timeout)?;
        let shared = Arc::new(Shared::default());
        let (outbox, inbox) = mpsc::channel(QUEUE_BUFFERS);
        let pad = pad(outbox, shared.clone());
        let pipeline = gst::Pipeline::new();
        let bus = pipeline.bus().expect("a pipeline is made with a bus");
        let output = source.static_pad("src").ok_or_else(|| broken("it has no output"))?;
        pipeline.add(&source).map_err(|_| broken("it cannot be added"))?;
        pad.set_active(true).map_err(|_| broken("its output cannot be taken"))?;
        output
            .link_full(&pad, gst::PadLinkCheck::empty())
            .map_err(|_| broken("its output cannot be linked"))?;
        // From here on dropping it takes everything down.
        let fetch = Self { pipeline, bus, inbox, shared, _pad: pad };
        fetch.pipeline.set_state(gst::State::Playing).map_err(|_| broken("it does not start"))?;
        Ok(fetch)
    }

    /// The next bytes that have arrived. Never waits.
    pub fn take(&mut self) -> Option<gst::Buffer> {
        let buffer = self.inbox.try_recv().ok()?;
        self.shared.waiting_bytes.fetch_sub(buffer.size(), Ordering::Relaxed);
        Some(buffer)
    }

    /// Why no more bytes will arrive than [`take`](Self::take) gives after this call; `None` while there may be more.
    pub fn end(&self) -> Option<PullError> {
        if self.shared.overflow.load(Ordering::Acquire) {
            return Some(PullError::Protocol("it sends faster than this machine reads".into()));
        }
        while let Some(message) = self.bus.pop_filtered(&[gst::MessageType::Error]) {
            if let gst::MessageView::Error(error) = message.view() {
                return Some(in_words(&error.error()));
            }
        }
        self.shared.ended.load(Ordering::Acquire).then_some(PullError::Closed)
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        // It says goodbye to the server and joins its thread, which may take a moment.
        let pipeline = self.pipeline.clone();
        tokio::task::spawn_blocking(move || pipeline.set_state(gst::State::Null));
    }
}

fn element(uri: &SourceUri, address: SocketAddr, timeout: Duration) -> Result<gst::Element, PullError> {
    let missing = |_| broken("it is not installed (gstreamer1.0-plugins-bad)");
    let source = gst::ElementFactory::make("rtmp2src").build().map_err(missing)?;
    let (application, stream) = path_of(uri);
    let secure = uri.scheme() == Scheme::Rtmps;
    source.set_property_from_str("scheme", if secure { "rtmps" } else { "rtmp" });
    // With the address that was checked nothing is looked up again. TLS needs the name, and checks it by itself.
    let host = if secure { uri.host().to_owned() } else { address.ip().to_string() };
    source.set_property("host", host);
    source.set_property("port", i32::from(address.port()));
    source.set_property("application", application);
    source.set_property("stream", stream);
    source.set_property("timeout", timeout.as_secs().max(1) as u32);
    if let Some(credentials) = uri.credentials() {
        source.set_property("username", &credentials.user);
        source.set_property("password", &credentials.password);
    }
    Ok(source)
}

/// Application and stream: the last part of the path is the stream, with the query.
fn path_of(uri: &SourceUri) -> (String, String) {
    let url = uri.request_url();
    let path = url.path().trim_matches('/');
    let (application, name) = path.rsplit_once('/').unwrap_or(("", path));
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    (application.to_owned(), format!("{name}{query}"))
}

fn pad(outbox: mpsc::Sender<gst::Buffer>, shared: Arc<Shared>) -> gst::Pad {
    let ended = shared.clone();
    gst::Pad::builder(gst::PadDirection::Sink)
        .chain_function(move |_, _, buffer| {
            let size = buffer.size();
            let waiting = shared.waiting_bytes.fetch_add(size, Ordering::Relaxed) + size;
            if waiting <= QUEUE_BYTES && outbox.try_send(buffer).is_ok() {
                return Ok(gst::FlowSuccess::Ok);
            }
            shared.overflow.store(true, Ordering::Release);
            Err(gst::FlowError::Error)
        })
        .event_function(move |_, _, event| {
            if event.type_() == gst::EventType::Eos {
                ended.ended.store(true, Ordering::Release);
            }
            true
        })
        .build()
}

fn broken(what: &str) -> PullError {
    PullError::Protocol(format!("rtmp2src: {what}"))
}

/// By its code: its text may hold what the server said.
fn in_words(error: &gst::glib::Error) -> PullError {
    use gst::ResourceError as Resource;
    let what = match error.kind::<Resource>() {
        Some(Resource::NotFound) => "the server has no such stream",
        Some(Resource::NotAuthorized) => "the server refuses this user and password, or wants them",
        Some(Resource::OpenRead | Resource::OpenReadWrite) => {
            "the server cannot be reached, or refuses to play this stream"
        }
        Some(Resource::Read) => "the connection broke",
        Some(Resource::Failed) => "the server cannot be reached or breaks the protocol",
        _ => "the connection failed",
    };
    PullError::Protocol(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_of_the_path_is_the_stream() {
        for (uri, application, stream) in [
            ("rtmp://h/live/cam", "live", "cam"),
            ("rtmp://h/a/b/cam?token=x", "a/b", "cam?token=x"),
            ("rtmp://h/cam", "", "cam"),
            ("rtmp://h/", "", ""),
        ] {
            let uri = SourceUri::parse(uri).expect("a URI");
            assert_eq!(path_of(&uri), (application.into(), stream.into()), "{uri}");
        }
    }
}
