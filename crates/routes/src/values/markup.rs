//! Encoding of a value in HTML, XML and SVG, by what a reader has open before it.

use edgeway_base::http::url_of_refresh;

use super::encoding::Encoding;

/// Elements whose content is text up to their end tag.
const TEXT_ELEMENTS: [&str; 8] = [
    "script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes",
];
/// Attributes whose value is an address.
const ADDRESSES: &str = "href src action formaction data xlink:href background";
/// Schemes of addresses that are themselves run or shown.
const INLINE_SCHEMES: [&str; 3] = ["javascript:", "vbscript:", "data:"];

/// Result of reading a part: the text behind it, or the encoding of a value within it, which is
/// `None` where a value in any encoding could be run, or change what stands around it.
type Read<'t> = Result<&'t str, Option<Encoding>>;

/// Returns the encoding of a value between these texts; `None` where there is none.
pub(super) fn in_markup(before: &str, after: &str) -> Option<Encoding> {
    let (before, after) = (before.to_ascii_lowercase(), after.to_ascii_lowercase());
    let mut rest = before.as_str();
    while let Some((_, inside)) = rest.split_once('<') {
        let is_end = inside.starts_with('/');
        let name = inside.strip_prefix('/').unwrap_or(inside);
        let read = match name.chars().next() {
            None => Err(None),
            Some('{' | 'a'..='z') => tag(name, is_end, &after),
            Some(first) if is_end || matches!(first, '!' | '?') => comment(inside),
            Some(_) => Ok(inside),
        };
        rest = match read {
            Ok(behind) => behind,
            Err(encoding) => return encoding,
        };
    }
    Some(Encoding::Markup)
}

fn comment(inside: &str) -> Read<'_> {
    // The hyphens of `<!-->` are also those of its end.
    let ends: &[(usize, &str)] = if inside.starts_with("!--") {
        &[(1, "-->"), (3, "--!>")]
    } else {
        &[(1, ">")]
    };
    let behind = |(from, end): &(usize, &str)| Some(inside[*from..].split_once(end)?.1);
    let first = ends.iter().filter_map(behind).max_by_key(|rest| rest.len());
    first.ok_or(Some(Encoding::Attribute))
}

fn tag<'t>(text: &'t str, is_end: bool, after: &str) -> Read<'t> {
    let length = text.find(|char| is_space(char) || matches!(char, '/' | '>'));
    let (element, attributes) = text.split_at(length.ok_or(None)?);
    let mut rest = attributes;
    loop {
        let next = rest.trim_start_matches(|char| is_space(char) || char == '/');
        if let Some(content) = next.strip_prefix('>') {
            // In XML, and in SVG within HTML, an element without content ends with `/>`.
            let is_alone = rest[..rest.len() - next.len()].ends_with('/') && element != "script";
            if is_end || is_alone || !TEXT_ELEMENTS.contains(&element) {
                return Ok(content);
            }
            return text_of(element, content);
        }
        // A value is no name of an attribute, nor a part of one.
        let mut name = next.char_indices().skip(1);
        let end = name.find(|(_, char)| is_space(*char) || matches!(char, '/' | '>' | '='));
        let (name, behind) = next.split_at(end.ok_or(None)?.0);
        rest = behind.trim_start_matches(is_space);
        let Some(value) = rest.strip_prefix('=') else {
            continue;
        };
        let value = value.trim_start_matches(is_space);
        let quote = value
            .chars()
            .next()
            .filter(|first| matches!(first, '"' | '\''));
        let (value, end) = match quote {
            Some(quote) => (&value[1..], value[1..].find(quote)),
            None => (value, value.find(|char| is_space(char) || char == '>')),
        };
        let Some(end) = end else {
            let tag_end = after.split('>').next().unwrap_or_default();
            let tag = format!("{element} {attributes}{tag_end}");
            return Err(in_attribute(&tag, name, value, quote.is_some()));
        };
        rest = &value[end + quote.map_or(0, char::len_utf8)..];
    }
}

fn text_of<'t>(element: &str, content: &'t str) -> Read<'t> {
    let end_tag = format!("</{element}");
    let mut ends = content.match_indices(&end_tag);
    let end = ends.find(|(at, _)| {
        let next = content[at + end_tag.len()..].chars().next();
        next.is_none_or(|char| is_space(char) || matches!(char, '/' | '>'))
    });
    let end = end.map_or(content.len(), |(end, _)| end);
    let comment = content[..end].split_once("<!--");
    let is_double = comment.is_some_and(|(_, text)| text.contains("<script"));
    if end < content.len() && !(element == "script" && is_double) {
        return Ok(&content[end..]);
    }
    Err(match element {
        // An end tag ends the inner one of two.
        "script" if is_double => None,
        "script" => Some(Encoding::Script),
        "style" => None,
        _ => Some(Encoding::Markup),
    })
}

