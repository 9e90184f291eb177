//! The screen in a terminal: keys, refreshes and orders, until it ends.

use std::{io, thread, time::Duration};

use edgeway_base::{
    clock::Clock,
    out::{Failure, counted},
};
use edgeway_net::tasks::Tasks;
use edgeway_operate::{backends::Gateway as _, client::Remote};
use edgeway_status::client::ClientError;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{self, UnboundedSender},
    time::sleep,
};

use super::{
    observe::{Observation, Observer},
    screen::{Effect, Order, Screen},
    view,
};

/// Longest time for which the thread that reads keys outlives the screen.
const KEYS: Duration = Duration::from_millis(100);

/// Events of the screen.
enum Change {
    Terminal(io::Result<Event>),
    Observed(Box<Result<Observation, ClientError>>),
    /// The outcome of an order, as a message.
    Done(String),
}

/// The terminal as the screen uses it. It is restored on drop, and by ratatui's hook on a panic.
struct RestoredTerminal;

impl Drop for RestoredTerminal {
    fn drop(&mut self) {
        // A terminal that was closed cannot be restored.
        drop(ratatui::try_restore());
    }
}

/// Shows the screen until a key or a signal ends it.
pub(super) async fn run(
    observer: Observer,
    first: Observation,
    interval: Duration,
) -> Result<(), Failure> {
    let signals = Signals::new().map_err(|error| format!("cannot handle signals: {error}"))?;
    let shown = show(observer, first, interval, signals).await;
    Failure::of_status(shown.map_err(|error| format!("cannot use the terminal: {error}"))?)
}

async fn show(
    observer: Observer,
    first: Observation,
    interval: Duration,
    mut signals: Signals,
) -> io::Result<u8> {
    let (sender, mut changes) = mpsc::unbounded_channel();
    let client = observer.client();
    let (clock, tasks) = (Clock::machine(), Tasks::default());
    let _restored = RestoredTerminal;
    let mut terminal = ratatui::try_init()?;
    tasks.spawn("observer", observe(observer, interval, sender.clone()));
    read_keys(sender.clone())?;
    let has_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut screen = Screen::new(first, has_colour);
    loop {
        terminal.draw(|frame| view::draw(&screen, frame.area(), frame.buffer_mut()))?;
        let change = tokio::select! {
            change = changes.recv() => change,
            code = signals.next() => return Ok(code),
        };
        match change {
            Some(Change::Terminal(event)) => match take(&mut screen, &event?) {
                Some(Effect::Quit) => return Ok(0),
                // Not `clear`: it waits for a reply of the terminal, which the thread of keys reads.
                Some(Effect::Redraw) => terminal.resize(terminal.size()?.into())?,
                Some(Effect::Run(order)) => {
                    let (gateway, sender) = (Remote(client.clone()), sender.clone());
                    tasks.spawn("order", async move {
                        // The screen may have ended meanwhile.
                        drop(sender.send(Change::Done(obey(&gateway, &order).await)));
                    });
                }
                None => {}
            },
            Some(Change::Observed(observed)) => match *observed {
                Ok(observation) => screen.show(observation),
                Err(error) => screen.lose(error.to_string(), clock.wall().into()),
            },
            Some(Change::Done(message)) => screen.message = Some(message),
            None => return Ok(0),
        }
    }
}

fn take(screen: &mut Screen, event: &Event) -> Option<Effect> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => screen.press(*key),
        // The next frame has the new size.
        _ => None,
    }
}

async fn obey(gateway: &Remote, order: &Order) -> String {
    let outcome = match order {
        Order::Drain(name) => {
            let drained = gateway.drain(name, false).await;
            drained.map(|backend| match backend.in_flight {
                0 => format!("{name} is drained"),
                left => format!("{name} is draining: {} in flight", counted(left, "request")),
            })
        }
        Order::Undrain(name) => {
            let taken_back = gateway.undrain(name).await;
            taken_back.map(|_| format!("{name} gets requests again"))
        }
    };
    let message = outcome.unwrap_or_else(|failure| failure.to_string());
    // The footer is one line.
    message.replace('\n', " ")
}

async fn observe(mut observer: Observer, interval: Duration, sender: UnboundedSender<Change>) {
    loop {
        sleep(interval).await;
        let observed = Box::new(observer.observe().await);
        if sender.send(Change::Observed(observed)).is_err() {
            return;
        }
    }
}

/// Starts the thread that reads keys and changes of size.
fn read_keys(sender: UnboundedSender<Change>) -> io::Result<()> {
    let work = move || {
        while !sender.is_closed() {
            let read = match event::poll(KEYS) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let is_last = read.is_err();
            if sender.send(Change::Terminal(read)).is_err() || is_last {
                return;
            }
        }
    };
    thread::Builder::new().name("keys".to_owned()).spawn(work)?;
    Ok(())
}

/// Signals that end the screen, so that the terminal is restored first.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal; returns the exit status that shells give to it.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.terminate.recv() => 143,
            _ = self.interrupt.recv() => 130,
            _ = self.hangup.recv() => 129,
        }
    }
}
