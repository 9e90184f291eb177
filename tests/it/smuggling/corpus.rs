//! Requests that two programs could read in two ways, or that no gateway should accept. From RFC
//! 9112 and the published write-ups on request smuggling; `corpus.json` has them with their statuses.

use serde::Deserialize;

/// Request, and the gateway's expected status.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) status: u16,
    pub(super) raw: String,
    /// Set if a strict reading of the bytes is ambiguous or invalid; other requests break a rule of
    /// the gateway.
    pub(super) is_ambiguous: bool,
}

/// Names of cases, their statuses, and what is special in each.
type Rows = Vec<(String, u16, String)>;

#[derive(Deserialize)]
struct Corpus {
    /// Header lines that disagree about the end of the body; each is sent with a body that looks like
    /// a request to a program that ends the previous one early.
    framing: Rows,
    /// Chunked bodies whose end programs read differently.
    chunks: Rows,
    /// Whole requests: their lines, line ends and hosts.
    requests: Rows,
    /// Names and values of headers.
    headers: Rows,
    /// Requests that are unambiguous and still refused.
    rules: Rows,
}

/// Request that appears if the rest of another one is taken for a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// All cases.
pub(super) fn corpus() -> Vec<Case> {
    let corpus: Corpus = serde_json::from_str(include_str!("corpus.json")).expect("it is JSON");
    let get =
        |target: &str, lines: &str| format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n");
    let post = |lines: &str, rest: &str| {
        format!("POST / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n\r\n{rest}{SMUGGLED}")
    };
    let mut all = cases(corpus.framing, true, |line| post(line, "0\r\n\r\n"));
    all.extend(cases(corpus.chunks, true, |body| {
        post("Transfer-Encoding: chunked", body)
    }));
    all.extend(cases(corpus.requests, true, str::to_owned));
    all.extend(cases(corpus.headers, true, |line| {
        get("/", &format!("{line}\r\n"))
    }));
    all.extend(cases(corpus.rules, false, str::to_owned));
    let long = [
        (
            "a long line",
            414,
            get(&format!("/{}", "x".repeat(9 * 1024)), ""),
        ),
        (
            "a long head",
            431,
            get("/", &format!("X: {}\r\n", "x".repeat(33 * 1024))),
        ),
        ("many headers", 431, get("/", &"X: y\r\n".repeat(129))),
    ];
    let long = long.map(|(name, status, raw)| (name.to_owned(), status, raw));
    all.extend(cases(long.into(), false, str::to_owned));
    all
}

fn cases(rows: Rows, is_ambiguous: bool, raw: impl Fn(&str) -> String) -> Vec<Case> {
    let cases = rows.into_iter().map(|(name, status, text)| Case {
        name,
        status,
        raw: raw(&text),
        is_ambiguous,
    });
    cases.collect()
}
