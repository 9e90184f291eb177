//! Imported configurations beside real nginx: whatever the two do differently is named by the
//! import's report, by directive and line. Nothing is silent, and nothing differs behind a
//! directive that the report calls carried over.
//!
//! Each shape is a configuration as people write them. Requests are drawn from it, and sent to
//! nginx, to nginx a second time (which must make no difference), and to the gateway with the
//! imported file.
#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests: what goes wrong here fails them, and says so"
)]

mod compare;
mod comparison;
mod conf;
mod dead;
mod draft;
mod draw;
mod drawn;
mod edges;
mod effects;
mod guards;
mod large;
mod lines;
mod logged;
mod names;
mod nested;
mod origin;
mod play;
mod sample;
mod servers;
mod short;
mod site;
mod targets;
mod wanted;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustls::ClientConfig;

use self::{
    compare::{Difference, Record, What, differences},
    draft::{Case, Drawn},
    names::{Governed, Statements},
    servers::{Edge, Entry, Nginx, Report, Shape, Side},
};
use crate::support::{certificates::Ca, pebble::trusting, seed};

/// Most of the requests that may differ at all, in percent; docs/from-nginx.md says what differs on
/// purpose.
const MOST: f64 = 2.0;

/// Shapes of which more may differ: how much, in percent, and why. All others keep to [`MOST`] by
/// themselves, as far as chance allows.
const EXCEPTIONS: [(&str, f64, &str); 17] = [
    (
        "monitoring",
        15.0,
        "`stub_status` has no counterpart, and one location of the shape is nothing else",
    ),
    (
        "login-page",
        13.0,
        "the requested URL is one value in the query of its redirect, in which nginx leaves `&` and \
         `=` as they are",
    ),
    (
        "generated",
        15.0,
        "it appends to `Forwarded` of clients, which most drawn requests have: the gateway does not \
         believe it",
    ),
    (
        "app-server",
        8.0,
        "its front script without a query is `/` for the backend, and `/?` with nginx",
    ),
    ("next-cached", 8.0, OF_CACHE),
    ("api-cache", 5.0, OF_CACHE),
    ("page-cache", 6.0, OF_CACHE),
    ("social", 3.5, OF_CACHE),
    (
        "two-apps",
        6.0,
        "a request that was refused has no body for the upstream of its page",
    ),
    ("forum", 5.0, OF_PATHS),
    ("dav", 4.0, OF_PATHS),
    ("blog", 3.5, OF_PATHS),
    ("inherited", 3.0, OF_PATHS),
    ("dynamic", 3.0, OF_PATHS),
    ("tenants", 3.0, OF_PATHS),
    ("internal-tools", 3.0, OF_PATHS),
    (
        "lookup-tables",
        3.5,
        "a header of each response comes from a table of hosts, which a request that is refused as \
         such does not reach",
    ),
];

/// Reason of an exception.
const OF_CACHE: &str = "the key has the requested host with its port, which backends may see, and what \
                        is not stored is asked for with the client's method and conditions; each such \
                        request changes what later ones find";

/// Reason of an exception.
const OF_PATHS: &str = "requests of each location are drawn with other spellings of its path, with \
                        targets that two programs could read in two ways, and with bodies that nobody \
                        reads, and it has many locations or little else";

/// Entries of a report that are left out of it, one at a time, to see that this is noticed.
const MUTATIONS: usize = 3;

/// Shapes that are played at the same time.
const AT_ONCE: usize = 3;

/// Shape as it was played.
struct Played {
    shape: Shape,
    cases: Vec<Case>,
    nginx: BTreeMap<usize, Record>,
    again: BTreeMap<usize, Record>,
    places: BTreeMap<String, BTreeSet<String>>,
    /// True if nginx took a backend out for a while, which its shares then show.
    has_disabled: bool,
    /// Records of the gateway; empty in a build without the import.
    own: BTreeMap<usize, Record>,
    report: Report,
    import_time: Duration,
}

/// Differences of one request.
struct Differing<'a> {
    request: &'a Drawn,
    case: &'a Case,
    key: &'a str,
    /// Status that nginx responded with.
    code: u16,
    all: Vec<Difference>,
}

/// Outcome of a shape with a report.
#[derive(Default)]
struct Judged {
    differing: usize,
    named: usize,
    unnamed: Vec<String>,
    /// Differences with the first entry that names each.
    explained: Vec<String>,
    /// Entries that alone name a difference.
    needed: BTreeSet<Entry>,
    /// Number of differences that are stated of all requests, by what differs.
    stated: BTreeMap<String, usize>,
}

/// Row of the table.
struct Row {
    text: String,
    requests: usize,
    differing: usize,
    problems: Vec<String>,
    explained: Vec<String>,
    stated: BTreeMap<String, usize>,
}

