//! RTSP servers that are not as one wishes: a server that follows a script, and what reeld makes of it.

use serde_json::{Value, json};
use socket2::SockRef;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};
use support::{
    daemon::{Daemon, House, SOON, text},
    wait::{wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const SOURCES: &str = "/api/v1/sources";
/// G.711, which has no state that a lost beginning could spoil.
const SDP: &str = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\n\
    m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\na=control:meta\r\n\
    m=audio 0 RTP/AVP 0\r\na=control:sound\r\n";

/// A request as it came.
#[derive(Debug, Clone)]
struct Request {
    /// Of which connection, from 0 on.
    connection: usize,
    /// How many requests came before it on its connection.
    number: usize,
    method: String,
    head: String,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// What the script does with a request.
enum Reply {
    /// The usual answer, with these lines in its head.
    Fine(&'static str),
    /// This status line's rest and head lines.
    Other(String),
    /// Media from now on, on this channel, for so many packets; then the usual answer.
    Media {
        channel: u8,
        packets: u32,
    },
    /// The usual answer, so many packets at once, and the end of the connection: with FIN, or with RST.
    Burst {
        packets: u32,
        reset: bool,
    },
    /// These bytes.
    Raw(&'static [u8]),
    /// The usual answer to PLAY, and these bytes, so often.
    Many(&'static [u8], usize),
    Nothing,
}

/// A server that does as its script says; its thread ends with the test program.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), script)
    }

    fn start_at(host: IpAddr, script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((host, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (script, log) = (Arc::new(script), seen.clone());
        thread::spawn(move || {
            for (connection, socket) in listener.incoming().enumerate() {
                let (script, log) = (script.clone(), log.clone());
                // The client may go at any time.
                thread::spawn(move || serve(connection, socket?, &*script, &log));
            }
        });
        Self { address, seen }
    }

    fn url(&self) -> String {
        format!("rtsp://{}/x", self.address)
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("no panic").clone()
    }

    /// The requests of one connection, each as its method and the value of one header.
    fn methods(&self, connection: usize) -> Vec<String> {
        self.seen().iter().filter(|r| r.connection == connection).map(|r| r.method.clone()).collect()
    }
}

fn serve(
    connection: usize,
    socket: TcpStream,
    script: &dyn Fn(&Request) -> Reply,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    let mut writer = socket;
    for number in 0.. {
        let head = next_head(&mut reader)?;
        let method = head.split(' ').next().unwrap_or_default().to_owned();
        let request = Request { connection, number, method, head };
        log.lock().expect("no panic").push(request.clone());
        match script(&request) {
            Reply::Fine(lines) => answer(&mut writer, &request, "200 OK", lines)?,
            Reply::Other(text) => {
                let (status, lines) = text.split_once("\r\n").unwrap_or((&text, ""));
                answer(&mut writer, &request, status, lines)?;
            }
            Reply::Media { channel, packets } => {
                // Some are on their way before the answer is.
                writer.write_all(&packet(channel, 0))?;
                answer(&mut writer, &request, "200 OK", "")?;
                let mut media = writer.try_clone()?;
                thread::spawn(move || {
                    for index in 1..packets {
                        thread::sleep(Duration::from_millis(20));
                        media.write_all(&packet(channel, index))?;
                    }
                    Ok::<_, std::io::Error>(())
                });
            }
            Reply::Burst { packets, reset } => {
                // A reset throws away what has not left, so nothing may wait for an acknowledgement.
                writer.set_nodelay(true)?;
                answer(&mut writer, &request, "200 OK", "")?;
                writer.write_all(&(0..packets).flat_map(|index| packet(0, index)).collect::<Vec<_>>())?;
                if reset {
                    SockRef::from(&writer).set_linger(Some(Duration::ZERO))?;
                }
                return Ok(());
            }
            Reply::Raw(bytes) => writer.write_all(bytes)?,
            Reply::Many(bytes, times) => {
                if request.method == "PLAY" {
                    answer(&mut writer, &request, "200 OK", "")?;
                }
                writer.write_all(&bytes.repeat(times))?;
            }
            Reply::Nothing => {}
        }
    }
    Ok(())
}

/// The next request's head; interleaved packets before it are passed over.
fn next_head(reader: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut head = String::new();
    loop {
        let first = *reader.fill_buf()?.first().ok_or(std::io::ErrorKind::UnexpectedEof)?;
        if first == b'$' {
            let mut header = [0; 4];
            reader.read_exact(&mut header)?;
            let mut body = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]]))];
            reader.read_exact(&mut body)?;
            continue;
        }
        let before = head.len();
        reader.read_line(&mut head)?;
        if head[before..].trim().is_empty() {
            return Ok(head);
        }
    }
}

fn answer(writer: &mut TcpStream, request: &Request, status: &str, lines: &str) -> std::io::Result<()> {
    let cseq = request.header("CSeq").expect("a CSeq");
    let (mut head, mut body) = (format!("RTSP/1.0 {status}\r\nCSeq: {cseq}\r\n{lines}"), "");
    match request.method.as_str() {
        "DESCRIBE" if status.starts_with("200") => {
            body = SDP;
            head += &format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n", SDP.len());
        }
        "SETUP" if status.starts_with("200") => {
            head += "Session: 4711;timeout=2\r\n";
            if !lines.contains("Transport:") {
                head += &format!("Transport: {}\r\n", request.header("Transport").expect("a transport"));
            }
        }
        _ => {}
    }
    writer.write_all(format!("{head}\r\n{body}").as_bytes())
}

/// 20 ms of silence in one interleaved packet.
fn packet(channel: u8, index: u32) -> Vec<u8> {
    let mut packet = vec![b'$', channel, 0, 172, 0x80, 0];
    packet.extend((index as u16).to_be_bytes());
    packet.extend((index * 160).to_be_bytes());
    packet.extend(7_u32.to_be_bytes());
    packet.resize(4 + 172, 0xff);
    packet
}

fn add(daemon: &Daemon, source: &Value) -> String {
    format!("{SOURCES}/{}", text(&daemon.post(SOURCES, source).expect(201).json(), "id"))
}

/// The reason for which the source at `path` waits.
fn reason(daemon: &Daemon, path: &str) -> String {
    wait_for("it waits", SOON, || daemon.get(path)["reason"].as_str().map(str::to_owned))
}

fn live(daemon: &Daemon, path: &str) {
    wait_until("it is live", SOON, || daemon.get(path)["state"] == "live");
}

#[test]
fn what_comes_over_no_udp_comes_over_tcp() {
    let house = House::new("", "");
    let daemon = house.start(REELD);
    let silent_udp = Server::start(|request| match (request.method.as_str(), request.connection) {
        ("SETUP", 0) => Reply::Fine("Transport: RTP/AVP;unicast;server_port=9-10\r\n"),
        ("PLAY", 1) => Reply::Media { channel: 0, packets: 500 },
        _ => Reply::Fine(""),
    });
    let path = add(&daemon, &json!({"uri": silent_udp.url(), "stream": "cam", "transport": "auto"}));
    live(&daemon, &path);
    // Keep-alives, which may come in between, are left out.
    let mut first = silent_udp.methods(0);
    first.retain(|m| m != "OPTIONS");
    assert_eq!(first, ["DESCRIBE", "SETUP", "PLAY", "TEARDOWN"]);
    assert_eq!(silent_udp.methods(1)[..4], ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]);
    let asked: Vec<String> = silent_udp
        .seen()
        .iter()
        .filter(|r| r.method == "SETUP")
        .map(|r| r.header("Transport").expect("a transport").to_owned())
        .collect();
    assert!(asked[0].contains("client_port=") && asked[1].contains("interleaved=0-1"), "{asked:?}");
    // The section that cannot be received is told, and not set up.
    assert!(silent_udp.seen().iter().all(|r| r.method != "SETUP" || r.head.contains("/x/sound ")));
    assert!(daemon.log().contains("vnd.onvif.metadata"));
}

