//! The GStreamer side: pads, events and the order of what goes downstream.

use super::format::Format;
use super::muxer::{MuxError, Muxer, Piece};
use super::track::AccessUnit;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

const DEFAULT_FRAGMENT_MS: u32 = 400;

const VIDEO_CAPS: &str = "video/x-h264, stream-format=(string){avc,avc3}, alignment=(string)au; \
     video/x-h265, stream-format=(string){hvc1,hev1}, alignment=(string)au; \
     video/x-av1, stream-format=(string)obu-stream, alignment=(string)tu; \
     video/x-vp9";
const AUDIO_CAPS: &str = "audio/mpeg, mpegversion=(int)4, stream-format=(string)raw; \
     audio/mpeg, mpegversion=(int)1, layer=(int)3; \
     audio/x-opus";

glib::wrapper! {
    /// See the module.
    pub struct Mp4Mux(ObjectSubclass<Mp4MuxImp>) @extends gst::Element, gst::Object;
}

struct State {
    muxer: Muxer,
    /// By slot.
    segments: Vec<gst::FormattedSegment<gst::ClockTime>>,
}

/// Guards the order of pieces downstream; never taken while `State` is locked.
#[derive(Default)]
struct Downstream {
    announced: bool,
    failed: Option<gst::FlowError>,
}

pub struct Mp4MuxImp {
    src: gst::Pad,
    state: Mutex<State>,
    downstream: Mutex<Downstream>,
}

#[glib::object_subclass]
impl ObjectSubclass for Mp4MuxImp {
    const NAME: &'static str = "ReeldMp4Mux";
    type Type = Mp4Mux;
    type ParentType = gst::Element;

    fn with_class(class: &Self::Class) -> Self {
        let src = match class.pad_template("src") {
            Some(template) => gst::Pad::builder_from_template(&template).build(),
            None => gst::Pad::builder(gst::PadDirection::Src).name("src").build(),
        };
        let state = State { muxer: Muxer::new(DEFAULT_FRAGMENT_MS), segments: Vec::new() };
        Self { src, state: Mutex::new(state), downstream: Mutex::default() }
    }
}

impl ObjectImpl for Mp4MuxImp {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<[glib::ParamSpec; 1]> = LazyLock::new(|| {
            [glib::ParamSpecUInt::builder("fragment-duration")
                .nick("Fragment duration")
                .blurb("How much media a fragment holds, in ms: the most a crash loses")
                .minimum(1)
                .maximum(60_000)
                .default_value(DEFAULT_FRAGMENT_MS)
                .mutable_playing()
                .build()]
        });
        &*PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        if let ("fragment-duration", Ok(ms)) = (pspec.name(), value.get::<u32>()) {
            self.state().muxer.set_fragment_ms(ms);
        }
    }

    fn property(&self, _id: usize, _pspec: &glib::ParamSpec) -> glib::Value {
        self.state().muxer.fragment_ms().to_value()
    }

    fn constructed(&self) {
        self.parent_constructed();
        // Fails only for a pad that has a parent already.
        let _ = self.obj().add_pad(&self.src);
    }
}

impl GstObjectImpl for Mp4MuxImp {}

impl ElementImpl for Mp4MuxImp {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Crash-safe MP4 muxer",
                "Codec/Muxer",
                "Writes fragmented MP4 and ends it as a plain MP4",
                "reeld",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let template = |name, direction, presence, caps: &str| {
                gst::PadTemplate::new(name, direction, presence, &caps.parse::<gst::Caps>()?)
            };
            let templates = [
                template(
                    "src",
                    gst::PadDirection::Src,
                    gst::PadPresence::Always,
                    "video/quicktime, variant=(string)iso",
                ),
                template("video_%u", gst::PadDirection::Sink, gst::PadPresence::Request, VIDEO_CAPS),
                template("audio_%u", gst::PadDirection::Sink, gst::PadPresence::Request, AUDIO_CAPS),
            ];
            templates.into_iter().collect::<Result<_, _>>().expect("the templates above are well-formed")
        });
        &TEMPLATES
    }

    fn request_new_pad(
        &self,
        template: &gst::PadTemplate,
        name: Option<&str>,
        _caps: Option<&gst::Caps>,
    ) -> Option<gst::Pad> {
        let video = template.name_template().starts_with("video");
        let mut state = self.state();
        let name = match name.filter(|n| !n.contains('%')) {
            Some(name) => name.to_owned(),
            None => format!("{}_{}", if video { "video" } else { "audio" }, state.segments.len()),
        };
        let slot = state.muxer.add(&name, video)?;
        state.segments.push(gst::FormattedSegment::new());
        drop(state);
        let pad = sink_pad(template, &name, slot);
        // A pad added to a running element has to be active by then.
        pad.set_active(true).ok()?;
        if self.obj().add_pad(&pad).is_err() {
            self.state().muxer.release(slot);
            return None;
        }
        Some(pad)
    }

    fn release_pad(&self, pad: &gst::Pad) {
        self.state().muxer.release_named(&pad.name());
        let _ = pad.set_active(false);
        let _ = self.obj().remove_pad(pad);
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        let result = self.parent_change_state(transition);
        // Streaming has stopped by now: the pads are inactive.
        if transition == gst::StateChange::PausedToReady {
            self.state().muxer.reset();
            *self.downstream.lock().unwrap_or_else(PoisonError::into_inner) = Downstream::default();
        }
        result
    }
}

