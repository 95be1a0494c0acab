//! Where a recording is, as a pure state machine: what comes in, what is to be done. No I/O, no clock of its own.

use super::params::Change;
use std::{collections::VecDeque, time::Duration};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// The tracks that follow; `video`: one of them is video.
    Tracks {
        video: bool,
        change: Change,
    },
    /// A track speaks that the file under way has no place for.
    Outgrown,
    /// An access unit; `key`: decoding can begin here.
    Frame {
        video: bool,
        key: bool,
    },
    /// Frames were left out before the next one, which is a key frame.
    Overflow,
    /// The part under way is to end at the next key frame.
    Rotate,
    Pause,
    Resume,
    /// What follows comes from another stream, beginning with a key frame. `fits`: the file under way can go on with it.
    Joined {
        video: bool,
        fits: bool,
    },
    /// A part could not be opened or written.
    WriteFailed,
    /// The disk has no room for what was written.
    DiskFull,
    /// No part can ever be opened: the codec does not fit the container.
    Impossible,
    /// The recording was asked to end.
    Stop,
    /// The stream ended.
    End,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    /// Leave this frame out: it was asked for.
    Skip,
    /// Keep this audio frame: it belongs to a part that opens soon, or to the one that goes on soon.
    Hold,
    /// Open the next part, write what was held, then this frame.
    Open,
    /// Close the part under way, but keep what was held for the next one; then as `Open`.
    Reopen,
    Write,
    /// With this frame the recording goes on after a time that was left out: in the part under way, or in the next one
    /// where there is none.
    GoOn,
    /// Ask for a key frame. A part that is under way goes on until it comes.
    AskKey,
    /// Close the part under way, if any; the next one opens at the next key frame.
    Close,
    /// Close the part under way, if any; the recording is done.
    Finish,
    /// As `Finish`, but the recording has failed: too many errors.
    Fail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    WaitTracks,
    WaitKey {
        video: bool,
    },
    Writing,
    /// As `Writing`, until the next part can begin.
    Leaving {
        video: bool,
    },
    /// A part may be open; it waits.
    Paused,
    /// As `Paused`, until the next key frame.
    Resuming {
        video: bool,
    },
    Ended,
}

/// How many write errors a recording survives: `max` within `interval` (`file_recorder_max_errors_per_interval`,
/// `file_recorder_error_interval`).
#[derive(Clone, Copy, Debug)]
pub(super) struct ErrorBudget {
    pub max: u32,
    pub interval: Duration,
}

/// A publisher that changes its parameters all the time may have so many parts within [`OPENINGS_WINDOW`]; then the
/// next one waits. Opening a file is work that other recordings of the same thread wait for.
const MAX_OPENINGS: usize = 30;
const OPENINGS_WINDOW: Duration = Duration::from_secs(60);

pub(super) struct State {
    phase: Phase,
    /// When the latest parts were opened.
    openings: VecDeque<Duration>,
    has_video: bool,
    budget: ErrorBudget,
    /// When the errors within the budget's interval happened.
    errors: VecDeque<Duration>,
}

impl State {
    pub fn new(budget: ErrorBudget) -> Self {
        Self {
            phase: Phase::WaitTracks,
            has_video: false,
            openings: VecDeque::new(),
            budget,
            errors: VecDeque::new(),
        }
    }

    /// `now`: monotonic time since any fixed origin.
    pub fn step(&mut self, input: Input, now: Duration) -> Action {
        if self.phase == Phase::Ended {
            return Action::Nothing;
        }
        match input {
            Input::Frame { video, key } => self.frame(video, key, now),
            Input::Tracks { change: Change::Fits, .. } => Action::Nothing,
            Input::Tracks { video, change } => {
                self.has_video = video;
                if change == Change::Grows { self.leave() } else { self.close() }
            }
            Input::Outgrown | Input::Rotate => self.leave(),
            Input::Overflow if self.is_left_out() => Action::Nothing,
            Input::Overflow => self.close(),
            Input::Pause => self.pause(),
            Input::Resume => self.resume(),
            Input::Joined { video, fits } => self.joined(video, fits),
            Input::WriteFailed => self.write_failed(now),
            Input::Impossible => self.end(Action::Fail),
            Input::Stop | Input::End | Input::DiskFull => self.end(Action::Finish),
        }
    }

