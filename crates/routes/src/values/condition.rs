//! Conditions on values of a request, and the responses to those for which they hold.

use std::sync::Arc;

use bytes::Bytes;
use edgeway_base::{
    expression::Undecided,
    spelling::{Reading, decoded_readings},
    target::{Target, has_spellings, join},
};
use edgeway_config::tree::Spanned;
use edgeway_core::chain::{CompileContext, Exchange, Reply, ReplyBody, RequestFacts};
use edgeway_files::MediaTypes;
use http::{HeaderValue, Method, StatusCode, header};
use pingora::http::RequestHeader;

use super::{Destination, Encoding, Groups, Pattern, Template, Values, decoded, encoded_path};

const TEXT: &str = "text/plain; charset=utf-8";
/// Written in place of a media type that is by the end of the path.
const BY_PATH: &str = "*";

/// Codes of problems, by what they are about.
#[derive(Clone, Copy, Debug)]
pub struct Codes {
    pub value: &'static str,
    pub regex: &'static str,
    pub response: &'static str,
}

/// Comparison of a value.
#[derive(Debug)]
pub struct Comparison {
    value: Template,
    test: Test,
    /// The test without regard to case, if the value comes from the path: it is compared with the
    /// path as apps read it.
    folded: Option<Test>,
    /// True if a plainly written path may be another spelling of what the test is about.
    is_odd: bool,
    is_negated: bool,
}

#[derive(Debug)]
enum Test {
    /// Neither empty nor `0`.
    True,
    Equal(Box<str>),
    /// Equal without regard to case.
    Alike(Box<str>),
    Like(Pattern),
}

impl Test {
    fn holds(&self, value: &str) -> Result<bool, Undecided> {
        match self {
            Self::True => Ok(!matches!(value, "" | "0")),
            Self::Equal(text) => Ok(**text == *value),
            Self::Alike(text) => Ok(text.eq_ignore_ascii_case(value)),
            Self::Like(regex) => regex.is_match(value),
        }
    }

    /// Returns the test without regard to case.
    fn folded(&self) -> Self {
        match self {
            Self::True => Self::True,
            Self::Equal(text) | Self::Alike(text) => Self::Alike(text.clone()),
            Self::Like(regex) => Self::Like(regex.folded()),
        }
    }

    /// Compiles a text as written; `None` if a problem was reported.
    fn compile(
        is: Option<&Spanned<String>>,
        codes: Codes,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let Some(is) = is else {
            return Some(Self::True);
        };
        match Pattern::of_text(&is.value) {
            None => {
                let text = is.value.strip_prefix('\\');
                let text = text.filter(|text| text.starts_with('~'));
                Some(Self::Equal(text.unwrap_or(&is.value).into()))
            }
            Some(Ok(pattern)) => Some(Self::Like(pattern)),
            Some(Err(reason)) => {
                let text = is.value[1..].trim_start_matches('*');
                let message = format!("invalid regular expression `{text}`: {reason}");
                cx.at(is.place, codes.regex).error(message, "correct it");
                None
            }
        }
    }
}

impl Comparison {
    /// Compiles a comparison; `None` if a problem was reported. Reports all problems.
    pub fn compile(
        value: &Spanned<String>,
        is: Option<&Spanned<String>>,
        is_negated: bool,
        codes: Codes,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let (to, code) = (Destination::Comparison, codes.value);
        let template = Template::compile_with_groups(value, to, None, code, cx);
        let test = Test::compile(is, codes, cx);
        let (template, test) = (template?, test?);
        Some(Self {
            folded: template.reads_path().then(|| test.folded()),
            is_odd: is.is_some_and(|is| is_odd(&is.value)),
            value: template,
            test,
            is_negated,
        })
    }

    /// Returns true if it compares the path, and this path may have other spellings for an app.
    pub fn is_read(&self, path: &[u8]) -> bool {
        self.folded.is_some() && (self.is_odd || has_spellings(path))
    }

    /// Returns true if it holds for a request as some app may read it.
    ///
    /// # Errors
    /// Fails as [`Self::holds`] does.
    pub fn holds_as_read(
        &self,
        read: &ReadRequest,
        facts: &mut RequestFacts,
        value: &mut String,
    ) -> Result<bool, Undecided> {
        let test = self.folded.as_ref().unwrap_or(&self.test);
        let mut is_met = false;
        for head in &read.0 {
            value.clear();
            let facts = &mut *facts;
            self.value.write(&Exchange::new(head, facts), value)?;
            is_met |= test.holds(value)?;
        }
        Ok(is_met != self.is_negated)
    }

    /// Returns true if it holds for a request, whose value is then in `value`.
    ///
    /// # Errors
    /// Fails if an expression, here or in a lookup table, would take too much work.
    pub fn holds(&self, ex: &Exchange<'_>, value: &mut String) -> Result<bool, Undecided> {
        value.clear();
        self.value.write(ex, value)?;
        Ok(self.test.holds(value)? != self.is_negated)
    }

