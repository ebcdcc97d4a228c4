//! The crash-point matrix: for each named step, runs in which the program is killed there; see docs/CRASHES.md.
//!
//! `make crash` prints it whole. `DOORBUSTER_CRASH_STEPS=create.` takes the steps that begin so, `DOORBUSTER_CRASH_RUNS=5` so
//! many runs of each.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use doorbuster_engine::steps::STEPS;
use doorbuster_sandbox::provider::{FakeProviderOptions, WebhookOptions};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use jiff::SignedDuration;

use super::judge::Figures;
use super::play::{STOCK, play};
use super::stage::{Keeper, Stage, StageOptions};

/// Runs at the same time: most of a run is waiting.
const AT_ONCE: usize = 6;
const RUNS: u32 = 2;
/// Some steps are passed only if a fault of the provider's comes at the right moment, so that another seed may have to be tried.
const SEEDS_TRIED: u64 = 6;
/// Passed by a command of the operator's, not by the program that serves and works.
const OF_COMMANDS: [&str; 2] = ["refunds.ask_refund:written", "refunds.ask_refund:committed"];

/// Steps of a line. The others' runs go without one.
fn is_of_line(step: &str) -> bool {
    ["rows.", "joins.", "draws.", "line.", "mails."].iter().any(|module| step.starts_with(module))
}

/// What one run came to.
#[derive(Debug, Default)]
struct Run {
    step: &'static str,
    passes: BTreeMap<String, usize>,
    deaths: u32,
    /// Other seeds that were tried before, under which the step was not come to.
    missed: u64,
    figures: Figures,
    wrong: Vec<String>,
    log: String,
}

impl Run {
    /// All is well, but it never came to its step.
    fn is_missed(&self) -> bool {
        self.deaths == 0 && self.wrong.len() == 1
    }
}

fn options(seed: u64) -> StageOptions {
    let provider = FakeProviderOptions {
        seed,
        delay: Duration::from_millis(2)..Duration::from_millis(15),
        lost_answer_rate: 0.08,
        unavailable_rate: 0.08,
        refund_pending_rate: 0.5,
        settles_after: Some(Duration::from_millis(50)),
        ..FakeProviderOptions::default()
    };
    let news = |news: &mut WebhookOptions| {
        news.first_rate = 0.2;
        news.twice_rate = 0.2;
        news.late_rate = 0.1;
    };
    // Until the play says that time is up.
    let decline_grace = SignedDuration::from_hours(1);
    StageOptions { provider, news, stock: STOCK, decline_grace, settle_every: "100ms" }
}

/// Gives the play, with a death at the `number`-th pass of `step`; without a step nobody dies.
async fn run(step: Option<&'static str>, number: u32, seed: u64) -> Run {
    let stage = Stage::new(options(seed)).await;
    let die_at = step.map(|step| format!("{step}={number}"));
    let (commands_die_at, die_at) = match step {
        Some(step) if OF_COMMANDS.contains(&step) => (die_at, None),
        _ => (None, die_at),
    };
    let keeper = Keeper::start(&stage, die_at);
    let mut wrong = Vec::from_iter(play(&stage, commands_die_at.as_deref(), step.is_none_or(is_of_line)).await.err());
    let mut deaths = keeper.deaths();
    if commands_die_at.is_some() {
        deaths += u32::from(stage.steps().iter().filter(|passed| Some(passed.as_str()) == step).count() > 0);
    }
    wrong.extend(keeper.end().await);
    match wrong.is_empty() {
        true => wrong.extend(stage.violations(deaths).await),
        false => stage.check_once(&mut wrong),
    }
    let figures = stage.figures().await;
    if figures.reviews > 0 {
        wrong.push(format!("{} payments wait for a person", figures.reviews));
    }
    if step.is_some() != (deaths > 0) {
        wrong.push(format!("it died {deaths} times"));
    }
    let mut passes = BTreeMap::new();
    for step in stage.steps() {
        *passes.entry(step).or_default() += 1;
    }
    let log = if wrong.is_empty() { String::new() } else { stage.log() };
    Run { step: step.unwrap_or("nobody dies"), passes, deaths, missed: 0, figures, wrong, log }
}

