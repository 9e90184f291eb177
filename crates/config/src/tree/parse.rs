//! Parsing of YAML events into nodes, within bounds.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::{Key, Node, Value, scalar, syntax::SyntaxError};
use crate::{
    base::secret::REDACTED,
    diagnostic::{Diagnostic, Diagnostics, Place},
};

/// Nesting limit: no configuration needs more, and the stack is finite.
const MAX_DEPTH: usize = 64;

/// Limit on values of aliases, which are more than the file has.
const MAX_NODES: usize = 200_000;

/// Changes the text of a scalar before its type is decided; `None` keeps it.
pub(crate) type Expand<'a> = &'a mut dyn FnMut(&str, Place, &mut Diagnostics) -> Option<String>;

/// Parses one YAML document.
///
/// `None` only if the text is not YAML; smaller problems (a duplicate key) are reported and the
/// tree contains the rest.
pub fn parse(text: &str, file: u16, diagnostics: &mut Diagnostics) -> Option<Node> {
    parse_with(text, file, diagnostics, &mut |_, _, _| None)
}

/// Parses like [`parse`], and calls `expand` for each scalar that is a value.
pub(crate) fn parse_with(
    text: &str,
    file: u16,
    diagnostics: &mut Diagnostics,
    expand: Expand<'_>,
) -> Option<Node> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        places: OffsetMap::scan(text, file),
        text,
        anchors: HashMap::new(),
        open: Vec::new(),
        nodes: 0,
        diagnostics,
        expand,
    };
    match builder.document() {
        Ok(node) => Some(node),
        Err(problem) => {
            diagnostics.push(*problem);
            None
        }
    }
}

/// Conversion of the parser's character offsets into byte offsets.
struct OffsetMap {
    file: u16,
    len: u32,
    /// Byte offset of each character; empty for ASCII, where both are the same.
    bytes: Vec<u32>,
}

impl OffsetMap {
    fn scan(text: &str, file: u16) -> Self {
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            file,
            len: offset(text.len()),
            bytes: if text.is_ascii() {
                Vec::new()
            } else {
                text.char_indices().map(|(at, _)| offset(at)).collect()
            },
        }
    }

    fn byte(&self, index: usize) -> u32 {
        if self.bytes.is_empty() {
            u32::try_from(index).unwrap_or(u32::MAX).min(self.len)
        } else {
            self.bytes.get(index).copied().unwrap_or(self.len)
        }
    }

    fn place(&self, span: Span) -> Place {
        Place {
            file: self.file,
            start: self.byte(span.start.index()),
            end: self.byte(span.end.index()),
        }
    }
}

/// An error that ends the parsing of a file; boxed, since it propagates through every level.
type Fatal = Box<Diagnostic>;

struct Builder<'t, 'd, 'e> {
    parser: Parser<'t, StrInput<'t>>,
    places: OffsetMap,
    text: &'t str,
    anchors: HashMap<usize, Node>,
    /// Positions of the brackets that are still open.
    open: Vec<u32>,
    nodes: usize,
    diagnostics: &'d mut Diagnostics,
    expand: Expand<'e>,
}

