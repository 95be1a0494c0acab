use super::*;
use crate::{
    api::{finish, serve as serve_http},
    control::{ConfigOutcome, Event},
};
use std::{future::Future, net::SocketAddr};
use support::ws::{Frame, WebSocket as Client};
use tokio::{net::TcpListener, sync::oneshot};
use warp::filters::path::FullPath;

const PACE: Pace = Pace { heartbeat: Duration::from_secs(3600), write: Duration::from_secs(3600) };

/// An HTTP server of these routes only; it ends when this is dropped.
struct Rig {
    events: Events,
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

async fn rig(pace: Pace) -> Rig {
    let events = Events::default();
    let routes = warp::path::full()
        .and(warp::method())
        .and(routes_at(events.clone(), pace))
        .map(|path: FullPath, method, answer| finish(path, method, answer));
    let routes = routes.or(warp::any().map(|| Problem::unknown_path().into_response("/"))).unify();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(serve_http(listener, routes, async {
        let _ = stopped.await;
    }));
    Rig { events, address, _stop: stop }
}

impl Rig {
    fn tell(&self, file: impl Into<std::path::PathBuf>) {
        self.events.tell(&Event::Config { what: ConfigOutcome::Reloaded, file: file.into(), error: None });
    }

    /// Runs a client beside the async threads.
    async fn client<T: Send + 'static>(&self, run: impl FnOnce(SocketAddr) -> T + Send + 'static) -> T {
        let address = self.address;
        tokio::task::spawn_blocking(move || run(address)).await.expect("the client does not fail")
    }

    async fn until(&self, what: &str, reached: impl Fn(&Events) -> bool) {
        let look = async {
            while !reached(&self.events) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), look).await.unwrap_or_else(|_| panic!("{what}"));
    }
}

fn open_client(address: SocketAddr) -> Client {
    let mut client = Client::open(address, "/api/v1/events");
    assert_eq!(client.json()["type"], "hello");
    client
}

/// Runs the test on a runtime with two threads.
fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test);
}

#[test]
fn events_come_as_text_and_pings_are_answered() {
    run(async {
        let rig = rig(PACE).await;
        let mut client = rig.client(open_client).await;
        rig.tell("/a");
        rig.client(move |_| {
            let event = client.json();
            assert_eq!((&event["type"], &event["file"]), (&"config.reloaded".into(), &"/a".into()));
            client.ping(b"there?").expect("it reads");
            assert_eq!(client.read().expect("a frame"), Frame::Pong(b"there?".to_vec()));
            client.text("nobody listens to this").expect("it reads");
            assert_eq!(client.close().map(|(code, _)| code), Some(1000));
        })
        .await;
        rig.until("its place is free", |events| events.watchers() == 0).await;
    });
}

#[test]
fn a_heartbeat_comes_with_a_ping_and_who_answers_none_is_sent_away() {
    run(async {
        let heartbeat = Duration::from_millis(30);
        let rig = rig(Pace { heartbeat, ..PACE }).await;
        let (pings, beats, close) = rig
            .client(|address| {
                let (mut client, mut pings, mut beats) = (open_client(address), 0, 0);
                loop {
                    match client.read().expect("a frame") {
                        Frame::Ping(_) => pings += 1,
                        Frame::Text(text) if text.contains("\"heartbeat\"") => beats += 1,
                        Frame::Close { code, reason } => return (pings, beats, (code, reason)),
                        other => panic!("{other:?}"),
                    }
                }
            })
            .await;
        assert_eq!((pings, beats), (MAX_UNANSWERED, MAX_UNANSWERED));
        assert_eq!(close, (1008, "no answer to pings".to_owned()));

        // One that answers stays for longer than that.
        rig.client(|address| {
            let mut client = open_client(address);
            for _ in 0..4 * MAX_UNANSWERED {
                assert_eq!(client.event("heartbeat")["type"], "heartbeat");
            }
        })
        .await;
    });
}

