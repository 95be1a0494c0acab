//! Admission: whether a recording may begin. Every start comes through here: calls on a stream, on a room, and what the
//! policy wants. Nothing that runs is ever ended for load, nor is a switch or a publisher's return refused.
//!
//! A call that is refused may come again. The policy cannot: what it wants is recorded with its sound as it comes where
//! only transcoding is refused, and else taken up as soon as it can be, with what the hub has kept of it.

mod waiting;

use super::{
    Control, ControlError, Rules,
    active::Actives,
    cpu::{Cpu, Load, Refusing},
};
use crate::{
    hub::Stream,
    library::RecordingId,
    record::{Running, transcodes},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use waiting::Waiting;

/// Why a recording does not begin now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    #[error(
        "{max} recordings are under way, the most that [limits] max_recordings allows; stop one, or try again later"
    )]
    Recordings { max: usize },
    #[error(
        "{running} tracks are being transcoded, of at most {max} ([limits] max_transcodes), and this needs more; try again \
         later, or record the sound as it comes (record_audio=passthrough)"
    )]
    Transcodes { running: usize, max: usize },
    #[error(
        "the processors are busy to {percent} % ([limits] max_cpu = {max}%), and the sound would have to be transcoded; try \
         again later, or record it as it comes (record_audio=passthrough)"
    )]
    Transcode { percent: u8, max: u8 },
    #[error("the processors are busy to {percent} % ([limits] max_cpu = {max}%); try again later")]
    Copy { percent: u8, max: u8 },
}

impl NotAdmitted {
    /// The words that metrics and `GET /api/v1/server` have for them.
    pub const REASONS: [&str; 4] = ["max_recordings", "max_transcodes", "cpu_transcode", "cpu"];

    fn index(self) -> usize {
        match self {
            NotAdmitted::Recordings { .. } => 0,
            NotAdmitted::Transcodes { .. } => 1,
            NotAdmitted::Transcode { .. } => 2,
            NotAdmitted::Copy { .. } => 3,
        }
    }

    pub fn reason(self) -> &'static str {
        Self::REASONS[self.index()]
    }

    /// It is a load that was measured, not a number that was counted.
    pub fn is_load(self) -> bool {
        matches!(self, NotAdmitted::Transcode { .. } | NotAdmitted::Copy { .. })
    }
}

/// What a control has for admission.
pub(super) struct Admission {
    limits: Limits,
    cpu: Cpu,
    refused: [AtomicU64; NotAdmitted::REASONS.len()],
    waiting: Waiting,
}

/// 0: no limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub max_recordings: usize,
    pub max_transcodes: usize,
    /// `None`: the load refuses nothing.
    pub max_cpu_percent: Option<u8>,
}

/// What is under way.
#[derive(Clone, Copy, Debug)]
struct Now {
    recordings: usize,
    transcodes: usize,
    load: Load,
}

/// What a start adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need {
    recordings: usize,
    transcodes: usize,
    asked_by: AskedBy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AskedBy {
    /// Who may come again, or go elsewhere.
    Call,
    /// Copying takes a thousandth of a processor: too little to lose a stream for.
    Policy,
}

impl Limits {
    fn admit(self, now: Now, need: Need) -> Result<(), NotAdmitted> {
        let Self { max_recordings, max_transcodes, .. } = self;
        if need.recordings > 0 && max_recordings > 0 && now.recordings >= max_recordings {
            return Err(NotAdmitted::Recordings { max: max_recordings });
        }
        self.admit_load(now.load, need)?;
        let over = now.transcodes.saturating_add(need.transcodes) > max_transcodes;
        if need.transcodes > 0 && max_transcodes > 0 && over {
            return Err(NotAdmitted::Transcodes { running: now.transcodes, max: max_transcodes });
        }
        Ok(())
    }

    fn admit_load(self, load: Load, need: Need) -> Result<(), NotAdmitted> {
        let Some(max) = self.max_cpu_percent else { return Ok(()) };
        let percent = (load.share.all * 100.0).round() as u8;
        let copies = need.recordings > 0 && need.asked_by == AskedBy::Call;
        match load.refusing {
            Refusing::Copies if copies => Err(NotAdmitted::Copy { percent, max }),
            Refusing::Transcodes | Refusing::Copies if need.transcodes > 0 => {
                Err(NotAdmitted::Transcode { percent, max })
            }
            _ => Ok(()),
        }
    }
}

