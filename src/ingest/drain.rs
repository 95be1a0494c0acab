//! Reading many TCP publishers cheaply: on one common tick, or earlier for who is fast, instead of message by message.

use socket2::SockRef;
use std::{
    cell::RefCell,
    io,
    mem::MaybeUninit,
    os::fd::AsRawFd,
    sync::LazyLock,
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
/// How often UDP sockets are drained that the kernel keeps little for.
pub(super) const SHORT_READ_TICK: Duration = Duration::from_millis(20);
/// A fast publisher is read before the tick once this much waits in the socket.
pub(super) const READ_EARLY_BYTES: libc::c_int = 64 << 10;
/// Most that is read from one publisher at a stretch, so that others get their turn.
const READ_AT_ONCE_BYTES: usize = 4 << 20;

thread_local! {
    /// Where sockets are read to; a message's bytes are copied once from here to the access unit.
    static SCRATCH: RefCell<Box<[MaybeUninit<u8>]>> = RefCell::new(vec![MaybeUninit::uninit(); 128 << 10].into());
}

/// Where the grids of ticks begin, for all ways in that take it as their origin: then one wake-up serves them all.
pub(super) fn common_origin() -> Instant {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    *ORIGIN
}

/// The next ticks of [`READ_TICK`]'s grid, which begins at `origin` for everyone.
pub(super) fn ticks(origin: Instant) -> Interval {
    ticks_of(READ_TICK, origin)
}

/// The next ticks of [`SHORT_READ_TICK`]'s grid, which begins at `origin` too.
pub(super) fn short_ticks(origin: Instant) -> Interval {
    ticks_of(SHORT_READ_TICK, origin)
}

fn ticks_of(period: Duration, origin: Instant) -> Interval {
    let into = origin.elapsed().as_nanos() % period.as_nanos();
    let first = tokio::time::Instant::now() + period - Duration::from_nanos(into as u64);
    let mut ticks = tokio::time::interval_at(first, period);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Once servers and sources had grids of their own, and each UDP publisher 50 wake-ups a second.
    #[tokio::test]
    async fn ticks_of_all_ways_in_fall_together() {
        let origin = common_origin();
        let mut all = [ticks(origin), short_ticks(origin), short_ticks(common_origin())];
        let mut firsts = Vec::new();
        for ticks in &mut all {
            firsts.push(ticks.tick().await);
        }
        for first in &firsts {
            let apart =
                firsts[0].saturating_duration_since(*first) + first.saturating_duration_since(firsts[0]);
            let off = apart.as_micros() % SHORT_READ_TICK.as_micros();
            assert!(off.min(SHORT_READ_TICK.as_micros() - off) < 8_000, "{firsts:?}");
        }
    }
}
