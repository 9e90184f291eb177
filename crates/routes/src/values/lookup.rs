//! Lookup tables: from a value of a request to another (`map` and `geo` of nginx).

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use edgeway_base::{
    expression::Undecided,
    net::{self, Cidr},
    units::Percent,
};
use edgeway_config::{
    diagnostic::Place,
    tree::{Entries, Spanned},
};
use edgeway_core::{chain::CompileContext, limits::key::Source};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Destination, Pattern,
    encoding::Encoding,
    file::WatchedFile,
    template::{Names, Template},
    variable::{Values, Variable},
};

const CODE: &str = "edgeway::maps::value";

/// Lookup table, which values of `headers`, `conditions` and `upstream_by` use as `{map.NAME}`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MapConfig {
    /// Value to look up: text with the placeholders of `headers`, such as `{header.origin}`,
    /// and other maps.
    #[serde(default = "client")]
    from: Spanned<String>,
    /// Text → result. Case does not matter. `~` begins a regular expression, `~*` one without
    /// regard to case, and `\~` a text that begins with `~`. Texts count before regular
    /// expressions; among expressions, the first in the order of the file counts. Results may have
    /// placeholders; results of expressions may also have `{group.NAME}` and `{group.1}`.
    #[serde(default, skip_serializing_if = "Entries::is_empty")]
    #[schemars(with = "BTreeMap<String, String>")]
    values: Entries<String, Spanned<String>>,
    /// Network → result, if `from` is an address (the default). The smallest network that contains
    /// it counts.
    #[serde(default, skip_serializing_if = "Entries::is_empty")]
    #[schemars(with = "BTreeMap<String, String>")]
    networks: Entries<String, Spanned<String>>,
    /// Result → its share of the values of `from`, such as `5%`: the same value always has the same
    /// result, by the hash of nginx's `split_clients`. The rest has the `default`. Replaces
    /// `values` and `networks`.
    #[serde(default, skip_serializing_if = "Entries::is_empty")]
    #[schemars(with = "BTreeMap<String, String>")]
    shares: Entries<String, Spanned<String>>,
    /// Result if `from`, a path without placeholders, is a file that exists. The file is checked
    /// once a second. Replaces `values`, `networks` and `shares`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exists: Option<Spanned<String>>,
    /// Result of anything else; empty if absent.
    #[serde(default)]
    default: Spanned<String>,
}

fn client() -> Spanned<String> {
    Spanned::nowhere("{client.ip}".to_owned())
}

/// Results by text in lower case.
type Exact = HashMap<Box<str>, Template>;
/// Results by regular expression, in the order of the file.
type Patterns = Vec<(Pattern, Template)>;

/// Compiled lookup table.
#[derive(Debug)]
pub struct Lookup {
    from: Template,
    exact: Exact,
    patterns: Patterns,
    networks: Networks,
    /// Results by the first hash that no longer has them.
    shares: Box<[(u32, Template)]>,
    /// File whose existence decides, and the result if it exists.
    file: Option<(Arc<WatchedFile>, Template)>,
    default: Template,
    is_used: AtomicBool,
}

/// Results by network, of the longest prefix first.
#[derive(Debug, Default)]
struct Networks(Vec<(u8, HashMap<IpAddr, Template>)>);

impl Networks {
    /// Adds a result, and returns the one that the network already had.
    fn insert(&mut self, network: Cidr, result: Template) -> Option<Template> {
        let (address, prefix) = network.parts();
        let place = self.0.iter().position(|(own, _)| *own <= prefix);
        let place = place.unwrap_or(self.0.len());
        if self.0.get(place).is_none_or(|(own, _)| *own != prefix) {
            self.0.insert(place, (prefix, HashMap::new()));
        }
        self.0[place].1.insert(address, result)
    }

    fn find(&self, address: IpAddr) -> Option<&Template> {
        let address = address.to_canonical();
        let mut by_prefix = self.0.iter();
        by_prefix.find_map(|(prefix, results)| results.get(&net::network_of(address, *prefix)?))
    }
}

