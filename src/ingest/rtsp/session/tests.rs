use super::*;
use crate::{
    ingest::rtsp::message::{Incoming, MessageError, MessageReader},
    media::Codec,
};
use gstreamer as gst;

const URL: &str = "rtsp://h/live/cam";
const SDP: &str =
    "v=0\r\nm=audio 0 RTP/AVP 8\r\na=control:track0\r\nm=audio 0 RTP/AVP 0\r\na=control:track1\r\n";
const TCP: &str = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1;mode=record\r\n";
const UDP: &str = "Transport: RTP/AVP;unicast;client_port=6000-6001;mode=record\r\n";
const ID: &str = "Session: 5e55\r\n";

fn session() -> Session {
    gst::init().expect("GStreamer");
    Session::new("5e55".into(), Duration::from_secs(10))
}

fn request(method: &str, control: &str, headers: &str, body: &str) -> Request<Vec<u8>> {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    parse(&format!("{method} {URL}{control} RTSP/1.0\r\nCSeq: 7\r\n{headers}{length}\r\n{body}"))
}

fn parse(text: &str) -> Request<Vec<u8>> {
    let mut requests = Vec::new();
    let read = MessageReader::default().read(text.as_bytes(), |incoming| {
        if let Incoming::Request(request) = incoming {
            requests.push(request);
        }
        Ok::<_, MessageError>(())
    });
    read.expect("a good request");
    requests.remove(0)
}

/// The event and the first line and headers of the answer.
fn ask(session: &mut Session, request: &Request<Vec<u8>>) -> (Event, String) {
    let event = session.handle(request);
    (event, String::from_utf8(session.outgoing()).expect("text"))
}

fn status(session: &mut Session, method: &str, control: &str, headers: &str) -> u16 {
    let body = if method == "ANNOUNCE" { SDP } else { "" };
    let (event, answer) = ask(session, &request(method, control, headers, body));
    let answer = match event {
        Event::Announce(_) | Event::Record => {
            session.accept();
            session.outgoing()
        }
        Event::Udp { .. } => {
            session.accept_udp((5000, 5001));
            session.outgoing()
        }
        Event::Answered | Event::Teardown => answer.into_bytes(),
    };
    let answer = String::from_utf8(answer).expect("text");
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"))
}

fn announced() -> Session {
    let mut session = session();
    assert_eq!(status(&mut session, "ANNOUNCE", "", ""), 200);
    session
}

fn recording() -> Session {
    let mut session = announced();
    assert_eq!(status(&mut session, "SETUP", "/track0", TCP), 200);
    assert_eq!(status(&mut session, "RECORD", "", ID), 200);
    session
}

#[test]
fn a_publisher_goes_from_announce_to_teardown() {
    let mut session = session();
    let (event, _) = ask(&mut session, &request("ANNOUNCE", "?record=true", "User-Agent: x\r\n", SDP));
    let Event::Announce(announced) = event else { panic!("{event:?}") };
    assert_eq!((announced.path.as_str(), announced.wants_record()), ("/live/cam", true));
    session.accept();
    assert!(session.outgoing().starts_with(b"RTSP/1.0 200 OK\r\n"));

    let (_, answer) = ask(&mut session, &request("SETUP", "/track1", TCP, ""));
    assert!(answer.contains("Transport: RTP/AVP/TCP;unicast;interleaved=0-1;mode=record\r\n"), "{answer}");
    assert!(answer.contains("Session: 5e55;timeout=10\r\n") && answer.contains("CSeq: 7\r\n"), "{answer}");
    let (event, _) = ask(&mut session, &request("SETUP", "/track0", UDP, ""));
    assert_eq!(event, Event::Udp { stream: 1, client_port: Some((6000, 6001)) });
    session.accept_udp((5000, 5001));
    let answer = String::from_utf8(session.outgoing()).expect("text");
    assert!(answer.contains(";client_port=6000-6001;server_port=5000-5001;mode=record\r\n"), "{answer}");

    assert_eq!(status(&mut session, "RECORD", "", ID), 200);
    let streams: Vec<_> = session.streams().iter().map(|s| (s.formats[0].codec, s.lower)).collect();
    assert_eq!(streams, [(Codec::Pcmu, Lower::Tcp), (Codec::Pcma, Lower::Udp)]);
    assert_eq!(session.channel(0), Some((0, PacketKind::Rtp)));
    assert_eq!(session.channel(1), Some((0, PacketKind::Rtcp)));
    assert_eq!(
        (session.channel(2), session.report_channel(0), session.report_channel(1)),
        (None, Some(1), None)
    );

    assert_eq!(status(&mut session, "GET_PARAMETER", "", ID), 200);
    let (event, answer) = ask(&mut session, &request("TEARDOWN", "", ID, ""));
    assert_eq!((event, &answer[..12]), (Event::Teardown, "RTSP/1.0 200"));
    assert_eq!(status(&mut session, "ANNOUNCE", "", ""), 200, "it may announce again");
}

