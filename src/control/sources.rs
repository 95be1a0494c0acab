//! Sources: the streams that reeld pulls, as both API dialects see them.

use super::{Control, ControlError};
use crate::{
    config::Transport,
    ingest::source::{SourceRequest, SourceSnapshot, SourceUri, SourcesError},
    media::{MediaSessionId, RoomName, StreamName},
};
use chrono::{DateTime, Utc};
use serde::Serialize;

pub use crate::ingest::source::{Failure, Scheme, SourceId, SourceState};

/// What a call may ask to be pulled.
#[derive(Clone)]
pub struct NewSource {
    /// With user and password, if the source wants them.
    pub uri: String,
    /// `ROOM/STREAM` or `STREAM`; `None`: made of the URI.
    pub stream: Option<String>,
    pub transport: Transport,
    /// Record it whatever the policy says.
    pub record: bool,
}

/// One pulled stream.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    pub id: SourceId,
    /// Without credentials.
    pub uri: String,
    #[serde(skip)]
    pub scheme: Scheme,
    /// `ROOM/STREAM`.
    pub stream: String,
    #[schema(value_type = String)]
    pub room_name: RoomName,
    #[schema(value_type = String)]
    pub name: StreamName,
    pub transport: Transport,
    pub record: bool,
    pub created_at: DateTime<Utc>,
    /// Its session, once it has been connected; it goes on while the source waits.
    #[schema(required)]
    pub media_session_id: Option<MediaSessionId>,
    /// `state`: `connecting`, with `reason` and `attempts` in a row after a failure; `live` with `since`; or `waiting` with
    /// `reason`, `attempts` and `nextTry`.
    #[serde(flatten)]
    pub state: SourceState,
}

impl From<SourceSnapshot> for Source {
    fn from(source: SourceSnapshot) -> Self {
        Self {
            id: source.id,
            uri: source.uri,
            scheme: source.scheme,
            stream: format!("{}/{}", source.room, source.name),
            room_name: source.room,
            name: source.name,
            transport: source.transport,
            record: source.record,
            created_at: source.added_at,
            media_session_id: source.session,
            state: source.state,
        }
    }
}

impl From<SourcesError> for ControlError {
    fn from(error: SourcesError) -> Self {
        let text = error.to_string();
        match error {
            SourcesError::Uri(_) | SourcesError::Stream(_) => ControlError::BadSource(text),
            SourcesError::NotSupported(_) => ControlError::SourceNotSupported(text),
            SourcesError::NotAllowed(_) => ControlError::SourceNotAllowed(text),
            SourcesError::Taken { .. } => ControlError::SourceTaken(text),
            SourcesError::TooMany(_) => ControlError::TooManySources(text),
            SourcesError::ShuttingDown => ControlError::ShuttingDown,
        }
    }
}

impl Control {
    /// Every source, oldest first.
    pub fn sources(&self) -> Vec<Source> {
        self.inner.sources.list().into_iter().map(Source::from).collect()
    }

    pub fn source(&self, id: SourceId) -> Result<Source, ControlError> {
        self.inner.sources.get(id).map(Source::from).ok_or(ControlError::UnknownSource(id))
    }

    /// Begins to pull a stream, and goes on until [`remove_source`](Self::remove_source). Answers before it is connected.
    pub async fn add_source(&self, new: NewSource) -> Result<Source, ControlError> {
        let uri = SourceUri::parse(&new.uri).map_err(SourcesError::from)?;
        self.inner.sources.check_host(&uri).await?;
        let NewSource { stream, transport, record, .. } = new;
        Ok(self.inner.sources.add(SourceRequest { uri, stream, transport, record })?.into())
    }

    /// Ends a source, its session and the recording of it.
    pub async fn remove_source(&self, id: SourceId) -> Result<(), ControlError> {
        match self.inner.sources.remove(id).await {
            true => Ok(()),
            false => Err(ControlError::UnknownSource(id)),
        }
    }

    /// The source that pulls `uri`, compared without credentials.
    pub fn source_at(&self, uri: &str) -> Result<Option<Source>, ControlError> {
        let uri = SourceUri::parse(uri).map_err(SourcesError::from)?;
        Ok(self.inner.sources.find(&uri).map(Source::from))
    }
}
