use super::*;
use crate::ingest::rtmp::chunk::{ChunkLimits, ChunkReader};
use proptest::prelude::*;

fn raw(type_id: u8, stream_id: u32, payload: Vec<u8>) -> RawMessage {
    RawMessage { csid: 3, type_id, stream_id, timestamp_ms: 0, payload }
}

fn command<'a>(stream_id: u32, name: &'a str, transaction: f64, args: &[Value<'a>]) -> RawMessage {
    let values = [&[amf::text(name), Value::Number(transaction)], args].concat();
    raw(type_id::COMMAND_AMF0, stream_id, amf::encode(&values))
}

fn connect(app: &str) -> RawMessage {
    let url = format!("rtmp://h/{app}");
    let object = [("app", amf::text(app)), ("tcUrl", amf::text(&url)), ("flashVer", amf::text("LNX 1"))];
    command(0, "connect", 1.0, &[amf::object(object)])
}

/// A peer: feeds messages and understands the answers.
struct Peer {
    session: Session,
    reader: ChunkReader,
}

impl Peer {
    fn new() -> Self {
        Self { session: Session::default(), reader: ChunkReader::new(ChunkLimits::default()) }
    }

    fn publishing(name: &str) -> Self {
        let mut peer = Self::new();
        peer.say(connect("ROOM"));
        peer.say(command(0, "createStream", 2.0, &[Value::Null]));
        let event = peer.say(command(1, "publish", 3.0, &[Value::Null, amf::text(name)]));
        assert!(matches!(event, Some(Event::Publish(_))));
        peer.session.accept_publish();
        peer.answers();
        peer
    }

    fn say(&mut self, message: RawMessage) -> Option<Event> {
        self.session.handle(message).unwrap()
    }

    fn messages(&mut self) -> Vec<RawMessage> {
        let bytes = self.session.outgoing();
        let mut input = &bytes[..];
        std::iter::from_fn(|| self.reader.next(&mut input).unwrap()).collect()
    }

    /// Command answers as `stream name transaction: what`, other messages as their type id.
    fn answers(&mut self) -> Vec<String> {
        self.messages().iter().map(describe).collect()
    }
}

fn describe(message: &RawMessage) -> String {
    if message.type_id != type_id::COMMAND_AMF0 {
        return format!("type {}", message.type_id);
    }
    let command = Command::parse(&message.payload).unwrap();
    let info = command.args.last().expect("an argument");
    let what = match info {
        Value::Number(number) => number.to_string(),
        Value::Null => "null".into(),
        info => amf::member(info, "code").and_then(amf::as_text).unwrap_or("?").to_owned(),
    };
    format!("{} {} {}: {what}", message.stream_id, command.name, command.transaction)
}

fn path_of(event: Option<Event>) -> String {
    match event {
        Some(Event::Publish(request)) => request.path,
        other => panic!("not a publish: {other:?}"),
    }
}

const CONNECTED: [&str; 3] = ["type 5", "type 6", "0 _result 1: NetConnection.Connect.Success"];

