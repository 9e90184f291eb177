//! Header values with `{names}` in them, split into pieces when they are compiled.

use http::HeaderValue;

use crate::{base::net::IpText, chain::Exchange, config::diagnostic::closest};

/// A value as it is sent.
#[derive(Debug)]
pub(super) enum Template {
    /// Value without a variable: made once.
    Fixed(HeaderValue),
    Pieces(Box<[Piece]>),
}

#[derive(Debug)]
pub(super) enum Piece {
    Text(Box<str>),
    Variable(Variable),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    ClientIp,
    RequestId,
    Host,
    Route,
    Scheme,
}

impl Variable {
    const ALL: [(&'static str, Self); 5] = [
        ("client.ip", Self::ClientIp),
        ("request_id", Self::RequestId),
        ("host", Self::Host),
        ("route", Self::Route),
        ("scheme", Self::Scheme),
    ];

    fn write(self, ex: &Exchange<'_>, text: &mut String) {
        match self {
            Self::ClientIp => text.push_str(IpText::of(ex.facts.client.ip).as_str()),
            Self::RequestId => text.push_str(ex.facts.request_id.as_str()),
            Self::Host => text.push_str(ex.host()),
            Self::Route => text.push_str(ex.facts.route.as_deref().unwrap_or_default()),
            Self::Scheme => text.push_str(ex.facts.client.scheme.as_str()),
        }
    }
}

impl Template {
    /// Parses a value. Text in braces that looks like a name must be a variable; other braces are
    /// text, since values such as those of `NEL` are JSON.
    ///
    /// # Errors
    /// The message and the help for the user.
    pub(super) fn parse(text: &str) -> Result<Self, (String, String)> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let inside = &rest[open + 1..];
            let name = inside.find('}').map(|close| &inside[..close]);
            let Some(name) = name.filter(|name| looks_like_a_name(name)) else {
                plain.push_str(&rest[..=open]);
                rest = inside;
                continue;
            };
            let variable = variable(name)?;
            plain.push_str(&rest[..open]);
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
            }
            pieces.push(Piece::Variable(variable));
            rest = &inside[name.len() + 1..];
        }
        plain.push_str(rest);
        let Ok(fixed) = HeaderValue::from_str(&plain) else {
            return Err((
                format!("invalid header value `{}`", text.escape_debug()),
                "write plain text on one line".to_owned(),
            ));
        };
        if pieces.is_empty() {
            return Ok(Self::Fixed(fixed));
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.into()));
        }
        Ok(Self::Pieces(pieces.into()))
    }

    pub(super) fn value(&self, ex: &Exchange<'_>) -> Option<HeaderValue> {
        let pieces = match self {
            Self::Fixed(value) => return Some(value.clone()),
            Self::Pieces(pieces) => pieces,
        };
        let mut text = String::with_capacity(64);
        for piece in pieces {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Variable(variable) => variable.write(ex, &mut text),
            }
        }
        HeaderValue::try_from(text).ok()
    }
}

fn looks_like_a_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn variable(name: &str) -> Result<Variable, (String, String)> {
    if let Some((_, variable)) = Variable::ALL.iter().find(|(known, _)| *known == name) {
        return Ok(*variable);
    }
    let known = Variable::ALL.map(|(known, _)| known);
    let help = match closest(name, known) {
        Some(meant) => format!("did you mean `{{{meant}}}`?"),
        None => format!(
            "use one of {}",
            known.map(|n| format!("`{{{n}}}`")).join(", ")
        ),
    };
    Err((format!("unknown variable `{{{name}}}`"), help))
}
