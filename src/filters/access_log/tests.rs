//! What a reader of the log finds, whatever happens to disk, file names and load.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    AccessLogKind,
    output::Target,
    rotation::Rotation,
    writer::{self, Counts, User},
};
use crate::{
    base::{clock::Clock, metrics::Metrics},
    chain::{
        Class, Exchange, Facts, Filter, Protocol, RequestId, Scheme,
        testkit::{check, refused},
    },
};

/// Longer than any wait of a test that passes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Held by tests that reopen every log, or that expect nobody else to.
static REOPENING: Mutex<()> = Mutex::new(());

/// A log in a folder of its own.
struct Log {
    folder: tempfile::TempDir,
    clock: Clock,
    metrics: Metrics,
    rotation: Rotation,
    capacity: usize,
}

impl Log {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Clock::test(),
            metrics: Metrics::default(),
            rotation: Rotation::NEVER,
            capacity: 8 * 1024 * 1024,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }

    fn user(&self) -> User {
        self.user_of(&Target::File(self.path()))
    }

    fn user_of(&self, target: &Target) -> User {
        User::join_sized(
            target,
            self.rotation.clone(),
            &self.clock,
            &Counts::new(&self.metrics),
            self.capacity,
            Duration::from_millis(5),
        )
    }

    fn count(&self, name: &str) -> u64 {
        let text = String::from_utf8(self.metrics.text()).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn written(&self) -> u64 {
        self.count("edgeway_access_log_lines_total")
    }

    fn dropped(&self) -> u64 {
        self.count("edgeway_access_log_dropped_total")
    }

    fn is_failing(&self) -> bool {
        self.count("edgeway_access_log_failing") == 1
    }

    /// Every line in the folder, the current file's and the archives'.
    fn all_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            lines.extend(lines_of(&entry.unwrap().path()));
        }
        lines
    }
}

fn lines_of(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "a line is cut");
    text.lines().map(str::to_owned).collect()
}

fn push(user: &User, line: &str) {
    user.push(|out, _| {
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    });
}

