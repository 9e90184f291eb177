//! `edgeway warm FILE`: fetches listed URLs, so that the first client finds them in the cache.

mod list;
pub mod trust;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io::{self, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use edgeway_base::{clock::Clock, units::Span};
use edgeway_net::fetch::{Fetch, FetchError};
use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header};
use serde::Serialize;

use self::list::Base;
use super::{out, progress::Progress, runtime};

const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("edgeway-warm/", env!("CARGO_PKG_VERSION")));

#[derive(Debug, clap::Args)]
pub struct WarmOptions {
    /// The list: one URL or path per line, `#` for comments; `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The base URL of paths in the list, such as `https://shop.example.com`
    #[arg(long, value_name = "URL")]
    base: Option<Base>,
    /// Connect to this address instead of the URLs' hosts
    #[arg(long, value_name = "IP:PORT")]
    to: Option<SocketAddr>,
    /// Maximum number of requests in flight
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 4,
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    concurrency: u16,
    /// An `Accept-Encoding` to send; repeat it for several. Without it each URL is fetched twice:
    /// plain, and as browsers do
    #[arg(
        long = "encoding",
        value_name = "VALUE",
        default_values = ["identity", "zstd, br, gzip"],
        hide_default_value = true
    )]
    encodings: Vec<HeaderValue>,
    /// A header of each request, as with curl: `Name: value`
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = header_line)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Time limit of a response
    #[arg(long, value_name = "TIME", default_value = "1min")]
    timeout: Span,
    /// A file with the CA certificates to trust [default: those of the system]
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// Accept any certificate
    #[arg(long)]
    insecure: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn header_line(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let bad = || format!("invalid header `{text}`: write `Name: value`");
    let (name, value) = text.split_once(':').ok_or_else(bad)?;
    let name = name.trim().parse().map_err(|_| bad())?;
    let value = value.trim().parse().map_err(|_| bad())?;
    Ok((name, value))
}

/// Result of the whole command.
#[derive(Debug, Default, Serialize)]
struct Summary {
    urls: usize,
    requests: usize,
    bytes: u64,
    seconds: f64,
    /// Responses by `X-Cache-Status`; `none` if it is missing.
    results: BTreeMap<String, usize>,
    failures: Vec<Failure>,
    /// True if Ctrl-C came before the end of the list.
    stopped: bool,
}

#[derive(Debug, Serialize)]
struct Failure {
    url: String,
    encoding: String,
    why: String,
}

/// Client and settings of all requests.
struct Fetcher {
    client: Fetch,
    headers: HeaderMap,
    /// Deadline of a response with all of its body.
    deadline: Duration,
}

impl Fetcher {
    /// Fetches a URL and reads the whole response.
    async fn get(&self, url: &Uri, encoding: &HeaderValue) -> Result<Response<u64>, FetchError> {
        let mut request = Request::new(());
        *request.uri_mut() = url.clone();
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT_ENCODING, encoding.clone());
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        self.client.measure(request, self.deadline).await
    }
}

pub fn run(options: &WarmOptions) -> Result<(), out::Failure> {
    let name = options.file.display();
    let text = text(&options.file).map_err(|error| format!("cannot read `{name}`: {error}"))?;
    let urls = list::read(&text, options.base.as_ref()).map_err(|bad| format!("{name}: {bad}"))?;
    if urls.is_empty() {
        return Err(format!("{name}: there is no URL in it").into());
    }
    let mut headers: HeaderMap = options.headers.iter().cloned().collect();
    headers.entry(header::USER_AGENT).or_insert(USER_AGENT);
    let tls = trust::tls(options.ca.as_deref(), options.insecure)?;
    let fetcher = Fetcher {
        client: Fetch::with_http1(tls, options.to),
        headers,
        deadline: options.timeout.0,
    };
    let clock = Clock::default();
    let began = clock.now();
    let summary = runtime()?.block_on(async {
        let round = SharedList::new(&urls, &options.encodings);
        let workers = (0..options.concurrency).map(|_| round.work(&fetcher));
        let is_stopped = tokio::select! {
            _ = join_all(workers) => false,
            heard = tokio::signal::ctrl_c() => heard.is_ok(),
        };
        round.summary(is_stopped, clock.now().saturating_duration_since(began))
    });
    if options.json {
        out::json(&summary);
    } else {
        out::data(&summary.text());
    }
    if summary.stopped {
        return Err(out::Failure::INTERRUPTED);
    }
    out::Failure::unless(summary.failures.is_empty())
}

fn text(file: &Path) -> io::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(file)
}

/// The list, shared by all workers.
struct SharedList<'a> {
    urls: &'a [Uri],
    encodings: &'a [HeaderValue],
    next: Cell<usize>,
    progress: RefCell<Progress>,
    summary: RefCell<Summary>,
}

impl<'a> SharedList<'a> {
    fn new(urls: &'a [Uri], encodings: &'a [HeaderValue]) -> Self {
        Self {
            urls,
            encodings,
            next: Cell::new(0),
            progress: RefCell::new(Progress::new(urls.len() * encodings.len())),
            summary: RefCell::default(),
        }
    }

    /// Fetches the URLs one after the other, each with its encodings in order: the response that
    /// the gateway makes for the first may serve the others.
    async fn work(&self, fetcher: &Fetcher) {
        while let Some(url) = self.urls.get(self.next.get()) {
            self.next.set(self.next.get() + 1);
            for encoding in self.encodings {
                let response = fetcher.get(url, encoding).await;
                self.progress.borrow_mut().step_done();
                self.summary.borrow_mut().note(url, encoding, response);
            }
        }
    }

    fn summary(self, stopped: bool, took: Duration) -> Summary {
        Summary {
            urls: self.urls.len(),
            seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
            stopped,
            ..self.summary.into_inner()
        }
    }
}

impl Summary {
    fn note(
        &mut self,
        url: &Uri,
        encoding: &HeaderValue,
        response: Result<Response<u64>, FetchError>,
    ) {
        self.requests += 1;
        let why = match response {
            Ok(response) => {
                self.bytes += response.body();
                let cache = response.headers().get("x-cache-status");
                let cache = cache
                    .and_then(|value| value.to_str().ok())
                    .unwrap_or("none");
                *self.results.entry(cache.to_owned()).or_default() += 1;
                // An error may be stored as well, but warming was not meant for it.
                let status = response.status().as_u16();
                (status >= 400).then(|| format!("status {status}"))
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(why) = why {
            self.failures.push(Failure {
                url: url.to_string(),
                encoding: String::from_utf8_lossy(encoding.as_bytes()).into_owned(),
                why,
            });
        }
    }

    fn text(&self) -> String {
        let mut lines = vec![format!(
            "{} for {}, {} bytes in {:.1} s{}",
            out::counted(self.requests, "request"),
            out::counted(self.urls, "URL"),
            self.bytes,
            self.seconds,
            if self.stopped { ", stopped" } else { "" }
        )];
        for (result, count) in &self.results {
            lines.push(format!("{result:<12} {count}"));
        }
        if !self.failures.is_empty() {
            lines.push(format!("{:<12} {}", "failed", self.failures.len()));
        }
        for Failure { url, encoding, why } in &self.failures {
            lines.push(format!("  {url} ({encoding}): {why}"));
        }
        lines.join("\n")
    }
}