#[test]
fn servers_with_ipv6_addresses_are_pulled_over_both_transports() {
    let house = House::new("", "");
    let daemon = house.start(REELD);
    let here = IpAddr::from(Ipv6Addr::LOCALHOST);
    let tcp = Server::start_at(here, |request| match request.method.as_str() {
        "PLAY" => Reply::Media { channel: 0, packets: 3000 },
        _ => Reply::Fine(""),
    });
    let media = UdpSocket::bind((here, 0)).expect("a port");
    let port = media.local_addr().expect("bound").port();
    let udp = Server::start_at(here, move |request| match request.method.as_str() {
        "SETUP" => {
            let asked = request.header("Transport").expect("a transport");
            let client: u16 = asked
                .split("client_port=")
                .nth(1)
                .and_then(|ports| ports.split('-').next()?.parse().ok())
                .expect("a port");
            let media = media.try_clone().expect("a socket");
            thread::spawn(move || {
                for index in 0..3000 {
                    thread::sleep(Duration::from_millis(20));
                    media.send_to(&packet(0, index)[4..], (here, client))?;
                }
                Ok::<_, std::io::Error>(())
            });
            Reply::Other(format!("200 OK\r\nTransport: {asked};server_port={port}-{}\r\n", port + 1))
        }
        _ => Reply::Fine(""),
    });
    for (server, transport) in [(&tcp, "tcp"), (&udp, "udp")] {
        let uri = format!("rtsp://[::1]:{}/x", server.address.port());
        let path = add(&daemon, &json!({"uri": uri, "stream": transport, "transport": transport}));
        live(&daemon, &path);
        assert_eq!(daemon.get(&path)["uri"], uri);
        daemon.wait_frames(&daemon.session_id(transport), 50);
        let session = daemon.session(transport);
        assert_eq!(session["protocol"], "rtsp");
        assert_eq!(session["remote"], server.address.to_string());
        assert_eq!(session["lost"], 0);
    }
}

