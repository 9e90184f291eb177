//! The `files` section of a route as written.

use std::{borrow::Cow, collections::BTreeMap, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{OneOrMany, OtherwiseConfig, placed_number, seconds, yes};
use crate::{
    base::{encoding::Encoding, units::Span},
    tree::{
        Spanned, or_none,
        short::{self, Short, reads_short, short_form},
    },
};

/// The files of a folder: a mapping, or the folder alone.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = short::or_text)]
pub struct FilesConfig {
    /// The folder. The whole path of the request is looked up below it, as with `root` of nginx;
    /// `rewrite` changes the path first.
    pub root: Spanned<PathBuf>,
    /// Files that are served for a folder, the first one that exists; `[]` for none:
    /// folders get the `fallback` or 404 then, with and without the slash.
    #[serde(default = "index", deserialize_with = "or_none")]
    #[schemars(transform = may_be_empty)]
    pub index: OneOrMany<Spanned<String>>,
    /// Path of the file that is served if there is no such file, such as `/index.html` for an app
    /// with a router of its own. Paths of `immutable` still get 404.
    pub fallback: Option<Spanned<String>>,
    /// Paths in place of the request's path, with the placeholders of `headers`: `["{path}",
    /// "{path}.html"]`. The first file that exists is served. A path that ends in `/` is a folder
    /// with an index.
    #[serde(default, rename = "try", skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Spanned<String>>,
    /// Next step if there is no file: another route, another path, or a status.
    pub otherwise: Option<Spanned<OtherwiseConfig>>,
    /// True if the path of an index chooses the route again, as with nginx.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reroute_index: bool,
    /// Path of the page that is served with 404.
    pub not_found: Option<Spanned<String>>,
    /// Serves compressed files that lie beside the plain ones as `.br`, `.zst` and `.gz`: `true`,
    /// or a list of encodings, the preferred one first.
    #[serde(default)]
    pub precompressed: PrecompressedConfig,
    /// Files whose content never changes, because their name does: `/assets/*`, `/app.3f9a.js`, or
    /// `~` and a regular expression over the path. Browsers keep them for a year.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub immutable: OneOrMany<Spanned<String>>,
    /// Time for which browsers keep all other files, as `Cache-Control`; no header if absent.
    pub max_age: Option<Span>,
    /// Headers of single files by path: `{ /index.html: { Cache-Control: no-cache } }` applies also
    /// if the file is the index or the `fallback`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Spanned<BTreeMap<String, String>>>,
    /// Dates of `If-Modified-Since` that get 304. `later`: the file's date and later ones (RFC
    /// 9110). `exact`: only the file's date (nginx's default).
    #[serde(default)]
    pub if_modified_since: IfModifiedSinceConfig,
    /// Serves names that begin with a dot. `/.well-known/` is served in any case.
    #[serde(default)]
    pub dot_files: bool,
    /// Symbolic links that are followed: links that stay `inside` the root, all (`follow`), or none
    /// (`refuse`).
    #[serde(default)]
    pub symlinks: SymlinksConfig,
    /// Media types by the end of a file's name, beside those that are known: `{ md: text/markdown
    /// }`. `"*"` is for all other files, `""` for files of unknown type.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<String, Spanned<String>>,
    /// Charset of the known text types, or `none`; the charset of `media_types` if absent.
    pub charset: Option<Spanned<String>>,
    /// Names of upstreams that may send these files with `X-Accel-Redirect`. Clients then get 404
    /// for the route's paths.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub internal: OneOrMany<Spanned<String>>,
    /// Sends files over HTTP/1 without TLS from the kernel's memory, as with `sendfile` of nginx.
    /// `false` if files are written in place instead of replaced: a client that is still reading
    /// may then get later bytes.
    #[serde(default = "yes")]
    pub sendfile: bool,
    /// Files that are kept open.
    #[serde(default = "placed_number::<1024>")]
    pub open_files: Spanned<u32>,
    /// Time after which an open file is compared with the one on disk; `0s` for each request.
    #[serde(default = "seconds::<1>")]
    pub recheck: Span,
}

/// Dates of `If-Modified-Since` that get 304.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IfModifiedSinceConfig {
    /// The file's date and later ones.
    #[default]
    Later,
    /// Only the file's date.
    Exact,
}

