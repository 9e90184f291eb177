//! Fills race purges over two gateways while the links of purges are cut, stalled and killed at
//! random: no gateway that a receipt lists as done serves a response older than its purge, and with
//! `on_purge_link_lost: revalidate` no response older than the loss of the link is fresh 3 s after
//! it.

use crate::{
    Report,
    support::races::{Course, Outcome},
};

/// Number of pages that are filled and purged at once.
const LANES: usize = 96;

pub(crate) async fn run(report: &mut Report) {
    for (rounds, cache) in [
        (4000, "{ memory: 64MiB }"),
        // Less than all pages need, so that many of them come from level 2.
        (4000, "{ memory: 1MiB, max_object: 64KiB, shared: redis }"),
        (2000, "{ shared: redis, on_purge_link_lost: revalidate }"),
    ] {
        let course = Course::start(LANES, cache).await;
        let outcome = course.race(rounds, true).await;
        report_outcome(report, cache, &outcome);
        if cache.contains("1MiB") {
            let hits = course.level2_hits().await;
            report.check(hits > 0, format!("level 2 took part: {hits} hits"));
        }
        if cache.contains("revalidate") {
            lost(report, &course, true).await;
        }
    }
    let serving = Course::start(LANES, "{ on_purge_link_lost: serve }").await;
    lost(report, &serving, false).await;
}

fn report_outcome(report: &mut Report, cache: &str, outcome: &Outcome) {
    Report::note(format!(
        "cache: {cache}: {} rounds in {:.0?}; both gateways had a response before {} of them",
        outcome.rounds, outcome.took, outcome.filled
    ));
    Report::note(format!("faults: {:?}", outcome.faults));
    Report::note(format!("receipts: {:?}", outcome.others));
    for older in outcome.older.iter().take(5) {
        Report::note(older);
    }
    report.check(
        outcome.older.is_empty() && outcome.named > outcome.rounds,
        format!(
            "{} of {} reads from gateways that receipts name are older than the purge",
            outcome.older.len(),
            outcome.named
        ),
    );
    report.check(
        outcome.older_unnamed > 0,
        format!(
            "control: {} of {} from those that they do not name are",
            outcome.older_unnamed, outcome.unnamed
        ),
    );
    let reached = outcome.others.get("reached").copied().unwrap_or_default();
    report.check(
        reached * 2 > outcome.rounds,
        format!("{reached} of {} purges are over", outcome.rounds),
    );
    for failed in outcome.failed.iter().take(5) {
        Report::note(failed);
    }
    report.check(
        outcome.failed.is_empty(),
        format!("{} requests failed", outcome.failed.len()),
    );
}

async fn lost(report: &mut Report, course: &Course, validates: bool) {
    let lost = course.lose(if validates { 6 } else { 2 }).await;
    for overdue in lost.overdue.iter().take(5).filter(|_| validates) {
        Report::note(overdue);
    }
    let summary = format!(
        "of {} reads 3 s after the loss, {} are older than it; before that {} were",
        lost.reads,
        lost.overdue.len(),
        lost.early
    );
    if validates {
        let holds = lost.overdue.is_empty() && lost.reads > 0 && lost.early > 0;
        report.check(holds, format!("revalidate: {summary}"));
    } else {
        report.check(
            !lost.overdue.is_empty(),
            format!("control, serve: {summary}"),
        );
    }
}