    fn frame(&mut self, video: bool, key: bool, now: Duration) -> Action {
        match self.phase {
            Phase::Writing => Action::Write,
            Phase::Leaving { video: wanted } if !wanted || (video && key) => match self.open(now) {
                Action::Open => Action::Reopen,
                _ => Action::Write,
            },
            Phase::Leaving { .. } => Action::Write,
            Phase::WaitKey { video: false } => self.open(now),
            Phase::WaitKey { video: true } if video && key => self.open(now),
            Phase::WaitKey { video: true } if !video => Action::Hold,
            Phase::Paused => Action::Skip,
            Phase::Resuming { video: wanted } if !wanted || (video && key) => {
                self.phase = Phase::Writing;
                Action::GoOn
            }
            Phase::Resuming { .. } => {
                if video {
                    Action::Skip
                } else {
                    Action::Hold
                }
            }
            Phase::WaitTracks | Phase::WaitKey { .. } | Phase::Ended => Action::Nothing,
        }
    }

    /// Paused, or not yet going on after it: what is missing then is not lost.
    pub fn is_left_out(&self) -> bool {
        matches!(self.phase, Phase::Paused | Phase::Resuming { .. })
    }

    pub fn is_paused(&self) -> bool {
        self.phase == Phase::Paused
    }

    /// The part under way ends at the next key frame.
    pub fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Leaving { .. })
    }

    /// Nothing more can be done before a video key frame comes.
    pub fn wants_key(&self) -> bool {
        use Phase::{Leaving, Resuming, WaitKey};
        matches!(self.phase, WaitKey { video: true } | Leaving { video: true } | Resuming { video: true })
    }

    fn pause(&mut self) -> Action {
        let leaving = self.is_leaving();
        self.phase = Phase::Paused;
        if leaving { Action::Close } else { Action::Nothing }
    }

    fn resume(&mut self) -> Action {
        if self.phase != Phase::Paused {
            return Action::Nothing;
        }
        self.phase = Phase::Resuming { video: self.has_video };
        Action::AskKey
    }

    fn joined(&mut self, video: bool, fits: bool) -> Action {
        let stays = fits && !self.is_leaving();
        self.has_video = video;
        if self.phase != Phase::Paused {
            self.phase = Phase::Resuming { video };
        }
        if stays { Action::Nothing } else { Action::Close }
    }

    fn open(&mut self, now: Duration) -> Action {
        while self.openings.front().is_some_and(|&at| now.saturating_sub(at) > OPENINGS_WINDOW) {
            self.openings.pop_front();
        }
        if self.openings.len() >= MAX_OPENINGS {
            return Action::Nothing;
        }
        self.openings.push_back(now);
        self.phase = Phase::Writing;
        Action::Open
    }

    fn leave(&mut self) -> Action {
        match self.phase {
            Phase::Writing => {
                self.phase = Phase::Leaving { video: self.has_video };
                Action::AskKey
            }
            Phase::Leaving { .. } => {
                self.phase = Phase::Leaving { video: self.has_video };
                Action::Nothing
            }
            Phase::Paused | Phase::Resuming { .. } => self.close(),
            _ => {
                self.phase = Phase::WaitKey { video: self.has_video };
                Action::Nothing
            }
        }
    }

    fn close(&mut self) -> Action {
        let was_open = self.phase > Phase::WaitKey { video: true };
        self.wait_for_key();
        if was_open { Action::Close } else { Action::Nothing }
    }

    /// There is no part now. What is left out stays left out.
    fn wait_for_key(&mut self) {
        self.phase = match self.phase {
            Phase::Paused => Phase::Paused,
            Phase::Resuming { .. } => Phase::Resuming { video: self.has_video },
            _ => Phase::WaitKey { video: self.has_video },
        };
    }

    fn write_failed(&mut self, now: Duration) -> Action {
        while self.errors.front().is_some_and(|&at| now.saturating_sub(at) > self.budget.interval) {
            self.errors.pop_front();
        }
        self.errors.push_back(now);
        if self.errors.len() >= self.budget.max as usize {
            return self.end(Action::Fail);
        }
        self.wait_for_key();
        Action::Close
    }

    fn end(&mut self, action: Action) -> Action {
        self.phase = Phase::Ended;
        action
    }
}

