//! Requests for a shape, drawn from its configuration: each location's edges once, then bursts,
//! bodies and unusual requests, then usual traffic until there are enough.

use std::net::Ipv4Addr;

use super::{
    conf::Directive,
    draft::{Case, Draft, in_query},
    edges::{FILES, edges, strange},
    site::{Location, Server, pattern, servers},
    wanted::{Part, Wanted},
};
use crate::support::seed;

/// Least number of requests for each shape, in a hunt and in every other run.
const REQUESTS: [usize; 2] = [1200, 600];

/// Most bytes of a body that are sent to try a limit.
const MOST_SENT: usize = 20 << 20;

/// Everything that the drawing of one shape needs.
pub(super) struct Drawing {
    random: fastrand::Rng,
    cases: Vec<Case>,
    number: usize,
    /// Directives of the shape, which decide which headers matter.
    text: String,
    wanted: Wanted,
    /// Number of client addresses given away.
    clients: u32,
}

/// Draws the cases of a shape.
pub(super) fn cases(main: &Directive, seed: u64) -> Vec<Case> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut servers = servers(main, &mut random);
    let wanted = Wanted::of(main, &mut random);
    for server in &mut servers {
        server.rewritten.extend(wanted.paths());
    }
    let mut text = String::new();
    main.walk(&mut Vec::new(), &mut |directive, _| {
        text.push_str(&directive.words.join(" "));
        text.push('\n');
    });
    let mut drawing = Drawing {
        random,
        cases: Vec::new(),
        number: 0,
        text,
        wanted,
        clients: 0,
    };
    for server in &servers {
        drawing.hosts(server);
        drawing.unusual(server);
        for location in &server.locations {
            drawing.edges(server, location);
            drawing.bodies(server, location);
            drawing.burst(server, location);
            drawing.clients(server, location);
        }
    }
    drawing.tells_slowness(&servers);
    let count = seed::cases(REQUESTS[1], REQUESTS[0]);
    while drawing.number < count {
        let server = drawing.pick(&servers).clone();
        drawing.usual(&server);
    }
    drawing.cases
}