/// One line a step. Answers whether all of it is as it must be.
#[expect(clippy::print_stdout, reason = "the table is what this suite is for")]
fn print(runs: &[Run], steps: &[&'static str], took: Duration) -> bool {
    let mut passes: BTreeMap<&str, usize> = BTreeMap::new();
    for (step, count) in runs.iter().flat_map(|run| &run.passes) {
        *passes.entry(step).or_default() += count;
    }
    println!("{:<36} {:>5} {:>7} {:>7} {:>11}", "step", "runs", "deaths", "passes", "violations");
    let mut good = true;
    for step in steps {
        let of_step = runs.iter().filter(|run| run.step == *step).collect::<Vec<_>>();
        let deaths = of_step.iter().filter(|run| run.deaths > 0).count();
        let wrong = of_step.iter().map(|run| run.wrong.len()).sum::<usize>();
        let passed = passes.get(step).copied().unwrap_or_default();
        println!("{step:<36} {:>5} {deaths:>7} {passed:>7} {wrong:>11}", of_step.len());
        good &= wrong == 0 && deaths == of_step.len() && passed > 0;
    }
    let sum = |figure: &dyn Fn(&Figures) -> usize| runs.iter().map(|run| figure(&run.figures)).sum::<usize>();
    println!(
        "{} steps, {} runs, {} deaths, {} orders, {} captures, {} refunds, {} unknown resolved, {} mails ({} came twice), \
         {} violations, {:.0} s; {} more runs did not come to their step",
        steps.len(),
        runs.len(),
        runs.iter().map(|run| run.deaths).sum::<u32>(),
        sum(&|figures| figures.orders as usize),
        sum(&|figures| figures.captures),
        sum(&|figures| figures.refunds),
        sum(&|figures| figures.unknown as usize),
        sum(&|figures| figures.mails),
        sum(&|figures| figures.mails_again),
        runs.iter().map(|run| run.wrong.len()).sum::<usize>(),
        took.as_secs_f64(),
        runs.iter().map(|run| run.missed).sum::<u64>()
    );
    for run in runs.iter().filter(|run| !run.wrong.is_empty()) {
        println!("\n{}:", run.step);
        run.wrong.iter().for_each(|wrong| println!("  {wrong}"));
        let lines = run.log.lines().collect::<Vec<_>>();
        lines.iter().skip(lines.len().saturating_sub(30)).for_each(|line| println!("    {line}"));
    }
    good
}

async fn matrix(steps: &[&'static str], runs: u32) {
    let began = Instant::now();
    // How often each step is passed when nobody dies: which of its passes can be died at.
    let rehearsal = run(None, 0, 1).await;
    let most = |step: &str| rehearsal.passes.get(step).map_or(1, |passes| 1 + passes / 3) as u32;
    let jobs = (0..runs).flat_map(|round| steps.iter().map(move |step| (round, *step)));
    let jobs = jobs.enumerate().map(|(seed, (round, step))| {
        let number = 1 + round % most(step);
        async move {
            let mut tried = 0;
            loop {
                let seed = seed as u64 + 2 + tried * 10_000;
                tried += 1;
                // One run that panics must not end the others.
                let run = AssertUnwindSafe(run(Some(step), number, seed)).catch_unwind().await;
                let run = run.unwrap_or_else(|_| Run {
                    step,
                    wrong: vec!["it panicked, see above".to_owned()],
                    ..Run::default()
                });
                if run.is_missed() && tried < SEEDS_TRIED {
                    continue;
                }
                break Run { missed: tried - 1, ..run };
            }
        }
    });
    let mut done = stream::iter(jobs).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    done.insert(0, rehearsal);
    assert!(print(&done, steps, began.elapsed()), "see the table");
    assert!(done[0].wrong.is_empty(), "not even without a death");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_one_step_of_each_flow_leaves_nothing_unexplained() {
    let steps = [
        "settlements.settle:committed",
        "confirm.dispatched",
        "confirm.answered",
        "refund.answered",
        "payments.settle_payment:written",
        "grants.applied",
        "pull.set_aside",
        "line.chunk_decided",
        "mail.sent",
    ];
    matrix(&steps, 1).await;
}

#[ignore = "ten minutes: make crash"]
#[expect(clippy::disallowed_methods, reason = "whoever repeats a part of the matrix says which")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_any_step_leaves_nothing_unexplained() {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let (begin, runs) = (variable("DOORBUSTER_CRASH_STEPS"), variable("DOORBUSTER_CRASH_RUNS"));
    let steps = STEPS.iter().copied().filter(|step| step.starts_with(&begin)).collect::<Vec<_>>();
    matrix(&steps, runs.parse().unwrap_or(RUNS)).await;
}
