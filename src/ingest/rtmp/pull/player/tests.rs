use super::*;
use crate::ingest::rtmp::chunk::{ChunkLimits, ChunkReader};
use proptest::prelude::*;

fn raw(type_id: u8, stream_id: u32, payload: Vec<u8>) -> RawMessage {
    RawMessage { csid: 3, type_id, stream_id, timestamp_ms: 7, payload }
}

fn command<'a>(name: &'a str, transaction: f64, args: &[Value<'a>]) -> RawMessage {
    let values = [&[amf::text(name), Value::Number(transaction)], args].concat();
    raw(type_id::COMMAND_AMF0, 1, amf::encode(&values))
}

fn status(name: &str, transaction: f64, level: &str, code: &str, text: &str) -> RawMessage {
    let info = [("level", amf::text(level)), ("code", amf::text(code)), ("description", amf::text(text))];
    command(name, transaction, &[Value::Null, amf::object(info)])
}

fn connected() -> RawMessage {
    status("_result", CONNECT, "status", "NetConnection.Connect.Success", "")
}

fn created(stream_id: f64) -> RawMessage {
    command("_result", CREATE_STREAM, &[Value::Null, Value::Number(stream_id)])
}

fn started() -> RawMessage {
    status("onStatus", 0.0, "status", "NetStream.Play.Start", "")
}

fn user_control(event: u8) -> RawMessage {
    raw(type_id::USER_CONTROL, 0, vec![0, event, 0, 0, 0, 9])
}

fn player(uri: &str) -> Player {
    Player::new(Target::of(&SourceUri::parse(uri).expect("a URI")))
}

/// A player and the server's understanding of it.
struct Rig {
    player: Player,
    reader: ChunkReader,
}

impl Rig {
    fn new(uri: &str) -> Self {
        Self { player: player(uri), reader: ChunkReader::new(ChunkLimits::default()) }
    }

    fn asked() -> Self {
        let mut rig = Self::new("rtmp://h/live/cam");
        rig.say(connected());
        rig.say(created(1.0));
        rig.sent();
        rig
    }

    fn say(&mut self, message: RawMessage) -> Option<Event> {
        self.player.handle(message).expect("no error")
    }

    fn sent(&mut self) -> Vec<RawMessage> {
        let bytes = self.player.outgoing();
        let mut input = &bytes[..];
        std::iter::from_fn(|| self.reader.next(&mut input).expect("chunks")).collect()
    }
}

#[test]
fn the_last_part_of_the_path_is_the_stream_and_the_server_hears_its_own_name() {
    for (uri, app, tc_url, stream) in [
        ("rtmp://h/live/cam", "live", "rtmp://h/live", "cam"),
        ("rtmp://u:p@H:1936/a/b/cam?token=x", "a/b", "rtmp://h:1936/a/b", "cam?token=x"),
        ("rtmps://h/cam", "", "rtmps://h/", "cam"),
        ("rtmp://[::1]:1935/live/cam", "live", "rtmp://[::1]/live", "cam"),
        ("rtmp://h/", "", "rtmp://h/", ""),
    ] {
        let target = Target::of(&SourceUri::parse(uri).expect("a URI"));
        assert_eq!((&*target.app, &*target.tc_url, &*target.stream), (app, tc_url, stream), "{uri}");
    }
}

#[test]
fn it_connects_makes_a_stream_and_plays() {
    let mut rig = Rig::new("rtmp://u:hunter2@h:1936/live/cam?token=x");
    let sent = rig.sent();
    let connect = Command::parse(&sent[0].payload).expect("a command");
    let wish = |key| amf::member(&connect.args[0], key).and_then(amf::as_text).expect("text");
    assert_eq!(
        (connect.name.as_str(), wish("app"), wish("tcUrl")),
        ("connect", "live", "rtmp://h:1936/live")
    );
    assert!(!sent[0].payload.windows(7).any(|part| part == b"hunter2"));

    assert_eq!(rig.say(raw(type_id::WINDOW_ACK_SIZE, 0, vec![0, 0, 0x20, 0])), None);
    assert_eq!(rig.say(connected()), None);
    let sent = rig.sent();
    let create = Command::parse(&sent[1].payload).expect("a command");
    assert_eq!((sent[0].type_id, create.name.as_str()), (type_id::WINDOW_ACK_SIZE, "createStream"));

    rig.say(created(5.0));
    let sent = rig.sent();
    let play = Command::parse(&sent[0].payload).expect("a command");
    assert_eq!((sent[0].stream_id, play.name.as_str(), play.text(1)), (5, "play", Some("cam?token=x")));
    assert_eq!(sent[1].payload, [0, 3, 0, 0, 0, 5, 0, 0, 0x0B, 0xB8], "buffer length");
    assert!(!rig.player.is_playing());
    rig.say(started());
    assert!(rig.player.is_playing());

    rig.say(user_control(6));
    rig.player.received(0x2000);
    let sent = rig.sent();
    let kinds: Vec<_> = sent.iter().map(|message| message.type_id).collect();
    assert_eq!(kinds, [type_id::USER_CONTROL, type_id::ACKNOWLEDGEMENT]);
    assert_eq!(sent[0].payload, [0, 7, 0, 0, 0, 9], "the answer to the ping");

    rig.player.close();
    let delete = rig.sent();
    let delete = Command::parse(&delete[0].payload).expect("a command");
    assert_eq!((delete.name.as_str(), delete.number(1)), ("deleteStream", Some(5.0)));
}

