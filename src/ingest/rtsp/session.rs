//! The server's side of one connection as a state machine of requests (RFC 2326, appendix A.2), without sockets: a
//! client announces a stream, sets its sections up, records, tears down.

use super::{
    request::{Announced, is_ours, is_sdp, line_of, names_control, same_path, usable},
    sdp::{Description, Section, without_user},
    transport::{Lower, Transport},
    udp::PacketKind,
};
use crate::ingest::rtp::Format;
use rtsp_types::{
    HeaderName, Method, Request, Response, StatusCode, Version,
    headers::{ALLOW, CSEQ, PUBLIC, REQUIRE, RETRY_AFTER, SERVER, SESSION, TRANSPORT, UNSUPPORTED},
};
use std::time::Duration;
use url::Url;

/// Seconds after which a client that was refused for the moment may come back (RFC 2326, 12.31).
const RETRY_AFTER_S: &str = "5";
/// Most streams of one publisher: each may hold a unit of 8 MiB and two sockets.
const MAX_STREAMS: usize = 4;
/// With so much unsent, bytes, a client asks without end.
const MAX_OUTGOING_BYTES: usize = 64 << 10;
const SERVER_NAME: &str = concat!("reeld/", env!("CARGO_PKG_VERSION"));
const METHODS: &str = "OPTIONS, ANNOUNCE, SETUP, RECORD, PAUSE, GET_PARAMETER, SET_PARAMETER, TEARDOWN";

/// What a request meant to the rest of the server.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// It is answered; nothing else is to be done.
    Answered,
    /// Answer with [`Session::accept`] or [`Session::refuse`] before the next request.
    Announce(Announced),
    /// Packets of stream `stream` are to come over UDP. Answer with [`Session::accept_udp`] or [`Session::refuse`].
    Udp { stream: usize, client_port: Option<(u16, u16)> },
    /// Packets come from now on. Answer as an announcement; [`Session::streams`] tells what comes.
    Record,
    /// The stream ended in good order. The client may announce again.
    Teardown,
}

/// A section that was set up. Its place in [`Session::streams`] is its number elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSetup {
    pub formats: Vec<Format>,
    pub lower: Lower,
    section: usize,
    channels: Option<(u8, u8)>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Init,
    Announced,
    Recording,
    Paused,
}

/// An event that waits for the server's answer.
#[derive(Debug)]
struct Asked {
    cseq: u32,
    about: About,
}

#[derive(Debug)]
enum About {
    Announce { url: Option<Url>, sections: Vec<Section> },
    Setup { stream: usize, section: usize, transport: Transport },
    Record,
}

/// Why a request is not done.
struct Refusal {
    status: StatusCode,
    reason: String,
    header: Option<(HeaderName, String)>,
}

impl Refusal {
    fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), header: None }
    }
}

type Done = Result<Event, Refusal>;

fn bad_request(fault: impl ToString) -> Refusal {
    Refusal::new(StatusCode::BadRequest, fault.to_string())
}

fn too_many_streams() -> String {
    format!("{MAX_STREAMS} streams are set up, the most of one publisher; leave the others out")
}

fn not_allowed(status: StatusCode, reason: &str, allowed: &str) -> Refusal {
    Refusal { header: Some((ALLOW, allowed.to_owned())), ..Refusal::new(status, reason) }
}

/// One connection.
///
/// Give it every request; what is to be sent gathers in [`outgoing`](Self::outgoing).
#[derive(Debug)]
pub struct Session {
    state: State,
    /// The `Session` header, without its timeout.
    id: String,
    timeout: Duration,
    /// Of the announcement, without user and password.
    url: Option<Url>,
    sections: Vec<Section>,
    streams: Vec<StreamSetup>,
    asked: Option<Asked>,
    out: Vec<u8>,
}

impl Session {
    /// `id`: letters and digits nobody guesses; `timeout`: how long a client may be silent.
    pub fn new(id: String, timeout: Duration) -> Self {
        Self {
            state: State::Init,
            id,
            timeout,
            url: None,
            sections: Vec::new(),
            streams: Vec::new(),
            asked: None,
            out: Vec::new(),
        }
    }

    /// Takes one request; every request is answered, once.
    pub fn handle(&mut self, request: &Request<Vec<u8>>) -> Event {
        let cseq = request.header(&CSEQ).and_then(|v| v.as_str().trim().parse().ok());
        let done = match cseq {
            Some(cseq) => self.check(request).and_then(|()| self.step(request, cseq)),
            None => Err(Refusal::new(StatusCode::BadRequest, "CSeq is missing or no number")),
        };
        done.unwrap_or_else(|refusal| {
            let headers: Vec<_> = refusal.header.into_iter().collect();
            self.answer(cseq, refusal.status, Some(&refusal.reason), &headers);
            Event::Answered
        })
    }