impl Admission {
    /// Call it on a tokio thread.
    pub fn new(limits: Limits) -> Self {
        let cpu = Cpu::watch(limits.max_cpu_percent);
        Self { limits, cpu, refused: Default::default(), waiting: Waiting::default() }
    }

    fn count(&self, why: NotAdmitted) {
        self.refused[why.index()].fetch_add(1, Ordering::Relaxed);
    }
}

impl Control {
    /// Whether a call may begin a recording of `stream`, in place of the one called `replaces` if that is given.
    pub(super) fn admit(
        &self,
        active: &Actives<Running>,
        stream: &Stream,
        rules: &Rules,
        replaces: Option<RecordingId>,
    ) -> Result<(), ControlError> {
        let replaced = replaces.and_then(|id| active.get(id));
        let need = Need {
            recordings: usize::from(replaced.is_none()),
            transcodes: needed(rules, stream).saturating_sub(replaced.map_or(0, |a| a.running.transcodes())),
            asked_by: AskedBy::Call,
        };
        self.admits(self.now(active), need).inspect_err(|error| self.count_refused(error))
    }

    /// How a recording of `stream` that the policy wants may begin: by which rules, and why they are not those that are
    /// in force.
    fn admit_by_policy(
        &self,
        now: Now,
        stream: &Stream,
        rules: &Arc<Rules>,
    ) -> Result<(Arc<Rules>, Vec<String>), ControlError> {
        let transcodes = needed(rules, stream);
        let need = Need { recordings: 1, transcodes, asked_by: AskedBy::Policy };
        let Err(error) = self.admits(now, need) else { return Ok((rules.clone(), Vec::new())) };
        let as_is = Arc::new(rules.with_audio_as_is());
        let copied = Need { transcodes: needed(&as_is, stream), ..need };
        if copied.transcodes >= transcodes || self.admits(now, copied).is_err() {
            return Err(error);
        }
        self.count_refused(&error);
        Ok((as_is, vec![format!("the sound is recorded as it came and not transcoded: {error}")]))
    }

    fn admits(&self, now: Now, need: Need) -> Result<(), ControlError> {
        // Before what is counted and measured: nothing else is of use on a full disk.
        self.inner.disk.admits()?;
        self.inner.admission.limits.admit(now, need).map_err(ControlError::NotAdmitted)
    }

    fn now(&self, active: &Actives<Running>) -> Now {
        let under_way = || active.iter().filter(|a| !a.stopping);
        Now {
            recordings: under_way().count(),
            transcodes: under_way().map(|a| a.running.transcodes()).sum(),
            load: self.inner.admission.cpu.load(),
        }
    }

    fn count_refused(&self, error: &ControlError) {
        match error {
            ControlError::NotAdmitted(why) => self.inner.admission.count(*why),
            ControlError::DiskFull(_) => self.inner.disk.count_refused(),
            _ => {}
        }
    }

    /// How many starts were refused for one of [`NotAdmitted::REASONS`].
    pub fn refused(&self, reason: &str) -> u64 {
        let index = NotAdmitted::REASONS.iter().position(|r| *r == reason);
        index.map_or(0, |n| self.inner.admission.refused[n].load(Ordering::Relaxed))
    }

    /// The measured load of the processors.
    pub(super) fn cpu(&self) -> &Cpu {
        &self.inner.admission.cpu
    }

    /// How busy the processors are that the daemon may use, and its own part of that.
    pub fn cpu_percent(&self) -> (u64, u64) {
        let share = self.cpu().load().share;
        ((share.all * 100.0).round() as u64, (share.own * 100.0).round() as u64)
    }

    /// New transcoding is refused for want of processors, or would be.
    pub fn is_busy(&self) -> bool {
        self.cpu().busy()
    }

    /// Streams that the policy wants recorded and that wait until they can be.
    pub fn waiting_to_be_recorded(&self) -> usize {
        self.inner.admission.waiting.len()
    }

