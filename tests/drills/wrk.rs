//! wrk, a third-party client: kept connections, as many requests as possible.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use tokio::process::{Child, Command};

/// Running wrk process.
pub(crate) struct Wrk(Child);

/// Results that wrk prints.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    /// Connections that failed, incomplete responses, timeouts, and statuses other than 2xx and
    /// 3xx.
    pub(crate) failed: u64,
}

impl Wrk {
    pub(crate) fn start(to: SocketAddr, connections: u32, length: Duration) -> Self {
        let child = Command::new("wrk")
            .args(["-t", "1", "-c", &connections.to_string()])
            .args(["-d", &format!("{}s", length.as_secs())])
            .arg(format!("http://{to}/wrk"))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        Self(child.expect("`make setup-drills` installs wrk"))
    }

    pub(crate) async fn end(self) -> Outcome {
        let output = self.0.wait_with_output().await;
        let output = output.expect("a child of ours can be waited for");
        Outcome::read(&String::from_utf8_lossy(&output.stdout))
    }
}

impl Outcome {
    fn read(output: &str) -> Self {
        let numbers = |line: &str| -> u64 {
            line.split(|c: char| !c.is_ascii_digit())
                .filter_map(|number| number.parse::<u64>().ok())
                .sum()
        };
        let mut outcome = Self::default();
        for line in output.lines().map(str::trim) {
            if line.contains(" requests in ") {
                let first = line.split(' ').next().unwrap_or_default();
                outcome.requests = first.parse().unwrap_or_default();
            } else if line.starts_with("Socket errors") {
                outcome.failed += numbers(line);
            } else if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses:") {
                outcome.failed += numbers(count);
            }
        }
        outcome
    }
}
