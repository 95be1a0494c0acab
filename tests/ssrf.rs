//! What is sent out goes to public hosts and to those that the operator lists, whatever a caller, a name or a redirect says.

use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};
use support::{
    daemon::{Daemon, House, SOON, text},
    live::Live,
    media::av_source,
    receiver::{Mood, Receiver},
    wait::{wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const POLICY: &str = "stream_record_policy=streamName\n";

fn house(allow: &[&str]) -> House {
    House::new(POLICY, &format!("allow_delivery = {allow:?}\n[delivery]\nwebhook_secret = \"{SECRET}\"\n"))
}

fn start(daemon: &Daemon, session: &str, url: &str) -> support::http::Answer {
    daemon.post(&format!("/api/v1/sessions/{session}/recording"), &json!({"webhookUrl": url}))
}

/// Records a little of `session` with news to `url`; the recording's id.
fn record(daemon: &Daemon, session: &str, url: &str) -> String {
    let id = text(&start(daemon, session, url).expect(201).json(), "id");
    daemon.delete(&format!("/api/v1/sessions/{session}/recording")).expect(200);
    id
}

/// The error of a delivery of the recording, once there is one.
fn error_of(daemon: &Daemon, recording: &str) -> String {
    wait_for("a delivery has failed", SOON, || {
        let recording = daemon.get(&format!("/api/v1/recordings/{recording}"));
        let deliveries = recording["deliveries"].as_array()?.clone();
        deliveries.iter().find_map(|d: &Value| d["error"].as_str().map(str::to_owned))
    })
}

#[test]
fn an_address_that_is_not_listed_is_refused_in_every_notation() {
    let receiver = Receiver::start(SECRET);
    let house = house(&["10.0.0.0/8"]);
    let daemon = house.start(REELD);
    let live = Live::start(daemon.publish_options("live", "cam"), &av_source(TMP, 2));
    let session = daemon.session_id("cam");
    let port = receiver.port();
    for host in [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "0.0.0.0",
        "[::]",
        "169.254.169.254",
        "192.168.1.1",
        "[fd00:ec2::254]",
        "[fe80::1%25lo]",
    ] {
        let refused =
            start(&daemon, &session, &format!("http://user:hunter2@{host}:{port}/hunter2?k=hunter2"));
        let refused = refused.expect(400);
        let problem = refused.json();
        assert_eq!(problem["type"], "/problems/delivery-not-allowed", "{host}: {problem}");
        assert!(text(&problem, "detail").starts_with("webhookUrl: "), "{problem}");
        assert!(!refused.body.contains("hunter2"), "{problem}");
    }
    for url in ["ftp://example.org/", "http://", "nonsense", "http://example.org:0/"] {
        start(&daemon, &session, url).expect(400);
    }
    assert!(daemon.recordings("cam").is_empty(), "nothing was recorded");
    assert!(receiver.calls().is_empty());
    live.stop().expect("a good end");
}

/// What a name resolves to is known when it is connected to.
#[test]
fn a_name_and_a_redirect_lead_nowhere_that_is_not_listed() {
    let (redirecting, inner) = (Receiver::start(SECRET), Receiver::start(SECRET));
    let house = house(&["127.0.0.1"]);
    let daemon = house.start(REELD);
    let live = Live::start(daemon.publish_options("live", "cam"), &av_source(TMP, 2));
    let session = daemon.session_id("cam");
    let refused = "[limits] allow_delivery does not list";
    let port = inner.port();
    for to in [
        format!("http://127.0.0.2:{port}/hunter2"),
        format!("http://2130706434:{port}/"),
        format!("http://[::ffff:127.0.0.2]:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        format!("http://[::1]:{port}/"),
    ] {
        redirecting.set(Mood::redirect(307, &to));
        let recording = record(&daemon, &session, &redirecting.url());
        let error = error_of(&daemon, &recording);
        assert!(error.contains("redirects, and") && error.contains(refused), "{to}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    // The one that is listed is followed to.
    redirecting.set(Mood::redirect(308, &inner.url()));
    record(&daemon, &session, &redirecting.url());
    wait_until("it is told", SOON, || inner.accepted_count() == 3);
    assert!(inner.calls().iter().all(|call| call.verified));
    assert!(daemon.log().contains(refused), "the log tells it");
    live.stop().expect("a good end");
}

/// A daemon whose names come from a file `hosts` of the test: in a mount namespace of its own.
fn in_own_names(house: &House, hosts: &str) -> Daemon {
    let (names, program) = (house.path("hosts"), house.path("reeld.sh"));
    fs::write(&names, hosts).expect("written");
    let script = format!(
        "#!/bin/sh\nexec unshare --mount --map-root-user /bin/sh -c \
         'mount --bind \"$0\" /etc/hosts && exec \"$@\"' {names:?} {REELD:?} \"$@\"\n"
    );
    fs::write(&program, script).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its rights");
    house.start(program.to_str().expect("UTF-8"))
}

#[test]
fn a_name_that_changes_its_address_is_followed_only_to_what_is_listed() {
    let mut receiver = Receiver::start(SECRET);
    let inner = Receiver::start_at(SECRET, ([127, 0, 0, 2], receiver.port()).into());
    let house = house(&["127.0.0.1"]);
    let daemon = in_own_names(&house, "127.0.0.1 hook.test localhost\n");
    let hosts = |text: &str| fs::write(house.path("hosts"), text).expect("written");
    let live = Live::start(daemon.publish_options("live", "cam"), &av_source(TMP, 2));
    let session = daemon.session_id("cam");
    let url = format!("http://hook.test:{}/", receiver.port());
    record(&daemon, &session, &url);
    wait_until("it is told", SOON, || receiver.accepted_count() == 3);

    // The name is pointed at what is not listed. Its connections are cut, so that it is resolved again.
    hosts("127.0.0.2 hook.test\n");
    receiver.close();
    receiver.open();
    let recording = record(&daemon, &session, &url);
    let error = error_of(&daemon, &recording);
    assert!(error.contains("127.0.0.2 is a loopback address") && error.contains("hook.test"), "{error}");
    assert!(inner.calls().is_empty(), "it was followed");

    // And back: what was refused is delivered.
    hosts("127.0.0.1 hook.test\n");
    wait_until("it is told", 3 * SOON, || receiver.accepted_count() == 6);

    // It changes all the time, between a check and a connection too: only the listed address is ever called.
    receiver.set(Mood::Answer { status: 200, headers: "Connection: close\r\n".into() });
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for address in ["127.0.0.1", "127.0.0.2"] {
                    hosts(&format!("{address} hook.test\n"));
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        for _ in 0..10 {
            record(&daemon, &session, &url);
        }
        over.store(true, Ordering::Relaxed);
    });
    hosts("127.0.0.1 hook.test\n");
    wait_until("all is told", 5 * SOON, || receiver.accepted_count() == 36);
    assert!(inner.calls().is_empty(), "it was followed");
    live.stop().expect("a good end");
    daemon.signal(Signal::TERM);
}
