//! Content codings: negotiation by `Accept-Encoding`, and the encoders, which know nothing of
//! requests. A filter streams through an [`Encoder`]; a caller with a whole body calls [`encode`].

mod encoder;
mod pool;
#[doc(hidden)]
pub mod testkit;
#[cfg(test)]
mod tests;

use http::{HeaderMap, HeaderValue, header::ACCEPT_ENCODING};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::encoder::{EncodeError, Encoder, encode};
use super::http::{Weight, list_of, weighted};

crate::enum_table! {
    /// A content coding that the gateway can produce.
    #[derive(
        Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema,
    )]
    #[serde(rename_all = "lowercase")]
    pub enum Encoding => name {
        Zstd = "zstd",
        Br = "br",
        Gzip = "gzip",
    }
}

impl Encoding {
    pub fn header_value(self) -> HeaderValue {
        HeaderValue::from_static(self.name())
    }

    /// Returns the levels, from the fastest to the one with the smallest output.
    pub const fn levels(self) -> std::ops::RangeInclusive<u8> {
        match self {
            Self::Zstd => 1..=19,
            Self::Br => 0..=11,
            Self::Gzip => 1..=9,
        }
    }
}

/// A parsed `Accept-Encoding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcceptedEncodings {
    zstd: Option<Weight>,
    br: Option<Weight>,
    gzip: Option<Weight>,
    identity: Option<Weight>,
    any: Option<Weight>,
}

impl AcceptedEncodings {
    /// Parses all lines of the field. Members with an invalid weight are skipped; if a coding is
    /// listed twice, the higher weight counts.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut accepted = Self::default();
        for (name, weight) in list_of(headers, &ACCEPT_ENCODING).filter_map(weighted) {
            let is = |coding: &str| name.eq_ignore_ascii_case(coding.as_bytes());
            let slot = if is("gzip") || is("x-gzip") {
                // RFC 9110, 8.4.1.3: `x-gzip` is equivalent to `gzip`.
                &mut accepted.gzip
            } else if is("br") {
                &mut accepted.br
            } else if is("zstd") {
                &mut accepted.zstd
            } else if is("identity") {
                &mut accepted.identity
            } else if name == b"*" {
                &mut accepted.any
            } else {
                continue;
            };
            *slot = (*slot).max(Some(weight));
        }
        accepted
    }

    /// Returns the weight of one coding: its own, or that of `*`.
    pub fn weight(&self, encoding: Encoding) -> Weight {
        let named = match encoding {
            Encoding::Zstd => self.zstd,
            Encoding::Br => self.br,
            Encoding::Gzip => self.gzip,
        };
        named.or(self.any).unwrap_or(Weight::NONE)
    }

    /// Returns the best of `offered`: the highest client weight, and among equals the first
    /// offered. `None` means no coding at all, also for a client that refuses every coding and
    /// `identity` too.
    pub fn choose(&self, offered: impl IntoIterator<Item = Encoding>) -> Option<Encoding> {
        let mut best: Option<(Weight, Encoding)> = None;
        for encoding in offered {
            let weight = self.weight(encoding);
            if weight.is_wanted() && best.is_none_or(|(most, _)| weight > most) {
                best = Some((weight, encoding));
            }
        }
        let (weight, encoding) = best?;
        // `identity` competes only where the client gave it a weight by name.
        (self.identity <= Some(weight)).then_some(encoding)
    }
}