#[test]
fn servers_that_do_as_they_like_are_understood() {
    let house = House::new("", "");
    let daemon = house.start(REELD);
    // Channels of its own choice, media before the answer to PLAY, keep-alives only by OPTIONS, nonces that grow old.
    let server = Server::start(|request| {
        let nonce =
            request.header("Authorization").and_then(|a| a.split("nonce=\"").nth(1)?.split('"').next());
        let wanted = if request.number < 8 { "one" } else { "two" };
        if nonce != Some(wanted) {
            let stale = if nonce.is_some() { ", stale=TRUE" } else { "" };
            let challenge = format!("Digest realm=\"cam\", nonce=\"{wanted}\", qop=\"auth\"{stale}");
            return Reply::Other(format!("401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\n"));
        }
        match request.method.as_str() {
            "OPTIONS" if request.number < 2 => Reply::Fine("Public: DESCRIBE, SETUP, GET_PARAMETER\r\n"),
            "GET_PARAMETER" => Reply::Other("405 Method Not Allowed".into()),
            "SETUP" => Reply::Fine("Transport: RTP/AVP/TCP;unicast;interleaved=8-9;ssrc=no number\r\n"),
            "PLAY" => Reply::Media { channel: 8, packets: 3000 },
            _ => Reply::Fine(""),
        }
    });
    let uri = server.url().replace("rtsp://", "rtsp://me:secret-one@");
    let path = add(&daemon, &json!({"uri": uri, "stream": "cam"}));
    live(&daemon, &path);
    let renewed = |r: &Request| r.method == "OPTIONS" && r.head.contains("nonce=\"two\"");
    wait_until("it is kept alive by OPTIONS, with a new nonce", SOON, || server.seen().iter().any(renewed));
    let sent = |method: &str| server.methods(0).iter().filter(|m| *m == method).count();
    assert_eq!(sent("GET_PARAMETER"), 1, "{:?}", server.methods(0));
    let seen = server.seen();
    assert!(seen.iter().filter(|r| r.number > 4).all(|r| r.header("Session") == Some("4711")), "{seen:#?}");
    let id = daemon.session_id("cam");
    daemon.wait_frames(&id, 100);
    daemon.delete(&path).expect(204);
    assert_eq!(server.methods(0).last().map(String::as_str), Some("TEARDOWN"));
    assert!(!daemon.log().contains("secret-one"));
}

#[test]
fn the_last_packet_before_the_end_of_a_connection_is_taken_fifty_times_of_fifty() {
    const PACKETS: u32 = 40;
    let house = House::new("", "");
    let daemon = house.start(REELD);
    let servers: Vec<_> = (0..50)
        .map(|round| {
            Server::start(move |request| match (request.method.as_str(), request.connection) {
                ("PLAY", 0) => Reply::Burst { packets: PACKETS, reset: round % 2 == 0 },
                (_, 0) => Reply::Fine(""),
                _ => Reply::Other("404 Not Found".into()),
            })
        })
        .collect();
    let paths: Vec<_> = servers.iter().map(|s| add(&daemon, &json!({ "uri": s.url() }))).collect();
    for path in &paths {
        wait_until("it was connected and is away", SOON, || daemon.get(path)["reason"].is_string());
    }
    // The streams outlive the connections, and begin to publish only with packets.
    let frames: Vec<_> = daemon.sessions().iter().map(|s| s["frames"].clone()).collect();
    assert_eq!(frames, vec![json!(PACKETS); servers.len()]);
}