/// Returns the encoding of a value behind this part of an attribute.
fn in_attribute(tag: &str, name: &str, value: &str, is_quoted: bool) -> Option<Encoding> {
    let plain = if is_quoted {
        Encoding::Markup
    } else {
        Encoding::Attribute
    };
    match name {
        "style" | "srcdoc" => None,
        _ if name.starts_with('{') => None,
        _ if name.starts_with("on") => is_quoted.then_some(Encoding::Script),
        "content" if tag.starts_with("meta ") && tag.contains("http-equiv") => {
            let url = url_of_refresh(value)?;
            // The `;` of a reference divides nothing.
            let is_known = tag.contains("refresh") && !value[..url].contains('&');
            is_known.then(|| in_address(&value[url..], plain))?
        }
        // An animation may be that of an address.
        "values" | "from" | "to" | "by" if tag.contains("attributename") => None,
        _ if ADDRESSES.split(' ').any(|one| one == name) => in_address(value, plain),
        _ => Some(plain),
    }
}

fn in_address(before: &str, plain: Encoding) -> Option<Encoding> {
    // Other placeholders may be empty: the value behind them begins the address.
    let mut parts = before.split('{');
    let mut start = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, text) = part.split_once('}').unwrap_or(("", part));
        if name.starts_with("path") || name.starts_with("uri") {
            start.push('/');
        }
        start.push_str(text);
    }
    // Browsers skip these.
    start.retain(|char| !char.is_ascii_control() && char != ' ');
    // A reference may be one of them, or a part of a scheme.
    let first = start.find(['/', '?', '#', '&']);
    let is_reference = first.is_some_and(|first| start[first..].starts_with('&'));
    let is_inline = |scheme: &&str| scheme.starts_with(&start) || start.starts_with(*scheme);
    if start.is_empty() {
        Some(Encoding::Link)
    } else if is_reference || INLINE_SCHEMES.iter().any(is_inline) {
        None
    } else {
        Some(plain)
    }
}

fn is_space(char: char) -> bool {
    char.is_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_markup_has_the_encoding_of_what_is_open() {
        use Encoding::{Attribute, Link, Markup, Script};

        for (before, encoding) in [
            ("", Some(Markup)),
            ("<p>", Some(Markup)),
            ("1 < 2 ", Some(Markup)),
            ("<p title=\"", Some(Markup)),
            ("<p title=", Some(Attribute)),
            ("<p title=a", Some(Attribute)),
            ("<a title=\">\" class='", Some(Markup)),
            // Addresses.
            ("<a href='", Some(Link)),
            ("<a href='/x?", Some(Markup)),
            ("<a/href=\"", Some(Link)),
            ("<a title=\">\" href=\"", Some(Link)),
            ("<a href=\"  ", Some(Link)),
            ("<a href=", Some(Link)),
            ("<a HREF = '", Some(Link)),
            ("<a href=\"{map.e}", Some(Link)),
            ("<a href=\"{path}", Some(Markup)),
            ("<a href=\"{scheme}://{host}/", Some(Markup)),
            ("<a href=/x?", Some(Attribute)),
            ("<a href=\"javascript:go('", None),
            ("<a href=\" java\nscript:go('", None),
            ("<a href=\"java", None),
            ("<iframe src='data:text/html,", None),
            ("<a href=\"&Tab;", None),
            ("<a href=\"/?a=1&amp;b=", Some(Markup)),
            ("<animate attributeName=href values='", None),
            ("<meta http-equiv=refresh content=\"0;url=", Some(Link)),
            ("<meta http-equiv=refresh content='5; ", Some(Link)),
            ("<meta http-equiv=refresh content='0;url=/?a=", Some(Markup)),
            ("<meta http-equiv=refresh content='", None),
            (
                "<meta http-equiv=content-security-policy content='img-src ",
                None,
            ),
            ("<meta name=description content='", Some(Markup)),
            // Names, scripts and styles.
            ("<", None),
            ("</", None),
            ("<p", None),
            ("<p ", None),
            ("<p a=b ", None),
            ("<p a", None),
            ("<p {map.name}='", None),
            ("<{map.element} title='", Some(Markup)),
            ("<a onclick=\"f('", Some(Script)),
            ("<a onclick=f('", None),
            ("<iframe srcdoc=\"", None),
            ("<p style=\"color: ", None),
            ("<style>p { color: ", None),
            ("<style></style>", Some(Markup)),
            ("<script>var a = \"", Some(Script)),
            ("<script>'<b title=\"' + \"", Some(Script)),
            ("<script></scripts> \"", Some(Script)),
            ("<SCRIPT src=x></SCRIPT><p>", Some(Markup)),
            ("<script></script><p title='", Some(Markup)),
            ("<title><a href='", Some(Markup)),
            ("<title/><a href='", Some(Link)),
            // Comments.
            ("<!-- <script> ", Some(Attribute)),
            ("<!-- > ", Some(Attribute)),
            ("<!--> <a href='", Some(Link)),
            ("<!--!> <a href='", Some(Attribute)),
            ("<noembed><!--</noembed><a href='", Some(Link)),
            ("<script><!--<script></script>", None),
            ("<!-- a --><a href='", Some(Link)),
            ("<!doctype html><?a?></ b><p>", Some(Markup)),
        ] {
            assert_eq!(in_markup(before, "'\"></p>"), encoding, "{before}");
        }
        let before = "<meta content='0;url=";
        assert_eq!(in_markup(before, "' http-equiv=Refresh>"), Some(Link));
        assert_eq!(in_markup(before, "'><p http-equiv=Refresh>"), Some(Markup));
    }
}
