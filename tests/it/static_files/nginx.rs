//! The same tree behind the gateway and behind nginx: status, headers and bodies are equal for
//! random requests, except for the intended differences that [`difference`] lists.

use std::{fs, io::Write as _, os::unix::fs::symlink, path::Path};

use super::age;
use crate::support::{
    client::{self, Request, Response},
    gateway::Gateway,
    nginx::Nginx,
    seed,
};

const ROUNDS: usize = 6;
const REQUESTS: usize = 400;

/// Starts nginx, which serves the files of a folder.
pub(super) async fn serving(home: &Path, root: &Path) -> Nginx {
    let www = root.display();
    Nginx::start(home, |address| {
        format!(
            "  include /etc/nginx/mime.types; default_type application/octet-stream;
  access_log off; if_modified_since before; gzip_static on; gzip_vary on;
  server {{
    listen {address}; root {www};
    location ~ /\\.(?!well-known/) {{ return 404; }}
    location / {{ }}
  }}"
        )
    })
    .await
}

struct Random(fastrand::Rng);

impl Random {
    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.0.usize(..from.len())]
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.0.u32(..one_in) == 0
    }
}

const NAMES: [&str; 14] = [
    "a",
    "b.txt",
    "index.html",
    "app.js",
    "a b",
    "x+y",
    "ä.css",
    "q?m",
    "h#h",
    "per%cent",
    "UPPER.HTML",
    "semi;colon",
    "img.svg",
    ".hidden",
];

/// Writes a random tree and returns its paths, relative to it.
fn grow(root: &Path, random: &mut Random) -> Vec<String> {
    let mut folders = vec![String::new()];
    let mut all = vec![String::new()];
    for _ in 0..30 {
        let above = folders[random.0.usize(..folders.len())].clone();
        let name = random.pick(&NAMES);
        let own = format!("{above}{name}");
        let path = root.join(&own);
        if path.symlink_metadata().is_ok() {
            continue;
        }
        // nginx redirects to an index that is a folder.
        let first = if name == "index.html" { 3 } else { 0 };
        match random.0.u32(first..8) {
            0 | 1 => {
                fs::create_dir(&path).unwrap();
                folders.push(format!("{own}/"));
            }
            2 => symlink(random.pick(&NAMES), &path).unwrap(),
            _ => {
                let size = [0, 1, 10, 1000, 16_384, 16_385, 65_536, 200_000];
                let size = size[random.0.usize(..size.len())];
                let content: Vec<u8> = (0..size).map(|_| random.0.u8(b' '..b'~')).collect();
                fs::write(&path, &content).unwrap();
                age(&path);
                if random.chance(3) {
                    let gz = root.join(format!("{own}.gz"));
                    let file = fs::File::create(&gz).unwrap();
                    let mut encoder =
                        flate2::write::GzEncoder::new(file, flate2::Compression::fast());
                    encoder.write_all(&content).unwrap();
                    encoder.finish().unwrap();
                    if fs::metadata(&gz).unwrap().len() == content.len() as u64 {
                        // nginx would give both the same entity tag.
                        fs::remove_file(&gz).unwrap();
                        continue;
                    }
                    age(&gz);
                }
            }
        }
        all.push(own);
    }
    all
}

/// Writes a path as clients may: more or less encoded, with a query, with detours.
fn spelled(path: &str, random: &mut Random) -> String {
    let mut target = String::from("/");
    for byte in path.bytes() {
        let must = !byte.is_ascii_graphic() || b"?#%\"<>\\^`{|}".contains(&byte);
        if (must || random.chance(12)) && byte != b'/' {
            target.push_str(&format!("%{byte:02X}"));
        } else {
            target.push(char::from(byte));
        }
    }
    match random.0.u32(..10) {
        0 => target.push('/'),
        1 => target.push_str("?a=b&c"),
        2 => target.push_str("/../"),
        3 => target.insert_str(0, "/x/.."),
        4 => target.insert_str(0, "/."),
        5 => target.insert(0, '/'),
        6 => target.push('x'),
        _ => {}
    }
    target
}

