//! The verbs on recordings: start, stop, split, pause, resume, switch, and what a stream's beginning does.

use super::{
    Control, ControlError, RecordingState, Rules, RunningRecording, StartOptions, WhenRunning,
    active::{Active, Actives},
};
use crate::{
    config::{NameTemplate, WebrtcRecording},
    hub::{PrerollGiven, Publishing, Stream, Subscriber},
    library::{HandOn, Recording, RecordingId, Status, UploadTo},
    media::{MediaSessionId, Protocol},
    record::{Order, Refusal, Running, Source},
};
use chrono::Utc;
use futures_util::{FutureExt, future::BoxFuture};
use std::{sync::Arc, time::Duration};

/// How long a start waits for the first frame to be in a file before it answers `starting`.
const START_WAIT: Duration = Duration::from_secs(2);

/// A stream is older than what can be had of it: its tracks are waited for, and then a key frame.
const AGE_MARGIN: Duration = Duration::from_secs(3);

/// A recording, and what it will answer.
type Asked = (Running, BoxFuture<'static, Result<Recording, Refusal>>);

impl Control {
    /// A stream has begun to publish: a recording that waits for its publisher goes on with it, else one begins if the
    /// policy or the publisher wants it. Call it in the order in which streams begin, on a tokio thread; it never waits.
    pub fn record_by_policy(&self, publishing: Publishing) {
        let Publishing { stream, from_start: subscriber } = publishing;
        self.follow_session(&stream);
        let mut active = self.active();
        let waiting = active.waiting_for(&stream).map(|a| (a.id, a.running.clone()));
        let (Some((id, running)), None) = (waiting, active.live(stream.id())) else {
            return self.begin_by_policy(&mut active, Source { stream, subscriber });
        };
        let session = stream.id();
        active.ask(id, stream.clone());
        let source = Source { stream, subscriber };
        let answer = in_line(async move { running.rejoin(source).await });
        drop(active);
        let control = self.clone();
        tokio::spawn(async move { control.rejoined(id, session, answer.await) });
    }

    fn rejoined(&self, id: RecordingId, session: MediaSessionId, answer: Result<(), Source>) {
        let mut active = self.active();
        match answer {
            Ok(()) => active.accepted(id, session),
            // It waits for nobody, or not any more.
            Err(source) => {
                active.refused(id, session);
                self.begin_by_policy(&mut active, source);
            }
        }
    }

    fn begin_by_policy(&self, active: &mut Actives<Running>, source: Source) {
        let rules = self.rules();
        // A start or a switch that was faster has it already.
        if Self::is_wanted(&source.stream, &rules) && active.live(source.stream.id()).is_none() {
            // Also while the daemon ends: what such a stream has sent is already here and becomes a file.
            self.begin_when_admitted(active, source, &rules);
        }
    }

    /// Whether the policy, or the publisher, wants it recorded.
    pub(super) fn is_wanted(stream: &Stream, rules: &Rules) -> bool {
        let by_policy = match stream.announce().protocol {
            Protocol::Rtmp => rules.policy.record_rtmp_streams,
            Protocol::Rtsp => rules.policy.record_rtsp_streams,
            Protocol::Webrtc => rules.policy.record_webrtc_streams == WebrtcRecording::Always,
            Protocol::File => false,
        };
        let never = stream.announce().protocol == Protocol::Webrtc
            && rules.policy.record_webrtc_streams == WebrtcRecording::Never;
        rules.policy.record_streams && !never && (by_policy || stream.announce().record)
    }

    pub async fn start_recording(
        &self,
        id: MediaSessionId,
        mut options: StartOptions,
        when_running: WhenRunning,
    ) -> Result<Recording, ControlError> {
        self.check_deliveries(&mut options)?;
        let preroll = self.preroll_for(&options)?;
        let rules = self.rules_for(options)?;
        let stream = self.stream(id)?;
        let mut running = {
            let mut active = self.active();
            if self.is_shutting_down() {
                return Err(ControlError::ShuttingDown);
            }
            let recording = active.live(id).map(|a| a.id);
            if let Some(recording) = recording.filter(|_| when_running == WhenRunning::Refuse) {
                return Err(ControlError::AlreadyRecording { session: id, recording });
            }
            self.admit(&active, &stream, &rules, recording)?;
            if let Some(recording) = recording {
                stop(&mut active, recording);
            }
            // What came before is in the file that ends now.
            let preroll = if recording.is_some() { Duration::ZERO } else { preroll };
            let (subscriber, degraded) = self.subscribe(&stream, preroll)?;
            self.begin(&mut active, stream, subscriber, &rules, degraded)
        };
        let recording = Self::started(&mut running).await;
        match recording.error {
            Some(error) => Err(ControlError::Failed(error)),
            None => Ok(recording),
        }
    }

    /// A recording once its first frame is in a file, or as it is after 2 s.
    pub(super) async fn started(running: &mut Running) -> Recording {
        match tokio::time::timeout(START_WAIT, running.started()).await {
            Ok(recording) => recording,
            Err(_) => running.progress().recording,
        }
    }

    /// Answers when every file of the recording is final.
    pub async fn stop_recording(&self, id: MediaSessionId) -> Result<Recording, ControlError> {
        let mut running = {
            let mut active = self.active();
            // Nor is it to be recorded later, when it waits for that.
            self.wait_no_more(id);
            let found = self.find(&active, id).map(|a| (a.id, a.running.clone()));
            let Some((recording, running)) = found else {
                return Err(self.not_recording(id));
            };
            // Also when its end was asked for already: whoever asks again is told the same.
            stop(&mut active, recording);
            running
        };
        Ok(self.with_lock(running.done().await).await)
    }

    /// Ends the file under way at the next key frame, which begins the next one; answers then, or after 2 s.
    pub async fn split_recording(&self, id: MediaSessionId) -> Result<Recording, ControlError> {
        let split = self.recording_of(id)?.split().await.map_err(ControlError::Refused)?;
        Ok(self.with_lock(split).await)
    }

    /// Leaves out what comes from now on; the file stays open.
    pub async fn pause_recording(&self, id: MediaSessionId) -> Result<Recording, ControlError> {
        let pause = self.recording_of(id)?.pause().await.map_err(ControlError::Refused)?;
        Ok(self.with_lock(pause).await)
    }

    /// Goes on in the same file at the next key frame; answers then, or after 2 s.
    pub async fn resume_recording(&self, id: MediaSessionId) -> Result<Recording, ControlError> {
        let resume = self.recording_of(id)?.resume().await.map_err(ControlError::Refused)?;
        Ok(self.with_lock(resume).await)
    }

    /// Has a recording go on with another live stream, at that one's next key frame; answers then, or after 2 s. It belongs
    /// to the session of that stream from then on.
    pub async fn switch_recording(
        &self,
        id: RecordingId,
        to: MediaSessionId,
    ) -> Result<Recording, ControlError> {
        let Some((running, answer)) = self.ask_to_switch(id, to)? else {
            self.recording(id).await?;
            return Err(ControlError::Refused(Refusal::Over));
        };
        let answer = answer.await;
        let mut active = self.active();
        match answer {
            Ok(_) => active.accepted(id, to),
            Err(_) => active.refused(id, to),
        }
        // Before its watcher tells: who is answered finds the session changed.
        let at = running.progress().stream;
        active.joined(id, at.clone());
        let recording = answer.map_err(ControlError::Refused)?;
        if at.id() != to && self.stream(to).is_err() {
            // It ended before its first key frame.
            active.refused(id, to);
            return Err(ControlError::UnknownSession(to));
        }
        Ok(recording)
    }

    /// `None`: the recording is not under way.
    fn ask_to_switch(&self, id: RecordingId, to: MediaSessionId) -> Result<Option<Asked>, ControlError> {
        let mut active = self.active();
        active.keep_asked(id, |s| self.stream(s.id()).is_ok());
        let Some(now) = active.get(id).filter(|a| !a.stopping) else { return Ok(None) };
        if now.stream().id() == to {
            return Err(ControlError::SameSession { session: to, recording: id });
        }
        let stream = self.stream(to)?;
        if let Some(other) = active.live(to).filter(|other| other.id != id) {
            return Err(ControlError::AlreadyRecording { session: to, recording: other.id });
        }
        let subscriber =
            stream.subscribe_from_now(self.queue_bytes()).ok_or(ControlError::NotPublishing(to))?;
        stream.request_key_frame();
        let running = now.running.clone();
        active.ask(id, stream.clone());
        let (source, mut asked) = (Source { stream, subscriber }, running.clone());
        Ok(Some((running, in_line(async move { asked.switch(source).await }))))
    }

    pub fn recording_state(&self, id: MediaSessionId) -> Result<RecordingState, ControlError> {
        let active = self.active();
        let Some(now) = self.find(&active, id) else {
            self.stream(id)?;
            return Ok(RecordingState {
                on: false,
                update_pending: false,
                total_running_duration_ms: 0,
                recording_id: None,
            });
        };
        let status = now.running.progress().recording.status;
        Ok(RecordingState {
            on: matches!(status, Status::Recording | Status::Paused),
            update_pending: now.stopping || matches!(status, Status::Starting | Status::Finalizing),
            total_running_duration_ms: now.running.media_ms(),
            recording_id: Some(now.id),
        })
    }

    /// Every recording under way.
    pub fn running(&self) -> Vec<RunningRecording> {
        let active = self.active();
        let mut running: Vec<_> = active
            .iter()
            .filter(|a| !a.stopping)
            .filter_map(|a| {
                let file_name = a.running.progress().file_name?;
                Some(RunningRecording { file_name, media_session_id: a.stream().id() })
            })
            .collect();
        running.sort_by(|a, b| a.file_name.cmp(&b.file_name));
        running
    }

    pub(super) fn begin(
        &self,
        active: &mut Actives<Running>,
        stream: Arc<Stream>,
        subscriber: Subscriber,
        rules: &Rules,
        degraded: Vec<String>,
    ) -> Running {
        let waits = !rules.policy.resume_window.is_zero();
        let running = self.inner.recorder.start(Order {
            stream: stream.clone(),
            subscriber,
            policy: rules.policy.clone(),
            templates: rules.templates.clone(),
            hand_on: self.hand_on(rules),
            max_part_duration: Duration::from_millis(self.inner.facts.limits.max_part_duration_ms),
            degraded,
        });
        active.begin(running.id(), running.clone(), stream, waits);
        self.follow_recording(running.clone());
        running
    }

    /// What is to be done with the files of a recording that follows `rules`: each target once.
    pub(super) fn hand_on(&self, rules: &Rules) -> HandOn {
        let facts = &self.inner.facts;
        let mut hand_on = facts.hand_on.clone();
        hand_on.hook = rules.policy.hook_in(&facts.hooks);
        hand_on.webhooks = facts.webhooks.urls();
        let HandOn { hook: _, webhooks, uploads } = &rules.hand_on;
        for url in webhooks {
            if !hand_on.webhooks.contains(url) {
                hand_on.webhooks.push(url.clone());
            }
        }
        hand_on.uploads.extend(uploads.iter().filter(|to| !facts.hand_on.uploads.contains(to)).cloned());
        hand_on
    }

    /// From the key frame at or before the pre-roll, and why it is shorter than that.
    pub(super) fn subscribe(
        &self,
        stream: &Stream,
        preroll: Duration,
    ) -> Result<(Subscriber, Vec<String>), ControlError> {
        let not_publishing = || ControlError::NotPublishing(stream.id());
        if preroll.is_zero() {
            let subscriber = stream.subscribe(self.queue_bytes()).ok_or_else(not_publishing)?;
            return Ok((subscriber, Vec::new()));
        }
        let (subscriber, given) =
            stream.subscribe_with_preroll(self.queue_bytes(), preroll).ok_or_else(not_publishing)?;
        let age = (Utc::now() - stream.created_at()).to_std().unwrap_or_default();
        Ok((subscriber, shortfall(preroll, given, age).into_iter().collect()))
    }

    /// How much of the past a start gets: what it asks for, else what the policy says.
    pub(super) fn preroll_for(&self, options: &StartOptions) -> Result<Duration, ControlError> {
        let by_policy = self.rules().policy.preroll;
        let kept = by_policy.max(Duration::from_millis(self.inner.facts.limits.preroll_ms));
        match options.preroll {
            Some(asked) if asked > kept => Err(ControlError::PrerollTooLong { asked, kept }),
            asked => Ok(asked.unwrap_or(by_policy)),
        }
    }

    pub(super) fn rules_for(&self, options: StartOptions) -> Result<Arc<Rules>, ControlError> {
        let rules = self.rules();
        if !rules.policy.record_streams {
            return Err(ControlError::RecordingOff);
        }
        let StartOptions { file_template, rotation, preroll: _, webhooks, uploads } = options;
        let uploads = uploads.into_iter().map(|url| UploadTo::Put { url }).collect();
        let hand_on = HandOn { hook: None, webhooks, uploads };
        if file_template.is_none() && rotation.is_none() && hand_on == HandOn::default() {
            return Ok(rules);
        }
        let template = file_template.map(|text| NameTemplate::parse(&text)).transpose();
        let template = template.map_err(|e| ControlError::Template(e.to_string()))?;
        Ok(Arc::new(rules.with(template, rotation, hand_on)))
    }

    fn recording_of(&self, id: MediaSessionId) -> Result<Running, ControlError> {
        let found = self.find(&self.active(), id).map(|a| a.running.clone());
        found.ok_or_else(|| self.not_recording(id))
    }

    /// The recording of a session; of one that is gone, also the one that began with it: it may wait for its publisher.
    fn find<'a>(&self, active: &'a Actives<Running>, id: MediaSessionId) -> Option<&'a Active<Running>> {
        let gone = || self.inner.hub.get(id).is_none();
        active.of(id).or_else(|| active.begun_with(id).filter(|_| gone()))
    }

    /// Why a session has no recording: it may not be there itself.
    fn not_recording(&self, id: MediaSessionId) -> ControlError {
        self.stream(id).map_or_else(|e| e, |_| ControlError::NotRecording(id))
    }

    pub(super) fn queue_bytes(&self) -> usize {
        self.inner.facts.limits.recorder_queue_bytes as usize
    }
}

