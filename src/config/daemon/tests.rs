use super::*;
use proptest::prelude::*;

fn load(text: &str) -> (PathBuf, Loaded<DaemonConfig>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("reeld.toml");
    std::fs::write(&file, text).unwrap();
    (dir.path().canonicalize().unwrap(), DaemonConfig::load(&file))
}

fn clean(text: &str) -> (PathBuf, DaemonConfig) {
    let (dir, loaded) = load(text);
    let (config, warnings) = loaded.unwrap_or_else(|p| panic!("{text}: {p:?}"));
    assert_eq!(warnings, [], "{text}");
    (dir, config)
}

fn problems(text: &str) -> Vec<String> {
    let problems = load(text).1.expect_err(text);
    problems.iter().map(|p| format!("{}: {}", p.line, p.what)).collect()
}

#[test]
fn an_empty_file_works() {
    let (dir, config) = clean("");
    assert_eq!(config.listen.http.to_string(), "127.0.0.1:9091");
    assert_eq!(config.listen.rtmp.to_string(), "127.0.0.1:1935");
    assert_eq!(config.paths.records, dir.join("records"));
    assert_eq!(config.policy_file, dir.join("reeld.properties"));
    assert_eq!(config.catalog_file, dir.join("state/catalog.sqlite"));
    assert_eq!((config.limits, config.sync_interval), (Limits::default(), 5 * SECOND));
}

#[test]
fn each_key_sets_its_field() {
    let (dir, config) = clean(
        r#"
        [listen]
        http = "[::1]:0"
        rtmp = "0.0.0.0:0"
        [paths]
        records = "/r/./x/../y"
        hooks = "../h"
        pipelines = "p"
        state = "/s"
        [policy]
        file = "/etc/flashphoner.properties"
        [database]
        url = "sqlite://cat.db"
        [limits]
        publisher_timeout = "1m 30s"
        handshake_timeout = "500ms"
        shutdown_timeout = "2m"
        hook_timeout = "1h"
        hook_concurrency = 2
        max_connections = 5
        max_message_size = 65536
        recorder_queue = "1.5 GiB"
        recorder_memory = "3 GiB"
        connect_timeout = "20s"
        max_sources = 7
        preroll = "1m"
        preroll_memory = "100MiB"
        max_part_duration = "1h"
        [storage]
        sync_interval = "0s"
        "#,
    );
    assert_eq!(config.sync_interval, Duration::ZERO);
    assert_eq!(
        (config.listen.http.to_string(), config.listen.rtmp.to_string()),
        ("[::1]:0".into(), "0.0.0.0:0".into())
    );
    let expected = Paths {
        records: "/r/y".into(),
        hooks: dir.parent().unwrap().join("h"),
        pipelines: dir.join("p"),
        state: "/s".into(),
    };
    assert_eq!(config.paths, expected);
    assert_eq!(config.policy_file, Path::new("/etc/flashphoner.properties"));
    assert_eq!(config.catalog_file, dir.join("cat.db"));
    let expected = Limits {
        publisher_timeout: 90 * SECOND,
        handshake_timeout: Duration::from_millis(500),
        shutdown_timeout: 120 * SECOND,
        hook_timeout: HOUR,
        hook_concurrency: 2,
        max_connections: 5,
        max_message_bytes: 65536,
        recorder_queue_bytes: 1536 * MIB,
        recorder_memory_bytes: 3 * GIB,
        connect_timeout: 20 * SECOND,
        max_sources: 7,
        preroll: MINUTE,
        preroll_memory_bytes: 100 * MIB,
        max_part_duration: HOUR,
    };
    assert_eq!(config.limits, expected);
}

#[test]
fn every_known_key_is_read() {
    for (section, keys) in KNOWN {
        for key in *keys {
            let header = match section.strip_suffix("[]") {
                Some(list) => format!("[[{list}]]"),
                None => format!("[{section}]"),
            };
            // No key takes a date.
            let found = problems(&format!("{header}\n{key} = 2000-01-01\n"));
            assert!(found.iter().any(|p| p.starts_with(&format!("2: {key}: "))), "{found:?}");
        }
    }
}

