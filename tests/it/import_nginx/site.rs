//! The servers and locations of a shape, as the requests need them.

use super::{conf::Directive, sample::sample, servers::GONE};

/// Server with those who are around its directives.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// Ports as written, each with true for TLS.
    pub(super) listens: Vec<(u16, bool)>,
    pub(super) names: Vec<String>,
    pub(super) locations: Vec<Location>,
    /// Paths that its own `rewrite` directives match.
    pub(super) rewritten: Vec<String>,
}

/// Way in which a location compares paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compares {
    Prefix,
    Exact,
    Regex,
}

#[derive(Clone, Debug)]
pub(super) struct Location {
    pub(super) compares: Compares,
    /// Path, or regular expression.
    pub(super) text: String,
    /// Own directives, then those around it, the nearest first.
    scopes: Vec<Vec<Directive>>,
}

impl Location {
    /// Returns the nearest directive of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Directive> {
        let mut scopes = self.scopes.iter();
        scopes.find_map(|scope| scope.iter().find(|directive| directive.name() == name))
    }

    /// Returns its own directive of this name.
    pub(super) fn own(&self, name: &str) -> Option<&Directive> {
        let found = self.scopes[0].iter();
        found.into_iter().find(|directive| directive.name() == name)
    }

    /// Returns all directives of this name of the nearest scope that has one.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> Vec<&'a Directive> {
        let of = |scope: &'a Vec<Directive>| -> Vec<&'a Directive> {
            scope.iter().filter(|found| found.name() == name).collect()
        };
        let found = self.scopes.iter().map(of).find(|all| !all.is_empty());
        found.unwrap_or_default()
    }

    /// Returns true if a backend has its responses, those that are no files at least.
    pub(super) fn is_proxied(&self) -> bool {
        let tries = self.own("try_files");
        let last = tries.and_then(|tries| tries.arguments().last());
        self.own("proxy_pass").is_some() || last.is_some_and(|last| last.starts_with('@'))
    }

    /// Returns true if its backend is never there.
    pub(super) fn is_gone(&self) -> bool {
        let to = self.own("proxy_pass").map_or("", Directive::first);
        to.ends_with(&format!(":{GONE}"))
    }

    /// Returns true if the configuration itself has the response.
    pub(super) fn is_made(&self) -> bool {
        self.own("return").is_some()
    }

    /// Returns true if files of a folder are its responses.
    pub(super) fn has_files(&self) -> bool {
        let is_other = self.is_proxied() || self.own("return").is_some();
        !is_other && (self.get("root").is_some() || self.own("alias").is_some())
    }

    /// Returns a path of this location.
    pub(super) fn path(&self, random: &mut fastrand::Rng) -> String {
        if self.compares != Compares::Regex {
            return self.text.replace(' ', "%20").replace('é', "%C3%A9");
        }
        // Clients write this letter encoded: what follows it is no part of a request.
        let text = sample(&self.text, random).replace('#', "%23");
        // Those that clients resolve themselves are among the edges of each path.
        let is_dots = |segment: &&str| matches!(*segment, "." | "..");
        let segments = text
            .split('/')
            .map(|one| if is_dots(&one) { "x" } else { one });
        let text = segments.collect::<Vec<_>>().join("/");
        if text.starts_with('/') {
            return text;
        }
        let folders = ["/", "/img/", "/a/b/", "/assets/x"];
        format!("{}{text}", folders[random.usize(..folders.len())])
    }

    /// Returns the most that a body may have, `None` if there is no limit.
    pub(super) fn body_limit(&self) -> Option<usize> {
        let size = self.get("client_max_body_size");
        let text = size.map_or("1m", Directive::first).to_lowercase();
        let (digits, unit) = match text.strip_suffix(['k', 'm', 'g']) {
            Some(digits) if text.ends_with('k') => (digits, 1 << 10),
            Some(digits) if text.ends_with('g') => (digits, 1 << 30),
            Some(digits) => (digits, 1 << 20),
            None => (&*text, 1),
        };
        let limit = digits.parse::<usize>().expect("a size") * unit;
        (limit > 0).then_some(limit)
    }

    /// Returns the folder of its files and the part of a request's path that it replaces.
    pub(super) fn folder(&self) -> Option<(String, String)> {
        if let Some(alias) = self.own("alias") {
            return Some((alias.first().to_owned(), self.text.clone()));
        }
        let root = self.get("root")?.first().trim_end_matches('/');
        Some((format!("{root}/"), "/".to_owned()))
    }
}

/// Ends of hosts for a wildcard.
const ENDS: [&str; 4] = ["de", "org", "co.uk", "example"];

/// Returns a host for a name that is a regular expression or has its wildcard at the end.
pub(super) fn pattern(name: &str, random: &mut fastrand::Rng) -> Option<String> {
    if let Some(regex) = name.strip_prefix('~') {
        return Some(sample(regex, random).to_lowercase());
    }
    let beginning = name.strip_suffix('*')?;
    Some(format!("{beginning}{}", ENDS[random.usize(..ENDS.len())]))
}

/// Returns the servers of a configuration, in its order.
pub(super) fn servers(main: &Directive, random: &mut fastrand::Rng) -> Vec<Server> {
    let mut found = Vec::new();
    for http in main.all("http") {
        for server in http.all("server") {
            found.push(read(server, http, random));
        }
    }
    found
}

fn read(server: &Directive, http: &Directive, random: &mut fastrand::Rng) -> Server {
    let listens = server.all("listen").map(|listen| {
        let address = listen.first();
        let port = address.rsplit(':').next().unwrap_or(address);
        let port: u16 = port.parse().expect("a port");
        (port, listen.words.iter().any(|word| word == "ssl"))
    });
    let names = server.all("server_name");
    let names = names.flat_map(|names| names.arguments().to_vec());
    let rewrites = server.all("rewrite");
    let rewritten = rewrites.map(|rewrite| sample(rewrite.first(), random));
    let rewritten: Vec<String> = rewritten.collect();
    let mut locations = Vec::new();
    let around = [server.children().to_vec(), http.children().to_vec()];
    collect(server, &around, &mut locations);
    Server {
        listens: listens.collect(),
        names: names.collect(),
        locations,
        rewritten,
    }
}

fn collect(block: &Directive, around: &[Vec<Directive>], found: &mut Vec<Location>) {
    for location in block.all("location") {
        let mut scopes = vec![location.children().to_vec()];
        scopes.extend(around.iter().cloned());
        let words = location.arguments();
        let (compares, text) = match words {
            [sign, text] if sign == "=" => (Compares::Exact, text),
            [sign, text] if sign.starts_with('~') => (Compares::Regex, text),
            [_, text] | [text] => (Compares::Prefix, text),
            _ => continue,
        };
        if !text.starts_with('@') {
            found.push(Location {
                compares,
                text: text.clone(),
                scopes: scopes.clone(),
            });
        }
        collect(location, &scopes, found);
    }
}
