//! Configurations drawn from the ways in which people write locations, three levels deep: whatever
//! the gateway does differently from nginx, the report names; what nginx refuses is not served, and
//! no header is there that nginx did not send.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path, sync::Arc, thread};

use fastrand::Rng;
use parking_lot::Mutex;

use super::{
    AT_ONCE, MOST, Played, Report, added,
    compare::{Difference, What},
    number, played,
    servers::Shape,
};
use crate::support::{certificates::Ca, pebble::trusting, seed};

/// Configurations that are drawn, in `make test` and in a hunt.
const CONFIGURATIONS: [usize; 2] = [1, 40];
/// Locations of the first server, which are beside each other.
const BESIDE: usize = 5;
/// Levels of locations of the second server.
const DEPTH: usize = 3;

/// Tables and limits of each configuration.
const TABLES: &str = "
    limit_req_zone $binary_remote_addr zone=dry:1m rate=1r/m;
    geo $near { ranges; default far; 127.0.0.0-127.1.255.255 near; }
    map $http_user_agent $agent { default other; ~*curl curl; ~*bot $ssl_client_s_dn; }
    map $near-$agent $both { near-other 1; default 0; }
    upstream pair { server 127.0.0.1:3000 max_fails=0; server 127.0.0.1:3001; }
";

/// Locations of the first server.
const PIECES: [&str; 26] = [
    "location / { proxy_pass http://127.0.0.1:3000; proxy_set_header X-Near $near; }",
    "location /api/ { proxy_pass http://127.0.0.1:3001/; proxy_set_header X-Both $both; }",
    "location /v1/ { rewrite ^/v1/old/(.*)$ /new/$1 break; proxy_pass http://127.0.0.1:3000/base/; }",
    "location /v2/ { rewrite ^/v2/x/(.*)$ /w/$1 break; proxy_pass http://127.0.0.1:3001/v2/; }",
    "location ~ ^/u/([^/]+)/(.*)$ { proxy_set_header X-User $1; \
     proxy_pass http://127.0.0.1:3000/users/$1/$2$is_args$args; }",
    "location /docs { alias /var/www/docs; }",
    "location /media/ { alias /var/www/media/; expires 1h; }",
    "location /img/ { root /var/www/site; error_page 404 = @app; }",
    "location = /about/ { add_header X-Exact 1; proxy_pass http://127.0.0.1:3001; }\n        \
     location /about/ { add_header X-Prefix 1; proxy_pass http://127.0.0.1:3000; }",
    "location = \"/a b/\" { add_header X-Exact 1; proxy_pass http://127.0.0.1:3001; }\n        \
     location \"/a b/\" { add_header X-Prefix 1; proxy_pass http://127.0.0.1:3000; }",
    "location /dry/ { limit_req zone=dry; limit_req_dry_run on; proxy_pass http://127.0.0.1:3000; }",
    "location /early/ { proxy_set_header Early-Data $ssl_early_data; \
     proxy_set_header X-Agent $agent; proxy_pass http://127.0.0.1:3000; }",
    "location /to/ { set $to 127.0.0.1:3001; proxy_pass http://$to; }",
    "location /whole/ { set $to http://127.0.0.1:3001; proxy_pass $to/x$request_uri; }",
    "location /pair/ { proxy_pass http://pair; proxy_set_header Host $host; }",
    "location /caf\u{e9}/ { proxy_pass http://127.0.0.1:3000/coffee/; }",
    "location /said/ { set $who \"$arg_a-$near\"; return 200 \"$who\\n\"; }",
    "location /moved/ { rewrite ^/moved/(.*)$ /api/$1 permanent; }",
    "location /zip/ { root /var/www/site; gzip on; gzip_types text/css; try_files $uri =404; }",
    "location /hid/ { proxy_hide_header X-Powered-By; add_header X-Frame-Options DENY always; \
     proxy_pass http://127.0.0.1:3000; }",
    "location /own/ { proxy_intercept_errors on; error_page 404 /404.html; error_page 500 502 = @app; \
     proxy_pass http://127.0.0.1:3000; }",
    "location ~* \\.(css|js|png)$ { root /var/www/site; expires 30d; add_header Cache-Control public; \
     access_log off; }",
    "location ~ /\\.(?!well-known) { deny all; }",
    "location = /health { default_type text/plain; return 200 ok; }",
    "location /login/ { if ($request_method !~ ^(GET|POST)$) { return 405; } \
     if ($http_x_a) { rewrite ^ /login/with last; } proxy_pass http://127.0.0.1:3001; }",
    "location /spa/ { alias /var/www/spa/; try_files $uri $uri/ /spa/index.html; }",
];

/// Beginnings of locations of the second server.
const ROOTS: [&str; 9] = [
    "/", "/app/", "/app/", "/files/", "/files/", "/admin/", "/app", "/old/", "/assets/",
];
/// Continuations of the path around a location.
const ENDS: [&str; 9] = [
    "v1/",
    "img/",
    "docs/",
    "private/",
    "x/",
    "login",
    "",
    "index.html",
    "v1/users/",
];
const REGEXES: [&str; 9] = [
    r"\.(css|js)$",
    r"\.(jpg|png|svg)$",
    r"\.html$",
    r"\.php$",
    "^/app/v[0-9]+/",
    "/private/",
    "/docs/",
    "^/(app|files)/(.+)$",
    "x",
];

