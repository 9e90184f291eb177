//! Finding the entry of a report that names a difference: at a line that governs the request, and
//! of a directive that may have this effect.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    Differing,
    compare::{Difference, What},
    conf::{CHOOSING, Directive},
    draft::Drawn,
    effects::{Effect, fits, names},
    servers::{Entry, Report},
};

/// Directive with the blocks that a request must have passed for it to matter.
struct Line<'a> {
    directive: &'a Directive,
    needs: BTreeSet<String>,
}

/// Lines that govern requests, and the entries of a report.
pub(super) struct Governed<'a, 'b> {
    lines: BTreeMap<String, Vec<Line<'b>>>,
    /// Blocks around each block that chooses.
    around: BTreeMap<String, BTreeSet<String>>,
    /// Servers, for requests that no block handled.
    servers: BTreeSet<String>,
    /// Headers that a configuration gives the use of the cache.
    of_cache: BTreeSet<String>,
    /// Entries with their places.
    entries: Vec<(String, &'a Entry)>,
}

/// Returns file and line of an entry as the tree has them.
fn place(entry: &Entry, main: &Directive) -> String {
    let mut names = BTreeSet::new();
    main.walk(&mut Vec::new(), &mut |directive, _| {
        names.insert(directive.file.clone());
    });
    let is_end = |name: &&String| {
        let before = entry.file.strip_suffix(name.as_str());
        before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
    };
    let known = names.iter().filter(is_end).max_by_key(|name| name.len());
    let file = known.unwrap_or(&entry.file);
    format!("{file}:{}", entry.line)
}

impl<'a, 'b> Governed<'a, 'b> {
    pub(super) fn new(main: &'b Directive, report: &'a Report) -> Self {
        let mut governed = Self {
            lines: BTreeMap::new(),
            around: BTreeMap::new(),
            servers: BTreeSet::new(),
            of_cache: BTreeSet::new(),
            entries: report
                .explaining()
                .map(|entry| (place(entry, main), entry))
                .collect(),
        };
        main.walk(&mut Vec::new(), &mut |directive, around| {
            let is_upstream = around.iter().any(|block| block.name() == "upstream");
            let is_choosing = |block: &Directive| {
                CHOOSING.contains(&block.name()) && !is_upstream && block.block.is_some()
            };
            let blocks = around.iter().copied().filter(|block| is_choosing(block));
            let mut needs: BTreeSet<String> = blocks.map(Directive::place).collect();
            if is_choosing(directive) {
                governed.around.insert(directive.place(), needs.clone());
                if directive.name() == "server" {
                    governed.servers.insert(directive.place());
                }
                needs.insert(directive.place());
            }
            let mut arguments = directive.arguments().iter();
            if arguments.any(|value| value.contains("$upstream_cache_status")) {
                governed.of_cache.insert(directive.first().to_lowercase());
            }
            // A file that is included in several places has its lines in each.
            let lines = governed.lines.entry(directive.place()).or_default();
            lines.push(Line { directive, needs });
        });
        governed
    }

    /// Returns the entries that name a difference of a request which these blocks handled.
    pub(super) fn naming(
        &self,
        differing: &Differing<'_>,
        difference: &Difference,
        places: Option<&BTreeSet<String>>,
    ) -> Vec<&'a Entry> {
        let mut passed = places.cloned().unwrap_or_default();
        if passed.is_empty() {
            passed.clone_from(&self.servers);
        }
        for place in passed.clone() {
            passed.extend(self.around.get(&place).into_iter().flatten().cloned());
        }
        let mut all = differing.all.iter();
        let status = all.find(|found| found.what == What::Status);
        let named = self.entries.iter().filter(|(place, entry)| {
            let lines = self.lines.get(place);
            let lines = lines.into_iter().flatten();
            let mut lines = lines.filter(|line| line.needs.is_subset(&passed));
            // A whole location may be on one line.
            let is_own = |line: &Line<'_>| entry.directive == line.directive.name();
            let Some(line) = lines
                .clone()
                .find(|line| is_own(line))
                .or_else(|| lines.next())
            else {
                return false;
            };
            let effect = Effect {
                request: differing.request,
                difference,
                status,
                directive: line.directive,
                code: differing.code,
                of_cache: &self.of_cache,
            };
            fits(entry, &effect)
        });
        named.map(|(_, entry)| *entry).collect()
    }
}

/// Statements of a report about all requests, which make none of them differ.
pub(super) struct Statements<'a> {
    entries: Vec<&'a Entry>,
    /// Entries that have one of some words.
    known: RefCell<BTreeMap<Words, Vec<&'a Entry>>>,
}

impl<'a> Statements<'a> {
    pub(super) fn new(report: &'a Report) -> Self {
        let is_general = |entry: &&Entry| GENERAL.contains(&&*entry.directive);
        Self {
            entries: report.changed.iter().filter(is_general).collect(),
            known: RefCell::default(),
        }
    }

    /// Returns the entries that state a difference as a property of all responses of a kind, or of
    /// all requests to backends. `code` is the status that nginx responded with.
    pub(super) fn of(&self, request: &Drawn, code: u16, difference: &Difference) -> Vec<&'a Entry> {
        let Some(words) = general_words(request, code, difference) else {
            return Vec::new();
        };
        let mut known = self.known.borrow_mut();
        let found = known.entry(words).or_insert_with_key(|words| {
            let mut entries = self.entries.clone();
            entries.retain(|entry| match words {
                Words::Text(text) => entry.note.contains(text),
                Words::Header(name) => names(&entry.note, name),
            });
            entries
        });
        found.clone()
    }
}