/// Symbolic links that are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SymlinksConfig {
    /// Links that lead to a file below the root.
    #[default]
    Inside,
    /// All links.
    Follow,
    Refuse,
}

/// Encodings of compressed files, in order of preference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PrecompressedConfig(pub Vec<Encoding>);

/// Encodings for `true`: the smallest files first.
const ENCODINGS: [Encoding; 3] = [Encoding::Br, Encoding::Zstd, Encoding::Gzip];

/// Extends the schema of a value or a list: the list may be empty.
fn may_be_empty(schema: &mut Schema) {
    let list = schema.pointer_mut("/anyOf/1");
    if let Some(list) = list.and_then(serde_json::Value::as_object_mut) {
        list.remove("minItems");
    }
}

fn index() -> OneOrMany<Spanned<String>> {
    OneOrMany(vec![Spanned::nowhere("index.html".to_owned())])
}

reads_short!(scalar: PrecompressedConfig);
short_form!(FilesConfig);

/// Media types of the files of all routes. Those in `files` count first.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MediaTypesConfig {
    /// Media types by the end of a file's name: `{ md: text/markdown }`. `"*"` is for all other
    /// files, `""` for files of unknown type.
    pub types: BTreeMap<String, Spanned<String>>,
    /// Charset of the known text types, or `none`; `utf-8` if absent.
    pub charset: Option<Spanned<String>>,
    /// Types that are known besides `types`. `nginx`: those of the file `mime.types` that comes
    /// with nginx, without a charset; all other files have the type `""`.
    pub known: KnownTypes,
}

/// Media types that need not be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KnownTypes {
    #[default]
    Usual,
    Nginx,
}

impl KnownTypes {
    /// Returns the media types that nginx brings along, by the end of a file's name.
    pub fn of_nginx() -> impl Iterator<Item = (&'static str, &'static str)> {
        include_str!("nginx_types.txt").lines().flat_map(|line| {
            let mut words = line.split(' ');
            let kind = words.next().unwrap_or_default();
            words.map(move |ending| (ending, kind))
        })
    }
}

impl Short for FilesConfig {
    const WHAT: &'static str = "a folder, or a mapping such as `{ root: /srv/www }`";

    const TEXT: Option<&'static str> = Some("root");
}

impl Short for PrecompressedConfig {
    const WHAT: &'static str = "`true`, `false` or a list such as `[br, gzip]`";

    fn flag(flag: bool) -> Option<Result<Self, String>> {
        Some(Ok(Self(if flag { ENCODINGS.to_vec() } else { Vec::new() })))
    }

    fn text(text: &str) -> Option<Result<Self, String>> {
        Some(encoding(text).map(|encoding| Self(vec![encoding])))
    }

    const TAKES_LIST: bool = true;

    fn list(items: Vec<Spanned<String>>) -> Option<Result<Self, String>> {
        let encodings = items.iter().map(|item| encoding(&item.value));
        Some(encodings.collect::<Result<Vec<_>, _>>().map(Self))
    }
}

fn encoding(name: &str) -> Result<Encoding, String> {
    let mut known = Encoding::ALL.into_iter();
    known
        .find(|encoding| encoding.name() == name)
        .ok_or_else(|| format!("unknown encoding `{name}`\nhelp: write `br`, `zstd` or `gzip`"))
}

impl JsonSchema for PrecompressedConfig {
    fn schema_name() -> Cow<'static, str> {
        "Precompressed".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let encoding = generator.subschema_for::<Encoding>();
        json_schema!({
            "description": "`true`, `false` or a list of encodings.",
            "anyOf": [
                { "type": "boolean" },
                encoding,
                { "type": "array", "items": encoding },
            ]
        })
    }
}
