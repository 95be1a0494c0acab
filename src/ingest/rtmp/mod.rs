//! RTMP: both sides of the protocol, to be published to and to play (Adobe RTMP 1.0, Enhanced RTMP v1 and v2).
//!
//! Bytes go [`handshake`] → [`chunk`] (messages) → [`session`] (commands answered, media handed out) → [`flv`]
//! (what a media message holds) → [`caps`](super::caps) (what its track is). All of these are pure: no socket, no clock, no thread.
//! `connection` puts a socket and the hub around them, `feed` makes access units of media messages, `server` accepts;
//! `pull` is the client, with a `player` in the place of `session`.

pub mod amf;
pub mod chunk;
pub mod flv;
pub mod handshake;
pub mod message;
pub mod multitrack;
pub mod publish;
pub mod session;

mod connection;
mod feed;
mod pull;
mod server;
mod socket;
mod takeover;
mod window;

pub use pull::RtmpPull;
use server::Shared;
pub use server::{RtmpLimits, RtmpServer};
