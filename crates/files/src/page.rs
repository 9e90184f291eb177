//! File whose content is in memory and that is sent in response to another path, with its validators.

use std::{fs::Metadata, ops::Range};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::{
    conditions::{Selection, Validators, content_range, last_modified, seconds, select},
    config::model::IfModifiedSinceConfig,
};

/// Validators of a file that was read as a whole.
#[derive(Clone, Debug)]
pub struct PageFile {
    etag: HeaderValue,
    last_modified: HeaderValue,
    modified: u64,
    size: u64,
}

/// Part of the file that a request gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PagePart {
    Whole,
    Range(Range<usize>),
    /// Nothing: the client's copy is current.
    NotModified,
}

impl PageFile {
    /// Returns the validators of a file; `None` if its modification time says nothing about it.
    pub fn new(facts: &Metadata) -> Option<Self> {
        let modified = seconds(facts.modified().ok()?).filter(|seconds| *seconds > 1)?;
        let size = facts.len();
        Some(Self {
            // That of nginx, and of `files`.
            etag: HeaderValue::try_from(format!("\"{modified:x}-{size:x}\"")).ok()?,
            last_modified: last_modified(modified)?,
            modified,
            size,
        })
    }

    /// Returns what this request gets. A range that is not in the file gets all of it.
    pub fn part(&self, method: &Method, headers: &HeaderMap) -> PagePart {
        if !matches!(*method, Method::GET | Method::HEAD) {
            // The request was not for the file.
            return PagePart::Whole;
        }
        let validators = Validators {
            etag: Some(&self.etag),
            modified: Some(self.modified),
            // The file stands in for others, whose dates say nothing about it.
            dates: IfModifiedSinceConfig::Exact,
            size: self.size,
        };
        match select(method, headers, validators) {
            Selection::NotModified => PagePart::NotModified,
            Selection::Range(start, end) => match (start.try_into(), end.try_into()) {
                (Ok(start), Ok(end)) => PagePart::Range(start..end),
                _ => PagePart::Whole,
            },
            Selection::Whole | Selection::PreconditionFailed | Selection::Unsatisfiable => {
                PagePart::Whole
            }
        }
    }

    /// Returns the headers of a response with this part.
    pub fn headers(&self, part: &PagePart) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let of_part = match part {
            PagePart::Whole => Some((header::ACCEPT_RANGES, HeaderValue::from_static("bytes"))),
            PagePart::Range(range) => {
                let value = content_range(range.start as u64, range.end as u64, self.size);
                value.map(|value| (header::CONTENT_RANGE, value))
            }
            PagePart::NotModified => None,
        };
        let validators = [
            (header::ETAG, self.etag.clone()),
            (header::LAST_MODIFIED, self.last_modified.clone()),
        ];
        validators.into_iter().chain(of_part)
    }
}
