//! Timestamps of log lines, formatted once a second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::DateTime;

/// The formatted texts of the last second used.
pub struct TimestampCache {
    second: u64,
    /// `2027-01-15T08:00:00`
    rfc3339: String,
    /// `15/Jan/2027:08:00:00 +0000`
    combined: String,
}

impl Default for TimestampCache {
    fn default() -> Self {
        Self {
            // No clock ever shows this second, so the first line formats the texts.
            second: u64::MAX,
            rfc3339: String::new(),
            combined: String::new(),
        }
    }
}

impl TimestampCache {
    /// Appends the time in RFC 3339, UTC, with milliseconds.
    pub fn put_rfc3339(&mut self, out: &mut Vec<u8>, wall: SystemTime) {
        let since = self.turn_to(wall);
        out.extend_from_slice(self.rfc3339.as_bytes());
        out.push(b'.');
        put_thousandths(out, since.subsec_millis());
        out.push(b'Z');
    }

    /// Appends the time like nginx' `$time_local`, in UTC.
    pub fn put_combined(&mut self, out: &mut Vec<u8>, wall: SystemTime) {
        self.turn_to(wall);
        out.extend_from_slice(self.combined.as_bytes());
    }

    fn turn_to(&mut self, wall: SystemTime) -> Duration {
        let since = since_epoch(wall);
        if since.as_secs() != self.second {
            self.make(since.as_secs());
        }
        since
    }

    #[cold]
    fn make(&mut self, second: u64) {
        let time = i64::try_from(second)
            .ok()
            .and_then(|second| DateTime::from_timestamp(second, 0))
            .unwrap_or_default();
        self.second = second;
        self.rfc3339 = time.format("%Y-%m-%dT%H:%M:%S").to_string();
        self.combined = time.format("%d/%b/%Y:%H:%M:%S +0000").to_string();
    }
}

/// Appends a number of thousandths below 1,000 with its three digits.
pub fn put_thousandths(out: &mut Vec<u8>, thousandths: u32) {
    let mut digits = itoa::Buffer::new();
    // The leading one keeps the zeros.
    out.extend_from_slice(&digits.format(1000 + thousandths).as_bytes()[1..]);
}

/// Time since 1970; zero for a clock set before it.
pub(super) fn since_epoch(wall: SystemTime) -> Duration {
    wall.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_texts_follow_the_clock() {
        let mut stamp = TimestampCache::default();
        let mut show = |millis| {
            let wall = UNIX_EPOCH + Duration::from_millis(millis);
            let mut out = Vec::new();
            stamp.put_rfc3339(&mut out, wall);
            out.push(b' ');
            stamp.put_combined(&mut out, wall);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            show(1_800_000_000_007),
            "2027-01-15T08:00:00.007Z 15/Jan/2027:08:00:00 +0000"
        );
        assert_eq!(
            show(1_800_000_000_999),
            "2027-01-15T08:00:00.999Z 15/Jan/2027:08:00:00 +0000"
        );
        assert_eq!(
            show(1_800_000_001_000),
            "2027-01-15T08:00:01.000Z 15/Jan/2027:08:00:01 +0000"
        );
        assert_eq!(
            show(0),
            "1970-01-01T00:00:00.000Z 01/Jan/1970:00:00:00 +0000"
        );
    }
}
