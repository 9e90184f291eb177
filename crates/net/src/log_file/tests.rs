//! Tests of the log's contents under disk failures, renames and load.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use edgeway_base::{clock::Clock, metrics::Metrics};
use parking_lot::Mutex;

use super::{
    LogKind, LogMetrics, RotationPolicy, Target, WriterHandle,
    writer::{reopen, testkit::is_open},
};

const COUNTED: LogKind = LogKind {
    name: "test log",
    written: ("edgeway_test_lines_total", "Lines written."),
    dropped: ("edgeway_test_dropped_total", "Lines lost."),
    failing: ("edgeway_test_failing", "Files that cannot be written."),
};

/// Longer than any wait of a passing test.
const PATIENCE: Duration = Duration::from_secs(20);

/// Held by tests that reopen every log, or that fail if another test does.
static REOPENING: Mutex<()> = Mutex::new(());

/// A log in its own folder.
struct Log {
    folder: tempfile::TempDir,
    clock: Clock,
    metrics: Metrics,
    rotation: RotationPolicy,
    capacity: usize,
}

impl Log {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Clock::test(),
            metrics: Metrics::default(),
            rotation: RotationPolicy::NEVER,
            capacity: 8 * 1024 * 1024,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }

    fn user(&self) -> WriterHandle {
        self.user_of(&Target::File(self.path()))
    }

    fn user_of(&self, target: &Target) -> WriterHandle {
        WriterHandle::join_sized(
            target,
            self.rotation.clone(),
            &self.clock,
            &LogMetrics::new(&self.metrics, &COUNTED),
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
        self.count("edgeway_test_lines_total")
    }

    fn dropped(&self) -> u64 {
        self.count("edgeway_test_dropped_total")
    }

    fn is_failing(&self) -> bool {
        self.count("edgeway_test_failing") == 1
    }

    /// Every line in the folder, in the current file and the archives.
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

fn push(user: &WriterHandle, line: &str) {
    user.push(|out, _| {
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    });
}

#[track_caller]
fn wait_for(description: &str, mut is_true: impl FnMut() -> bool) {
    let clock = Clock::machine();
    let end = clock.now() + PATIENCE;
    while !is_true() {
        assert!(
            clock.now() < end,
            "{description}: not so after {PATIENCE:?}"
        );
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
fn a_line_that_another_process_did_not_finish_stands_alone() {
    let log = Log::new();
    std::fs::write(log.path(), "whole\nhal").unwrap();
    push(&log.user(), "next");
    wait_written(&log, 1);
    assert_eq!(lines_of(&log.path()), ["whole", "hal", "next"]);
}

#[test]
fn every_line_of_many_threads_arrives_once_and_complete() {
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
    // Cannot be opened: the path's folder is a file.
    std::fs::write(log.folder.path().join("file"), "").unwrap();
    let user = log.user_of(&Target::File(log.folder.path().join("file/access.log")));
    for _ in 0..1000 {
        push(&user, &"x".repeat(99));
    }
    let dropped = log.dropped();
    assert!((900..1000).contains(&dropped), "{dropped}");
    assert_eq!(log.written(), 0);
    // Pending lines are discarded when the last filter that logs here is gone.
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
    // Space is available again: the same path leads to a good file.
    std::fs::remove_file(&full).unwrap();
    reopen();
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
    // The path is checked once a second.
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
    log.rotation = RotationPolicy {
        every: None,
        size: Some(1000),
        keep: 20,
        compress: false,
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

    // With a smaller `keep`, surplus archives are deleted at the next rotation.
    log.rotation = RotationPolicy {
        every: None,
        size: Some(1000),
        keep: 3,
        compress: false,
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

/// S-83: nine forced rotations leave seven archives, and no line is lost to compression, as `gzip`
/// reads them.
#[test]
fn archives_are_compressed_while_lines_are_written() {
    let mut log = Log::new();
    log.rotation = RotationPolicy {
        every: Some(Duration::from_hours(24)),
        size: None,
        keep: 7,
        compress: true,
    };
    let user = log.user();
    for day in 0..10 {
        for line in 0..1000 {
            push(&user, &format!("day {day} line {line}"));
        }
        wait_written(&log, (day + 1) * 1000);
        log.clock.advance(Duration::from_hours(24));
    }
    let path = |number: u32, end: &str| {
        let name = format!("access.log.{number}{end}");
        log.folder.path().join(name)
    };
    wait_for("all but the newest are compressed", || {
        (2..=7).all(|number| path(number, ".gz").exists() && !path(number, "").exists())
    });
    // The log itself, seven archives, and nothing unfinished.
    assert_eq!(std::fs::read_dir(log.folder.path()).unwrap().count(), 8);
    assert_eq!(lines_of(&path(1, "")).len(), 1000);
    for number in 2..=7 {
        let read = std::process::Command::new("gzip")
            .arg("-dc")
            .arg(path(number, ".gz"))
            .output()
            .unwrap();
        let text = String::from_utf8(read.stdout).unwrap();
        let day = 9 - number;
        let expected = (0..1000).map(|line| format!("day {day} line {line}"));
        assert!(
            text.lines().eq(expected),
            "access.log.{number}.gz: {text:.100}"
        );
    }
}

/// Reads datagrams until there are `count`.
fn received(socket: &std::os::unix::net::UnixDatagram, count: usize) -> Vec<Vec<u8>> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut room = vec![0; 1 << 18];
    let read = (0..count).map(|_| {
        let length = socket.recv(&mut room).unwrap();
        room[..length].to_vec()
    });
    read.collect()
}

/// A journal that restarts loses no line that was logged while it was gone.
#[test]
fn lines_reach_the_journal_with_their_fields() {
    let log = Log::new();
    let path = log.folder.path().join("journal.sock");
    let journal = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let user = log.user_of(&Target::Journald(path.clone()));
    push(&user, r#"{"status":200,"route":"shop"}"#);
    push(&user, "second");
    let datagrams = received(&journal, 2);
    let fields = super::journald::tests::read(&datagrams[0]);
    assert!(fields.contains(&("EDGEWAY_ROUTE".to_owned(), b"shop".to_vec())));
    let fields = super::journald::tests::read(&datagrams[1]);
    assert_eq!(fields[0], ("MESSAGE".to_owned(), b"second".to_vec()));
    drop(journal);
    std::fs::remove_file(&path).unwrap();
    push(&user, "third");
    wait_for("the failure is noticed", || log.is_failing());
    let journal = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let fields = super::journald::tests::read(&received(&journal, 1)[0]);
    assert_eq!(fields[0].1, b"third");
    assert_eq!(log.dropped(), 0);
}

/// Checks `<134>1 TIME HOST edgeway PID test-log - LINE`, and returns the line.
fn syslog_line(message: &[u8]) -> String {
    let text = String::from_utf8(message.to_vec()).unwrap();
    let words: Vec<&str> = text.splitn(8, ' ').collect();
    assert_eq!(
        (words[0], words[3], words[5], words[6]),
        ("<134>1", "edgeway", "test-log", "-")
    );
    assert!(words[1].ends_with('Z') && words[1].len() == 24, "{text}");
    assert_eq!(words[4], std::process::id().to_string());
    words[7].to_owned()
}

#[test]
fn lines_reach_syslog_over_each_transport() {
    let log = Log::new();
    let path = log.folder.path().join("syslog.sock");
    let unix = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = |text: String| Target::Syslog(text.parse().unwrap());
    let mut room = vec![0; 1 << 16];

    let user = log.user_of(&address(format!("syslog:unix:{}", path.display())));
    push(&user, "one two");
    assert_eq!(syslog_line(&received(&unix, 1)[0]), "one two");

    let user = log.user_of(&address(format!(
        "syslog:udp://{}",
        udp.local_addr().unwrap()
    )));
    push(&user, "one two");
    let length = udp.recv(&mut room).unwrap();
    assert_eq!(syslog_line(&room[..length]), "one two");

    let user = log.user_of(&address(format!(
        "syslog:tcp://{}",
        tcp.local_addr().unwrap()
    )));
    for line in 0..100 {
        push(&user, &format!("line {line}"));
    }
    let (mut stream, _) = tcp.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let lines = counted_lines(&mut stream, 100);
    let expected: Vec<_> = (0..100).map(|line| format!("line {line}")).collect();
    assert_eq!(lines, expected);
}

/// Reads messages with octet counting until the connection ends or `wanted` lines came. A message
/// that the end cuts off is left out.
fn counted_lines(stream: &mut std::net::TcpStream, wanted: usize) -> Vec<String> {
    use std::io::Read as _;
    let mut lines = Vec::new();
    while lines.len() < wanted {
        let mut count = Vec::new();
        while count.last() != Some(&b' ') {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_err() {
                return lines;
            }
            count.push(byte[0]);
        }
        let count = std::str::from_utf8(&count).unwrap();
        let mut message = vec![0; count.trim().parse().unwrap()];
        if stream.read_exact(&mut message).is_err() {
            return lines;
        }
        lines.push(syslog_line(&message));
    }
    lines
}

#[test]
fn a_server_that_stalls_loses_no_line_and_reads_whole_messages() {
    const LINES: usize = 100;
    let mut log = Log::new();
    log.capacity = 64 << 20;
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("syslog:tcp://{}", tcp.local_addr().unwrap());
    let user = log.user_of(&Target::Syslog(address.parse().unwrap()));
    // More than the buffers of both sockets take.
    let line = |number: usize| format!("{number} {}", "x".repeat(150_000));
    for number in 0..LINES {
        push(&user, &line(number));
    }
    // Nothing is read before the writer has given the first connection up.
    let stalled = [tcp.accept().unwrap().0, tcp.accept().unwrap().0];
    let mut lines = Vec::new();
    for mut stream in stalled
        .into_iter()
        .chain(tcp.incoming().map(Result::unwrap))
    {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        lines.extend(counted_lines(&mut stream, LINES - lines.len()));
        if lines.len() == LINES {
            break;
        }
    }
    for (number, received) in lines.iter().enumerate() {
        assert!(*received == line(number), "line {number} is another one");
    }
    wait_for("it is written again", || !log.is_failing());
    assert_eq!(log.dropped(), 0);
}

#[test]
fn a_line_that_no_datagram_can_carry_counts_as_lost() {
    let log = Log::new();
    let path = log.folder.path().join("syslog.sock");
    let unix = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let target = format!("syslog:unix:{}", path.display());
    let user = log.user_of(&Target::Syslog(target.parse().unwrap()));
    push(&user, &"x".repeat(1 << 20));
    wait_for("the long line is given up", || log.dropped() == 1);
    push(&user, "short");
    assert_eq!(syslog_line(&received(&unix, 1)[0]), "short");
    wait_written(&log, 1);
    assert_eq!((log.dropped(), log.is_failing()), (1, false));
}

#[test]
fn days_turn_while_running_and_across_a_restart() {
    let mut log = Log::new();
    log.rotation = RotationPolicy {
        every: Some(Duration::from_hours(24)),
        size: None,
        keep: 7,
        compress: false,
    };
    // Left behind by an old process.
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
    reopen();
    wait_for("the new file is there", || log.path().exists());
    push(&user, "three");
    wait_written(&log, 3);
    assert_eq!(lines_of(&moved), ["one", "two"]);
    assert_eq!(lines_of(&log.path()), ["three"]);

    // Without a signal, the move is noticed within a second.
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
    wait_for("the writer ends", || !is_open(&log.path()));
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