fn sink_pad(template: &gst::PadTemplate, name: &str, slot: usize) -> gst::Pad {
    gst::Pad::builder_from_template(template)
        .name(name)
        .chain_function(move |_, parent, buffer| {
            Mp4MuxImp::catch_panic_pad_function(
                parent,
                || Err(gst::FlowError::Error),
                |imp| imp.take(slot, std::iter::once(buffer)),
            )
        })
        .chain_list_function(move |_, parent, list| {
            Mp4MuxImp::catch_panic_pad_function(
                parent,
                || Err(gst::FlowError::Error),
                |imp| imp.take(slot, list.iter_owned()),
            )
        })
        .event_function(move |_, parent, event| {
            Mp4MuxImp::catch_panic_pad_function(parent, || false, |imp| imp.sink_event(slot, &event))
        })
        .query_function(|pad, parent, query| match query.view_mut() {
            // Caps that do not fit are refused by the caps event, with an error that names them.
            gst::QueryViewMut::AcceptCaps(accept) => {
                accept.set_result(true);
                true
            }
            _ => gst::Pad::query_default(pad, parent, query),
        })
        .build()
}

impl Mp4MuxImp {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(
        &self,
        slot: usize,
        buffers: impl Iterator<Item = gst::Buffer>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut state = self.state();
        let mut result = Ok(());
        for buffer in buffers {
            let unit = access_unit(&state.segments[slot], buffer);
            result = state.muxer.push(slot, unit);
            if result.is_err() {
                break;
            }
        }
        let has_pieces = state.muxer.has_pieces();
        drop(state);
        if has_pieces {
            self.send()?;
        }
        match result {
            Ok(()) => Ok(gst::FlowSuccess::Ok),
            Err(error @ MuxError::NoCaps { .. }) => {
                gst::element_imp_error!(self, gst::StreamError::Format, ["{error}"]);
                Err(gst::FlowError::NotNegotiated)
            }
            Err(error) => {
                gst::element_imp_error!(self, gst::StreamError::Mux, ["{error}"]);
                Err(gst::FlowError::Error)
            }
        }
    }

    fn sink_event(&self, slot: usize, event: &gst::Event) -> bool {
        match event.view() {
            gst::EventView::Caps(caps) => self.set_caps(slot, caps.caps()),
            gst::EventView::Segment(segment) => match segment.segment().downcast_ref::<gst::ClockTime>() {
                Some(segment) => {
                    self.state().segments[slot] = segment.clone();
                    true
                }
                None => {
                    gst::element_imp_error!(
                        self,
                        gst::StreamError::Format,
                        ["segment is not in time format"]
                    );
                    false
                }
            },
            gst::EventView::Eos(_) => {
                let overwritable = self.downstream_seeks();
                self.state().muxer.end(slot, overwritable);
                self.send().is_ok()
            }
            // The rest describes the input or, like a flush, would undo what is written.
            _ => true,
        }
    }

    fn set_caps(&self, slot: usize, caps: &gst::CapsRef) -> bool {
        let format = match Format::from_caps(caps) {
            Ok(format) => format,
            Err(error) => {
                gst::element_imp_error!(self, gst::StreamError::Format, ["{error}: {caps}"]);
                return false;
            }
        };
        let set = self.state().muxer.set_format(slot, format);
        match set {
            Ok(()) => true,
            Err(error) => {
                gst::element_imp_error!(self, gst::StreamError::Format, ["{error}: {caps}"]);
                false
            }
        }
    }

    fn downstream_seeks(&self) -> bool {
        let mut query = gst::query::Seeking::new(gst::Format::Bytes);
        self.src.peer_query(&mut query) && query.result().0
    }

    /// Sends what is complete. Pieces are taken one by one under the downstream lock, so they leave in order
    /// whichever thread completed them.
    fn send(&self) -> Result<(), gst::FlowError> {
        let mut downstream = self.downstream.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some(piece) = self.state().muxer.next_piece() else { break };
            if !downstream.announced {
                downstream.announced = true;
                self.announce();
            }
            let sent = match piece {
                Piece::End => {
                    self.src.push_event(gst::event::Eos::new());
                    continue;
                }
                _ if downstream.failed.is_some() => continue,
                Piece::Append(list) => self.src.push_list(list),
                Piece::Overwrite { offset, buffer } => {
                    self.src.push_event(segment_from(offset));
                    self.src.push(buffer)
                }
            };
            downstream.failed = sent.err();
        }
        downstream.failed.map_or(Ok(()), Err)
    }

    fn announce(&self) {
        let stream_id = self.obj().path_string();
        self.src.push_event(gst::event::StreamStart::new(&stream_id));
        let caps = gst::Caps::builder("video/quicktime").field("variant", "iso").build();
        self.src.push_event(gst::event::Caps::new(&caps));
        self.src.push_event(segment_from(0));
    }
}

/// What follows goes to `offset` bytes from the start of the file.
fn segment_from(offset: u64) -> gst::Event {
    let mut segment = gst::FormattedSegment::<gst::format::Bytes>::new();
    segment.set_start(gst::format::Bytes::from_u64(offset));
    gst::event::Segment::new(&segment)
}

fn access_unit(segment: &gst::FormattedSegment<gst::ClockTime>, buffer: gst::Buffer) -> AccessUnit {
    let running_ns = |time: Option<gst::ClockTime>| match segment.to_running_time_full(time?)? {
        gst::Signed::Positive(t) => i64::try_from(t.nseconds()).ok(),
        gst::Signed::Negative(t) => i64::try_from(t.nseconds()).ok().map(|ns| -ns),
    };
    AccessUnit {
        pts_ns: running_ns(buffer.pts()),
        dts_ns: running_ns(buffer.dts()),
        duration_ns: buffer.duration().map(gst::ClockTime::nseconds),
        sync: !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT),
        buffer,
    }
}
