//! One `webrtcbin` that receives: ICE, DTLS, SRTP, the jitter buffer with NACK and RTX, and feedback. RTP leaves it as it
//! was sent, in sequence, into pads of ours that do nothing but put it into the [`Inbox`]: no depayloader, no queue
//! and no thread beside webrtcbin's own.

use super::{
    inbox::{Inbox, Packet},
    nice,
    offer::Credentials,
    state::Transport,
};
use crate::config::Webrtc;
use gstreamer::{self as gst, prelude::*};
use gstreamer_sdp::{SDPMessage, SDPMessageRef};
use gstreamer_webrtc::{
    WebRTCDTLSTransportState, WebRTCPeerConnectionState as State, WebRTCRTPTransceiver, WebRTCSDPType,
    WebRTCSessionDescription as Description,
};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

/// Time that a lost packet has to come again before it is given up.
const JITTER_MS: u32 = 200;
/// How long a step of the negotiation may take.
const STEP_LIMIT: Duration = Duration::from_secs(5);
/// How long candidates are gathered before the answer goes out without those that are missing.
const GATHER_LIMIT: Duration = Duration::from_secs(2);

/// RTCP may take 5 % of it.
const ASSUMED_BANDWIDTH_BPS: f64 = 2e6;
const RTCP_INTERVAL: gst::ClockTime = gst::ClockTime::from_mseconds(100);

