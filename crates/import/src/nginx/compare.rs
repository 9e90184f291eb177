//! `--compare`: the requests of an access log, sent to nginx and to a gateway with the imported
//! configuration. It shows what differs.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::File,
    io::{self, BufRead as _, BufReader},
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use edgeway_net::fetch::{self, Fetch, Trust};
use http::{HeaderMap, HeaderValue, Request, Uri, header, uri::PathAndQuery};

use super::{scope::Scope, servers::Servers};

/// Time for a response with its body.
const DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of a body that are compared; a longer one is an error.
const LONGEST: usize = 64 << 20;
/// Differing requests that are shown.
const SHOWN: usize = 50;

/// Headers that are compared, besides the names of cookies.
const HEADERS: &str = "location content-type cache-control expires allow www-authenticate \
    content-disposition access-control-allow-origin content-encoding";

/// Options of a comparison.
#[derive(Debug, clap::Args)]
pub(super) struct Comparison {
    /// Sends the requests of an access log to nginx and to the gateway at this address, and shows
    /// differences instead of making a configuration: `--compare http://127.0.0.1:8080`
    #[arg(long, value_name = "URL", conflicts_with_all = ["out", "report", "strict"])]
    compare: Option<Uri>,
    /// Address of nginx
    #[arg(
        long,
        value_name = "URL",
        requires = "compare",
        default_value = "http://127.0.0.1:80"
    )]
    nginx: Uri,
    /// PEM file with the CA certificates of both, if the system does not know them
    #[arg(long, value_name = "FILE", requires = "compare")]
    ca: Option<PathBuf>,
    /// Access log with the requests; those of the configuration if absent
    #[arg(long, value_name = "FILE", requires = "compare")]
    log: Option<PathBuf>,
    /// `Host` of the requests; the first name of the server with the log if absent
    #[arg(long, value_name = "NAME", requires = "compare")]
    host: Option<String>,
    /// Most requests that are sent: different ones, the latest first
    #[arg(long, value_name = "N", requires = "compare", default_value_t = 500)]
    most: usize,
}

/// Result of a comparison.
pub(super) struct Compared {
    pub(super) text: String,
    pub(super) is_equal: bool,
}

/// A log, and the host whose requests it has.
struct Log {
    path: PathBuf,
    host: String,
}

/// A request to repeat.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RepeatedRequest {
    host: String,
    method: &'static str,
    target: String,
}

impl Comparison {
    pub(super) fn is_wanted(&self) -> bool {
        self.compare.is_some()
    }

    /// Compares nginx and the gateway.
    ///
    /// # Errors
    /// Returns a message if nothing can be compared.
    pub(super) fn run(&self, http: &Scope<'_>, servers: &Servers<'_>) -> Result<Compared, String> {
        let gateway = self.compare.as_ref();
        let gateway = gateway.ok_or("no address of a gateway was given")?;
        let (nginx, gateway) = (self.client(&self.nginx)?, self.client(gateway)?);
        let mut requests = Vec::new();
        for log in self.logs(http, servers)? {
            let path = log.path.display();
            let all =
                read(&log).map_err(|why| format!("cannot read the access log `{path}`: {why}"));
            requests.extend(all?);
        }
        // The latest are what the site is asked for now.
        let mut seen = BTreeSet::new();
        let mut latest: Vec<RepeatedRequest> = Vec::new();
        for request in requests.into_iter().rev() {
            if latest.len() < self.most && seen.insert(request.clone()) {
                latest.push(request);
            }
        }
        if latest.is_empty() {
            let none = "the access log has no GET and no HEAD: name another one with `--log`";
            return Err(none.to_owned());
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(compare(&nginx, &gateway, &latest))
    }

    /// Creates a client that connects to the address of `url` for every host.
    fn client(&self, url: &Uri) -> Result<Program, String> {
        let bad = |why: &str| format!("cannot compare with `{url}`: {why}");
        let (scheme, port) = match url.scheme_str() {
            Some("http") => ("http", 80),
            Some("https") => ("https", 443),
            _ => return Err(bad("write an address such as `https://127.0.0.1:8443`")),
        };
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let address: Option<SocketAddr> = (host, url.port_u16().unwrap_or(port))
            .to_socket_addrs()
            .map_err(|error| bad(&error.to_string()))?
            .next();
        let trust = match &self.ca {
            _ if scheme == "http" => Trust::Plain,
            Some(ca) => Trust::Roots(Arc::new(fetch::roots(ca).map_err(|why| bad(&why))?)),
            None => Trust::System,
        };
        let config = fetch::tls(&trust).map_err(|error| bad(&error.to_string()))?;
        let fetch = Fetch::with_http1(config, address);
        Ok(Program { scheme, fetch })
    }

    /// Returns the logs to read.
    fn logs(&self, http: &Scope<'_>, servers: &Servers<'_>) -> Result<Vec<Log>, String> {
        let named = servers.list.iter().find_map(|server| server.hosts.first());
        let host = |own: Option<&String>| self.host.as_ref().or(own).cloned();
        let first = || host(named).unwrap_or_else(|| "localhost".to_owned());
        if let Some(path) = &self.log {
            let (path, host) = (path.clone(), first());
            return Ok(vec![Log { path, host }]);
        }
        let path = |scope: &Scope<'_>| {
            let log = scope.own("access_log");
            let path = log.first()?.arg(0).to_owned();
            let is_file = path != "off" && !path.contains(['$', ':']);
            is_file.then(|| PathBuf::from(path))
        };
        let own = servers.list.iter().filter_map(|server| {
            let host = host(server.hosts.first())?;
            path(&server.scope).map(|path| Log { path, host })
        });
        let mut logs: Vec<Log> = own.collect();
        if logs.is_empty() {
            let host = first();
            logs.extend(path(http).map(|path| Log { path, host }));
        }
        if logs.is_empty() {
            return Err("the configuration names no access log: name one with `--log`".to_owned());
        }
        Ok(logs)
    }
}

