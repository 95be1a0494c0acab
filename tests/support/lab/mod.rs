//! The crash lab: publishers that know every access unit they have sent, files taken apart into access units again, and
//! what has to hold between the two when the daemon is killed, rotates, pauses, switches or runs for an hour.
//!
//! Shared by the short labs in `tests/` and the long ones in `benches/crashlab` (`scripts/crashlab`).

mod audit;
mod dice;
mod encoder;
mod exact;
pub mod kills;
pub mod ops;
mod reel;
pub mod soak;
mod units;
mod usage;

pub use audit::{Auditor, decode_faults, holds_nothing, part_files, recordings};
pub use dice::Dice;
pub use encoder::Encoder;
pub use exact::{Run, compare_whole, offsets_ms, runs, seams_at_key_frames};
pub use reel::{Reel, Sent};
pub use units::{Unit, Units};
pub use usage::{Sample, Trend};