    /// Returns the expression that the value matches where the comparison holds. Without a match
    /// there are no groups.
    pub fn pattern(&self) -> Option<&Pattern> {
        match &self.test {
            Test::Like(regex) if !self.is_negated => Some(regex),
            _ => None,
        }
    }
}

/// A request with its path as some app may read it, without and with a slash at its end.
pub struct ReadRequest([RequestHeader; 2]);

impl ReadRequest {
    /// Returns what `refusal` returns for a request as apps may read it, of the first reading for
    /// which it returns something.
    #[cold]
    pub fn first<T>(
        request: &RequestHeader,
        mut refusal: impl FnMut(&Self) -> Option<T>,
    ) -> Option<T> {
        let target = Target::new("", request.raw_path());
        let query = target.query;
        let mut read = Self([request.clone(), request.clone()]);
        decoded_readings(target.path)
            .into_iter()
            .find_map(|reading| {
                let text = |reading: &Reading| String::from_utf8_lossy(reading.path()).into_owned();
                let texts = [text(&reading), text(&reading.with_slash())];
                for (head, text) in read.0.iter_mut().zip(texts) {
                    // A path that no request can have is no path of an app either.
                    head.set_raw_path(&join(encoded_path(&text).as_bytes(), query))
                        .ok()?;
                }
                refusal(&read)
            })
    }

    pub fn exchange<'a>(&'a self, facts: &'a mut RequestFacts) -> Exchange<'a> {
        let [head, _] = &self.0;
        Exchange::new(head, facts)
    }

    /// Returns true if an expression over the path matches one of the two forms.
    ///
    /// # Errors
    /// Fails if it would take too much work.
    pub fn matches(&self, path: &Pattern) -> Result<bool, Undecided> {
        let [plain, slashed] = &self.0;
        Ok(path.is_match(&decoded_path(plain))? || path.is_match(&decoded_path(slashed))?)
    }
}

/// Returns true if a plainly written path may be another spelling of what a text or an expression is
/// about.
pub fn is_odd(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Returns the path of a request without its percent-encoding.
pub fn decoded_path(request: &RequestHeader) -> String {
    decoded(Target::new("", request.raw_path()).path)
}

/// Returns the response to a request that may be one to refuse: an expression about it would look at
/// too many bytes.
pub fn undecided() -> Reply {
    Reply::refuse(StatusCode::BAD_REQUEST, "expression")
}

/// Response as written.
pub struct ResponseParts<'a> {
    pub status: &'a Spanned<u16>,
    pub to: Option<&'a Spanned<String>>,
    pub body: Option<&'a Spanned<String>>,
    pub content_type: Option<&'a Spanned<String>>,
}

/// Response to a request for which a condition holds.
#[derive(Debug)]
pub struct ConditionResponse {
    status: StatusCode,
    then: ConditionReply,
}

#[derive(Debug)]
enum ConditionReply {
    /// Built-in page of an error, or no body.
    ByStatus,
    Redirect(Template),
    Body(HeaderValue, Bytes),
    /// Body of the type that the end of the path has.
    BodyByPath(Arc<MediaTypes>, Bytes),
    /// Body with placeholders.
    Text(HeaderValue, Template),
}

