//! Probes: a question to a part of a site, and a good or bad response.

use std::{path::Path, str::FromStr, time::Duration};

use edgeway_base::secret::Secret;
use edgeway_net::{fetch::Fetch, redis::Url};
use edgeway_status::client::Client;
use http::{Request, Uri};
use redis::IntoConnectionInfo;
use tokio::{net::TcpStream, time::timeout};

use super::mongodb;

/// A named probe.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub(super) name: String,
    pub(super) kind: ProbeKind,
}

/// Kind of a probe, and its destination.
#[derive(Clone, Debug)]
pub(super) enum ProbeKind {
    Http(Uri),
    Gateway(Client),
    Redis {
        url: Secret,
        password: Option<Secret>,
    },
    Mongodb(String),
    Tcp(String),
}

/// Why a probe failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) message: String,
    /// True if the program responds, and a restart would not help.
    pub(super) is_alive: bool,
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self {
            message,
            is_alive: false,
        }
    }
}

pub(super) fn named(text: &str, example: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(format!("write NAME={example}")),
    }
}

pub(super) fn http(text: &str) -> Result<Probe, String> {
    const EXAMPLE: &str = "URL, such as api=http://127.0.0.1:3000/health";
    let (name, url) = named(text, EXAMPLE)?;
    let url: Uri = url
        .parse()
        .map_err(|error| format!("invalid URL: {error}"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none() {
        return Err(format!(
            "`{url}` is no http or https URL; write NAME={EXAMPLE}"
        ));
    }
    let kind = ProbeKind::Http(url);
    Ok(Probe { name, kind })
}

pub(super) fn redis(text: &str) -> Result<Probe, String> {
    const EXAMPLE: &str = "URL, such as redis=redis://127.0.0.1:6379";
    let (name, url) = named(text, EXAMPLE)?;
    // Its messages never repeat the URL, which may hold a password.
    Url::from_str(&url).map_err(|error| format!("{error}; write NAME={EXAMPLE}"))?;
    let kind = ProbeKind::Redis {
        url: Secret::new(url.as_str()),
        password: None,
    };
    Ok(Probe { name, kind })
}

pub(super) fn mongodb(text: &str) -> Result<Probe, String> {
    at(text, "mongodb=127.0.0.1:27017", ProbeKind::Mongodb)
}

pub(super) fn tcp(text: &str) -> Result<Probe, String> {
    at(text, "smtp=mail.example.com:25", ProbeKind::Tcp)
}

/// Reads a probe of an address.
fn at(text: &str, example: &str, kind: fn(String) -> ProbeKind) -> Result<Probe, String> {
    let (name, address) = named(text, &format!("HOST:PORT, such as {example}"))?;
    let port = address
        .rsplit_once(':')
        .map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(Probe {
            name,
            kind: kind(address),
        }),
        _ => Err(format!("`{address}` has no port; write such as {example}")),
    }
}

impl ProbeKind {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Gateway(_) => "gateway",
            Self::Redis { .. } => "redis",
            Self::Mongodb(_) => "mongodb",
            Self::Tcp(_) => "tcp",
        }
    }

    /// Sets the password of a Redis whose URL has none.
    pub(super) fn set_password(&mut self, new: &Secret) {
        if let Self::Redis { password, .. } = self {
            *password = Some(new.clone());
        }
    }

    /// Asks once.
    ///
    /// # Errors
    ///
    /// Why the response is bad, or that there is none in time.
    pub(super) async fn ask(&self, deadline: Duration) -> Result<(), Failure> {
        let asked = async {
            match self {
                Self::Http(url) => fetch(url, deadline).await?,
                Self::Gateway(client) => ready(client).await?,
                Self::Redis { url, password } => ping_redis(url, password.as_ref()).await?,
                Self::Mongodb(address) => mongodb::ping(connect(address).await?).await?,
                Self::Tcp(address) => drop(connect(address).await?),
            }
            Ok(())
        };
        let late = || Failure::from(format!("no response within {} s", deadline.as_secs_f64()));
        timeout(deadline, asked).await.map_err(|_| late())?
    }
}

async fn fetch(url: &Uri, deadline: Duration) -> Result<(), String> {
    let client = Fetch::to(url, Path::new(""), None).map_err(|error| error.to_string())?;
    let mut request = Request::new(());
    *request.uri_mut() = url.clone();
    let response = client.measure(request, deadline).await;
    let status = response.map_err(|error| error.to_string())?.status();
    if status.as_u16() < 400 {
        Ok(())
    } else {
        Err(format!("status {}", status.as_u16()))
    }
}

async fn ready(client: &Client) -> Result<(), Failure> {
    let readiness = client.readiness().await;
    let readiness = readiness.map_err(|error| Failure::from(error.to_string()))?;
    if readiness.ready {
        return Ok(());
    }
    Err(Failure {
        message: format!("not ready: {}", readiness.reasons.join("; ")),
        is_alive: true,
    })
}

async fn ping_redis(url: &Secret, password: Option<&Secret>) -> Result<(), String> {
    let ping = async {
        let mut info = url.reveal().into_connection_info()?;
        if let Some(password) = password
            && info.redis_settings().password().is_none()
        {
            let settings = info.redis_settings().clone();
            info = info.set_redis_settings(settings.set_password(password.reveal()));
        }
        let client = redis::Client::open(info)?;
        // The deadline is ours.
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        redis::cmd("PING")
            .query_async::<String>(&mut connection)
            .await
    };
    let asked: redis::RedisResult<String> = ping.await;
    match asked {
        Ok(reply) if reply == "PONG" => Ok(()),
        Ok(reply) => Err(format!("PING returned `{reply}`")),
        Err(error) => Err(error.to_string()),
    }
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    let connected = TcpStream::connect(address).await;
    connected.map_err(|error| format!("cannot connect: {error}"))
}
