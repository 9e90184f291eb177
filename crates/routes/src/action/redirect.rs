//! Redirects: `https`, or a template for the new address.

use bytes::Bytes;
use edgeway_config::model::RedirectConfig;
use edgeway_core::chain::Reply;
use http::{HeaderValue, StatusCode, header::LOCATION};
use percent_encoding::percent_encode_byte;

use crate::{
    InvalidTarget, InvalidValue, ParamNames, Params, Target,
    params::RESERVED,
    template::{Piece, Template, UrlPart},
};

/// A compiled redirect.
#[derive(Debug)]
pub struct Redirect {
    pub status: StatusCode,
    to: Template,
    needs_host: bool,
}

const HTTPS: &str = "https://{host}{path}?{query}";

impl Redirect {
    /// Compiles a redirect. `Ok(None)` if it depends on an invalid path, which was reported.
    pub(super) fn compile(
        config: &RedirectConfig,
        names: &ParamNames,
    ) -> Result<Option<Self>, InvalidValue> {
        let status = StatusCode::from_u16(config.status)
            .ok()
            .filter(StatusCode::is_redirection)
            .ok_or_else(|| {
                InvalidValue::new(
                    format!("invalid redirect status {}", config.status),
                    "write 308 or 301 for good, 307, 302 or 303 for now",
                )
            })?;
        let text = match config.to.as_str() {
            "https" => HTTPS,
            text => text,
        };
        check_text(text)?;
        let Some(to) = Template::parse(text, names, &RESERVED)? else {
            return Ok(None);
        };
        check_authority(text, &to)?;
        Ok(Some(Self {
            status,
            needs_host: to.pieces.contains(&Piece::Host),
            to,
        }))
    }

    /// Returns the `Location` for this request; `None` if that needs a host and the client sent
    /// none.
    pub fn location(&self, target: &Target<'_>, params: &Params) -> Option<HeaderValue> {
        if self.needs_host && target.host.is_empty() {
            return None;
        }
        let mut to = Vec::with_capacity(64 + target.path.len());
        self.to.write(&mut to, target, params, encode);
        // `//evil.test/` would be the address of another host.
        let slashes = to.iter().take_while(|&&b| b == b'/').count();
        if slashes > 1 {
            to.drain(1..slashes);
        }
        HeaderValue::from_maybe_shared(Bytes::from(to)).ok()
    }

    /// Returns the complete response.
    pub fn reply(&self, target: &Target<'_>, params: &Params) -> Reply {
        match self.location(target, params) {
            Some(location) => Reply::empty(self.status).header(LOCATION, location),
            None => Reply::refuse(StatusCode::BAD_REQUEST, InvalidTarget::Host.reason())
                .detail("The request names no host."),
        }
    }
}

fn check_text(text: &str) -> Result<(), InvalidValue> {
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic() || *c == '\\') {
        return Err(InvalidValue::new(
            format!("invalid redirect target `{text}`: it has {bad:?}"),
            "write it percent-encoded, as `%20` for a space",
        ));
    }
    let starts = |start: &str| {
        text.get(..start.len())
            .is_some_and(|s| s.eq_ignore_ascii_case(start))
    };
    if text.starts_with("//") {
        return Err(InvalidValue::new(
            format!("`{text}` begins with `//`, so the scheme is missing"),
            format!("write `https:{text}`"),
        ));
    }
    if !(starts("/") || starts("{path}") || starts("http://") || starts("https://")) {
        return Err(InvalidValue::new(
            format!("invalid redirect target `{text}`"),
            "write `https`, a path that begins with `/`, or an address with `http://` or `https://`",
        ));
    }
    Ok(())
}

/// Checks that a client cannot choose the host of the new address. Of the client's input only the
/// host may be used there, since it was validated: otherwise a link could redirect anywhere.
fn check_authority(text: &str, to: &Template) -> Result<(), InvalidValue> {
    let refuse = |help: &str| {
        Err(InvalidValue::new(
            format!("`{text}` lets a client choose the host it is sent to"),
            help,
        ))
    };
    let Some(Piece::Text(first)) = to.pieces.first() else {
        return Ok(());
    };
    let Some(scheme) = first.windows(3).position(|w| w == b"://") else {
        return Ok(());
    };
    let ends = |text: &[u8]| text.iter().any(|b| matches!(b, b'/' | b'?' | b'#'));
    if ends(&first[scheme + 3..]) {
        return Ok(());
    }
    let mut is_empty = first.len() == scheme + 3;
    let mut pieces = to.pieces[1..].iter().peekable();
    while let Some(piece) = pieces.next() {
        match piece {
            Piece::Text(text) if ends(text) => break,
            Piece::Text(_) | Piece::Host => is_empty = false,
            Piece::Path | Piece::Query(_) => break,
            // Below a domain that the text names.
            Piece::Slot(slot)
                if slot.is_of_host()
                    && matches!(pieces.peek(), Some(Piece::Text(text)) if is_domain(text)) =>
            {
                is_empty = false;
            }
            Piece::Slot(_) | Piece::Rest => {
                return refuse("write a `/` before the placeholder");
            }
        }
    }
    if is_empty {
        return Err(InvalidValue::new(
            format!("`{text}` has no host"),
            "write it, or `{host}` for the requested host",
        ));
    }
    Ok(())
}

/// Returns true if a text goes on with a dot and a name of at least two labels.
fn is_domain(text: &[u8]) -> bool {
    let end = text
        .iter()
        .position(|b| matches!(b, b'/' | b'?' | b'#' | b':'));
    let name = &text[..end.unwrap_or(text.len())];
    name.first() == Some(&b'.') && name.split(|b| *b == b'.').filter(|l| !l.is_empty()).count() > 1
}

/// Percent-encodes bytes that could end or alter an address.
pub(super) fn encode(out: &mut Vec<u8>, value: &[u8], part: UrlPart) {
    for &byte in value {
        let is_plain = match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'#' => false,
            b'?' => part != UrlPart::Path,
            b'&' | b'+' | b'=' => part != UrlPart::Query,
            _ => byte.is_ascii_graphic(),
        };
        if is_plain {
            out.push(byte);
        } else {
            out.extend_from_slice(percent_encode_byte(byte).as_bytes());
        }
    }
}
