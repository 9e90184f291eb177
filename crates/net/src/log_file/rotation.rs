//! Rotation of log files: when it is due, and what is kept.

use std::time::Duration;

/// Rotation rules, and how many archives to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationPolicy {
    /// Rotate at each multiple of this span since 1970, UTC.
    pub every: Option<Duration>,
    /// Rotate before the file would grow larger.
    pub size: Option<u64>,
    /// Archives to keep, at least 1.
    pub keep: u32,
    /// Compress archives, except the newest.
    pub compress: bool,
}

impl RotationPolicy {
    /// No rotation: another program does it, or there is nothing to rotate.
    pub const NEVER: Self = Self {
        every: None,
        size: None,
        keep: 1,
        compress: false,
    };

    /// Returns the number of the period that contains a moment.
    pub fn period(&self, since_epoch: Duration) -> u64 {
        self.every
            .map_or(0, |every| since_epoch.as_secs() / every.as_secs().max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_turn_at_midnight_utc() {
        let rotation = RotationPolicy {
            every: Some(Duration::from_hours(24)),
            size: None,
            keep: 7,
            compress: true,
        };
        let period = |secs| rotation.period(Duration::from_secs(secs));
        assert_eq!(period(86_399), 0);
        assert_eq!(period(86_400), 1);
    }
}
