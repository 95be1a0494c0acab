//! The end of a publish, and the return of an encoder: as OBS, ffmpeg and crashed encoders do it.

use std::{
    net::Shutdown,
    path::PathBuf,
    time::{Duration, Instant},
};
use support::{
    amf0::Value as Amf,
    daemon::{Daemon, House, SOON, file_of},
    flv::{Due, Flv, Kind},
    live::{publish_at_once, send, send_headers},
    media::{AAC, AUDIO, H264, Packet, Probe, VIDEO, av_source, source},
    rtmp::{Client, RtmpError, encode_media},
    wait::{reached, wait_for},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
enum Goodbye {
    FcUnpublish,
    DeleteStream,
    CloseStream,
    Close,
    Reset,
}

impl Goodbye {
    fn say(self, mut client: Client, name: &str) {
        let id = client.stream_id();
        let said = match self {
            Self::FcUnpublish => client.send_command("FCUnpublish", 0, vec![Amf::Null, Amf::string(name)]),
            Self::DeleteStream => {
                client.send_command("deleteStream", 0, vec![Amf::Null, Amf::Number(id.into())])
            }
            Self::CloseStream => client.send_command("closeStream", id, vec![Amf::Null]),
            Self::Close => Ok(0.0),
            Self::Reset => return client.reset().expect("reset"),
        };
        said.expect("sent");
        let socket = client.into_socket();
        socket.shutdown(Shutdown::Write).expect("closed");
    }
}

/// Packets and the sizes of the last ones.
fn tail(packets: &[Packet]) -> (usize, Vec<usize>) {
    (packets.len(), packets.iter().rev().take(5).map(|p| p.size).collect())
}

#[test]
fn the_last_frame_is_in_the_file_however_a_publish_ends_50_times_of_50() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    // Small enough for a socket's buffer, so that all has arrived when the end comes.
    let small: &[&str] = &["-b:v", "100k", "-maxrate", "100k", "-bufsize", "50k", "-s", "160x90"];
    let sources: Vec<PathBuf> = vec![
        source(TMP, "end_av.flv", &[VIDEO, AUDIO, &["-t", "1"], H264, AAC, small]),
        source(TMP, "end_v.flv", &[VIDEO, &["-t", "1"], H264, small]),
        source(TMP, "end_a.flv", &[AUDIO, &["-t", "1"], AAC]),
    ];
    let sources: Vec<_> = sources.iter().map(|file| Flv::read(file).expect("an FLV file")).collect();
    let ends =
        [Goodbye::FcUnpublish, Goodbye::DeleteStream, Goodbye::CloseStream, Goodbye::Close, Goodbye::Reset];
    let rounds: Vec<_> = (0..50).map(|n| (format!("end{n}"), ends[n % 5], &sources[n / 5 % 3])).collect();
    for (name, end, flv) in &rounds {
        let mut client = Client::publish(daemon.publish_options("live", name)).expect("accepted");
        send_headers(&mut client, flv, 0).expect("sent");
        // In one write: a reset throws away what the sender's own kernel still holds.
        let (mut bytes, id, size) = (Vec::new(), client.stream_id(), client.chunk_size());
        for Due { kind, timestamp_ms, payload } in flv.timeline(SECOND) {
            encode_media(&mut bytes, kind, id, timestamp_ms, payload, size);
        }
        client.send_raw(&bytes).expect("sent");
        end.say(client, name);
    }
    for (name, end, flv) in &rounds {
        let got = Probe::read(&file_of(&daemon.completed(name)));
        let timeline = flv.timeline(SECOND);
        let sizes = |kind: Kind| {
            let head = if kind == Kind::Video { 5 } else { 2 };
            let sent = timeline.iter().filter(|due| due.kind == kind).map(|due| due.payload.len() - head);
            let mut sizes: Vec<usize> = sent.collect();
            let count = sizes.len();
            sizes.reverse();
            sizes.truncate(5);
            (count, sizes)
        };
        assert_eq!(tail(&got.video), sizes(Kind::Video), "{name}: pictures after {end:?}");
        assert_eq!(tail(&got.audio), sizes(Kind::Audio), "{name}: sounds after {end:?}");
    }
}

/// OBS asks in this order, does not wait for the first two answers, and ends so (29.0, `rtmp-stream.c` and librtmp).
#[test]
fn obs_publishes_leaves_and_returns_under_its_name() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let flv = Flv::read(&av_source(TMP, 2)).expect("an FLV file");
    let options = || {
        let mut options = daemon.publish_options("live", "obs");
        options.connect =
            ["swfUrl", "pageUrl"].map(|key| (key.to_owned(), Amf::string("rtmp://h/live"))).into();
        options
    };
    for round in 1..=3 {
        let mut client = Client::publish(options()).expect("accepted");
        send_headers(&mut client, &flv, 0).expect("sent");
        for Due { kind, timestamp_ms, payload } in flv.timeline(Duration::from_secs(2)) {
            send(&mut client, kind, timestamp_ms, payload).expect("sent");
        }
        match round {
            // Stop Streaming.
            1 => client.unpublish().expect("a good end"),
            // The connection breaks, and OBS returns after 2 s or more; the daemon has seen the reset by then.
            2 => {
                client.reset().expect("reset");
                wait_for("the name is free", SOON, || daemon.sessions().is_empty().then_some(()));
            }
            _ => client.disconnect().expect("closed"),
        }
    }
    assert!(reached(SOON, || {
        let recordings = daemon.recordings("obs");
        recordings.len() == 3 && recordings.iter().all(|r| r["status"] == "completed")
    }));
}

/// A connection that the network cut looks alive for `publisher_timeout`. An encoder that is told meanwhile that its
/// name is taken gives up, OBS for good.
#[test]
fn an_encoder_whose_connection_died_silently_gets_its_name_back() {
    let house = House::new(RECORD_ALL, "publisher_timeout = \"60s\"");
    let daemon = house.start(REELD);
    let flv = Flv::read(&av_source(TMP, 2)).expect("an FLV file");
    let length = Duration::from_secs(2);
    let dead = publish_at_once(daemon.publish_options("live", "cam"), &flv, length).expect("all is taken");
    let first = daemon.session_id("cam");
    let begin = Instant::now();
    let again = || match Client::publish(daemon.publish_options("live", "cam")) {
        Ok(client) => Some(client),
        Err(RtmpError::Refused(status)) => {
            assert_eq!(status.code, "NetStream.Publish.BadName", "{status:?}");
            None
        }
        Err(other) => panic!("{other}"),
    };
    let mut client = wait_for("the name again", SOON, again);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    send_headers(&mut client, &flv, 0).expect("sent");
    for Due { kind, timestamp_ms, payload } in flv.timeline(length) {
        send(&mut client, kind, timestamp_ms, payload).expect("sent");
    }
    assert_ne!(daemon.session_id("cam"), first);
    client.unpublish().expect("a good end");
    drop(dead);
    assert_both_whole(&daemon, &flv, length);
}

fn assert_both_whole(daemon: &Daemon, flv: &Flv, length: Duration) {
    let both = wait_for("both recordings", SOON, || {
        let all = daemon.recordings("cam");
        (all.len() == 2 && all.iter().all(|r| r["status"] == "completed")).then_some(all)
    });
    let timeline = flv.timeline(length);
    let video = timeline.iter().filter(|due| due.kind == Kind::Video).count();
    for recording in both {
        let got = Probe::read(&file_of(&recording));
        assert_eq!(got.counts(), (video, timeline.len() - video), "{recording:#}");
    }
}
