//! The load generator for WebRTC: N `webrtcbin` publishers in one process, all sending the same RTP packets.
//!
//! The media is encoded and packetised once, so that a publisher costs its encryption, its sockets and its threads, and
//! nothing else. Each begins when its connection is up, so every frame it sends can arrive.

use std::{
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use gstreamer::{self as gst, prelude::*};
use gstreamer_app::{AppSink, AppSrc};
use gstreamer_sdp::SDPMessage;
use gstreamer_webrtc::{
    WebRTCICEGatheringState, WebRTCPeerConnectionState, WebRTCRTPTransceiverDirection, WebRTCSDPType,
    WebRTCSessionDescription,
};

use crate::{
    load::{Ended, Ready, Started},
    process,
};

const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
const HTTP_DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// For retransmissions and the jitter buffer, after the last packet.
const LINGER: Duration = Duration::from_secs(1);
const FRAMES_PER_SECOND: u64 = 30;
const OPUS_PACKETS_PER_SECOND: u64 = 50;

#[derive(Args)]
pub struct Options {
    /// The daemon's HTTP port
    #[arg(long)]
    port: u16,
    #[arg(long)]
    streams: usize,
    #[arg(long)]
    length_ms: u64,
    #[arg(long)]
    spread_ms: u64,
}

/// One track as RTP packets, each due some time after the start.
struct Script {
    caps: gst::Caps,
    packets: Vec<(Duration, gst::Buffer)>,
}

struct Publisher {
    pipeline: gst::Pipeline,
    sources: [AppSrc; 2],
    webrtc: gst::Element,
    resource: String,
}

pub fn run(options: &Options) -> Result<()> {
    process::end_with_parent()?;
    gst::init()?;
    let seconds = options.length_ms.div_ceil(1000);
    let scripts = [video(seconds)?, audio(seconds)?];
    let messages = scripts.iter().map(|s| s.packets.len() as u64).sum();
    println!("{}", serde_json::to_string(&Ready { media_messages: messages })?);
    std::io::stdin().read_line(&mut String::new())?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = reqwest::Client::builder().timeout(HTTP_DEADLINE).build()?;
    let publishers = (0..options.streams)
        .map(|number| runtime.block_on(publish(&client, options.port, number, &scripts)))
        .collect::<Result<Vec<_>>>()?;
    wait_connected(&publishers)?;
    let started = Started {
        starts_in_ms: 0,
        video: seconds * FRAMES_PER_SECOND,
        audio: scripts[1].packets.len() as u64,
        bytes_per_stream: scripts.iter().flat_map(|s| &s.packets).map(|(_, p)| p.size() as u64).sum(),
    };
    println!("{}", serde_json::to_string(&started)?);
    let ended = send(&publishers, &scripts, Duration::from_millis(options.spread_ms));
    thread::sleep(LINGER);
    for publisher in &publishers {
        let deleted = runtime.block_on(async { client.delete(&publisher.resource).send().await })?;
        ensure!(deleted.status().is_success(), "DELETE {}: {}", publisher.resource, deleted.status());
        publisher.pipeline.set_state(gst::State::Null)?;
    }
    println!("{}", serde_json::to_string(&ended)?);
    Ok(())
}

/// 1280x720, 30 frames/s, 2 Mbit/s, a key frame every 2 s: as the RTMP input.
fn video(seconds: u64) -> Result<Script> {
    let frames = seconds * FRAMES_PER_SECOND;
    packetise(&format!(
        "videotestsrc num-buffers={frames} pattern=smpte ! \
         video/x-raw,format=I420,width=1280,height=720,framerate={FRAMES_PER_SECOND}/1 ! \
         x264enc speed-preset=ultrafast bitrate=2000 key-int-max=60 bframes=0 \
         option-string=nal-hrd=cbr:force-cfr=1 ! video/x-h264,profile=constrained-baseline ! \
         rtph264pay pt=96 mtu=1200 aggregate-mode=zero-latency config-interval=-1"
    ))
}

fn audio(seconds: u64) -> Result<Script> {
    let packets = seconds * OPUS_PACKETS_PER_SECOND;
    packetise(&format!(
        "audiotestsrc num-buffers={packets} samplesperbuffer=960 ! audio/x-raw,rate=48000,channels=2 ! \
         opusenc bitrate=64000 ! rtpopuspay pt=97"
    ))
}

fn packetise(description: &str) -> Result<Script> {
    let pipeline = gst::parse::launch(&format!("{description} ! appsink name=out sync=false"))?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| anyhow!("not a pipeline"))?;
    let sink = pipeline.by_name("out").and_downcast::<AppSink>().context("no appsink")?;
    pipeline.set_state(gst::State::Playing)?;
    let (mut caps, mut packets) = (None, Vec::<(Duration, gst::Buffer)>::new());
    while let Ok(sample) = sink.pull_sample() {
        caps = caps.or(sample.caps_owned());
        let list = sample.buffer_list_owned();
        let single = sample.buffer_owned();
        for buffer in list.iter().flat_map(|l| l.iter_owned()).chain(single) {
            packets.push((buffer.dts_or_pts().unwrap_or_default().into(), buffer));
        }
    }
    pipeline.set_state(gst::State::Null)?;
    // x264enc's times do not begin at 0, and webrtcbin sends nothing before its time.
    let first = packets.first().map_or(Duration::ZERO, |(due, _)| *due);
    for (due, packet) in &mut packets {
        *due = due.saturating_sub(first);
        let packet = packet.make_mut();
        packet.set_pts(None);
        packet.set_dts(None);
    }
    Ok(Script { caps: caps.context("nothing was encoded")?, packets })
}