impl<'t> Builder<'t, '_, '_> {
    fn document(&mut self) -> Result<Node, Fatal> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(Box::new(
                        Diagnostic::error(
                            "edgeway::yaml::documents",
                            self.places.place(span),
                            "a second YAML document begins here",
                        )
                        .help("remove the `---`, or move what follows to a file of its own and `include` it"),
                    ));
                }
                Event::StreamStart
                | Event::DocumentStart(_)
                | Event::DocumentEnd
                | Event::Nothing => {}
                Event::StreamEnd => break,
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        let beginning = Place {
            file: self.places.file,
            ..Place::default()
        };
        Ok(root.unwrap_or(Node::new(beginning, Value::Null)))
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), Fatal> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(Box::new(self.syntax(&error))),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Fatal> {
        let place = self.places.place(span);
        if depth > MAX_DEPTH {
            return Err(Box::new(too_deep(place)));
        }
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(anchor, tag)
            | Event::MappingStart(anchor, tag) => (*anchor, tag.clone()),
            _ => (0, None),
        };
        if let Some(tag) = tag {
            let text = format!("{}{}", tag.handle, tag.suffix).replace("tag:yaml.org,2002:", "!!");
            self.diagnostics.at(place, "edgeway::yaml::tag").error(
                format!("the tag `{text}` is not supported"),
                "leave it out; put quotes round a value that is text",
            );
        }
        let node = match event {
            Event::Alias(anchor) => self.alias(anchor, place, depth)?,
            Event::Scalar(text, style, ..) => self.scalar(&text, style, self.trim(place, style)),
            Event::SequenceStart(..) => self.list(place, depth)?,
            Event::MappingStart(..) => self.map(place, depth)?,
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => Node::new(place, Value::Null),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, place: Place) -> Node {
        let expanded = (self.expand)(text, place, self.diagnostics);
        let is_variable =
            expanded.is_some() && style != ScalarStyle::Plain && is_only_a_variable(text);
        let text = expanded.as_deref().unwrap_or(text);
        if text.contains(REDACTED) {
            self.diagnostics.at(place, "edgeway::yaml::redacted").error(
                "this is what `check --print` shows instead of a secret",
                "write `file:PATH` or `${NAME}`",
            );
        }
        let value = match style {
            ScalarStyle::Plain => scalar::plain(text),
            _ => Value::Text(text.to_owned()),
        };
        Node {
            place,
            value,
            is_variable,
            file: None,
        }
    }

    /// Resolves an alias to a copy of its anchor's node, places included: a wrong value must be
    /// corrected there.
    fn alias(&mut self, anchor: usize, place: Place, depth: usize) -> Result<Node, Fatal> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(Box::new(
                Diagnostic::error(
                    "edgeway::yaml::alias",
                    place,
                    "this alias is inside the value that it names",
                )
                .help("write the value out"),
            ));
        };
        if depth + node.height() > MAX_DEPTH {
            return Err(Box::new(too_deep(place)));
        }
        let node = node.clone();
        self.count(node.size(), place)?;
        Ok(node)
    }

    fn list(&mut self, mut place: Place, depth: usize) -> Result<Node, Fatal> {
        let is_open = self.open('[', place);
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                self.close(&mut place, span, is_open, items.last());
                return Ok(Node::new(place, Value::List(items)));
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }

    fn map(&mut self, mut place: Place, depth: usize) -> Result<Node, Fatal> {
        let is_open = self.open('{', place);
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut written: HashMap<String, Place> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                self.close(&mut place, span, is_open, entries.last().map(|(_, n)| n));
                return Ok(Node::new(place, Value::Map(entries)));
            }
            let key = self.key(event, span, depth)?;
            let (event, span) = self.next()?;
            let mut node = self.node(event, span, depth + 1)?;
            let Some(key) = key else { continue };
            if node.value == Value::Null && node.place.start >= node.place.end {
                node.place = key.place;
            }
            if let Some(first) = written.get(&key.name) {
                self.diagnostics.push(
                    Diagnostic::error(
                        "edgeway::yaml::duplicate_key",
                        key.place,
                        format!("the key `{}` is written twice", key.name),
                    )
                    .help("keep one of the two")
                    .related(*first, "first written here"),
                );
                continue;
            }
            written.insert(key.name.clone(), key.place);
            entries.push((key, node));
        }
    }

    /// Reads the key of an entry; `None` after reporting a bad one, whose value must be skipped.
    fn key(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Option<Key>, Fatal> {
        let mut place = self.places.place(span);
        let (message, help) = match event {
            Event::Scalar(text, style, ..) => {
                place = self.trim(place, style);
                let value = match style {
                    ScalarStyle::Plain => scalar::plain(&text),
                    _ => Value::Text(String::new()),
                };
                if style == ScalarStyle::Plain && text == "<<" {
                    (
                        "merge keys (`<<`) are not supported".to_owned(),
                        "write the keys out, or put what all routes share under `defaults`"
                            .to_owned(),
                    )
                } else if is_name(&value, &text) {
                    return Ok(Some(Key {
                        name: text.into_owned(),
                        place,
                    }));
                } else if text.is_empty() {
                    (
                        "a key is missing before this `:`".to_owned(),
                        "write a name before the `:`".to_owned(),
                    )
                } else {
                    (
                        format!("a key must be text, and `{text}` is not"),
                        format!("put it in quotes: `\"{text}\":`"),
                    )
                }
            }
            event => {
                let place = self.node(event, span, depth + 1)?.place;
                self.diagnostics.at(place, "edgeway::yaml::key").error(
                    "a key must be text",
                    "a value that begins with `{` or `[` or `*` needs quotes to be text",
                );
                return Ok(None);
            }
        };
        self.diagnostics
            .at(place, "edgeway::yaml::key")
            .error(message, help);
        Ok(None)
    }

    /// Records the bracket of a flow collection; returns false for a block. A tag or an anchor may
    /// precede the bracket.
    fn open(&mut self, bracket: char, place: Place) -> bool {
        let covered = self.slice(place);
        let Some(at) = covered.find(bracket) else {
            return false;
        };
        self.open.push(place.start + u32::try_from(at).unwrap_or(0));
        true
    }

    /// Sets the end of a collection: a flow collection ends with its bracket, a block with its last
    /// value. The parser only reports the start of the next token.
    fn close(&mut self, place: &mut Place, end: Span, is_open: bool, last: Option<&Node>) {
        if is_open {
            self.open.pop();
            place.end = (self.places.byte(end.start.index()) + 1).min(self.places.len);
        } else if let Some(last) = last {
            place.end = last.place.end.max(place.end);
        }
    }

    /// Ends the place of a scalar at its last character: the parser's span extends past a closing
    /// quote, over spaces and a comment.
    fn trim(&self, place: Place, style: ScalarStyle) -> Place {
        let covered = self.slice(place);
        let quote = match style {
            ScalarStyle::SingleQuoted => '\'',
            ScalarStyle::DoubleQuoted => '"',
            ScalarStyle::Plain | ScalarStyle::Literal | ScalarStyle::Folded => '\n',
        };
        let len = match covered.find(quote) {
            Some(open) if quote != '\n' => closing(&covered[open + 1..], quote)
                .map_or(covered.len(), |inner| open + 1 + inner + 1),
            _ => covered.trim_end().len(),
        };
        Place {
            end: place.start + u32::try_from(len).unwrap_or(0),
            ..place
        }
    }

    fn slice(&self, place: Place) -> &'t str {
        self.text
            .get(place.start as usize..place.end as usize)
            .unwrap_or_default()
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), Fatal> {
        self.nodes += nodes;
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        Err(Box::new(
            Diagnostic::error(
                "edgeway::yaml::size",
                place,
                format!("aliases grow beyond {MAX_NODES} values here"),
            )
            .help("use fewer aliases"),
        ))
    }

    fn syntax(&self, error: &ScanError) -> Diagnostic {
        SyntaxError {
            text: self.text,
            file: self.places.file,
            at: self.places.byte(error.marker().index()) as usize,
            info: error.info(),
            open: self.open.last().copied(),
        }
        .explain()
    }
}

