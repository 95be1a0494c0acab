//! A receiver of webhooks: notes what it got, verifies signatures, and misbehaves as a test wants it to.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;
use standardwebhooks::Webhook;

/// One call, as it came in.
#[derive(Debug, Clone)]
pub struct Call {
    pub at: Instant,
    pub method: String,
    /// With its query.
    pub path: String,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
    pub body: Value,
    /// The signature is that of the receiver's secret, and not old.
    pub verified: bool,
    /// What it was answered; 0: the connection was closed on it.
    pub answered: u16,
}

impl Call {
    /// `webhook-id`.
    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// `type` of the event.
    pub fn event(&self) -> &str {
        self.body["type"].as_str().unwrap_or_default()
    }

    pub fn accepted(&self) -> bool {
        (200..300).contains(&self.answered)
    }
}

/// What a receiver answers.
#[derive(Debug, Clone)]
pub enum Mood {
    Accept,
    /// A third of the calls fail, by turns with 500, 503 and a connection that is cut before the answer; of the same event two
    /// at most, so that a test ends.
    ThirdFails,
    Answer {
        status: u16,
        /// `Name: value\r\n` each.
        headers: String,
    },
    /// Only after so long.
    Slow(Duration),
    /// An answer whose body never ends.
    Endless,
}

impl Mood {
    pub fn answer(status: u16) -> Self {
        Self::Answer { status, headers: String::new() }
    }

    pub fn redirect(status: u16, to: &str) -> Self {
        Self::Answer { status, headers: format!("Location: {to}\r\n") }
    }
}

#[derive(Debug)]
struct State {
    calls: Vec<Call>,
    mood: Mood,
    secret: String,
    /// How often each event failed, and how many failures are due.
    failed: HashMap<String, u32>,
    failures_due: u32,
    /// So that they can be cut.
    sockets: Vec<TcpStream>,
}

/// A receiver on a port of its own, until it is closed or dropped. What it got is kept when it is opened again.
#[derive(Debug)]
pub struct Receiver {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    closing: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Receiver {
    /// On a free port of 127.0.0.1. `secret`: `whsec_…`.
    pub fn start(secret: &str) -> Self {
        Self::start_at(secret, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub fn start_at(secret: &str, address: SocketAddr) -> Self {
        let state = State {
            calls: Vec::new(),
            mood: Mood::Accept,
            secret: secret.to_owned(),
            failed: HashMap::new(),
            failures_due: 0,
            sockets: Vec::new(),
        };
        let mut receiver = Self { state: Arc::new(Mutex::new(state)), address, open: None };
        receiver.open();
        receiver
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub fn set(&self, mood: Mood) {
        self.state().mood = mood;
    }

    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// Calls that were answered with success, in their order.
    pub fn accepted(&self) -> Vec<Call> {
        self.state().calls.iter().filter(|call| call.accepted()).cloned().collect()
    }

    /// How many of them there are.
    pub fn accepted_count(&self) -> usize {
        self.state().calls.iter().filter(|call| call.accepted()).count()
    }

    /// Closes the port and cuts every connection.
    pub fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        open.closing.store(true, Ordering::Release);
        // It waits in accept.
        let _ = TcpStream::connect(self.address);
        for socket in self.state().sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        open.thread.join().expect("the receiver's thread");
    }

    /// Opens the same port again.
    pub fn open(&mut self) {
        let listener = TcpListener::bind(self.address).expect("the receiver's port");
        self.address = listener.local_addr().expect("bound");
        let (state, closing) = (self.state.clone(), Arc::new(AtomicBool::new(false)));
        let end = closing.clone();
        let thread = thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if end.load(Ordering::Acquire) {
                    return;
                }
                let state = state.clone();
                lock(&state).sockets.extend(socket.try_clone());
                // It ends with its connection.
                thread::spawn(move || serve(socket, &state));
            }
        });
        self.open = Some(Open { closing, thread });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until the connection is closed, by whomever.
fn serve(socket: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(socket);
    while let Ok(Some(request)) = read(&mut reader) {
        let (mood, call) = note(state, request);
        if let Mood::Slow(time) = mood {
            thread::sleep(time);
        }
        let Some((status, headers)) = answer(&mood, call, state) else { break };
        lock(state).calls[call].answered = status;
        let socket = reader.get_mut();
        let said = match mood {
            Mood::Endless => endless(socket),
            _ => write!(socket, "HTTP/1.1 {status} Said\r\n{headers}Content-Length: 2\r\n\r\nok"),
        };
        if said.is_err() {
            break;
        }
    }
    // Another handle of it is kept.
    let _ = reader.get_ref().shutdown(Shutdown::Both);
}

/// `None`: the connection is cut.
fn answer<'m>(mood: &'m Mood, call: usize, state: &Mutex<State>) -> Option<(u16, &'m str)> {
    match mood {
        Mood::ThirdFails => match lock(state).failure(call) {
            Some(n) if n.is_multiple_of(3) => None,
            Some(n) if n % 3 == 1 => Some((500, "")),
            Some(_) => Some((503, "")),
            None => Some((200, "")),
        },
        Mood::Answer { status, headers } => Some((*status, headers)),
        _ => Some((200, "")),
    }
}

impl State {
    /// Whether this call is to fail, and the number of that failure.
    fn failure(&mut self, call: usize) -> Option<u32> {
        self.failures_due += u32::from(call % 3 == 2);
        let event = self.calls[call].id().to_owned();
        let failed = self.failed.entry(event).or_default();
        if self.failures_due == 0 || *failed == 2 {
            return None;
        }
        *failed += 1;
        self.failures_due -= 1;
        Some(self.failed.values().sum())
    }
}

fn endless(socket: &mut TcpStream) -> io::Result<()> {
    write!(socket, "HTTP/1.1 200 Said\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    loop {
        write!(socket, "400\r\n{}\r\n", "x".repeat(0x400))?;
    }
}

struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

/// How the receiver feels, and the place of the call among all.
fn note(state: &Mutex<State>, request: Request) -> (Mood, usize) {
    let Request { method, path, headers, body } = request;
    let mut state = lock(state);
    let verified = verified(&state.secret, &headers, &body);
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let at = Instant::now();
    state.calls.push(Call { at, method, path, headers, body, verified, answered: 0 });
    (state.mood.clone(), state.calls.len() - 1)
}

fn verified(secret: &str, headers: &HashMap<String, String>, body: &[u8]) -> bool {
    let mut given = http::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        let Some(value) = headers.get(name).and_then(|value| value.parse().ok()) else { return false };
        given.insert(name, value);
    }
    Webhook::new(secret).expect("a secret").verify(body, &given).is_ok()
}

/// `None`: the connection was closed.
fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { method, path, headers, body }))
}
