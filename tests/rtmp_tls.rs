//! RTMPS, published here or pulled: the same recording as without TLS, and mistakes of either side told.

use serde_json::json;
use std::{
    fs,
    io::{self, Read},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use support::{
    daemon::{Daemon, House, SOON, file_of, text},
    flv::Flv,
    media::{Probe, Publisher, av_source, decode},
    play::{PlayServer, Viewer},
    wait::{wait_for, wait_until},
};

use tokio_rustls::rustls::{
    self, ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, ServerName},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";
const SENT: Duration = Duration::from_secs(60);

/// A house that offers RTMPS with a certificate for localhost.
fn house(limits: &str) -> House {
    let house = House::new(RECORD_ALL, limits);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(house.path("cert.pem"), made.cert.pem()).expect("written");
    fs::write(house.path("key.pem"), made.signing_key.serialize_pem()).expect("written");
    let toml = fs::read_to_string(house.path("reeld.toml")).expect("reeld.toml");
    let toml = toml.replace("[listen]\n", "[listen]\nrtmps = \"127.0.0.1:0\"\n");
    let tls = "[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";
    fs::write(house.path("reeld.toml"), format!("{toml}{tls}")).expect("written");
    house
}

fn rtmps(daemon: &Daemon) -> SocketAddr {
    let server = daemon.get("/api/v1/server");
    server["addresses"]["rtmps"].as_str().and_then(|a| a.parse().ok()).expect("an address")
}

fn push(input: &Path, url: &str, live: bool, verify: &str) -> Publisher {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error"]).args(live.then_some("-re")).arg("-i").arg(input);
    command.args(["-map", "0", "-c", "copy", "-flvflags", "no_duration_filesize", "-tls_verify", verify]);
    Publisher::spawn(command.args(["-f", "flv", url]))
}

#[test]
fn what_is_pushed_with_tls_is_in_the_file_to_the_last_frame() {
    let house = house("");
    let daemon = house.start(REELD);
    let address = rtmps(&daemon);
    for (name, input, live) in [("live", av_source(TMP, 4), true), ("fast", av_source(TMP, 20), false)] {
        push(&input, &format!("rtmps://{address}/live/{name}"), live, "0").finish(SENT);
        let file = file_of(&daemon.completed(name));
        let (sent, got) = (Probe::read(&input), Probe::read(&file));
        assert_eq!(got.counts(), sent.counts(), "{name}");
        assert_eq!(decode(&file), sent.video.len(), "{name}");
    }
    assert!(!daemon.log().contains("WARN"), "{}", daemon.log());
}

/// A publisher that trusts no certificate.
fn untrusting(address: SocketAddr) -> io::Error {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut socket = TcpStream::connect(address).expect("connected");
    socket.set_read_timeout(Some(SOON)).expect("a limit");
    tls.complete_io(&mut socket).expect_err("not trusted")
}

#[test]
fn mistakes_with_tls_are_told_and_end_in_time() {
    let house = house("handshake_timeout = \"1s\"");
    let daemon = house.start(REELD);
    let address = rtmps(&daemon);
    let input = av_source(TMP, 2);
    let told = |words: &str| wait_until(words, SOON, || daemon.log().contains(words));

    let error = untrusting(address).to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    told("the publisher does not trust the certificate in [tls] (UnknownCA)");

    let plain = Publisher::ffmpeg(&input, &format!("rtmp://{address}/live/x"), false).ended(SENT);
    assert!(!plain.0.success(), "rtmp:// to the rtmps port");
    told("it does not speak TLS: rtmps:// belongs to this port");

    let wrong = push(&input, &format!("rtmps://{}/live/x", daemon.rtmp()), false, "0").ended(SENT);
    assert!(!wrong.0.success(), "rtmps:// to the rtmp port");
    told("this is TLS: rtmps:// has a port of its own");

    let mut silent = TcpStream::connect(address).expect("connected");
    silent.set_read_timeout(Some(SOON)).expect("a limit");
    let begin = Instant::now();
    assert_eq!(silent.read(&mut [0; 8]).expect("closed in order"), 0);
    assert!((500..5000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    told("no TLS handshake within 1 s (handshake_timeout)");

    push(&input, &format!("rtmps://{address}/live/good"), false, "0").finish(SENT);
    assert_eq!(Probe::read(&file_of(&daemon.completed("good"))).counts(), Probe::read(&input).counts());
}

#[test]
fn reeld_check_names_the_file_that_is_wrong() {
    let house = house("");
    let check = || {
        let mut command = Command::new(REELD);
        let output =
            command.args(["check", "--config"]).arg(house.path("reeld.toml")).output().expect("it runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(check(), (true, String::new()));
    let other = rcgen::KeyPair::generate().expect("a key");
    fs::write(house.path("key.pem"), other.serialize_pem()).expect("written");
    let (good, said) = check();
    assert!(!good && said.contains("key.pem does not belong to the certificate in"), "{said}");
    fs::remove_file(house.path("cert.pem")).expect("removed");
    let (good, said) = check();
    assert!(!good && said.contains("cert.pem: No such file"), "{said}");
}

/// The daemon, trusting the certificates in `file` and no others.
fn trusting(house: &House, file: &Path) -> Daemon {
    let script = house.path("trusting");
    let text = format!("#!/bin/sh\nSSL_CERT_FILE={} SSL_CERT_DIR= exec {REELD} \"$@\"\n", file.display());
    fs::write(&script, text).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("its rights");
    house.start(script.to_str().expect("a path"))
}

/// A server's end of TLS on the next connection; the handshake runs with the first bytes.
fn secured(server: &PlayServer, config: &Arc<ServerConfig>) -> StreamOwned<ServerConnection, TcpStream> {
    StreamOwned::new(ServerConnection::new(config.clone()).expect("a server"), server.accept())
}

#[test]
fn what_is_pulled_with_tls_is_whole_and_only_from_who_is_vouched_for() {
    let house = House::new(RECORD_ALL, "");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(house.path("root.pem"), made.cert.pem()).expect("written");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key);
    let config = Arc::new(config.expect("they fit"));
    let server = PlayServer::new().expect("a server");
    let port = server.address().port();
    let input = av_source(TMP, 4);
    let flv = Flv::read(&input).expect("FLV");
    let add = |daemon: &Daemon, uri: &str, stream: &str| {
        let answer = daemon.post("/api/v1/sources", &json!({"uri": uri, "stream": stream}));
        format!("/api/v1/sources/{}", text(&answer.expect(201).json(), "id"))
    };
    let reason = |daemon: &Daemon, source: &str| {
        let waits = || Some(daemon.get(source)).filter(|s| s["state"] == "waiting");
        let reason = text(&wait_for("the source waits", SOON, waits), "reason");
        daemon.delete(source).expect(204);
        reason
    };

    let daemon = trusting(&house, &house.path("root.pem"));
    let source = add(&daemon, &format!("rtmps://localhost:{port}/live/cam"), "lobby/cam");
    let mut viewer = Viewer::greet(secured(&server, &config)).expect("a player");
    assert_eq!(viewer.tc_url, format!("rtmps://localhost:{port}/live"));
    viewer.play(&flv, 1).expect("played");
    drop(viewer);
    assert_eq!(reason(&daemon, &source), "the source closed the connection");
    let file = file_of(&daemon.completed("cam"));
    assert_eq!(Probe::read(&file).counts(), Probe::read(&input).counts());

    let source = add(&daemon, &format!("rtmps://127.0.0.1:{port}/live/cam"), "lobby/other");
    Viewer::greet(secured(&server, &config)).expect_err("another name");
    assert_eq!(reason(&daemon, &source), "the server's certificate is for another host name");

    let source = add(&daemon, &format!("rtmps://{}/live/cam", daemon.rtmp()), "lobby/plain");
    let told = reason(&daemon, &source);
    assert!(told.ends_with("is it rtmp:// and not rtmps://?"), "{told}");
    drop(daemon);

    let mut stranger = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("parameters");
    stranger.distinguished_name.push(rcgen::DnType::CommonName, "somebody else");
    let stranger = stranger.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("a certificate");
    fs::write(house.path("stranger.pem"), stranger.pem()).expect("written");
    let daemon = trusting(&house, &house.path("stranger.pem"));
    let source = add(&daemon, &format!("rtmps://localhost:{port}/live/cam"), "lobby/cam");
    Viewer::greet(secured(&server, &config)).expect_err("not trusted");
    let told = reason(&daemon, &source);
    assert!(told.starts_with("nobody whom this machine trusts vouches for the server"), "{told}");
}
