//! Messages of HTTP/1.1 (RFC 9112): header sections read and written, and bodies in their framing.
//! Nothing here waits for a connection.

mod body;
mod date;
mod name;
mod request;
mod response;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    body::{MessageBody, Piece},
    date::date,
    request::{is_kept, parse as parse_request, write_section},
    response::{Framing, ValueMemory, is_kept_alive, parse as parse_response, stated_length},
};
