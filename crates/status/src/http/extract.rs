//! Extractors for handlers, with errors in the common format of refusals.

use std::fmt;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, header, request::Parts},
};
use serde::de::DeserializeOwned;

use crate::actions::ActionError;

/// The variable parts of the path.
pub(super) struct PathPart<T>(pub(super) T);

/// The query.
pub(super) struct QueryPart<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathPart<T> {
    type Rejection = ActionError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ActionError> {
        let part = Path::from_request_parts(parts, state).await;
        part.map(|Path(part)| Self(part)).map_err(unreadable)
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryPart<T> {
    type Rejection = ActionError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ActionError> {
        let part = Query::from_request_parts(parts, state).await;
        part.map(|Query(part)| Self(part)).map_err(unreadable)
    }
}

fn unreadable(rejection: impl fmt::Display) -> ActionError {
    let message = format!("the path or its query cannot be read: {rejection}");
    ActionError::new(400, "path", message)
}

/// A required JSON object.
pub(super) struct JsonBody<T>(pub(super) T);

/// An optional JSON object.
pub(super) struct OptionalJsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ActionError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ActionError> {
        let bytes = read(request, state).await?;
        parse(&bytes).map(Self)
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = ActionError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ActionError> {
        let bytes = read(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        parse(&bytes).map(Self)
    }
}

/// Reads a body with a JSON content type, which a browser's form cannot send.
async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ActionError> {
    let content_type = content_type(request.headers());
    let bytes = body(request, state).await?;
    let is_json = match content_type.as_deref() {
        Some(content_type) => content_type.eq_ignore_ascii_case("application/json"),
        None => bytes.is_empty(),
    };
    if !is_json {
        return Err(ActionError::new(
            415,
            "content_type",
            "a body here is JSON: send it with `Content-Type: application/json`",
        ));
    }
    Ok(bytes)
}

/// Reads a body of any type.
pub(super) async fn body<S: Send + Sync>(
    request: Request,
    state: &S,
) -> Result<Bytes, ActionError> {
    let bytes = Bytes::from_request(request, state).await;
    bytes.map_err(|rejection| {
        let status = rejection.status().as_u16();
        ActionError::new(status, "body", rejection.body_text().to_lowercase())
    })
}

/// The content type without parameters.
pub(super) fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?;
    let text = value.to_str().unwrap_or("?");
    Some(text.split(';').next().unwrap_or("").trim().to_owned())
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ActionError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ActionError::new(400, "body", format!("the body cannot be read: {error}")))
}