/// Reads the requests of a log that can be repeated without changing anything.
fn read(log: &Log) -> io::Result<Vec<RepeatedRequest>> {
    let lines = BufReader::new(File::open(&log.path)?).lines();
    let mut all = Vec::new();
    for line in lines {
        // Bytes that are not UTF-8 are escaped in a log of nginx.
        let line = match line {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
            line => line?,
        };
        let host = log.host.clone();
        all.extend(parsed(&line).map(|(method, target)| RepeatedRequest {
            host,
            method,
            target: target.to_owned(),
        }));
    }
    Ok(all)
}

/// Returns method and target of a line, in any format that quotes `$request`.
fn parsed(line: &str) -> Option<(&'static str, &str)> {
    ["GET", "HEAD"].iter().find_map(|method| {
        let (_, rest) = line.split_once(&format!("\"{method} "))?;
        let (target, rest) = rest.split_once(' ')?;
        let is_whole = rest.starts_with("HTTP/") && target.starts_with('/');
        // Scanners leave targets that no client can send as they are.
        let is_sendable = target.parse::<PathAndQuery>().is_ok();
        (is_whole && is_sendable && !target.contains(['\\', '"'])).then_some((*method, target))
    })
}

/// Program that responds, and how it is reached.
struct Program {
    scheme: &'static str,
    fetch: Fetch,
}

/// Response as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ComparedResponse {
    status: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

async fn compare(
    nginx: &Program,
    gateway: &Program,
    requests: &[RepeatedRequest],
) -> Result<Compared, String> {
    let (mut equal, mut differing, mut moving, mut bodies) = (0, 0, 0, 0);
    let mut text = String::new();
    for request in requests {
        let why = |error: String| {
            let error = error.replace("UnknownIssuer", "unknown CA; pass it with `--ca FILE`");
            format!("nginx does not respond: {error}")
        };
        let first = seen(nginx, request).await.map_err(why)?;
        let again = seen(nginx, request).await.map_err(why)?;
        let own = seen(gateway, request).await;
        let own = own.map_err(|error| format!("the gateway does not respond: {error}"))?;
        if first.status != again.status || first.headers != again.headers {
            moving += 1;
            continue;
        }
        let mut found = differences(&first, &own);
        // The text of a redirect is for clients that do not follow it.
        let is_redirect = first.status.starts_with('3');
        if first.body != again.body {
            bodies += 1;
        } else if first.body != own.body && !is_redirect {
            let (theirs, own) = (first.body.len(), own.body.len());
            found.push(format!("body: nginx {theirs} bytes, the gateway {own}"));
        }
        if found.is_empty() {
            equal += 1;
            continue;
        }
        differing += 1;
        if differing <= SHOWN {
            let (method, host, target) = (request.method, &request.host, &request.target);
            let found = found.join("\n  ");
            writeln!(text, "{method} {host}{target}\n  {found}").unwrap_or_default();
        }
    }
    if differing > SHOWN {
        writeln!(text, "and {} more", differing - SHOWN).unwrap_or_default();
    }
    write!(
        text,
        "{} requests: {equal} with the same response, {differing} with another one\n\
             Left out because nginx itself responds differently each time: {moving} responses, \
             and the bodies of {bodies}",
        requests.len()
    )
    .unwrap_or_default();
    Ok(Compared {
        text,
        is_equal: differing == 0,
    })
}

