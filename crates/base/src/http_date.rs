//! HTTP dates (RFC 9110, 5.6.7) as `httpdate` parses them, and those that only their case or their
//! weekday distinguishes from valid ones.

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

/// Length limit, longer than any date.
const MAX_LENGTH: usize = 40;

/// Parses a date in one of its three forms. Case does not matter (RFC 9111, 4.2), and neither does
/// a wrong weekday: the date counts without it. `None` for an invalid date, or one before 1970.
pub fn parse(value: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(value.trim_ascii()).ok()?;
    let date = httpdate::parse_http_date(text).ok();
    date.or_else(|| parse_unusual(text))
}

/// Parses a date with any of the weekdays, in any case, and with the 60th second that RFC 9110
/// allows.
fn parse_unusual(text: &str) -> Option<SystemTime> {
    if text.len() > MAX_LENGTH || !text.is_ascii() {
        return None;
    }
    let (weekday, rest) = text.split_at(text.find([',', ' '])?);
    let is_short = weekday.len() == 3;
    let days = DAYS.map(|day| if is_short { &day[..3] } else { day });
    days.iter().find(|day| day.eq_ignore_ascii_case(weekday))?;
    let mut was_letter = false;
    let cased = |letter: char| {
        let is_inside = std::mem::replace(&mut was_letter, letter.is_ascii_alphabetic());
        if is_inside {
            letter.to_ascii_lowercase()
        } else {
            letter.to_ascii_uppercase()
        }
    };
    let rest: String = rest.chars().map(cased).collect();
    let usual = rest.replace(" Gmt", " GMT").replace(":60 ", ":59 ");
    let leap = Duration::from_secs(u64::from(rest.contains(":60 ")));
    let mut dates = days
        .iter()
        .map(|day| httpdate::parse_http_date(&format!("{day}{usual}")));
    Some(dates.find_map(Result::ok)? + leap)
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
