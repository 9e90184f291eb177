//! Sets of status codes, as people write them.

use std::{fmt, str::FromStr};

/// Statuses and classes of statuses: `404`, `5xx`, `404,5xx`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<(u16, u16)>);

/// Error of a status that is none.
#[derive(Debug, thiserror::Error)]
#[error("invalid status `{0}`: write one such as `404`, a class such as `5xx`, or `404,5xx`")]
pub struct StatusesError(String);

impl FromStr for Statuses {
    type Err = StatusesError;

    fn from_str(text: &str) -> Result<Self, StatusesError> {
        let one = |word: &str| {
            let class = word
                .strip_suffix("xx")
                .or_else(|| word.strip_suffix("XX"))
                .filter(|class| class.len() == 1)
                .and_then(|class| class.parse::<u16>().ok());
            let span = match class {
                Some(class) => (class * 100, class * 100 + 99),
                None => word.parse().map(|status| (status, status)).ok()?,
            };
            (100..600).contains(&span.0).then_some(span)
        };
        let spans: Option<Vec<_>> = text.split(',').map(|word| one(word.trim())).collect();
        spans
            .map(Self)
            .ok_or_else(|| StatusesError(text.to_owned()))
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{}xx", first / 100)?;
            }
        }
        Ok(())
    }
}

crate::text_form!(Statuses);

impl Statuses {
    pub fn contains(&self, status: u16) -> bool {
        self.0
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbers_and_classes() {
        for (text, inside, outside) in [
            ("404", &[404][..], &[403, 405, 400][..]),
            ("5xx", &[500, 599], &[499, 404]),
            ("404, 5XX", &[404, 503], &[403]),
        ] {
            let statuses: Statuses = text.parse().unwrap();
            assert!(
                inside.iter().all(|status| statuses.contains(*status)),
                "{text}"
            );
            assert!(
                !outside.iter().any(|status| statuses.contains(*status)),
                "{text}"
            );
            let printed = statuses.to_string();
            assert_eq!(printed.parse::<Statuses>().unwrap(), statuses, "{printed}");
        }
        for text in [
            "", "x", "5x", "600", "6xx", "0xx", "99", "404,", "55xx", "+xx",
        ] {
            let error = text.parse::<Statuses>().unwrap_err().to_string();
            assert!(error.contains("such as `404`"), "{error}");
        }
    }
}
