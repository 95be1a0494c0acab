//! From an address to PLAY: OPTIONS, DESCRIBE (with redirects), one SETUP for each track, PLAY.

use super::{RtspError, dialogue::Dialogue, start::Start};
use crate::{
    config::Transport,
    ingest::{
        rtp::receiver::{Arrival, Media},
        rtsp::{
            sdp::{Description, Section, control_url, kind_word, without_user},
            udp::UdpPair,
        },
        source::{PullError, Scheme, Source, SourceUri},
    },
};
use rtsp_types::{HeaderName, Method, Response, StatusCode, headers};
use std::time::Duration;
use url::Url;

const MAX_REDIRECTS: usize = 3;
/// RFC 2326, 12.37.
const DEFAULT_SESSION_TIMEOUT_S: u64 = 60;
/// Longest session id taken, bytes.
const MAX_SESSION_ID_BYTES: usize = 256;
/// Codec names that an error or a log line repeats.
const MAX_NAMES: usize = 8;

/// A session that plays.
pub(super) struct Playing {
    pub dialogue: Dialogue,
    /// What PLAY, keep-alives and TEARDOWN name.
    pub control: Url,
    pub tracks: Vec<Lane>,
    /// What they carry, for the receiver, in the same order.
    pub media: Vec<Media>,
    /// Where they begin together, if the server told.
    pub start: Option<Start>,
    /// How often the server wants to hear from us.
    pub keep_alive: Duration,
    /// What it hears.
    pub keep_alive_by: Method,
}

/// How the packets of one track come.
pub(super) enum Lane {
    Interleaved { rtp: u8, rtcp: u8 },
    Udp(UdpPair),
}

impl Playing {
    pub fn is_udp(&self) -> bool {
        self.tracks.iter().any(|track| matches!(track, Lane::Udp(_)))
    }

    pub async fn goodbye(&mut self) {
        self.dialogue.goodbye(&self.control).await;
    }
}

/// What a server says it has.
struct Described {
    description: Description,
    base: Url,
}

/// Connects and goes through all of it. The caller bounds the time.
pub(super) async fn open(source: &Source, transport: Transport) -> Result<Playing, PullError> {
    let mut uri = source.uri().clone();
    for _ in 0..=MAX_REDIRECTS {
        let socket = source.connect(uri.host(), uri.port()).await?;
        let mut dialogue = Dialogue::new(socket, &uri)?;
        let keep_alive_by = keep_alive_method(&mut dialogue, uri.request_url()).await?;
        match describe(&mut dialogue, &uri).await? {
            Found::Here(described) => {
                return play(source, dialogue, described, transport, keep_alive_by).await;
            }
            Found::Elsewhere(next) => uri = next,
        }
    }
    Err(RtspError::Redirects(MAX_REDIRECTS).into())
}

/// By what the server is kept from giving the session up: GET_PARAMETER where it has that.
async fn keep_alive_method(dialogue: &mut Dialogue, url: &Url) -> Result<Method, PullError> {
    let response = dialogue.request(&Method::Options, url, &[]).await?;
    // A server without OPTIONS may serve the rest.
    let public = response.header(&headers::PUBLIC).map(|value| value.as_str().to_ascii_uppercase());
    match public.is_some_and(|methods| methods.contains("GET_PARAMETER")) {
        true => Ok(Method::GetParameter),
        false => Ok(Method::Options),
    }
}

enum Found {
    Here(Described),
    Elsewhere(SourceUri),
}

async fn describe(dialogue: &mut Dialogue, uri: &SourceUri) -> Result<Found, PullError> {
    let url = uri.request_url();
    let accept = [(headers::ACCEPT, "application/sdp")];
    let response = dialogue.request(&Method::Describe, url, &accept).await?;
    if matches!(response.status(), StatusCode::MovedPermanently | StatusCode::Found | StatusCode::SeeOther) {
        let location = text(&response, &headers::LOCATION).ok_or(RtspError::BadRedirect)?;
        let next = uri.redirected(location).ok().filter(|next| next.scheme() == Scheme::Rtsp);
        return Ok(Found::Elsewhere(next.ok_or(RtspError::BadRedirect)?));
    }
    expect_ok("DESCRIBE", &response)?;
    let base = [headers::CONTENT_BASE, headers::CONTENT_LOCATION].iter().find_map(|name| {
        let base = Url::parse(text(&response, name)?).ok()?;
        base.has_host().then_some(base)
    });
    let description = Description::parse(response.body()).map_err(RtspError::from)?;
    Ok(Found::Here(Described { description, base: base.unwrap_or_else(|| url.clone()) }))
}