/// Returns true for `${NAME}` and `${NAME:-default}` with nothing beside it.
fn is_only_a_variable(text: &str) -> bool {
    let inner = text.strip_prefix("${").and_then(|it| it.strip_suffix('}'));
    inner.is_some_and(|inner| !inner.contains('}'))
}

/// Returns true if an unquoted key is a name. A plain number is one, such as the status in
/// `{ 404: 10s }`: it has a single spelling, so it names the same key with and without quotes.
fn is_name(value: &Value, text: &str) -> bool {
    match value {
        Value::Text(_) => true,
        Value::Integer(number) => number.to_string() == text,
        _ => false,
    }
}

/// Returns the position of the closing quote, skipping escaped and doubled ones.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut chars = text.char_indices().peekable();
    while let Some((offset, c)) = chars.next() {
        if c == '\\' && quote == '"' {
            chars.next();
        } else if c == quote
            && (quote == '"' || chars.next_if(|(_, next)| *next == quote).is_none())
        {
            return Some(offset);
        }
    }
    None
}

fn too_deep(place: Place) -> Diagnostic {
    Diagnostic::error(
        "edgeway::yaml::depth",
        place,
        format!("lists and mappings are nested more than {MAX_DEPTH} deep here"),
    )
    .help("no part of a configuration needs that")
}
