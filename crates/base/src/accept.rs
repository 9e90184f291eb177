//! Media type negotiation: picks the type we can produce that a client's `Accept` prefers.

use crate::http::{Weight, essence, weighted};

/// Specificity of a match between a media range of `Accept` and an offer; a narrower range
/// overrides a wider one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Specificity {
    Any,
    Type,
    Exact,
}

/// Limit on the ranges read; real clients never send more.
const MAX_RANGES: usize = 64;

/// Returns the index of the offer that `accept` prefers.
///
/// Among equal weights, an offer that is named wins over one matched by a wildcard, then the
/// earlier one wins. `None` if nothing is acceptable, or if the best offer is matched by `*/*`
/// only: the client has no preference, and the caller's default is as good.
///
/// RFC 9110, 12.5.1; beyond it, `application/problem+json` and similar types count as
/// `application/json`.
pub fn preferred(accept: &[u8], offers: &[&str]) -> Option<usize> {
    let mut best: Option<(Weight, Specificity, usize)> = None;
    for (index, offer) in offers.iter().enumerate() {
        let Some((reach, weight)) = range_of(accept, offer) else {
            continue;
        };
        if weight.is_wanted() && best.is_none_or(|(w, r, _)| (weight, reach) > (w, r)) {
            best = Some((weight, reach, index));
        }
    }
    best.filter(|(_, reach, _)| *reach > Specificity::Any)
        .map(|(_, _, index)| index)
}

/// Returns the narrowest range that matches `offer`, and its weight. A range with an invalid weight
/// counts as not acceptable.
fn range_of(accept: &[u8], offer: &str) -> Option<(Specificity, Weight)> {
    let mut best: Option<(Specificity, Weight)> = None;
    for range in accept.split(|b| *b == b',').take(MAX_RANGES) {
        let (name, weight) = weighted(range).unwrap_or((essence(range), Weight::NONE));
        let Some(reach) = reach(name, offer.as_bytes()) else {
            continue;
        };
        if best.is_none_or(|(r, _)| reach > r) {
            best = Some((reach, weight));
        }
    }
    best
}

fn reach(range: &[u8], offer: &[u8]) -> Option<Specificity> {
    if range.eq_ignore_ascii_case(offer) {
        return Some(Specificity::Exact);
    }
    if range == b"*/*" {
        return Some(Specificity::Any);
    }
    let slash = offer.iter().position(|b| *b == b'/')?;
    let (kind, subtype) = (range.get(..=slash)?, range.get(slash + 1..)?);
    if !kind.eq_ignore_ascii_case(&offer[..=slash]) {
        return None;
    }
    if subtype == b"*" {
        return Some(Specificity::Type);
    }
    (offer.ends_with(b"/json") && subtype.ends_with(b"+json")).then_some(Specificity::Exact)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERS: &[&str] = &["application/json", "text/html", "text/plain"];

    #[track_caller]
    fn check(accept: &str, expected: Option<&str>) {
        let seen = preferred(accept.as_bytes(), OFFERS).map(|index| OFFERS[index]);
        assert_eq!(seen, expected, "{accept}");
    }

    #[test]
    fn a_browser_wants_html() {
        check(
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            Some("text/html"),
        );
    }

    #[test]
    fn an_api_client_wants_json() {
        check("application/json", Some("application/json"));
        check(
            "application/json, text/plain, */*",
            Some("application/json"),
        );
        check("Application/JSON ; charset=utf-8", Some("application/json"));
        check("application/problem+json", Some("application/json"));
        check("application/*", Some("application/json"));
    }

    #[test]
    fn a_wildcard_is_no_preference() {
        check("*/*", None);
        check("", None);
        check("text/x-component", None);
        check("application/json;q=0.5, */*", None);
    }

    #[test]
    fn q_values_and_refusals_count() {
        check("application/json;q=0.2, text/html;q=0.8", Some("text/html"));
        check("text/html;q=0, text/*", Some("text/plain"));
        check("text/html;q=0", None);
        check(
            "text/html;q=abc, application/json;q=0.001",
            Some("application/json"),
        );
        check("text/html;q=1.001", None);
    }

    #[test]
    fn the_narrower_range_overrules_the_wider() {
        check("text/*;q=0.9, text/plain;q=0.1", Some("text/html"));
        check("text/plain;q=0.1, text/*;q=0.9", Some("text/html"));
    }
}
