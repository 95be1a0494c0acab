//! What the final `moov` needs to know of every sample, in at most 12 bytes a sample.

/// A column of values that costs nothing as long as they are all the same.
#[derive(Debug)]
pub(super) struct Column<T> {
    first: Option<T>,
    same: usize,
    rest: Vec<T>,
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self { first: None, same: 0, rest: Vec::new() }
    }
}

impl<T: Copy + PartialEq> Column<T> {
    pub fn push(&mut self, value: T) {
        let first = *self.first.get_or_insert(value);
        if self.rest.is_empty() && first == value {
            self.same += 1;
        } else {
            self.rest.push(value);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.first
            .into_iter()
            .flat_map(|v| std::iter::repeat_n(v, self.same))
            .chain(self.rest.iter().copied())
    }
}

/// Consecutive samples of one track, contiguous in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Bytes from the start of the file.
    pub offset: u64,
    pub samples: u32,
}

/// The samples of one track in decoding order. Times are ticks of the track.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Size in bytes; the top bit marks a sample that is not a sync sample.
    sizes: Vec<u32>,
    pub durations: Column<u32>,
    pub compositions: Column<i32>,
    pub chunks: Vec<Chunk>,
}

const NON_SYNC: u32 = 1 << 31;

impl Index {
    /// `size` is below 2^31.
    pub fn push(&mut self, size: u32, composition: i32, sync: bool) {
        self.sizes.push(size | if sync { 0 } else { NON_SYNC });
        self.compositions.push(composition);
    }

    pub fn len(&self) -> usize {
        self.sizes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    pub fn sizes(&self) -> impl Iterator<Item = u32> + '_ {
        self.sizes.iter().map(|s| s & !NON_SYNC)
    }

    /// 1-based numbers of the sync samples.
    pub fn sync_samples(&self) -> impl Iterator<Item = u32> + '_ {
        (1..).zip(&self.sizes).filter(|(_, s)| **s & NON_SYNC == 0).map(|(number, _)| number)
    }

    /// Where the last picture's presentation ends, in ticks after the first sample's decoding time.
    pub fn presentation_end(&self) -> i64 {
        let mut dts = 0;
        let mut end = 0;
        for (duration, composition) in self.durations.iter().zip(self.compositions.iter()) {
            dts += i64::from(duration);
            end = end.max(dts + i64::from(composition));
        }
        end
    }
}

/// Run-length codes `values`: (length, value) pairs.
pub(super) fn runs<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<(u32, T)> {
    let mut out: Vec<(u32, T)> = Vec::new();
    for value in values {
        match out.last_mut() {
            Some((count, last)) if *last == value => *count += 1,
            _ => out.push((1, value)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_column_gives_back_what_went_in(values in proptest::collection::vec(0u32..3, 0..40)) {
            let mut column = Column::default();
            values.iter().for_each(|v| column.push(*v));
            proptest::prop_assert_eq!(column.iter().collect::<Vec<_>>(), values);
        }

        #[test]
        fn runs_expand_to_the_values(values in proptest::collection::vec(0u32..3, 0..40)) {
            let expanded: Vec<_> = runs(values.iter().copied())
                .into_iter()
                .flat_map(|(count, v)| std::iter::repeat_n(v, count as usize))
                .collect();
            proptest::prop_assert_eq!(expanded, values);
        }
    }

    #[test]
    fn constant_columns_take_no_room() {
        let mut column = Column::default();
        (0..1000).for_each(|_| column.push(1024));
        assert_eq!((column.same, column.rest.capacity()), (1000, 0));
    }

    #[test]
    fn sync_samples_are_numbered_from_one() {
        let mut index = Index::default();
        for (size, sync) in [(10, true), (20, false), (30, true)] {
            index.push(size, 0, sync);
        }
        assert_eq!(index.sync_samples().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(index.sizes().collect::<Vec<_>>(), [10, 20, 30]);
    }
}
