//! Section `maps`: lookup tables, compiled before the filters that use them.

use std::sync::Arc;

use edgeway_base::secret;
use edgeway_config::{
    model::File,
    tree::{Key, Node, read},
};
use edgeway_routes::values::{MapConfig, Maps};

use super::{compile::Compiler, likely_mistakes::texts, print};

impl Compiler<'_> {
    /// Compiles the tables for everything that is compiled after them.
    pub(super) fn maps(&mut self) {
        let mut maps = Maps::default();
        for entry in &self.file.maps {
            self.map(entry, &mut maps, &mut Vec::new());
        }
        self.shared.insert(Arc::new(maps));
    }

    /// Compiles one table after those that it uses. `users`: the tables that use it.
    fn map<'f>(&mut self, entry: &'f (Key, Node), maps: &mut Maps, users: &mut Vec<&'f str>)
    where
        Self: 'f,
    {
        let (key, node) = entry;
        if maps.has(&key.name) {
            return;
        }
        if let Some(first) = users.iter().position(|user| *user == key.name) {
            let circle = [&users[first..], &[&*key.name]].concat().join("` uses `");
            self.at(node.place, "edgeway::maps::circle").error(
                format!("the map `{}` uses itself: `{circle}`", key.name),
                "look up a value of the request in one of them",
            );
            maps.insert(key.name.clone(), None);
            return;
        }
        users.push(&key.name);
        let file = self.file;
        for used in file.maps.iter().filter(|other| uses(node, other)) {
            self.map(used, maps, users);
        }
        users.pop();
        if maps.has(&key.name) {
            return;
        }
        let config = read::<MapConfig>(node, &mut self.diagnostics);
        let mut cx = self.cx(node.place, "");
        let lookup = config.and_then(|config| config.compile(maps, &mut cx));
        maps.insert(key.name.clone(), lookup);
    }

    /// Returns the tables that decide about the texts in a node, sorted by name.
    pub(super) fn maps_used_by(&self, node: &Node) -> Vec<&(Key, Node)> {
        let all = &self.file.maps;
        let mut is_used: Vec<bool> = all.iter().map(|map| uses(node, map)).collect();
        // A chain of tables has at most as many links as there are tables.
        for _ in all {
            for (index, map) in all.iter().enumerate() {
                let mut users = all.iter().zip(&is_used).filter(|(_, used)| **used);
                if !is_used[index] && users.any(|((_, user), _)| uses(user, map)) {
                    is_used[index] = true;
                }
            }
        }
        let used = all.iter().zip(is_used).filter(|(_, used)| *used);
        let mut used: Vec<_> = used.map(|(map, _)| map).collect();
        used.sort_unstable_by(|a, b| a.0.name.cmp(&b.0.name));
        used
    }

    /// Warns about tables that no value uses.
    pub(super) fn unused_maps(&mut self) {
        let maps = self.shared.get::<Maps>().unwrap_or_default();
        let is_unused = |key: &Key| maps.get(&key.name).is_some_and(|map| !map.is_used());
        for (key, _) in &self.file.maps {
            if is_unused(key) {
                self.at(key.place, "edgeway::maps::unused").warn(
                    format!("no value uses the map `{}`", key.name),
                    format!(
                        "remove it, or write `{{map.{}}}` in a value of `headers`",
                        key.name
                    ),
                );
            }
        }
    }
}

/// Returns true if some text of the node uses the table.
fn uses(node: &Node, (map, _): &(Key, Node)) -> bool {
    let placeholder = format!("{{map.{}}}", map.name);
    let mut words = Vec::new();
    texts(node, &mut words);
    words.iter().any(|(word, _)| word.contains(&placeholder))
}

/// Returns the section with every default filled in. Results of a table whose name marks it as
/// secret are redacted.
pub(super) fn print(file: &File) -> serde_json::Value {
    let mut maps = print::named::<MapConfig>(&file.maps);
    for (name, table) in &mut maps {
        redact(name, table);
    }
    maps.into()
}

