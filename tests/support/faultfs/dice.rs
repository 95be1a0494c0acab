//! What a power cut leaves is chance; the same seed throws the same dice.

/// Chance by a seed (SplitMix64), or none at all.
#[derive(Debug)]
pub struct Dice {
    state: u64,
    /// Of 8 changes, how many are kept: differs by the seed, so that there are cuts of every kind.
    kept_of_8: usize,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        let mut dice = Self { state: seed, kept_of_8: 0 };
        dice.kept_of_8 = 1 + dice.below(7);
        dice
    }

    /// Whatever was not synced is lost.
    pub fn all_lost() -> Self {
        Self { state: 0, kept_of_8: 0 }
    }

    pub fn loses_all(&self) -> bool {
        self.kept_of_8 == 0
    }

    /// Whether one change is on the disk.
    pub fn keeps(&mut self) -> bool {
        self.below(8) < self.kept_of_8
    }

    /// 0 to `limit - 1`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % limit.max(1) as u64) as usize
    }
}
