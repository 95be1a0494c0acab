//! WHIP without media: what is answered to whom (RFC 9725), and that nothing stays behind of sessions that come to nothing.

use std::time::Duration;
use support::{
    browser::{Browser, Codec, Publish},
    daemon::{Daemon, House, SOON, file_of},
    http::{Answer, request_with},
    media::{Probe, decode},
    wait::{reached, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const POLICY: &str = "stream_record_policy=streamName\n";
const SDP: (&str, &str) = ("Content-Type", "application/sdp");
const FRAGMENT: (&str, &str) = ("Content-Type", "application/trickle-ice-sdpfrag");
/// What a browser offers, shortened. Nobody is behind it.
const OFFER: &str = "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
    a=fingerprint:sha-256 D2:B9:31:8F:DF:24:D8:0E:ED:D2:EF:25:9E:AF:6F:B8:34:AE:53:9C:E6:F3:8F:F2:64:15:FA:E8:7F:53:2D:38\r\n\
    a=setup:actpass\r\na=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=sendonly\r\na=rtcp-mux\r\n\
    a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\na=ssrc:3570614608 cname:x\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=sendonly\r\na=rtcp-mux\r\n\
    a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
    a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 transport-cc\r\na=rtcp-fb:96 nack\r\na=rtcp-fb:96 nack pli\r\n\
    a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\na=ssrc-group:FID 2231627014 632943048\r\n\
    a=ssrc:2231627014 cname:x\r\na=ssrc:632943048 cname:x\r\n";

fn send(daemon: &Daemon, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    request_with(daemon.http(), method, path, headers, body.as_bytes()).expect("an answer")
}

fn post(daemon: &Daemon, path: &str, offer: &str) -> Answer {
    send(daemon, "POST", path, &[SDP], offer)
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.header(name).unwrap_or_else(|| panic!("no {name} in {answer:?}"))
}

#[test]
fn an_offer_is_answered_as_the_rfc_says() {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    let created = post(&daemon, "/whip/court/cam%201?record=true", OFFER).expect(201);
    assert_eq!(header(&created, "content-type"), "application/sdp");
    assert_eq!(header(&created, "access-control-allow-origin"), "*");
    assert!(header(&created, "access-control-expose-headers").contains("Location"));
    let (session, etag) = (header(&created, "location"), header(&created, "etag"));
    for line in [
        "a=group:BUNDLE 0 1",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111",
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97",
        "a=recvonly",
        "a=rtcp-fb:96 nack",
        "a=rtcp-fb:96 nack pli",
        "a=rtcp-fb:96 transport-cc",
        "a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
        "a=rtpmap:97 rtx/90000",
        "a=end-of-candidates",
    ] {
        assert!(created.body.lines().any(|l| l == line), "{line} in {}", created.body);
    }
    assert!(created.body.contains(" 127.0.0.1 "), "a candidate for this machine in {}", created.body);
    let live = daemon.sessions();
    assert_eq!((&live[0]["name"], &live[0]["roomName"]), (&"cam 1".into(), &"court".into()));
    assert_eq!((&live[0]["protocol"], &live[0]["status"]), (&"webrtc".into(), &"PENDING".into()));

    let taken = post(&daemon, "/whip/court/cam%201", OFFER).expect(409);
    assert_eq!(taken.json()["type"], "/problems/name-taken");

    let trickle = "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n\
        a=mid:0\r\na=candidate:1 1 udp 2122260223 127.0.0.1 9 typ host\r\n\
        a=candidate:2 1 udp 2122194687 5c6a0aa5-1234.local 61765 typ host\r\na=end-of-candidates\r\n";
    let patch = |headers: &[(&str, &str)], body: &str| send(&daemon, "PATCH", session, headers, body);
    patch(&[FRAGMENT, ("If-Match", etag)], trickle).expect(204);
    patch(&[FRAGMENT], trickle).expect(428);
    patch(&[FRAGMENT, ("If-Match", "\"other\"")], trickle).expect(412);
    patch(&[FRAGMENT, ("If-Match", etag)], "hello").expect(400);
    patch(&[SDP, ("If-Match", etag)], trickle).expect(415);
    let many = "a=candidate:1 1 udp 2122260223 127.0.0.1 9 typ host\r\n".repeat(100);
    patch(&[FRAGMENT, ("If-Match", etag)], &many).expect(400);

    send(&daemon, "DELETE", session, &[], "").expect(200);
    assert_eq!(daemon.sessions().len(), 0, "it is gone when DELETE is answered");
    send(&daemon, "DELETE", session, &[], "").expect(404);
    patch(&[FRAGMENT, ("If-Match", etag)], trickle).expect(404);
    post(&daemon, "/whip/court/cam%201", OFFER).expect(201);
}

#[test]
fn every_codec_is_answered() {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    let fmtp = "a=fmtp:96 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";
    for codec in ["H264", "VP9", "AV1", "H265"] {
        let video = match codec {
            "H264" => format!("{codec}/90000\r\n{fmtp}"),
            _ => format!("{codec}/90000"),
        };
        let answer = post(&daemon, "/whip/cam", &OFFER.replace("VP8/90000", &video)).expect(201);
        for line in [&format!("a=rtpmap:96 {codec}/90000"), "a=rtpmap:97 rtx/90000", "a=rtcp-fb:96 nack pli"]
        {
            assert!(answer.body.lines().any(|l| l == line), "{line} in {}", answer.body);
        }
        send(&daemon, "DELETE", header(&answer, "location"), &[], "").expect(200);
    }
    for (name, pt) in [("PCMU", "0"), ("PCMA", "8")] {
        let offer = OFFER.replace("SAVPF 111", &format!("SAVPF {pt}"));
        let answer = post(&daemon, "/whip/cam", &offer).expect(201);
        let line = format!("a=rtpmap:{pt} {name}/8000");
        assert!(answer.body.contains(&line), "{line} in {}", answer.body);
        send(&daemon, "DELETE", header(&answer, "location"), &[], "").expect(200);
    }
}

#[test]
fn what_is_not_an_offer_is_refused_with_a_reason() {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    for path in ["/whip/a/b", "/whip-session/x"] {
        let preflight = send(&daemon, "OPTIONS", path, &[("Origin", "https://example.org")], "").expect(204);
        assert_eq!(header(&preflight, "access-control-allow-origin"), "*");
        assert!(header(&preflight, "access-control-allow-headers").contains("If-Match"));
    }
    let preflight = send(&daemon, "OPTIONS", "/whip/a/b", &[], "");
    assert_eq!(header(&preflight, "accept-post"), "application/sdp");
    let table = [
        ("POST", "/whip/a/b", vec![SDP], "hello".to_owned(), 400, "bad-sdp"),
        ("POST", "/whip/a/b", vec![("Content-Type", "application/json")], OFFER.into(), 415, "wrong-type"),
        ("POST", "/whip/a/b", vec![SDP, ("Accept", "text/html")], OFFER.into(), 406, "not-acceptable"),
        ("POST", "/whip/a/b", vec![SDP], OFFER.replace("sendonly", "recvonly"), 422, "unusable-offer"),
        ("POST", "/whip/a/b", vec![SDP], OFFER.replace("VP8", "FLV1"), 422, "unusable-offer"),
        ("POST", "/whip/a/b", vec![SDP], format!("{OFFER}a=simulcast:send h;l\r\n"), 422, "unusable-offer"),
        ("POST", "/whip/a/b", vec![SDP], "x".repeat(70_000), 413, "body-too-large"),
        ("POST", "/whip/", vec![SDP], OFFER.into(), 400, "bad-name"),
        ("POST", "/whip/a/b", vec![SDP], String::new(), 400, "bad-sdp"),
        ("POST", "/whip/a/b", vec![], OFFER.into(), 415, "wrong-type"),
        ("POST", "/whip/a/..", vec![SDP], OFFER.into(), 400, "bad-name"),
        ("GET", "/whip/a/b", vec![], String::new(), 405, "method-not-allowed"),
        ("POST", "/whip-session/x", vec![SDP], OFFER.into(), 405, "method-not-allowed"),
        ("DELETE", "/whip-session/x", vec![], String::new(), 404, "unknown-session"),
    ];
    for (method, path, headers, body, status, problem) in table {
        let answer = send(&daemon, method, path, &headers, &body).expect(status);
        assert_eq!(answer.json()["type"], format!("/problems/{problem}"), "{answer:?}");
        assert_eq!(header(&answer, "access-control-allow-origin"), "*");
    }
    let empty = "the body is empty; an SDP offer is expected (Content-Type: application/sdp)";
    let untyped = "the Content-Type header is missing; send Content-Type: application/sdp";
    for (headers, body, detail) in
        [(vec![SDP], "", empty), (vec![], "", empty), (vec![SDP], " \r\n", empty), (vec![], OFFER, untyped)]
    {
        assert_eq!(send(&daemon, "POST", "/whip/a/b", &headers, body).json()["detail"], detail);
    }
    assert_eq!(daemon.sessions().len(), 0);
}

#[test]
fn no_more_than_max_connections_are_taken() {
    let house = House::new(POLICY, "max_connections = 2\n");
    let daemon = house.start(REELD);
    let first = post(&daemon, "/whip/a", OFFER).expect(201);
    post(&daemon, "/whip/b", OFFER).expect(201);
    let full = post(&daemon, "/whip/c", OFFER).expect(503);
    assert_eq!(full.json()["type"], "/problems/busy");
    header(&full, "retry-after");
    send(&daemon, "DELETE", header(&first, "location"), &[], "").expect(200);
    post(&daemon, "/whip/c", OFFER).expect(201);
}

/// Two ports, and publishers one after the other: who found none free was once answered 201 without a candidate, and
/// the log blamed the firewall 15 s later. libnice also asked for a router (UPnP) from ports outside the range.
#[test]
fn a_publisher_that_finds_no_free_port_is_told_so() {
    // Below the ports that the kernel gives out, and not those of another run of this test.
    let start = 20_000 + (std::process::id() % 5_000) as u16 * 2;
    let range = start..=start + 1;
    let written = format!("{}-{}", range.start(), range.end());
    let house = House::new(POLICY, &format!("[webrtc]\nudp_ports = \"{written}\"\n"));
    let daemon = house.start(REELD);
    let mut taken = Vec::new();
    let full = loop {
        let answer = post(&daemon, &format!("/whip/cam{}", taken.len()), OFFER);
        if answer.status != 201 {
            break answer.expect(503);
        }
        assert!(answer.body.contains("a=candidate:"), "{}", answer.body);
        let ports = daemon.udp_ports();
        assert!(!ports.is_empty() && ports.iter().all(|port| range.contains(port)), "{ports:?}");
        taken.push(header(&answer, "location").to_owned());
        assert!(taken.len() <= 2, "more publishers than ports");
    };
    let detail = format!("no free port in [webrtc] udp_ports {written}; widen it");
    assert_eq!(full.json()["detail"], detail.as_str());
    header(&full, "retry-after");
    assert_eq!(daemon.sessions().len(), taken.len(), "nothing is left of who was refused");
    let metrics = daemon.request("GET", "/metrics", b"").body;
    assert!(metrics.contains("reeld_whip_refused_total 1\n"), "{metrics}");
    let log = daemon.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains(&detail)).collect();
    assert!(told.iter().filter(|line| line.contains("WARN")).count() == 1, "{told:?}");

    send(&daemon, "DELETE", &taken[0], &[], "").expect(200);
    post(&daemon, "/whip/again", OFFER).expect(201);
}

/// The first version of such servers left a thread, some sockets and a name behind for every page that was closed
/// while it connected.
#[test]
fn nothing_is_left_of_sessions_that_come_to_nothing() {
    let house = House::new(POLICY, "connect_timeout = \"1s\"\n");
    let daemon = house.start(REELD);
    let never_connect = |n: usize| {
        for i in 0..n {
            post(&daemon, &format!("/whip/never{i}"), OFFER).expect(201);
        }
        wait_until("they are given up", SOON, || daemon.sessions().is_empty());
        wait_until("their pipelines are gone", SOON, || {
            daemon.request("GET", "/metrics", b"").body.contains("whip_sessions 0")
        });
    };
    // What is made once, for the first session, stays.
    never_connect(5);
    let (threads, files) = settled(&daemon, (0, 0));
    let head = OFFER.find("a=rtpmap").expect("a codec");
    for i in 0..500 {
        let bad = match i % 3 {
            0 => OFFER.replace("VP8", "FLV1"),
            1 => OFFER[..head * i / 500].to_owned(),
            _ => format!("v=0\r\n{i}"),
        };
        let status = post(&daemon, &format!("/whip/bad{i}"), &bad).status;
        assert!((400..500).contains(&status), "{status}");
    }
    never_connect(100);
    let (threads_then, files_then) = settled(&daemon, (threads, files));
    println!("threads {threads} -> {threads_then}, files {files} -> {files_then}");
    assert!(threads_then <= threads + 2, "{threads} threads before, {threads_then} after");
    assert!(files_then <= files + 2, "{files} descriptors before, {files_then} after");
}

/// Threads and descriptors, once idle pool threads have ended: at most `wanted`, or what they come down to.
fn settled(daemon: &Daemon, wanted: (usize, usize)) -> (usize, usize) {
    // Pools of tokio and GLib let idle threads go after 10 to 15 s.
    reached(Duration::from_secs(20), || {
        let now = daemon.holdings();
        now.0 <= wanted.0 && now.1 <= wanted.1
    });
    daemon.holdings()
}

#[test]
fn a_browser_that_dies_and_one_that_is_ended_leave_whole_files() {
    let house = House::new(POLICY, "publisher_timeout = \"2s\"\n");
    let daemon = house.start(REELD);
    let url = |name: &str| format!("http://{}/whip/{name}?record=true", daemon.http());
    let browser = Browser::open();
    browser.publish(&url("kicked"), &Publish::av(Codec::Vp8));
    let id = daemon.session_id("kicked");
    daemon.wait_frames(&id, 100);
    daemon.delete(&format!("/api/v1/sessions/{id}")).expect(204);
    assert!(decode(&file_of(&daemon.completed("kicked"))) > 10);

    // A page that is left without DELETE closes its connection (DTLS close_notify).
    browser.publish(&url("closed"), &Publish::av(Codec::Vp8));
    daemon.wait_frames(&daemon.session_id("closed"), 100);
    browser.call("publisher.connection.close()").expect("closed");
    assert!(decode(&file_of(&daemon.completed("closed"))) > 10);
    assert!(daemon.log().contains("publish ended: the publisher said so"), "not by its silence");

    browser.publish(&url("killed"), &Publish::av(Codec::H264));
    daemon.wait_frames(&daemon.session_id("killed"), 100);
    browser.kill();
    assert!(decode(&file_of(&daemon.completed("killed"))) > 10);
    wait_until("the sessions are gone", SOON, || daemon.sessions().is_empty());
}

/// What a page does to restart ICE (RFC 9725 §4.3.3): its new credentials go out by PATCH, ours come back.
const RESTART: &str = "(async () => {
    const { connection, resource } = publisher;
    const answer = connection.remoteDescription.sdp;
    connection.restartIce();
    await connection.setLocalDescription();
    const offer = await gathered(connection);
    const of = (sdp, name) => sdp.match(new RegExp(`a=${name}:(\\\\S+)`))[1];
    const body = ['ice-ufrag', 'ice-pwd'].map((n) => `a=${n}:${of(offer, n)}\\r\\n`).join('')
        + `m=audio 9 UDP/TLS/RTP/SAVPF 0\\r\\na=mid:0\\r\\n`
        + (offer.match(/a=candidate:.*\\r\\n/g) ?? []).join('');
    const headers = { 'Content-Type': 'application/trickle-ice-sdpfrag', 'If-Match': '*' };
    const patched = await fetch(resource, { method: 'PATCH', headers, body });
    const text = await patched.text();
    if (patched.status !== 200) throw new Error(`${patched.status} ${text}`);
    let sdp = answer;
    for (const name of ['ice-ufrag', 'ice-pwd']) {
        sdp = sdp.replaceAll(new RegExp(`a=${name}:\\\\S+`, 'g'), `a=${name}:${of(text, name)}`);
    }
    await connection.setRemoteDescription({ type: 'answer', sdp });
    for (let waited = 0; !['connected', 'completed'].includes(connection.iceConnectionState); waited += 20) {
        if (waited > 10000) throw new Error(`ICE is ${connection.iceConnectionState}`);
        await pause(20);
    }
    return { before: of(answer, 'ice-ufrag'), after: of(text, 'ice-ufrag'), etag: patched.headers.get('ETag') };
})()";