#[track_caller]
fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) {
    let clock = Clock::machine();
    let end = clock.now() + PATIENCE;
    while !is_true() {
        assert!(clock.now() < end, "{what}: not so after {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Waits for the lines of this log only: other tests' logs may fail on purpose.
#[track_caller]
fn wait_written(log: &Log, lines: u64) {
    wait_for("lines are written", || log.written() >= lines);
    assert_eq!(log.written(), lines);
}

#[test]
fn every_line_of_many_threads_arrives_once_and_whole() {
    let log = Log::new();
    let user = Arc::new(log.user());
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let user = Arc::clone(&user);
            std::thread::spawn(move || {
                for line in 0..2000 {
                    push(
                        &user,
                        &format!("{thread} {line} {}", "x".repeat(line % 100)),
                    );
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    wait_written(&log, 16_000);
    let mut lines = lines_of(&log.path());
    lines.sort();
    lines.dedup();
    assert_eq!(lines.len(), 16_000);
    assert_eq!(log.dropped(), 0);
}

#[test]
fn lines_of_one_thread_keep_their_order() {
    let log = Log::new();
    let user = log.user();
    for line in 0..5000 {
        push(&user, &line.to_string());
    }
    wait_written(&log, 5000);
    let expected: Vec<String> = (0..5000).map(|line| line.to_string()).collect();
    assert_eq!(lines_of(&log.path()), expected);
}

#[test]
fn a_line_after_a_long_silence_wakes_the_writer() {
    let log = Log::new();
    let user = log.user();
    for line in 1..=2 {
        push(&user, "hello");
        wait_written(&log, line);
        wait_for("the writer sleeps", || user.is_asleep());
    }
}

#[test]
fn a_full_buffer_drops_lines_and_counts_them() {
    let mut log = Log::new();
    log.capacity = 4096;
    // Cannot be opened: its folder is a file.
    std::fs::write(log.folder.path().join("file"), "").unwrap();
    let user = log.user_of(&Target::File(log.folder.path().join("file/access.log")));
    for _ in 0..1000 {
        push(&user, &"x".repeat(99));
    }
    let dropped = log.dropped();
    assert!((900..1000).contains(&dropped), "{dropped}");
    assert_eq!(log.written(), 0);
    // The rest is given up when the last filter that logs here is gone.
    drop(user);
    wait_for("the writer ends", || log.dropped() == 1000);
}

#[test]
fn a_full_disk_keeps_requests_going_and_is_followed_by_every_held_line() {
    let _alone = REOPENING.lock();
    let log = Log::new();
    let full = log.folder.path().join("full.log");
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    let user = log.user_of(&Target::File(full.clone()));
    for line in 0..100 {
        push(&user, &line.to_string());
    }
    wait_for("the writer fails", || log.is_failing());
    assert_eq!(log.written(), 0);
    // There is room again: the same path leads to a good file.
    std::fs::remove_file(&full).unwrap();
    writer::reopen();
    wait_written(&log, 100);
    assert_eq!(lines_of(&full).len(), 100);
    assert_eq!(log.dropped(), 0);
}

#[test]
fn a_folder_that_goes_and_comes_back_loses_nothing_since() {
    let log = Log::new();
    let folder = log.folder.path().join("logs");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("access.log");
    let user = log.user_of(&Target::File(path.clone()));
    push(&user, "before");
    wait_written(&log, 1);

    std::fs::remove_dir_all(&folder).unwrap();
    // The path is looked at once a second.
    log.clock.advance(Duration::from_secs(1));
    push(&user, "meanwhile");
    wait_for("the writer fails", || log.is_failing());
    assert_eq!(log.written(), 1);

    std::fs::create_dir(&folder).unwrap();
    wait_written(&log, 2);
    push(&user, "after");
    wait_written(&log, 3);
    assert_eq!(lines_of(&path), ["meanwhile", "after"]);
    wait_for("the failure is over", || !log.is_failing());
}

#[test]
fn ten_rotations_by_size_keep_the_newest_and_lose_nothing() {
    let mut log = Log::new();
    log.rotation = Rotation {
        every: None,
        size: Some(1000),
        keep: 20,
    };
    let user = log.user();
    // 10 bytes each with its end: 100 to a file, and 10 files are full at the end.
    for line in 0..1050 {
        push(&user, &format!("{line:09}"));
    }
    wait_written(&log, 1050);
    let archives = std::fs::read_dir(log.folder.path()).unwrap().count() - 1;
    assert_eq!(archives, 10);
    let mut lines = log.all_lines();
    lines.sort();
    let expected: Vec<String> = (0..1050).map(|line| format!("{line:09}")).collect();
    assert_eq!(lines, expected);
    assert_eq!(lines_of(&log.path()).len(), 50);

    // With fewer to keep, what is too many goes at the next rotation.
    log.rotation = Rotation {
        every: None,
        size: Some(1000),
        keep: 3,
    };
    let second = log.user();
    for line in 1050..1150 {
        push(&second, &format!("{line:09}"));
    }
    wait_written(&log, 1150);
    let mut names: Vec<_> = std::fs::read_dir(log.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["access.log", "access.log.1", "access.log.2", "access.log.3"]
    );
}

#[test]
fn days_turn_while_running_and_across_a_restart() {
    let mut log = Log::new();
    log.rotation = Rotation {
        every: Some(Duration::from_hours(24)),
        size: None,
        keep: 7,
    };
    // Left behind by a process of long ago.
    std::fs::write(log.path(), "old\n").unwrap();
    let old = std::time::UNIX_EPOCH + Duration::from_hours(24);
    let file = std::fs::File::options()
        .write(true)
        .open(log.path())
        .unwrap();
    file.set_modified(old).unwrap();

    let user = log.user();
    for day in 0..9 {
        push(&user, &format!("day {day}"));
        wait_written(&log, day + 1);
        log.clock.advance(Duration::from_hours(24));
    }
    assert_eq!(lines_of(&log.path()), ["day 8"]);
    let archive = |number: u32| {
        let path = log.folder.path().join(format!("access.log.{number}"));
        lines_of(&path)
    };
    assert_eq!(archive(1), ["day 7"]);
    assert_eq!(archive(7), ["day 1"]);
    assert_eq!(archive(8), Vec::<String>::new());
}

#[test]
fn a_file_moved_away_is_followed_by_a_new_one() {
    let _alone = REOPENING.lock();
    let log = Log::new();
    let user = log.user();
    let moved = log.folder.path().join("moved.log");
    push(&user, "one");
    wait_written(&log, 1);

    std::fs::rename(log.path(), &moved).unwrap();
    push(&user, "two");
    wait_written(&log, 2);
    writer::reopen();
    wait_for("the new file is there", || log.path().exists());
    push(&user, "three");
    wait_written(&log, 3);
    assert_eq!(lines_of(&moved), ["one", "two"]);
    assert_eq!(lines_of(&log.path()), ["three"]);

    // Without a signal the move is seen within a second.
    std::fs::rename(log.path(), &moved).unwrap();
    log.clock.advance(Duration::from_secs(1));
    push(&user, "four");
    wait_written(&log, 4);
    assert_eq!(lines_of(&moved), ["three"]);
    assert_eq!(lines_of(&log.path()), ["four"]);
}

#[test]
fn one_file_has_one_writer_that_ends_with_its_last_filter() {
    let log = Log::new();
    let (first, second) = (log.user(), log.user());
    assert!(first.shares_with(&second));
    push(&first, "one");
    drop(first);
    push(&second, "two");
    drop(second);
    wait_written(&log, 2);
    wait_for("the writer ends", || !writer::is_open(&log.path()));
    let third = log.user();
    push(&third, "three");
    wait_written(&log, 3);
    assert_eq!(lines_of(&log.path()), ["one", "two", "three"]);
}

#[test]
fn a_flush_waits_for_what_was_logged_before_it() {
    let log = Log::new();
    let user = log.user();
    for round in 1..=20 {
        push(&user, "line");
        assert!(user.flush(PATIENCE));
        assert_eq!(lines_of(&log.path()).len(), round);
    }
}

#[test]
fn a_flush_of_a_broken_target_ends_at_its_deadline() {
    let log = Log::new();
    let user = log.user_of(&Target::File("/dev/full".into()));
    push(&user, "line");
    assert!(!user.flush(Duration::from_millis(50)));
    drop(user);
    wait_for("the line is given up", || log.dropped() == 1);
}

/// The line of a request with every fact filled in.
fn line_of(yaml: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let yaml = yaml.replace("FILE", &path.display().to_string());
    let (filter, clock, _metrics) = compile(&yaml);
    let mut head = pingora::http::RequestHeader::build(
        "GET",
        b"/caf\xc3\xa9/a%20b?page=2&token=hunter2",
        None,
    )
    .unwrap();
    for (name, value) in [
        ("host", "shop.example.com"),
        ("user-agent", "Mozilla/5.0 \"quoted\""),
        ("referer", "https://shop.example.com/login?token=hunter2"),
        ("authorization", "Bearer hunter2"),
        ("cookie", "session=hunter2"),
    ] {
        head.insert_header(name, value).unwrap();
    }
    let mut facts = Facts::new(clock.now());
    facts.client.ip = "203.0.113.9".parse().unwrap();
    facts.client.scheme = Scheme::Https;
    facts.client.protocol = Protocol::Http2;
    facts.client.listener = "public".into();
    facts.request_id = RequestId::foreign(b"abc-1").unwrap();
    facts.route = Some("shop".into());
    facts.class = Class::Page;
    facts.first_byte = Some(Duration::from_micros(9_500));
    facts.upstream.name = Some("web".into());
    facts.upstream.backend = Some("127.0.0.1:3000".into());
    facts.upstream.tries = 2;
    facts.upstream.status = 200;
    facts.upstream.first_byte = Some(Duration::from_micros(8_250));
    facts.status = 200;
    facts.bytes_sent = 1234;
    facts.bytes_received = 56;
    facts.reason = Some("retried");
    clock.advance(Duration::from_micros(12_345));
    facts.total = Duration::from_micros(12_345);
    filter.on_log(&Exchange {
        head: &head,
        facts: &mut facts,
    });
    drop(filter);
    wait_for("the line is there", || {
        std::fs::read(&path).is_ok_and(|bytes| bytes.ends_with(b"\n"))
    });
    std::fs::read_to_string(&path).unwrap()
}

fn compile(yaml: &str) -> (super::AccessLog, Clock, Metrics) {
    use crate::{
        chain::{CompileCx, FilterKind as _},
        config::{
            diagnostic::{Diagnostics, Place},
            tree,
        },
    };
    let (clock, metrics) = (Clock::test(), Metrics::default());
    let mut diagnostics = Diagnostics::default();
    let node = tree::parse(yaml, 0, &mut diagnostics).unwrap();
    let config = tree::read(&node, &mut diagnostics).unwrap();
    let filter = AccessLogKind::compile(
        config,
        &mut CompileCx {
            place: Place::default(),
            route: "test",
            folder: Path::new("."),
            upstreams: &[],
            clock: &clock,
            metrics: &metrics,
            diagnostics: &mut diagnostics,
        },
    );
    (filter.unwrap(), clock, metrics)
}

#[test]
fn a_json_line_tells_everything_but_secrets() {
    let line = line_of("{ file: FILE }");
    assert!(!line.contains("hunter2"), "{line}");
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    insta::assert_json_snapshot!(value, @r#"
    {
      "time": "2027-01-15T08:00:00.012Z",
      "id": "abc-1",
      "client": "203.0.113.9",
      "listener": "public",
      "method": "GET",
      "scheme": "https",
      "host": "shop.example.com",
      "path": "/café/a%20b",
      "query": "page=2&token=[redacted]",
      "protocol": "HTTP/2",
      "status": 200,
      "bytes_in": 56,
      "bytes_out": 1234,
      "route": "shop",
      "class": "page",
      "upstream": "web",
      "backend": "127.0.0.1:3000",
      "tries": 2,
      "upstream_status": 200,
      "total_ms": 12.345,
      "first_byte_ms": 9.5,
      "upstream_ms": 8.25,
      "reason": "retried",
      "user_agent": "Mozilla/5.0 \"quoted\"",
      "referer": "https://shop.example.com/login"
    }
    "#);
}

#[test]
fn a_compat_line_reads_as_nginx_combined_with_a_tail() {
    let line = line_of("{ file: FILE, format: compat }");
    insta::assert_snapshot!(line, @r#"203.0.113.9 - - [15/Jan/2027:08:00:00 +0000] "GET /caf\xC3\xA9/a%20b?page=2&token=[redacted] HTTP/2" 200 1234 "https://shop.example.com/login" "Mozilla/5.0 \x22quoted\x22" X-Cache-Status: - id=abc-1 route="shop" upstream="web" backend="127.0.0.1:3000" total_ms=12.345 first_byte_ms=9.500 upstream_ms=8.250 reason=retried"#);
}

#[test]
fn words_to_redact_can_be_chosen() {
    let line = line_of("{ file: FILE, redact: [page] }");
    assert!(line.contains("page=[redacted]&token=hunter2"), "{line}");
    let line = line_of("{ file: FILE, redact: [] }");
    assert!(line.contains("page=2&token=hunter2"), "{line}");
}

/// The line of a request of which nothing is known but its target.
fn bare_line(format: &str, method: &str, target: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let yaml = format!("{{ file: {}, format: {format} }}", path.display());
    let (filter, clock, _metrics) = compile(&yaml);
    let head = pingora::http::RequestHeader::build(method, target, None).unwrap();
    let mut facts = Facts::new(clock.now());
    filter.on_log(&Exchange {
        head: &head,
        facts: &mut facts,
    });
    drop(filter);
    wait_for("the line is there", || {
        std::fs::read(&path).is_ok_and(|bytes| bytes.ends_with(b"\n"))
    });
    lines_of(&path).remove(0)
}

#[test]
fn a_password_in_an_absolute_target_is_not_written() {
    for format in ["json", "compat"] {
        let target = b"http://user:hunter2@shop.example.com:8080/cart?x=1";
        let line = bare_line(format, "GET", target);
        assert!(line.contains("/cart"), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
}

#[test]
fn a_request_that_got_nowhere_has_a_whole_line_too() {
    let line = bare_line("json", "OPTIONS", b"*");
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["path"], "*");
    assert_eq!(value["status"], 0);
    assert_eq!(value["upstream"], serde_json::Value::Null);
    let line = bare_line("compat", "OPTIONS", b"*");
    assert!(line.contains("\" 499 0 \"-\" \"-\""), "{line}");
}

#[test]
fn each_request_through_the_chain_has_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let checked = check::<AccessLogKind>(&format!("{{ file: {} }}", path.display()))
        .get("/one")
        .request("POST", "/two")
        .expect([200, 200]);
    drop(checked);
    wait_for("both lines are there", || lines_of(&path).len() == 2);
    for line in lines_of(&path) {
        serde_json::from_str::<serde_json::Value>(&line).unwrap();
    }
}

#[test]
fn nothing_is_opened_before_the_first_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let _checked = check::<AccessLogKind>(&format!("{{ file: {} }}", path.display()));
    assert!(!path.exists());
}

#[test]
fn mistakes_are_refused_with_what_to_write_instead() {
    let mut seen = String::new();
    for yaml in [
        "{ file: stderr, rotate: { every: 5s, size: 1KiB, keep: 0 } }",
        "{ rotate: { every: 1d } }",
        "{ file: \"off\" }",
        "{ file: /tmp, formt: jsn }",
        "{ file: /tmp }",
    ] {
        seen.push_str(&refused::<AccessLogKind>(yaml).join("\n"));
        seen.push('\n');
    }
    insta::assert_snapshot!(seen, @"
    the access log cannot go to `stderr`, where the gateway's own messages go; help: write `file: stdout`, or a path
    `every: 5s` is shorter than a minute; help: write `1min` or more, such as `1d`
    `size: 1KiB` is smaller than 64KiB; help: write a size such as `100MiB`
    `keep: 0` is not between 1 and 1000; help: write how many old files to keep, such as `7`
    stdout cannot be rotated; help: remove `rotate`, or name a `file`
    `off` is no file; help: write `file: stdout` or a path; `access_log: false` switches it off
    unknown key `formt`; help: did you mean `format`?
    `/tmp` is a folder; help: write the path of a file in it, such as `access.log`
    ");
}
