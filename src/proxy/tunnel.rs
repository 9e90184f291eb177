//! Keeps Pingora from ending a tunnel that has just begun.
//!
//! Pingora 0.9.1 passes the end of a request without a body on to the task that talks to
//! the backend. If that has read the backend's 101 before, it takes the message for the end
//! of the tunnel (`proxy_h1.rs`: `send_body_to1`, and `was_upgraded` behind it): the client
//! has its 101, and then a closed connection. A backend on the same machine is often that
//! fast.
//!
//! Of a body that was read to its end there is no such message. So the upgrade request gets
//! one here, of one byte: the connection makes it up, it is read at once, and neither the
//! backend nor the log sees any of it.

use http::{HeaderValue, header};
use pingora::Result;
use pingora_proxy::Session;

use crate::runtime::connection::Connection;

/// Reads the body that is made up. Gives its length: 0 if the client sent one of its own.
pub(super) async fn settle(session: &mut Session, connection: &Connection) -> Result<u64> {
    let head = session.req_header_mut();
    let headers = &head.headers;
    if headers.contains_key(header::CONTENT_LENGTH)
        || headers.contains_key(header::TRANSFER_ENCODING)
    {
        return Ok(0);
    }
    head.insert_header(header::CONTENT_LENGTH, HeaderValue::from_static("1"))?;
    connection.make_up_byte();
    let read = session.as_mut().read_request_body().await;
    session
        .req_header_mut()
        .remove_header(&header::CONTENT_LENGTH);
    Ok(read?.map_or(0, |read| read.len() as u64))
}
