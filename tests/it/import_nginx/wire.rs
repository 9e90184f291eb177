//! Client that sends bytes as they are written, and takes whatever comes back.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpSocket,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::support::client::find;

const PATIENCE: Duration = Duration::from_secs(8);

/// Bytes of a request.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    pub(super) is_head: bool,
}

/// Response as it arrived; status 0 if there was none.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) status: u16,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// The connection takes another request, as the headers say.
    pub(super) is_kept: bool,
    /// Reason why the body or the response is not complete.
    pub(super) broken: Option<String>,
}

impl Outcome {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str())
    }

    fn broken(why: &str) -> Self {
        Self {
            broken: Some(why.to_owned()),
            ..Self::default()
        }
    }
}

/// Sends requests one after the other on one connection; also returns the client's port.
pub(super) async fn send(
    from: Ipv4Addr,
    to: SocketAddr,
    tls: Option<(Arc<ClientConfig>, String)>,
    messages: &[Message],
) -> (u16, Vec<Outcome>) {
    let opened = async {
        let socket = TcpSocket::new_v4()?;
        // The kernel finds a port sooner if it does so at the connect.
        if from != Ipv4Addr::LOCALHOST {
            socket.bind((from, 0).into())?;
        }
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        let port = stream.local_addr()?.port();
        io::Result::Ok((stream, port))
    };
    let (stream, port) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return (0, vec![Outcome::broken(&format!("no connection: {error}"))]),
    };
    let Some((config, name)) = tls else {
        return (port, exchange(stream, messages).await);
    };
    let name = ServerName::try_from(name).expect("it is a name");
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => (port, exchange(stream, messages).await),
        Err(_) => (port, vec![Outcome::broken("no handshake")]),
    }
}

async fn exchange<S: AsyncRead + AsyncWrite>(stream: S, messages: &[Message]) -> Vec<Outcome> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut buffer = Vec::new();
    let mut all = Vec::new();
    for message in messages {
        let reading = async {
            let outcome = timeout(PATIENCE, read(&mut reader, &mut buffer, message.is_head)).await;
            outcome.unwrap_or_else(|_| Outcome::broken("nothing came"))
        };
        let outcome = {
            let mut writing = std::pin::pin!(writer.write_all(&message.bytes));
            let mut reading = std::pin::pin!(reading);
            // A response may come before the end of the request.
            tokio::select! {
                biased;
                outcome = &mut reading => outcome,
                _ = &mut writing => reading.await,
            }
        };
        let is_upgraded = outcome.status == 101;
        let is_last = !outcome.is_kept || is_upgraded || outcome.broken.is_some();
        all.push(outcome);
        if is_upgraded {
            let echoed = tunnel(&mut reader, &mut writer, &mut buffer).await;
            if let Some(outcome) = all.last_mut() {
                outcome.body = echoed;
            }
        }
        if is_last {
            break;
        }
    }
    all
}

/// Sends some bytes through an upgraded connection and returns those that come back.
async fn tunnel<R, W>(reader: &mut R, writer: &mut W, buffer: &mut Vec<u8>) -> Vec<u8>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if writer.write_all(b"ping!").await.is_err() {
        return Vec::new();
    }
    while buffer.len() < 5 {
        match timeout(PATIENCE, reader.read_buf(buffer)).await {
            Ok(Ok(1..)) => {}
            _ => break,
        }
    }
    std::mem::take(buffer)
}

async fn read<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut Vec<u8>,
    is_head: bool,
) -> Outcome {
    loop {
        while find(buffer, b"\r\n\r\n").is_none() {
            match reader.read_buf(buffer).await {
                Ok(1..) => {}
                _ if buffer.is_empty() => return Outcome::broken("closed"),
                _ => return Outcome::broken("closed within the headers"),
            }
        }
        let end = find(buffer, b"\r\n\r\n").map_or(0, |end| end + 4);
        let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end);
        let mut outcome = headers(&text);
        if (100..200).contains(&outcome.status) && outcome.status != 101 {
            continue;
        }
        let has_none = is_head || matches!(outcome.status, 101 | 204 | 304);
        if !has_none && let Err(why) = body(reader, buffer, &mut outcome).await {
            outcome.broken = Some(why);
        }
        return outcome;
    }
}

fn headers(text: &str) -> Outcome {
    let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let fields = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    let fields: Vec<(String, String)> = fields.collect();
    let is_close = fields
        .iter()
        .any(|(name, value)| name == "connection" && value.eq_ignore_ascii_case("close"));
    let is_old = first.starts_with("HTTP/1.0");
    Outcome {
        status: status.unwrap_or_default(),
        is_kept: !is_close && !is_old,
        fields,
        ..Outcome::default()
    }
}

async fn body<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut Vec<u8>,
    outcome: &mut Outcome,
) -> Result<(), String> {
    if outcome.header("transfer-encoding").is_some() {
        loop {
            while find(buffer, b"\r\n").is_none() {
                more(reader, buffer).await?;
            }
            let end = find(buffer, b"\r\n").unwrap_or_default();
            let digits = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let size = usize::from_str_radix(digits.trim(), 16).map_err(|_| "bad chunk")?;
            while buffer.len() < end + 2 + size + 2 {
                more(reader, buffer).await?;
            }
            outcome.body.extend(&buffer[end + 2..end + 2 + size]);
            buffer.drain(..end + 2 + size + 2);
            if size == 0 {
                return Ok(());
            }
        }
    }
    let Some(length) = outcome.header("content-length") else {
        outcome.is_kept = false;
        while more(reader, buffer).await.is_ok() {}
        outcome.body = std::mem::take(buffer);
        return Ok(());
    };
    let length: usize = length.parse().map_err(|_| "bad length")?;
    while buffer.len() < length {
        if let Err(why) = more(reader, buffer).await {
            outcome.body = std::mem::take(buffer);
            return Err(why);
        }
    }
    outcome.body = buffer.drain(..length).collect();
    Ok(())
}

async fn more<R: AsyncRead + Unpin>(reader: &mut R, buffer: &mut Vec<u8>) -> Result<(), String> {
    match reader.read_buf(buffer).await {
        Ok(1..) => Ok(()),
        _ => Err("truncated".to_owned()),
    }
}
