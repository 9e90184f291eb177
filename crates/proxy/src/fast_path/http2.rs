//! Requests on streams of HTTP/2. Their headers are parsed already, and a stream that the proxy must
//! continue takes the decision along.

use std::{mem, sync::Arc};

use pingora::{http::RequestHeader, protocols::http::v2::server::HttpSession};

use super::{FastPath, relay, trace};
use crate::{
    connection::{
        Connection,
        fast_path::{self, CarriedRequest},
        response_queue::ResponseQueue,
    },
    context::{Context, StreamWriter},
    decision::{self, Decision},
    direct::{DirectClient, ReroutedRequest},
    reply,
};

impl FastPath {
    /// Serves a stream of `connection`. Returns it if the proxy must continue.
    pub(super) async fn attempt_stream(
        &self,
        mut session: HttpSession,
        connection: &Arc<Connection>,
        responses: &ResponseQueue,
    ) -> Option<(HttpSession, CarriedRequest)> {
        let has_body = !session.is_body_empty();
        let mut request = mem::replace(session.req_header_mut(), nothing());
        let mut ctx = Box::new(Context::new(&self.live));
        ctx.stream_writer = StreamWriter::Direct;
        let course = decision::decide(
            &mut request,
            Some(Arc::clone(connection)),
            has_body,
            &mut ctx,
        )
        .await;
        let listener = connection.listener.config();
        let limits = &listener.limits;
        let rerouted = ReroutedRequest::new();
        let is_ended = match course {
            Decision::Stored(entry, None) => {
                trace(&request, "stored");
                let mut client =
                    DirectClient::http2(&mut session, (&request, &rerouted), responses, limits);
                self.send(&mut client, &mut ctx, &entry).await
            }
            Decision::File(response) => {
                trace(&request, "file");
                let mut client =
                    DirectClient::http2(&mut session, (&request, &rerouted), responses, limits);
                self.send_file(&mut client, &mut ctx, *response).await
            }
            Decision::Reply(reply) => {
                trace(&request, "reply");
                if has_body && reply.status.is_success() {
                    reply::linger_on_stream(&mut session).await;
                }
                let mut client =
                    DirectClient::http2(&mut session, (&request, &rerouted), responses, limits);
                let is_sent = self.send_reply(&mut client, &mut ctx, *reply).await;
                is_sent && client.status.is_some()
            }
            Decision::GoesOn(flow)
                if self.relays && relay::takes(&request, flow.is_some(), &ctx) =>
            {
                trace(&request, "relay");
                self.live.http.relayed.inc();
                let mut client =
                    DirectClient::http2(&mut session, (&request, &rerouted), responses, limits);
                let outcome = relay::run(&mut client, has_body, flow, &mut ctx).await;
                self.relayed(&client, &outcome, &mut ctx);
                outcome.is_complete && client.status.is_some()
            }
            course => {
                trace(&request, "proxy");
                ctx.stream_writer = StreamWriter::Pingora;
                ctx.course = Some(course);
                *session.req_header_mut() = request;
                return Some((session, ctx));
            }
        };
        if is_ended && has_body {
            // Nothing waits for the rest of the request.
            drop(ctx);
            reply::linger_on_stream(&mut session).await;
        }
        // The end of a session resets a stream whose response is not complete, so that no client
        // takes a part for the whole.
        None
    }
}

/// Returns the headers that stand in a session while a request is decided on.
fn nothing() -> RequestHeader {
    RequestHeader::from(http::Request::new(()).into_parts().0)
}

/// Takes up the request that the fast path began on this task's stream, with its decision so far.
pub(crate) fn take_up_stream() -> Option<Box<Context>> {
    fast_path::take_carried()?.downcast().ok()
}
