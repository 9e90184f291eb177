//! HTTP dates (RFC 9110, 5.6.7), parsed in their three forms.

use std::time::{Duration, SystemTime};

const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Length limit, longer than any date.
const MAX_LENGTH: usize = 40;

/// Parses a date. Case does not matter (RFC 9111, 4.2), and neither does a wrong weekday: the date
/// counts without it. `None` for an invalid date, or one before 1970.
pub fn parse(value: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(value.trim_ascii()).ok()?;
    if text.len() > MAX_LENGTH || !text.is_ascii() {
        return None;
    }
    let parts = match text.split_once(", ") {
        Some((day, rest)) => imf(day, rest).or_else(|| rfc_850(day, rest)),
        None => asctime(text),
    };
    parts?.time()
}

struct Parts<'t> {
    day: &'t str,
    month: &'t str,
    year: u64,
    /// `08:49:37`
    time: &'t str,
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn imf<'t>(weekday: &str, rest: &'t str) -> Option<Parts<'t>> {
    let is_weekday = DAYS
        .iter()
        .any(|name| weekday.eq_ignore_ascii_case(&name[..3]));
    let [day, month, year, time, zone] = fields(rest, ' ')?;
    (is_weekday && is_gmt(zone)).then_some(())?;
    Some(Parts {
        day: two_digits(day)?,
        month,
        year: number(year, 4)?,
        time,
    })
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`
fn rfc_850<'t>(weekday: &str, rest: &'t str) -> Option<Parts<'t>> {
    let is_weekday = DAYS.iter().any(|name| weekday.eq_ignore_ascii_case(name));
    let [date, time, zone] = fields(rest, ' ')?;
    let [day, month, year] = fields(date, '-')?;
    (is_weekday && is_gmt(zone)).then_some(())?;
    let year = number(year, 2)?;
    Some(Parts {
        day: two_digits(day)?,
        month,
        // No origin sends this form for dates in the far future.
        year: if year < 70 { 2000 + year } else { 1900 + year },
        time,
    })
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime(text: &str) -> Option<Parts<'_>> {
    let (weekday, rest) = text.split_once(' ')?;
    let is_weekday = DAYS
        .iter()
        .any(|name| weekday.eq_ignore_ascii_case(&name[..3]));
    let (month, rest) = rest.split_once(' ')?;
    let (day, rest) = rest.split_at_checked(2)?;
    let [nothing, time, year] = fields(rest, ' ')?;
    (is_weekday && nothing.is_empty()).then_some(())?;
    Some(Parts {
        day: match day.strip_prefix(' ') {
            Some(digit) => digit,
            None => two_digits(day)?,
        },
        month,
        year: number(year, 4)?,
        time,
    })
}

impl Parts<'_> {
    fn time(&self) -> Option<SystemTime> {
        let mut months = MONTHS.iter();
        let month = months.position(|name| self.month.eq_ignore_ascii_case(name))? as u64 + 1;
        let day = number(self.day, self.day.len())?;
        let [hour, minute, second] = fields(self.time, ':')?;
        let (hour, minute) = (number(hour, 2)?, number(minute, 2)?);
        let second = number(second, 2)?;
        let is_day = (1..=days_of(self.year, month)).contains(&day);
        // RFC 9110, 5.6.7 has 60 for leap seconds.
        if !is_day || hour > 23 || minute > 59 || second > 60 || self.year < 1970 {
            return None;
        }
        let days = days_before(self.year, month) + day - 1;
        let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns the days from 1970 to the first of this month.
fn days_before(year: u64, month: u64) -> u64 {
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400;
    // 477 leap days precede 1970.
    let days = (year - 1970) * 365 + leap_days - 477;
    days + (1..month).map(|month| days_of(year, month)).sum::<u64>()
}

fn fields<const N: usize>(text: &str, separator: char) -> Option<[&str; N]> {
    let mut parts = text.split(separator);
    let mut fields = [""; N];
    for field in &mut fields {
        *field = parts.next()?;
    }
    parts.next().is_none().then_some(fields)
}

fn two_digits(text: &str) -> Option<&str> {
    (text.len() == 2).then_some(text)
}

fn number(text: &str, digits: usize) -> Option<u64> {
    let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

fn is_gmt(zone: &str) -> bool {
    zone.eq_ignore_ascii_case("GMT")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        let since = parse(text.as_bytes())?.duration_since(SystemTime::UNIX_EPOCH);
        Some(since.unwrap().as_secs())
    }

    #[test]
    fn all_forms_are_read_whatever_the_weekday() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "sUN, 06 nOV 1994 08:49:37 gmt",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Wednesday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Tue Nov  6 08:49:37 1994",
            " Tue Nov 06 08:49:37 1994 ",
        ] {
            assert_eq!(seconds(text), Some(784_111_777), "{text}");
        }
        assert_eq!(
            seconds("Sat, 31 Dec 2016 23:59:60 GMT"),
            Some(1_483_228_800)
        );
    }

    #[test]
    fn an_invalid_date_is_none() {
        for text in [
            "",
            "0",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun,  06 Nov 1994 08:49:37 GMT",
            "Sunday, 06 Nov 1994 08:49:37 GMT",
            "Xyz, 06 Nov 1994 08:49:37 GMT",
            "Sun, 30 Feb 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1994 08:60:37 GMT",
            "Sun, 06 Nov 1994 08:49:61 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "Sunday, 06-Nov-1994 08:49:37 GMT",
            "Sun Nov 6 08:49:37 1994",
            "Sun, +6 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_others_write_is_read(at in 0..253_402_300_800_u64, day in 0..7_usize) {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
            let text = httpdate::fmt_http_date(time);
            prop_assert_eq!(parse(text.as_bytes()), Some(time));
            let other = format!("{}{}", &DAYS[day][..3], &text[3..]);
            prop_assert_eq!(parse(other.as_bytes()), Some(time));
        }

        #[test]
        fn nothing_that_is_read_panics(text in "[ -~]{0,45}") {
            parse(text.as_bytes());
        }
    }
}
