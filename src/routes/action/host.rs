//! The `Host` that a backend gets.

use http::HeaderValue;

use crate::routes::{RouteProblem, host_of};

/// Source of the `Host` towards a backend, other than the client's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// The requested host in lower case, without its port.
    Name,
    /// The backend's address, or the name and port that DNS resolved.
    Backend,
    Text(HeaderValue),
}

impl HostHeader {
    /// Compiles the key; `None` for the `Host` as it was sent.
    pub(super) fn compile(text: &str) -> Result<Option<Self>, RouteProblem> {
        match text {
            "sent" => return Ok(None),
            "name" => return Ok(Some(Self::Name)),
            "backend" => return Ok(Some(Self::Backend)),
            _ => {}
        }
        let is_host = host_of(text.as_bytes()).is_ok_and(|host| !host.is_empty());
        match HeaderValue::from_str(text) {
            Ok(value) if is_host => Ok(Some(Self::Text(value))),
            _ => Err(RouteProblem::new(
                format!("`{text}` is no host"),
                "write `sent`, `name`, `backend`, or a host such as `app.internal:3000`",
            )),
        }
    }

    /// Returns the value for a request with this `Host`. `None` if it stays: the request has none,
    /// or the backend is not known yet.
    pub fn value(&self, sent: Option<&HeaderValue>, backend: Option<&str>) -> Option<HeaderValue> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Backend => {
                let backend = backend?;
                let is_host = host_of(backend.as_bytes()).is_ok_and(|host| !host.is_empty());
                let host = if is_host { backend } else { "localhost" };
                HeaderValue::from_str(host).ok()
            }
            Self::Name => {
                let host = host_of(sent?.as_bytes()).ok()?;
                HeaderValue::from_str(&host).ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_those_of_the_key() {
        for (key, sent, expected) in [
            ("name", Some("Shop.Test:8080"), Some("shop.test")),
            ("name", None, None),
            ("backend", Some("a.test"), Some("10.0.0.1:3000")),
            ("web", Some("a.test"), Some("web")),
            ("a.test:80", None, Some("a.test:80")),
        ] {
            let host = HostHeader::compile(key).unwrap().unwrap();
            let sent = sent.map(HeaderValue::from_static);
            let value = host.value(sent.as_ref(), Some("10.0.0.1:3000"));
            assert_eq!(value, expected.map(HeaderValue::from_static), "{key}");
        }
        assert_eq!(HostHeader::compile("sent").unwrap(), None);
        let socket = HostHeader::Backend.value(None, Some("unix:/run/a.sock"));
        assert_eq!(socket, Some(HeaderValue::from_static("localhost")));
        assert!(HostHeader::compile("a b").is_err());
        assert!(HostHeader::compile("").is_err());
        assert!(HostHeader::compile("http://a").is_err());
    }
}