    /// Tells the client that what it sent cannot be understood; send it and close.
    pub fn bad_request(&mut self, reason: &str) {
        self.answer(None, StatusCode::BadRequest, Some(reason), &[]);
    }

    /// Answers [`Event::Announce`] and [`Event::Record`]. Does nothing when none is open.
    pub fn accept(&mut self) {
        let Some(Asked { cseq, about }) = self.asked.take() else { return };
        match about {
            About::Announce { url, sections } => {
                (self.url, self.sections) = (url, sections);
                self.state = State::Announced;
                self.answer(Some(cseq), StatusCode::Ok, None, &[]);
            }
            About::Record => {
                self.state = State::Recording;
                self.answer_in_session(cseq, &[]);
            }
            About::Setup { .. } => {}
        }
    }

    /// Answers [`Event::Udp`]. Does nothing when none is open.
    pub fn accept_udp(&mut self, server_port: (u16, u16)) {
        let Some(Asked { cseq, about: About::Setup { stream, section, transport } }) = self.asked.take()
        else {
            return;
        };
        let transport = Transport { server_port: Some(server_port), ..transport };
        self.set_up(cseq, stream, section, transport);
    }

    /// Answers an event with an error. Does nothing when none is open.
    pub fn refuse(&mut self, status: StatusCode, reason: &str) {
        let Some(Asked { cseq, .. }) = self.asked.take() else { return };
        let retry = (RETRY_AFTER, RETRY_AFTER_S.to_owned());
        let headers = if status == StatusCode::ServiceUnavailable { &[retry][..] } else { &[] };
        self.answer(Some(cseq), status, Some(reason), headers);
    }

    /// Bytes to send; empty when there are none. Ask after every request and every answer to an event.
    pub fn outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Whether a client asks for more answers than it can be waiting for: let it go.
    pub fn is_flooded(&self) -> bool {
        self.out.len() > MAX_OUTGOING_BYTES
    }

    /// What was set up, in that order.
    pub fn streams(&self) -> &[StreamSetup] {
        &self.streams
    }

    /// Whose packets an interleaved channel carries: the stream's number.
    pub fn channel(&self, channel: u8) -> Option<(usize, PacketKind)> {
        self.streams.iter().enumerate().find_map(|(stream, setup)| match setup.channels? {
            (rtp, _) if rtp == channel => Some((stream, PacketKind::Rtp)),
            (_, rtcp) if rtcp == channel => Some((stream, PacketKind::Rtcp)),
            _ => None,
        })
    }

    /// The channel that reports on an interleaved stream go to.
    pub fn report_channel(&self, stream: usize) -> Option<u8> {
        self.streams.get(stream).and_then(|setup| setup.channels).map(|(_, rtcp)| rtcp)
    }

    fn check(&self, request: &Request<Vec<u8>>) -> Result<(), Refusal> {
        if request.version() != Version::V1_0 {
            let reason = "this is an RTSP/1.0 server";
            return Err(Refusal::new(StatusCode::RTSPVersionNotSupported, reason));
        }
        if let Some(wanted) = request.header(&REQUIRE) {
            let refusal = Refusal::new(StatusCode::OptionNotSupported, "no optional feature is supported");
            return Err(Refusal { header: Some((UNSUPPORTED, line_of(wanted.as_str(), 200))), ..refusal });
        }
        let given = request.header(&SESSION).map(|v| v.as_str().split(';').next().unwrap_or_default().trim());
        let needed = matches!(request.method(), Method::Record | Method::Pause | Method::Teardown);
        if self.streams.is_empty() && matches!(request.method(), Method::Options | Method::Announce) {
            // Some clients still name the session that they tore down.
            return Ok(());
        }
        match given {
            Some(id) if id != self.id || self.streams.is_empty() => {
                Err(Refusal::new(StatusCode::SessionNotFound, "no such session on this connection"))
            }
            None if needed && !self.streams.is_empty() => {
                Err(Refusal::new(StatusCode::SessionNotFound, "the Session header is missing"))
            }
            _ => Ok(()),
        }
    }