#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error(
        "the WebRTC elements are missing; apt-get install gstreamer1.0-plugins-bad gstreamer1.0-nice ({0})"
    )]
    Elements(#[from] gst::glib::BoolError),
    #[error("webrtcbin does not start")]
    Start(#[from] gst::StateChangeError),
    #[error("webrtcbin: {0}")]
    Negotiation(String),
    #[error("webrtcbin does not answer within {limit} s ({0})", limit = STEP_LIMIT.as_secs())]
    Frozen(&'static str),
}

/// Pads of ours behind the streams, with whether they carry video.
type Pads = Arc<Mutex<Vec<(gst::Pad, bool)>>>;

/// A `webrtcbin` at work; it is stopped when dropped.
pub(super) struct Peer {
    /// `None` once it is being stopped.
    pipeline: Option<gst::Pipeline>,
    webrtc: gst::Element,
    inbox: Arc<Inbox>,
    pads: Pads,
}

impl Peer {
    /// `loopback`: the publisher is on this machine. Takes some milliseconds of a blocking thread.
    pub fn start(config: &Webrtc, loopback: bool, inbox: Arc<Inbox>) -> Result<Self, PeerError> {
        let webrtc = gst::ElementFactory::make("webrtcbin")
            .property_from_str("bundle-policy", "max-bundle")
            .property("latency", JITTER_MS)
            .build()?;
        let pipeline = gst::Pipeline::new();
        pipeline.add(&webrtc)?;
        configure_ice(&webrtc, config, loopback);
        let pads = Pads::default();
        watch_bus(&pipeline, &inbox);
        watch_state(&webrtc, &inbox);
        take_rtp(&webrtc, &inbox, &pads);
        take_rtcp(&webrtc, &inbox);
        // It must be set before the answer is made: the answer offers NACK only where it is.
        webrtc.connect("on-new-transceiver", false, |values| {
            let transceiver = values[1].get::<gst::glib::Object>().ok()?;
            transceiver.set_property("do-nack", true);
            None
        });
        // From here on it is stopped when something fails.
        let peer = Self { pipeline: Some(pipeline.clone()), webrtc, inbox, pads };
        pipeline.set_state(gst::State::Playing)?;
        Ok(peer)
    }

    /// Takes the offer; the answer of webrtcbin and whether all candidates are in it.
    pub async fn answer(&self, offer: &str) -> Result<(String, bool), PeerError> {
        let sdp = SDPMessage::parse_buffer(offer.as_bytes())
            .map_err(|e| PeerError::Negotiation(format!("the offer: {e}")))?;
        let offer = Description::new(WebRTCSDPType::Offer, sdp);
        self.step("set-remote-description", |promise| {
            self.webrtc.emit_by_name::<()>("set-remote-description", &[&offer, promise]);
        })
        .await?;
        let reply = self
            .step("create-answer", |promise| {
                self.webrtc.emit_by_name::<()>("create-answer", &[&None::<gst::Structure>, promise]);
            })
            .await?;
        let answer = reply.and_then(|r| r.get::<Description>("answer").ok());
        let mut answer = answer.ok_or_else(|| PeerError::Negotiation("it makes no answer".into()))?;
        accept_extensions(offer.sdp(), answer.sdp_mut());
        self.step("set-local-description", |promise| {
            self.webrtc.emit_by_name::<()>("set-local-description", &[&answer, promise]);
        })
        .await?;
        self.send_feedback_at_once();
        self.watch_farewell();
        let gathered = timeout(GATHER_LIMIT, self.inbox.all_gathered()).await.is_ok();
        let local = self.webrtc.property::<Option<Description>>("local-description").unwrap_or(answer);
        let text = local.sdp().as_text().map_err(|e| PeerError::Negotiation(e.to_string()))?;
        Ok((text, gathered))
    }

    /// An RTP session sends feedback out of turn once in an RTCP interval (RFC 4585 §3.5.2), which is some seconds long
    /// before the session knows its bandwidth: too late for a NACK that has to be served within the jitter
    /// buffer's time. So the interval is made short, and the bandwidth told.
    fn send_feedback_at_once(&self) {
        let rtpbin = self.webrtc.downcast_ref::<gst::Bin>().and_then(|bin| bin.by_name("rtpbin"));
        // The bundle is the first session.
        let session = rtpbin
            .and_then(|bin| bin.emit_by_name::<Option<gst::glib::Object>>("get-internal-session", &[&0u32]));
        if let Some(session) = session {
            session.set_property("bandwidth", ASSUMED_BANDWIDTH_BPS);
            session.set_property("rtcp-min-interval", RTCP_INTERVAL.nseconds());
        }
    }

    /// A page that is closed says goodbye over DTLS (close_notify) only, which webrtcbin tells of nobody but the transport.
    fn watch_farewell(&self) {
        let transceiver =
            self.webrtc.emit_by_name::<Option<WebRTCRTPTransceiver>>("get-transceiver", &[&0i32]);
        let transport = transceiver.and_then(|t| t.receiver()).and_then(|r| r.transport());
        let Some(transport) = transport else { return };
        let inbox = self.inbox.clone();
        transport.connect_state_notify(move |transport| {
            if transport.state() == WebRTCDTLSTransportState::Closed {
                inbox.transport(Transport::Closed);
            }
        });
    }

    /// A candidate of the publisher, as [`usable`](super::candidate::usable) allows it.
    pub fn add_candidate(&self, candidate: &str) {
        // One bundle: its first section stands for all.
        self.webrtc.emit_by_name::<()>("add-ice-candidate", &[&0u32, &candidate]);
    }

    /// ICE restart: ours of the new generation, `None` where it cannot be done.
    pub fn restart(&self, theirs: &Credentials) -> Option<Credentials> {
        let ice = self.webrtc.property::<gst::glib::Object>("ice-agent");
        nice::restart(&ice.property::<gst::glib::Object>("agent"), theirs)
    }

    /// Asks the publisher for a key frame (PLI).
    pub fn ask_key_frame(&self) {
        let pads = self.pads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (pad, _) in pads.iter().filter(|(_, video)| *video) {
            let wish = gst::Structure::builder("GstForceKeyUnit").field("all-headers", true).build();
            pad.push_event(gst::event::CustomUpstream::new(wish));
        }
    }

    /// Stops it beside the async threads.
    pub fn stop(&mut self) -> Option<JoinHandle<()>> {
        let pipeline = self.pipeline.take()?;
        let pads = std::mem::take(&mut *self.pads.lock().unwrap_or_else(PoisonError::into_inner));
        Some(tokio::task::spawn_blocking(move || {
            if pipeline.set_state(gst::State::Null).is_err() {
                tracing::error!("a WebRTC pipeline does not stop");
            }
            if let Some(bus) = pipeline.bus() {
                bus.unset_sync_handler();
            }
            drop(pads);
        }))
    }

    /// One action of webrtcbin, to its reply.
    async fn step(
        &self,
        name: &'static str,
        act: impl FnOnce(&gst::Promise),
    ) -> Result<Option<gst::Structure>, PeerError> {
        let (done, reply) = oneshot::channel();
        act(&gst::Promise::with_change_func(move |reply| {
            // Nobody waits any more: the step took too long.
            let _ = done.send(reply.map(|r| r.map(ToOwned::to_owned)));
        }));
        let reply = timeout(STEP_LIMIT, reply).await.map_err(|_| PeerError::Frozen(name))?;
        let reply = reply.ok().and_then(Result::ok).ok_or(PeerError::Frozen(name))?;
        match reply.as_ref().and_then(|r| r.get::<gst::glib::Error>("error").ok()) {
            Some(error) => Err(PeerError::Negotiation(error.message().to_owned())),
            None => Ok(reply),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// webrtcbin answers without header extensions. Those of the offer are the ones that are wanted: without the numbers of
/// transport-wide congestion control in every packet, the publisher's bitrate does not climb.
fn accept_extensions(offer: &SDPMessageRef, answer: &mut SDPMessageRef) {
    for (offered, answered) in offer.medias().zip(answer.medias_mut()) {
        for extension in offered.attributes().filter(|a| a.key() == "extmap") {
            answered.add_attribute("extmap", extension.value());
        }
    }
}

fn configure_ice(webrtc: &gst::Element, config: &Webrtc, loopback: bool) {
    if let Some(stun) = &config.stun {
        webrtc.set_property("stun-server", stun.as_str().trim_end_matches('/'));
    }
    for turn in &config.turn {
        webrtc.emit_by_name::<bool>("add-turn-server", &[&turn.as_str().trim_end_matches('/')]);
    }
    let ice = webrtc.property::<gst::glib::Object>("ice-agent");
    ice.set_property("max-rtp-port", u32::from(*config.udp_ports.end()));
    ice.set_property("min-rtp-port", u32::from(*config.udp_ports.start()));
    let agent = ice.property::<gst::glib::Object>("agent");
    agent.set_property("ice-tcp", config.ice_tcp);
    // It would look for a router by multicast for every publisher, from ports outside `udp_ports`.
    agent.set_property("upnp", false);
    // libnice leaves the loopback address out; with addresses given it takes those and no others.
    let mut addresses = super::interfaces::addresses();
    if loopback || addresses.is_empty() {
        addresses.insert(0, IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    for address in addresses {
        ice.emit_by_name::<bool>("add-local-ip-address", &[&address.to_string()]);
    }
}

/// Errors go to the inbox, the rest nowhere: nobody reads this bus.
fn watch_bus(pipeline: &gst::Pipeline, inbox: &Arc<Inbox>) {
    let bus = pipeline.bus().expect("a pipeline is made with a bus");
    let inbox = inbox.clone();
    bus.set_sync_handler(move |_, message| {
        if let gst::MessageView::Error(error) = message.view() {
            let element = error.src().map(|s| s.name().to_string()).unwrap_or_default();
            inbox.fault(format!("{element}: {}", error.error().message()));
        }
        gst::BusSyncReply::Drop
    });
}

fn watch_state(webrtc: &gst::Element, inbox: &Arc<Inbox>) {
    let states = inbox.clone();
    webrtc.connect_notify(Some("connection-state"), move |webrtc, _| {
        let transport = match webrtc.property::<State>("connection-state") {
            State::Connected => Transport::Connected,
            State::Disconnected => Transport::Disconnected,
            State::Failed => Transport::Failed,
            State::Closed => Transport::Closed,
            _ => return,
        };
        states.transport(transport);
    });
    let inbox = inbox.clone();
    webrtc.connect_notify(Some("ice-gathering-state"), move |webrtc, _| {
        use gstreamer_webrtc::WebRTCICEGatheringState::Complete;
        if webrtc.property::<gstreamer_webrtc::WebRTCICEGatheringState>("ice-gathering-state") == Complete {
            inbox.gathered();
        }
    });
}

fn take_rtp(webrtc: &gst::Element, inbox: &Arc<Inbox>, pads: &Pads) {
    let (inbox, pads) = (inbox.clone(), pads.clone());
    webrtc.connect_pad_added(move |_, source| {
        if source.direction() != gst::PadDirection::Src {
            return;
        }
        let caps = source.current_caps().unwrap_or_else(|| source.query_caps(None));
        let video = caps.structure(0).and_then(|s| s.get::<&str>("media").ok()) == Some("video");
        let target = inbox.clone();
        let sink = gst::Pad::builder(gst::PadDirection::Sink)
            .chain_function(move |_, _, buffer| {
                target.push(Packet::Rtp(buffer));
                Ok(gst::FlowSuccess::Ok)
            })
            .event_function(|_, _, _| true)
            .build();
        let linked = sink.set_active(true).map_err(|e| e.to_string());
        if let Err(e) = linked.and_then(|()| source.link(&sink).map_err(|e| e.to_string())) {
            inbox.fault(format!("a stream of webrtcbin cannot be taken: {e}"));
            return;
        }
        pads.lock().unwrap_or_else(PoisonError::into_inner).push((sink, video));
    });
}

/// Sender reports are used up inside webrtcbin; they are looked at on their way in.
fn take_rtcp(webrtc: &gst::Element, inbox: &Arc<Inbox>) {
    let Some(rtpbin) = webrtc.downcast_ref::<gst::Bin>().and_then(|bin| bin.by_name("rtpbin")) else {
        inbox.fault("this webrtcbin has no rtpbin".into());
        return;
    };
    let inbox = inbox.clone();
    rtpbin.connect_pad_added(move |_, pad| {
        if !pad.name().starts_with("recv_rtcp_sink") {
            return;
        }
        let inbox = inbox.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(buffer) = info.buffer() {
                inbox.push(Packet::Rtcp(buffer.clone()));
            }
            gst::PadProbeReturn::Ok
        });
    });
}