/// Server with nested locations as nginx writes it.
struct Nested<'r> {
    text: String,
    random: &'r mut Rng,
    count: usize,
}

impl Nested<'_> {
    fn one<'t>(&mut self, list: &[&'t str]) -> &'t str {
        list[self.random.usize(..list.len())]
    }

    /// Writes the locations of a block: `around` is the mark and the path of the one that it is in.
    fn locations(&mut self, around: Option<(&str, &str)>, depth: usize) {
        let count = match depth {
            0 => self.random.usize(2..4),
            _ => self.random.usize(0..3),
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
                Some((_, path)) => format!("{path}{}", self.one(&ENDS)),
                None => self.one(&ROOTS).to_owned(),
            };
            // nginx refuses the same path twice.
            let kind = if mark == "^~" { "" } else { mark };
            if known.insert((kind, text.clone())) {
                self.location(mark, &text, depth);
            }
        }
    }

    fn location(&mut self, mark: &str, text: &str, depth: usize) {
        let (number, indent) = (self.count, "    ".repeat(depth + 2));
        self.count += 1;
        writeln!(self.text, "{indent}location {mark} {text} {{").expect("text");
        let mut known = BTreeSet::new();
        for _ in 0..self.random.usize(0..3) {
            let changed = self.changed(number);
            let name = changed.split(' ').next().map(str::to_owned);
            // nginx refuses some of them twice.
            if known.insert(name) {
                writeln!(self.text, "{indent}    {changed}").expect("text");
            }
        }
        let action = self.action(mark, text);
        writeln!(self.text, "{indent}    {action}").expect("text");
        if mark != "=" && depth + 1 < DEPTH {
            self.locations(Some((mark, text)), depth + 1);
        }
        writeln!(self.text, "{indent}}}").expect("text");
    }

    /// Returns a line that changes something, which locations within may have from those around.
    fn changed(&mut self, number: usize) -> String {
        match self.random.u8(..13) {
            0..=3 => format!("add_header X-Loc {number} always;"),
            4 => "add_header X-Frame-Options DENY;".to_owned(),
            5 => "expires 1h;".to_owned(),
            6 => "proxy_set_header X-From $uri;".to_owned(),
            7 => "proxy_hide_header X-Powered-By;".to_owned(),
            8 => "deny all;".to_owned(),
            9 => "allow all;".to_owned(),
            10 => "limit_except GET { deny all; }".to_owned(),
            11 => "auth_basic shop; auth_basic_user_file users.htpasswd;".to_owned(),
            _ => "gzip on;".to_owned(),
        }
    }

    fn action(&mut self, mark: &str, text: &str) -> String {
        let to = self.one(&[
            "http://127.0.0.1:3000",
            "http://127.0.0.1:3001",
            "http://pair",
        ]);
        if !mark.starts_with('~') && self.random.bool() {
            return match self.random.u8(..7) {
                0 if text.ends_with('/') => format!("proxy_pass {to}/;"),
                1 => format!("proxy_pass {to}/base/;"),
                2 if text.ends_with('/') => "alias /var/www/media/;".to_owned(),
                3 => format!("rewrite ^{text}v1/(.*)$ /to/$1 break; proxy_pass {to};"),
                4 => format!("rewrite ^{text}img/(.*)$ /files/$1 last; proxy_pass {to}/w/;"),
                5 => format!("rewrite ^{text}docs/(.*)$ /app/$1 permanent; proxy_pass {to};"),
                _ => format!("if ($arg_a = 1) {{ return 302 {text}?b=$arg_a; }} proxy_pass {to};"),
            };
        }
        match self.random.u8(..13) {
            0..=3 => format!("proxy_pass {to};"),
            4 => {
                format!("proxy_intercept_errors on; error_page 404 500 /404.html; proxy_pass {to};")
            }
            5 => "root /var/www/site; try_files $uri $uri/ @app;".to_owned(),
            6 => "root /var/www/site; try_files $uri =404;".to_owned(),
            7 => "root /var/www/site; error_page 404 = @app;".to_owned(),
            8 => "root /var/www/site;".to_owned(),
            9 => "return 403;".to_owned(),
            10 => "return 200 text;".to_owned(),
            11 => "error_page 403 404 /404.html; return 404;".to_owned(),
            _ => String::new(),
        }
    }
}

