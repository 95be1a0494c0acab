//! The events themselves, as programs read them. `session` and `recording` are the objects of the REST API.

use crate::{
    control::{DiskInfo, Session},
    deliver::Delivered,
    hub::EndReason,
    library::{DeliveryKind, DeliveryState, Recording, RecordingId},
    media::Protocol,
};
use serde::Serialize;
use std::path::PathBuf;

/// Parts, deliveries, gaps and troubles of a recording that are told with it: the newest of each. A GET has all.
const MAX_TOLD: usize = 50;

/// One change of state.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum Event {
    #[schema(rename_all = "camelCase")]
    Session {
        #[serde(rename = "type")]
        what: SessionChange,
        #[schema(value_type = Session)]
        session: Box<Session>,
        /// Of `session.ended`.
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
    },
    #[schema(rename_all = "camelCase")]
    Recording {
        #[serde(rename = "type")]
        what: RecordingChange,
        #[schema(value_type = Recording)]
        recording: Box<Recording>,
        /// Number of the part that has begun, is whole, or has got its poster.
        #[serde(skip_serializing_if = "Option::is_none")]
        part: Option<u32>,
        /// It has more parts, gaps or troubles than are told here.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        partial: bool,
    },
    /// The policy wants a stream recorded, and that has to wait.
    Refused {
        #[serde(rename = "type")]
        what: RecordingRefused,
        session: Box<Session>,
        reason: String,
    },
    /// Nobody finds it any more.
    #[schema(rename_all = "camelCase")]
    Deleted {
        #[serde(rename = "type")]
        what: Deletion,
        recording_id: RecordingId,
        /// The key in `[limits]` that asked for it; none when a call did.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
    },
    #[schema(rename_all = "camelCase")]
    Delivery {
        #[serde(rename = "type")]
        what: DeliveryOutcome,
        /// The same in every attempt.
        key: String,
        /// `null`: news of the daemon.
        #[schema(required)]
        recording_id: Option<RecordingId>,
        /// `null`: news of the whole recording.
        #[schema(required)]
        part: Option<u32>,
        kind: DeliveryKind,
        /// Without credentials.
        target: String,
        /// `failed` is tried again, `dead` is not.
        state: DeliveryState,
        attempts: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The free space of the records folder has gone past a mark.
    Disk {
        #[serde(rename = "type")]
        what: DiskMark,
        disk: DiskInfo,
    },
    Config {
        #[serde(rename = "type")]
        what: ConfigOutcome,
        #[schema(value_type = String)]
        file: PathBuf,
        /// `file:line: what`, a line each.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub enum SessionChange {
    /// It is publishing: its tracks are known.
    #[serde(rename = "session.started")]
    Started,
    /// Its tracks, its status or its recording.
    #[serde(rename = "session.updated")]
    Updated,
    #[serde(rename = "session.ended")]
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub enum RecordingChange {
    /// It was asked for.
    #[serde(rename = "recording.starting")]
    Starting,
    /// Frames are in its first file.
    #[serde(rename = "recording.started")]
    Started,
    /// Another part has begun.
    #[serde(rename = "recording.rotated")]
    Rotated,
    /// The file of a part is whole, and among `parts`.
    #[serde(rename = "recording.part")]
    Part,
    #[serde(rename = "recording.paused")]
    Paused,
    #[serde(rename = "recording.resumed")]
    Resumed,
    /// No more frames are written; its last file is being made whole.
    #[serde(rename = "recording.stopping")]
    Stopping,
    #[serde(rename = "recording.completed")]
    Completed,
    #[serde(rename = "recording.failed")]
    Failed,
    /// A reason was added to `degraded`.
    #[serde(rename = "recording.degraded")]
    Degraded,
    /// What was wrong with it while it runs is over (`health`), all of it.
    #[serde(rename = "recording.healthy")]
    Healthy,
    /// A part has got its poster. Without a part: something that was wrong with it is over while something else still is, it was
    /// locked or unlocked, or files that had found no room are whole.
    #[serde(rename = "recording.updated")]
    Updated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub enum RecordingRefused {
    #[serde(rename = "recording.refused")]
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub enum Deletion {
    #[serde(rename = "recording.deleted")]
    Deleted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub enum DeliveryOutcome {
    #[serde(rename = "delivery.done")]
    Done,
    #[serde(rename = "delivery.failed")]
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub enum DiskMark {
    #[serde(rename = "disk.enough")]
    Enough,
    #[serde(rename = "disk.low")]
    Low,
    /// Nothing new is recorded.
    #[serde(rename = "disk.refusing")]
    Refusing,
    /// What is recorded is ended.
    #[serde(rename = "disk.ending")]
    Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub enum ConfigOutcome {
    #[serde(rename = "config.reloaded")]
    Reloaded,
    /// The old one stays in force.
    #[serde(rename = "config.failed")]
    Failed,
}

/// Why a session ended, in the words of eyeson's stream recording client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Cause {
    /// The connection broke, or the publisher broke the protocol.
    ConnError,
    /// The publisher said so.
    TermByClient,
    /// It was ended by a call to the API.
    AgentSessionTerm,
    PeerconnFailed,
    ServiceShutdown,
    /// It sent nothing for longer than allowed.
    NoPacketReceived,
}

impl Cause {
    /// `going_down`: the daemon is ending.
    pub(super) fn of(reason: &EndReason, protocol: Protocol, going_down: bool) -> Self {
        match (reason, protocol) {
            (EndReason::Unpublished, _) => Cause::TermByClient,
            (EndReason::TimedOut, _) => Cause::NoPacketReceived,
            (EndReason::Kicked, _) if going_down => Cause::ServiceShutdown,
            (EndReason::Kicked, _) => Cause::AgentSessionTerm,
            (EndReason::Disconnected | EndReason::Failed(_), Protocol::Webrtc) => Cause::PeerconnFailed,
            (EndReason::Disconnected | EndReason::Failed(_), _) => Cause::ConnError,
        }
    }
}

impl Event {
    pub(in crate::control) fn recording(
        what: RecordingChange,
        mut recording: Recording,
        part: Option<u32>,
    ) -> Self {
        let partial = recording.keep_newest(MAX_TOLD);
        Event::Recording { what, recording: Box::new(recording), part, partial }
    }
}

impl From<Delivered> for Event {
    fn from(delivered: Delivered) -> Self {
        let Delivered { key, recording, part, kind, target, state, attempts, error } = delivered;
        let what = match state {
            DeliveryState::Done => DeliveryOutcome::Done,
            _ => DeliveryOutcome::Failed,
        };
        Event::Delivery { what, key, recording_id: recording, part, kind, target, state, attempts, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::{Mark, Marks},
        library::testing,
        media::Gap,
    };
    use serde_json::json;

    #[test]
    fn every_end_has_a_word_of_the_vocabulary() {
        let failed = || EndReason::Failed("a chunk of 3 GB".into());
        for (reason, protocol, going_down, word) in [
            (EndReason::Unpublished, Protocol::Rtmp, false, "TERM_BY_CLIENT"),
            (EndReason::Unpublished, Protocol::Webrtc, true, "TERM_BY_CLIENT"),
            (EndReason::Disconnected, Protocol::Rtsp, false, "CONN_ERROR"),
            (EndReason::Disconnected, Protocol::Webrtc, false, "PEERCONN_FAILED"),
            (failed(), Protocol::Rtmp, false, "CONN_ERROR"),
            (failed(), Protocol::Webrtc, false, "PEERCONN_FAILED"),
            (EndReason::TimedOut, Protocol::Rtmp, false, "NO_PACKET_RECEIVED"),
            (EndReason::Kicked, Protocol::Rtmp, false, "AGENT_SESSION_TERM"),
            (EndReason::Kicked, Protocol::Rtmp, true, "SERVICE_SHUTDOWN"),
        ] {
            let cause = Cause::of(&reason, protocol, going_down);
            assert_eq!(serde_json::to_value(cause).unwrap(), word, "{reason:?} {protocol:?}");
        }
    }

    #[test]
    fn a_recording_is_told_as_it_is_got_unless_it_is_very_long() {
        let mut recording = testing::recording(0);
        recording.parts = (1..=3).map(testing::part).collect();
        let got = serde_json::to_value(&recording).unwrap();
        let event = Event::recording(RecordingChange::Rotated, recording.clone(), Some(4));
        let wanted = json!({"type": "recording.rotated", "recording": got, "part": 4});
        assert_eq!(serde_json::to_value(event).unwrap(), wanted);

        recording.parts = (1..=60).map(testing::part).collect();
        let gap = Gap {
            kind: crate::media::GapKind::Overflow,
            at_ms: 1,
            by_ms: 2,
            at: None,
            frames: 3,
            packets: 4,
        };
        recording.lost.gaps = vec![gap; 1_000];
        let told =
            serde_json::to_value(Event::recording(RecordingChange::Part, recording, Some(60))).unwrap();
        assert_eq!((&told["partial"], &told["recording"]["parts"][0]["number"]), (&json!(true), &json!(11)));
        assert_eq!(told["recording"]["lost"]["gaps"].as_array().map(Vec::len), Some(MAX_TOLD));
    }

    #[test]
    fn the_others_have_the_fields_of_the_contract() {
        let id = RecordingId::random();
        let delivered = Delivered {
            key: "msg_1".into(),
            recording: Some(id),
            part: Some(2),
            kind: DeliveryKind::Hook,
            target: "/hooks/x.sh".into(),
            state: DeliveryState::Dead,
            attempts: 3,
            error: Some("exit code 1".into()),
        };
        let disk = DiskInfo {
            path: "/records".into(),
            free_bytes: 5,
            total_bytes: 9,
            bytes_per_second: 2,
            seconds_to_full: Some(1),
            mark: Mark::Low,
            marks: Marks { warn_bytes: 6, refuse_bytes: 4, end_bytes: 3 },
            reserved_bytes: 1,
        };
        for (event, wanted) in [
            (
                Event::from(delivered),
                json!({"type": "delivery.failed", "key": "msg_1", "recordingId": id, "part": 2, "kind": "hook",
                    "target": "/hooks/x.sh", "state": "dead", "attempts": 3, "error": "exit code 1"}),
            ),
            (
                Event::Deleted { what: Deletion::Deleted, recording_id: id, reason: None },
                json!({"type": "recording.deleted", "recordingId": id}),
            ),
            (
                Event::Deleted { what: Deletion::Deleted, recording_id: id, reason: Some("retention_age") },
                json!({"type": "recording.deleted", "recordingId": id, "reason": "retention_age"}),
            ),
            (
                Event::Disk { what: DiskMark::Low, disk },
                json!({"type": "disk.low", "disk": {"path": "/records", "freeBytes": 5, "totalBytes": 9, "bytesPerSecond": 2,
                    "secondsToFull": 1, "mark": "low", "marks": {"warnBytes": 6, "refuseBytes": 4, "endBytes": 3},
                    "reservedBytes": 1}}),
            ),
            (
                Event::Config {
                    what: ConfigOutcome::Failed,
                    file: "/p".into(),
                    error: Some("/p:3: no".into()),
                },
                json!({"type": "config.failed", "file": "/p", "error": "/p:3: no"}),
            ),
        ] {
            assert_eq!(serde_json::to_value(event).unwrap(), wanted);
        }
    }
}
