//! Backend that keeps whole requests, so that a test can compare each byte of them.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::client::find;

use super::server::Server;

/// Request as a backend got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) method: String,
    pub(crate) target: String,
    /// In the order of arrival, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Backend that keeps whole requests by the value of `x-number`, and responds as the test says.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    got: Kept,
    _server: Server,
}

/// Requests by their number.
type Kept = Arc<Mutex<HashMap<String, Vec<Got>>>>;

impl Recorder {
    /// Starts a backend with these responses. An empty one breaks the connection.
    pub(crate) async fn start(
        respond: impl Fn(&Got) -> Vec<u8> + Clone + Send + Sync + 'static,
    ) -> Self {
        let got = Kept::default();
        let all = Arc::clone(&got);
        let server = Server::start(move |stream| {
            let (all, respond) = (Arc::clone(&all), respond.clone());
            async move { serve(stream, &all, respond).await }
        })
        .await;
        Self {
            address: server.address(),
            got,
            _server: server,
        }
    }

    /// Takes out the requests with this number.
    pub(crate) fn take(&self, number: &str) -> Vec<Got> {
        self.got.lock().remove(number).unwrap_or_default()
    }
}

async fn serve(
    mut stream: TcpStream,
    all: &Kept,
    respond: impl Fn(&Got) -> Vec<u8>,
) -> io::Result<()> {
    let mut input = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = find(&input, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        };
        let head: Vec<u8> = input.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
        let mut words = lines.next().unwrap_or_default().split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (method, target) = (word(), word());
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        let mut got = Got {
            method,
            target,
            headers: headers.collect(),
            body: Vec::new(),
        };
        if got.header("transfer-encoding").is_some() {
            got.body = chunked(&mut stream, &mut input).await?;
        } else if let Some(length) = got.header("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            got.body = take(&mut stream, &mut input, length).await?;
        }
        let number = got.header("x-number").unwrap_or_default().to_owned();
        let response = respond(&got);
        all.lock().entry(number).or_default().push(got);
        if response.is_empty() {
            return Ok(());
        }
        stream.write_all(&response).await?;
        if find(&response, b"connection: close").is_some() {
            return Ok(());
        }
    }
}

async fn take(stream: &mut TcpStream, input: &mut Vec<u8>, count: usize) -> io::Result<Vec<u8>> {
    while input.len() < count {
        if stream.read_buf(input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(input.drain(..count).collect())
}

async fn chunked(stream: &mut TcpStream, input: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        while find(input, b"\r\n").is_none() {
            let count = input.len() + 1;
            let read = take(stream, input, count).await?;
            input.splice(..0, read);
        }
        let end = find(input, b"\r\n").expect("it was found");
        let line: Vec<u8> = input.drain(..end + 2).collect();
        let digits = String::from_utf8_lossy(&line).trim().to_owned();
        let size = usize::from_str_radix(&digits, 16).map_err(io::Error::other)?;
        let chunk = take(stream, input, size + 2).await?;
        body.extend(&chunk[..size]);
        if size == 0 {
            return Ok(body);
        }
    }
}