fn configuration(random: &mut Rng) -> String {
    let mut chosen = BTreeSet::new();
    while chosen.len() < BESIDE {
        chosen.insert(random.usize(..PIECES.len()));
    }
    let begin = |name: &str| {
        format!(
            "    server {{\n        listen 8080;\n        server_name {name};\n        \
             root /var/www/site;\n        location @app {{ proxy_pass http://127.0.0.1:3001; }}\n        \
             location = /404.html {{ root /var/www/site; internal; }}\n"
        )
    };
    let mut text = format!(
        "events {{}}\nhttp {{\n    include mime.types;\n    \
         default_type application/octet-stream;{TABLES}    \
         server {{ listen 8080 default_server; return 404; }}\n{}",
        begin("a.test")
    );
    for index in chosen {
        writeln!(text, "        {}", PIECES[index]).expect("it takes text");
    }
    text.push_str("    }\n");
    text.push_str(&begin("b.test"));
    let mut nested = Nested {
        text,
        random,
        count: 0,
    };
    nested.locations(None, 0);
    nested.text + "    }\n}\n"
}

/// Requests of one configuration, and what is wrong.
struct Judged {
    requests: usize,
    differing: usize,
    refused: usize,
    problems: Vec<String>,
    /// Differences with the entries that name them.
    explained: Vec<String>,
}

fn judged(played: &Played, text: &str) -> Judged {
    let all = played.differing(&played.own);
    // A report that says nothing leaves differences without a name.
    let silent = played.judged(&Report::default(), &all);
    assert!(
        !silent.unnamed.is_empty(),
        "the control finds nothing:\n{text}"
    );
    let with_report = played.judged(&played.report, &all);
    let is_let_in = |difference: &&Difference| {
        let status = |text: &str| text.parse::<u16>().unwrap_or_default();
        // What a request that is wrong as such gets is another matter, and so are conditions.
        let is_refusal =
            status(&difference.nginx) > 400 && !["412", "416"].contains(&&*difference.nginx);
        difference.what == What::Status && is_refusal && status(&difference.own) < 400
    };
    let let_in = all.iter().flat_map(|one| {
        let statuses = one.all.iter().filter(is_let_in);
        statuses.map(|status| format!("let in: {}", super::described(one, status)))
    });
    let mut explained = with_report.explained;
    for one in &all {
        let accepted = one.all.iter();
        let accepted = accepted.filter(|difference| super::is_accepted(one.request, difference));
        explained.extend(accepted.map(|accepted| super::described(one, accepted)));
    }
    let mut problems = played.noise();
    problems.extend(let_in);
    problems.extend(added(&all, &played.shape.tree()));
    problems.extend(with_report.unnamed);
    let records = played.nginx.values();
    Judged {
        requests: played.requests().count(),
        differing: with_report.differing,
        refused: records.filter(|one| one.outcome.status > 400).count(),
        explained,
        problems: problems.iter().map(|one| format!("{one}\n")).collect(),
    }
}

#[test]
fn drawn_configurations_differ_from_nginx_only_where_the_report_says_so() {
    let seed = seed::drawn();
    let mut random = Rng::with_seed(seed);
    let (ca, trust) = (Ca::new(), Arc::new(trusting()));
    let started = tokio::time::Instant::now();
    let [few, many] = CONFIGURATIONS;
    let texts: Vec<String> = (0..seed::cases(few, many))
        .map(|_| configuration(&mut random))
        .collect();
    let waiting = Mutex::new(texts.iter().collect::<Vec<_>>());
    let next = || waiting.lock().pop();
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().expect("a runtime");
        let mut rows = Vec::new();
        while let Some(text) = next() {
            let shape = Shape::of("drawn", text.clone());
            let played = runtime.block_on(played(shape, seed, &ca, &trust));
            rows.push((judged(&played, text), text));
        }
        rows
    };
    let rows = thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(run)).collect();
        let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
        let rows: Vec<_> = joined.map(|rows| rows.expect("it ends well")).collect();
        rows.into_iter().flatten().collect::<Vec<_>>()
    });
    let (mut requests, mut differing, mut refused) = (0, 0, 0);
    let (mut problems, mut explained) = (Vec::new(), Vec::new());
    for (row, text) in rows {
        explained.extend(row.explained);
        requests += row.requests;
        differing += row.differing;
        refused += row.refused;
        if !row.problems.is_empty() {
            problems.push(format!("{}{text}", row.problems.concat()));
        }
    }
    let share = 100.0 * number(differing) / number(requests);
    println!(
        "{} configurations, {requests} requests: {refused} refused by nginx, {differing} differ \
         ({share:.2} %), {:?}",
        texts.len(),
        started.elapsed()
    );
    problems.sort_by_key(String::len);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let named = folder.join("import_nginx_drawn_named.txt");
    fs::write(named, explained.join("\n")).expect("the folder takes files");
    fs::write(folder.join("import_nginx_drawn.txt"), problems.join("\n"))
        .expect("the folder takes files");
    let shown = problems
        .iter()
        .take(2)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n");
    assert!(problems.is_empty(), "{} wrong:\n{shown}", problems.len());
    assert!(refused > requests / 20, "{refused} refused say nothing");
    // Of a few requests, more are the edges of each location.
    let bound = if seed::is_hunt() { MOST } else { 2.0 * MOST };
    assert!(share < bound, "{share:.2} % of the requests differ");
}
