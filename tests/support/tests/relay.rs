//! The lossy relay: a camera watched over UDP, and a browser that publishes to another one.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
};

use serde_json::json;
use support::{
    browser::{Browser, Codec, Publish},
    camera::{Camera, Options},
    daemon::SOON,
    media::{Probe, run},
    relay::{Loss, RtspRelay, WhipRelay},
    wait::wait_until,
};

const TMP: &str = env!("CARGO_TARGET_TMPDIR");

support::camera_process!();

#[test]
fn a_camera_is_watched_through_it_over_both_transports() {
    let camera = Camera::start(Options::default());
    for (transport, percent) in [("tcp", 50.0), ("udp", 0.0), ("udp", 5.0)] {
        let relay = RtspRelay::start(camera.address(), Loss { percent, seed: 1, rtp_only: true });
        let file = Path::new(TMP).join(format!("relay-{transport}-{percent}.mkv"));
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "fatal", "-y", "-rtsp_transport", transport, "-i"]);
        run(command.arg(relay.url(&camera.url)).args(["-map", "0", "-c", "copy", "-t", "3"]).arg(&file));
        let (seen, counts) = (Probe::read(&file).counts(), relay.counts());
        assert!(seen.0 > 60 && seen.1 > 100, "{seen:?}");
        assert_eq!(counts.passed > 0, transport == "udp", "{counts:?}");
        assert_eq!(counts.dropped > 0, transport == "udp" && percent > 0.0, "{counts:?}");
    }
}

#[test]
fn a_browser_publishes_through_it_and_sends_again_what_was_lost() {
    let (sender, receiver) = (Browser::open(), Browser::open());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let relay = WhipRelay::start(
        listener.local_addr().expect("an address"),
        Loss { percent: 5.0, seed: 1, rtp_only: true },
    );
    thread::scope(|scope| {
        scope.spawn(|| {
            for method in ["OPTIONS", "POST"] {
                assert_eq!(endpoint(&listener, &receiver), method);
            }
        });
        sender.publish(&relay.url("/whip/room/cam"), &Publish::av(Codec::Vp8));
    });
    wait_until("a packet is sent again and 60 pictures are shown", SOON, || {
        let (sent, seen) = (sender.stats(), receiver.stats());
        sent["video"]["retransmittedPacketsSent"].as_u64() > Some(0)
            && seen["videoReceived"]["framesDecoded"].as_u64() >= Some(60)
    });
    let counts = relay.counts();
    assert!(counts.dropped > 0 && counts.passed > 10 * counts.dropped, "{counts:?}");
    let sent = sender.stats()["video"]["packetsSent"].as_u64();
    assert!(sent.is_some_and(|sent| counts.passed > sent / 2), "{sent:?} sent, {counts:?}");
}

/// Answers one request as a WHIP endpoint whose media goes to the page of `receiver`; hands back the method.
fn endpoint(listener: &TcpListener, receiver: &Browser) -> String {
    let (mut socket, _) = listener.accept().expect("a request");
    let (method, offer) = read_request(&mut socket);
    let (status, body) = match method.as_str() {
        "OPTIONS" => ("204 No Content", String::new()),
        _ => {
            let answer = receiver.call(&format!("loopback({})", json!(offer))).expect("an answer");
            ("201 Created", answer.as_str().expect("SDP").to_owned())
        }
    };
    let length = body.len();
    write!(
        socket,
        "HTTP/1.1 {status}\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Headers: *\r\n\
         Access-Control-Expose-Headers: Location\r\nLocation: /whip/1\r\nContent-Type: application/sdp\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .expect("sent");
    method
}

fn read_request(socket: &mut TcpStream) -> (String, String) {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let count = socket.read(&mut chunk).expect("a request");
        bytes.extend(&chunk[..count]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_ascii_lowercase();
        let length =
            head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            let method = text.split(' ').next().expect("a method").to_owned();
            return (method, body.to_owned());
        }
    }
}