impl MapConfig {
    /// Compiles the table. Returns `None` if a problem was reported; reports all problems.
    pub fn compile(&self, maps: &Maps, cx: &mut CompileContext<'_>) -> Option<Lookup> {
        let clock = cx.clock.clone();
        let names = Names {
            clock: &clock,
            maps,
        };
        cx.checked(|cx| self.compiled(&names, cx))
    }

    fn compiled(&self, names: &Names<'_>, cx: &mut CompileContext<'_>) -> Lookup {
        let mut template =
            |text: &Spanned<String>| result(&text.value, text.place, None, names, cx);
        let default = template(&self.default);
        let mut results = |entries: &Entries<String, Spanned<String>>| -> Vec<Template> {
            let results = entries.0.iter().map(|(_, result)| template(result));
            results.collect()
        };
        let networks = results(&self.networks);
        let from =
            Template::parse_of_response(&self.from.value, Destination::Comparison, None, names);
        let from = cx.at(self.from.place, CODE).reported(from);
        let values = self.values.0.iter().map(|(key, result)| {
            let regex = Pattern::of_text(key).and_then(Result::ok);
            self::result(&result.value, result.place, regex.as_ref(), names, cx)
        });
        let values: Vec<Template> = values.collect();
        let (exact, patterns) = self.values(values, cx);
        let networks = self.networks(networks, cx);
        let shares = self.shares(names, cx);
        let file = self.file(names, cx);
        let has_entries = !self.values.is_empty() || !self.networks.is_empty();
        if !has_entries && self.shares.is_empty() && self.exists.is_none() {
            cx.here(CODE).error(
                "the map is empty",
                "write `values` with a result for each text, `networks`, or `shares`",
            );
        }
        let kinds = [has_entries, !self.shares.is_empty(), self.exists.is_some()];
        if kinds.into_iter().filter(|is_there| *is_there).count() > 1 {
            cx.here(CODE).error(
                "the map has `shares` or `exists` beside other entries",
                "make it two maps, of which one uses the other",
            );
        }
        Lookup {
            from: from.unwrap_or_else(Template::empty),
            exact,
            patterns,
            networks,
            shares,
            file,
            default,
            is_used: AtomicBool::new(false),
        }
    }