async fn publish(
    client: &reqwest::Client,
    port: u16,
    number: usize,
    scripts: &[Script; 2],
) -> Result<Publisher> {
    let pipeline = gst::Pipeline::new();
    let webrtc =
        gst::ElementFactory::make("webrtcbin").property_from_str("bundle-policy", "max-bundle").build()?;
    pipeline.add(&webrtc)?;
    let source = |script: &Script| -> Result<AppSrc> {
        let source = AppSrc::builder().caps(&script.caps).format(gst::Format::Time).is_live(true).build();
        pipeline.add(&source)?;
        source.link(&webrtc)?;
        Ok(source)
    };
    let sources = [source(&scripts[0])?, source(&scripts[1])?];
    for (index, script) in (0..).zip(scripts) {
        let transceiver = webrtc.emit_by_name::<gst::glib::Object>("get-transceiver", &[&index]);
        // The caps reach the pads with the first packet only, and the offer comes before it.
        transceiver.set_property("codec-preferences", &script.caps);
        transceiver.set_property("direction", WebRTCRTPTransceiverDirection::Sendonly);
        transceiver.set_property("do-nack", true);
    }
    pipeline.set_state(gst::State::Playing)?;
    let offer = describe(&webrtc, "create-offer", "offer").await?;
    webrtc.emit_by_name::<()>("set-local-description", &[&offer, &None::<gst::Promise>]);
    wait_gathered(&webrtc).await?;
    let local = webrtc.property::<WebRTCSessionDescription>("local-description");
    let url = format!("http://127.0.0.1:{port}/whip/live/s{number}");
    let answer =
        client.post(&url).header("content-type", "application/sdp").body(local.sdp().as_text()?).send();
    let answer = answer.await.with_context(|| format!("cannot POST to {url}"))?;
    let status = answer.status();
    let location = answer.headers().get("location").and_then(|l| l.to_str().ok()).map(str::to_owned);
    let body = answer.text().await?;
    ensure!(status.as_u16() == 201, "POST {url}: {status}: {body}");
    let location = location.context("201 without Location")?;
    let sdp = SDPMessage::parse_buffer(body.as_bytes())?;
    let answer = WebRTCSessionDescription::new(WebRTCSDPType::Answer, sdp);
    webrtc.emit_by_name::<()>("set-remote-description", &[&answer, &None::<gst::Promise>]);
    let resource = reqwest::Url::parse(&url)?.join(&location)?.to_string();
    Ok(Publisher { pipeline, sources, webrtc, resource })
}

async fn describe(webrtc: &gst::Element, signal: &str, field: &str) -> Result<WebRTCSessionDescription> {
    let (send, receive) = tokio::sync::oneshot::channel();
    let send = Mutex::new(Some(send));
    let promise = gst::Promise::with_change_func(move |reply| {
        let reply = reply.ok().flatten().map(gst::StructureRef::to_owned);
        if let Some(send) = send.lock().ok().and_then(|mut s| s.take()) {
            // Nobody waits any more: then nobody misses it.
            let _ = send.send(reply);
        }
    });
    webrtc.emit_by_name::<()>(signal, &[&None::<gst::Structure>, &promise]);
    let reply = tokio::time::timeout(HTTP_DEADLINE, receive).await??.context("no answer from webrtcbin")?;
    Ok(reply.get::<WebRTCSessionDescription>(field)?)
}

async fn wait_gathered(webrtc: &gst::Element) -> Result<()> {
    let until = Instant::now() + HTTP_DEADLINE;
    let gathered = || {
        webrtc.property::<WebRTCICEGatheringState>("ice-gathering-state") == WebRTCICEGatheringState::Complete
    };
    while !gathered() {
        ensure!(Instant::now() < until, "ICE candidates were not gathered in time");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn wait_connected(publishers: &[Publisher]) -> Result<()> {
    let until = Instant::now() + CONNECT_DEADLINE;
    for (number, publisher) in publishers.iter().enumerate() {
        let state = || publisher.webrtc.property::<WebRTCPeerConnectionState>("connection-state");
        while state() != WebRTCPeerConnectionState::Connected {
            ensure!(Instant::now() < until, "stream {number} is not connected: {:?}", state());
            thread::sleep(POLL);
        }
    }
    Ok(())
}

/// Every packet of every publisher when it is due.
fn send(publishers: &[Publisher], scripts: &[Script; 2], spread: Duration) -> Ended {
    let step = spread / publishers.len().max(1) as u32;
    let begin = Instant::now();
    let mut next = vec![[0_usize; 2]; publishers.len()];
    let mut late_max = Duration::ZERO;
    let mut errors = Vec::new();
    loop {
        let mut left = false;
        let mut wake = Instant::now() + POLL;
        for (number, publisher) in publishers.iter().enumerate() {
            let start = begin + step * number as u32;
            for track in 0..2 {
                while let Some((due, packet)) = scripts[track].packets.get(next[number][track]) {
                    left = true;
                    let at = start + *due;
                    let now = Instant::now();
                    if at > now {
                        wake = wake.min(at);
                        break;
                    }
                    late_max = late_max.max(now - at);
                    next[number][track] += 1;
                    if let Err(flow) = publisher.sources[track].push_buffer(packet.clone()) {
                        errors.push(format!("s{number}: {flow}"));
                    }
                }
            }
        }
        if !left {
            break;
        }
        thread::sleep(wake.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    }
    let failed_streams = errors.len() as u64;
    errors.truncate(5);
    Ended { late_max_ms: late_max.as_secs_f64() * 1e3, stalls: 0, failed_streams, errors }
}