#[test]
fn ffmpeg_publishes() {
    let mut peer = Peer::new();
    assert_eq!(peer.say(connect("ROOM")), None);
    assert_eq!(peer.answers(), CONNECTED);
    let name = || amf::text("STREAM?record=true");
    peer.say(command(0, "releaseStream", 2.0, &[Value::Null, name()]));
    peer.say(command(0, "FCPublish", 3.0, &[Value::Null, name()]));
    peer.say(command(0, "createStream", 4.0, &[Value::Null]));
    let want = ["0 _result 2: null", "0 onFCPublish 0: NetStream.Publish.Start", "0 _result 4: 1"];
    assert_eq!(peer.answers(), want);

    let event = peer.say(command(1, "publish", 5.0, &[Value::Null, name(), amf::text("live")]));
    let request = PublishRequest {
        path: "ROOM/STREAM".into(),
        query: vec![("record".into(), "true".into())],
        flash_ver: "LNX 1".into(),
    };
    assert_eq!(event, Some(Event::Publish(request)));
    assert!(peer.answers().is_empty(), "the answer is the server's to give");
    peer.session.accept_publish();
    assert_eq!(peer.answers(), ["type 4", "1 onStatus 0: NetStream.Publish.Start"]);

    let metadata = amf::object([("width", Value::Number(640.0)), ("height", Value::Number(360.0))]);
    let body = amf::encode(&[amf::text("@setDataFrame"), amf::text("onMetaData"), metadata]);
    let want = Metadata { width: Some(640), height: Some(360), ..Metadata::default() };
    assert_eq!(peer.say(raw(type_id::DATA_AMF0, 1, body)), Some(Event::Metadata(want)));
    let audio = peer.say(raw(type_id::AUDIO, 1, vec![0xAF, 1, 2]));
    assert_eq!(audio, Some(Event::Audio { timestamp_ms: 0, payload: vec![0xAF, 1, 2] }));

    assert_eq!(peer.say(command(0, "FCUnpublish", 6.0, &[Value::Null, name()])), Some(Event::Unpublish));
    assert_eq!(peer.say(command(0, "deleteStream", 7.0, &[Value::Null, Value::Number(1.0)])), None);
    assert_eq!(peer.answers(), ["1 onStatus 0: NetStream.Unpublish.Success"]);
}

#[test]
fn obs_publishes_with_a_bandwidth_check_and_amf3() {
    let mut peer = Peer::new();
    let mut hello = connect("ROOM/STREAM?record=true");
    (hello.type_id, hello.payload) = (type_id::COMMAND_AMF3, [vec![0], hello.payload].concat());
    peer.say(hello);
    assert_eq!(peer.answers(), CONNECTED);
    peer.say(raw(type_id::WINDOW_ACK_SIZE, 0, 2_500_000u32.to_be_bytes().to_vec()));
    peer.say(command(0, "releaseStream", 2.0, &[Value::Null, amf::text("")]));
    peer.say(command(0, "FCPublish", 3.0, &[Value::Null, amf::text("")]));
    peer.say(command(0, "createStream", 4.0, &[Value::Null]));
    peer.say(command(0, "_checkbw", 5.0, &[Value::Null]));
    peer.say(command(0, "getStreamLength", 6.0, &[Value::Null]));
    assert_eq!(peer.answers().len(), 3);
    let args = [Value::Null, amf::text(""), amf::text("live")];
    assert_eq!(path_of(peer.say(command(1, "publish", 5.0, &args))), "ROOM/STREAM");
}

#[test]
fn rtmp2sink_publishes_without_waiting_for_results() {
    let mut peer = Peer::new();
    peer.say(connect("ROOM"));
    peer.say(command(0, "releaseStream", 0.0, &[Value::Null, amf::text("STREAM")]));
    peer.say(command(0, "FCPublish", 0.0, &[Value::Null, amf::text("STREAM")]));
    peer.say(command(0, "createStream", 2.0, &[Value::Null]));
    let answers = peer.answers();
    assert_eq!(answers[3..], ["0 onFCPublish 0: NetStream.Publish.Start", "0 _result 2: 1"]);
    let event = peer.say(command(1, "publish", 0.0, &[Value::Null, amf::text("STREAM"), amf::text("live")]));
    assert_eq!(path_of(event), "ROOM/STREAM");
    peer.session.accept_publish();
    assert_eq!(peer.say(command(1, "closeStream", 0.0, &[Value::Null])), Some(Event::Unpublish));
    peer.answers();
    let again = peer.say(command(1, "publish", 0.0, &[Value::Null, amf::text("OTHER")]));
    assert_eq!(path_of(again), "ROOM/OTHER", "a connection may publish again");
}

#[test]
fn a_refusal_is_told_and_opens_nothing() {
    let mut peer = Peer::new();
    peer.say(connect("ROOM"));
    peer.say(command(0, "createStream", 2.0, &[Value::Null]));
    peer.say(command(1, "publish", 3.0, &[Value::Null, amf::text("STREAM")]));
    peer.answers();
    peer.session.refuse_publish("NetStream.Publish.BadName", "ROOM/STREAM is live already");
    assert_eq!(peer.answers(), ["1 onStatus 0: NetStream.Publish.BadName"]);
    peer.session.accept_publish();
    assert!(peer.answers().is_empty());
    assert_eq!(peer.say(raw(type_id::VIDEO, 1, vec![0x17, 1])), None);
}

