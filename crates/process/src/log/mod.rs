//! The program's own log on stderr, with a rate limit per place in the code.
//!
//! A client that can trigger a log line with each request could fill a disk, or block the workers
//! that write. Twenty lines of a kind in ten seconds are as useful as a million; another line then
//! reports how many were left out.
//! Lines that nobody reads are left out as well.

mod format;
mod stderr;

use std::{
    collections::HashMap,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ahash::RandomState;
use edgeway_base::{clock::Clock, out};
use edgeway_proxy::live::audit;
use env_logger::{Target, WriteStyle};
use log::{Level, Log, Metadata, Record};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use self::format::LogFormat;
use self::format::{OneLineFields, one_line};

/// Maximum number of lines of a kind within [`WINDOW`].
const MAX_LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);
/// Interval of checks for ended windows, which also end the windows of places that have stopped
/// logging.
const LOOK: Duration = Duration::from_secs(1);

/// Default level if `EDGEWAY_LOG` sets none.
pub const DEFAULT: &str = "info";

/// Levels of crates that `EDGEWAY_LOG` does not name, regardless of its default level.
///
/// Our own log covers what `pingora_proxy` reports of requests, with route, backend and reason, and
/// at `debug` that crate writes whole header sections and bodies. The other Pingora crates report
/// their own internal state (descriptors that are not what they were), which is visible nowhere
/// else, so their errors stay on.
const QUIET: [(&str, &str); 3] = [
    ("pingora", "off"),
    ("pingora_core", "error"),
    ("pingora_proxy", "off"),
];

static LOGGER: OnceLock<BoundedLogger> = OnceLock::new();

/// Sets up the log as text. `EDGEWAY_LOG` takes `env_logger`'s filters.
pub fn init() {
    init_with(LogFormat::Text, DEFAULT);
}

/// Sets up the log in a format, with the level that counts if `EDGEWAY_LOG` sets none.
pub fn init_with(format: LogFormat, level: &str) {
    let written = std::env::var("EDGEWAY_LOG");
    let style = std::env::var(env_logger::DEFAULT_WRITE_STYLE_ENV);
    let mut builder = env_logger::Builder::new();
    let clock = Clock::machine();
    // Of a pipe to a thread, it does not know whether it ends at a terminal.
    match style {
        Ok(style) => builder.parse_write_style(&style),
        Err(_) if out::colour() => builder.write_style(WriteStyle::Always),
        Err(_) => builder.write_style(WriteStyle::Never),
    };
    builder
        .target(Target::Pipe(Box::new(stderr::Stderr)))
        .parse_filters(&filters(written.as_deref().unwrap_or(level)))
        .format(move |out, record| match format {
            LogFormat::Text => format::write_text(out, record, clock.wall()),
            LogFormat::Json | LogFormat::Logfmt => format::write(out, format, record, clock.wall()),
        });
    let inner = builder.build();
    let filter = inner.filter();
    let logger = LOGGER.get_or_init(|| BoundedLogger::new(inner, format, Clock::machine()));
    // A second call (in tests) finds the first one's logger in place.
    if log::set_logger(logger).is_ok() {
        log::set_max_level(filter);
    }
}

/// Lets a thread of its own write the lines, for as long as the gateway serves.
pub(super) fn detach() {
    stderr::detach();
}

/// Returns these filters, and the defaults of crates that they do not name.
fn filters(written: &str) -> String {
    let is_named = |name: &str| {
        let mut parts = written.split(',');
        parts.any(|part| part.split('=').next().is_some_and(|of| of.trim() == name))
    };
    let quiet = QUIET.iter().filter(|(name, _)| !is_named(name));
    let quiet: Vec<String> = quiet
        .map(|(name, level)| format!("{name}={level},"))
        .collect();
    // The default of `env_logger`.
    let written = if written.trim().is_empty() {
        "error"
    } else {
        written
    };
    quiet.concat() + written
}

/// Reports left-out lines as windows end, for ever. It wakes up only while there are some.
pub(super) async fn supervise() {
    let Some(logger) = LOGGER.get() else { return };
    loop {
        logger.left_out.notified().await;
        while logger.has_left_out() {
            tokio::time::sleep(LOOK).await;
            logger.report(LineKind::Ended);
        }
    }
}

struct BoundedLogger {
    inner: env_logger::Logger,
    format: LogFormat,
    clock: Clock,
    hash: RandomState,
    /// Sharded, so that places in the code rarely wait for one another.
    shards: [Mutex<HashMap<u64, RecentLines>>; 8],
    /// Notified of the first line of a window that is left out.
    left_out: Notify,
    /// Number of lines that nobody has read.
    lost: AtomicU64,
}

