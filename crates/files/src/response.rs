//! The response to one request from a file.

use std::{io, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header, response};

use crate::{
    FileBody, ServedFile,
    base::encoding::AcceptedEncodings,
    conditions::{Selection, Validators, content_range, select},
    served::Representation,
};

/// Response from a file to one request.
#[derive(Debug)]
pub struct FileResponse {
    file: Arc<ServedFile>,
    /// Index of the compressed file, or `None` for the plain one.
    encoded: Option<usize>,
    pub status: StatusCode,
    /// Bytes of it, from the first number up to and without the second.
    range: (u64, u64),
    /// Body to send, ready to begin.
    body: Option<FileBody>,
}

/// Result of a request for a file that exists.
#[derive(Debug)]
pub enum Outcome {
    File(Box<FileResponse>),
    /// A condition of the request does not hold.
    PreconditionFailed,
    /// The range is not in the file, which has this many bytes.
    Unsatisfiable(u64),
}

impl FileResponse {
    /// Returns the response to a `GET` or `HEAD` for `file`.
    pub fn select(file: Arc<ServedFile>, method: &Method, headers: &HeaderMap) -> Outcome {
        let encoded = chosen(&file, headers);
        let served = representation(&file, encoded);
        let size = served.stamp.size;
        let validators = Validators {
            etag: served.etag(),
            modified: served.stamp.modified(),
            dates: file.dates,
            size,
        };
        let (status, range) = match select(method, headers, validators) {
            Selection::Whole => (StatusCode::OK, (0, size)),
            Selection::Range(start, end) => (StatusCode::PARTIAL_CONTENT, (start, end)),
            Selection::NotModified => (StatusCode::NOT_MODIFIED, (0, 0)),
            Selection::PreconditionFailed => return Outcome::PreconditionFailed,
            Selection::Unsatisfiable => return Outcome::Unsatisfiable(size),
        };
        Outcome::File(Box::new(Self::new(file, encoded, status, range, method)))
    }

    /// Returns the response with the page for 404, to which conditions and ranges do not apply.
    pub fn not_found(file: Arc<ServedFile>, method: &Method, headers: &HeaderMap) -> Self {
        let encoded = chosen(&file, headers);
        let size = representation(&file, encoded).stamp.size;
        Self::new(file, encoded, StatusCode::NOT_FOUND, (0, size), method)
    }

    fn new(
        file: Arc<ServedFile>,
        encoded: Option<usize>,
        status: StatusCode,
        range: (u64, u64),
        method: &Method,
    ) -> Self {
        let (start, end) = range;
        let has_body = *method != Method::HEAD && start < end;
        let chosen = representation(&file, encoded);
        let body = has_body.then(|| FileBody::new(chosen, start, end));
        Self {
            file,
            encoded,
            status,
            range,
            body,
        }
    }

    /// Returns true if the body can be sent without a look at the file: there is none, or it is in
    /// memory.
    pub fn is_ready(&self) -> bool {
        self.body.as_ref().is_none_or(FileBody::is_in_memory)
    }

    /// Reads the beginning of the body. An error means that the file has changed since it was
    /// opened, or cannot be read.
    pub async fn begin(&mut self) -> io::Result<()> {
        match &mut self.body {
            Some(body) => body.begin().await,
            None => Ok(()),
        }
    }

    /// Returns true if a compressed file is sent in place of the plain one.
    pub fn is_encoded(&self) -> bool {
        self.encoded.is_some()
    }

    /// Writes status and headers into `head`, and returns the body, if there is one. A 304 has the
    /// type and the length of the file, which its client does not get.
    pub fn write(self, head: &mut response::Parts) -> Option<FileBody> {
        let chosen = representation(&self.file, self.encoded);
        head.status = self.status;
        head.headers.clone_from(&chosen.headers);
        let headers = &mut head.headers;
        match self.status {
            StatusCode::PARTIAL_CONTENT => {
                let (start, end) = self.range;
                if let Some(range) = content_range(start, end, chosen.stamp.size) {
                    headers.insert(header::CONTENT_RANGE, range);
                }
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(end - start));
                if !self.file.announces_parts {
                    // A 206 shows that there are ranges.
                    headers.remove(header::ACCEPT_RANGES);
                }
            }
            StatusCode::NOT_MODIFIED => {
                // RFC 9110, 15.4.5: what describes the content that the client has already. Type
                // and length stay until the filters have seen what the response stands for.
                for name in [header::CONTENT_ENCODING, header::ACCEPT_RANGES] {
                    headers.remove(name);
                }
            }
            StatusCode::NOT_FOUND => {
                for name in [
                    header::ETAG,
                    header::LAST_MODIFIED,
                    header::ACCEPT_RANGES,
                    header::CACHE_CONTROL,
                ] {
                    headers.remove(name);
                }
            }
            _ => {}
        }
        self.body
    }
}

/// Returns the index of the compressed file that suits the client, if there is one.
fn chosen(file: &ServedFile, headers: &HeaderMap) -> Option<usize> {
    if file.encoded.is_empty() || !headers.contains_key(header::ACCEPT_ENCODING) {
        return None;
    }
    let offered = file.encoded.iter().map(|(encoding, _)| *encoding);
    let chosen = AcceptedEncodings::from_headers(headers).choose(offered)?;
    let mut encoded = file.encoded.iter();
    encoded.position(|(encoding, _)| *encoding == chosen)
}

fn representation(file: &ServedFile, encoded: Option<usize>) -> &Representation {
    let encoded = encoded.and_then(|index| file.encoded.get(index));
    encoded.map_or(&file.plain, |(_, representation)| representation)
}
