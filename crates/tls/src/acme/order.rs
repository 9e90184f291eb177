//! A single order, from the request for a name to the signed certificate.

use std::{sync::Arc, time::Duration};

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier,
    KeyAuthorization, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};

use super::{
    account::is_problem,
    certificate::{self, CertificateError},
    challenge::{ChallengeGuard, Tokens},
    managed::{ManagedName, OrderOutcome},
    schedule::Failure,
    store::{Pem, StoreError},
};
use crate::config::model::ChallengeConfig;

/// Poll interval of an order: short at first, and given up if the CA takes minutes. `Retry-After`
/// from the CA takes precedence.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_mins(2));

/// Parameters of an order, and the places that serve its challenge.
pub(super) struct OrderParameters<'a> {
    pub(super) managed: &'a Arc<ManagedName>,
    pub(super) challenge: ChallengeConfig,
    /// The certificate that this one replaces: CAs exempt renewals from rate limits.
    pub(super) replaces: Option<CertificateIdentifier<'static>>,
    pub(super) tokens: &'a Arc<Tokens>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    #[error("{0}")]
    Refused(String),
    #[error("the CA offers no {0} for this name")]
    NoChallenge(&'static str),
    #[error("the CA is unreachable")]
    Unanswered(#[source] Error),
    #[error("timed out")]
    TooLong,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the account on disk cannot be read")]
    Account(#[source] serde_json::Error),
    #[error("cannot make a TLS client")]
    Tls(#[source] rustls::Error),
    #[error("the certificate cannot be used")]
    Certificate(#[from] CertificateError),
    #[error("the gateway is stopping")]
    Stopped,
    #[error("the CA does not know our account")]
    UnknownAccount,
}

impl From<Error> for OrderError {
    fn from(error: Error) -> Self {
        match &error {
            Error::Api(_) if is_problem(&error, "accountDoesNotExist") => Self::UnknownAccount,
            Error::Api(problem) if is_refusal(problem) => Self::Refused(text(problem)),
            Error::Timeout(_) => Self::TooLong,
            _ => Self::Unanswered(error),
        }
    }
}

impl OrderError {
    /// Kind of failure, which decides when to retry. An order that was not decided may count as
    /// refused.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Refused(_) | Self::NoChallenge(_) | Self::TooLong => Failure::Refused,
            Self::Unanswered(_)
            | Self::Store(_)
            | Self::Account(_)
            | Self::Tls(_)
            | Self::Certificate(_)
            | Self::Stopped
            | Self::UnknownAccount => Failure::Unanswered,
        }
    }

    /// Outcome that the metrics count.
    pub(super) fn outcome(&self) -> OrderOutcome {
        match self {
            Self::Refused(_) | Self::NoChallenge(_) | Self::UnknownAccount => OrderOutcome::Refused,
            Self::Unanswered(_) | Self::TooLong => OrderOutcome::Unanswered,
            Self::Store(_)
            | Self::Account(_)
            | Self::Tls(_)
            | Self::Certificate(_)
            | Self::Stopped => OrderOutcome::Failed,
        }
    }
}

/// A failure of the CA itself (RFC 8555, 6.7), or a nonce that it took none of, is no refusal of our
/// request.
fn is_refusal(problem: &Problem) -> bool {
    let is_nonce = (problem.r#type.as_deref()).is_some_and(|own| own.ends_with(":badNonce"));
    !is_nonce && problem.status.is_none_or(|status| status < 500)
}

/// Orders a certificate and proves control of the name.
pub(super) async fn obtain(
    account: &Account,
    wanted: &OrderParameters<'_>,
) -> Result<Pem, OrderError> {
    let identifiers = [Identifier::Dns(wanted.managed.name.to_string())];
    let mut order = place(account, &identifiers, wanted.replaces.clone()).await?;
    // Served until the CA has decided.
    let _shown = prove(&mut order, wanted).await?;
    match order.poll_ready(&POLL).await {
        Ok(OrderStatus::Ready) => {}
        Ok(status) => return Err(refusal(&mut order, &format!("the order is {status:?}")).await),
        Err(Error::Api(problem)) => return Err(refusal(&mut order, &text(&problem)).await),
        Err(error) => return Err(error.into()),
    }
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&POLL).await?;
    Ok(Pem { chain, key })
}

async fn place(
    account: &Account,
    identifiers: &[Identifier],
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<Order, Error> {
    if let Some(replaces) = replaces {
        let order = NewOrder::new(identifiers).replaces(replaces);
        match account.new_order(&order).await {
            // RFC 9773, 5: the old certificate already has a successor, which we lost.
            Err(error) if is_problem(&error, "alreadyReplaced") => {}
            placed => return placed,
        }
    }
    account.new_order(&NewOrder::new(identifiers)).await
}

async fn prove(
    order: &mut Order,
    wanted: &OrderParameters<'_>,
) -> Result<Vec<ChallengeGuard>, OrderError> {
    let (kind, word) = match wanted.challenge {
        ChallengeConfig::Http01 => (ChallengeType::Http01, "http-01"),
        ChallengeConfig::TlsAlpn01 => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
    };
    let mut shown = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            // Validated earlier, and still valid at the CA.
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => {
                let refused = format!("the authorization of the name is {status:?}");
                return Err(OrderError::Refused(refused));
            }
        }
        let mut challenge = authorization
            .challenge(kind.clone())
            .ok_or(OrderError::NoChallenge(word))?;
        let key_authorization = challenge.key_authorization();
        shown.push(show(wanted, &challenge.token, &key_authorization)?);
        challenge.set_ready().await?;
    }
    Ok(shown)
}

fn show(
    wanted: &OrderParameters<'_>,
    token: &str,
    key_authorization: &KeyAuthorization,
) -> Result<ChallengeGuard, OrderError> {
    match wanted.challenge {
        ChallengeConfig::Http01 => Ok(wanted.tokens.show(token, key_authorization.as_str())),
        ChallengeConfig::TlsAlpn01 => {
            let managed = wanted.managed;
            let certificate =
                certificate::challenge(&managed.name, key_authorization.digest().as_ref())?;
            managed.show_challenge(Some(certificate));
            Ok(ChallengeGuard::Certificate {
                managed: Arc::clone(managed),
            })
        }
    }
}

/// Error that the CA found during validation. The order itself only says that it is invalid.
async fn refusal(order: &mut Order, otherwise: &str) -> OrderError {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else {
            continue;
        };
        let problem = state.challenges.iter().find_map(|c| c.error.as_ref());
        if let Some(problem) = problem {
            return OrderError::Refused(text(problem));
        }
    }
    OrderError::Refused(otherwise.to_owned())
}

/// A problem in one line. It may quote what third parties sent to the CA.
fn text(problem: &Problem) -> String {
    let message = message(problem);
    let plain = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c });
    plain.take(MAX_TEXT_LEN).collect()
}

const MAX_TEXT_LEN: usize = 500;

fn message(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or("no type");
    let kind = kind.rsplit(':').next().unwrap_or(kind);
    match &problem.detail {
        Some(detail) => format!("{detail} ({kind})"),
        None => kind.to_owned(),
    }
}