/// Adds headers that refer to the response so far, or to nothing.
fn asked(target: &str, known: &Response, random: &mut Random) -> Request {
    let method = random.pick(&["GET", "GET", "GET", "GET", "HEAD", "PUT", "DELETE"]);
    let mut request = Request::new(method, target);
    let tag = known.header("etag").unwrap_or("\"none\"").to_owned();
    let date = known
        .header("last-modified")
        .unwrap_or("Sun, 06 Nov 1994 08:49:37 GMT");
    let others = [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 2033 08:49:37 GMT",
        date,
        "yesterday",
    ];
    let size: i64 = known
        .header("content-length")
        .map_or(0, |size| size.parse().unwrap());
    let tags = [
        &tag,
        &format!("W/{tag}"),
        "\"x\"",
        "*",
        &format!("\"x\", {tag}, \"y\""),
    ];
    match random.0.u32(..9) {
        0 => request = request.header("if-none-match", random.pick(&tags)),
        1 => request = request.header("if-modified-since", random.pick(&others)),
        2 => request = request.header("if-match", random.pick(&tags)),
        3 => request = request.header("if-unmodified-since", random.pick(&others[..3])),
        _ => {}
    }
    if random.chance(2) {
        let edges = [0, 1, 2, 9, size - 2, size - 1, size, size + 1, size * 2];
        let mut edge = || edges[random.0.usize(..edges.len())].max(0).to_string();
        let (one, two, three) = (edge(), edge(), edge());
        let ranges = [
            format!("bytes={one}-{two}"),
            format!("bytes={one}-"),
            format!("bytes=-{one}"),
            format!("bytes= {one} - {two} "),
            format!("BYTES={one}-{two}"),
            format!("bytes={one}-{two},{three}-"),
            format!("bytes={one}"),
            format!("bytes={one}-{two}-{three}"),
            "bytes=".to_owned(),
            "bytes=-".to_owned(),
            "bytes=a-b".to_owned(),
            "bytes=99999999999999999999-".to_owned(),
            format!("lines={one}-{two}"),
        ];
        request = request.header("range", &*ranges[random.0.usize(..ranges.len())]);
        if random.chance(2) {
            let tags = [&tags[..3], &others[..3]].concat();
            request = request.header("if-range", random.pick(&tags));
        }
    }
    if random.chance(2) {
        let codings = ["gzip", "gzip, br", "br", "gzip;q=0", "identity"];
        request = request.header("accept-encoding", random.pick(&codings));
    }
    request
}

/// Names the intended difference of a response from that of nginx, if there is one.
fn difference(request: &str, own: &Response, nginx: &Response) -> Option<&'static str> {
    let line = request.lines().next().unwrap_or_default();
    let target = line.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let range = header(request, "range").unwrap_or_default();
    let (mine, theirs) = (own.status(), nginx.status());
    let is_read = line.starts_with("GET ") || line.starts_with("HEAD ");
    let dots = path.to_ascii_lowercase();
    if mine == 400 && (dots.contains("%2e") || dots.contains("%5c")) {
        return Some("an encoded dot segment or a backslash is refused");
    }
    if mine == 404 && dots.contains("%2f") {
        return Some("an encoded slash is part of a name, which no file has");
    }
    if !is_read && matches!(mine, 404 | 405) && matches!(theirs, 403..=405) {
        return Some("nginx decides by the method whether it looks for a file first");
    }
    if line.starts_with("HEAD ") && mine == 200 && matches!(theirs, 206 | 416) {
        return Some("ranges are defined for GET only (RFC 9110, 14.2)");
    }
    if mine == 200 && theirs == 206 && range.contains(',') {
        return Some("several ranges get the whole file (RFC 9110, 14.2)");
    }
    if matches!(mine, 206 | 416) && theirs == 200 && nginx.header("content-encoding").is_some() {
        return Some("ranges apply to compressed files too");
    }
    if mine == 200 && theirs == 412 && header(request, "if-unmodified-since").is_some() {
        return Some("an invalid date is ignored (RFC 9110, 13.1.4)");
    }
    if theirs == 400 && path.contains("/..") {
        return Some("dot segments above the root are dropped (RFC 3986, 5.2.4)");
    }
    None
}