impl Played {
    fn requests(&self) -> impl Iterator<Item = (&Case, &Drawn)> {
        let cases = self.cases.iter();
        cases.flat_map(|case| case.requests.iter().map(move |request| (case, request)))
    }

    /// Differences of nginx from itself.
    fn noise(&self) -> Vec<String> {
        let mut found = Vec::new();
        for mut differing in self.differing(&self.again) {
            // How many connections are open is a matter of time.
            let is_status = |it: &Difference| it.nginx.starts_with("Active connections");
            differing.all.retain(|difference| !is_status(difference));
            let texts = differing.all.iter().map(|one| described(&differing, one));
            found.extend(texts.map(|text| format!("nginx differs from itself: {text}")));
        }
        found
    }

    /// Finds the differences of the gateway, and the entries of a report that name them.
    fn judged(&self, report: &Report, all: &[Differing<'_>]) -> Judged {
        let main = self.shape.tree();
        let governed = Governed::new(&main, report);
        let stated = Statements::new(report);
        let mut judged = Judged::default();
        let mut stored = BTreeSet::new();
        for differing in all {
            let places = self.places.get(differing.key);
            let before = judged.unnamed.len();
            let mut is_differing = false;
            for difference in &differing.all {
                // Statements about all requests make none of them differ.
                let statements = stated.of(differing.request, differing.code, difference);
                if let [only] = statements[..] {
                    let is_new = !judged.needed.contains(only);
                    if is_new
                        && !is_accepted(differing.request, difference)
                        && governed.naming(differing, difference, places).is_empty()
                    {
                        judged.needed.insert(only.clone());
                    }
                }
                if !statements.is_empty() {
                    let what = difference.what.to_string();
                    *judged.stated.entry(what).or_default() += 1;
                    continue;
                }
                // That the two store responses to different requests counts once, not each time
                // that they are served.
                let pair = (&difference.nginx, &difference.own);
                is_differing |= !difference.is_of_stored() || stored.insert(pair);
                let entries = governed.naming(differing, difference, places);
                if let [first, ..] = entries[..] {
                    let place = format!("{}:{} {}", first.file, first.line, first.directive);
                    let text = described(differing, difference);
                    judged
                        .explained
                        .push(format!("{text}: {place}: {}", first.note));
                }
                match entries[..] {
                    _ if is_accepted(differing.request, difference) => {}
                    [] => judged.unnamed.push(described(differing, difference)),
                    [only] => drop(judged.needed.insert(only.clone())),
                    _ => {}
                }
            }
            judged.differing += usize::from(is_differing);
            let is_named = is_differing && judged.unnamed.len() == before;
            judged.named += usize::from(is_named);
        }
        judged
    }

    /// Returns entries whose absence the judgement does not miss, although it says so.
    fn missed_by_nobody(&self, judged: &Judged, all: &[Differing<'_>]) -> Vec<String> {
        let mut found = Vec::new();
        for entry in judged.needed.iter().take(MUTATIONS) {
            let mut report = self.report.clone();
            report.changed.retain(|other| other != entry);
            report.not_carried.retain(|other| other != entry);
            if self.judged(&report, all).unnamed.len() <= judged.unnamed.len() {
                found.push(format!("without {entry:?} nothing fails"));
            }
        }
        found
    }

    /// Judges the shape for the table.
    fn row(&self) -> Row {
        let mut found = self.noise();
        let name = &self.shape.name;
        let requests = self.requests().count();
        let mut text = format!("{name} | {requests}");
        let mut differing = 0;
        let mut explained = Vec::new();
        let mut stated = BTreeMap::new();
        if !self.own.is_empty() {
            let all = self.differing(&self.own);
            let judged = self.judged(&self.report, &all);
            differing = judged.differing;
            let unnamed = differing - judged.named;
            let time = self.import_time.as_millis();
            let [carried, changed] = [&self.report.carried, &self.report.changed].map(Vec::len);
            let lost = self.report.not_carried.len();
            let named = judged.named;
            write!(text, " | {differing} | {named} | {unnamed} | {time} ms").expect("text");
            write!(text, " | {carried} + {changed} + {lost}").expect("text");
            found.extend(self.shares());
            found.extend(added(&all, &self.shape.tree()));
            found.extend(self.missed_by_nobody(&judged, &all));
            found.extend(judged.unnamed);
            found.extend(too_many(name, differing, requests));
            stated = judged.stated;
            let of_shape = judged.explained.iter();
            explained.extend(of_shape.map(|text| format!("{name}: {text}")));
        }
        let problems = found.iter().map(|text| format!("{name}: {text}"));
        Row {
            text,
            requests,
            differing,
            problems: problems.collect(),
            explained,
            stated,
        }
    }

    /// Compares how often each backend was asked: within an upstream, a single request says nothing.
    /// A backend that nginx took out for ten seconds was left out for most of the shape.
    fn shares(&self) -> Option<String> {
        let shares = |records: &BTreeMap<usize, Record>| {
            let mut counts = BTreeMap::<u16, f64>::new();
            for seen in records.values().flat_map(|record| &record.seen) {
                *counts.entry(seen.backend).or_default() += 1.0;
            }
            let sum: f64 = counts.values().sum();
            for count in counts.values_mut() {
                *count *= 100.0 / sum;
            }
            counts
        };
        let (nginx, own) = (shares(&self.nginx), shares(&self.own));
        let ports: BTreeSet<&u16> = nginx.keys().chain(own.keys()).collect();
        let share = |of: &BTreeMap<u16, f64>, port: u16| of.get(&port).copied().unwrap_or_default();
        let most = self.most_uneven();
        let mut differing = ports.into_iter().filter(|port| {
            let difference = share(&nginx, **port) - share(&own, **port);
            difference.abs() > most
        });
        differing.next()?;
        let found = format!("shares of backends: nginx {nginx:?}, own {own:?}");
        if self.has_disabled {
            println!("{}: nginx took a backend out; {found}", self.shape.name);
            return None;
        }
        Some(found)
    }

    /// Returns the difference of a backend's shares, in percent, that chance may explain. A hash gives
    /// all requests of a client to one backend, `ip_hash` those of its network of three octets: four
    /// standard deviations of that.
    fn most_uneven(&self) -> f64 {
        const USUAL: f64 = 10.0;
        let (mut is_hashed, mut is_of_network) = (false, false);
        self.shape
            .tree()
            .walk(&mut Vec::new(), &mut |directive, around| {
                let is_of_upstream = around.last().is_some_and(|it| it.name() == "upstream");
                is_hashed |= is_of_upstream && matches!(directive.name(), "ip_hash" | "hash");
                is_of_network |= is_of_upstream && directive.name() == "ip_hash";
            });
        if !is_hashed {
            return USUAL;
        }
        let mut counts = BTreeMap::<_, f64>::new();
        for (case, request) in self.requests() {
            let seen = &self.nginx[&request.number].seen;
            let [a, b, c, d] = case.from.octets();
            let last = if is_of_network { 0 } else { d };
            *counts.entry([a, b, c, last]).or_default() += number(seen.len());
        }
        let sum: f64 = counts.values().sum();
        let squares: f64 = counts.values().map(|count| (count / sum).powi(2)).sum();
        USUAL.max(4.0 * 50.0 * (2.0 * squares).sqrt())
    }

    /// Returns the requests that `other` treats differently from nginx.
    fn differing<'a>(&'a self, other: &BTreeMap<usize, Record>) -> Vec<Differing<'a>> {
        let mut found = Vec::new();
        for (case, request) in self.requests() {
            let nginx = &self.nginx[&request.number];
            let all = differences(request, nginx, &other[&request.number]);
            if !all.is_empty() {
                let (key, code) = (nginx.key.as_str(), nginx.outcome.status);
                found.push(Differing {
                    request,
                    case,
                    key,
                    code,
                    all,
                });
            }
        }
        found
    }
}

