//! Third-party backends as processes: each ends when its value is dropped.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::support::{files::tail, ports::free_port, wait::until};

const READY_WITHIN: Duration = Duration::from_secs(30);

/// Server program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `origin.js`, on Node's `http` and `ws`.
    Node,
    /// `origin.py`, on uvicorn.
    Uvicorn,
    /// `server.py`, on Python's `websockets`: no HTTP except WebSocket handshakes.
    Websockets,
    Nginx,
    Haproxy,
    Caddy,
}

/// Running backend process.
pub(super) struct Peer {
    kind: Kind,
    port: u16,
    child: Child,
    dir: TempDir,
}

pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps/peers")
}

pub(super) fn python() -> Command {
    let python = folder().join(".venv/bin/python");
    assert!(
        python.exists(),
        "there is no {}: run `make test`, or tests/apps/build.sh",
        python.display()
    );
    let mut command = Command::new(python);
    command
        .current_dir(folder())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

impl Peer {
    pub(super) async fn start(kind: Kind) -> Self {
        Self::start_before(kind, None).await
    }

    /// Starts a proxy that forwards to `origin`.
    pub(super) async fn start_before(kind: Kind, origin: Option<&Self>) -> Self {
        let mut log = String::new();
        // Another process on this machine may take the port before the bind.
        for _ in 0..5 {
            let port = free_port();
            let dir = tempfile::tempdir().expect("a folder for the test can be made");
            let output = fs::File::create(dir.path().join("output")).expect("the folder is ours");
            let errors = output.try_clone().expect("a file can be shared");
            let child = command(kind, port, origin.map(|origin| origin.port), dir.path())
                .stdin(Stdio::piped())
                .stdout(output)
                .stderr(errors)
                .kill_on_drop(true)
                .spawn();
            let child = child.unwrap_or_else(|error| {
                panic!("{kind:?} does not start: {error}: `make setup-tests` installs it")
            });
            let mut peer = Self {
                kind,
                port,
                child,
                dir,
            };
            if peer.is_ready().await {
                return peer;
            }
            log = tail(&peer.dir.path().join("output"));
        }
        panic!("{kind:?} did not start:\n{log}");
    }

    async fn is_ready(&mut self) -> bool {
        let address = self.address();
        let child = &mut self.child;
        let ready = until(READY_WITHIN, &mut async || {
            if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return Some(false);
            }
            TcpStream::connect(address).await.ok().map(|_| true)
        })
        .await;
        ready.unwrap_or(false)
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Kills the process: new connections are refused.
    pub(super) async fn kill(&mut self) {
        self.child.kill().await.expect("it runs");
    }
}

/// Builds the command; each server closes connections that idle for a second.
#[allow(clippy::too_many_lines, reason = "a list, each of its parts by itself")]
fn command(kind: Kind, port: u16, origin: Option<u16>, dir: &Path) -> Command {
    let write = |name: &str, text: String| {
        let file = dir.join(name);
        fs::write(&file, text).expect("the folder is ours");
        file
    };
    let behind = || origin.expect("it passes on what it gets");
    let home = dir.display();
    match kind {
        Kind::Node => {
            let mut node = Command::new("node");
            let end = folder().join("../end-with-parent.js");
            node.arg("--import").arg(end).arg("origin.js");
            node.current_dir(folder()).env("PORT", port.to_string());
            node
        }
        Kind::Uvicorn => {
            let mut uvicorn = python();
            uvicorn.args(["-m", "uvicorn", "origin:app", "--timeout-keep-alive", "1"]);
            uvicorn
                .args(["--ws-max-size", "67108864", "--port"])
                .arg(port.to_string());
            uvicorn
        }
        Kind::Websockets => {
            let mut server = python();
            server.arg("server.py").arg(port.to_string());
            server
        }
        Kind::Nginx => {
            let config = write(
                "nginx.conf",
                format!(
                    "daemon off; master_process off; pid {home}/pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_max_body_size 0; keepalive_timeout 1s;
  client_body_temp_path {home}/a; proxy_temp_path {home}/b; fastcgi_temp_path {home}/c;
  uwsgi_temp_path {home}/d; scgi_temp_path {home}/e;
  map $http_upgrade $becomes {{ default upgrade; '' ''; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{}; proxy_http_version 1.1; proxy_buffering off;
      proxy_request_buffering off; proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $becomes;
    }}
  }}
}}
",
                    behind()
                ),
            );
            let mut nginx = Command::new("/usr/sbin/nginx");
            nginx.arg("-p").arg(dir).arg("-c").arg(config);
            nginx
        }
        Kind::Haproxy => {
            let config = write(
                "haproxy.cfg",
                format!(
                    "defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
  timeout http-keep-alive 1s
frontend front
  bind 127.0.0.1:{port}
  default_backend app
backend app
  server origin 127.0.0.1:{}
",
                    behind()
                ),
            );
            let mut haproxy = Command::new("/usr/sbin/haproxy");
            haproxy.arg("-db").arg("-f").arg(config);
            haproxy
        }
        Kind::Caddy => {
            let config = write(
                "Caddyfile",
                format!(
                    "{{
  admin off
  auto_https off
  servers {{
    timeouts {{
      idle 1s
    }}
  }}
}}
http://:{port} {{
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:{} {{
    flush_interval -1
  }}
}}
",
                    behind()
                ),
            );
            let mut caddy = Command::new("caddy");
            caddy
                .args(["run", "--adapter", "caddyfile", "--config"])
                .arg(config);
            caddy
                .env("HOME", dir)
                .env("XDG_DATA_HOME", dir)
                .env("XDG_CONFIG_HOME", dir);
            caddy
        }
    }
}
