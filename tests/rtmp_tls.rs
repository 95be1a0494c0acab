//! RTMPS: the same recording as without TLS, and mistakes of either side told.

use std::{
    fs,
    io::{self, Read},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use support::{
    daemon::{Daemon, House, SOON, file_of},
    media::{Probe, Publisher, av_source, decode},
    wait::wait_until,
};

use tokio_rustls::rustls::{self, ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};

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