impl ConditionResponse {
    /// Compiles a response, whose texts may have groups of `regex`; `None` if a problem was reported.
    pub fn compile(
        parts: &ResponseParts<'_>,
        regex: Option<&Pattern>,
        codes: Codes,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let status = parts.status(codes, cx);
        let then = parts.then(regex, codes, cx);
        Some(Self {
            status: status?,
            then: then?,
        })
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn refuses(&self) -> bool {
        self.status.as_u16() >= 400
    }

    /// Returns the response to a request whose `value` this expression matched.
    pub fn reply(&self, ex: &Exchange<'_>, regex: Option<&Pattern>, value: &str) -> Reply {
        let groups = match &self.then {
            ConditionReply::Redirect(text) | ConditionReply::Text(_, text) if text.has_groups() => {
                // The expression matched: it was decided.
                regex.and_then(|regex| regex.groups(value).ok().flatten())
            }
            _ => None,
        };
        self.reply_with(ex, groups.as_ref(), false)
    }

    /// Returns the response to a request with these groups of the expression that matched, which may
    /// be those of its path without percent-encoding.
    pub fn reply_with(
        &self,
        ex: &Exchange<'_>,
        groups: Option<&Groups<'_>>,
        has_groups_of_path: bool,
    ) -> Reply {
        let mut reply = Reply::empty(self.status);
        // Nobody has the page of an error, whose status is another one.
        let sent = ex.facts.page_status().unwrap_or(self.status);
        let is_success = self.status == StatusCode::OK && sent == StatusCode::OK;
        if is_success && has_any_version(ex.head) {
            reply.status = StatusCode::NOT_MODIFIED;
            return reply;
        }
        let bytes = |content_type, body| ReplyBody::Bytes {
            content_type: Some(content_type),
            body,
        };
        // `{status}` is that of the error whose page it is, or of this response.
        let mut values = if ex.facts.is_page() {
            Values::of_request(ex)
        } else {
            Values::of_status(ex, self.status)
        };
        values.has_groups_of_path = has_groups_of_path;
        match &self.then {
            ConditionReply::ByStatus if self.refuses() => {
                reply = Reply::refuse(self.status, "condition");
            }
            ConditionReply::ByStatus => {}
            ConditionReply::Redirect(to) => {
                if let Some(to) = to.target(&values, groups) {
                    reply = reply.header(header::LOCATION, to);
                } else {
                    let status = StatusCode::INTERNAL_SERVER_ERROR;
                    reply = Reply::refuse(status, "condition_target");
                }
            }
            ConditionReply::Body(content_type, body) => {
                reply.body = bytes(content_type.clone(), body.clone());
            }
            ConditionReply::BodyByPath(types, body) => {
                let path = Target::new("", ex.head.raw_path()).path;
                reply.body = bytes(types.type_for(path), body.clone());
            }
            ConditionReply::Text(content_type, text) => {
                let mut body = String::new();
                let _undecided = text.write_with(&values, groups, &mut body);
                reply.body = bytes(content_type.clone(), body.into());
            }
        }
        reply
    }
}

impl ResponseParts<'_> {
    fn status(&self, codes: Codes, cx: &mut CompileContext<'_>) -> Option<StatusCode> {
        let number = self.status.value;
        let is_redirect = matches!(number, 301 | 302 | 303 | 307 | 308);
        let has_body = self.body.is_some();
        let (why, help) = if !(200..600).contains(&number) {
            ("is no status of a response", "write one from 200 to 599")
        } else if is_redirect && self.to.is_none_or(|to| to.value.is_empty()) {
            (
                "is a redirect without a target",
                "write where to: `to: /new`",
            )
        } else if !is_redirect && self.to.is_some() {
            (
                "is no redirect, and has a target",
                "write 301, 302, 303, 307 or 308, or remove `to`",
            )
        } else if has_body && (is_redirect || matches!(number, 204 | 205 | 304 | 444)) {
            ("has no body", "remove `body`")
        } else {
            return StatusCode::from_u16(number).ok();
        };
        let message = format!("status {number} {why}");
        cx.at(self.status.place, codes.response)
            .error(message, help);
        None
    }

    fn then(
        &self,
        regex: Option<&Pattern>,
        codes: Codes,
        cx: &mut CompileContext<'_>,
    ) -> Option<ConditionReply> {
        let code = codes.value;
        if let Some(to) = self.to {
            let to = Template::compile_with_groups(to, Destination::Redirect, regex, code, cx);
            return to.map(ConditionReply::Redirect);
        }
        let Some(body) = self.body else {
            return Some(ConditionReply::ByStatus);
        };
        let content_type = match self.content_type {
            Some(written) => HeaderValue::from_str(&written.value).map_err(|_| written.place),
            None => Ok(HeaderValue::from_static(TEXT)),
        };
        match content_type {
            Ok(content_type) => {
                let destination = Destination::Body(Encoding::of_body(&content_type));
                let text = Template::compile_with_groups(body, destination, regex, code, cx)?;
                let is_by_path = content_type == BY_PATH;
                Some(match text.plain_text() {
                    Some(plain) if is_by_path => {
                        let types = cx.shared.get().unwrap_or_default();
                        ConditionReply::BodyByPath(types, plain.to_owned().into())
                    }
                    Some(plain) => ConditionReply::Body(content_type, plain.to_owned().into()),
                    // How a value is written depends on the type, which a client would choose.
                    None if is_by_path => {
                        let help = "write the media type, or a body without placeholders";
                        let message = "a body with placeholders has one media type";
                        return cx.at(body.place, codes.response).refuse(message, help);
                    }
                    None => ConditionReply::Text(content_type, text),
                })
            }
            Err(place) => {
                let help = "write one such as `text/html; charset=utf-8`";
                cx.at(place, codes.response)
                    .error("invalid media type", help);
                None
            }
        }
    }
}

/// Returns true if the client has whichever version there is (RFC 9110, 13.1.2). A fixed response
/// has no tag that a client could name instead.
pub fn has_any_version(request: &RequestHeader) -> bool {
    let condition = request.headers.get(header::IF_NONE_MATCH);
    let is_any = condition.is_some_and(|value| value.as_bytes().trim_ascii() == b"*");
    is_any && matches!(request.method, Method::GET | Method::HEAD)
}
