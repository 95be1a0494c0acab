//! Headless Chromium with a page that publishes by WHIP. What it draws and sounds is a source for [`crate::avsync`].

mod page;
mod visit;

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use fantoccini::{Client, ClientBuilder, wd::Capabilities};
use hyper_util::client::legacy::connect::HttpConnector;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::timeout};

use page::Page;
pub use visit::Tab;

const ARGUMENTS: &[&str] = &[
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
];
const STARTED: &str = "was started successfully on port ";
const DEADLINE: Duration = Duration::from_secs(60);
const INSTALL: &str = "apt-get install chromium chromium-driver";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    H264,
    Vp8,
    Vp9,
    Av1,
}

impl Codec {
    /// As in SDP.
    pub fn name(self) -> &'static str {
        match self {
            Self::H264 => "H264",
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
            Self::Av1 => "AV1",
        }
    }
}

/// What to publish.
#[derive(Debug, Clone)]
pub struct Publish {
    pub video: Option<Codec>,
    pub audio: bool,
    /// 320x180 at first, 480x270 after 4 s, 640x360 after 8 s; else always 320x180.
    pub climb: bool,
    pub max_kbps: Option<u32>,
    pub token: Option<String>,
}

impl Publish {
    /// Pictures in `codec`, with sound.
    pub fn av(codec: Codec) -> Self {
        Self { video: Some(codec), audio: true, climb: false, max_kbps: None, token: None }
    }
}

/// One browser with one page; it publishes one stream at a time. Ended when dropped.
#[derive(Debug)]
pub struct Browser {
    client: Option<Client>,
    runtime: Runtime,
    driver: Driver,
    page: Page,
}

impl Browser {
    pub fn open() -> Self {
        let driver = Driver::start();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let profile = format!("--user-data-dir={}", driver.profile.path().display());
        let arguments: Vec<_> = ARGUMENTS.iter().copied().chain([profile.as_str()]).collect();
        let mut capabilities = Capabilities::new();
        capabilities.insert("goog:chromeOptions".to_owned(), json!({ "args": arguments }));
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let url = format!("http://127.0.0.1:{}", driver.port);
        let client = runtime
            .block_on(async { timeout(DEADLINE, builder.capabilities(capabilities).connect(&url)).await });
        let client = client.expect("a browser in time").unwrap_or_else(|e| panic!("{e}; {INSTALL}"));
        let browser = Self { client: Some(client), runtime, driver, page: Page::serve() };
        browser.load();
        browser
    }

    /// Publishes to a WHIP endpoint. Returns when ICE and DTLS are connected, or why they are not.
    pub fn try_publish(&self, whip_url: &str, publish: &Publish) -> Result<(), String> {
        self.start(Some(whip_url), publish)
    }

    /// [`Browser::try_publish`], which has to succeed.
    pub fn publish(&self, whip_url: &str, publish: &Publish) {
        self.try_publish(whip_url, publish).unwrap_or_else(|e| panic!("{whip_url}: {e}"));
    }

    /// Publishes to a second peer in the page itself.
    pub fn publish_to_itself(&self, publish: &Publish) {
        self.start(None, publish).expect("a loopback");
    }

    fn start(&self, whip_url: Option<&str>, publish: &Publish) -> Result<(), String> {
        self.load();
        let options = json!({
            "url": whip_url, "video": publish.video.map(Codec::name), "audio": publish.audio,
            "climb": publish.climb, "maxKbps": publish.max_kbps, "token": publish.token,
        });
        self.call(&format!("publish({options})")).map(drop)
    }

    /// `state` (of the connection), `error`, `resource` (the WHIP session's URL), and as far as there are any
    /// `video`, `audio` (sent), `videoRemote`, `audioRemote` (told by the peer), `videoReceived`, `audioReceived`
    /// (a loopback's), with the names of WebRTC statistics: `framesSent`, `packetsSent`, `targetBitrate` …
    pub fn stats(&self) -> Value {
        self.call("stats()").expect("statistics")
    }

    /// Ends the capture; when all pictures are sent, takes the statistics; then DELETE, whose status is
    /// `deleteStatus`, and the end of the connection.
    pub fn stop(&self) -> Value {
        self.call("stop()").expect("an end")
    }

    /// Evaluates JavaScript in the page, a promise up to its end; or what it threw.
    pub fn call(&self, expression: &str) -> Result<Value, String> {
        let script = format!("const done = arguments[0]; told((async () => {expression})()).then(done);");
        let client = self.client.as_ref().expect("a client until it is dropped");
        let told =
            self.runtime.block_on(async { timeout(DEADLINE, client.execute_async(&script, vec![])).await });
        let mut told =
            told.map_err(|_| format!("{expression}: not within {DEADLINE:?}"))?.map_err(|e| e.to_string())?;
        match told["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(told["value"].take()),
        }
    }

    /// Ends the browser as a crash does: no DELETE, no farewell.
    pub fn kill(mut self) {
        self.driver.kill();
        self.client = None;
    }

    /// A fresh page; what the old one published ends without a farewell.
    fn load(&self) {
        let client = self.client.as_ref().expect("a client until it is dropped");
        let load = async {
            let mut limits = client.get_timeouts().await?;
            limits.set_script(Some(DEADLINE));
            client.update_timeouts(limits).await?;
            client.goto(&self.page.url).await
        };
        let loaded = self.runtime.block_on(async { timeout(DEADLINE, load).await });
        loaded.expect("a page in time").expect("the page");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            // The driver is killed in any case.
            let _ = self.runtime.block_on(async { timeout(Duration::from_secs(5), client.close()).await });
        }
    }
}

/// chromedriver and, in its process group, the browser.
#[derive(Debug)]
struct Driver {
    child: Child,
    port: u16,
    profile: TempDir,
}

/// chromedriver takes a free port for IPv4 and asks for the same one for IPv6: where a test beside this one has that, it
/// ends again at once.
const DRIVER_ATTEMPTS: usize = 10;

impl Driver {
    fn start() -> Self {
        let started = (0..DRIVER_ATTEMPTS).find_map(|_| Self::try_start());
        started.unwrap_or_else(|| panic!("chromedriver ended {DRIVER_ATTEMPTS} times before it had a port"))
    }

    /// `None` when it ended before it had a port.
    fn try_start() -> Option<Self> {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("chromedriver: {e}; {INSTALL}"));
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, receiver) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once(STARTED) {
                    let _ = sender.send(rest.trim_end_matches('.').parse());
                }
            }
        });
        let profile = TempDir::with_prefix("reeld-browser-").expect("a folder");
        let mut driver = Self { child, port: 0, profile };
        match receiver.recv_timeout(DEADLINE) {
            Ok(port) => driver.port = port.expect("its port"),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => panic!("chromedriver does not start"),
        }
        Some(driver)
    }

    fn kill(&mut self) {
        let group = Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.kill();
    }
}
