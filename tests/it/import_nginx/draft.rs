//! Requests before they have a number, and as they are sent.

use std::net::Ipv4Addr;

use super::origin::CASE;

/// Connection with its requests, as bytes; `:@80` stands for the port that is 80 in the shape.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) listen: u16,
    /// Name that is asked for in the handshake.
    pub(super) tls: Option<String>,
    pub(super) from: Ipv4Addr,
    pub(super) requests: Vec<Drawn>,
}

/// Request with its number.
#[derive(Clone, Debug)]
pub(super) struct Drawn {
    pub(super) number: usize,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    pub(super) method: String,
    /// Kind of edge that it is, such as `dot segments`.
    pub(super) edge: &'static str,
}

impl Drawn {
    /// Returns the path as the client wrote it.
    pub(super) fn path(&self) -> &str {
        let target = self.head.split(' ').nth(1).unwrap_or_default();
        target.split('?').next().unwrap_or_default()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.split("\r\n").skip(1);
        lines.find_map(|line| {
            let (given, value) = line.split_once(':')?;
            given.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// Request before its number is known.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) version: &'static str,
    pub(super) host: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) is_chunked: bool,
    pub(super) edge: &'static str,
}

impl Draft {
    pub(super) fn get(target: &str, host: &str, edge: &'static str) -> Self {
        Self {
            method: "GET".to_owned(),
            target: target.to_owned(),
            version: "HTTP/1.1",
            host: Some(host.to_owned()),
            headers: Vec::new(),
            body: Vec::new(),
            is_chunked: false,
            edge,
        }
    }

    pub(super) fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Adds to the query.
    pub(super) fn ask(&mut self, more: &str) {
        let mark = if self.target.contains('?') { '&' } else { '?' };
        self.target.push(mark);
        self.target.push_str(more);
    }

    pub(super) fn body(mut self, size: usize) -> Self {
        self.body = vec![b'x'; size];
        self
    }

    pub(super) fn upgrade(self) -> Self {
        self.header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    }

    pub(super) fn done(self, number: usize) -> Drawn {
        let has = |name: &str| {
            self.headers
                .iter()
                .any(|(given, _)| given.eq_ignore_ascii_case(name))
        };
        let mut head = format!("{} {} {}\r\n", self.method, self.target, self.version);
        let mut add = |name: &str, value: &str| {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        };
        if let Some(host) = &self.host {
            add("Host", host);
        }
        if !has("User-Agent") {
            add("User-Agent", "test/1.0");
        }
        if !has("Accept") {
            add("Accept", "*/*");
        }
        add(CASE, &number.to_string());
        for (name, value) in &self.headers {
            add(name, value);
        }
        let has_body = matches!(&*self.method, "POST" | "PUT" | "PATCH");
        let mut body = self.body;
        if self.is_chunked {
            add("Transfer-Encoding", "chunked");
            let mut chunks = Vec::new();
            for chunk in body.chunks(4000) {
                chunks.extend(format!("{:x}\r\n", chunk.len()).bytes());
                chunks.extend(chunk);
                chunks.extend(b"\r\n");
            }
            chunks.extend(b"0\r\n\r\n");
            body = chunks;
        } else if (has_body || !body.is_empty()) && !has("Content-Length") {
            add("Content-Length", &body.len().to_string());
        }
        head.push_str("\r\n");
        Drawn {
            number,
            head,
            body,
            method: self.method,
            edge: self.edge,
        }
    }
}

/// Returns a text as a part of a query.
pub(super) fn in_query(text: &str) -> String {
    let letters = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'=' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    });
    letters.collect()
}
