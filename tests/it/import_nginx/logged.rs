//! Access logs of an imported configuration beside those of nginx.

use std::{collections::BTreeSet, fs, time::Duration};

use fastrand::Rng;
use tokio::process::Command;

use crate::support::{
    client::{self, get},
    files::read_text,
    gateway::Gateway,
    nginx::Nginx,
    seed,
    wait::wait_for,
};

/// Returns locations in locations, each with an `access_log` of its own or that of its parent.
fn locations(
    random: &mut Rng,
    log: &str,
    path: &str,
    depth: u32,
    paths: &mut Vec<String>,
) -> String {
    let mut all = Vec::new();
    for name in ["a", "b"] {
        let path = format!("{path}{name}/");
        let inner = match depth {
            0 => String::new(),
            _ => locations(random, log, &path, depth - 1, paths),
        };
        let own = written(random, log);
        all.push(format!(
            "location {path} {{ {own} return 200 x; {inner} }}\n"
        ));
        paths.push(path);
    }
    all.concat()
}

fn written(random: &mut Rng, log: &str) -> String {
    match random.u8(..4) {
        0 => "access_log off;".to_owned(),
        1 => format!("access_log {log};"),
        _ => String::new(),
    }
}

/// Invariant: a request is in the gateway's access log if, and only if, nginx writes it into one.
#[tokio::test]
async fn requests_that_nginx_does_not_log_are_not_logged() {
    let mut random = Rng::with_seed(seed::drawn());
    let (mut silent, mut logged) = (0, 0);
    for _ in 0..seed::cases(4, 40) {
        let home = tempfile::tempdir().expect("a folder for the test can be made");
        let log = home.path().join("theirs.log").display().to_string();
        let mut paths = Vec::new();
        let nginx = Nginx::start(home.path(), |address| {
            let of_server = written(&mut random, &log);
            let inner = locations(&mut random, &log, "/", 2, &mut paths);
            format!(
                "access_log {log}; server {{ listen {address}; {of_server} {inner}
                 location = /last {{ access_log {log}; return 200 x; }} }}"
            )
        })
        .await;
        // The last request is logged by both, so that the logs are known to be complete.
        paths.push("/last".to_owned());
        let result = home.path().join("edgeway.yaml");
        let ran = Command::new(env!("CARGO_BIN_EXE_edgeway"))
            .args(["import", "nginx"])
            .arg(home.path().join("nginx.conf"))
            .arg("--out")
            .arg(&result)
            .output()
            .await
            .expect("the program runs");
        let report = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success(), "{report}");
        let yaml = fs::read_to_string(&result).expect("it is written");
        let port = format!(":{}\"", nginx.address.port());
        let gateway = Gateway::start(&yaml.replacen(&port, ":0\"", 1)).await;
        for path in &paths {
            for address in [nginx.address, gateway.address()] {
                let response = client::send(address, &get(path))
                    .await
                    .expect("it responds");
                assert_eq!(response.status(), 200, "{path}: {yaml}");
            }
        }
        let theirs = wait_for("nginx's log", Duration::from_secs(10), async || {
            let text = read_text(&log).ok()?;
            text.contains("GET /last ").then_some(())?;
            let paths = text.lines().filter_map(|line| line.split(' ').nth(6));
            Some(paths.map(str::to_owned).collect::<BTreeSet<String>>())
        })
        .await;
        let lines = gateway.log_lines(theirs.len()).await;
        let own = lines.iter().filter_map(|line| line["path"].as_str());
        let own: BTreeSet<String> = own.map(str::to_owned).collect();
        assert_eq!(own, theirs, "{yaml}");
        logged += theirs.len();
        silent += paths.len() - theirs.len();
    }
    assert!(
        silent > 10 && logged > 10,
        "the control: {silent}, {logged}"
    );
}
