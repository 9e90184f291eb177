//! Configuration of `compression` as written, and its compilation.

use std::sync::Arc;

use edgeway_base::{encoding::Encoding, units::ByteSize};
use edgeway_config::{
    diagnostic::closest,
    model::StatusSet,
    tree::{
        Spanned,
        short::{self, Short, short_form},
    },
};
use edgeway_core::chain::CompileContext;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::{
    Compression, CompressionRules, Offer,
    types::{self, MediaTypes},
};

/// Compression of responses: `true`, a list of content codings such as `[br, gzip]`, or a mapping.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_list, transform = short::or_flag)]
pub struct CompressionConfig {
    /// Content codings on offer: `zstd`, `br`, `gzip`. The client's weights decide; among equal
    /// weights, which most browsers send, the first in this list wins.
    #[schemars(with = "Vec<Encoding>")]
    #[default(Encoding::ALL.map(|encoding| Spanned::nowhere(encoding.name().to_owned())).into())]
    encodings: Vec<Spanned<String>>,
    /// Minimum size of a compressed response; shorter ones stay as they are.
    #[default(ByteSize(1024))]
    min_size: ByteSize,
    levels: LevelsConfig,
    /// Media types to compress, with one `*` at most: `text/*`, `application/*+json`. If absent:
    /// text, JSON, XML, JavaScript, WebAssembly, SVG and uncompressed fonts. Event streams
    /// (`text/event-stream`) are never compressed.
    #[default(types::DEFAULT.lines().map(|text| Spanned::nowhere(text.to_owned())).collect())]
    types: Vec<Spanned<String>>,
    /// Statuses of compressed responses: `200`, `400-499`, or a list of both. If absent: all that
    /// have content of their own.
    statuses: Option<StatusSet>,
    /// False to leave out `Vary: Accept-Encoding`, as nginx does without `gzip_vary`: caches behind
    /// the gateway may then send a compressed response to a client that cannot read it.
    #[default(true)]
    vary: bool,
}

/// Compression level of each coding: higher is smaller and slower.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
struct LevelsConfig {
    /// 1 to 19.
    #[schemars(range(min = 1, max = 19))]
    #[default(Spanned::nowhere(3))]
    zstd: Spanned<u8>,
    /// 0 to 6: from 7 on each response would take 9 MiB of memory and more.
    #[schemars(range(min = 0, max = 6))]
    #[default(Spanned::nowhere(5))]
    br: Spanned<u8>,
    /// 1 to 9.
    #[schemars(range(min = 1, max = 9))]
    #[default(Spanned::nowhere(6))]
    gzip: Spanned<u8>,
}

/// Highest level of brotli at which the memory of a stream stays small: see
/// [`Encoder`](edgeway_base::encoding::Encoder).
const BR_MAX: u8 = 6;

impl Short for CompressionConfig {
    const WHAT: &'static str = "`true`, a list such as `[br, gzip]`, or a mapping";
    const TAKES_LIST: bool = true;

    fn flag(flag: bool) -> Option<Result<Self, String>> {
        flag.then(|| Ok(Self::default()))
    }

    fn list(encodings: Vec<Spanned<String>>) -> Option<Result<Self, String>> {
        Some(Ok(Self {
            encodings,
            ..Self::default()
        }))
    }
}

short_form!(CompressionConfig);

impl CompressionConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<Compression> {
        let encodings = cx.checked(|cx| self.encodings(cx));
        let levels = cx.checked(|cx| self.levels.check(cx));
        let types = self.types(cx);
        levels?;
        let offered = encodings?
            .into_iter()
            .map(|encoding| Offer::new(encoding, self.levels.level_for(encoding).value, cx.metrics))
            .collect();
        Some(Compression {
            coder: Arc::new(CompressionRules {
                offered,
                min_size: self.min_size.0,
                types: types?,
                statuses: self.statuses,
                has_vary: self.vary,
            }),
        })
    }

    fn encodings(&self, cx: &mut CompileContext<'_>) -> Vec<Encoding> {
        let mut encodings = Vec::new();
        for written in &self.encodings {
            let name = written.value.as_str();
            let Some(encoding) = Encoding::ALL.into_iter().find(|e| e.name() == name) else {
                cx.at(written.place, "edgeway::compression::encoding")
                    .error(format!("unknown content coding `{name}`"), guess(name));
                continue;
            };
            if encodings.contains(&encoding) {
                cx.at(written.place, "edgeway::compression::encoding")
                    .error(
                        format!("`{name}` is listed twice"),
                        "keep one, in its place of the order of preference",
                    );
            }
            encodings.push(encoding);
        }
        if self.encodings.is_empty() {
            cx.here("edgeway::compression::encoding").error(
                "no content coding is listed",
                "write `compression: false` to leave responses uncompressed",
            );
        }
        encodings
    }

    fn types(&self, cx: &mut CompileContext<'_>) -> Option<MediaTypes> {
        let written = &self.types;
        match MediaTypes::parse(written.iter().map(|text| text.value.as_str())) {
            Ok(types) => Some(types),
            Err(errors) => {
                for (index, help) in errors {
                    cx.at(written[index].place, "edgeway::compression::type")
                        .error(
                            format!("invalid media type `{}`", written[index].value),
                            help,
                        );
                }
                None
            }
        }
    }
}

/// Suggests a coding for an unknown `name`.
fn guess(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let meant = match lower.as_str() {
        "brotli" => Some("br"),
        "zstandard" => Some("zstd"),
        "deflate" | "zlib" | "x-gzip" => Some("gzip"),
        _ => closest(&lower, Encoding::ALL.map(Encoding::name)),
    };
    match meant {
        Some(meant) => format!("write `{meant}`"),
        None => "write `zstd`, `br` or `gzip`".to_owned(),
    }
}

impl LevelsConfig {
    fn level_for(&self, encoding: Encoding) -> Spanned<u8> {
        match encoding {
            Encoding::Zstd => self.zstd.clone(),
            Encoding::Br => self.br.clone(),
            Encoding::Gzip => self.gzip.clone(),
        }
    }

    fn check(&self, cx: &mut CompileContext<'_>) {
        for encoding in Encoding::ALL {
            let (min, mut max) = encoding.levels().into_inner();
            if encoding == Encoding::Br {
                max = BR_MAX;
            }
            let level = self.level_for(encoding);
            if !(min..=max).contains(&level.value) {
                cx.at(level.place, "edgeway::compression::level").error(
                    format!("{} has no level {}", encoding.name(), level.value),
                    format!("write a number from {min} to {max}"),
                );
            }
        }
    }
}