impl Drawing {
    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.random.usize(..from.len())]
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.random.u32(..one_in) == 0
    }

    /// Returns a host that the server takes.
    fn host(&mut self, server: &Server) -> String {
        let names: Vec<&String> = server.names.iter().filter(|name| *name != "_").collect();
        if names.is_empty() {
            return "anything.example".to_owned();
        }
        let name = self.pick(&names).as_str();
        if let Some(name) = pattern(name, &mut self.random) {
            return name;
        }
        match (name.strip_prefix("*."), name.strip_prefix('.')) {
            (Some(rest), _) => format!("sub.{rest}"),
            (_, Some(rest)) if self.random.bool() => rest.to_owned(),
            (_, Some(rest)) => format!("deep.sub.{rest}"),
            _ => name.to_owned(),
        }
    }

    /// Returns an address of a client: a new one where limits count them, each in another network
    /// for `ip_hash`, which reads three octets.
    fn client(&mut self) -> Ipv4Addr {
        if self.text.contains("geo $") && self.chance(3) {
            return Ipv4Addr::new(127, 10, 0, 5);
        }
        if self.text.contains("split_clients ${remote_addr}") {
            return Ipv4Addr::new(127, 2, 0, self.random.u8(1..40));
        }
        if !self.text.contains("limit_req") && !self.text.contains("limit_conn") {
            return Ipv4Addr::LOCALHOST;
        }
        self.clients += 1;
        let [_, _, high, low] = self.clients.to_be_bytes();
        Ipv4Addr::new(127, 1, low, high)
    }

    fn push(&mut self, server: &Server, drafts: Vec<Draft>) {
        let from = self.client();
        self.push_from(server, from, drafts);
    }

    fn push_from(&mut self, server: &Server, from: Ipv4Addr, drafts: Vec<Draft>) {
        let (listen, has_tls) = *self.pick(&server.listens);
        let host = drafts[0].host.clone().unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default().to_lowercase();
        let is_name = host.split('.').count() > 1 && !host.ends_with('.');
        let name = if is_name { host } else { self.host(server) };
        let requests = drafts.into_iter().map(|draft| {
            self.number += 1;
            draft.done(self.number)
        });
        let requests = requests.collect();
        self.cases.push(Case {
            listen,
            tls: has_tls.then_some(name),
            from,
            requests,
        });
    }

    fn one(&mut self, server: &Server, draft: Draft) {
        self.push(server, vec![draft]);
    }

    /// Names of a server in other spellings, and names of no server.
    fn hosts(&mut self, server: &Server) {
        let (port, _) = server.listens[0];
        let name = self.host(server);
        let spellings = [
            name.clone(),
            name.to_uppercase(),
            format!("{name}:@{port}"),
            format!("{name}:1234"),
            format!("{name}."),
            format!("x{name}"),
            format!("sub.{name}"),
            "unknown.example".to_owned(),
            "127.0.0.1".to_owned(),
            "[::1]".to_owned(),
            "bad host".to_owned(),
            String::new(),
        ];
        for host in spellings {
            let path = self.a_path(server);
            self.one(server, Draft::get(&path, &host, "host"));
        }
        for name in server.names.clone() {
            let host = pattern(&name, &mut self.random);
            let host = host.unwrap_or_else(|| name.replace('*', "any"));
            let host = host.trim_start_matches('.').to_owned();
            self.one(server, Draft::get("/", &host, "host"));
        }
    }

    fn a_path(&mut self, server: &Server) -> String {
        if server.locations.is_empty() || self.chance(4) {
            return "/".to_owned();
        }
        let location = self.pick(&server.locations).clone();
        location.path(&mut self.random)
    }

    /// Requests that are rare, and those that are wrong.
    fn unusual(&mut self, server: &Server) {
        let host = self.host(server);
        let path = self.a_path(server);
        let get = |edge| Draft::get(&path, &host, edge);
        let mut no_host = get("no host");
        no_host.host = None;
        let mut old = get("HTTP/1.0");
        old.version = "HTTP/1.0";
        let mut old_no_host = old.clone();
        old_no_host.host = None;
        old_no_host.edge = "no host";
        let mut other_version = get("version");
        other_version.version = "HTTP/3.0";
        let drafts = [
            no_host,
            old.clone(),
            old.header("Connection", "keep-alive"),
            old_no_host,
            other_version,
            get("method").method("TRACE"),
            get("method").method("CONNECT"),
            get("method").method("get"),
            get("method").method("PROPFIND"),
            get("headers").header("Host", "second.example"),
            get("headers").header("X_Under_Score", "1"),
            get("headers").header("Bad Name", "1"),
            get("headers").header("X-Long", "y".repeat(5000)),
            get("headers").header("Content-Length", "abc"),
            get("headers").header("Connection", "close"),
            get("upgrade").upgrade(),
            get("headers")
                .header("Expect", "100-continue")
                .method("POST")
                .body(9),
        ];
        // Mostly about the listener: all for one server, some for the others.
        let is_first = self.cases.len() < 50;
        for draft in drafts {
            if is_first || self.chance(3) {
                self.one(server, draft);
            }
        }
        for target in strange(&path, &host) {
            if self.chance(if is_first { 4 } else { 12 }) {
                let method = if target == "*" { "OPTIONS" } else { "GET" };
                let draft = Draft::get(&target, &host, "strange").method(method);
                self.one(server, draft);
            }
        }
        for target in server.rewritten.clone() {
            self.one(server, Draft::get(&target, &host, "path"));
            let query = format!("{target}?a=b");
            self.one(server, Draft::get(&query, &host, "path"));
            let more = format!("{target}x");
            self.one(server, Draft::get(&more, &host, "path"));
        }
    }

    fn edges(&mut self, server: &Server, location: &Location) {
        let path = location.path(&mut self.random);
        for (target, edge) in edges(&path, &mut self.random) {
            let host = self.host(server);
            self.one(server, Draft::get(&target, &host, edge));
        }
        if !location.has_files() {
            return;
        }
        for file in FILES {
            let host = self.host(server);
            let target = match location.folder() {
                Some((_, prefix)) if prefix != "/" => format!("{prefix}{file}"),
                _ if path.ends_with('/') => format!("{path}{file}"),
                _ => format!("/{file}"),
            };
            let target = target.replace(' ', "%20");
            self.one(server, Draft::get(&target, &host, "file"));
        }
    }

    /// Bodies around the limit, with and without their length.
    fn bodies(&mut self, server: &Server, location: &Location) {
        let path = location.path(&mut self.random);
        let host = self.host(server);
        let limit = location.body_limit();
        let is_large = limit.is_some_and(|limit| limit > MOST_SENT);
        let sizes = match limit.filter(|_| !is_large) {
            Some(limit) => vec![0, 1, limit - 1, limit, limit + 1],
            None => vec![0, 1, 2 << 20],
        };
        let post = |size| Draft::get(&path, &host, "body").method("POST").body(size);
        for size in sizes {
            self.one(server, post(size));
        }
        if let Some(limit) = limit.filter(|_| is_large) {
            // Announced, and refused before it is sent.
            let announced = post(0).header("Content-Length", (limit + 1).to_string());
            self.one(server, announced);
        }
        let mut chunked = post(300);
        chunked.is_chunked = true;
        self.one(server, chunked);
        if let Some(limit) = limit.filter(|limit| *limit < 200_000) {
            let mut chunked = post(limit + 1);
            chunked.is_chunked = true;
            self.one(server, chunked);
        }
    }

    /// More requests than a limit lets pass, from one client.
    fn burst(&mut self, server: &Server, location: &Location) {
        let limits = location.all("limit_req");
        let bursts = limits.iter().flat_map(|limit| limit.arguments().iter());
        let bursts = bursts.filter_map(|word| word.strip_prefix("burst="));
        let Some(most) = bursts.filter_map(|burst| burst.parse::<usize>().ok()).max() else {
            return;
        };
        let (from, host) = (self.client(), self.host(server));
        for _ in 0..most + 4 {
            let path = location.path(&mut self.random);
            let draft = Draft::get(&path, &host, "burst");
            self.push_from(server, from, vec![draft]);
        }
    }

    /// Clients inside and outside of the networks that the location names.
    fn clients(&mut self, server: &Server, location: &Location) {
        let rules = [location.all("allow"), location.all("deny")].concat();
        for rule in rules {
            let network = rule.first();
            let inside = match network.split('/').next().unwrap_or_default() {
                "10.0.0.0" => Ipv4Addr::new(127, 10, 0, 5),
                "192.168.0.0" => Ipv4Addr::new(127, 168, 3, 5),
                "203.0.113.7" => Ipv4Addr::new(127, 113, 1, 7),
                "203.0.113.0" => Ipv4Addr::new(127, 113, 1, 9),
                _ => Ipv4Addr::new(127, 3, 3, 3),
            };
            for method in ["GET", "HEAD", "POST", "GET"] {
                let (path, host) = (location.path(&mut self.random), self.host(server));
                let draft = Draft::get(&path, &host, "client").method(method);
                self.push_from(server, inside, vec![draft]);
            }
        }
    }

    /// Slow responses, where the shape has a deadline that short.
    fn tells_slowness(&mut self, servers: &[Server]) {
        for server in servers {
            for location in server.locations.clone() {
                let deadline = location.get("proxy_read_timeout").map(Directive::first);
                let is_short = self.text.contains("proxy_read_timeout 1s");
                if !is_short || deadline.is_none() || !location.is_proxied() {
                    continue;
                }
                let path = location.path(&mut self.random);
                let host = self.host(server);
                let target = format!("{path}?do=slow");
                self.one(server, Draft::get(&target, &host, "slow"));
            }
        }
    }

    /// Traffic as most of it is.
    fn usual(&mut self, server: &Server) {
        let mut drafts = vec![self.usual_request(server)];
        // Requests to an auth service are matched with those of clients by their order.
        if self.chance(4) && !self.text.contains("auth_request") {
            drafts.push(self.usual_request(server));
            drafts.push(self.usual_request(server));
        }
        let from = self.client();
        self.push_from(server, from, drafts);
    }

    fn usual_request(&mut self, server: &Server) -> Draft {
        const WISHES: [&str; 15] = [
            "", "", "", "404", "500", "204", "next", "away", "cookie", "json", "big", "private",
            "fresh", "vary", "tagged",
        ];
        const METHODS: [&str; 9] = [
            "GET", "GET", "GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE",
        ];
        let host = self.host(server);
        let mut target = "/".to_owned();
        let (mut upgrades, mut is_file) = (false, false);
        if !server.locations.is_empty() {
            let mut location = self.pick(&server.locations).clone();
            if location.is_gone() && !self.chance(40) {
                location = self.pick(&server.locations).clone();
            }
            is_file = location.has_files();
            target = location.path(&mut self.random);
            let mut headers = location.all("proxy_set_header").into_iter();
            upgrades = headers.any(|header| header.first() == "Upgrade");
            if target.ends_with('/') {
                const MORE: [&str; 5] = ["", "a", "items/7", "a/b/c.html", "img/a.jpg"];
                let kinds = if location.is_made() { 3 } else { 5 };
                target.push_str(MORE[self.random.usize(..kinds)]);
            }
            // An app that does not know its public address is rare.
            let is_misled = self.chance(300);
            let is_moved = self.text.contains("proxy_redirect") && self.random.bool();
            let wish = if is_misled {
                "own"
            } else if self.text.contains("/protected/") && self.random.bool() {
                "accel"
            } else if is_moved {
                *self.pick(&["moved", "crumbs"])
            } else {
                *self.pick(&WISHES)
            };
            if location.is_proxied() && !wish.is_empty() {
                target.push_str("?do=");
                target.push_str(wish);
            }
        }
        let method = if is_file && !self.chance(20) {
            *self.pick(&["GET", "GET", "GET", "HEAD"])
        } else {
            *self.pick(&METHODS)
        };
        let mut draft = Draft::get(&target, &host, "usual").method(method);
        if matches!(method, "POST" | "PUT") {
            let size = self.random.usize(..3000);
            draft = draft.body(size);
        }
        let mut draft = self.with_headers(draft);
        self.with_wanted(&mut draft);
        if upgrades && draft.method == "GET" && self.random.bool() {
            return draft.upgrade();
        }
        draft
    }

    /// Adds what the shape's variables name, with values that it compares them with, and others.
    fn with_wanted(&mut self, draft: &mut Draft) {
        const ANY: [&str; 5] = ["1", "0", "", "x", "yes"];
        let all: Vec<(Part, Vec<String>)> = { self.wanted.parts() }
            .map(|(part, values)| (part.clone(), values.iter().cloned().collect()))
            .collect();
        for (part, values) in all {
            if self.random.bool() {
                continue;
            }
            let mut value = if values.is_empty() || self.chance(4) {
                ANY[self.random.usize(..ANY.len())].to_owned()
            } else {
                self.pick(&values).clone()
            };
            if self.chance(8) {
                value = value.to_uppercase();
            }
            match part {
                Part::Header(name) => {
                    let is_it = |(given, _): &(String, String)| given.eq_ignore_ascii_case(&name);
                    draft.headers.retain(|header| !is_it(header));
                    draft.headers.push((name, value));
                }
                Part::Cookie(name) => {
                    let value = value.replace([';', ' ', ',', '"'], "");
                    let known = draft
                        .headers
                        .iter_mut()
                        .find(|(given, _)| given == "Cookie");
                    match known {
                        Some((_, list)) => list.extend(["; ", &name, "=", &value]),
                        None => draft
                            .headers
                            .push(("Cookie".to_owned(), format!("{name}={value}"))),
                    }
                }
                Part::Query(name) => {
                    let value = in_query(&value);
                    draft.ask(&format!("{name}={value}"));
                }
                Part::Args if !value.is_empty() && self.chance(2) => draft.ask(&in_query(&value)),
                Part::Args | Part::Path => {}
            }
        }
    }

    /// Adds headers: some of any client, and those that the shape looks at.
    fn with_headers(&mut self, mut draft: Draft) -> Draft {
        let text = self.text.clone();
        let mut add = |one_in: u32, name: &str, values: &[&str]| {
            if self.random.u32(..one_in) == 0 {
                let value = values[self.random.usize(..values.len())];
                draft.headers.push((name.to_owned(), value.to_owned()));
            }
        };
        add(
            4,
            "Accept-Encoding",
            &["gzip", "gzip, deflate, br", "identity"],
        );
        add(
            if draft.method == "GET" { 8 } else { 80 },
            "Range",
            &["bytes=0-9", "bytes=5-", "bytes=-7", "bytes=999999-"],
        );
        let dates = [
            // That of the files, as browsers send it back.
            "Tue, 14 Nov 2023 22:13:20 GMT",
            "Tue, 14 Nov 2023 22:13:20 GMT",
            "Tue, 14 Nov 2023 22:13:20 GMT",
            "Tue, 14 Nov 2023 22:13:20 GMT",
            "Tue, 14 Nov 2023 22:13:20 GMT",
            "Tue, 14 Nov 2023 22:13:20 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 2033 08:49:37 GMT",
        ];
        add(8, "If-Modified-Since", &dates);
        add(12, "If-None-Match", &["\"v1\"", "\"x\"", "*"]);
        let lists = [
            "198.51.100.7",
            "198.51.100.7, 127.10.0.9",
            "127.113.1.9",
            "127.113.1.9, 127.0.0.1",
            "not an address",
        ];
        // A client that is no proxy sends these seldom.
        let forwards = if text.contains("real_ip") { 2 } else { 200 };
        add(forwards, "X-Forwarded-For", &lists);
        add(300, "X-Forwarded-Proto", &["https", "http"]);
        add(300, "X-Real-IP", &["198.51.100.8"]);
        add(
            8,
            "Origin",
            &["https://app.example.com", "https://bad.example"],
        );
        add(10, "Referer", &["https://www.example.com/"]);
        let is_cookie = text.contains("$cookie_") || text.contains("auth_request");
        let cookies = ["sid=good", "session=1", "sid=bad; session=2", "theme=dark"];
        add(if is_cookie { 2 } else { 8 }, "Cookie", &cookies);
        if text.contains("$http_authorization") {
            add(3, "Authorization", &["Bearer x"]);
        }
        if text.contains("auth_basic") {
            // ann:secret, ann:wrong, nobody:secret
            let values = [
                "Basic YW5uOnNlY3JldA==",
                "Basic YW5uOndyb25n",
                "Basic bm9ib2R5OnNlY3JldA==",
                "Basic !",
                "Bearer x",
            ];
            add(2, "Authorization", &values[..1]);
            if draft
                .headers
                .iter()
                .all(|(name, _)| name != "Authorization")
            {
                let mut add = |values: &[&str]| {
                    let value = values[self.random.usize(..values.len())];
                    let header = ("Authorization".to_owned(), value.to_owned());
                    draft.headers.push(header);
                };
                add(&values[1..]);
            }
        }
        draft
    }
}
