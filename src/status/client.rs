//! Asks a running gateway's admin listener, for `edgeway status` and the like.

use std::{fmt, io, net::SocketAddr, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::Snapshot;

/// Bound of a whole question.
const PATIENCE: Duration = Duration::from_secs(5);

/// No answer of ours comes near it.
const LONGEST_ANSWER: u64 = 64 * 1024 * 1024;

/// Where the gateway's admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Socket(PathBuf),
    Address(SocketAddr),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach a gateway at {target}: {source}")]
    Connect { target: Target, source: io::Error },
    #[error("the gateway at {target} gave no answer: {source}")]
    Answer { target: Target, source: io::Error },
    #[error("the gateway at {target} did not answer within 5 s")]
    Slow { target: Target },
    #[error("{target} does not answer as a gateway does")]
    Stranger { target: Target },
    #[error("the gateway at {target} answered {status}: {body}")]
    Refused {
        target: Target,
        status: u16,
        body: String,
    },
}

/// An answer: its status and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// The gateway's state.
///
/// # Errors
/// When nobody answers, or somebody who is no gateway.
pub async fn snapshot(target: &Target) -> Result<Snapshot, ClientError> {
    let answer = get(target, "/status").await?;
    if answer.status != 200 {
        return Err(ClientError::Refused {
            target: target.clone(),
            status: answer.status,
            body: String::from_utf8_lossy(&answer.body).trim().to_owned(),
        });
    }
    serde_json::from_slice(&answer.body).map_err(|_| ClientError::Stranger {
        target: target.clone(),
    })
}

/// `GET path`, within five seconds.
///
/// # Errors
/// When nobody answers, or not in HTTP.
pub async fn get(target: &Target, path: &str) -> Result<Answer, ClientError> {
    let connected = |source| ClientError::Connect {
        target: target.clone(),
        source,
    };
    let work = async {
        let answer = match target {
            Target::Socket(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(connected)?;
                ask(stream, path).await
            }
            Target::Address(address) => {
                let stream = TcpStream::connect(address).await.map_err(connected)?;
                ask(stream, path).await
            }
        };
        answer.map_err(|source| ClientError::Answer {
            target: target.clone(),
            source,
        })
    };
    let raw = timeout(PATIENCE, work)
        .await
        .map_err(|_| ClientError::Slow {
            target: target.clone(),
        })??;
    split(&raw).ok_or_else(|| ClientError::Stranger {
        target: target.clone(),
    })
}

/// HTTP/1.0, so that the body ends where the connection does.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> io::Result<Vec<u8>> {
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut raw = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut raw).await?;
    Ok(raw)
}

fn split(raw: &[u8]) -> Option<Answer> {
    let end = raw.windows(4).position(|window| window == b"\r\n\r\n")?;
    let line = std::str::from_utf8(raw.get(..12)?).ok()?;
    let status = line.strip_prefix("HTTP/1.")?.get(2..)?.parse().ok()?;
    Some(Answer {
        status,
        body: raw[end + 4..].to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_split() {
        let answer = split(b"HTTP/1.0 503 Nope\r\nA: b\r\n\r\nbody\r\n\r\nmore").unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.body, b"body\r\n\r\nmore");
        for raw in [
            "",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 200 OK",
        ] {
            assert_eq!(split(raw.as_bytes()), None, "{raw}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_address() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::Socket(folder.path().join("admin.sock"));
        let error = snapshot(&target).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot reach a gateway at "), "{error}");
        assert!(error.contains("admin.sock"), "{error}");
    }
}