    fn step(&mut self, request: &Request<Vec<u8>>, cseq: u32) -> Done {
        match request.method() {
            Method::Options => {
                self.answer(Some(cseq), StatusCode::Ok, None, &[(PUBLIC, METHODS.to_owned())]);
                Ok(Event::Answered)
            }
            Method::Announce => self.announce(request, cseq),
            Method::Setup => self.setup(request, cseq),
            Method::Record => self.record(cseq),
            Method::Pause => self.pause(cseq),
            Method::Teardown => self.teardown(cseq),
            Method::GetParameter | Method::SetParameter => self.keep_alive(request, cseq),
            Method::Describe | Method::Play => {
                let reason = "this server takes streams (ANNOUNCE, RECORD) and does not play them";
                Err(not_allowed(StatusCode::MethodNotAllowed, reason, METHODS))
            }
            _ => Err(not_allowed(StatusCode::NotImplemented, "no such method here", METHODS)),
        }
    }

    fn announce(&mut self, request: &Request<Vec<u8>>, cseq: u32) -> Done {
        if self.state != State::Init {
            return Err(self.wrong_state("this connection has announced a stream already"));
        }
        let announced = Announced::of(request).map_err(bad_request)?;
        if !is_sdp(request) {
            let reason = "announce a stream with Content-Type: application/sdp";
            return Err(Refusal::new(StatusCode::UnsupportedMediaType, reason));
        }
        let description = Description::parse(request.body()).map_err(bad_request)?;
        let sections = description.sections.into_iter().map(usable).collect::<Result<_, _>>();
        let sections = sections.map_err(|e| Refusal::new(StatusCode::UnsupportedMediaType, e))?;
        let url = request.request_uri().cloned().map(without_user);
        self.asked = Some(Asked { cseq, about: About::Announce { url, sections } });
        Ok(Event::Announce(announced))
    }

    fn setup(&mut self, request: &Request<Vec<u8>>, cseq: u32) -> Done {
        match self.state {
            State::Announced => {}
            State::Init => return Err(self.wrong_state("announce the stream before SETUP")),
            _ => return Err(self.wrong_state("the stream is being recorded already")),
        }
        let section = self.section_of(request)?;
        let offered = request.header(&TRANSPORT).map(|v| Transport::parse_all(v.as_str()));
        let offered = offered.ok_or_else(|| Refusal::new(StatusCode::BadRequest, "Transport is missing"))?;
        let stream = self.streams.iter().position(|s| s.section == section).unwrap_or(self.streams.len());
        if stream >= MAX_STREAMS {
            return Err(Refusal::new(StatusCode::Forbidden, too_many_streams()));
        }
        let chosen = offered.into_iter().find(is_ours).ok_or_else(|| {
            let reason = "offer RTP/AVP/TCP;interleaved or RTP/AVP;unicast;client_port, with mode=record";
            Refusal::new(StatusCode::UnsupportedTransport, reason)
        })?;
        let transport = Transport {
            profile: chosen.profile,
            client_port: chosen.client_port,
            mode: Some("record".into()),
            ..Transport::new(chosen.lower)
        };
        if chosen.lower == Lower::Udp {
            let client_port = chosen.client_port;
            self.asked = Some(Asked { cseq, about: About::Setup { stream, section, transport } });
            return Ok(Event::Udp { stream, client_port });
        }
        let interleaved = self.free_channels(stream, chosen.interleaved);
        let interleaved = interleaved.ok_or_else(|| {
            Refusal::new(StatusCode::UnsupportedTransport, "no interleaved channel is free")
        })?;
        self.set_up(cseq, stream, section, Transport { interleaved: Some(interleaved), ..transport });
        Ok(Event::Answered)
    }

    /// The section whose control URL a SETUP names.
    fn section_of(&self, request: &Request<Vec<u8>>) -> Result<usize, Refusal> {
        let Some(url) = request.request_uri() else {
            return Err(bad_request("SETUP wants the control URL of a media section"));
        };
        let named = |s: &Section| s.control.as_deref().is_some_and(|control| names_control(url, control));
        if let Some(section) = self.sections.iter().position(named) {
            return Ok(section);
        }
        let whole = self.url.as_ref().is_some_and(|announced| same_path(announced, url));
        match (whole, self.sections.len()) {
            (true, 1) => Ok(0),
            (true, _) => {
                let reason = "SETUP wants the control URL of one media section";
                Err(Refusal::new(StatusCode::AggregateOperationNotAllowed, reason))
            }
            (false, _) => {
                Err(Refusal::new(StatusCode::NotFound, "no media section was announced with this URL"))
            }
        }
    }

