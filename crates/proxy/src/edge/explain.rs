//! Explanation of a request as it would arrive over HTTP/1.1: the edge checks it before the rules of
//! the gateway do.

use edgeway_gateway::{
    Gateway,
    explain::{self, ExplainError, ExplainRequest, ExplainScope, Explanation},
};

use super::head::{HeadLimits, ScanResult, Scanner};

/// Explains a request.
///
/// # Errors
/// When the edge or the gateway refuses the request, or it is none.
pub fn explain(
    gateway: &Gateway,
    question: &ExplainRequest,
    look: ExplainScope,
) -> Result<Explanation, ExplainError> {
    let listener = explain::listener(gateway, question)?;
    if let Some((listener, section)) = listener.zip(question.header_section())
        && let ScanResult::Refused(refusal) =
            Scanner::default().scan(&section, &HeadLimits::from(&**listener))
    {
        return Err(ExplainError::Edge {
            status: refusal.status.as_u16(),
            reason: refusal.reason,
            detail: refusal.detail,
        });
    }
    explain::explain(gateway, question, look)
}