/// Plays a shape on all sides at once.
async fn played(shape: Shape, seed: u64, ca: &Ca, trust: &Arc<ClientConfig>) -> Played {
    let shared = tempfile::tempdir().expect("a folder");
    let main = shape.tree();
    play::prepare(shared.path(), &main, ca);
    let cases = draw::cases(&main, seed);
    let side = async |name| Side::new(&shape, shared.path(), name).await;
    let nginx = Nginx::start(&shape, side("nginx").await, true).await;
    let again = Nginx::start(&shape, side("again").await, false).await;
    let edge = Edge::start(&shape, side("edge").await).await;
    let (theirs, twice, own) = tokio::join!(
        play::play(&nginx.side, &cases, trust),
        play::play(&again.side, &cases, trust),
        play::play(&edge.side, &cases, trust),
    );
    Played {
        places: nginx.places(),
        has_disabled: nginx.has_disabled(),
        nginx: theirs,
        again: twice,
        own,
        cases,
        report: edge.report.clone(),
        import_time: edge.import_time,
        shape,
    }
}

/// Plays and judges the shapes that `EDGEWAY_SHAPES` names, all of them in a hunt, or else every
/// twentieth, on a few threads.
fn all_rows(seed: u64) -> Vec<Row> {
    let chosen = std::env::var("EDGEWAY_SHAPES").unwrap_or_default();
    let mut shapes = Shape::all();
    if !chosen.is_empty() {
        shapes.retain(|shape| chosen.split(',').any(|name| name == shape.name));
    } else if !seed::is_hunt() {
        shapes = shapes.into_iter().step_by(20).collect();
    }
    let waiting = Mutex::new(shapes);
    let ca = Ca::new();
    let trust = Arc::new(trusting());
    let next = || waiting.lock().pop();
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().expect("a runtime");
        let mut all = Vec::new();
        while let Some(shape) = next() {
            all.push(runtime.block_on(played(shape, seed, &ca, &trust)).row());
        }
        all
    };
    let mut all = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(run)).collect();
        let joined = threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("it ends well"));
        joined.collect::<Vec<_>>()
    });
    all.sort_by(|one, other| one.text.cmp(&other.text));
    all
}