/// ffmpeg as a server sends on message stream 0, which rtmp2src ignored.
#[test]
fn media_counts_on_whichever_stream_it_comes_and_before_the_start_is_told() {
    for stream_id in [0, 1, 77] {
        let mut rig = Rig::asked();
        let event = rig.say(raw(type_id::VIDEO, stream_id, vec![0x17, 1]));
        assert_eq!(event, Some(Event::Video { timestamp_ms: 7, payload: vec![0x17, 1] }));
        assert!(rig.player.is_playing());
        assert_eq!(rig.say(raw(type_id::AUDIO, stream_id, vec![])), None);
    }
    let mut early = player("rtmp://h/live/cam");
    assert_eq!(early.handle(raw(type_id::VIDEO, 1, vec![0x17, 1])), Ok(None));
    let metadata = amf::encode(&[amf::text("onMetaData"), amf::object([("width", Value::Number(320.0))])]);
    assert_eq!(early.handle(raw(type_id::DATA_AMF0, 1, metadata.clone())), Ok(None), "nothing was asked for");
    assert!(matches!(Rig::asked().say(raw(type_id::DATA_AMF0, 1, metadata)), Some(Event::Metadata(_))));
    let tag = [9, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x17, 0, 0, 0, 12];
    let mut rig = Rig::asked();
    let aggregate = [tag, tag].concat();
    let first = rig.say(raw(type_id::AGGREGATE, 1, aggregate));
    let second = rig.player.next_event().expect("no error");
    assert!(first.is_some() && first == second);
}

#[test]
fn what_the_server_refuses_or_ends_is_told_in_words_of_ours() {
    let play = |code| status("onStatus", 0.0, "status", code, "secret");
    let complete = amf::encode(&[
        amf::text("onPlayStatus"),
        amf::object([("code", amf::text("NetStream.Play.Complete"))]),
    ]);
    for (message, error) in [
        (play("NetStream.Play.StreamNotFound"), PlayError::NotFound),
        (play("NetStream.Play.UnpublishNotify"), PlayError::Unpublished),
        (play("NetStream.Play.Stop"), PlayError::Ended),
        (play("NetConnection.Connect.Closed"), PlayError::Closing),
        (status("onStatus", 0.0, "error", "Custom.Secret", "secret"), PlayError::Failed),
        (raw(type_id::DATA_AMF0, 1, complete), PlayError::Ended),
        (user_control(1), PlayError::Ended),
        (command("close", 0.0, &[Value::Null]), PlayError::Closing),
    ] {
        let mut rig = Rig::asked();
        rig.say(started());
        assert_eq!(rig.player.handle(message), Err(error.clone()));
        assert!(!error.to_string().contains("ecret"));
    }
    let refused = |code, text| status("_error", CONNECT, "error", code, text);
    for (message, error) in [
        (refused("NetConnection.Connect.Rejected", "x"), PlayError::Refused("connect")),
        (refused("NetConnection.Connect.InvalidApp", "x"), PlayError::Application),
        (
            refused("NetConnection.Connect.Rejected", "[ code=403 need auth; authmod=adobe ]"),
            PlayError::Authentication,
        ),
    ] {
        assert_eq!(player("rtmp://h/live/cam").handle(message), Err(error));
    }
    for (id, error) in [(f64::NAN, PlayError::NoStreamId), (-1.0, PlayError::NoStreamId)] {
        let mut rig = Rig::new("rtmp://h/live/cam");
        rig.say(connected());
        assert_eq!(rig.player.handle(created(id)), Err(error));
    }
    let mut rig = Rig::asked();
    let error = rig.player.handle(status("_error", PLAY, "error", "NetStream.Play.Failed", ""));
    assert_eq!(error, Err(PlayError::Refused("play")));
}

#[test]
fn what_nobody_can_read_is_left_out() {
    let mut rig = Rig::asked();
    for type_id in [type_id::COMMAND_AMF0, type_id::DATA_AMF0] {
        // AMF3's marker.
        assert!(matches!(rig.say(raw(type_id, 1, vec![17, 1])), Some(Event::Unreadable(_))));
    }
}

proptest! {
    #[test]
    fn random_messages_do_no_harm(
        messages in prop::collection::vec((0u8..24, prop::collection::vec(any::<u8>(), 0..60)), 0..20),
        steps in 0usize..3,
    ) {
        let mut player = player("rtmp://h/live/cam");
        for message in [connected(), created(1.0)].into_iter().take(steps) {
            player.handle(message).unwrap();
        }
        for (type_id, payload) in messages {
            let mut event = player.handle(raw(type_id, 1, payload));
            while let Ok(Some(_)) = event {
                event = player.next_event();
            }
        }
    }
}
