//! The gateway as process 1 of a container, which ends with it.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    client::{self, get},
    namespaces,
    ports::free_port,
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(10);

/// Namespaces of a container's processes.
const CONTAINER: [&str; 4] = ["--pid", "--fork", "--mount-proc", "--kill-child"];

#[tokio::test]
async fn process_1_of_a_container_stays_and_ends_with_the_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let config = format!(
        "listeners: [{{ address: \"127.0.0.1:{port}\" }}]\nadmin: {{ address: off, socket: {}/a.sock }}\nroutes: [{{ match: {{ path: /* }}, respond: {{ status: 200, body: ok }} }}]\n",
        dir.path().display()
    );
    fs::write(dir.path().join("edgeway.yaml"), config).unwrap();
    let ready = dir.path().join("ready.json");
    let log = dir.path().join("stderr");
    let stderr = fs::File::create(&log).unwrap();
    let Some(container) = namespaces::unshare(&CONTAINER, "true") else {
        return;
    };
    let mut container = Command::new("unshare")
        .args(container)
        .arg(env!("CARGO_BIN_EXE_edgeway"))
        .args(["run", "-c", "edgeway.yaml"])
        .env("EDGEWAY_READY_FILE", &ready)
        .env("XDG_STATE_HOME", dir.path())
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .expect("unshare is part of any Linux");
    let serving = async |not: u64| {
        wait_for("another process serves", SOON, async || {
            let text = fs::read_to_string(&ready).ok()?;
            let ready: serde_json::Value = serde_json::from_str(&text).ok()?;
            ready["pid"].as_u64().filter(|pid| *pid != not)
        })
        .await
    };
    let first = serving(0).await;
    assert_eq!(first, 1);
    let id = container.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let init = Pid::from_raw(children.trim().parse().unwrap()).unwrap();
    let address = ([127, 0, 0, 1], port).into();
    let mut newest = first;
    for upgrades in 1..=2 {
        // From the second time on, the signal reaches the serving process through process 1.
        kill_process(init, Signal::USR2).unwrap();
        newest = serving(newest).await;
        let response = client::send(address, &get("/")).await.unwrap();
        assert_eq!(response.status(), 200);
        wait_for("process 1 learns which one serves", SOON, async || {
            let lines = fs::read_to_string(&log).unwrap();
            (lines.matches("takeover complete").count() == upgrades).then_some(())
        })
        .await;
    }
    assert!(container.try_wait().unwrap().is_none());
    kill_process(init, Signal::TERM).unwrap();
    let status = wait_for("the container has ended", SOON, async || {
        container.try_wait().unwrap()
    })
    .await;
    assert_eq!(status.code(), Some(0));
}
