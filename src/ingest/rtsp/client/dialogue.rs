//! Requests and their answers on one connection.

use super::{RtspError, auth::Auth};
use crate::ingest::{
    drain::set_receive_low_water,
    rtsp::message::{Incoming, MessageReader},
    source::{PullError, SourceUri},
};
use rtsp_types::{Empty, HeaderName, Message, Method, Request, Response, StatusCode, Version, headers};
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use url::Url;

/// A server that does not take a few bytes in this time is gone.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// How long a goodbye may take.
const GOODBYE_LIMIT: Duration = Duration::from_millis(500);
/// Most times one request is sent: without an answer to a challenge, with one, and with one to a newer nonce.
const MAX_TRIES: u32 = 3;
/// Media that may come before the answer to PLAY, bytes.
const MAX_EARLY_BYTES: usize = 4 << 20;
/// What a packet takes beside its payload, bytes: empty ones are counted too.
const PACKET_OVERHEAD_BYTES: usize = 64;
const USER_AGENT: &str = concat!("reeld/", env!("CARGO_PKG_VERSION"));

/// The connection to one server, and what was agreed on in it.
pub(super) struct Dialogue {
    pub socket: TcpStream,
    /// Kept from the beginning: a socket that the peer has reset does not know it any more.
    pub remote: SocketAddr,
    pub local: SocketAddr,
    pub reader: MessageReader,
    /// Interleaved packets that came among the answers.
    pub early: Vec<(u8, Vec<u8>)>,
    /// What they take, at most `MAX_EARLY_BYTES`.
    early_bytes: usize,
    auth: Auth,
    /// The id of the session, once there is one.
    pub session: Option<String>,
    cseq: u32,
}

impl Dialogue {
    pub fn new(socket: TcpStream, uri: &SourceUri) -> io::Result<Self> {
        Ok(Self {
            remote: socket.peer_addr()?,
            local: socket.local_addr()?,
            socket,
            reader: MessageReader::default(),
            early: Vec::new(),
            early_bytes: 0,
            auth: Auth::new(uri.credentials()),
            session: None,
            cseq: 0,
        })
    }

    /// Sends a request and waits for its answer, whatever its status; a challenge is answered. The caller bounds the time.
    pub async fn request(
        &mut self,
        method: &Method,
        url: &Url,
        extra: &[(HeaderName, &str)],
    ) -> Result<Response<Vec<u8>>, PullError> {
        for tries in 1..=MAX_TRIES {
            let cseq = self.send(method, url, extra).await?;
            let response = self.response(cseq).await?;
            if response.status() != StatusCode::Unauthorized {
                return Ok(response);
            }
            self.challenged(&response, tries)?;
        }
        Err(RtspError::Refused.into())
    }

    /// Takes the challenge of a 401; `Ok` when the request is worth another try.
    pub fn challenged(&mut self, response: &Response<Vec<u8>>, tries: u32) -> Result<(), RtspError> {
        let challenge = response.header(&headers::WWW_AUTHENTICATE).ok_or(RtspError::Challenge)?;
        self.auth.challenged(challenge.as_str(), tries)
    }

    /// Sends a request without waiting for its answer, whose CSeq is returned.
    pub async fn send(
        &mut self,
        method: &Method,
        url: &Url,
        extra: &[(HeaderName, &str)],
    ) -> Result<u32, PullError> {
        self.cseq = self.cseq.wrapping_add(1);
        let mut request = Request::builder(method.clone(), Version::V1_0)
            .request_uri(url.clone())
            .header(headers::CSEQ, self.cseq.to_string())
            .header(headers::USER_AGENT, USER_AGENT)
            .empty();
        if let Some(session) = &self.session {
            request.insert_header(headers::SESSION, session.as_str());
        }
        if let Some(authorization) = self.auth.header(method.into(), url.as_str()) {
            request.insert_header(headers::AUTHORIZATION, authorization);
        }
        for (name, value) in extra {
            request.insert_header(name.clone(), *value);
        }
        self.write(&request.into()).await?;
        Ok(self.cseq)
    }

    /// Answers a request of the server's: what only asks whether we live is fine, the rest we do not do.
    pub async fn answer(&mut self, request: &Request<Vec<u8>>) -> Result<(), PullError> {
        let status = match request.method() {
            Method::Options | Method::GetParameter | Method::SetParameter => StatusCode::Ok,
            _ => StatusCode::NotImplemented,
        };
        let mut answer = Response::builder(Version::V1_0, status).empty();
        if let Some(cseq) = request.header(&headers::CSEQ) {
            answer.insert_header(headers::CSEQ, cseq.clone());
        }
        self.write(&answer.into()).await
    }

    /// One interleaved packet to the server (RFC 2326, 10.12); `payload` is shorter than 64 KiB.
    pub async fn send_interleaved(&mut self, channel: u8, payload: &[u8]) -> Result<(), PullError> {
        let Ok(length) = u16::try_from(payload.len()) else { return Ok(()) };
        let mut frame = vec![b'$', channel];
        frame.extend(length.to_be_bytes());
        frame.extend(payload);
        self.write_all(&frame).await
    }

    /// Tells the server that the session is over, and gives it a moment to answer.
    pub async fn goodbye(&mut self, control: &Url) {
        // Its answer is short; without it the wait for it is as long as it may be.
        let _ = set_receive_low_water(&self.socket, 1);
        let said = timeout(GOODBYE_LIMIT, async {
            if self.session.is_some() {
                let cseq = self.send(&Method::Teardown, control, &[]).await?;
                // What still comes is media that nobody waits for.
                self.early_bytes = 0;
                self.response(cseq).await?;
            }
            self.socket.shutdown().await.map_err(PullError::from)
        });
        // A server that is gone or slow need not be told.
        let _ = said.await;
    }

    async fn response(&mut self, cseq: u32) -> Result<Response<Vec<u8>>, PullError> {
        let mut buffer = vec![0; 8 << 10];
        loop {
            let n = self.socket.read(&mut buffer).await?;
            if n == 0 {
                return Err(PullError::Closed);
            }
            let (mut found, mut asked) = (None, Vec::new());
            let Self { reader, early, early_bytes, .. } = self;
            reader.read(&buffer[..n], |incoming| {
                match incoming {
                    Incoming::Response(response) if answers(&response, cseq) => found = Some(response),
                    // An answer to an older request, as to a keep-alive.
                    Incoming::Response(_) => {}
                    Incoming::Request(request) => asked.push(request),
                    Incoming::Data { channel, payload } => {
                        *early_bytes += payload.len() + PACKET_OVERHEAD_BYTES;
                        if *early_bytes > MAX_EARLY_BYTES {
                            return Err(RtspError::TooMuchEarly.into());
                        }
                        early.push((channel, payload.to_vec()));
                    }
                }
                Ok::<_, PullError>(())
            })?;
            for request in &asked {
                self.answer(request).await?;
            }
            if let Some(response) = found {
                return Ok(response);
            }
        }
    }

    async fn write(&mut self, message: &Message<Empty>) -> Result<(), PullError> {
        let mut bytes = Vec::new();
        message.write(&mut bytes).map_err(|e| PullError::Io(io::Error::other(e)))?;
        self.write_all(&bytes).await
    }

    async fn write_all(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        match timeout(WRITE_LIMIT, self.socket.write_all(bytes)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }
}

/// Old cameras leave CSeq out of some answers; such a one answers the last request.
fn answers(response: &Response<Vec<u8>>, cseq: u32) -> bool {
    let told = response.header(&headers::CSEQ).and_then(|value| value.as_str().trim().parse().ok());
    told.is_none_or(|told: u32| told == cseq)
}
