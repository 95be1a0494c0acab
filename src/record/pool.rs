//! The writer threads: a few, however many recordings there are. Each wakes on a common tick and writes what
//! its recordings have gathered, so that a recording costs no thread and no wake-up of its own.

use super::{
    request::{Refused, Request},
    sync::SyncStats,
    task::Task,
};
use crate::{hub::Subscriber, library::RecordingId};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SendError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How often recordings are written. With it come batches of 250 ms, which cost a third of writing frame by
/// frame, and at most as much loss when the process is killed.
const TICK: Duration = Duration::from_millis(250);
const MAX_THREADS: usize = 4;

enum Command {
    Attach(Box<Task>),
    Stop(RecordingId, Option<String>),
    Poll(RecordingId),
    Ask(RecordingId, Request, oneshot::Sender<Result<(), Refused>>),
    Quit,
}

pub(super) struct Pool {
    threads: Vec<Thread>,
    handles: Vec<JoinHandle<()>>,
}

struct Thread {
    commands: Sender<Command>,
    tasks: Arc<AtomicUsize>,
}

/// Lets anyone have one recording polled before the next tick.
#[derive(Clone)]
pub(super) struct Waker(Sender<Command>);

impl Waker {
    fn poll(&self, id: RecordingId) {
        // Without a thread there is nothing left to wake.
        let _ = self.0.send(Command::Poll(id));
    }

    /// Has the recording polled when the stream ends or the queue fills.
    pub fn poll_at_attention_of(&self, subscriber: &Subscriber, id: RecordingId) {
        let waker = self.clone();
        subscriber.on_attention(move || waker.poll(id));
    }

    /// `why`: the recording ends before anyone asked for it.
    pub fn stop(&self, id: RecordingId, why: Option<String>) {
        let _ = self.0.send(Command::Stop(id, why));
    }

    /// Has one recording do something; answers when it has, or will at its next key frame.
    pub async fn ask(&self, id: RecordingId, request: Request) -> Result<(), Refused> {
        let (reply, answer) = oneshot::channel();
        if let Err(SendError(Command::Ask(_, request, _))) = self.0.send(Command::Ask(id, request, reply)) {
            return Err(Refused::over(request));
        }
        // A reply that never comes is a fault of ours that ended the recording; it was logged.
        answer.await.unwrap_or_else(|_| Err(Refused::over(Request::Split)))
    }
}

/// One writer thread per core, four at the most.
pub(super) fn writer_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS)
}

impl Pool {
    pub fn start(stats: &Arc<SyncStats>) -> std::io::Result<Self> {
        let count = writer_threads();
        let (mut threads, mut handles) = (Vec::new(), Vec::new());
        for n in 0..count {
            let (commands, receiver) = channel();
            let tasks = Arc::new(AtomicUsize::new(0));
            let counter = tasks.clone();
            let stats = stats.clone();
            let run = move || run(&receiver, &counter, |writing| stats.set_writing(n, writing));
            handles.push(std::thread::Builder::new().name(format!("writer-{n}")).spawn(run)?);
            threads.push(Thread { commands, tasks });
        }
        Ok(Self { threads, handles })
    }

    /// Gives the task to the thread with the fewest.
    pub fn attach(&self, mut task: Task) -> Waker {
        let least = self.threads.iter().min_by_key(|t| t.tasks.load(Ordering::Relaxed));
        let thread = least.expect("a pool has at least one thread");
        thread.tasks.fetch_add(1, Ordering::Relaxed);
        let waker = Waker(thread.commands.clone());
        task.wake_by(waker.clone());
        // The threads live as long as the pool.
        let _ = thread.commands.send(Command::Attach(Box::new(task)));
        waker
    }

    /// Recordings being written.
    pub fn len(&self) -> usize {
        self.threads.iter().map(|t| t.tasks.load(Ordering::Relaxed)).sum()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for thread in &self.threads {
            let _ = thread.commands.send(Command::Quit);
        }
        for handle in self.handles.drain(..) {
            // A panic of a writer thread was printed when it happened.
            let _ = handle.join();
        }
    }
}

/// `tell` is called when the thread begins and when it ends what the disk may make it wait for.
fn run(commands: &Receiver<Command>, counter: &AtomicUsize, tell: impl Fn(bool)) {
    let started = Instant::now();
    let mut tasks: Vec<Task> = Vec::new();
    // How many of the tasks that `counter` holds have been received and are not yet taken off it.
    let mut counted = 0;
    let mut next_tick = started + TICK;
    let now = || started.elapsed();
    loop {
        // Before the commands, however many there are: calls to the API hold up no recording.
        if Instant::now() >= next_tick {
            tasks.retain_mut(|task| guarded(task, |task| task.poll(now())));
            next_tick = Instant::now() + TICK;
        }
        let timeout = if tasks.is_empty() {
            // Nothing to write: sleep until told.
            Duration::from_secs(3600)
        } else {
            next_tick.saturating_duration_since(Instant::now())
        };
        tell(false);
        let command = commands.recv_timeout(timeout);
        tell(true);
        match command {
            Ok(Command::Attach(mut task)) => {
                counted += 1;
                if guarded(&mut task, |task| task.poll(now())) {
                    tasks.push(*task);
                }
            }
            Ok(Command::Stop(id, why)) => with(&mut tasks, id, |task| {
                task.stop(why, now());
                false
            }),
            Ok(Command::Ask(id, request, reply)) => ask(&mut tasks, id, request, reply, now()),
            Ok(Command::Poll(id)) => with(&mut tasks, id, |task| task.poll(now())),
            Ok(Command::Quit) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        counter.fetch_sub(counted - tasks.len(), Ordering::Relaxed);
        counted = tasks.len();
    }
}

fn ask(
    tasks: &mut Vec<Task>,
    id: RecordingId,
    request: Request,
    reply: oneshot::Sender<Result<(), Refused>>,
    now: Duration,
) {
    if !tasks.iter().any(|t| t.id == id) {
        // Who asked may have gone.
        let _ = reply.send(Err(Refused::over(request)));
        return;
    }
    with(tasks, id, |task| {
        let _ = reply.send(task.ask(request, now));
        task.poll(now)
    });
}

fn with(tasks: &mut Vec<Task>, id: RecordingId, act: impl FnOnce(&mut Task) -> bool) {
    let Some(at) = tasks.iter().position(|t| t.id == id) else { return };
    if !guarded(&mut tasks[at], act) {
        tasks.swap_remove(at);
    }
}

/// A fault of ours in one recording ends that one: its books see that it broke off. The others of the thread go on.
fn guarded(task: &mut Task, act: impl FnOnce(&mut Task) -> bool) -> bool {
    let id = task.id;
    catch_unwind(AssertUnwindSafe(|| act(task))).unwrap_or_else(|_| {
        tracing::error!(recording = %id, "a recording broke off by a fault of ours");
        false
    })
}