/// Returns true for a difference that no entry of a report has to name: the route of a guarded path
/// takes its other spellings, as the general notes say, and they have its headers.
fn is_accepted(request: &Drawn, difference: &Difference) -> bool {
    request.edge == "case" && matches!(difference.what, What::Header(_) | What::Sent(_))
}

/// Returns the response headers that the gateway sent and nginx did not, of all requests that both
/// responded to alike. `main`: their configuration.
fn added(all: &[Differing<'_>], main: &conf::Directive) -> Vec<String> {
    let is_known = |name: &str| names::ADDED.iter().any(|(own, _)| *own == name);
    let mut found = BTreeMap::new();
    // Requests that nginx refuses before it has chosen a location have none of its headers, and the
    // gateway takes other spellings of guarded paths.
    let is_stated =
        |differing: &&Differing<'_>| differing.code >= 400 || differing.request.edge == "case";
    for differing in all.iter().filter(|differing| !is_stated(differing)) {
        for difference in &differing.all {
            if let What::Header(name) = &difference.what
                && difference.nginx.is_empty()
                && !is_known(name)
                && !effects::is_of_guarded(main, differing.request.path(), name)
            {
                let text = described(differing, difference);
                found.entry(name.clone()).or_insert(text);
            }
        }
    }
    let texts = found.into_values();
    texts
        .map(|text| format!("a header that nginx did not send: {text}"))
        .collect()
}

/// Returns a problem if more requests of a shape differ than may: more than a share of
/// [`MOST`], or of its exception, leads to in a draw of that many, with four standard deviations.
fn too_many(name: &str, differing: usize, requests: usize) -> Option<String> {
    let mut exceptions = EXCEPTIONS.iter();
    let exception = exceptions.find(|(shape, ..)| *shape == name);
    let most = exception.map_or(MOST, |(_, most, _)| *most);
    let chance = 4.0 * (most * (100.0 - most) / number(requests)).sqrt();
    let share = 100.0 * number(differing) / number(requests);
    (share >= most + chance).then(|| format!("{share:.2} % of its requests differ"))
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("not that many"))
}

fn described(differing: &Differing<'_>, difference: &Difference) -> String {
    let request = differing.request;
    let mut line = request.head.lines().next().unwrap_or_default().to_owned();
    for name in [
        "host",
        "authorization",
        "upgrade",
        "range",
        "x-forwarded-for",
    ] {
        if let Some(value) = request.header(name) {
            write!(line, ", {name}: {value}").expect("a string takes text");
        }
    }
    format!(
        "[{}] #{} {line} from {}: {}: nginx {:?}, own {:?}",
        request.edge,
        request.number,
        differing.case.from,
        difference.what,
        difference.nginx,
        difference.own
    )
}

#[test]
fn whatever_differs_from_nginx_is_named_by_the_report() {
    let seed = seed::drawn();
    let rows = all_rows(seed);
    let mut table = String::from("shape | requests | differ | named | unnamed | import | report\n");
    let (mut problems, mut explained) = (Vec::new(), Vec::new());
    let (mut requests, mut differing) = (0, 0);
    let mut stated = BTreeMap::<String, usize>::new();
    for row in rows {
        writeln!(table, "{}", row.text).expect("it takes text");
        requests += row.requests;
        differing += row.differing;
        problems.extend(row.problems);
        explained.extend(row.explained);
        for (what, count) in row.stated {
            *stated.entry(what).or_default() += count;
        }
    }
    let share = 100.0 * number(differing) / number(requests);
    println!("{table}all | {requests} | {differing} ({share:.2} %)");
    println!("stated of all requests, and not counted: {stated:?}");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let named = folder.join("import_nginx_named.txt");
    fs::write(named, explained.join("\n")).expect("the folder takes files");
    let list = folder.join("import_nginx.txt");
    fs::write(&list, problems.join("\n")).expect("the folder takes files");
    let (count, list) = (problems.len(), list.display());
    problems.truncate(30);
    let shown = problems.join("\n");
    assert!(count == 0, "{count} problems, all in {list}:\n{shown}");
    // Shapes of which more may differ weigh more among a few.
    let most = if seed::is_hunt() { MOST } else { 2.0 * MOST };
    assert!(share < most, "{share:.2} % of the requests differ\n{table}");
}