#[test]
fn misbehaviour_is_named() {
    let publish = |stream_id| command(stream_id, "publish", 3.0, &[Value::Null, amf::text("OTHER")]);
    let cases = [
        (Peer::new(), publish(1), SessionError::NotConnected("publish".into()), vec![]),
        (Peer::publishing("S"), connect("ROOM"), SessionError::SecondConnect, vec![]),
        (
            Peer::publishing("S"),
            publish(1),
            SessionError::SecondPublish { name: "OTHER".into() },
            vec!["1 onStatus 0: NetStream.Publish.BadName"],
        ),
        (
            Peer::publishing("S"),
            raw(type_id::COMMAND_AMF0, 0, vec![b'a'; 70_000]),
            SessionError::Message(MessageError::TooLong { length: 70_000 }),
            vec![],
        ),
        (
            Peer::publishing("S"),
            raw(type_id::COMMAND_AMF0, 0, vec![2, 0, 9, b'x']),
            SessionError::Message(MessageError::Amf(amf::AmfError::Truncated { needed: 9, have: 1 })),
            vec![],
        ),
    ];
    for (mut peer, message, want, answers) in cases {
        assert_eq!(peer.session.handle(message), Err(want));
        assert_eq!(peer.answers(), answers);
    }
    let mut peer = Peer::new();
    peer.say(connect("ROOM"));
    assert_eq!(peer.session.handle(publish(1)), Err(SessionError::NoSuchStream(1)));
}

#[test]
fn play_is_refused() {
    let mut peer = Peer::new();
    peer.say(connect("ROOM"));
    peer.say(command(0, "createStream", 2.0, &[Value::Null]));
    peer.answers();
    let event = peer.say(command(1, "play", 0.0, &[Value::Null, amf::text("STREAM")]));
    assert_eq!(event, Some(Event::Close(CloseReason::Play)));
    assert_eq!(peer.answers(), ["1 onStatus 0: NetStream.Play.StreamNotFound"]);
}

#[test]
fn stream_ids_count_up_and_end() {
    let mut peer = Peer::new();
    peer.say(connect("ROOM"));
    peer.answers();
    for id in 1..=MAX_STREAMS {
        peer.say(command(0, "createStream", 2.0, &[Value::Null]));
        assert_eq!(peer.answers(), [format!("0 _result 2: {id}")]);
    }
    let more = peer.session.handle(command(0, "createStream", 2.0, &[Value::Null]));
    assert_eq!(more, Err(SessionError::TooManyStreams));
}

#[test]
fn enhanced_rtmp_codecs_and_object_encoding_are_echoed() {
    let all = [&VIDEO_FOUR_CCS[..], &AUDIO_FOUR_CCS].concat();
    let cases = [(vec!["av01", "vvc1", "hvc1"], vec!["hvc1", "av01"]), (vec!["*"], all)];
    for (wanted, want) in cases {
        let mut peer = Peer::new();
        let list: Value<'_> = wanted.into_iter().map(amf::text).collect();
        let object = amf::object([("objectEncoding", Value::Number(3.0)), ("fourCcList", list)]);
        peer.say(command(0, "connect", 1.0, &[object]));
        let answer = peer.messages().pop().expect("a result");
        let answer = Command::parse(&answer.payload).unwrap();
        let list: Value<'_> = want.into_iter().map(amf::text).collect();
        assert_eq!(amf::member(&answer.args[1], "fourCcList"), Some(&list));
        assert_eq!(amf::member(&answer.args[1], "objectEncoding"), Some(&Value::Number(3.0)));
        assert_eq!(amf::member(&answer.args[1], "capsEx"), None, "version 1 does not know it");
    }
}