async fn play(
    source: &Source,
    dialogue: Dialogue,
    described: Described,
    transport: Transport,
    keep_alive_by: Method,
) -> Result<Playing, PullError> {
    let Described { description, base } = described;
    let sections = usable(source, &description)?;
    let control = without_user(control_url(&base, description.control.as_deref()));
    let mut controls = Vec::new();
    let mut session = Setup {
        dialogue,
        transport,
        tracks: Vec::new(),
        media: Vec::new(),
        timeout_s: DEFAULT_SESSION_TIMEOUT_S,
    };
    for section in sections {
        let url = without_user(control_url(&base, section.control.as_deref()));
        session.set_up(&url, section).await?;
        controls.push(url);
    }
    let Setup { mut dialogue, tracks, media, timeout_s, .. } = session;
    let response = dialogue.request(&Method::Play, &control, &[(headers::RANGE, "npt=0-")]).await?;
    expect_ok("PLAY", &response)?;
    let start =
        text(&response, &headers::RTP_INFO).and_then(|header| Start::parse(header, &controls, &media));
    let keep_alive = Duration::from_secs(timeout_s.clamp(2, 3600)) / 2;
    Ok(Playing { dialogue, control, tracks, media, start, keep_alive, keep_alive_by })
}

/// The first video and the first audio section that can be received, with the formats that can; the rest is told once.
fn usable(source: &Source, description: &Description) -> Result<Vec<Section>, PullError> {
    let (mut taken, mut skipped): (Vec<Section>, Vec<String>) = (Vec::new(), Vec::new());
    for section in &description.sections {
        let mut section = section.clone();
        skipped.extend(section.keep_readable().iter().map(|fault| plain(fault)));
        let Some(kind) = section.kind() else { continue };
        match taken.iter().any(|other| other.kind() == Some(kind)) {
            true => skipped.push(format!("a second {}", kind_word(kind))),
            false => taken.push(section),
        }
    }
    skipped.truncate(MAX_NAMES);
    let skipped = skipped.join(", ");
    if taken.is_empty() {
        return Err(RtspError::NoMedia(skipped).into());
    }
    if !skipped.is_empty() {
        tracing::info!(source = %source.id(), "left out, because it cannot be received: {skipped}");
    }
    Ok(taken)
}

/// The session while its tracks are set up.
struct Setup {
    dialogue: Dialogue,
    /// `Auto` becomes `Tcp` when the server refuses UDP.
    transport: Transport,
    tracks: Vec<Lane>,
    media: Vec<Media>,
    timeout_s: u64,
}

impl Setup {
    async fn set_up(&mut self, url: &Url, section: Section) -> Result<(), PullError> {
        let response = match self.transport {
            Transport::Tcp => None,
            Transport::Udp => Some(self.over_udp(url).await?),
            // A session is either way for all its tracks, so only the first one is free to choose.
            Transport::Auto => Some(self.over_udp(url).await?)
                .filter(|(r, _)| r.status() != StatusCode::UnsupportedTransport || !self.tracks.is_empty()),
        };
        let (response, lane, arrival) = match response {
            Some((response, pair)) => {
                expect_ok("SETUP", &response)?;
                (response, Lane::Udp(pair), Arrival::Unordered)
            }
            None => {
                self.transport = Transport::Tcp;
                let (response, lane) = self.over_tcp(url).await?;
                (response, lane, Arrival::InOrder)
            }
        };
        self.note_session(&response)?;
        self.tracks.push(lane);
        self.media.push(Media { formats: section.formats, arrival });
        Ok(())
    }

    async fn over_tcp(&mut self, url: &Url) -> Result<(Response<Vec<u8>>, Lane), PullError> {
        let rtp = self.tracks.len() as u8 * 2;
        let asked = format!("RTP/AVP/TCP;unicast;interleaved={rtp}-{}", rtp + 1);
        let response = self.dialogue.request(&Method::Setup, url, &[(headers::TRANSPORT, &asked)]).await?;
        expect_ok("SETUP", &response)?;
        // The server may choose other channels than those it was asked for.
        let (rtp, rtcp) = pair(transport_parameter(&response, "interleaved")).unwrap_or((rtp, rtp + 1));
        let free = |channel: u8| {
            !self.tracks.iter().any(|track| {
                matches!(track, Lane::Interleaved { rtp, rtcp } if *rtp == channel || *rtcp == channel)
            })
        };
        match rtp != rtcp && free(rtp) && free(rtcp) {
            true => Ok((response, Lane::Interleaved { rtp, rtcp })),
            false => Err(RtspError::Header { method: "SETUP", header: "Transport" }.into()),
        }
    }