    /// The channels the client wishes, if they are free; else others.
    fn free_channels(&self, stream: usize, wished: Option<(u8, u8)>) -> Option<(u8, u8)> {
        let free = |channel: u8| self.channel(channel).is_none_or(|(owner, _)| owner == stream);
        let good = |pair: &(u8, u8)| pair.0 != pair.1 && free(pair.0) && free(pair.1);
        wished.filter(good).or_else(|| (0..=127).map(|n| (2 * n, 2 * n + 1)).find(good))
    }

    fn set_up(&mut self, cseq: u32, stream: usize, section: usize, transport: Transport) {
        let Some(formats) = self.sections.get(section).map(|s| s.formats.clone()) else { return };
        let setup = StreamSetup { formats, lower: transport.lower, section, channels: transport.interleaved };
        match self.streams.get_mut(stream) {
            Some(before) => *before = setup,
            None => self.streams.push(setup),
        }
        self.answer_in_session(cseq, &[(TRANSPORT, transport.to_string())]);
    }

    fn record(&mut self, cseq: u32) -> Done {
        match self.state {
            State::Announced if !self.streams.is_empty() => {
                self.asked = Some(Asked { cseq, about: About::Record });
                Ok(Event::Record)
            }
            State::Paused | State::Recording => {
                self.state = State::Recording;
                self.answer_in_session(cseq, &[]);
                Ok(Event::Answered)
            }
            State::Init | State::Announced => Err(self.wrong_state("ANNOUNCE and SETUP come before RECORD")),
        }
    }

    /// Packets that still come are taken: they were sent before the client knew.
    fn pause(&mut self, cseq: u32) -> Done {
        if !matches!(self.state, State::Recording | State::Paused) {
            return Err(self.wrong_state("nothing is being recorded"));
        }
        self.state = State::Paused;
        self.answer_in_session(cseq, &[]);
        Ok(Event::Answered)
    }

    fn teardown(&mut self, cseq: u32) -> Done {
        if self.state == State::Init {
            return Err(self.wrong_state("nothing was announced"));
        }
        self.state = State::Init;
        self.url = None;
        self.sections.clear();
        self.streams.clear();
        self.answer(Some(cseq), StatusCode::Ok, None, &[]);
        Ok(Event::Teardown)
    }

    fn keep_alive(&mut self, request: &Request<Vec<u8>>, cseq: u32) -> Done {
        if !request.body().trim_ascii().is_empty() {
            return Err(Refusal::new(StatusCode::ParameterNotUnderstood, "there are no parameters"));
        }
        match self.streams.is_empty() {
            true => self.answer(Some(cseq), StatusCode::Ok, None, &[]),
            false => self.answer_in_session(cseq, &[]),
        }
        Ok(Event::Answered)
    }

    fn wrong_state(&self, reason: &str) -> Refusal {
        let allowed = match self.state {
            State::Init => "OPTIONS, ANNOUNCE",
            State::Announced if self.streams.is_empty() => "OPTIONS, SETUP, TEARDOWN",
            State::Announced => "OPTIONS, SETUP, RECORD, TEARDOWN",
            State::Recording | State::Paused => "OPTIONS, RECORD, PAUSE, TEARDOWN",
        };
        not_allowed(StatusCode::MethodNotValidInThisState, reason, allowed)
    }

    fn answer_in_session(&mut self, cseq: u32, headers: &[(HeaderName, String)]) {
        let session = format!("{};timeout={}", self.id, self.timeout.as_secs().max(1));
        let headers = [headers, &[(SESSION, session)]].concat();
        self.answer(Some(cseq), StatusCode::Ok, None, &headers);
    }

    fn answer(
        &mut self,
        cseq: Option<u32>,
        status: StatusCode,
        reason: Option<&str>,
        headers: &[(HeaderName, String)],
    ) {
        let phrase = match (reason, status) {
            (Some(reason), _) => format!("{status}: {}", line_of(reason, 200)),
            (None, StatusCode::Ok) => "OK".to_owned(),
            (None, _) => status.to_string(),
        };
        let mut response =
            Response::builder(Version::V1_0, status).reason_phrase(phrase).header(SERVER, SERVER_NAME);
        if let Some(cseq) = cseq {
            response = response.header(CSEQ, cseq.to_string());
        }
        for (name, value) in headers {
            response = response.header(name.clone(), value.as_str());
        }
        // Writing to memory does not fail.
        let _ = response.empty().write(&mut self.out);
    }
}

#[cfg(test)]
mod tests;