#[test]
fn enhanced_rtmp_2_is_answered_with_what_can_be_taken() {
    let mut peer = Peer::new();
    let any = amf::object([("*", Value::Number(7.0))]);
    let object = amf::object([("capsEx", Value::Number(15.0)), ("videoFourCcInfoMap", any)]);
    peer.say(command(0, "connect", 1.0, &[object]));
    let answer = peer.messages().pop().expect("a result");
    let answer = Command::parse(&answer.payload).unwrap();
    let info = |key| amf::member(&answer.args[1], key);
    assert_eq!(info("capsEx"), Some(&Value::Number(4.0)));
    for (map, codec) in [("videoFourCcInfoMap", "hvc1"), ("audioFourCcInfoMap", "Opus")] {
        let flags = amf::member(info(map).expect("a map"), codec);
        assert_eq!(flags, Some(&Value::Number(4.0)), "{codec}");
    }
    assert_eq!(info("fourCcList"), None, "it was not asked for");
}

#[test]
fn received_bytes_are_acknowledged_once_per_window() {
    let mut peer = Peer::new();
    peer.say(raw(type_id::WINDOW_ACK_SIZE, 0, 10_000u32.to_be_bytes().to_vec()));
    peer.session.received(9_999);
    assert!(peer.messages().is_empty());
    peer.session.received(2);
    peer.session.received(9_000);
    let acks: Vec<_> = peer.messages().into_iter().map(|m| (m.type_id, m.payload)).collect();
    assert_eq!(acks, [(type_id::ACKNOWLEDGEMENT, 10_001u32.to_be_bytes().to_vec())]);
}

#[test]
fn a_ping_is_answered_with_its_time() {
    let mut peer = Peer::new();
    peer.say(raw(type_id::USER_CONTROL, 0, vec![0, 6, 1, 2, 3, 4]));
    assert_eq!(peer.messages()[0].payload, [0, 7, 1, 2, 3, 4]);
    peer.say(raw(type_id::USER_CONTROL, 0, vec![0, 3, 0, 0, 0, 1, 0, 0, 11, 184]));
    assert!(peer.messages().is_empty());
}

#[test]
fn an_aggregate_is_handed_out_part_by_part() {
    let mut peer = Peer::publishing("S");
    let tag = |kind, ms, byte| [kind, 0, 0, 1, 0, 0, ms, 0, 0, 0, 0, byte, 0, 0, 0, 12];
    let body = [tag(8, 10, 1), tag(18, 10, 0xFF), tag(9, 50, 2)].concat();
    let first = peer.say(RawMessage { timestamp_ms: 1_000, ..raw(type_id::AGGREGATE, 1, body) });
    assert_eq!(first, Some(Event::Audio { timestamp_ms: 1_000, payload: vec![1] }));
    assert!(matches!(peer.session.next_event(), Ok(Some(Event::BadMetadata(_)))));
    let video = Event::Video { timestamp_ms: 1_040, payload: vec![2] };
    assert_eq!(peer.session.next_event(), Ok(Some(video)));
    assert_eq!(peer.session.next_event(), Ok(None));
}

#[test]
fn unreadable_metadata_does_not_end_a_stream() {
    let mut peer = Peer::publishing("S");
    let event = peer.say(raw(type_id::DATA_AMF0, 1, vec![3; 100]));
    assert!(matches!(event, Some(Event::BadMetadata(_))));
    assert!(matches!(peer.say(raw(type_id::AUDIO, 1, vec![1])), Some(Event::Audio { .. })));
}

proptest! {
    #[test]
    fn random_messages_never_panic(
        messages in prop::collection::vec(
            (0u8..24, 0u32..3, prop::collection::vec(0u8..20, 0..60)),
            0..40,
        ),
        names in prop::collection::vec(0usize..9, 0..40),
    ) {
        const NAMES: [&str; 9] = [
            "connect", "createStream", "publish", "FCUnpublish", "deleteStream", "closeStream", "play", "FCPublish", "x",
        ];
        let mut peer = Peer::publishing("S");
        for (i, (type_id, stream_id, payload)) in messages.into_iter().enumerate() {
            let _ = peer.session.handle(raw(type_id, stream_id, payload));
            while let Ok(Some(_)) = peer.session.next_event() {}
            if let Some(&name) = names.get(i) {
                let _ = peer.session.handle(command(stream_id, NAMES[name], 1.0, &[Value::Null]));
            }
            peer.messages();
        }
    }
}
