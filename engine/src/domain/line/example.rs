//! An honest bundle of made-up entries: for tests, benches and demos. Everything in it follows from the number of
//! entries.

use jiff::{SignedDuration, Timestamp};

use super::beacon::{Chain, Pulse};
use super::bundle::{self, Against, Bundle, Chunk, Join, Revealed};
use super::draw::{self, Chance, Sealed, Step};
use super::entries::{Entry, EntryId};
use super::hex::Hex;
use super::rounds::{Allocation, Bar, Choices, Facts, Free, Outcome, Rank, Wish};
use super::rules::{self, Beacon, MergeBy, Mode, RuleVariant, Rules};
use super::tickets::TicketKey;
use super::{shuffle, tree};
use crate::domain::claims::Quantity;
use crate::domain::ids::VariantNumber;

const VARIANTS: u8 = 4;
const ROUNDS_MIN: u32 = 14;

/// A number that looks like chance: the same for the same arguments.
fn mixed(number: u32, purpose: u32) -> u32 {
    let mut mixed = u64::from(number) << 32 | u64::from(purpose);
    for _ in 0..3 {
        mixed = (mixed ^ mixed >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    (mixed >> 16) as u32
}

/// The wish of a made-up entry: one or two units, one to three of four variants.
pub fn wish(number: u32) -> Wish {
    let first = mixed(number, 1) % u32::from(VARIANTS);
    let count = 1 + mixed(number, 2) % 3;
    let variants = (0..count).map(|at| VariantNumber(((first + at) % u32::from(VARIANTS)) as u8)).collect::<Vec<_>>();
    Wish {
        quantity: Quantity::new(1 + i64::from(mixed(number, 3).is_multiple_of(4))).expect("one or two units"),
        choices: Choices::new(&variants).expect("one to three different variants"),
    }
}

/// A made-up entry. Its buyer is `buyer-` and its number.
pub fn entry(number: u32) -> Entry {
    let buyer = format!("buyer-{number}").parse().expect("an id of a buyer");
    Entry { id: EntryId::new(&[42; 32], number, &buyer), wish: wish(number) }
}

/// The rules of a line with so many entries; a third of them can have something. Its beacon's time begins an hour
/// before it opens.
pub fn rules(entries: u32, chain: &Chain, ticket_key: TicketKey) -> Rules {
    let at = |seconds: i64| Timestamp::from_second(chain.genesis + seconds).expect("a time of a beacon");
    let variant = |number: u8| RuleVariant {
        number,
        sku: format!("shoe-{}", 40 + number),
        stock: (entries / 10).max(1),
        price_minor: 12_900,
    };
    Rules {
        version: rules::VERSION,
        drop: "shoe".parse().expect("a name"),
        mode: Mode::Queue,
        line_opens_at: at(3_600),
        seal_at: at(7_050),
        reveal_after_seconds: 120,
        opens_at: at(7_200),
        closes_at: at(10_800),
        every_seconds: 30,
        per_round: (entries / 10).max(1),
        pay_within_seconds: 1_800,
        capacity: 1_000_000,
        currency: "EUR".parse().expect("a currency"),
        variants: (0..VARIANTS).map(variant).collect(),
        buyer_limit: 2,
        requires_card: true,
        merges: vec![MergeBy::Card],
        may_pass_over: Bar::ALL.to_vec(),
        beacon: Beacon::Drand(chain.clone()),
        ticket_key,
        then_open: false,
    }
}

/// A whole line: sealed, drawn by the round that `sign` signs, and given out. Some leave, some may not have more, some
/// do not pay.
pub fn bundle(entries: u32, chain: &Chain, ticket_key: TicketKey, sign: impl FnOnce(u64) -> Pulse) -> Bundle {
    of_rules(&rules(entries, chain, ticket_key), entries, chain, sign)
}

/// The same with rules of the caller's, whose beacon is this chain.
pub fn of_rules(rules: &Rules, entries: u32, chain: &Chain, sign: impl FnOnce(u64) -> Pulse) -> Bundle {
    let text = rules.to_text();
    let rules_hash = rules::hash_of(&text);
    let mut leaves = (1..=entries).map(entry).collect::<Vec<_>>();
    leaves.sort_unstable_by_key(|entry| entry.id);
    let root = tree::root(tree::leaves(&leaves));
    let round = draw::plan_beacon(rules.seal_at, chain, rules.timing());
    let pulse = sign(round);
    let sealed = Sealed { drop: rules.drop.as_str(), rules: rules_hash, count: entries, root };
    let chance = Chance::Drand { chain: &chain.chain_hash, round, randomness: &pulse.randomness };
    let seed = draw::seed(&sealed, &chance);
    let later = entries + 1..=entries + entries / 50 + 2;
    let joins = later.map(|number| Join { number, entry: entry(number) }).collect::<Vec<_>>();
    let by_rank = shuffle::order(entries, &seed).into_iter().map(|index| leaves[index as usize].wish);
    let line = Allocation::new(by_rank.collect());
    let chunks = chunks(rules, line, &joins);
    let rooted = Step::Rooted { round, at: rules.seal_at + SignedDuration::from_secs(9) };
    Bundle {
        version: bundle::VERSION,
        rules: text,
        rules_hash,
        count: entries,
        leaves,
        root,
        steps: vec![rooted],
        beacon: Revealed::Drand(pulse),
        seed: Hex(seed),
        joins,
        chunks,
        tickets: Vec::new(),
    }
}

fn facts(round: u32, rank: Rank) -> Facts {
    let bar = match mixed(rank, 4) % 40 {
        0 | 1 => Some(Bar::Left),
        2..=5 if round % 3 == 1 => Some(Bar::OverLimit),
        _ => None,
    };
    let dearer = if mixed(rank, 5).is_multiple_of(13) { 1 << (round % 3) } else { 0 };
    Facts { rank, bar, dearer }
}

fn chunks(rules: &Rules, mut line: Allocation, joins: &[Join]) -> Vec<Chunk> {
    let largest = (rules.per_round as usize / 3).clamp(1, 2_000);
    let mut joins = joins.iter();
    let mut free: Free = rules.variants.iter().map(|variant| (VariantNumber(variant.number), variant.stock)).collect();
    let mut given = Free::default();
    let mut chunks = Vec::new();
    let mut per_round = rules.per_round;
    for round in 0.. {
        if round >= ROUNDS_MIN && line.position().served == line.count() {
            break;
        }
        if round == 4 {
            per_round += 1;
        }
        let back = VariantNumber((round % u32::from(VARIANTS)) as u8);
        let mut returned = Free::from_iter([(back, given.of(back).div_ceil(4))]);
        let mut added = Free::from_iter([(VariantNumber(0), if round == 3 { 2 } else { 0 })]);
        given = given.without(&returned).expect("no more than was given");
        free = free.with(&returned).with(&added);
        for join in joins.by_ref().take(if round % 2 == 1 { 1 + per_round as usize / 20 } else { 0 }) {
            line.push(join.entry.wish);
        }
        line.begin_round(free, per_round);
        loop {
            let facts = line.candidates(largest).into_iter().map(|rank| facts(round, rank)).collect::<Vec<_>>();
            let against = facts.iter().filter(|facts| !facts.is_usual());
            let against =
                against.map(|facts| Against(facts.rank, facts.bar.map(|bar| bar.as_str().to_owned()), facts.dearer));
            let mut chunk = Chunk {
                round,
                at: rules.opens_at + SignedDuration::from_secs(i64::from(rules.every_seconds * round) + 1),
                per_round,
                count: line.count(),
                returned: std::mem::take(&mut returned),
                added: std::mem::take(&mut added),
                free: line.position().free,
                decided: facts.len() as u32,
                against: against.collect(),
                awards: Vec::new(),
                served: 0,
            };
            for (rank, outcome) in line.decide(&facts).expect("the facts of the candidates") {
                if let Outcome::Awarded { choice, variant } = outcome {
                    let units = line.wish(rank).map_or(0, |wish| wish.quantity.units());
                    given = given.with(&Free::from_iter([(variant, units)]));
                    chunk.awards.push((rank, choice));
                }
            }
            chunk.served = line.position().served;
            chunks.push(chunk);
            if line.is_round_over() {
                break;
            }
        }
        free = line.position().free;
    }
    chunks
}
