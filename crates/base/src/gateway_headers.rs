//! Request headers that the gateway itself sets for a backend, so that no client may send them.

use http::{HeaderMap, HeaderName, header};

use super::{error::InvalidValue, reserved_headers::is_known};

/// Header names that clients cannot send.
#[derive(Clone, Debug, Default)]
pub struct GatewayHeaders(Box<[HeaderName]>);

/// Headers about message framing, the connection, or the requested site.
const FRAMING_HEADERS: [HeaderName; 10] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

const FREE_NAME: &str = "write a name that nothing else uses, such as `X-User-Id`";

impl GatewayHeaders {
    pub fn new(names: impl IntoIterator<Item = HeaderName>) -> Self {
        Self(names.into_iter().collect())
    }

    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter()
    }

    pub fn as_slice(&self) -> &[HeaderName] {
        &self.0
    }

    /// Parses a header name that the gateway may own.
    pub fn parse(text: &str) -> Result<HeaderName, InvalidValue> {
        let refuse = |message: String, help: &str| InvalidValue::new(message, help);
        let name = Self::parse_credential(text)?;
        if is_known(&name) {
            return Err(refuse(format!("reserved header name `{text}`"), FREE_NAME));
        }
        if name.as_str().contains('_') {
            let message = format!("`{text}` has an underscore, which many apps take for a hyphen");
            return Err(refuse(message, "write it with hyphens"));
        }
        Ok(name)
    }

    /// Parses the name of a header with the client's identity: none that says something else of the
    /// request, since no client could send it.
    pub fn parse_identity(text: &str) -> Result<HeaderName, InvalidValue> {
        let name = Self::parse(text)?;
        let is_of_request = ["if-", "content-"]
            .iter()
            .any(|start| name.as_str().starts_with(start))
            || name == header::RANGE
            || name.as_str() == "x-request-id";
        if is_of_request {
            let message = format!("`{text}` has a meaning of its own in requests");
            return Err(InvalidValue::new(message, FREE_NAME));
        }
        Ok(name)
    }

    /// Parses the name of a header that clients send for the gateway to read.
    pub fn parse_credential(text: &str) -> Result<HeaderName, InvalidValue> {
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) if FRAMING_HEADERS.contains(&name) => {
                let message = format!("reserved header name `{text}`");
                Err(InvalidValue::new(message, FREE_NAME))
            }
            Ok(name) => Ok(name),
            Err(_) => {
                let message = format!("invalid header name `{}`", text.escape_debug());
                Err(InvalidValue::new(
                    message,
                    "write a name such as `X-User-Id`",
                ))
            }
        }
    }

    /// Removes what a client has sent under these names. `X_User_Id` counts as `X-User-Id`: CGI,
    /// WSGI and PHP cannot tell them apart.
    pub fn strip(&self, headers: &mut HeaderMap) {
        for name in &self.0 {
            headers.remove(name);
        }
        let is_like = |name: &HeaderName| {
            name.as_str().contains('_') && self.0.iter().any(|own| is_alike(name, own))
        };
        while let Some(name) = headers.keys().find(|name| is_like(name)).cloned() {
            headers.remove(&name);
        }
    }
}

fn is_alike(name: &HeaderName, added: &HeaderName) -> bool {
    let (name, added) = (name.as_str().as_bytes(), added.as_str().as_bytes());
    name.len() == added.len()
        && name
            .iter()
            .zip(added)
            .all(|(byte, wanted)| byte == wanted || (*byte == b'_' && *wanted == b'-'))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn no_spelling_of_an_own_header_passes() {
        let own = GatewayHeaders::new([HeaderName::from_static("x-user-id")]);
        let mut headers = HeaderMap::new();
        for name in [
            "X-User-Id",
            "x_user_id",
            "X_USER-ID",
            "x-user-idx",
            "x_other",
        ] {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(&name, HeaderValue::from_static("1"));
            headers.append(&name, HeaderValue::from_static("2"));
        }
        own.strip(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-user-idx", "x_other"]);
    }

    #[test]
    fn names_with_a_meaning_of_their_own_are_refused() {
        for name in [
            "Host",
            "content-length",
            "X-Forwarded-For",
            "X-Real-IP",
            "X_User",
            "a b",
        ] {
            assert!(GatewayHeaders::parse(name).is_err(), "{name}");
        }
        for name in ["X-User-Id", "Authorization", "Remote-User"] {
            assert!(GatewayHeaders::parse_identity(name).is_ok(), "{name}");
        }
        for name in ["Range", "If-Match", "Content-Type", "X-Request-Id"] {
            assert!(GatewayHeaders::parse(name).is_ok(), "{name}");
            assert!(GatewayHeaders::parse_identity(name).is_err(), "{name}");
        }
        for (name, is_good) in [("Connection", false), ("X_Key", true), ("Cookie", true)] {
            let parsed = GatewayHeaders::parse_credential(name);
            assert_eq!(parsed.is_ok(), is_good, "{name}");
        }
    }
}