#[test]
fn ice_is_restarted_and_the_stream_goes_on() {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    let browser = Browser::open();
    let url = format!("http://{}/whip/cam?record=true", daemon.http());
    browser.publish(&url, &Publish::av(Codec::Vp8));
    let id = daemon.session_id("cam");
    daemon.wait_frames(&id, 100);
    let told = browser.call(RESTART).expect("a restart");
    assert_ne!(told["before"], told["after"], "{told:#}");
    let frames = daemon.get(&format!("/api/v1/sessions/{id}"))["frames"].as_u64().expect("frames");
    daemon.wait_frames(&id, frames + 200);
    let sent = browser.stop();
    assert_eq!(sent["deleteStatus"], 200);
    let recording = daemon.completed("cam");
    assert_eq!(recording["lost"]["packets"], 0, "{recording:#}");
    assert!(decode(&file_of(&recording)) as u64 + 1 >= sent["video"]["framesSent"].as_u64().expect("frames"));
}

/// EOS racing a goodbye is how servers built of stock elements lose the last frames of most files.
#[test]
fn the_last_picture_before_delete_is_in_the_file() {
    let rounds = std::env::var("REELD_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    let browser = Browser::open();
    let mut missing = Vec::new();
    for round in 0..rounds {
        let name = format!("cam{round}");
        let url = format!("http://{}/whip/{name}?record=true", daemon.http());
        browser.publish(&url, &Publish::av(if round % 2 == 0 { Codec::H264 } else { Codec::Vp8 }));
        daemon.wait_frames(&daemon.session_id(&name), 60);
        let sent = browser.stop()["video"]["framesSent"].as_u64().expect("frames");
        let recording = daemon.completed(&name);
        let file = file_of(&recording);
        let (shown, late_ms) = (decode(&file) as u64, Probe::read(&file).offset_ms());
        missing.extend((shown != sent).then(|| {
            let lost = &recording["lost"];
            format!(
                "{name}: {sent} sent, {shown} in the file, the first {late_ms} ms after sound; lost: {lost}"
            )
        }));
    }
    println!("{} of {rounds} files are whole", rounds - missing.len());
    assert!(missing.is_empty(), "{missing:#?}");
}