/// Words of which a statement has one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Words {
    Text(&'static str),
    /// Name of a header in backticks.
    Header(String),
}

/// Returns the words that a statement has, if the difference may be of all requests.
fn general_words(request: &Drawn, code: u16, difference: &Difference) -> Option<Words> {
    let (nginx, own) = (&*difference.nginx, &*difference.own);
    let is_added = nginx.is_empty();
    let header = |name: &str| Some(Words::Header(name.to_owned()));
    match &difference.what {
        What::Header(name)
            if is_added && ADDED[..3].iter().any(|(own, _)| *own == name.as_str()) =>
        {
            header(name)
        }
        // Only errors, which both make themselves.
        What::Header(name) if name == "cache-control" && code >= 400 && own == "no-store" => {
            is_added.then_some(Words::Text("no-store"))
        }
        // The same of errors whose location says more.
        What::Header(name) if name == "cache-control" && code >= 400 => {
            let mut words: Vec<&str> = nginx.split(',').chain(["no-store"]).collect();
            words.sort_unstable();
            (words.join(",") == own).then_some(Words::Text("no-store"))
        }
        What::Header(name) if name == "content-type" => {
            let is_charset = own.strip_suffix("; charset=utf-8") == Some(nginx);
            let is_script = nginx == "application/javascript" && own.starts_with("text/javascript");
            match (is_charset, is_script) {
                (true, _) => Some(Words::Text("charset")),
                (_, true) => Some(Words::Text("text/javascript")),
                _ => None,
            }
        }
        What::Header(name) if name == "www-authenticate" => {
            let rest = own.strip_suffix(", charset=\"UTF-8\"")?;
            if rest == nginx { header(name) } else { None }
        }
        // Other headers than those that a service decides by.
        What::Checked => Some(Words::Text("the service gets")),
        What::Sent(name) if name == "accept-encoding" && own == "identity" => header(name),
        // Set by the gateway alone; what a client sends under these names does not pass as it is.
        What::Sent(name) if SENT.contains(&&**name) => match request.header(name) {
            Some(sent) if nginx.starts_with(sent) => header(name),
            _ if is_added => header(name),
            _ => None,
        },
        _ => None,
    }
}

/// Directives whose entries may state something about all requests.
const GENERAL: [&str; 12] = [
    "root",
    "alias",
    "gzip",
    "auth_request",
    "error_page",
    "proxy_intercept_errors",
    "server",
    "http",
    "limit_req",
    "limit_conn",
    "proxy_cache",
    "auth_basic",
];

/// Headers that the gateway adds to responses of some kind, although nginx does not send them, each
/// with the reason.
pub(super) const ADDED: [(&str, &str); 5] = [
    ("age", "a stored response has it: RFC 9111, 5.1"),
    ("allow", "405 has it: RFC 9110, 15.5.6"),
    (
        "retry-after",
        "tells when to come again, and nothing that lasts",
    ),
    (
        "cache-control",
        "`no-store` keeps an error of a moment from being stored",
    ),
    (
        "vary",
        "a stored response that is compressed for some clients depends on `Accept-Encoding`",
    ),
];

/// Headers that the gateway adds to all requests to backends.
const SENT: [&str; 7] = [
    "traceparent",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

#[test]
fn an_entry_names_what_its_line_governs() {
    let text = "http {\n server { listen 80;\n  location /a {\n   limit_req zone=x;\n  }\n  location /b {\n   \
        return 204;\n  }\n }\n}\n";
    let files = BTreeMap::from([("nginx.conf".to_owned(), text.to_owned())]);
    let main = super::conf::read(&files);
    let cases = super::draw::cases(&main, 1);
    let request = &cases[0].requests[0];
    let refused = || Difference {
        what: What::Status,
        nginx: "200".to_owned(),
        own: "429".to_owned(),
    };
    let entry = |line: usize, directive: &str| Entry {
        file: "/etc/nginx/nginx.conf".to_owned(),
        line,
        directive: directive.to_owned(),
        note: "the status is another one".to_owned(),
    };
    let names = |report: &Report, place: &str| {
        let differing = Differing {
            request,
            case: &cases[0],
            key: "",
            code: 200,
            all: vec![refused()],
        };
        let places = ["nginx.conf:2", place].map(str::to_owned);
        let governed = Governed::new(&main, report);
        let places = BTreeSet::from(places);
        governed.naming(&differing, &refused(), Some(&places)).len()
    };
    let report = |changed: Entry| Report {
        changed: vec![changed],
        ..Report::default()
    };
    let right = report(entry(4, "limit_req"));
    assert_eq!(names(&right, "nginx.conf:3"), 1, "the line of the limit");
    assert_eq!(names(&right, "nginx.conf:6"), 0, "another location");
    assert_eq!(
        names(&report(entry(7, "return")), "nginx.conf:6"),
        0,
        "another effect"
    );
    assert_eq!(
        names(&report(entry(5, "limit_req")), "nginx.conf:3"),
        0,
        "no such line"
    );
    assert_eq!(
        names(&Report::default(), "nginx.conf:3"),
        0,
        "an empty report"
    );
    let carried = Report {
        carried: vec![entry(4, "limit_req")],
        ..Report::default()
    };
    assert_eq!(names(&carried, "nginx.conf:3"), 0, "carried over");
}