fn redact(name: &str, value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => {
            *text = secret::without_shapes(secret::shown(name, text)).into_owned();
        }
        serde_json::Value::Object(entries) => {
            let results = entries.iter_mut().filter(|(key, _)| *key != "from");
            results.for_each(|(_, value)| redact(name, value));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{World, compile, load_text, print};

    /// Returns the messages of a configuration with these maps, and what is printed of it.
    fn compiled(maps: &str, value: &str) -> (Vec<String>, Option<String>) {
        let yaml = format!(
            "listeners: [{{ address: 127.0.0.1:8080 }}]\nmaps: {maps}\n\
             routes: [{{ match: {{}}, respond: ok, headers: {{ response: {{ set: {{ X-A: \
             \"{value}\" }} }} }} }}]\n"
        );
        let file = load_text("test.yaml", &yaml).file.unwrap();
        let (gateway, diagnostics) = compile(&file, Path::new("."), &World::default());
        let messages = diagnostics.list().iter().map(|one| one.message.clone());
        let printed = gateway.map(|gateway| print::yaml(&file, &gateway, &[]));
        (messages.collect(), printed)
    }

    #[test]
    fn the_order_of_maps_has_no_effect() {
        let one = "one: { from: '{map.two}', values: { a: b } }";
        let two = "two: { from: '{query.a}', values: { x: a } }";
        for maps in [format!("{{ {one}, {two} }}"), format!("{{ {two}, {one} }}")] {
            let (messages, _) = compiled(&maps, "{map.one}");
            assert!(messages.is_empty(), "{messages:?}");
        }
    }

    #[test]
    fn a_map_that_uses_itself_is_reported_once() {
        let maps = "{ a: { from: '{map.b}', values: { x: y } }, \
                    b: { values: { x: '{map.c}' } }, c: { values: { x: y }, default: '{map.a}' } }";
        let (messages, _) = compiled(maps, "{map.b}");
        assert_eq!(
            messages,
            ["the map `a` uses itself: `a` uses `b` uses `c` uses `a`"]
        );
    }

    #[test]
    fn mistakes_in_maps_are_reported_once() {
        for (map, expected) in [
            ("{ from: '{header.origin}' }", "the map is empty"),
            ("{ from: '{map.b}', values: { a: b } }", "unknown map `b`"),
            (
                "{ values: { Ab: x, aB: y } }",
                "`aB` is in the map twice, perhaps in another spelling",
            ),
            (
                "{ networks: { 10.0.0.0/33: x } }",
                "invalid network `10.0.0.0/33`: invalid prefix length",
            ),
            (
                "{ networks: { '::ffff:10.0.0.0/104': x, 10.0.0.0/8: y } }",
                "`10.0.0.0/8` is in the map twice, perhaps in another spelling",
            ),
            (
                "{ values: { '~(': x } }",
                "invalid regular expression `(`: unclosed group",
            ),
        ] {
            let (messages, printed) = compiled(&format!("{{ a: {map} }}"), "{map.a}");
            assert_eq!(messages, [expected], "{map}");
            assert!(printed.is_none());
        }
    }

    #[test]
    fn a_map_that_no_value_uses_is_a_warning() {
        let maps = "{ a: { values: { x: y } }, b: { values: { x: y } } }";
        let (messages, printed) = compiled(maps, "{map.b}");
        assert_eq!(messages, ["no value uses the map `a`"]);
        assert!(printed.is_some());
    }

    #[test]
    fn printed_maps_keep_their_order_and_no_secrets() {
        let maps = "{ api_token: { from: '{host}', values: { a: hunter2, '~^b': hunter3 } }, \
                    b: { values: { '~z': one, '~a': two } } }";
        let (_, printed) = compiled(maps, "{map.b} {map.api_token}");
        let printed = printed.unwrap();
        assert!(!printed.contains("hunter"), "{printed}");
        assert!(printed.contains("from: \"{host}\""), "{printed}");
        let (z, a) = (printed.find("~z").unwrap(), printed.find("~a").unwrap());
        assert!(z < a, "{printed}");
    }

    /// Invariant: routes have one identity as long as their maps turn each request into the same.
    #[test]
    fn stored_responses_are_kept_apart_by_the_maps_of_the_request() {
        let identity = |maps: &str| {
            let yaml = format!(
                "listeners: [{{ address: 127.0.0.1:8080 }}]\nmaps: {{ {maps} }}\n\
                 upstreams: {{ web: {{ backends: ['127.0.0.1:1'] }} }}\n\
                 routes: [{{ match: {{}}, upstream: web, cache: {{}}, headers: {{ request: {{ set: \
                 {{ X-A: '<{{map.a}}>' }} }}, response: {{ set: {{ X-B: '{{map.b}}' }} }} }} }}]\n"
            );
            let file = load_text("test.yaml", &yaml).file.unwrap();
            let (gateway, diagnostics) = compile(&file, Path::new("."), &World::default());
            let gateway = gateway.unwrap_or_else(|| panic!("{diagnostics:?}"));
            gateway.routes[0].cache.as_ref().unwrap().identity
        };
        let a = "a: { from: '{map.c}', values: { '~x': one, '~y': two, z: three } }";
        let b = "b: { values: { x: y } }";
        let c = "c: { values: { x: y } }";
        let same = [
            format!("{a}, {b}, {c}"),
            format!("{c}, {b}, {a}"),
            format!("{a}, b: {{ values: {{ x: other }} }}, {c}"),
        ];
        let [first, others @ ..] = same.map(|maps| identity(&maps));
        for other in others {
            assert_eq!(other, first);
        }
        for maps in [
            format!("{a}, {b}, c: {{ values: {{ x: other }} }}"),
            format!("{}, {b}, {c}", a.replace("three", "four")),
            format!(
                "{}, {b}, {c}",
                a.replace("'~x': one, '~y': two", "'~y': two, '~x': one")
            ),
        ] {
            assert_ne!(identity(&maps), first, "{maps}");
        }
    }

    #[test]
    fn a_table_may_name_upstreams_and_nothing_else() {
        let messages = |map: &str, key: &str| {
            let yaml = format!(
                "listeners: [{{ address: 127.0.0.1:8080 }}]\n\
                 maps: {{ pool: {map}, other: {{ shares: {{ canary: 5% }} }} }}\n\
                 upstreams: {{ web: {{ backends: ['127.0.0.1:1'] }}, \
                 canary: {{ backends: ['127.0.0.1:2'] }} }}\n\
                 routes: [{{ match: {{}}, upstream: web, upstream_by: '{key}', \
                 headers: {{ request: {{ set: {{ X-A: '{{map.other}}' }} }} }} }}]\n"
            );
            let file = load_text("test.yaml", &yaml).file.unwrap();
            let (_, diagnostics) = compile(&file, Path::new("."), &World::default());
            let messages = diagnostics.list().iter().map(|one| one.message.clone());
            messages.collect::<Vec<_>>()
        };
        for map in [
            "{ shares: { canary: 5%, web: 1% } }",
            "{ from: '{host}', values: { a: '{map.other}' }, default: web }",
        ] {
            let found = messages(map, "{map.pool}");
            assert!(found.is_empty(), "{map}: {found:?}");
        }
        for (map, key, expected) in [
            (
                "{ shares: { canari: 5%, canary: 1% } }",
                "{map.pool}",
                "names the unknown upstream `canari`",
            ),
            (
                "{ values: { a: '{header.x}', b: canary } }",
                "{map.pool}",
                "have placeholders",
            ),
            (
                "{ shares: { canary: 60%, web: 50% } }",
                "{map.pool}",
                "the shares are 110% together",
            ),
            (
                "{ shares: { canary: 5% }, values: { a: b } }",
                "{map.pool}",
                "the map has `shares` or `exists` beside other entries",
            ),
            (
                "{ shares: { canary: 5% } }",
                "a{map.pool}",
                "is no lookup table",
            ),
        ] {
            let found = messages(map, key);
            let has = found.iter().any(|one| one.contains(expected));
            assert!(has, "{map} {key}: {found:?}");
        }
    }
}
