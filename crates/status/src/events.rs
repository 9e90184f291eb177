//! Streams of server-sent events from a running gateway, for the command line.

use std::{io, ops::ControlFlow, time::Duration};

use edgeway_net::fetch::exchange_in_pieces;
use http::{HeaderValue, Method, StatusCode, header};
use tokio::time::timeout;

use super::client::{Client, ClientError, MAX_RESPONSE_LEN, Target, connect, failed, read};

/// Time within which a gateway accepts a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Time within which a gateway sends something. It sends a comment every 5 s.
const QUIET: Duration = Duration::from_secs(15);

/// An event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerEvent {
    /// Name of the event; empty for a plain one.
    pub name: String,
    pub id: Option<String>,
    pub data: String,
}

impl Client {
    /// Sends `GET path` for a stream of events, and passes each event to `take` until that returns
    /// `Break`, or the gateway ends the stream. `last` is the id of the last event that is known,
    /// and `heard` is called for whatever comes, also if it is no event.
    ///
    /// # Errors
    ///
    /// Same as [`Self::get`], and if the connection breaks, or the gateway is silent for too long.
    pub async fn follow(
        &self,
        path: &str,
        last: Option<&str>,
        mut heard: impl FnMut(),
        mut take: impl FnMut(ServerEvent) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        let (mut token, mut other) = (self.token.as_ref(), None);
        let mut targets = self.targets.iter().peekable();
        while let Some(target) = targets.next() {
            let mut question = self.request(target, token, &Method::GET, path, None);
            let headers = question.headers_mut();
            let events = HeaderValue::from_static("text/event-stream");
            headers.insert(header::ACCEPT, events);
            if let Some(Ok(last)) = last.map(HeaderValue::from_str) {
                headers.insert("last-event-id", last);
            }
            let mut reader = EventReader::default();
            let take = |piece: &[u8]| {
                heard();
                reader.read(piece, &mut take)
            };
            let late = |_| {
                let late = io::ErrorKind::TimedOut.into();
                Err(ClientError::Connect(target.clone(), late))
            };
            let stream = match timeout(CONNECT, connect(target)).await.unwrap_or_else(late) {
                Ok(stream) => stream,
                Err(_) if targets.peek().is_some() => {
                    // A token is not sent to an address in place of a socket: any user of the
                    // machine may listen there.
                    token = token.filter(|_| matches!(target, Target::Address(_)));
                    continue;
                }
                Err(error) => return Err(other.unwrap_or(error)),
            };
            let response =
                exchange_in_pieces(stream, question, MAX_RESPONSE_LEN, QUIET, take).await;
            let response = response.map_err(|error| failed(target, error))?;
            return match response.status() {
                StatusCode::OK => Ok(()),
                status => match read(target, status, response.body()) {
                    Err(error) if error.is_of_other_gateway() && targets.peek().is_some() => {
                        other.get_or_insert(error);
                        continue;
                    }
                    Err(error) if error.is_elsewhere() => Err(other.unwrap_or(error)),
                    result => result,
                },
            };
        }
        Ok(())
    }
}

/// Reads events from the pieces of a body.
#[derive(Default)]
struct EventReader {
    /// Beginning of a line whose end has not arrived.
    line: Vec<u8>,
    event: ServerEvent,
    has_data: bool,
}

impl EventReader {
    fn read(
        &mut self,
        piece: &[u8],
        take: &mut impl FnMut(ServerEvent) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for part in piece.split_inclusive(|b| *b == b'\n') {
            let Some(end) = part.strip_suffix(b"\n") else {
                self.line.extend_from_slice(part);
                continue;
            };
            self.line.extend_from_slice(end);
            let line = std::mem::take(&mut self.line);
            if !line.is_empty() {
                self.field(&String::from_utf8_lossy(&line));
                continue;
            }
            let event = std::mem::take(&mut self.event);
            if std::mem::take(&mut self.has_data) {
                take(event)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Takes a line; comments and fields without a meaning here are left out.
    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.event.name),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_however_they_are_split() {
        let text = b"retry: 500\n\nid: 7\ndata: {\"a\":1}\n\n: \n\nevent: missed\ndata: 1\ndata:2\n\ndata: cut";
        let event = |name: &str, id: Option<&str>, data: &str| ServerEvent {
            name: name.to_owned(),
            id: id.map(str::to_owned),
            data: data.to_owned(),
        };
        let expected = [
            event("", Some("7"), "{\"a\":1}"),
            event("missed", None, "1\n2"),
        ];
        for length in 1..text.len() {
            let (mut reader, mut found) = (EventReader::default(), Vec::new());
            for piece in text.chunks(length) {
                let flow = reader.read(piece, &mut |event| {
                    found.push(event);
                    ControlFlow::Continue(())
                });
                assert!(flow.is_continue());
            }
            assert_eq!(found, expected, "{length}");
        }
    }
}