#[test]
fn ways_in_are_read() {
    let (dir, config) = clean(
        r#"
        [listen]
        rtsp = "0.0.0.0:554"
        rtmps = "0.0.0.0:443"
        [webrtc]
        udp_ports = "40000-40009"
        announce_ip = "203.0.113.7"
        stun = "stun://stun.example.org:3478"
        turn = ["turns://u:p@turn.example.org:443"]
        ice_tcp = false
        [tls]
        certificate = "c.pem"
        key = "/k.pem"
        [[source]]
        uri = "rtsp://u:p@camera.lan/1"
        stream = "lobby/cam"
        transport = "udp"
        record = true
        [[source]]
        uri = "rtmp://relay.lan/live/x"
        [limits]
        allow_sources = ["10.0.0.0/8", "*.lan"]
        "#,
    );
    assert_eq!(config.listen.rtmps.map(|a| a.port()), Some(443));
    assert_eq!((config.webrtc.udp_ports, config.webrtc.turn.len()), (40_000..=40_009, 1));
    assert_eq!(config.tls.map(|t| (t.certificate, t.key)), Some((dir.join("c.pem"), "/k.pem".into())));
    let sources: Vec<_> =
        config.sources.iter().map(|s| (s.uri.as_str(), s.stream.as_deref(), s.record)).collect();
    assert_eq!(
        sources,
        [("rtsp://u:p@camera.lan/1", Some("lobby/cam"), true), ("rtmp://relay.lan/live/x", None, false)]
    );
    assert_eq!(config.allow_sources.allow.map(|a| a.len()), Some(2));
}

#[test]
fn limits_of_what_is_taken_on_are_read() {
    let (_, config) = clean("");
    assert_eq!(config.admission, Admission::default());
    let (_, config) =
        clean("[limits]\nmax_recordings = 3\nmax_sessions = 4\nmax_transcodes = 0\nmax_cpu = \"75 %\"\n");
    let max_cpu_percent = Some(75);
    let expected = Admission { max_recordings: 3, max_sessions: 4, max_transcodes: Some(0), max_cpu_percent };
    assert_eq!(config.admission, expected);
    assert_eq!(clean("[limits]\nmax_cpu = \"off\"").1.admission.max_cpu_percent, None);
    for value in ["\"100%\"", "\"9%\"", "\"90\"", "\"\"", "\"300%\"", "\"-50%\""] {
        let told = problems(&format!("[limits]\nmax_cpu = {value}"));
        let expected = format!(
            "2: max_cpu: {value} is no share of the processors; write \"10%\" to \"99%\", or \"off\""
        );
        assert_eq!(told, [expected]);
    }
    let told = problems("[limits]\nmax_cpu = 90");
    assert_eq!(told, ["2: max_cpu: expected a text, found integer; write for example \"90%\""]);
}