/// Recent lines of one place in the code.
struct RecentLines {
    began: Instant,
    lines: u32,
    left_out: u64,
    level: Level,
    target: Box<str>,
    message: Box<str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LineKind {
    Ended,
    All,
}

impl BoundedLogger {
    fn new(inner: env_logger::Logger, format: LogFormat, clock: Clock) -> Self {
        Self {
            inner,
            format,
            clock,
            hash: RandomState::new(),
            shards: Default::default(),
            left_out: Notify::new(),
            lost: AtomicU64::default(),
        }
    }

    fn put(&self, record: &Record<'_>) {
        if !stderr::has_room() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let builder = &mut Record::builder();
            builder.level(Level::Error).target(module_path!());
            let text = format_args!("{lost} lines lost: nobody read them");
            self.inner.log(&builder.args(text).build());
        }
        self.inner.log(record);
    }

    /// Returns true if this line is to be written, and a window that ended with lines left out.
    fn takes(&self, record: &Record<'_>) -> (bool, Option<RecentLines>) {
        let place = (record.target(), record.file(), record.line());
        let key = self.hash.hash_one(place);
        let now = self.clock.now();
        let mut shard = self.shard(key).lock();
        let mut ended = None;
        if shard.get(&key).is_some_and(|window| window.has_ended(now)) {
            ended = shard.remove(&key).filter(|window| window.left_out > 0);
        }
        let window = shard
            .entry(key)
            .or_insert_with(|| RecentLines::begin(record, now));
        let takes = window.lines < MAX_LINES;
        if takes {
            window.lines += 1;
        } else {
            window.left_out += 1;
            if window.left_out == 1 {
                self.left_out.notify_one();
            }
        }
        (takes, ended)
    }

    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, RecentLines>> {
        let index = usize::try_from(key % self.shards.len() as u64).unwrap_or(0);
        &self.shards[index]
    }

    /// Returns true if some line was left out and is not reported yet.
    fn has_left_out(&self) -> bool {
        let mut shards = self.shards.iter();
        shards.any(|shard| shard.lock().values().any(|window| window.left_out > 0))
    }

    /// Reports left-out lines, and drops the windows.
    fn report(&self, which: LineKind) {
        let now = self.clock.now();
        for shard in &self.shards {
            let is_due = |window: &RecentLines| which == LineKind::All || window.has_ended(now);
            let due: Vec<RecentLines> = shard
                .lock()
                .extract_if(|_, window| is_due(window))
                .map(|(_, window)| window)
                .collect();
            for window in due.iter().filter(|window| window.left_out > 0) {
                self.write(window);
            }
        }
    }

    /// Logs a record whose text has controls in a form that has none; returns false without doing
    /// anything if it has none as it is.
    fn logs_one_line(&self, record: &Record<'_>) -> bool {
        let message = record.args().to_string();
        let fields = OneLineFields::collect(record);
        if fields.is_none() && !message.contains(char::is_control) {
            return false;
        }
        let message = one_line(&message);
        let builder = &mut Record::builder();
        builder
            .level(record.level())
            .target(record.target())
            .file(record.file())
            .line(record.line())
            .key_values(match &fields {
                Some(fields) => fields,
                None => record.key_values(),
            });
        self.log(&builder.args(format_args!("{message}")).build());
        true
    }

    fn write(&self, window: &RecentLines) {
        self.put(
            &Record::builder()
                .level(window.level)
                .target(&window.target)
                .args(format_args!(
                    "{}: {} similar lines left out",
                    window.message, window.left_out
                ))
                .build(),
        );
    }
}

impl RecentLines {
    fn begin(record: &Record<'_>, now: Instant) -> Self {
        Self {
            began: now,
            lines: 0,
            left_out: 0,
            level: record.level(),
            target: record.target().into(),
            // Our messages are fixed texts with data in fields. For other crates the first message
            // stands for all.
            message: record.args().to_string().into(),
        }
    }

    fn has_ended(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= WINDOW
    }
}

