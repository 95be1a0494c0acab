//! What runs in the camera's process.

use std::{
    io::BufRead,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use gstreamer::{self as gst, prelude::*};
use gstreamer_rtsp_server::{
    RTSP_TOKEN_MEDIA_FACTORY_ROLE, RTSPAuth, RTSPMedia, RTSPMediaFactory, RTSPServer, RTSPToken,
    gst_rtsp::{RTSPAuthMethod, RTSPLowerTrans},
    prelude::*,
};
use serde_json::Value;

use super::{ENVIRONMENT, FRAMES, LISTENING};
use crate::avsync::{BEEP_HZ, is_mark};

pub(super) const WIDTH: usize = 320;
pub(super) const HEIGHT: usize = 180;
const WHITE: u8 = 235;
const ROLE: &str = "viewer";

/// Access units handed to the payloaders.
#[derive(Debug, Default)]
struct Sent {
    video: AtomicU64,
    audio: AtomicU64,
}

/// Is the camera until its starter ends or kills it. Without a starter there is nothing to do.
pub fn run() {
    let Ok(text) = std::env::var(ENVIRONMENT) else { return };
    let options: Value = serde_json::from_str(&text).expect("the arguments of a camera");
    gst::init().expect("GStreamer");
    let sent = Arc::new(Sent::default());
    let server = serve(&options, &sent);
    let context = gst::glib::MainContext::default();
    let attached = server.attach(Some(&context));
    attached.expect("a free port; apt-get install gstreamer1.0-rtsp gstreamer1.0-plugins-ugly");
    println!("{LISTENING}{}", server.bound_port());
    let main_loop = gst::glib::MainLoop::new(Some(&context), false);
    let ender = main_loop.clone();
    thread::spawn(move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            let (video, audio) = (&sent.video, &sent.audio);
            println!("{FRAMES}{} {}", video.load(Ordering::Acquire), audio.load(Ordering::Acquire));
        }
        ender.quit();
    });
    main_loop.run();
}

fn serve(options: &Value, sent: &Arc<Sent>) -> RTSPServer {
    let text = |key: &str| options[key].as_str().expect("a text");
    let factory = RTSPMediaFactory::new();
    factory.set_launch(&format!("( {} )", text("launch")));
    factory.set_shared(true);
    let mut protocols = RTSPLowerTrans::empty();
    protocols.set(RTSPLowerTrans::TCP, options["tcp"] == true);
    protocols.set(RTSPLowerTrans::UDP, options["udp"] == true);
    factory.set_protocols(protocols);
    let (sent, late_ns) = (sent.clone(), options["soundLateNs"].as_u64().expect("ns"));
    factory.connect_media_configure(move |_, media| configure(media, &sent, late_ns));

    let server = RTSPServer::new();
    server.set_address("127.0.0.1");
    server.set_service(&options["port"].to_string());
    server.mount_points().expect("mount points").add_factory("/cam", factory.clone());
    if text("auth") != "none" {
        server.set_auth(Some(&guard(&factory, text("auth"), text("user"), text("password"))));
    }
    server
}

fn guard(factory: &RTSPMediaFactory, method: &str, user: &str, password: &str) -> RTSPAuth {
    let auth = RTSPAuth::new();
    let token = RTSPToken::builder().field(RTSP_TOKEN_MEDIA_FACTORY_ROLE, ROLE).build();
    match method {
        "digest" => {
            auth.set_supported_methods(RTSPAuthMethod::Digest);
            auth.add_digest(user, password, &token);
        }
        _ => {
            auth.set_supported_methods(RTSPAuthMethod::Basic);
            auth.add_basic(&RTSPAuth::make_basic(user, password), &token);
        }
    }
    let role = gst::Structure::builder(ROLE)
        .field("media.factory.access", true)
        .field("media.factory.construct", true)
        .build();
    factory.add_role_from_structure(&role);
    auth
}

/// Paints the flashes, sounds the beeps and counts what is sent.
fn configure(media: &RTSPMedia, sent: &Arc<Sent>, sound_late_ns: u64) {
    let bin = media.element().downcast::<gst::Bin>().expect("a bin");
    if let Some(picture) = bin.by_name("picture") {
        rewrite(&picture, flash);
    }
    if let Some(sound) = bin.by_name("sound") {
        rewrite(&sound, move |samples, at_ns, length_ns| beep(samples, at_ns + sound_late_ns, length_ns));
    }
    for name in ["pay0", "pay1"] {
        let Some(payloader) = bin.by_name(name) else { continue };
        let is_video = name == "pay0" && bin.by_name("picture").is_some();
        let sent = sent.clone();
        let pad = payloader.static_pad("sink").expect("a payloader");
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            let count = if is_video { &sent.video } else { &sent.audio };
            count.fetch_add(1, Ordering::AcqRel);
            gst::PadProbeReturn::Ok
        });
    }
}

fn rewrite(element: &gst::Element, paint: impl Fn(&mut [u8], u64, u64) + Send + Sync + 'static) {
    let pad = element.static_pad("src").expect("an identity");
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(buffer) = info.buffer_mut() {
            let (at, length) = (buffer.pts().expect("a time"), buffer.duration().expect("a length"));
            let buffer = buffer.make_mut();
            // Encoders need not look at what is told to be silence.
            buffer.unset_flags(gst::BufferFlags::GAP);
            let mut map = buffer.map_writable().expect("memory");
            paint(&mut map, at.nseconds(), length.nseconds());
        }
        gst::PadProbeReturn::Ok
    });
}

fn flash(picture: &mut [u8], at_ns: u64, _: u64) {
    if is_mark(at_ns) {
        let (luma, chroma) = picture.split_at_mut(WIDTH * HEIGHT);
        luma.fill(WHITE);
        chroma.fill(128);
    }
}

fn beep(sound: &mut [u8], at_ns: u64, length_ns: u64) {
    let samples = (sound.len() / 2) as u64;
    for (index, sample) in sound.chunks_exact_mut(2).enumerate() {
        let at_ns = at_ns + length_ns * index as u64 / samples;
        if is_mark(at_ns) {
            let phase = at_ns as f64 / 1e9 * f64::from(BEEP_HZ) * std::f64::consts::TAU;
            sample.copy_from_slice(&((phase.sin() * 16_000.0) as i16).to_le_bytes());
        }
    }
}
