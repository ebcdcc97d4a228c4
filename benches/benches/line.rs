//! A line of a million: its shuffle, its tree, and its rounds.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use doorbuster_engine::domain::ids::VariantNumber;
use doorbuster_engine::domain::line::rounds::{Allocation, Facts, Free};
use doorbuster_engine::domain::line::{example, shuffle, tree};

const ENTRIES: u32 = 1_000_000;
/// Ranks that the worker decides in one transaction.
const CHUNK: usize = 2_000;

fn free(units: u32) -> Free {
    (0..4).map(|variant| (VariantNumber(variant), units)).collect()
}

/// Runs a round to its end; answers how many ranks it decided.
fn round(line: &mut Allocation, free: Free, per_round: u32) -> usize {
    line.begin_round(free, per_round);
    let mut decided = 0;
    loop {
        let facts = line.candidates(CHUNK).into_iter().map(Facts::usual).collect::<Vec<_>>();
        if facts.is_empty() {
            return decided;
        }
        decided += line.decide(&facts).expect("the facts of the candidates").len();
    }
}

fn a_million(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("line_of_a_million");
    group.sample_size(10);
    group.bench_function("shuffle", |bencher| bencher.iter(|| shuffle::order(ENTRIES, &[7; 32])));
    let mut entries = (1..=ENTRIES).map(example::entry).collect::<Vec<_>>();
    entries.sort_unstable_by_key(|entry| entry.id);
    group.bench_function("tree", |bencher| bencher.iter(|| tree::root(tree::leaves(&entries))));

    let wishes = entries.iter().map(|entry| entry.wish).collect::<Vec<_>>();
    // Everybody stands by: a tenth of them was given everything there was.
    let mut sold_out = Allocation::new(wishes.clone());
    let decided = round(&mut sold_out, free(25_000), ENTRIES);
    assert!(decided > 50_000 && sold_out.position().served == ENTRIES, "{decided} decided");
    let position = sold_out.position();
    group.bench_function("resume", |bencher| {
        bencher.iter_batched(
            || wishes.clone(),
            |wishes| Allocation::resume(wishes, |rank| sold_out.stands_by(rank), position),
            BatchSize::LargeInput,
        );
    });
    group.bench_function("rounds_until_sold_out", |bencher| {
        bencher.iter_batched(
            || Allocation::new(wishes.clone()),
            |mut line| {
                round(&mut line, free(25_000), ENTRIES);
                line
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function("hundred_units_returned_to_those_who_stand_by", |bencher| {
        bencher.iter_batched(
            || sold_out.clone(),
            |mut line| {
                round(&mut line, free(25), 10_000);
                line
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, a_million);
criterion_main!(benches);