#[cfg(test)]
mod tests {
    use super::{Action::*, *};

    const AV: Input = Input::Tracks { video: true, change: Change::Other };
    const AUDIO: Input = Input::Frame { video: false, key: true };
    const KEY: Input = Input::Frame { video: true, key: true };
    const DELTA: Input = Input::Frame { video: true, key: false };

    fn run(steps: &[(Input, Action)]) {
        let mut state = State::new(ErrorBudget { max: 3, interval: Duration::from_secs(60) });
        for (n, (input, action)) in steps.iter().enumerate() {
            assert_eq!(state.step(*input, Duration::from_secs(n as u64)), *action, "step {n}: {input:?}");
        }
    }

    #[test]
    fn a_part_opens_at_a_key_frame_with_the_audio_before_it() {
        run(&[(AV, Nothing), (DELTA, Nothing), (AUDIO, Hold), (KEY, Open), (DELTA, Write), (AUDIO, Write)]);
    }

    #[test]
    fn audio_alone_starts_at_once() {
        run(&[
            (Input::Tracks { video: false, change: Change::Other }, Nothing),
            (AUDIO, Open),
            (AUDIO, Write),
            (Input::End, Finish),
        ]);
    }

    #[test]
    fn parameters_that_fit_change_nothing() {
        let fits = Input::Tracks { video: true, change: Change::Fits };
        run(&[
            (AV, Nothing),
            (AUDIO, Hold),
            (fits, Nothing),
            (AUDIO, Hold),
            (KEY, Open),
            (fits, Nothing),
            (DELTA, Write),
            (KEY, Write),
        ]);
    }

    #[test]
    fn other_tracks_and_overflow_begin_a_new_part_at_the_next_key_frame() {
        for change in [AV, Input::Overflow] {
            run(&[(AV, Nothing), (KEY, Open), (change, Close), (DELTA, Nothing), (AUDIO, Hold), (KEY, Open)]);
        }
    }

    /// The file was closed at once, and the pictures up to the next key frame were in none.
    #[test]
    fn a_track_more_begins_a_new_part_without_a_hole() {
        let grows = |video| Input::Tracks { video, change: Change::Grows };
        let begun = [(AV, Nothing), (KEY, Open)];
        for change in [grows(true), Input::Outgrown] {
            let rest = [
                (change, AskKey),
                (DELTA, Write),
                (AUDIO, Write),
                (change, Nothing),
                (KEY, Reopen),
                (KEY, Write),
            ];
            run(&[&begun[..], &rest].concat());
        }
        run(&[&begun[..], &[(grows(true), AskKey), (Input::Overflow, Close), (AUDIO, Hold)]].concat());
        run(&[&begun[..], &[(grows(true), AskKey), (Input::Stop, Finish)]].concat());
        let alone = Input::Tracks { video: false, change: Change::Other };
        run(&[
            (alone, Nothing),
            (AUDIO, Open),
            (grows(true), AskKey),
            (AUDIO, Write),
            (DELTA, Write),
            (KEY, Reopen),
        ]);
        run(&[(alone, Nothing), (grows(true), Nothing), (AUDIO, Hold), (KEY, Open)]);
    }

