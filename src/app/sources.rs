//! The sources that the configuration names.

use crate::{
    config::DaemonConfig,
    hub::Hub,
    ingest::source::{SourceLimits, SourceRequest, SourceUri, Sources},
};

/// The registry, empty.
pub(super) fn registry(hub: Hub, config: &DaemonConfig) -> Sources {
    let limits = SourceLimits {
        connect_timeout: config.limits.connect_timeout,
        publisher_timeout: config.limits.publisher_timeout,
        max_sources: config.limits.max_sources,
        rules: config.allow_sources.clone(),
    };
    Sources::new(hub, limits)
}

/// Begins to pull what the configuration names. A source that cannot be is told and left out.
pub(super) fn start(sources: &Sources, config: &DaemonConfig) {
    for source in &config.sources {
        let added = SourceUri::from_url(source.uri.clone()).map_err(Into::into).and_then(|uri| {
            let (stream, transport, record) = (source.stream.clone(), source.transport, source.record);
            sources.add(SourceRequest { uri, stream, transport, record })
        });
        if let Err(error) = added {
            tracing::error!("[[source]] is not pulled: {error}");
        }
    }
}