#[test]
fn redirects_are_followed_within_the_rules_and_without_the_password() {
    let house = House::new("", "");
    let daemon = house.start(REELD);
    let real = Server::start(|request| match request.method.as_str() {
        "PLAY" => Reply::Media { channel: 0, packets: 3000 },
        _ => Reply::Fine(""),
    });
    let to = |location: String| {
        Server::start(move |request| match request.method.as_str() {
            "DESCRIBE" => Reply::Other(format!("302 Found\r\nLocation: {location}\r\n")),
            _ => Reply::Fine(""),
        })
    };
    let first = to(real.url().replace("127.0.0.1", "localhost"));
    let path = add(
        &daemon,
        &json!({"uri": first.url().replace("rtsp://", "rtsp://me:secret-two@"), "stream": "cam"}),
    );
    live(&daemon, &path);
    assert!(real.seen().iter().all(|r| !r.head.contains("Authorization")));

    let cases = [
        ("rtsp://169.254.169.254/latest".to_owned(), "allow_sources"),
        ("http://127.0.0.1/".to_owned(), "redirects to what cannot be pulled"),
        // Once RTSP was spoken there in the clear.
        ("rtsps://127.0.0.1/".to_owned(), "redirects to what cannot be pulled"),
    ];
    for (location, want) in cases {
        let server = to(location);
        let path = add(&daemon, &json!({ "uri": server.url() }));
        assert!(reason(&daemon, &path).contains(want), "{}", reason(&daemon, &path));
    }
    let round: Arc<Mutex<String>> = Arc::default();
    let location = round.clone();
    let endless = Server::start(move |request| match request.method.as_str() {
        "DESCRIBE" => {
            Reply::Other(format!("301 Moved\r\nLocation: {}\r\n", location.lock().expect("no panic")))
        }
        _ => Reply::Fine(""),
    });
    *round.lock().expect("no panic") = endless.url();
    let path = add(&daemon, &json!({ "uri": endless.url() }));
    assert!(reason(&daemon, &path).contains("more than 3 times"), "{}", reason(&daemon, &path));
}

#[test]
fn broken_servers_make_a_source_wait_and_say_why() {
    let house = House::new("", "connect_timeout = \"1s\"\npublisher_timeout = \"1s\"");
    let daemon = house.start(REELD);
    type Script = fn(&Request) -> Reply;
    let cases: [(Script, &str); 11] = [
        (|_| Reply::Nothing, "no answer within 1 s"),
        (|_| Reply::Raw(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), "no RTSP message"),
        (|_| Reply::Raw(b"RTSP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n"), "99999999 bytes"),
        (|_| Reply::Raw(&[b'a'; 20_000]), "a message head of more than"),
        (|r| refuse(r, "DESCRIBE", "404 Not Found"), "DESCRIBE with 404"),
        (|r| refuse(r, "SETUP", "461 Unsupported Transport"), "SETUP with 461"),
        (|r| refuse(r, "PLAY", "454 Session Not Found"), "PLAY with 454"),
        // Packets without payload, which once cost nothing.
        (|_| Reply::Many(b"$\0\0\0", 200_000), "too much of it"),
        (
            |r| {
                if r.method == "PLAY" {
                    Reply::Many(b"OPTIONS * RTSP/1.0\r\n\r\n", 500)
                } else {
                    Reply::Fine("")
                }
            },
            "messages without end",
        ),
        (|_| Reply::Fine(""), "no media within 1 s"),
        (
            |r| match r.method.as_str() {
                "PLAY" => Reply::Media { channel: 0, packets: 25 },
                _ => Reply::Fine(""),
            },
            "no media for 1 s",
        ),
    ];
    let servers: Vec<_> = cases.iter().map(|(script, _)| Server::start(*script)).collect();
    let paths: Vec<_> = servers.iter().map(|s| add(&daemon, &json!({ "uri": s.url() }))).collect();
    for ((_, want), path) in cases.iter().zip(&paths) {
        let reason = reason(&daemon, path);
        assert!(reason.contains(want), "{reason}; not {want}");
    }
    let silent = servers.last().expect("one");
    wait_until("a silent one is told goodbye", SOON, || {
        silent.methods(0).last().is_some_and(|m| m == "TEARDOWN")
    });
    wait_until("and asked again", SOON, || silent.methods(1).contains(&"PLAY".to_owned()));
    for path in paths {
        daemon.delete(&path).expect(204);
    }
}

fn refuse(request: &Request, method: &str, status: &str) -> Reply {
    match request.method == method {
        true => Reply::Other(status.to_owned()),
        false => Reply::Fine(""),
    }
}