    #[test]
    fn a_part_gives_way_to_the_next_at_a_key_frame() {
        run(&[
            (AV, Nothing),
            (KEY, Open),
            (Input::Rotate, AskKey),
            (DELTA, Write),
            (AUDIO, Write),
            (Input::Rotate, Nothing),
            (KEY, Reopen),
            (DELTA, Write),
        ]);
    }

    #[test]
    fn a_pause_leaves_out_and_goes_on_in_the_same_part() {
        let begun = [(AV, Nothing), (KEY, Open)];
        let paused = [(Input::Pause, Nothing), (KEY, Skip), (AUDIO, Skip), (Input::Overflow, Nothing)];
        let resumed = [(Input::Resume, AskKey), (DELTA, Skip), (AUDIO, Hold), (KEY, GoOn), (DELTA, Write)];
        run(&[&begun[..], &paused, &resumed].concat());
        run(&[&begun[..], &paused, &[(Input::Stop, Finish)]].concat());
        // A second pause before the first key frame.
        run(&[&begun[..], &paused, &resumed[..2], &paused, &resumed].concat());
        // Where the part was to end anyway, it ends.
        let split = [(Input::Rotate, AskKey), (Input::Pause, Close)];
        run(&[&begun[..], &split, &paused[1..], &resumed].concat());
    }

    #[test]
    fn other_parameters_in_a_pause_begin_a_new_part_after_it() {
        run(&[
            (AV, Nothing),
            (KEY, Open),
            (Input::Pause, Nothing),
            (AV, Close),
            (KEY, Skip),
            (Input::Resume, AskKey),
            (KEY, GoOn),
            (DELTA, Write),
        ]);
    }

    #[test]
    fn another_stream_goes_on_where_it_can() {
        let joined = |fits| Input::Joined { video: true, fits };
        let begun = [(AV, Nothing), (KEY, Open)];
        run(&[&begun[..], &[(joined(true), Nothing), (KEY, GoOn), (DELTA, Write)]].concat());
        run(&[&begun[..], &[(joined(false), Close), (KEY, GoOn), (DELTA, Write)]].concat());
        run(&[&begun[..], &[(Input::Rotate, AskKey), (joined(true), Close), (KEY, GoOn)]].concat());
        run(&[&begun[..], &[(Input::Pause, Nothing), (joined(true), Nothing), (KEY, Skip)]].concat());
        run(&[(AV, Nothing), (joined(true), Nothing), (KEY, GoOn), (DELTA, Write)]);
    }

    #[test]
    fn a_stop_ends_it_for_good() {
        run(&[(AV, Nothing), (KEY, Open), (Input::Stop, Finish), (KEY, Nothing), (Input::End, Nothing)]);
        run(&[(Input::Stop, Finish)]);
        run(&[(AV, Nothing), (KEY, Open), (Input::DiskFull, Finish), (KEY, Nothing)]);
    }

    #[test]
    fn errors_beyond_the_budget_fail_it() {
        let failed = Input::WriteFailed;
        run(&[
            (AV, Nothing),
            (KEY, Open),
            (failed, Close),
            (KEY, Open),
            (failed, Close),
            (KEY, Open),
            (failed, Fail),
        ]);
    }

    #[test]
    fn parts_open_only_so_often() {
        let mut state = State::new(ErrorBudget { max: 3, interval: Duration::from_secs(60) });
        let mut opened = |seconds| {
            state.step(AV, Duration::from_secs(seconds));
            state.step(KEY, Duration::from_secs(seconds)) == Open
        };
        assert_eq!((0..100).filter(|_| opened(0)).count(), MAX_OPENINGS);
        assert!(opened(61));
    }

    #[test]
    fn old_errors_do_not_count() {
        let mut state = State::new(ErrorBudget { max: 2, interval: Duration::from_secs(60) });
        for minutes in [0, 2, 4, 6] {
            assert_eq!(state.step(Input::WriteFailed, Duration::from_secs(60 * minutes)), Close);
        }
    }
}