#[test]
fn what_is_wrong_is_answered_with_its_status() {
    let multicast = "Transport: RTP/AVP;multicast;mode=record\r\n";
    let play = "Transport: RTP/AVP/TCP;interleaved=0-1;mode=play\r\n";
    type Case<'a> = (fn() -> Session, &'a str, &'a str, &'a str, u16);
    let cases: [Case<'_>; 26] = [
        (session, "OPTIONS", "", "", 200),
        (session, "DESCRIBE", "", "", 405),
        (session, "PLAY", "", "", 405),
        (session, "REDIRECT", "", "", 501),
        (session, "BREW", "", "", 501),
        (session, "OPTIONS", "", "Require: a\r\n", 551),
        (session, "ANNOUNCE", "", "Content-Type: text/plain\r\n", 415),
        (session, "SETUP", "/track0", TCP, 455),
        (session, "RECORD", "", "", 455),
        (session, "TEARDOWN", "", "", 455),
        (session, "GET_PARAMETER", "", "Session: other\r\n", 454),
        (announced, "ANNOUNCE", "", "", 455),
        (announced, "RECORD", "", "", 455),
        (announced, "PAUSE", "", "", 455),
        (announced, "SETUP", "/track0", "", 400),
        (announced, "SETUP", "/track0", multicast, 461),
        (announced, "SETUP", "/track0", play, 461),
        (announced, "SETUP", "/track7", TCP, 404),
        (announced, "SETUP", "", TCP, 459),
        (announced, "TEARDOWN", "", "", 200),
        (recording, "SETUP", "/track1", TCP, 455),
        (recording, "RECORD", "", "", 454),
        (recording, "TEARDOWN", "", "Session: other\r\n", 454),
        (recording, "PAUSE", "", ID, 200),
        (recording, "RECORD", "", ID, 200),
        (recording, "TEARDOWN", "", "Session: 5e55;timeout=10\r\n", 200),
    ];
    for (begin, method, control, headers, want) in cases {
        assert_eq!(status(&mut begin(), method, control, headers), want, "{method} {control} {headers}");
    }
    for (text, want) in [
        ("OPTIONS * RTSP/1.0\r\n\r\n", "400"),
        ("OPTIONS * RTSP/1.0\r\nCSeq: x\r\n\r\n", "400"),
        ("OPTIONS * RTSP/2.0\r\nCSeq: 1\r\n\r\n", "505"),
        ("ANNOUNCE * RTSP/1.0\r\nCSeq: 1\r\n\r\n", "400"),
        ("ANNOUNCE rtsp://h/a RTSP/1.0\r\nCSeq: 1\r\n\r\n", "400"),
    ] {
        let (event, answer) = ask(&mut session(), &parse(text));
        assert_eq!((event, answer.split(' ').nth(1)), (Event::Answered, Some(want)), "{text}");
    }
}

