//! A real S3 server in the test's process (`s3s` over `s3s-fs`): it checks signatures and checksums, keeps its objects as
//! plain files, can be stopped and started again on its port, and can be told to fail, to stall, or to fail after a while.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::{
    Body,
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::AbortHandle};

use crate::http::{self, Answer};

pub const BUCKET: &str = "recordings";
pub const ACCESS_KEY_ID: &str = "AKIDREELDTEST";
pub const SECRET_ACCESS_KEY: &str = "a secret that is in no log";

/// One request that was answered, or turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    /// With its query.
    pub target: String,
    pub status: u16,
}

/// What happens to requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Serves,
    /// Every request is answered 503.
    Fails,
    /// No request is answered, until the mood is another.
    Stalls,
    /// Parts of multipart uploads are answered only after this.
    SlowParts(Duration),
}

struct State {
    service: S3Service,
    mood: Mutex<Mood>,
    seen: Mutex<Vec<Seen>>,
    /// Parts of multipart uploads that are taken before the rest of them is stalled.
    parts_left: AtomicUsize,
    /// Parts that wait to be taken.
    parts_waiting: AtomicUsize,
}

/// The server and its folder, which goes with it.
pub struct S3 {
    folder: TempDir,
    address: SocketAddr,
    state: Arc<State>,
    runtime: Option<Runtime>,
    serving: Mutex<Option<AbortHandle>>,
}

impl S3 {
    /// With one empty bucket, on a free port.
    pub fn start() -> Self {
        Self::start_in(TempDir::with_prefix("reeld-s3-").expect("a temporary folder"))
    }

    pub fn start_in(folder: TempDir) -> Self {
        fs::create_dir(folder.path().join(BUCKET)).expect("a bucket");
        let files = s3s_fs::FileSystem::new(folder.path()).expect("a folder to serve");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY));
        let state = State {
            service: builder.build(),
            mood: Mutex::new(Mood::Serves),
            seen: Mutex::default(),
            parts_left: AtomicUsize::new(usize::MAX),
            parts_waiting: AtomicUsize::new(0),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let server = Self {
            folder,
            address,
            state: Arc::new(state),
            runtime: Some(runtime),
            serving: Mutex::default(),
        };
        server.serve(listener);
        server
    }

    /// Every connection is broken, and none is taken until [`up`](Self::up).
    pub fn down(&self) {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        serving.expect("it is up").abort();
        // The listener is dropped with its task.
        crate::wait::wait_until("the port is closed", Duration::from_secs(10), || {
            std::net::TcpStream::connect(self.address).is_err()
        });
    }

    /// On the same port as before.
    pub fn up(&self) {
        let bind = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).ok()?;
            socket.set_reuse_address(true).ok()?;
            socket.bind(&self.address.into()).ok()?;
            socket.listen(128).ok()?;
            Some(TcpListener::from(socket))
        };
        self.serve(crate::wait::wait_for("the port is free", Duration::from_secs(10), bind));
    }

    pub fn set_mood(&self, mood: Mood) {
        *self.state.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// Takes so many more parts of multipart uploads; those after them are not answered.
    pub fn take_parts(&self, parts: usize) {
        self.state.parts_left.store(parts, Ordering::SeqCst);
    }

    /// Parts that have come and are not taken yet: what was taken before them is known to who sends them.
    pub fn parts_waiting(&self) -> usize {
        self.state.parts_waiting.load(Ordering::SeqCst)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The lines of `[storage]` that a daemon needs for it, and that it may be reached at all.
    pub fn config(&self, prefix: &str, keep_local: &str) -> String {
        format!(
            "[storage]\nurl = \"s3://{BUCKET}/{prefix}\"\nendpoint = \"http://{}\"\nallow_http = true\n\
             region = \"us-east-1\"\naccess_key_id = \"{ACCESS_KEY_ID}\"\n\
             secret_access_key = \"{SECRET_ACCESS_KEY}\"\nkeep_local = {keep_local}\n",
            self.address
        )
    }

    /// Where an object is, as a file. `key` with its prefix.
    pub fn file(&self, key: &str) -> PathBuf {
        self.folder.path().join(BUCKET).join(key)
    }

    /// Every object with its bytes, by its key.
    pub fn objects(&self) -> BTreeMap<String, PathBuf> {
        let mut found = BTreeMap::new();
        let bucket = self.folder.path().join(BUCKET);
        let mut folders = vec![bucket.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Some(key) = key_of(&bucket, &path) {
                    found.insert(key, path);
                }
            }
        }
        found
    }

    /// Parts of uploads that are neither completed nor aborted.
    pub fn unfinished_parts(&self) -> usize {
        let names = fs::read_dir(self.folder.path()).expect("its folder");
        let names = names.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(".upload_id-") && name.contains(".part-")).count()
    }

    /// What was asked, in the order of the answers.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Numbers of the parts of multipart uploads that were taken, in that order.
    pub fn parts_taken(&self) -> Vec<u32> {
        let taken = |seen: Seen| {
            let is_part = seen.method == "PUT" && seen.status == 200;
            let number = seen.target.split(['?', '&']).find_map(|pair| pair.strip_prefix("partNumber="))?;
            is_part.then(|| number.parse().expect("a number"))
        };
        self.seen().into_iter().filter_map(taken).collect()
    }

    /// As somebody without credentials: a presigned URL needs none.
    pub fn get(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        http::request_with(self.address, "GET", target, headers, b"").expect("an answer")
    }

    fn serve(&self, listener: TcpListener) {
        listener.set_nonblocking(true).expect("a socket of tokio's");
        let state = self.state.clone();
        let runtime = self.runtime.as_ref().expect("until it is dropped");
        let task = runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            // Connections end with their task.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let state = state.clone();
                let answer = service_fn(move |request| answer(state.clone(), request));
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new());
                let connection = http.serve_connection(TokioIo::new(socket), answer);
                connections.spawn(async move { connection.await.is_ok() });
            }
        });
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let method = request.method().to_string();
    let target = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    let is_part = method == "PUT" && target.contains("partNumber=");
    let response = match may_pass(&state, is_part).await {
        true => state.service.call(request.map(Body::from)).await.unwrap_or_else(|_| broken()),
        false => broken(),
    };
    let seen = Seen { method, target, status: response.status().as_u16() };
    state.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    Ok(response)
}

/// Waits as long as the server stalls; false when it fails.
async fn may_pass(state: &State, is_part: bool) -> bool {
    let mut waited = Duration::ZERO;
    let _waiting = is_part.then(|| Waiting::new(&state.parts_waiting));
    loop {
        let mood = *state.mood.lock().unwrap_or_else(PoisonError::into_inner);
        let take = || state.parts_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match mood {
            Mood::Fails => return false,
            Mood::SlowParts(least) if is_part && waited < least => {}
            Mood::Serves | Mood::SlowParts(_) if !is_part || take().is_ok() => return true,
            Mood::Serves | Mood::SlowParts(_) | Mood::Stalls => {}
        }
        let step = Duration::from_millis(10);
        tokio::time::sleep(step).await;
        waited += step;
    }
}

/// Counted as long as it lives: who asked may go away.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn broken() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

/// The server's own notes are no objects.
fn key_of(bucket: &Path, path: &Path) -> Option<String> {
    let key = path.strip_prefix(bucket).ok()?.to_str()?;
    let name = key.rsplit('/').next()?;
    (!name.starts_with('.')).then(|| key.to_owned())
}