fn header(request: &str, name: &str) -> Option<String> {
    let mut lines = request.lines().skip(1);
    let line = lines.find(|line| line.split(':').next() == Some(name))?;
    Some(line.split_once(": ")?.1.to_owned())
}

/// Returns the properties that must be equal.
fn seen(response: &Response) -> Vec<(String, String)> {
    let mut all = vec![("status".to_owned(), response.status().to_string())];
    let mut add = |name: &str, value: &str| all.push((name.to_owned(), value.to_owned()));
    let is_file = matches!(response.status(), 200 | 206 | 304);
    if let Some(location) = response.header("location") {
        let path = location.split("://").last().unwrap_or_default();
        let path = path.find('/').map_or(path, |slash| &path[slash..]);
        // Both are right: `;` may be encoded or not.
        let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
        add("location", &path);
    }
    if let Some(range) = response.header("content-range") {
        add("content-range", range);
    }
    if is_file {
        for name in ["etag", "last-modified", "content-encoding", "vary"] {
            add(name, response.header(name).unwrap_or("-"));
        }
        if response.status() != 304 {
            add(
                "content-length",
                response.header("content-length").unwrap_or("-"),
            );
        }
        // This version of nginx has no ranges of compressed files.
        if response.status() == 200 && response.header("content-encoding").is_none() {
            add(
                "accept-ranges",
                response.header("accept-ranges").unwrap_or("-"),
            );
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, &response.body);
        add("body", &format!("{} {digest:?}", response.body.len()));
    }
    all
}

/// Media types, as far as nginx knows the ending: nginx adds no charset.
fn media_type(response: &Response) -> Option<String> {
    let text = response.header("content-type")?;
    let essence = text.split(';').next().unwrap_or_default().trim();
    Some(essence.replace("application/javascript", "text/javascript"))
}

#[tokio::test(flavor = "multi_thread")]
async fn any_request_gets_what_nginx_responds() {
    let seed = seed::drawn();
    let mut random = Random(fastrand::Rng::with_seed(seed));
    let yaml = "
defaults: { compression: false }
routes: [{ match: { path: /* }, files: { root: www, precompressed: [gzip] } }]
";
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..seed::cases(ROUNDS / 2, ROUNDS) {
        let mut paths = Vec::new();
        let gateway = Gateway::start_in(yaml, |folder| {
            let www = folder.join("www");
            fs::create_dir(&www).unwrap();
            paths = grow(&www, &mut random);
        })
        .await;
        let home = tempfile::tempdir().unwrap();
        let nginx = serving(home.path(), &gateway.folder().join("www")).await;
        for _ in 0..REQUESTS {
            let path = paths[random.0.usize(..paths.len())].clone();
            let target = spelled(&path, &mut random);
            let plain = client::send(nginx.address, &client::get(&target))
                .await
                .unwrap();
            let request = asked(&target, &plain, &mut random);
            let own = gateway.send(&request).await;
            let theirs = client::send(nginx.address, &request).await;
            let theirs = theirs.unwrap_or_else(|error| panic!("{error}: {request:?}"));
            let text = request.text();
            if let Some(why) = difference(&text, &own, &theirs) {
                *counts.entry(why.to_owned()).or_default() += 1;
                continue;
            }
            assert_eq!(seen(&own), seen(&theirs), "seed {seed}: {path:?}\n{text}");
            if own.status() == 200 {
                assert_eq!(
                    media_type(&own),
                    media_type(&theirs),
                    "seed {seed}: {path:?}"
                );
            }
            *counts.entry(own.status().to_string()).or_default() += 1;
        }
    }
    println!("{counts:#?}");
    for status in ["200", "206", "301", "304", "403", "404", "412", "416"] {
        assert!(counts.contains_key(status), "no request got {status}");
    }
}
