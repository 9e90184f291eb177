//! Property of values in markup: whatever a client sends, a tokenizer of the HTML standard finds the
//! same tags around it, it stays in its text or attribute, and is no script.

use edgeway_base::http::url_of_refresh;
use html5gum::{DefaultEmitter, StartTag, Token, Tokenizer};
use proptest::{prelude::*, sample::select};

use super::{Encoding, markup::in_markup};

/// Parts of templates.
#[rustfmt::skip]
const PARTS: &[&str] = &[
    "<p>", "</p>", "<a ", "<a href=", "<img src=", "<meta http-equiv=refresh content=",
    "<meta content=", "<svg>", "<animate attributeName=href values=", "<iframe ", "<script>",
    "</script>", "<style>", "</style>", "<title>", "</title>", "<textarea>", "</textarea>",
    "<noembed>", "</noembed>", "<plaintext>", "<xmp>", "</xmp>", "<!--", "-->", "--!>", "<!-->",
    "<!--->", "<!--!>", "<!doctype html>", "<?", "<!", "</", "</>", "</ x>", "<", "/>", ">", " ",
    "\n", "\t", "/", "=", "\"", "'", "a", "x=", "title=", "href=", "HREF = ", "onclick=", "style=",
    "srcdoc=", "src=", "action=", "formaction=", "data=", "0;url=", "0;", "url=", "javascript:",
    "java", "data:", "//", "?", "#", "&", "&#", "&#106;", "&Tab;", "&amp;", "&colon;", ":",
    "http-equiv=refresh", "-", "--", "!", "script", "<script", "é", "\u{c}", "]]>", "<![CDATA[",
];
/// Values of a client.
#[rustfmt::skip]
const VALUES: [&str; 28] = [
    "javascript:alert(1)", "\"", "'", ">", "<", "<script>alert(1)</script>", "--", "-->", "--!>",
    "-", " onclick=alert(1) ", "/", "=", "</script>", "</style>", "</title>", "&", "&#106;",
    "#106;avascript:alert(1)", "script:alert(1)", " javascript:alert(1)", "\tjavascript:1",
    "java\nscript:1", "\\", "\"onclick=\"x", "/>", "1", "data:text/html,<script>1</script>",
];

type Attributes = Vec<(String, String)>;

#[derive(Debug, PartialEq)]
enum Part {
    Tag(String, Attributes),
    /// The raw text of an element with this name, or other text if that is empty.
    Text(String, String),
    Other(&'static str),
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn attributes(tag: &StartTag<()>) -> Attributes {
    let pairs = tag.attributes.iter();
    pairs
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

fn parts(html: &str) -> Vec<Part> {
    let mut emitter = DefaultEmitter::default();
    emitter.naively_switch_states(true);
    let mut parts = Vec::new();
    let mut element = String::new();
    for token in Tokenizer::new_with_emitter(html, emitter) {
        let Ok(token) = token;
        match token {
            Token::StartTag(tag) => {
                element = text(&tag.name);
                parts.push(Part::Tag(element.clone(), attributes(&tag)));
            }
            Token::EndTag(tag) => {
                element.clear();
                parts.push(Part::Tag(format!("/{}", text(&tag.name)), Vec::new()));
            }
            Token::String(more) => match parts.last_mut() {
                Some(Part::Text(_, before)) => before.push_str(&text(&more)),
                _ => parts.push(Part::Text(element.clone(), text(&more))),
            },
            Token::Comment(_) => parts.push(Part::Other("comment")),
            Token::Doctype(_) => parts.push(Part::Other("doctype")),
            Token::Error(_) => {}
        }
    }
    parts
}

fn is_run(url: &str) -> bool {
    let url = url.trim_start_matches(|char: char| char.is_ascii_control() || char == ' ');
    let url = url.replace(['\t', '\n', '\r'], "").to_ascii_lowercase();
    ["javascript:", "vbscript:", "data:"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
}

/// Returns why a value that is in this attribute, in this encoding, is more than that.
fn harm(
    tag: &str,
    all: &Attributes,
    name: &str,
    value: &str,
    own: Encoding,
) -> Option<&'static str> {
    let has = |name: &str, part: &str| {
        let mut named = all.iter().filter(|(other, _)| other == name);
        named.any(|(_, value)| value.to_ascii_lowercase().contains(part))
    };
    let url = match name {
        "style" | "srcdoc" => return Some("a style or a page"),
        "href" | "src" | "action" | "formaction" | "data" | "xlink:href" | "background" => value,
        "values" if has("attributename", "href") => value,
        "content" if tag == "meta" && has("http-equiv", "refresh") => {
            let time = value.trim_start_matches(|char: char| char.is_ascii_digit());
            let is_time = value.starts_with(|char: char| char.is_ascii_digit());
            match url_of_refresh(value).filter(|_| is_time && time.starts_with([';', ','])) {
                Some(url) => &value[url..],
                None => return None,
            }
        }
        _ if name.starts_with("on") && own != Encoding::Script => return Some("a script"),
        _ => return None,
    };
    is_run(url).then_some("an address that is run")
}

/// Returns what a value does besides being one.
fn fault(before: &str, value: &str, after: &str, own: Encoding) -> Option<&'static str> {
    let page = |value: &str| {
        let mut page = before.to_owned();
        own.write(value, &mut page);
        parts(&(page + after))
    };
    let (with, without) = (page(value), page("x"));
    if with.len() != without.len() {
        return Some("other parts");
    }
    let mut differing = with
        .iter()
        .zip(&without)
        .filter(|(one, other)| one != other);
    let why = match differing.next()? {
        (Part::Text(element, _), Part::Text(..)) => {
            let is_script = matches!(element.as_str(), "script" | "style");
            (is_script && own != Encoding::Script).then_some("text of a script")
        }
        (Part::Tag(tag, one), Part::Tag(other, all)) if tag == other && one.len() == all.len() => {
            let mut pairs = one.iter().zip(all).filter(|(one, other)| one != other);
            match (pairs.next(), pairs.next()) {
                (Some(((name, value), (same, _))), None) if name == same => {
                    harm(tag, one, name, value, own)
                }
                _ => Some("other attributes"),
            }
        }
        _ => Some("another part"),
    };
    why.or_else(|| differing.next().map(|_| "several parts"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_value_in_markup_stays_a_value(
        before in prop::collection::vec(select(PARTS), 0..8),
        after in prop::collection::vec(select(PARTS), 0..5),
    ) {
        let (before, after) = (before.concat(), after.concat());
        if let Some(encoding) = in_markup(&before, &after) {
            for value in VALUES {
                let fault = fault(&before, value, &after, encoding);
                prop_assert_eq!(fault, None, "{:?} {:?} {:?}", before, value, after);
            }
        }
    }
}

/// The control: without their encoding, the values do each of these things.
#[test]
fn a_value_as_it_is_does_harm() {
    for (before, value, after, expected) in [
        ("<p>", "<script>alert(1)</script>", "", "other parts"),
        (
            "<a href='",
            "javascript:alert(1)",
            "'>",
            "an address that is run",
        ),
        ("<a title='", "'onclick='x", "'>", "another part"),
        ("<script>", "alert(1)", "</script>", "text of a script"),
        ("<a onclick='", "alert(1)", "'>", "a script"),
    ] {
        assert_eq!(
            fault(before, value, after, Encoding::Text),
            Some(expected),
            "{before}"
        );
    }
}
