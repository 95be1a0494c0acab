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

/// Parts and gaps of a recording that are told with it: the newest. A GET has all.
const MAX_PARTS: usize = 50;
const MAX_GAPS: usize = 50;

/// One change of state.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum Event {
    Session {
        #[serde(rename = "type")]
        what: SessionChange,
        session: Box<Session>,
        /// Of [`SessionChange::Ended`].
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
    },
    Recording {
        #[serde(rename = "type")]
        what: RecordingChange,
        recording: Box<Recording>,
        /// Number of the part that has begun, is whole, or has got its poster.
        #[serde(skip_serializing_if = "Option::is_none")]
        part: Option<u32>,
        /// It has more parts or gaps than are told here.
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
    Deleted {
        #[serde(rename = "type")]
        what: Deletion,
        recording_id: RecordingId,
        /// The key in `[limits]` that asked for it; none when a call did.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
    },
    Delivery {
        #[serde(rename = "type")]
        what: DeliveryOutcome,
        recording_id: RecordingId,
        part: u32,
        kind: DeliveryKind,
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
        file: PathBuf,
        /// `file:line: what`, a line each.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
    /// A part has got its poster; without a part: it was locked or unlocked, or files that had found no room are whole.
    #[serde(rename = "recording.updated")]
    Updated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RecordingRefused {
    #[serde(rename = "recording.refused")]
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Deletion {
    #[serde(rename = "recording.deleted")]
    Deleted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum DeliveryOutcome {
    #[serde(rename = "delivery.done")]
    Done,
    #[serde(rename = "delivery.failed")]
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ConfigOutcome {
    #[serde(rename = "config.reloaded")]
    Reloaded,
    /// The old one stays in force.
    #[serde(rename = "config.failed")]
    Failed,
}

/// Why a session ended, in the words of eyeson's stream recording client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
        let mut partial = keep_newest(&mut recording.parts, MAX_PARTS);
        partial |= keep_newest(&mut recording.deliveries, MAX_PARTS);
        partial |= keep_newest(&mut recording.lost.gaps, MAX_GAPS);
        for part in &mut recording.parts {
            partial |= keep_newest(&mut part.gaps, MAX_GAPS);
        }
        Event::Recording { what, recording: Box::new(recording), part, partial }
    }
}

/// Whether some had to go.
fn keep_newest<T>(items: &mut Vec<T>, most: usize) -> bool {
    let over = items.len().saturating_sub(most);
    items.drain(..over);
    over > 0
}

impl From<Delivered> for Event {
    fn from(delivered: Delivered) -> Self {
        let Delivered { recording, part, kind, state, attempts, error } = delivered;
        let what = match state {
            DeliveryState::Done => DeliveryOutcome::Done,
            _ => DeliveryOutcome::Failed,
        };
        Event::Delivery { what, recording_id: recording, part, kind, state, attempts, error }
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
        assert_eq!(told["recording"]["lost"]["gaps"].as_array().map(Vec::len), Some(MAX_GAPS));
    }

    #[test]
    fn the_others_have_the_fields_of_the_contract() {
        let id = RecordingId::random();
        let delivered = Delivered {
            recording: id,
            part: 2,
            kind: DeliveryKind::Hook,
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
                json!({"type": "delivery.failed", "recordingId": id, "part": 2, "kind": "hook", "state": "dead",
                    "attempts": 3, "error": "exit code 1"}),
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