    fn shares(&self, names: &Names<'_>, cx: &mut CompileContext<'_>) -> Box<[(u32, Template)]> {
        let mut bounds = Vec::new();
        let (mut sum, mut last) = (0.0, 0_u64);
        for (result, share) in &self.shares.0 {
            let template = self::result(result, share.place, None, names, cx);
            let percent = share.value.parse::<Percent>().map(|percent| percent.0);
            let Ok(percent) = percent else {
                cx.at(share.place, CODE).error(
                    format!("`{}` is no share", share.value),
                    "write one such as `5%` or `0.5%`",
                );
                continue;
            };
            sum += percent;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share has at most 10,000 hundredths"
            )]
            let hundredths = (percent * 100.0).round().clamp(0.0, 10_000.0) as u64;
            // As in nginx: each share is rounded down by itself.
            last += hundredths * u64::from(u32::MAX) / 10_000;
            bounds.push((u32::try_from(last).unwrap_or(u32::MAX), template));
        }
        if sum > 100.0 {
            cx.here(CODE).error(
                format!("the shares are {sum}% together"),
                "write shares of at most 100% together",
            );
        }
        bounds.into()
    }

    /// Returns the file whose existence decides, and begins to watch it.
    fn file(
        &self,
        names: &Names<'_>,
        cx: &mut CompileContext<'_>,
    ) -> Option<(Arc<WatchedFile>, Template)> {
        let exists = self.exists.as_ref()?;
        let path = &self.from.value;
        if path.contains('{') || path.is_empty() {
            return cx.at(self.from.place, CODE).refuse(
                format!("`{path}` is no path of one file"),
                "write a path without placeholders",
            );
        }
        let result = result(&exists.value, exists.place, None, names, cx);
        Some((WatchedFile::watch(cx.folder.join(path), cx), result))
    }

    fn values(&self, results: Vec<Template>, cx: &mut CompileContext<'_>) -> (Exact, Patterns) {
        let (mut exact, mut patterns) = (HashMap::new(), Vec::new());
        for ((key, key_place), result) in self.values.0.iter().zip(results) {
            let Some(regex) = Pattern::of_text(key) else {
                let text = key.strip_prefix('\\').filter(|text| text.starts_with('~'));
                let text = text.unwrap_or(key).to_ascii_lowercase();
                if exact.insert(text.into(), result).is_some() {
                    twice(key_place.place, key, cx);
                }
                continue;
            };
            match regex {
                Ok(regex) => patterns.push((regex, result)),
                Err(reason) => {
                    let text = key[1..].trim_start_matches('*');
                    let message = format!("invalid regular expression `{text}`: {reason}");
                    cx.at(key_place.place, CODE).error(message, "correct it");
                }
            }
        }
        (exact, patterns)
    }

    fn networks(&self, results: Vec<Template>, cx: &mut CompileContext<'_>) -> Networks {
        let mut networks = Networks::default();
        for ((network, written), result) in self.networks.0.iter().zip(results) {
            let parsed = cx.at(written.place, CODE).reported(network.parse::<Cidr>());
            if parsed.is_some_and(|parsed| networks.insert(parsed, result).is_some()) {
                twice(written.place, network, cx);
            }
        }
        networks
    }
}

/// Compiles a result, of this expression if there is one; an empty text in place of a problem, which
/// is reported.
fn result(
    text: &str,
    place: Place,
    regex: Option<&Pattern>,
    names: &Names<'_>,
    cx: &mut CompileContext<'_>,
) -> Template {
    let parsed = Template::parse_of_response(text, Destination::MapResult, regex, names);
    Template::checked(parsed, text, place, CODE, cx).unwrap_or_else(Template::empty)
}

fn twice(place: Place, key: &str, cx: &mut CompileContext<'_>) {
    let message = format!("`{key}` is in the map twice, perhaps in another spelling");
    cx.at(place, CODE).error(message, "remove one of the two");
}

impl Lookup {
    /// Appends the result of a request, or the default if an expression would take too much work.
    pub(super) fn write(
        &self,
        values: &Values<'_, '_>,
        text: &mut String,
    ) -> Result<(), Undecided> {
        if let Some((file, result)) = &self.file {
            let result = if file.exists() { result } else { &self.default };
            return result.write_with(values, None, text);
        }
        let mut value = String::new();
        let plain = values.encoded(Encoding::Text);
        let from = self.from.write_with(&plain, None, &mut value);
        let entry = from.and_then(|()| self.find(&value));
        let (result, regex) = entry.unwrap_or((&self.default, None));
        // The expression matched: it was decided.
        let groups = regex.and_then(|regex| regex.groups(&value).ok().flatten());
        let mut values = *values;
        values.has_groups_of_path = false;
        let written = result.write_with(&values, groups.as_ref(), text);
        entry.and(written)
    }

    pub(super) fn reads_path(&self) -> bool {
        self.from.reads_path()
    }

    /// Returns true if a variable that the result may come from has this property.
    pub(super) fn any(&self, is_it: fn(&Variable) -> bool) -> bool {
        self.from.any(is_it) || self.results().any(|result| result.any(is_it))
    }

