//! `edgeway logs`: prints the requests that the running gateway has handled last, and follows them.

mod rows;

use std::{
    cell::RefCell,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use edgeway_base::{clock::Clock, net::Cidr, statuses::Statuses, units::Span};
use edgeway_status::{
    client::{Client, ClientError},
    events::ServerEvent,
};
use serde::Serialize;
use serde_json::Value;

use super::{
    Failure,
    admin::{AdminOption, OutputFormat},
    out,
    path::segment,
};

use self::rows::Rows;

/// Time for which a lost gateway is looked for.
const LOST: Duration = Duration::from_secs(30);
/// Delay before it is looked for again.
const AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct LogsOptions {
    /// Number of requests to print, at most 10000
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    lines: usize,
    /// Go on with requests as they end
    #[arg(short, long)]
    follow: bool,
    /// Print JSON lines, as in the access log
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    admin: AdminOption,
}

/// Conditions that printed requests meet, named as in the query of the admin API.
#[derive(Debug, clap::Args, Serialize)]
struct Choice {
    /// Only requests that failed: with 5xx, or a response that broke off
    #[arg(long)]
    errors: bool,
    /// Only requests that failed, or that were served all the same: after a retry, or without a
    /// plugin that failed
    #[arg(long, conflicts_with = "errors")]
    problems: bool,
    /// Only these statuses, such as 404 or 5xx, or several with commas
    #[arg(long, value_name = "STATUS")]
    status: Option<Statuses>,
    /// Only requests of this route; `-` for those that no route took
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    route: Option<String>,
    /// Only requests of this client, or of this network
    #[arg(long, value_name = "ADDRESS")]
    client: Option<Cidr>,
    /// Only requests that took at least this long, such as 500ms
    #[arg(long, value_name = "TIME")]
    slower: Option<Span>,
    /// Only requests with this method
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Only requests to this host
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Only requests whose path begins with this
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Only requests with this reason, a word of docs/reasons.md
    #[arg(long, value_name = "WORD")]
    reason: Option<String>,
    /// Only requests with this result of the cache, such as HIT
    #[arg(long, value_name = "WORD")]
    cache: Option<String>,
    /// Only requests to this upstream
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Only requests that this backend served or failed
    #[arg(long, value_name = "ADDRESS")]
    backend: Option<String>,
    /// Only requests that this rate limit refused or delayed
    #[arg(long, value_name = "NAME")]
    limit: Option<String>,
    /// Only requests of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only the request with this id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

pub fn run(options: &LogsOptions) -> Result<(), Failure> {
    let query = options.query();
    let mut printer = Printer::new(options.json);
    if options.follow {
        let path = format!("/v1/requests/stream?{query}");
        return options.admin.ask(OutputFormat::Text, async |client| {
            follow(&client, &path, &mut printer).await
        });
    }
    let path = format!("/v1/requests?{query}");
    let found = options
        .admin
        .ask(OutputFormat::Text, async |client| client.lines(&path).await);
    let lines = found?;
    if lines.is_empty() {
        out::note(options.choice.hint());
    }
    printer.widen(&lines);
    // A closed pipe (`| head`) is no error.
    let _closed = lines.lines().try_for_each(|line| printer.print(line));
    Ok(())
}

impl LogsOptions {
    fn query(&self) -> String {
        let choice = serde_json::to_value(&self.choice).expect("plain data");
        let mut written = vec![format!("n={}", self.lines)];
        for (name, value) in choice.as_object().into_iter().flatten() {
            match value {
                Value::Null | Value::Bool(false) => {}
                Value::String(text) => written.push(format!("{name}={}", segment(text))),
                value => written.push(format!("{name}={value}")),
            }
        }
        written.join("&")
    }
}

impl Choice {
    /// Returns the note on an empty list.
    fn hint(&self) -> &'static str {
        if self.errors {
            "no request with a status of 500 or above is stored; --problems also lists requests \
             that were served after a retry or without a failed plugin"
        } else {
            "no stored request matches"
        }
    }
}

/// Prints requests until the reader of the output is gone. A stream that ends is continued: the
/// gateway was reloaded, or replaced by a successor.
async fn follow(client: &Client, path: &str, printer: &mut Printer) -> Result<(), ClientError> {
    let clock = Clock::machine();
    let mut last: Option<String> = None;
    let loss = RefCell::new(Loss::default());
    loop {
        let mut is_over = false;
        let known = last.clone();
        let heard = || loss.borrow_mut().heard();
        let ended = client.follow(path, known.as_deref(), heard, |event: ServerEvent| {
            let printed = match event.name.as_str() {
                "" => printer.print(&event.data),
                "missed" => {
                    out::note(&missed(&event.data));
                    Ok(())
                }
                _ => Ok(()),
            };
            if event.id.is_some() {
                last = event.id;
            }
            is_over = printed.is_err();
            if is_over {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let ended = ended.await;
        if is_over {
            return Ok(());
        }
        match ended {
            // It responded, so it may be found again.
            Ok(()) => loss.borrow_mut().heard(),
            Err(ClientError::Connect(..) | ClientError::Response(..))
                if loss.borrow_mut().may_return(clock.now()) => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Whereabouts of a gateway that is followed.
#[derive(Default)]
struct Loss {
    /// True once it has sent something. One that was never there is not looked for.
    is_known: bool,
    /// Time of the first failure since it was heard.
    since: Option<Instant>,
}

impl Loss {
    fn heard(&mut self) {
        *self = Self {
            is_known: true,
            since: None,
        };
    }

    /// Returns true if a gateway that cannot be reached now is looked for again.
    fn may_return(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        self.is_known && now < since + LOST
    }
}

/// Prints requests, as they come or in columns.
struct Printer {
    /// `None` for JSON.
    rows: Option<Rows>,
}

impl Printer {
    fn new(is_json: bool) -> Self {
        let rows = (!is_json).then(|| Rows::new(out::width()));
        if let Some(rows) = &rows
            && out::is_terminal()
        {
            out::note(&rows.header());
        }
        Self { rows }
    }

    /// Makes columns wide enough for these lines.
    fn widen(&mut self, lines: &str) {
        if let Some(rows) = &mut self.rows {
            lines.lines().for_each(|line| rows.widen(line));
        }
    }

    fn print(&mut self, line: &str) -> std::io::Result<()> {
        match &mut self.rows {
            Some(rows) => out::line(&rows.row(line)),
            None => out::line(line),
        }
    }
}

/// Returns the note on requests that the gateway could not send. After a lost connection it knows
/// that some are missing, but not their number.
fn missed(data: &str) -> String {
    let missed: Value = serde_json::from_str(data).unwrap_or_default();
    let missed = missed["missed"].as_u64().unwrap_or_default();
    format!(
        "edgeway: at least {missed} requests are missing: they ended faster than they could be read"
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: LogsOptions,
    }

    #[test]
    fn the_number_of_missed_requests_is_a_lower_bound() {
        let note = missed(r#"{"missed":16}"#);
        assert!(note.starts_with("edgeway: at least 16 requests "), "{note}");
    }

    #[test]
    fn a_lost_gateway_is_looked_for_from_its_loss_on() {
        let clock = Clock::test();
        let mut loss = Loss::default();
        assert!(!loss.may_return(clock.now()), "it was never there");
        loss.heard();
        // Hours without a request are no loss.
        clock.advance(Duration::from_hours(5));
        assert!(loss.may_return(clock.now()));
        clock.advance(LOST / 2);
        assert!(loss.may_return(clock.now()));
        loss.heard();
        clock.advance(LOST);
        assert!(loss.may_return(clock.now()));
        clock.advance(LOST);
        assert!(!loss.may_return(clock.now()));
    }

    #[test]
    fn options_become_a_query() {
        for (arguments, expected) in [
            ("", "n=100"),
            ("-n 5 --errors", "n=5&errors=true"),
            ("--problems", "n=100&problems=true"),
            (
                "--status 404,5xx --route a/b --client 10.0.0.0/8 --slower 1s",
                "n=100&status=404%2C5xx&route=a%2Fb&client=10.0.0.0%2F8&slower=1s",
            ),
            ("--route - --path /ü", "n=100&route=-&path=%2F%C3%BC"),
        ] {
            let words = ["logs"].into_iter().chain(arguments.split_whitespace());
            let line = Line::try_parse_from(words).unwrap();
            assert_eq!(line.options.query(), expected, "{arguments}");
        }
        assert!(Line::try_parse_from(["logs", "--status", "x"]).is_err());
    }
}
