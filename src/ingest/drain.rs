//! Reading many TCP publishers cheaply: on one common tick, or earlier for who is fast, instead of message by message.

use socket2::SockRef;
use std::{
    cell::RefCell,
    io,
    mem::MaybeUninit,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Interval, MissedTickBehavior},
};

/// How often a publisher's socket is drained. Reading per message costs a wake-up per message and three times
/// the CPU; all connections share the tick's phase, so that one wake-up serves them all.
pub(super) const READ_TICK: Duration = Duration::from_millis(100);
/// A fast publisher is read before the tick once this much waits in the socket.
pub(super) const READ_EARLY_BYTES: libc::c_int = 64 << 10;
/// Most that is read from one publisher at a stretch, so that others get their turn.
const READ_AT_ONCE_BYTES: usize = 4 << 20;

thread_local! {
    /// Where sockets are read to; a message's bytes are copied once from here to the access unit.
    static SCRATCH: RefCell<Box<[MaybeUninit<u8>]>> = RefCell::new(vec![MaybeUninit::uninit(); 128 << 10].into());
}

/// The next ticks of [`READ_TICK`]'s grid, which begins at `origin` for everyone.
pub(super) fn ticks(origin: Instant) -> Interval {
    let into = origin.elapsed().as_nanos() % READ_TICK.as_nanos();
    let first = tokio::time::Instant::now() + READ_TICK - Duration::from_nanos(into as u64);
    let mut ticks = tokio::time::interval_at(first, READ_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// Hands all that waits in the socket to `take`; false at its end. Never waits. The socket's own readiness is not
/// asked: with a low-water mark it tells only of what is worth an early wake-up.
pub(super) fn drain<E: From<io::Error>>(
    socket: &TcpStream,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<bool, E> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut total = 0;
        while total < READ_AT_ONCE_BYTES {
            let n = match SockRef::from(socket).recv(scratch) {
                Ok(0) => return Ok(false),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            total += n;
            // SAFETY: recv has written the first n bytes.
            take(unsafe { std::slice::from_raw_parts(scratch.as_ptr().cast::<u8>(), n) })?;
            if n < scratch.len() {
                return Ok(true);
            }
        }
        Ok(true)
    })
}

/// After a [`drain`] that an early wake-up asked for: forgets the readiness that was just used up.
pub(super) fn forget_readiness(socket: &TcpStream) {
    // The error means "nothing more", as intended.
    let _ = socket.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
}

/// SO_RCVLOWAT (socket(7)): the socket counts as readable from so many bytes on, at its end, or on an error.
pub(super) fn set_receive_low_water(socket: &TcpStream, bytes: libc::c_int) -> io::Result<()> {
    let (value, length) = ((&raw const bytes).cast(), size_of_val(&bytes) as libc::socklen_t);
    // SAFETY: the descriptor is open as long as `socket`; value and length describe one c_int.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