#[test]
fn a_mistake_in_a_way_in_says_what_to_write_instead() {
    for (text, expected) in [
        ("[[source]]\nstream = \"a/b\"", "1: a source needs uri = \"rtsp://HOST/PATH\""),
        (
            "[[source]]\nuri = \"http://x/\"",
            "2: uri: not a URL that works here; write \"rtsp://USER:PASSWORD@camera.lan/stream1\"; in a user or password, # / ? @ : are written %23 %2F %3F %40 %3A",
        ),
        (
            "[[source]]\nuri = \"rtsp://admin:hash#tag@camera.lan/1\"",
            "2: uri: not a URL that works here; write \"rtsp://USER:PASSWORD@camera.lan/stream1\"; in a user or password, # / ? @ : are written %23 %2F %3F %40 %3A",
        ),
        (
            "[[source]]\nuri = \"rtsp://x/\"\nstream = \"default/a\"\n[[source]]\nuri = \"rtsp://y/\"\nstream = \"/default/a\"",
            "6: stream: \"/default/a\" is the stream of another [[source]] already",
        ),
        (
            "[[source]]\nuri = \"rtsp://[fe80::1]/\"",
            "2: uri: fe80::1 is an address that [limits] allow_sources does not allow; list it there, or remove this source",
        ),
        (
            "[[source]]\nuri = \"rtsp://u:p@10.0.0.7:8554/x\"\n[limits]\nallow_sources = [\"192.168.0.0/16\"]",
            "2: uri: 10.0.0.7 is an address that [limits] allow_sources does not allow; list it there, or remove this source",
        ),
        (
            "[[source]]\nuri = \"rtsp://x/\"\n[[source]]\nuri = \"rtsp://x/\"",
            "4: this uri is another [[source]] already; remove one",
        ),
        (
            "[[source]]\nuri = \"rtsp://x/\"\ntransport = \"quic\"",
            "3: transport: \"quic\" is not a transport; write \"tcp\", \"udp\" or \"auto\"",
        ),
        (
            "[source]\nuri = \"rtsp://x/\"",
            "1: source is a list of sections; write [[source]] on a line of its own for each",
        ),
        (
            "[webrtc]\nudp_ports = \"5-1\"",
            "2: udp_ports: \"5-1\" is not a range of ports; write for example \"31000-31999\"",
        ),
        (
            "[listen]\nrtmps = \"127.0.0.1:1\"",
            "2: rtmps needs a certificate; write [tls] with certificate and key",
        ),
        ("[tls]\nkey = \"x\"", "2: [tls] needs both: certificate = \"FILE.pem\" and key = \"FILE.pem\""),
        (
            "[limits]\nallow_sources = [\"a/b\"]",
            "2: allow_sources: \"a/b\" is no address, block or host; write \"10.0.0.0/8\", \"192.168.1.7\", \"camera.lan\" or \"*.lan\"",
        ),
    ] {
        assert_eq!(problems(text), [expected], "{text}");
    }
}