impl Log for BoundedLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.inner.matches(record) {
            return;
        }
        if self.format == LogFormat::Text && self.logs_one_line(record) {
            return;
        }
        // A level above `info` is chosen to see everything. Audit lines are a record and must be
        // complete.
        if record.level() > Level::Info || record.target() == audit::TARGET {
            return self.put(record);
        }
        let (takes, ended) = self.takes(record);
        if let Some(window) = ended {
            self.write(&window);
        }
        if takes {
            self.put(record);
        }
    }

    fn flush(&self) {
        self.report(LineKind::All);
        self.inner.flush();
        stderr::drain();
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::*;

    #[derive(Clone, Default)]
    struct LineOutcome(Arc<Mutex<Vec<u8>>>);

    impl io::Write for LineOutcome {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Bench {
        logger: BoundedLogger,
        clock: Clock,
        written: LineOutcome,
    }

    fn bench(filter: &str) -> Bench {
        let written = LineOutcome::default();
        let inner = env_logger::Builder::new()
            .parse_filters(filter)
            .format(|out, record| {
                use io::Write;
                writeln!(out, "{} {}", record.level(), record.args())
            })
            .target(env_logger::Target::Pipe(Box::new(written.clone())))
            .build();
        let clock = Clock::test();
        Bench {
            logger: BoundedLogger::new(inner, LogFormat::Text, clock.clone()),
            clock,
            written,
        }
    }

    impl Bench {
        fn log(&self, level: Level, line: u32, times: usize) {
            for _ in 0..times {
                self.logger.log(
                    &Record::builder()
                        .level(level)
                        .target("edgeway")
                        .file_static(Some("some.rs"))
                        .line(Some(line))
                        .args(format_args!("line {line}"))
                        .build(),
                );
            }
        }

        /// Lines since the last call, with equal ones counted.
        fn lines(&self) -> Vec<(String, usize)> {
            let written = std::mem::take(&mut *self.written.0.lock());
            let text = String::from_utf8(written).unwrap();
            let mut lines: Vec<(String, usize)> = Vec::new();
            for line in text.lines() {
                match lines.last_mut() {
                    Some((last, count)) if last == line => *count += 1,
                    _ => lines.push((line.to_owned(), 1)),
                }
            }
            lines
        }

        #[track_caller]
        fn check(&self, expected: &[(&str, usize)]) {
            let lines = self.lines();
            let lines: Vec<_> = lines.iter().map(|(l, n)| (l.as_str(), *n)).collect();
            assert_eq!(lines, expected);
        }
    }

    #[test]
    fn crates_that_log_full_requests_are_quiet_unless_they_are_named() {
        let quiet = "pingora=off,pingora_core=error,pingora_proxy=off,";
        for (written, expected) in [
            ("debug", format!("{quiet}debug")),
            ("", format!("{quiet}error")),
            ("edgeway=trace,warn", format!("{quiet}edgeway=trace,warn")),
            (
                "info,pingora_proxy=debug",
                "pingora=off,pingora_core=error,info,pingora_proxy=debug".to_owned(),
            ),
            (
                "pingora_core::listeners=trace",
                format!("{quiet}pingora_core::listeners=trace"),
            ),
        ] {
            assert_eq!(filters(written), expected);
        }
    }

    #[test]
    fn each_place_in_the_code_has_its_own_bound() {
        let bench = bench("info");
        bench.log(Level::Warn, 1, 1000);
        bench.log(Level::Error, 2, 20);
        bench.check(&[("WARN line 1", 20), ("ERROR line 2", 20)]);
        // The next line after the window reports the rest, or the periodic check does, once.
        bench.clock.advance(WINDOW);
        bench.log(Level::Warn, 1, 1);
        bench.check(&[
            ("WARN line 1: 980 similar lines left out", 1),
            ("WARN line 1", 1),
        ]);
        bench.logger.report(LineKind::Ended);
        bench.check(&[]);
    }

    #[test]
    fn omitted_lines_are_reported_though_no_more_lines_come() {
        let bench = bench("info");
        bench.log(Level::Info, 1, 25);
        bench.logger.report(LineKind::Ended);
        bench.check(&[("INFO line 1", 20)]);
        bench.clock.advance(WINDOW);
        bench.logger.report(LineKind::Ended);
        bench.check(&[("INFO line 1: 5 similar lines left out", 1)]);
        bench.log(Level::Info, 1, 21);
        bench.logger.flush();
        bench.check(&[
            ("INFO line 1", 20),
            ("INFO line 1: 1 similar lines left out", 1),
        ]);
        let buffered: usize = bench.logger.shards.iter().map(|s| s.lock().len()).sum();
        assert_eq!(buffered, 0);
    }

    #[test]
    fn nothing_is_left_out_of_what_operators_did() {
        let bench = bench("info");
        let record = Record::builder()
            .level(Level::Info)
            .target(audit::TARGET)
            .args(format_args!("operator acted"))
            .build();
        for _ in 0..100 {
            bench.logger.log(&record);
        }
        bench.check(&[("INFO operator acted", 100)]);
    }

    #[test]
    fn nothing_that_is_logged_begins_a_line() {
        let bench = bench("info");
        let forged = "one\n[2027-01-15T08:00:00Z ERROR edgeway] two\x1b[2J\u{9b}";
        let record = &mut Record::builder();
        let record = record.level(Level::Info).target("edgeway");
        bench
            .logger
            .log(&record.args(format_args!("{forged}")).build());
        let escaped = "INFO one\\n[2027-01-15T08:00:00Z ERROR edgeway] two\\u{1b}[2J\\u{9b}";
        bench.check(&[(escaped, 1)]);
    }

    #[test]
    fn debug_shows_all_lines_and_filtered_ones_do_not_count() {
        let bench = bench("warn,edgeway=debug");
        bench.log(Level::Debug, 1, 100);
        bench.log(Level::Trace, 1, 100);
        bench.check(&[("DEBUG line 1", 100)]);
        let bench = self::bench("error");
        bench.log(Level::Warn, 1, 100);
        bench.logger.flush();
        bench.check(&[]);
    }
}