#[test]
fn an_announcement_of_what_cannot_be_received_says_which_codec() {
    for (sdp, name) in [
        ("v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 MP4V-ES/90000\r\n", "MP4V-ES"),
        ("v=0\r\nm=audio 0 RTP/AVP 3\r\n", "payload type 3"),
    ] {
        let (event, answer) = ask(&mut session(), &request("ANNOUNCE", "", "", sdp));
        let line = answer.lines().next().unwrap_or_default();
        assert_eq!(event, Event::Answered);
        assert!(line.starts_with("RTSP/1.0 415 ") && line.contains(name), "{line}");
    }
}

#[test]
fn a_refused_announcement_leaves_room_for_another() {
    let mut session = session();
    session.handle(&request("ANNOUNCE", "", "", SDP));
    session.refuse(StatusCode::Forbidden, "taken by\r\nX-Evil: 1 \u{e9}");
    let answer = String::from_utf8(session.outgoing()).expect("text");
    assert!(answer.starts_with("RTSP/1.0 403 Forbidden: taken by??X-Evil: 1 ?\r\n"), "{answer}");
    assert_eq!(status(&mut session, "ANNOUNCE", "", ""), 200);
}

#[test]
fn channels_that_are_taken_are_replaced() {
    let mut session = announced();
    assert_eq!(status(&mut session, "SETUP", "/track0", TCP), 200);
    let (_, answer) = ask(&mut session, &request("SETUP", "/track1", TCP, ""));
    assert!(answer.contains("interleaved=2-3"), "{answer}");
    // The same section again keeps its place.
    let (_, answer) = ask(&mut session, &request("SETUP", "/track0", TCP, ""));
    assert!(answer.contains("interleaved=0-1") && session.streams().len() == 2, "{answer}");
}

/// Once a publisher could have 16 streams, with 32 sockets and 128 MiB of units under way.
#[test]
fn a_publisher_has_only_so_many_streams() {
    let section = |n| format!("m=audio 0 RTP/AVP 8\r\na=control:track{n}\r\n");
    let sdp = format!("v=0\r\n{}", (0..=MAX_STREAMS).map(section).collect::<String>());
    let mut session = session();
    ask(&mut session, &request("ANNOUNCE", "", "", &sdp));
    session.accept();
    session.outgoing();
    for n in 0..MAX_STREAMS {
        assert_eq!(status(&mut session, "SETUP", &format!("/track{n}"), TCP), 200);
    }
    assert_eq!(status(&mut session, "SETUP", &format!("/track{MAX_STREAMS}"), TCP), 403);
    assert_eq!(status(&mut session, "SETUP", "/track0", TCP), 200, "once more");
}

#[test]
fn who_asks_without_end_is_found_out() {
    let mut session = session();
    for _ in 0..100 {
        session.handle(&request("OPTIONS", "", "", ""));
    }
    assert!(!session.is_flooded());
    while session.out.len() <= MAX_OUTGOING_BYTES {
        session.handle(&request("OPTIONS", "", "", ""));
    }
    assert!(session.is_flooded());
}

#[test]
fn no_password_of_an_announced_url_is_kept() {
    let mut session = session();
    let text = format!(
        "ANNOUNCE rtsp://user:secret@h/live/cam RTSP/1.0\r\nCSeq: 1\r\nContent-Length: {}\r\n\r\n{SDP}",
        SDP.len()
    );
    session.handle(&parse(&text));
    session.accept();
    assert_eq!(session.state, State::Announced);
    assert!(!format!("{session:?}").contains("secret"));
}

proptest::proptest! {
    #[test]
    fn whatever_the_order_every_request_has_one_answer(steps in proptest::collection::vec(
        (
            proptest::sample::select(vec![
                "OPTIONS", "ANNOUNCE", "SETUP", "RECORD", "PAUSE", "TEARDOWN", "GET_PARAMETER", "SET_PARAMETER", "PLAY", "X",
            ]),
            proptest::sample::select(vec!["", "/track0", "/track1", "?a"]),
            proptest::sample::select(vec!["", TCP, UDP, ID, "Session: x\r\nTransport: ,;=\r\n"]),
        ), 0..40))
    {
        let mut session = session();
        for (method, control, headers) in steps {
            let code = status(&mut session, method, control, headers);
            proptest::prop_assert!((200..600).contains(&code));
        }
    }
}
