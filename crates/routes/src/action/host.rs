//! The `Host` that a backend gets.

use edgeway_core::chain::Exchange;
use http::HeaderValue;

use crate::{
    InvalidValue, host_of,
    values::{Destination, Names, Template},
};

/// Source of the `Host` towards a backend, other than the client's own.
#[derive(Debug)]
pub enum HostHeader {
    /// The requested host in lower case, without its port.
    Name,
    /// The backend's address, or the name and port that DNS resolved.
    Backend,
    Text(HeaderValue),
    /// Text with placeholders, such as `{host.name}:{listener.port}`.
    Template(Template),
}

impl HostHeader {
    /// Compiles the key; `None` for the `Host` as it was sent.
    pub(super) fn compile(text: &str, names: &Names<'_>) -> Result<Option<Self>, InvalidValue> {
        if text.contains('{') {
            let template = Template::parse(text, Destination::Host, names);
            return template
                .map(|template| Some(Self::Template(template)))
                .map_err(|(message, help)| InvalidValue { message, help });
        }
        match text {
            "sent" => return Ok(None),
            "name" => return Ok(Some(Self::Name)),
            "backend" => return Ok(Some(Self::Backend)),
            _ => {}
        }
        let is_host = host_of(text.as_bytes()).is_ok_and(|host| !host.is_empty());
        match HeaderValue::from_str(text) {
            Ok(value) if is_host => Ok(Some(Self::Text(value))),
            _ => Err(InvalidValue::new(
                format!("`{text}` is no host"),
                "write `sent`, `name`, `backend`, or a host such as `app.internal:3000`",
            )),
        }
    }

    /// Returns the value for a request with this `Host`. `None` if it stays: the request has none,
    /// or the backend is not known yet.
    pub fn value(
        &self,
        ex: &Exchange<'_>,
        sent: Option<&HeaderValue>,
        backend: Option<&str>,
    ) -> Option<HeaderValue> {
        let Self::Template(template) = self else {
            return self.value_without(sent, backend);
        };
        let value = template.value(ex)?;
        let is_host = host_of(value.as_bytes()).is_ok_and(|host| !host.is_empty());
        is_host.then_some(value)
    }

    /// Returns the value as [`Self::value`] does, if it needs no other part of the request.
    pub fn value_without(
        &self,
        sent: Option<&HeaderValue>,
        backend: Option<&str>,
    ) -> Option<HeaderValue> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Template(_) => None,
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
    use crate::values::Maps;
    use edgeway_base::clock::Clock;

    #[test]
    fn hosts_are_those_of_the_key() {
        let (clock, maps) = (Clock::test(), Maps::default());
        let compile = |text| {
            let names = Names {
                clock: &clock,
                maps: &maps,
            };
            HostHeader::compile(text, &names)
        };
        for (key, sent, expected) in [
            ("name", Some("Shop.Test:8080"), Some("shop.test")),
            ("name", None, None),
            ("backend", Some("a.test"), Some("10.0.0.1:3000")),
            ("web", Some("a.test"), Some("web")),
            ("a.test:80", None, Some("a.test:80")),
        ] {
            let host = compile(key).unwrap().unwrap();
            let sent = sent.map(HeaderValue::from_static);
            let value = host.value_without(sent.as_ref(), Some("10.0.0.1:3000"));
            assert_eq!(value, expected.map(HeaderValue::from_static), "{key}");
        }
        assert!(compile("sent").unwrap().is_none());
        let socket = HostHeader::Backend.value_without(None, Some("unix:/run/a.sock"));
        assert_eq!(socket, Some(HeaderValue::from_static("localhost")));
        let template = compile("{host.name}:{listener.port}").unwrap();
        assert!(matches!(template, Some(HostHeader::Template(_))));
        for wrong in ["a b", "", "http://a", "{nothing}"] {
            assert!(compile(wrong).is_err(), "{wrong}");
        }
    }
}
