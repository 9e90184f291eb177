//! `edgeway drain` and `edgeway undrain`: stops requests to a backend, and sends it requests again.

use std::time::Duration;

use edgeway_base::units::Span;

use super::{
    Failure,
    admin::AdminOption,
    backends::{Gateway, Name, WaitFailure, interruptible, until_idle},
    client, out,
};

#[derive(Debug, clap::Args)]
pub struct DrainOptions {
    /// The backend, such as web/127.0.0.1:3001
    #[arg(value_name = "UPSTREAM/BACKEND")]
    backend: Name,
    /// Time to wait for the requests in flight; 0s to wait for none
    #[arg(long, value_name = "TIME", default_value = "60s")]
    wait: Span,
    /// Drain even if no other backend is in rotation: users get 503
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    admin: AdminOption,
}

#[derive(Debug, clap::Args)]
pub struct UndrainOptions {
    /// The backend, such as web/127.0.0.1:3001
    #[arg(value_name = "UPSTREAM/BACKEND")]
    backend: Name,
    #[command(flatten)]
    admin: AdminOption,
}

pub fn run(options: &DrainOptions) -> Result<(), Failure> {
    let (backend, wait) = (&options.backend, options.wait);
    client::ask(&options.admin, async |gateway| {
        match drain(&gateway, backend, wait.0, options.force).await {
            Ok(message) => out::note(&message),
            Err(WaitFailure::Trouble(trouble)) => return Err(trouble.into()),
            Err(WaitFailure::TooLong(left)) => {
                let left = out::counted(left, "request");
                return Err(format!(
                    "{left} still in flight at {backend} after {wait}; it stays drained: continue \
                     to wait with the same command, or undo the drain with `edgeway undrain \
                     {backend}`"
                )
                .into());
            }
            Err(WaitFailure::Interrupted) => {
                out::note(&format!(
                    "edgeway: no longer waiting; {backend} stays drained"
                ));
                return Err(Failure::INTERRUPTED);
            }
        }
        Ok(())
    })
}

pub fn run_undrain(options: &UndrainOptions) -> Result<(), Failure> {
    let UndrainOptions { backend, admin } = options;
    client::ask(admin, async |gateway| {
        gateway.undrain(backend).await?;
        out::note(&format!("{backend} gets requests again"));
        Ok(())
    })
}

async fn drain(
    gateway: &impl Gateway,
    name: &Name,
    wait: Duration,
    force: bool,
) -> Result<String, WaitFailure<u64>> {
    let drained = gateway.drain(name, force).await;
    let drained = drained.map_err(WaitFailure::Trouble)?;
    if drained.in_flight == 0 {
        return Ok(format!("{name} is drained"));
    }
    let left = out::counted(drained.in_flight, "request");
    if wait.is_zero() {
        return Ok(format!("{name} is draining: {left} in flight"));
    }
    out::note(&format!("{name} is draining: waiting for {left}"));
    let waited =
        interruptible(|interrupt| async move { until_idle(gateway, name, wait, &interrupt).await });
    waited.await.map(|()| format!("{name} is drained"))
}

#[cfg(test)]
mod tests {
    use super::{super::backends::tests::FakeGateway, *};

    const NAME: &str = "web/127.0.0.1:3000";

    async fn drained(in_flight: u64, finishes: u64, wait: u64) -> Result<String, WaitFailure<u64>> {
        let gateway = FakeGateway::new(&["127.0.0.1:3000", "127.0.0.1:3001"]);
        gateway.with("127.0.0.1:3000", |backend| backend.in_flight = in_flight);
        gateway.state.borrow_mut().finishes = finishes;
        let wait = Duration::from_secs(wait);
        let outcome = drain(&gateway, &NAME.parse().unwrap(), wait, false).await;
        assert_eq!(gateway.log(), ["drain 127.0.0.1:3000"], "it stays drained");
        outcome
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_the_last_request() {
        let done = "web/127.0.0.1:3000 is drained".to_owned();
        assert_eq!(drained(0, 0, 60).await, Ok(done.clone()));
        assert_eq!(drained(30, 1, 60).await, Ok(done));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_remaining_requests_is_printed() {
        assert_eq!(drained(3, 0, 5).await, Err(WaitFailure::TooLong(3)));
        let message = drained(1, 0, 0).await.unwrap();
        assert_eq!(
            message,
            "web/127.0.0.1:3000 is draining: 1 request in flight"
        );
    }
}