#[test]
fn a_mistake_says_what_to_write_instead() {
    let cases = [
        (
            "[listen]\nhtp = \"\"",
            "2: unknown key in [listen]: \"htp\", did you mean http?; known are http, rtmp, rtmps, rtsp",
        ),
        (
            "[listn]",
            "1: unknown section: \"listn\", did you mean listen?; known are listen, paths, policy, webrtc, tls, source[], database, storage, limits",
        ),
        ("http = \"127.0.0.1:1\"", "1: http belongs to a section; write it under [listen]"),
        ("listen = 1", "1: listen is a section; write [listen] on a line of its own"),
        (
            "[listen]\nhttp = 9091",
            "2: http: expected a text, found integer; write for example \"127.0.0.1:9091\"",
        ),
        (
            "[listen]\nrtmp = \"localhost:1935\"",
            "2: rtmp: \"localhost:1935\" is not ADDRESS:PORT with a numeric address; write for example \"127.0.0.1:1935\"",
        ),
        ("[paths]\nstate = \"\"", "2: state: empty; write a path, for example \"state\""),
        ("[paths]\nstate = \"a\\u0000\"", "2: state: \"a\\0\" holds a control character; remove it"),
        (
            "[database]\nurl = \"postgres://u:p@h/d\"",
            "2: url: only SQLite is supported by this version; write sqlite:///ABSOLUTE/FILE, or \"\" for catalog.sqlite in the state folder",
        ),
        (
            "[limits]\npublisher_timeout = 10",
            "2: publisher_timeout: integer has no unit; write a duration from \"1s\" to \"1h\", like \"10s\" or \"500ms\"",
        ),
        (
            "[limits]\npublisher_timeout = \"10\"",
            "2: publisher_timeout: \"10\" is not a duration; write a duration from \"1s\" to \"1h\", like \"10s\" or \"500ms\"",
        ),
        (
            "[limits]\nhandshake_timeout = \"1h\"",
            "2: handshake_timeout: \"1h\" is out of range; write a duration from \"100ms\" to \"1m\", like \"10s\" or \"500ms\"",
        ),
        (
            "[limits]\nhook_concurrency = 0",
            "2: hook_concurrency: not a number that works here; write a whole number from 1 to 256, without quotes",
        ),
        (
            "[limits]\nmax_message_size = \"17MiB\"",
            "2: max_message_size: \"17MiB\" is out of range; write a size from \"64.0 KiB\" to \"16.0 MiB\", like \"8MiB\"",
        ),
        (
            "[limits]\nrecorder_queue = \"lots\"",
            "2: recorder_queue: \"lots\" is not a size; write a size from \"1.0 MiB\" to \"4.0 GiB\", like \"8MiB\"",
        ),
        (
            "[limits]\nrecorder_memory = \"16MiB\"",
            "2: recorder_memory is smaller than recorder_queue, so that no recorder can use its own; make it larger",
        ),
        (
            "[limits]\nrecorder_queue = \"1MiB\"",
            "2: recorder_queue is smaller than max_message_size, so one frame can overflow it; make it larger",
        ),
        (
            "[storage]\nsync_interval = \"1h\"",
            "2: sync_interval: \"1h\" is out of range; write a duration from \"0s\" to \"10m\", like \"10s\" or \"500ms\"",
        ),
        (
            "[limits]\nmax_part_duration = \"59s\"",
            "2: max_part_duration: \"59s\" is out of range; write a duration from \"1m\" to \"7days\", like \"10s\" or \"500ms\"",
        ),
        (
            "[limits]\npreroll = 30",
            "2: preroll: integer has no unit; write a duration from \"0s\" to \"10m\", like \"10s\" or \"500ms\"",
        ),
        (
            "[limits]\npreroll_memory = \"1KiB\"",
            "2: preroll_memory: \"1KiB\" is out of range; write a size from \"1.0 MiB\" to \"64.0 GiB\", like \"8MiB\"",
        ),
        (
            "[listen]\nhttp = \"127.0.0.1:1935\"",
            "2: http and rtmp both listen on 127.0.0.1:1935; give one of them another port",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(problems(text), [expected], "{text}");
    }
}

#[test]
fn all_mistakes_are_collected_in_line_order() {
    let text = "[listen]\nhttp = 127.0.0.1\nx = 1\nrtmp = \"x\"\n[limits]\nhook_timeout = \"0s\"\nhook_timeout = \"1s\"\n[zzz]\n";
    let lines: Vec<String> = problems(text).iter().map(|p| p.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["2", "3", "4", "6", "7", "8"]);
}

#[test]
fn memory_for_preroll_that_one_frame_fills_is_a_warning() {
    let (_, warnings) = load("[limits]\npreroll_memory = \"1MiB\"").1.unwrap();
    let told: Vec<_> = warnings.iter().map(|w| (w.line, w.severity)).collect();
    assert_eq!(told, [(2, crate::config::Severity::Warning)]);
}

#[test]
fn records_among_state_is_a_warning() {
    let (_, warnings) = load("[paths]\nrecords = \"a\"\nstate = \"./a\"").1.unwrap();
    assert_eq!(
        (warnings.len(), warnings[0].line, warnings[0].severity),
        (1, 3, crate::config::Severity::Warning)
    );
}

#[test]
fn text_that_is_not_utf8_names_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("reeld.toml");
    std::fs::write(&file, b"# a\n# \xff\n").unwrap();
    let problems = DaemonConfig::load(&file).unwrap_err();
    assert_eq!(problems, [Problem::error(&file, 2, "not UTF-8; save the file as UTF-8")]);
}

proptest! {
    #[test]
    fn any_text_is_taken_or_refused_without_a_panic(text in "([\\[\\]=\"'\n{}.,#0a]|http|listen|limits|.){0,40}") {
        let mut settings = Settings::parse(&text, Path::new("t"), KNOWN);
        let config = read(&mut settings, Path::new("/b"));
        cross_check(&mut settings, &config);
        prop_assert!(config.paths.records.is_absolute());
    }
}
