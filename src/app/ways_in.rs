//! The ways in: every server and the pulled sources, bound, served and stopped together.

use super::AppError;
use crate::{
    config::DaemonConfig,
    hub::Hub,
    ingest::{
        rtmp::{RtmpLimits, RtmpServer},
        rtsp::{RtspLimits, RtspServer},
        source::{SourceLimits, SourceRequest, SourceUri, Sources},
        tls::Certificate,
        whip::{WhipServer, WhipSettings},
    },
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// Cheap to clone; all clones are the same servers.
#[derive(Clone)]
pub(super) struct WaysIn {
    pub rtmp: Arc<RtmpServer>,
    pub rtsp: Arc<RtspServer>,
    pub whip: Arc<WhipServer>,
    pub sources: Sources,
}

/// The sockets of the servers, bound and not served yet.
pub(super) struct Listeners {
    pub rtmp: TcpListener,
    pub rtmps: Option<(TcpListener, Arc<Certificate>)>,
    pub rtsp: TcpListener,
}

impl Listeners {
    pub async fn bind(config: &DaemonConfig) -> Result<Self, AppError> {
        Ok(Self {
            rtmp: listen("rtmp", config.listen.rtmp).await?,
            rtmps: listen_tls(config).await?,
            rtsp: listen("rtsp", config.listen.rtsp).await?,
        })
    }
}

impl WaysIn {
    pub fn new(hub: &Hub, config: &DaemonConfig) -> Self {
        Self {
            rtmp: Arc::new(RtmpServer::new(hub.clone(), rtmp_limits(config))),
            rtsp: Arc::new(RtspServer::new(hub.clone(), rtsp_limits(config))),
            whip: Arc::new(WhipServer::new(hub.clone(), whip_settings(config))),
            sources: Sources::new(hub.clone(), source_limits(config)),
        }
    }

    /// Takes publishers, and pulls what the configuration names. A source that cannot be pulled is told and left out.
    /// WHIP has no socket of its own: the HTTP server hands it its offers.
    pub fn serve(&self, listeners: Listeners, config: &DaemonConfig) {
        let server = self.rtmp.clone();
        tokio::spawn(async move { server.serve(listeners.rtmp).await });
        if let Some((listener, certificate)) = listeners.rtmps {
            let server = self.rtmp.clone();
            tokio::spawn(async move { server.serve_tls(listener, certificate).await });
        }
        let server = self.rtsp.clone();
        tokio::spawn(async move { server.serve(listeners.rtsp).await });
        for source in &config.sources {
            let added = SourceUri::from_url(source.uri.clone()).map_err(Into::into).and_then(|uri| {
                let (stream, transport, record) = (source.stream.clone(), source.transport, source.record);
                self.sources.add(SourceRequest { uri, stream, transport, record })
            });
            if let Err(error) = added {
                tracing::error!("[[source]] is not pulled: {error}");
            }
        }
    }

    /// Connections of publishers that are open now.
    pub fn connections(&self) -> usize {
        self.rtmp.stats().connections + self.rtsp.stats().connections + self.whip.stats().sessions
    }

    /// Ends every publisher and takes no more. Waits for it, at most `limit`.
    pub async fn stop(&self, limit: Duration) {
        tokio::join!(
            self.rtmp.stop(limit),
            self.rtsp.stop(limit),
            self.whip.stop(limit),
            self.sources.stop(limit)
        );
    }
}

pub(super) async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).await.map_err(|source| AppError::Listen { key, address, source })
}

/// For RTMPS, where it is configured.
async fn listen_tls(config: &DaemonConfig) -> Result<Option<(TcpListener, Arc<Certificate>)>, AppError> {
    let (Some(address), Some(files)) = (config.listen.rtmps, &config.tls) else { return Ok(None) };
    let certificate = Arc::new(Certificate::load(files)?);
    Ok(Some((listen("rtmps", address).await?, certificate)))
}

fn rtmp_limits(config: &DaemonConfig) -> RtmpLimits {
    RtmpLimits {
        handshake_timeout: config.limits.handshake_timeout,
        publisher_timeout: config.limits.publisher_timeout,
        max_connections: config.limits.max_connections,
        max_message_bytes: config.limits.max_message_bytes as usize,
    }
}

fn rtsp_limits(config: &DaemonConfig) -> RtspLimits {
    RtspLimits {
        handshake_timeout: config.limits.handshake_timeout,
        publisher_timeout: config.limits.publisher_timeout,
        max_connections: config.limits.max_connections,
    }
}

fn whip_settings(config: &DaemonConfig) -> WhipSettings {
    WhipSettings {
        webrtc: config.webrtc.clone(),
        connect_timeout: config.limits.connect_timeout,
        publisher_timeout: config.limits.publisher_timeout,
        max_sessions: config.limits.max_connections,
    }
}

fn source_limits(config: &DaemonConfig) -> SourceLimits {
    SourceLimits {
        connect_timeout: config.limits.connect_timeout,
        publisher_timeout: config.limits.publisher_timeout,
        max_sources: config.limits.max_sources,
        rules: config.allow_sources.clone(),
    }
}