    /// Why a call that starts a recording is refused now, and a new stream: see [`NotAdmitted::REASONS`].
    pub(super) fn refusing(&self) -> Vec<&'static str> {
        let now = self.now(&self.active());
        let limits = self.inner.admission.limits;
        let need = |recordings, transcodes| Need { recordings, transcodes, asked_by: AskedBy::Call };
        let counted = Limits { max_cpu_percent: None, ..limits };
        let refusals = [
            counted.admit(now, need(1, 0)),
            counted.admit(now, need(0, 1)),
            limits.admit_load(now.load, need(0, 1)),
            limits.admit_load(now.load, need(1, 0)),
        ];
        let mut reasons: Vec<_> =
            refusals.into_iter().filter_map(|r| r.err()).map(NotAdmitted::reason).collect();
        let max_sessions = self.inner.facts.limits.max_sessions;
        if max_sessions > 0 && self.inner.hub.stream_count() >= max_sessions {
            reasons.push("max_sessions");
        }
        reasons
    }
}

fn needed(rules: &Rules, stream: &Stream) -> usize {
    transcodes(&rules.policy, &rules.templates, &stream.snapshot().tracks)
}

#[cfg(test)]
mod tests {
    use super::{super::cpu::Share, *};

    const CALL: AskedBy = AskedBy::Call;
    const POLICY: AskedBy = AskedBy::Policy;

    fn admit(limits: Limits, now: (usize, usize, Refusing), need: (usize, usize, AskedBy)) -> &'static str {
        let (recordings, transcodes, refusing) = now;
        let load = Load { share: Share { all: 0.934, own: 0.5 }, refusing };
        let now = Now { recordings, transcodes, load };
        let need = Need { recordings: need.0, transcodes: need.1, asked_by: need.2 };
        limits.admit(now, need).map_or_else(NotAdmitted::reason, |()| "")
    }

    #[test]
    fn what_is_admitted() {
        use Refusing::{Copies, Nothing, Transcodes};
        let none = Limits { max_recordings: 0, max_transcodes: 0, max_cpu_percent: Some(90) };
        let limits = Limits { max_recordings: 3, max_transcodes: 2, ..none };
        let blind = Limits { max_cpu_percent: None, ..none };
        for (limits, now, need, refused) in [
            (none, (10_000, 10_000, Nothing), (1, 2, CALL), ""),
            (limits, (2, 1, Nothing), (1, 1, CALL), ""),
            (limits, (3, 0, Nothing), (1, 0, CALL), "max_recordings"),
            (limits, (3, 0, Nothing), (1, 0, POLICY), "max_recordings"),
            (limits, (2, 2, Nothing), (1, 0, CALL), ""),
            (limits, (2, 2, Nothing), (1, 1, CALL), "max_transcodes"),
            (limits, (2, 1, Nothing), (1, 2, POLICY), "max_transcodes"),
            // In place of another one that transcodes as much.
            (limits, (3, 2, Copies), (0, 0, CALL), ""),
            (limits, (3, 2, Nothing), (0, 1, CALL), "max_transcodes"),
            (none, (1, 0, Transcodes), (1, 0, CALL), ""),
            (none, (1, 0, Transcodes), (1, 1, CALL), "cpu_transcode"),
            (none, (1, 0, Transcodes), (1, 1, POLICY), "cpu_transcode"),
            (none, (1, 0, Copies), (1, 0, CALL), "cpu"),
            (none, (1, 0, Copies), (1, 0, POLICY), ""),
            (none, (1, 0, Copies), (1, 1, POLICY), "cpu_transcode"),
            (none, (1, 0, Copies), (0, 1, CALL), "cpu_transcode"),
            (blind, (1, 0, Copies), (1, 1, CALL), ""),
        ] {
            assert_eq!(admit(limits, now, need), refused, "{limits:?} {now:?} {need:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_do_and_whether_it_was_measured() {
        for (why, load, words) in [
            (NotAdmitted::Recordings { max: 3 }, false, "max_recordings"),
            (NotAdmitted::Transcodes { running: 4, max: 4 }, false, "record_audio=passthrough"),
            (NotAdmitted::Transcode { percent: 93, max: 90 }, true, "busy to 93 % ([limits] max_cpu = 90%)"),
            (NotAdmitted::Copy { percent: 99, max: 90 }, true, "try again later"),
        ] {
            assert_eq!(why.is_load(), load);
            assert!(why.to_string().contains(words), "{why}");
        }
    }
}