#[test]
fn a_client_that_does_not_read_is_sent_away_and_the_others_do_not_notice() {
    run(async {
        let rig = rig(PACE).await;
        let mut slow = rig.client(open_client).await;
        let mut quick = rig.client(open_client).await;
        // 64 MB: more than the ring and the sockets' buffers hold.
        let long = "x".repeat(16 << 10);
        for n in 0..4_000 {
            rig.tell(format!("/{n}/{long}"));
            if n % 100 == 99 {
                quick = rig
                    .client(move |_| {
                        for m in n - 99..=n {
                            let file = quick.json()["file"].as_str().expect("a file").to_owned();
                            assert!(file.starts_with(&format!("/{m}/")), "{}", &file[..10]);
                        }
                        quick
                    })
                    .await;
            }
        }
        let closed = rig.client(move |_| slow.closed()).await;
        assert_eq!(closed, Some((1008, "too slow: events were lost; read the lists again".to_owned())));
        rig.until("its place is free", |events| events.watchers() == 1).await;
        drop(quick);
    });
}

#[test]
fn a_write_that_takes_too_long_is_given_up() {
    run(async {
        let rig = rig(Pace { write: Duration::from_millis(100), ..PACE }).await;
        let client = rig.client(open_client).await;
        // More than the sockets' buffers hold, and less than the ring.
        let long = "x".repeat(1 << 20);
        (0..14).for_each(|n| rig.tell(format!("/{n}/{long}")));
        rig.until("its place is free", |events| events.watchers() == 0).await;
        drop(client);
    });
}

#[test]
fn closing_the_bus_says_goodbye() {
    run(async {
        let rig = rig(PACE).await;
        let mut client = rig.client(open_client).await;
        rig.tell("/last");
        let (events, begun) = (rig.events.clone(), std::time::Instant::now());
        let closing = tokio::spawn(async move { events.close(Duration::from_secs(20)).await });
        let (last, closed) = rig
            .client(move |_| {
                let last = client.json();
                let closed = client.closed();
                drop(client);
                (last, closed)
            })
            .await;
        assert_eq!(last["file"], "/last");
        assert_eq!(closed, Some((1001, "the daemon is ending".to_owned())));
        closing.await.expect("it ends");
        assert!(begun.elapsed() < Duration::from_secs(10), "it waited for nobody");
        let refused = rig.client(|address| Client::open_with(address, "/api/v1/events", &[])).await;
        assert_eq!(refused.expect("an answer").expect_err("refused").status, 503);
    });
}

/// Query, headers, status and type of the problem.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, &'a str);

#[test]
fn what_is_no_event_socket_is_answered_with_a_problem() {
    run(async {
        let rig = rig(PACE).await;
        let answers = rig
            .client(|address| {
                let origin = format!("http://{address}");
                let cases: [Case<'_>; 7] = [
                    ("", &[("Origin", "http://elsewhere.example")], 403, "origin-not-allowed"),
                    ("", &[("Origin", "null")], 403, "origin-not-allowed"),
                    ("", &[("Origin", "http://127.0.0.1:1")], 403, "origin-not-allowed"),
                    ("", &[("Origin", &origin), ("Origin", "http://x.example")], 403, "origin-not-allowed"),
                    ("?cursor=-1", &[], 400, "bad-cursor"),
                    ("?curser=1", &[], 400, "bad-parameter"),
                    ("?cursor=1&cursor=2", &[], 400, "bad-parameter"),
                ];
                for (query, headers, status, kind) in cases {
                    let path = format!("/api/v1/events{query}");
                    let opened = Client::open_with(address, &path, headers).expect("an answer");
                    let answer = opened.map(|_| ()).expect_err(kind);
                    assert_eq!(answer.status, status, "{query} {headers:?}: {answer:?}");
                    assert_eq!(answer.json()["type"], format!("/problems/{kind}"), "{query} {headers:?}");
                }
                Client::open_with(address, "/api/v1/events", &[("Origin", &origin)])
                    .expect("an answer")
                    .is_ok()
            })
            .await;
        assert!(answers, "a page of this host may read");
        let plain = rig
            .client(|address| {
                ["GET", "POST", "HEAD"].map(|method| {
                    support::http::request(address, method, "/api/v1/events", b"").expect("an answer")
                })
            })
            .await;
        assert_eq!(plain.each_ref().map(|answer| answer.status), [426, 405, 405]);
        assert_eq!(plain[0].header("upgrade"), Some("websocket"));
        assert_eq!(plain[1].header("allow"), Some("GET"));
    });
}
