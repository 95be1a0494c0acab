//! RTSP 1.0 (RFC 2326): the server that streams are pushed to, and the parts a client needs too.
//!
//! Bytes go [`message`] (requests, and packets on the connection) → [`session`] (requests answered, with [`request`],
//! [`sdp`] and [`transport`]) → `ingest::rtp` (access units). All of these are pure. `peer` puts the hub around
//! them, `connection` the socket, [`udp`] has the sockets of what does not come on the connection, `server` accepts.

pub mod message;
pub mod request;
pub mod sdp;
pub mod session;
pub mod transport;
pub mod udp;

mod client;
mod connection;
mod peer;
mod server;

pub use client::RtspPull;
use server::Shared;
pub use server::{RtspLimits, RtspServer};