    /// Returns the result for a value, and the expression that chose it, if the result has groups.
    fn find(&self, value: &str) -> Result<(&Template, Option<&Pattern>), Undecided> {
        if !self.shares.is_empty() {
            let hash = murmur2(value.as_bytes());
            let mut shares = self.shares.iter();
            let share = shares.find(|(bound, _)| hash < *bound);
            return Ok((share.map_or(&self.default, |(_, result)| result), None));
        }
        let network = match &*self.networks.0 {
            [] => None,
            _ => value
                .parse()
                .ok()
                .and_then(|address| self.networks.find(address)),
        };
        let exact = || self.exact.get(&*value.to_ascii_lowercase());
        if let Some(alone) = network.or_else(exact) {
            return Ok((alone, None));
        }
        for (regex, result) in &self.patterns {
            if regex.is_match(value)? {
                return Ok((result, result.has_groups().then_some(regex)));
            }
        }
        Ok((&self.default, None))
    }

    /// Adds the parts of a request that the results come from.
    pub(super) fn sources(&self, sources: &mut Vec<Source>) {
        self.from.sources(sources);
        for result in self.results() {
            result.sources(sources);
        }
    }

    /// Returns every result, and the default.
    fn results(&self) -> impl Iterator<Item = &Template> {
        let networks = self.networks.0.iter();
        let networks = networks.flat_map(|(_, results)| results.values());
        let patterns = self.patterns.iter().map(|(_, result)| result);
        let shares = self.shares.iter().map(|(_, result)| result);
        let of_file = self.file.iter().map(|(_, result)| result);
        let all = self.exact.values().chain(patterns).chain(networks);
        all.chain(shares).chain(of_file).chain([&self.default])
    }

    /// Returns every result and the default, with those of the tables that they are; `None` if one
    /// of them has other placeholders.
    pub fn fixed_results(&self) -> Option<Vec<&str>> {
        let mut results = Vec::new();
        for result in self.results() {
            match (result.fixed(), result.lookup()) {
                (Some(text), _) => results.push(text),
                // No table uses itself.
                (None, Some(table)) => results.extend(table.fixed_results()?),
                (None, None) => return None,
            }
        }
        Some(results)
    }

    /// Returns true if any value names this table.
    pub fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }
}

/// Hash of nginx's `split_clients` (`MurmurHash2` of 32 bits, with the seed 0): clients keep their
/// share when a configuration moves over.
fn murmur2(data: &[u8]) -> u32 {
    const MULTIPLIER: u32 = 0x5bd1_e995;
    let little_endian = |number: u32, byte: &u8| (number << 8) | u32::from(*byte);
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u32, little_endian);
    let mut hash = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut mixed = number(word).wrapping_mul(MULTIPLIER);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(MULTIPLIER) ^ mixed.wrapping_mul(MULTIPLIER);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash = (hash ^ number(rest)).wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

/// Lookup tables of the file.
#[derive(Debug, Default)]
pub struct Maps {
    /// Tables by name; `None` for one with a problem, which has been reported.
    all: BTreeMap<String, Option<Arc<Lookup>>>,
}

/// Result of looking for a table.
pub(super) enum UsedTable {
    Known(Arc<Lookup>),
    /// Its own problem has been reported.
    Broken,
}

impl Maps {
    pub fn insert(&mut self, name: String, lookup: Option<Lookup>) {
        self.all.insert(name, lookup.map(Arc::new));
    }

    /// Returns true if the table was compiled, or has a problem that was reported.
    pub fn has(&self, name: &str) -> bool {
        self.all.contains_key(name)
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Lookup>> {
        self.all.get(name)?.as_ref()
    }

    /// Returns true if a table has this text as a result.
    pub fn result_in(&self, text: &str) -> bool {
        let mut all = self.all.values().flatten();
        all.any(|lookup| {
            let results = lookup.fixed_results();
            results.is_some_and(|results| results.contains(&text))
        })
    }

    /// Returns the table that a value uses.
    pub(super) fn used(&self, name: &str) -> Option<UsedTable> {
        Some(match self.all.get(name)? {
            Some(lookup) => {
                lookup.is_used.store(true, Ordering::Relaxed);
                UsedTable::Known(Arc::clone(lookup))
            }
            None => UsedTable::Broken,
        })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str)
    }
}