pub(super) fn stop(active: &mut Actives<Running>, id: RecordingId) {
    active.stopping(id);
    if let Some(now) = active.get(id) {
        now.running.stop();
    }
}

/// Why a pre-roll is shorter than asked for; nothing where the stream is no older than what it gave.
fn shortfall(asked: Duration, given: PrerollGiven, age: Duration) -> Option<String> {
    let PrerollGiven { duration, shortened } = given;
    let why = match shortened {
        true => "preroll_memory ran short",
        false if duration < asked && duration + AGE_MARGIN < age => "no more was kept of the stream",
        false => return None,
    };
    Some(format!("the pre-roll is {} s instead of {} s: {why}", seconds(duration), seconds(asked)))
}

/// Begins a request to a recording: when this returns, it is in the recording's line. Requests that are begun under the lock
/// of the table of recordings have one order, the table's and the recording's.
fn in_line<T: Send + 'static>(request: impl Future<Output = T> + Send + 'static) -> BoxFuture<'static, T> {
    let mut request = request.boxed();
    // Its first poll sends it, and waits for nothing.
    match (&mut request).now_or_never() {
        Some(answer) => std::future::ready(answer).boxed(),
        None => request,
    }
}

/// To a tenth.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_short_preroll_is_told_unless_the_stream_is_young() {
        let said = |given_ms, shortened, age_s| {
            let given = PrerollGiven { duration: Duration::from_millis(given_ms), shortened };
            shortfall(Duration::from_secs(10), given, Duration::from_secs(age_s))
        };
        assert_eq!(said(11_000, false, 60), None);
        assert_eq!(said(4_000, false, 6), None, "it is all there is");
        let short = "the pre-roll is 4 s instead of 10 s: preroll_memory ran short";
        assert_eq!(said(4_000, true, 6).as_deref(), Some(short));
        let recorded = "the pre-roll is 3.6 s instead of 10 s: no more was kept of the stream";
        assert_eq!(said(3_570, false, 60).as_deref(), Some(recorded), "it was recorded until then");
    }

    #[tokio::test]
    async fn a_request_is_sent_before_its_answer_is_waited_for() {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let sent = Arc::new(AtomicBool::new(false));
        let sends = sent.clone();
        let request = in_line(async move {
            sends.store(true, Ordering::Relaxed);
            answer.await
        });
        assert!(sent.load(Ordering::Relaxed));
        reply.send(7).expect("it waits");
        assert_eq!(request.await, Ok(7));
        assert_eq!(in_line(async { 8 }).await, 8, "one that is answered at once");
    }
}