    async fn over_udp(&mut self, url: &Url) -> Result<(Response<Vec<u8>>, UdpPair), PullError> {
        let (local, remote) = (self.dialogue.local, self.dialogue.remote);
        let mut sockets = UdpPair::bind(local, remote, None)?;
        let (rtp, rtcp) = sockets.ports()?;
        let asked = format!("RTP/AVP;unicast;client_port={rtp}-{rtcp}");
        let response = self.dialogue.request(&Method::Setup, url, &[(headers::TRANSPORT, &asked)]).await?;
        if let Some(ports) = pair(transport_parameter(&response, "server_port")) {
            sockets.peer_told(ports);
            sockets.punch();
        }
        Ok((response, sockets))
    }

    fn note_session(&mut self, response: &Response<Vec<u8>>) -> Result<(), RtspError> {
        let missing = RtspError::Header { method: "SETUP", header: "Session" };
        let Some(header) = text(response, &headers::SESSION) else {
            return if self.dialogue.session.is_some() { Ok(()) } else { Err(missing) };
        };
        let mut parts = header.split(';').map(str::trim);
        let id = parts.next().filter(|id| !id.is_empty() && id.len() <= MAX_SESSION_ID_BYTES);
        self.dialogue.session = Some(id.ok_or(missing)?.to_owned());
        let timeout = parts.find_map(|part| part.strip_prefix("timeout=")?.trim().parse().ok());
        self.timeout_s = timeout.filter(|s| *s > 0).unwrap_or(self.timeout_s);
        Ok(())
    }
}

fn expect_ok(method: &'static str, response: &Response<Vec<u8>>) -> Result<(), RtspError> {
    match response.status() {
        status if status.is_success() => Ok(()),
        status => Err(RtspError::Status { method, status: status.into() }),
    }
}

fn text<'a>(response: &'a Response<Vec<u8>>, name: &HeaderName) -> Option<&'a str> {
    response.header(name).map(|value| value.as_str().trim())
}

/// `key=VALUE` of the Transport header (RFC 2326, 12.39). Read leniently: cameras write much into the rest of it.
fn transport_parameter<'a>(response: &'a Response<Vec<u8>>, key: &str) -> Option<&'a str> {
    let transport = text(response, &headers::TRANSPORT)?;
    transport.split(';').find_map(|part| part.trim().strip_prefix(key)?.trim_start().strip_prefix('='))
}

/// `A-B`, or `A` for `A` and the next.
fn pair<T: std::str::FromStr + Into<u16> + TryFrom<u16> + Copy>(value: Option<&str>) -> Option<(T, T)> {
    let mut numbers = value?.splitn(2, '-').map(|number| number.trim().parse::<T>().ok());
    let first = numbers.next()??;
    match numbers.next() {
        Some(second) => Some((first, second?)),
        None => Some((first, T::try_from(first.into().checked_add(1)?).ok()?)),
    }
}

/// A codec's name, or what is wrong with it, as it may stand in a log line.
fn plain(name: &str) -> String {
    let safe =
        |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/' | ' ' | ':' | '=' | ',');
    name.chars().filter(safe).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtsp_types::Version;

    fn response(transport: &str) -> Response<Vec<u8>> {
        Response::builder(Version::V1_0, StatusCode::Ok)
            .header(headers::TRANSPORT, transport)
            .build(Vec::new())
    }

    #[test]
    fn channels_and_ports_are_found_in_what_cameras_write() {
        let table = [
            ("RTP/AVP/TCP;unicast;interleaved=0-1", Some((0, 1))),
            ("RTP/AVP/TCP;interleaved= 4 - 5 ;ssrc=x y;mode=\"play\"", Some((4, 5))),
            ("RTP/AVP/TCP;unicast;interleaved=2", Some((2, 3))),
            ("RTP/AVP/TCP;interleaved=255", None),
            ("RTP/AVP/TCP;interleaved=a-b", None),
            ("RTP/AVP/TCP", None),
        ];
        for (text, want) in table {
            assert_eq!(pair::<u8>(transport_parameter(&response(text), "interleaved")), want, "{text}");
        }
        let text = "RTP/AVP;unicast;client_port=5000-5001;server_port=6000-6001";
        assert_eq!(pair::<u16>(transport_parameter(&response(text), "server_port")), Some((6000, 6001)));
    }
}
