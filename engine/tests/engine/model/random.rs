//! Random cases. `PROPTEST_CASES=…` and `PROPTEST_RNG_SEED=…` choose others; `make soak` runs 5,000 of them.

use std::cell::Cell;

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

use super::driver::Run;
use super::harness::servers;
use super::operations::{Case, case};

/// What proptest says when nobody has told it otherwise.
const PROPTEST_DEFAULT: u32 = 256;
/// Seven to ten seconds.
const CASES: u32 = 700;

#[test]
fn scripts_and_model_agree_on_random_operations() {
    let config = Config { failure_persistence: None, max_shrink_iters: 4_000, ..Config::default() };
    let cases = if config.cases == PROPTEST_DEFAULT { CASES } else { config.cases };
    compare(Config { cases, ..config });
}

#[test]
#[ignore = "soak"]
fn scripts_and_model_agree_on_random_operations_for_long() {
    let config = Config { failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    let cases = config.cases.max(5_000);
    compare(Config { cases, ..config });
}

#[expect(clippy::print_stdout, reason = "counts and seed are what a soak is for")]
fn compare(mut config: Config) {
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => rand::random(),
    };
    config.rng_seed = RngSeed::Fixed(seed);
    let servers = servers();
    let (cases, commands) = (Cell::new(0_u64), Cell::new(0_u64));
    let one = |case: Case| {
        let run = async {
            let mut run = Run::new(servers, &case).await;
            let outcome = run.run(&case).await;
            commands.set(commands.get() + run.commands);
            outcome.map_err(|what| format!("{what}\n{}", shown(&case, run.begun)))
        };
        cases.set(cases.get() + 1);
        servers.runtime.block_on(run).map_err(TestCaseError::fail)
    };
    let outcome = TestRunner::new(config).run(&case(), one);
    let divergences = u32::from(outcome.is_err());
    println!(
        "token scripts against the model: {} cases, {} commands, {divergences} divergences, PROPTEST_RNG_SEED={seed}",
        cases.get(),
        commands.get()
    );
    if let Err(TestError::Fail(why, _)) = &outcome {
        panic!("Redis and the model differ, PROPTEST_RNG_SEED={seed}\n{why}");
    }
    outcome.unwrap_or_else(|error| panic!("PROPTEST_RNG_SEED={seed}: {error}"));
}

/// The case as far as it came, an operation a line.
fn shown(case: &Case, begun: usize) -> String {
    let Case { limit, stock, opens_first, operations } = case;
    let lines = operations.iter().take(begun).map(|operation| format!("    {operation:?}\n")).collect::<String>();
    format!("case: limit {limit}, stock {stock:?}, opens first: {opens_first}\n{lines}")
}
