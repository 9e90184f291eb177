//! Locations within each other, drawn three levels deep: what nginx refuses, the imported
//! configuration refuses too, and what nginx serves, the same location serves.

use std::{collections::BTreeSet, fmt::Write as _, fs, net::Ipv4Addr, path::Path};

use fastrand::Rng;
use regex::Regex;

use super::{
    play::prepare,
    servers::{Edge, Nginx, Shape, Side},
    wire::{Message, Outcome, send},
};
use crate::support::{certificates::Ca, seed};

const SERVERS: usize = 120;
/// Servers that are drawn, except in a hunt, which draws all.
const FEW: usize = 15;
const REQUESTS: usize = 60;
/// Levels of locations, those of the server included.
const DEPTH: usize = 3;

const REGEXES: [&str; 10] = [
    r"\.pdf$",
    r"\.php$",
    r"\.(pdf|php)$",
    "^/a/",
    "/b/",
    "^/[^/]+/b",
    "b$",
    "a b",
    "é",
    "x",
];
const BEGINNINGS: [&str; 12] = [
    "/", "/", "/a/", "/a/", "/a", "/a/b/", "/b/", "/b", "/a b/", "/é/", "/a/x", "/x/",
];
/// Continuations of the path around a location.
const ENDS: [&str; 8] = ["", "a/", "b/", "b", "x", "a b/", "é", "a/b/"];
const SEGMENTS: [&str; 12] = [
    "a", "a", "b", "b", "x", "a.pdf", "b.pdf", "a.php", "A.PDF", "a%20b", "%C3%A9", "b/a",
];

/// Servers as nginx writes them; each location names itself in `X-Loc`.
struct Drawn {
    text: String,
    random: Rng,
    count: usize,
    /// Prefixes with the expressions within them, of each server.
    inner: Vec<Vec<(String, Regex)>>,
    /// Locations by their number.
    places: Vec<Place>,
}

struct Place {
    pattern: Regex,
    /// True if nginx responds by itself: no app reads the path.
    is_reply: bool,
}

impl Drawn {
    fn one<'t>(&mut self, list: &[&'t str]) -> &'t str {
        list[self.random.usize(..list.len())]
    }

    /// Writes the locations of a block: `around` is the mark and the path of the location that it
    /// is in.
    fn locations(&mut self, around: Option<(&str, &str)>, depth: usize) {
        let count = match depth {
            0 => self.random.usize(2..6),
            _ => self.random.usize(0..4),
        };
        let mut known = BTreeSet::new();
        for _ in 0..count {
            let is_in_regex = around.is_some_and(|(mark, _)| mark.starts_with('~'));
            let mark = if is_in_regex {
                self.one(&["~", "~*"])
            } else {
                self.one(&["", "", "", "", "^~", "=", "~", "~", "~*"])
            };
            let text = match around {
                _ if mark.starts_with('~') => self.one(&REGEXES).to_owned(),
                Some((_, path)) => {
                    let end = self.one(&ENDS);
                    format!("{path}{end}")
                }
                None => self.one(&BEGINNINGS).to_owned(),
            };
            // nginx refuses the same path twice.
            let kind = if mark == "^~" { "" } else { mark };
            if !text.contains("//") && known.insert((kind, text.clone())) {
                self.location(mark, &text, around, depth);
            }
        }
    }

    fn location(&mut self, mark: &str, text: &str, around: Option<(&str, &str)>, depth: usize) {
        let (number, indent) = (self.count, "  ".repeat(depth + 1));
        self.count += 1;
        if let (true, Some(("" | "^~", outer))) = (mark.starts_with('~'), around) {
            let regex = Regex::new(text).expect("it is valid");
            let server = self.inner.last_mut().expect("there is one");
            server.push((outer.to_owned(), regex));
        }
        writeln!(self.text, "{indent}location {mark} \"{text}\" {{").expect("text");
        writeln!(self.text, "{indent}  add_header X-Loc {number} always;").expect("text");
        let guard = match self.random.u8(..12) {
            0 => "deny all;",
            1 => "allow all;",
            2 => "internal;",
            3 => "auth_basic shop; auth_basic_user_file users.htpasswd;",
            4 => "auth_basic off;",
            5 => "limit_except GET { deny all; }",
            _ => "",
        };
        let action = match self.random.u8(..10) {
            0 => "return 403;",
            1 => "return 404;",
            2 => "",
            3..=5 => "proxy_pass http://127.0.0.1:3000;",
            _ => "return 200 ok;",
        };
        writeln!(self.text, "{indent}  {guard} {action}").expect("text");
        let escaped = regex::escape(text);
        let pattern = match mark {
            "~*" => format!("(?i){text}"),
            "~" => text.to_owned(),
            "=" => format!("^{escaped}$"),
            _ => format!("^{escaped}"),
        };
        self.places.push(Place {
            pattern: Regex::new(&pattern).expect("it is valid"),
            is_reply: action == "return 200 ok;",
        });
        if mark != "=" && depth + 1 < DEPTH {
            self.locations(Some((mark, text)), depth + 1);
        }
        writeln!(self.text, "{indent}}}").expect("text");
    }

    fn place(&self, outcome: &Outcome) -> Option<&Place> {
        let number = location(outcome)?.parse::<usize>().expect("a number");
        self.places.get(number)
    }

    /// Returns true if an expression within a prefix is found in a path outside of it.
    fn is_bait(&self, server: usize, request: &str) -> bool {
        let path = decoded(request.split(' ').nth(1).expect("a request line"));
        let mut inner = self.inner[server].iter();
        inner.any(|(outer, regex)| !path.starts_with(outer) && regex.is_match(&path))
    }

    fn request(&mut self, server: usize) -> String {
        let mut path = String::new();
        for _ in 0..self.random.usize(1..5) {
            path.push('/');
            path.push_str(self.one(&SEGMENTS));
        }
        if self.random.u8(..4) == 0 {
            path.push('/');
        }
        let method = self.one(&["GET", "GET", "GET", "POST"]);
        let length = if method == "POST" {
            "Content-Length: 0\r\n"
        } else {
            ""
        };
        format!("{method} {path} HTTP/1.1\r\nHost: s{server}.test\r\n{length}\r\n")
    }
}