async fn seen(side: &Program, request: &RepeatedRequest) -> Result<ComparedResponse, String> {
    let url = format!("{}://{}{}", side.scheme, request.host, request.target);
    let built = Request::builder().method(request.method).uri(&url).body(());
    let built = built.map_err(|error| format!("{url}: {error}"))?;
    let response = side.fetch.send(built, DEADLINE, LONGEST).await;
    let (parts, body) = response
        .map_err(|error| format!("{url}: {error}"))?
        .into_parts();
    Ok(ComparedResponse {
        status: parts.status.as_u16().to_string(),
        headers: headers(&parts.headers),
        body,
    })
}

/// Returns the headers that are compared.
fn headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut all = Vec::new();
    let is_redirect = headers.contains_key(header::LOCATION);
    for name in HEADERS.split(' ') {
        if is_redirect && name == header::CONTENT_TYPE {
            continue;
        }
        let mut values: Vec<String> = headers.get_all(name).iter().map(text).collect();
        if name == header::LOCATION {
            // Each side has a port of its own.
            values = values.iter().map(|value| path_of(value)).collect();
        }
        if name == header::CONTENT_TYPE {
            // The gateway names the charset of texts.
            values = values.iter().map(|value| without_charset(value)).collect();
        }
        all.extend((!values.is_empty()).then(|| (name.to_string(), values.join(", "))));
    }
    let cookies = headers.get_all(header::SET_COOKIE).iter().map(text);
    let names: BTreeSet<String> = cookies
        .map(|cookie| cookie.split('=').next().unwrap_or_default().to_owned())
        .collect();
    if !names.is_empty() {
        let names: Vec<String> = names.into_iter().collect();
        all.push(("set-cookie".to_owned(), names.join(", ")));
    }
    all
}

/// Returns a media type without `charset=utf-8`.
fn without_charset(value: &str) -> String {
    let (media_type, rest) = value.split_once(';').unwrap_or((value, ""));
    match rest.trim() {
        rest if rest.is_empty() || rest.eq_ignore_ascii_case("charset=utf-8") => {
            media_type.trim().to_owned()
        }
        _ => value.to_owned(),
    }
}

/// Returns a URL without scheme, host and port.
fn path_of(url: &str) -> String {
    let after = url.split_once("://").map(|(_, rest)| rest);
    let path = after.map(|rest| rest.find('/').map_or("/", |slash| &rest[slash..]));
    path.unwrap_or(url).to_owned()
}

fn differences(theirs: &ComparedResponse, ours: &ComparedResponse) -> Vec<String> {
    let mut differences = Vec::new();
    let mut add = |what: &str, nginx: Option<&String>, gateway: Option<&String>| {
        if nginx != gateway {
            let shown =
                |value: Option<&String>| value.map_or("none".to_owned(), |it| format!("`{it}`"));
            differences.push(format!(
                "{what}: nginx {}, the gateway {}",
                shown(nginx),
                shown(gateway)
            ));
        }
    };
    add("status", Some(&theirs.status), Some(&ours.status));
    let value = |seen: &ComparedResponse, name: &str| {
        let mut all = seen.headers.iter();
        all.find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    };
    let names = theirs.headers.iter().chain(&ours.headers);
    let names: BTreeSet<&String> = names.map(|(name, _)| name).collect();
    for name in names {
        let (nginx, gateway) = (value(theirs, name), value(ours, name));
        add(name, nginx.as_ref(), gateway.as_ref());
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_change_nothing_are_read_from_any_format() {
        for (line, expected) in [
            (
                r#"127.0.0.1 - - [24/Nov/2026:01:00:00 +0000] "GET /a?b=1 HTTP/1.1" 200 5 "-" "x""#,
                Some(("GET", "/a?b=1")),
            ),
            (
                r#"{"request":"HEAD / HTTP/2.0","status":200}"#,
                Some(("HEAD", "/")),
            ),
            (r#"a.test - "POST /a HTTP/1.1" 200"#, None),
            (r#"a.test - "GET /\x22 HTTP/1.1" 400"#, None),
            (r#"a.test - "GET http://b/ HTTP/1.1" 400"#, None),
            (r#"a.test - "\x16\x03" 400"#, None),
            (r#"a.test - "GET /a/<x> HTTP/1.1" 200"#, None),
        ] {
            assert_eq!(parsed(line), expected, "{line}");
        }
    }

    #[test]
    fn addresses_of_the_sides_make_no_difference() {
        for (url, path) in [
            ("http://a.test:8080/x?y", "/x?y"),
            ("https://a.test", "/"),
            ("/x", "/x"),
            ("x/y", "x/y"),
        ] {
            assert_eq!(path_of(url), path);
        }
    }
}
