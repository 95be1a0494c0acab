use std::fmt;

/// What can be wrong with a recording while it runs. The words are those of the API, the manifest and
/// `record_health_checks`.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum HealthReason {
    /// Nothing is written.
    NoData,
    /// Pictures come, and none that a player can begin with.
    NoKeyFrame,
    /// The stream has a video track, and sound is written without it.
    NoVideo,
    /// The stream has an audio track, and pictures are written without it.
    NoAudio,
    /// Key frames come, and all show the same.
    Frozen,
    Black,
    Silent,
}

impl HealthReason {
    pub const ALL: [HealthReason; 7] = [
        HealthReason::NoData,
        HealthReason::NoKeyFrame,
        HealthReason::NoVideo,
        HealthReason::NoAudio,
        HealthReason::Frozen,
        HealthReason::Black,
        HealthReason::Silent,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            HealthReason::NoData => "no-data",
            HealthReason::NoKeyFrame => "no-key-frame",
            HealthReason::NoVideo => "no-video",
            HealthReason::NoAudio => "no-audio",
            HealthReason::Frozen => "frozen",
            HealthReason::Black => "black",
            HealthReason::Silent => "silent",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == word)
    }
}

impl fmt::Display for HealthReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which of them are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthChecks(u8);

impl HealthChecks {
    pub const ALL: Self = Self((1 << HealthReason::ALL.len()) - 1);
    pub const NONE: Self = Self(0);

    pub fn has(self, reason: HealthReason) -> bool {
        self.0 & Self::bit(reason) != 0
    }

    fn bit(reason: HealthReason) -> u8 {
        1 << reason as u8
    }
}

impl FromIterator<HealthReason> for HealthChecks {
    fn from_iter<I: IntoIterator<Item = HealthReason>>(reasons: I) -> Self {
        Self(reasons.into_iter().fold(0, |bits, reason| bits | Self::bit(reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_word_and_a_check_of_its_own() {
        for reason in HealthReason::ALL {
            assert_eq!(HealthReason::parse(reason.as_str()), Some(reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
            let only = HealthChecks::from_iter([reason]);
            let others = HealthReason::ALL.into_iter().filter(|r| only.has(*r)).collect::<Vec<_>>();
            assert_eq!(others, [reason]);
            assert!(HealthChecks::ALL.has(reason) && !HealthChecks::NONE.has(reason));
        }
        assert_eq!(HealthChecks::from_iter(HealthReason::ALL), HealthChecks::ALL);
    }
}
