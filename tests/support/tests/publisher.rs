//! The RTMP publisher against a scripted server: what it sends, and what it makes of the answers.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use support::{
    amf0::{self, Value},
    chunk::{self, ChunkReader, INITIAL_CHUNK_SIZE, Message, message_type},
    rtmp::{Client, Options, RtmpError},
};

const HANDSHAKE_BYTES: usize = 1536;
const DEADLINE: Duration = Duration::from_secs(5);

struct Server {
    socket: TcpStream,
    reader: ChunkReader,
}

impl Server {
    fn handshake(mut socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut hello = vec![0; 1 + HANDSHAKE_BYTES];
        socket.read_exact(&mut hello).unwrap();
        let mut answer = vec![9; 1 + HANDSHAKE_BYTES];
        answer[0] = 3;
        answer.extend(&hello[1..]);
        socket.write_all(&answer).unwrap();
        let mut echo = vec![0; HANDSHAKE_BYTES];
        socket.read_exact(&mut echo).unwrap();
        assert_eq!(echo, answer[1..=HANDSHAKE_BYTES]);
        Self { socket, reader: ChunkReader::default() }
    }

    /// The next message, or `None` at the end of the connection.
    fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.reader.next_message().unwrap() {
                return Some(message);
            }
            let mut bytes = [0; 4096];
            match self.socket.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.reader.push(&bytes[..count]),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn command(&mut self, name: &str) -> Vec<Value> {
        loop {
            let message = self.next().expect("a command");
            if message.type_id == message_type::COMMAND_AMF0 {
                let values = amf0::decode(&message.payload).unwrap();
                assert_eq!(values[0].as_str(), Some(name));
                return values;
            }
        }
    }

    fn answer(&mut self, values: &[Value]) {
        let (mut bytes, payload) = (Vec::new(), amf0::encode(values));
        chunk::encode(&mut bytes, 3, message_type::COMMAND_AMF0, 0, 0, &payload, INITIAL_CHUNK_SIZE);
        self.socket.write_all(&bytes).unwrap();
    }

    /// Everything up to `publish`, answered with the status `code`.
    fn publish(&mut self, code: &str) {
        let connect = self.command("connect");
        assert_eq!(connect[2].get("app"), Some(&Value::string("room")));
        self.answer(&[Value::string("_result"), connect[1].clone(), Value::Null]);
        assert_eq!(self.command("releaseStream")[3], Value::string("cam?record=true"));
        self.command("FCPublish");
        let create = self.command("createStream");
        self.answer(&[Value::string("_result"), create[1].clone(), Value::Null, Value::Number(7.0)]);
        assert_eq!(self.command("publish")[3], Value::string("cam?record=true"));
        let status = Value::Object(vec![
            ("level".into(), Value::string("status")),
            ("code".into(), Value::string(code)),
            ("description".into(), Value::string("in words")),
        ]);
        self.answer(&[Value::string("onStatus"), Value::Number(0.0), Value::Null, status]);
    }
}

fn serve<T: Send + 'static>(
    script: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (Options, JoinHandle<T>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut options = Options::new(listener.local_addr().unwrap(), "room", "cam?record=true");
    options.chunk_size = 1000;
    options.deadline = DEADLINE;
    (options, thread::spawn(move || script(listener.accept().unwrap().0)))
}

#[test]
fn media_arrives_whole_and_the_farewell_ends_it() {
    let (options, server) = serve(|socket| {
        let mut server = Server::handshake(socket);
        server.publish("NetStream.Publish.Start");
        std::iter::from_fn(|| server.next())
            .map(|message| (message.type_id, message.stream_id, message.timestamp_ms, message.payload))
            .collect::<Vec<_>>()
    });
    let mut client = Client::publish(options).unwrap();
    client.send_video(0x0100_0000, &[5; 2500]).unwrap();
    client.send_audio(20, &[6]).unwrap();
    client.unpublish().unwrap();
    let seen = server.join().unwrap();
    assert_eq!(seen[0], (message_type::VIDEO, 7, 0x0100_0000, vec![5; 2500]));
    assert_eq!(seen[1], (message_type::AUDIO, 7, 20, vec![6]));
    let names: Vec<_> =
        seen[2..].iter().map(|(.., payload)| amf0::decode(payload).unwrap()[0].clone()).collect();
    assert_eq!(names, [Value::string("FCUnpublish"), Value::string("deleteStream")]);
}

#[test]
fn a_refusal_carries_its_code() {
    let (options, server) = serve(|socket| Server::handshake(socket).publish("NetStream.Publish.BadName"));
    match Client::publish(options) {
        Err(RtmpError::Refused(status)) => assert_eq!(status.code, "NetStream.Publish.BadName"),
        other => panic!("{other:?}"),
    }
    server.join().unwrap();
}

#[test]
fn reset_is_a_reset() {
    let (options, server) = serve(|socket| {
        let mut server = Server::handshake(socket);
        server.publish("NetStream.Publish.Start");
        server.socket.read(&mut [0]).unwrap_err().kind()
    });
    Client::publish(options).unwrap().reset().unwrap();
    assert_eq!(server.join().unwrap(), ErrorKind::ConnectionReset);
}

#[test]
fn a_silent_server_meets_the_deadline() {
    let (mut options, server) = serve(|socket| socket);
    options.deadline = Duration::from_millis(50);
    assert!(matches!(Client::connect(options), Err(RtmpError::Deadline(_))));
    drop(server.join().unwrap());
}
