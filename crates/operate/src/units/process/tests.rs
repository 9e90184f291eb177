//! Tests of processes as /proc has them, and the files that others write.

use super::*;
use edgeway_base::clock::Clock;

/// Writes what /proc has of a process, on a machine that started at the time 1,800,000,000.
pub(in crate::units) fn write_process(folder: &Path, pid: u32, name: &str, seconds: u64) {
    let own = folder.join(pid.to_string());
    fs::create_dir_all(&own).unwrap();
    fs::create_dir_all(folder.join("self")).unwrap();
    fs::write(folder.join("stat"), "cpu  1 2\nbtime 1800000000\n").unwrap();
    fs::write(folder.join("uptime"), "100000.25 7.00\n").unwrap();
    fs::write(folder.join("self/comm"), "mine\n").unwrap();
    fs::write(own.join("comm"), format!("{name}\n")).unwrap();
    let zeros = "0 ".repeat(18);
    let ticks = seconds * TICKS;
    let stat = format!("{pid} ({name}) x) S {zeros}{ticks} 5 6\n");
    fs::write(own.join("stat"), stat).unwrap();
}

pub(in crate::units) fn gateway() -> Snapshot {
    Snapshot {
        pid: 7,
        // 500 s after the start of that machine.
        started: "2027-01-15T08:08:20.250Z".into(),
        ..Snapshot::default()
    }
}

/// Invariant: units are shown only beside the gateway's own process, whatever forwards its
/// socket or its address.
#[test]
fn a_process_with_another_name_or_start_is_not_the_gateway() {
    for (pid, name, seconds, is_it) in [
        (7, "edgeway", 500, true),
        (7, "edgeway", 470, true),
        (7, "mine", 499, true),
        (8, "edgeway", 500, false),
        (7, "systemd", 500, false),
        (7, "edgeway", 1, false),
        (7, "edgeway", 9000, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write_process(folder.path(), pid, name, seconds);
        let found = is_process(folder.path(), &gateway());
        assert_eq!(found, is_it, "{pid} {name} {seconds}");
    }
    assert!(!is_process(Path::new("/nowhere"), &gateway()));
    // The clock was set by an hour after the start, which the kernel's time of boot follows.
    let folder = tempfile::tempdir().unwrap();
    write_process(folder.path(), 7, "edgeway", 500);
    let mut late = gateway();
    late.started = "2027-01-15T07:08:20Z".into();
    assert!(!is_process(folder.path(), &late));
    late.uptime_seconds = 99_480;
    assert!(is_process(folder.path(), &late));
    // A real one, as the kernel reports it.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("edgeway");
    std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
    let mut child = std::process::Command::new(program)
        .arg("60")
        .spawn()
        .unwrap();
    let now = DateTime::<chrono::Utc>::from(Clock::machine().wall());
    let real = Snapshot {
        pid: child.id(),
        started: now.to_rfc3339(),
        ..Snapshot::default()
    };
    // The kernel lets this process go on before the other one has its name.
    let found = (0..100_000).any(|_| is_process(Path::new("/proc"), &real));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(found);
}