/// Draws so many servers; returns the configuration, and the text of each.
fn configuration(seed: u64, count: usize) -> (Drawn, Vec<String>) {
    let mut drawn = Drawn {
        text: String::new(),
        random: Rng::with_seed(seed),
        count: 0,
        inner: Vec::new(),
        places: Vec::new(),
    };
    let mut servers = Vec::new();
    for number in 0..count {
        drawn.inner.push(Vec::new());
        drawn.text = format!("server {{\n  listen 8080;\n  server_name s{number}.test;\n");
        drawn.locations(None, 0);
        drawn.text.push_str("}\n");
        servers.push(std::mem::take(&mut drawn.text));
    }
    drawn.text = format!(
        "events {{}}\nhttp {{\nserver_names_hash_max_size 4096;\n{}}}\n",
        servers.concat()
    );
    (drawn, servers)
}

async fn ask(side: &Side, text: &str) -> Outcome {
    let message = Message {
        is_head: false,
        bytes: text.as_bytes().to_vec(),
    };
    let to = side.address(8080);
    let (_, mut all) = send(Ipv4Addr::LOCALHOST, to, None, &[message]).await;
    all.pop().unwrap_or_default()
}

fn location(outcome: &Outcome) -> Option<String> {
    outcome.header("x-loc").map(str::to_owned)
}

fn decoded(path: &str) -> String {
    path.replace("%20", " ").replace("%C3%A9", "é")
}

/// Returns true if the gateway did what nginx does with another spelling of the path: what guards
/// that one guards this one too. Where nginx responds to the other spelling by itself, it says
/// nothing about what an app would do with that: there, the location that refuses must be one
/// that the other spelling is in.
async fn is_guarded_spelling(nginx: &Side, drawn: &Drawn, text: &str, own: &Outcome) -> bool {
    let (method, rest) = text.split_once(' ').expect("a request line");
    let (path, rest) = rest.split_once(' ').expect("a request line");
    let small = path.to_ascii_lowercase();
    let short = small.trim_end_matches('/');
    for other in [small.clone(), short.to_owned(), format!("{short}/")] {
        let theirs = ask(nginx, &format!("{method} {other} {rest}")).await;
        let is_refused = theirs.status >= 400 && own.status >= 400;
        if is_refused || location(&theirs) == location(own) {
            return true;
        }
        let is_reply = drawn.place(&theirs).is_some_and(|place| place.is_reply);
        let is_within = |place: &Place| place.pattern.is_match(&decoded(&other));
        let is_barred = [401, 403, 404].contains(&own.status);
        if other != path && is_reply && is_barred && drawn.place(own).is_some_and(is_within) {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locations_within_each_other_are_chosen_as_nginx_chooses() {
    let seed = seed::drawn();
    let count = seed::cases(FEW, SERVERS);
    let (mut drawn, servers) = configuration(seed, count);
    let shape = Shape::of("nested", drawn.text.clone());
    let folder = tempfile::tempdir().expect("a folder");
    prepare(folder.path(), &shape.tree(), &Ca::new());
    let side = async |name| Side::new(&shape, Path::new(folder.path()), name).await;
    let nginx = Nginx::start(&shape, side("nginx").await, false).await;
    let edge = Edge::start(&shape, side("edge").await).await;
    let (mut refused, mut served, mut beyond, mut baited) = (0, 0, 0, 0);
    let mut wrong = Vec::new();
    let mut reached = BTreeSet::new();
    for (number, server) in servers.iter().enumerate() {
        for _ in 0..REQUESTS {
            let text = drawn.request(number);
            let theirs = ask(&nginx.side, &text).await;
            let own = ask(&edge.side, &text).await;
            let (wanted, found) = (location(&theirs), location(&own));
            reached.extend(wanted.clone());
            let is_right = if theirs.status >= 400 {
                refused += 1;
                baited += usize::from(drawn.is_bait(number, &text));
                own.status >= 400
            } else if own.status == theirs.status && found == wanted {
                served += 1;
                true
            } else {
                beyond += 1;
                is_guarded_spelling(&nginx.side, &drawn, &text, &own).await
            };
            if !is_right {
                let line = text.lines().next().unwrap_or_default();
                wrong.push(format!(
                    "{line}: nginx {} {wanted:?}, own {} {found:?}\n{server}",
                    theirs.status, own.status
                ));
            }
        }
    }
    let all = count * REQUESTS;
    println!(
        "{all} requests, {} locations reached: refused by both {refused}, served alike {served}, \
         beyond nginx by another spelling {beyond}, bait {baited}, wrong {}",
        reached.len(),
        wrong.len()
    );
    wrong.sort_by_key(String::len);
    let list = Path::new(env!("CARGO_TARGET_TMPDIR")).join("import_nginx_nested.txt");
    fs::write(list, wrong.join("\n")).expect("the folder takes files");
    let shown = wrong.iter().take(3).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} of {all} wrong:\n{shown}", wrong.len());
    // Were the expressions within prefixes those of the server, they would take some of these.
    assert!(baited > all / 50, "{baited} say nothing");
    assert!(refused > all / 10 && served > all / 10, "it says nothing");
    assert!(beyond * 50 < all, "{beyond} of {all} beyond nginx");
}
