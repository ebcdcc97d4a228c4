//! Bundles that were tampered with, and what each verifier says of them: ours, the Python in docs/DRAW.md, and the script
//! of the gateway's page, in a real browser.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use blst::min_sig::SecretKey;
use doorbuster_sandbox::browser::Browser;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::beacon::tests::{chain_of, pulse_of};
use super::beacon::{self, BadPulse};
use super::bundle::{Against, Bundle, Own, Proven, Revealed, Verdict, Wrong, verify};
use super::draw::{self, Chance, Sealed, Step, WrongSteps};
use super::entries::EntryId;
use super::example;
use super::hex::{self, Hex};
use super::rounds::{Free, inversions};
use super::rules::{self, Beacon, Rules};
use super::tickets::{InvalidTicket, Ticket, TicketSigner};
use super::{shuffle, tree};
use crate::domain::ids::{DropId, VariantNumber};

fn key() -> SecretKey {
    SecretKey::key_gen(&[1; 32], &[]).unwrap()
}

fn signer() -> TicketSigner {
    TicketSigner::new(&[1; 32]).unwrap()
}

fn honest(entries: u32) -> Bundle {
    let key = key();
    example::bundle(entries, &chain_of(&key), signer().public_key(), |round| pulse_of(&key, round))
}

fn pulse(bundle: &mut Bundle) -> &mut beacon::Pulse {
    match &mut bundle.beacon {
        Revealed::Drand(pulse) => pulse,
        other => panic!("{other:?}"),
    }
}

/// The line of a shop that had other rules.
fn with_rules(change: impl FnOnce(&mut Rules)) -> Bundle {
    let (key, entries) = (key(), 300);
    let chain = chain_of(&key);
    let mut rules = example::rules(entries, &chain, signer().public_key());
    change(&mut rules);
    example::of_rules(&rules, entries, &chain, |round| pulse_of(&key, round))
}

fn reseed(bundle: &mut Bundle) {
    let rules = Rules::parse(&bundle.rules).unwrap();
    let pulse = *pulse(bundle);
    let Beacon::Drand(chain) = &rules.beacon else { panic!("{rules:?}") };
    let sealed = Sealed { drop: rules.drop.as_str(), rules: bundle.rules_hash, count: bundle.count, root: bundle.root };
    let chance = Chance::Drand { chain: &chain.chain_hash, round: pulse.round, randomness: &pulse.randomness };
    bundle.seed = Hex(draw::seed(&sealed, &chance));
}

/// The chunk in which something was said against somebody, of this kind.
fn chunk_with(bundle: &Bundle, is_meant: impl Fn(&Against) -> bool) -> (usize, usize) {
    let mut found = bundle
        .chunks
        .iter()
        .enumerate()
        .filter_map(|(at, chunk)| Some((at, chunk.against.iter().position(&is_meant)?)));
    found.next().expect("the example has one")
}

type Forgery = (&'static str, fn(&mut Bundle), fn(&Wrong) -> bool);

macro_rules! is {
    ($pattern:pat) => {
        |wrong| matches!(wrong, $pattern)
    };
}

const FORGERIES: &[Forgery] = &[
    (
        "rules changed",
        |bundle| bundle.rules = bundle.rules.replace("\"per_round\":", "\"per_round\":1"),
        is!(Wrong::RulesHash),
    ),
    (
        "rules changed, with their hash",
        |bundle| {
            bundle.rules = bundle.rules.replace("\"per_round\":", "\"per_round\":1");
            bundle.rules_hash = rules::hash_of(&bundle.rules);
        },
        is!(Wrong::Seed),
    ),
    (
        "rules with a reason of the shop's own",
        |bundle| {
            bundle.rules = bundle.rules.replace("over_limit", "not_eligible");
            bundle.rules_hash = rules::hash_of(&bundle.rules);
        },
        is!(Wrong::Rules(_)),
    ),
    ("an entry was added", |bundle| bundle.leaves.push(example::entry(999_999)), is!(Wrong::Count { .. })),
    (
        "an entry was added and counted",
        |bundle| {
            bundle.leaves.push(example::entry(999_999));
            bundle.leaves.sort_unstable_by_key(|leaf| leaf.id);
            bundle.count += 1;
        },
        is!(Wrong::Root),
    ),
    (
        "an entry was added behind the others",
        |bundle| {
            bundle.leaves.push(example::entry(999_999));
            bundle.count += 1;
        },
        is!(Wrong::Order(_)),
    ),
    (
        "an entry stands twice",
        |bundle| {
            bundle.leaves[1] = bundle.leaves[0];
            bundle.root = tree::root(tree::leaves(&bundle.leaves));
            reseed(bundle);
        },
        is!(Wrong::Order(1)),
    ),
    ("an entry wants something else", |bundle| bundle.leaves[5].wish = example::wish(7), is!(Wrong::Root)),
    (
        "an entry was exchanged",
        |bundle| {
            bundle.leaves[5] = example::entry(999_999);
            bundle.leaves.sort_unstable_by_key(|leaf| leaf.id);
        },
        is!(Wrong::Root),
    ),
    (
        "the root was replaced",
        |bundle| {
            bundle.leaves[5].wish = example::wish(7);
            bundle.root = tree::root(tree::leaves(&bundle.leaves));
        },
        is!(Wrong::Seed),
    ),
    ("the count is another one", |bundle| bundle.count += 1, is!(Wrong::Count { .. })),
    (
        "a wish of more than one may have",
        |bundle| *bundle = with_rules(|rules| rules.buyer_limit = 1),
        is!(Wrong::Wish(_)),
    ),
    (
        "a late root",
        |bundle| {
            let Step::Rooted { at, .. } = &mut bundle.steps[0] else { panic!() };
            *at += SignedDuration::from_secs(90);
        },
        is!(Wrong::Steps(WrongSteps::LateRoot)),
    ),
    ("no root at all", |bundle| bundle.steps.clear(), is!(Wrong::Steps(WrongSteps::NotRooted))),
    (
        "a postponement when the round was out",
        |bundle| {
            let Step::Rooted { round, .. } = bundle.steps[0] else { panic!() };
            let at = chain_of(&key()).time_of(round).unwrap();
            bundle.steps =
                vec![Step::Postponed { round, to: round + 100, at }, Step::Rooted { round: round + 100, at }];
            *pulse(bundle) = pulse_of(&key(), round + 100);
            reseed(bundle);
        },
        is!(Wrong::Steps(WrongSteps::LatePostponement)),
    ),
    (
        "another round's beacon",
        |bundle| {
            let round = pulse(bundle).round + 1;
            *pulse(bundle) = pulse_of(&key(), round);
            reseed(bundle);
        },
        is!(Wrong::BeaconRound { .. }),
    ),
    (
        "a signature of another round, and everything that follows from it",
        |bundle| {
            let (key, entries) = (key(), 300);
            let chosen = |round| beacon::Pulse { round, ..pulse_of(&key, round + 1) };
            *bundle = example::bundle(entries, &chain_of(&key), signer().public_key(), chosen);
        },
        is!(Wrong::Beacon(BadPulse::Signature)),
    ),
    (
        "randomness of the shop's own",
        |bundle| {
            pulse(bundle).randomness = Hex([7; 32]);
            reseed(bundle);
        },
        is!(Wrong::Beacon(BadPulse::Randomness)),
    ),
    (
        "a beacon of the shop's own",
        |bundle| {
            bundle.beacon = Revealed::None { secret: "ab".repeat(16) };
        },
        is!(Wrong::BeaconKind),
    ),
    ("the seed was chosen", |bundle| bundle.seed = Hex([7; 32]), is!(Wrong::Seed)),
    ("joined later, and stands before others", |bundle| bundle.joins.swap(0, 1), is!(Wrong::Join(_))),
    ("joined twice", |bundle| bundle.joins[1].entry = bundle.joins[0].entry, is!(Wrong::Join(_))),
    ("in line already, and joined again", |bundle| bundle.joins[1].entry = bundle.leaves[0], is!(Wrong::Join(_))),
    ("a round is missing", |bundle| bundle.chunks.retain(|chunk| chunk.round != 2), is!(Wrong::RoundNumber(3))),
    (
        "a round before its time",
        |bundle| {
            bundle
                .chunks
                .iter_mut()
                .filter(|chunk| chunk.round == 1)
                .for_each(|chunk| chunk.at -= SignedDuration::from_secs(2));
        },
        is!(Wrong::RoundEarly(1)),
    ),
    (
        "the pace was lowered",
        |bundle| {
            bundle.chunks.iter_mut().filter(|chunk| chunk.round == 1).for_each(|chunk| chunk.per_round -= 1);
        },
        is!(Wrong::PaceLowered(1)),
    ),
    ("the pace was lowered inside a round", |bundle| bundle.chunks[1].per_round -= 1, is!(Wrong::PaceLowered(0))),
    (
        "the stock was cut",
        |bundle| {
            bundle.chunks[0].free = bundle.chunks[0].free.without(&Free::from_iter([(VariantNumber(0), 1)])).unwrap();
        },
        is!(Wrong::Stock(0)),
    ),
    (
        "units were kept back between two chunks",
        |bundle| {
            bundle.chunks[1].free = bundle.chunks[1].free.without(&Free::from_iter([(VariantNumber(1), 1)])).unwrap();
        },
        is!(Wrong::Stock(0)),
    ),
    (
        "units came from nowhere",
        |bundle| bundle.chunks[0].returned = Free::from_iter([(VariantNumber(0), 1)]),
        is!(Wrong::Returned(0)),
    ),
    (
        "units came inside a round",
        |bundle| bundle.chunks[1].added = Free::from_iter([(VariantNumber(0), 1)]),
        is!(Wrong::Stock(0)),
    ),
    ("the line got shorter", |bundle| bundle.chunks[0].count -= 1, is!(Wrong::LineCount(0))),
    ("the line is longer than its list", |bundle| bundle.chunks[0].count += 1_000, is!(Wrong::LineCount(0))),
    (
        "somebody was struck out for a reason of the shop's own",
        |bundle| {
            let rank = bundle.chunks[0].awards[0].0;
            bundle.chunks[0].against.push(Against(rank, Some("not_eligible".to_owned()), 0));
            bundle.chunks[0].awards.remove(0);
        },
        is!(Wrong::Reason { .. }),
    ),
    (
        "somebody was struck out for a reason that the rules leave out",
        |bundle| *bundle = with_rules(|rules| rules.may_pass_over.clear()),
        is!(Wrong::Reason { .. }),
    ),
    (
        "somebody was struck out as awarded",
        |bundle| {
            let rank = bundle.chunks[0].awards[0].0;
            bundle.chunks[0].against.push(Against(rank, Some("awarded".to_owned()), 0));
            bundle.chunks[0].awards.remove(0);
        },
        is!(Wrong::NotAwarded(_)),
    ),
    (
        "something is said against nobody",
        |bundle| {
            bundle.chunks[0].against.push(Against(100, Some("left".to_owned()), 0));
        },
        is!(Wrong::NotDecided { round: 0, rank: 100 }),
    ),
    (
        "a round ended too early",
        |bundle| {
            let last = bundle.chunks.iter().position(|chunk| chunk.round == 1).unwrap() - 1;
            bundle.chunks.remove(last);
        },
        is!(Wrong::RoundCut(0)),
    ),
    (
        "a round went on",
        |bundle| {
            let last = bundle.chunks.iter().position(|chunk| chunk.round == 1).unwrap() - 1;
            bundle.chunks[last].decided += 1;
        },
        is!(Wrong::RoundCut(0)),
    ),
    (
        "an award above what was accepted",
        |bundle| {
            let (chunk, at) = chunk_with(bundle, |Against(_, bar, dearer)| bar.is_none() && *dearer == 1);
            let Against(rank, ..) = bundle.chunks[chunk].against[at];
            bundle.chunks[chunk].awards.retain(|(awarded, _)| *awarded != rank);
            let before = bundle.chunks[chunk].awards.partition_point(|(awarded, _)| *awarded < rank);
            bundle.chunks[chunk].awards.insert(before, (rank, 0));
        },
        is!(Wrong::AboveAccepted(_)),
    ),
    (
        "a rank was skipped",
        |bundle| {
            bundle.chunks[0].awards.remove(0);
        },
        is!(Wrong::MissingAward { round: 0, .. }),
    ),
    (
        "a later rank has the award of an earlier one",
        |bundle| {
            let later = bundle.chunks[1].awards[0];
            bundle.chunks[0].awards[0] = later;
        },
        is!(Wrong::MissingAward { round: 0, .. }),
    ),
    (
        "another choice was given",
        |bundle| {
            let award = bundle.chunks[0].awards.first_mut().unwrap();
            award.1 += 1;
        },
        is!(Wrong::WrongAward { round: 0, .. }),
    ),
    (
        "a choice was given that no wish has",
        |bundle| bundle.chunks[0].awards.first_mut().unwrap().1 = 8,
        is!(Wrong::WrongAward { round: 0, .. }),
    ),
    (
        "somebody who left was given something",
        |bundle| {
            let (chunk, at) = chunk_with(bundle, |Against(_, bar, _)| bar.as_deref() == Some("left"));
            let Against(rank, ..) = bundle.chunks[chunk].against[at];
            let before = bundle.chunks[chunk].awards.partition_point(|(awarded, _)| *awarded < rank);
            bundle.chunks[chunk].awards.insert(before, (rank, 0));
        },
        is!(Wrong::WrongAward { .. }),
    ),
    ("others are said to be served", |bundle| bundle.chunks[0].served += 1, is!(Wrong::Served(0))),
    (
        "somebody's ticket is not in the list",
        |bundle| {
            bundle.tickets.push(signer().sign(&ticket(EntryId(Hex([3; 16])))));
        },
        is!(Wrong::NotInList(_)),
    ),
    ("another version", |bundle| bundle.version = 3, is!(Wrong::Version(3))),
    (
        "a wish for a variant that the drop does not have",
        |bundle| {
            *bundle = with_rules(|rules| {
                rules.variants.pop();
            });
        },
        is!(Wrong::Wish(_)),
    ),
    (
        "the last round was cut short",
        |bundle| {
            bundle.chunks.retain(|chunk| chunk.round == 0);
            bundle.chunks.pop();
        },
        is!(Wrong::RoundCut(0)),
    ),
    (
        "an award to somebody who was not due",
        |bundle| bundle.chunks[0].awards.push((200, 0)),
        is!(Wrong::WrongAward { round: 0, rank: 200 }),
    ),
];

fn ticket(entry: EntryId) -> Ticket {
    Ticket { drop: DropId(1), number: 1, entry, joined_at: jiff::Timestamp::UNIX_EPOCH }
}

static SMALL: LazyLock<Bundle> = LazyLock::new(|| honest(300));

fn wrong(verdict: Verdict) -> Option<Wrong> {
    verdict.err()
}

#[test]
fn an_honest_bundle_has_nothing_wrong() {
    for entries in [1, 2, 7, 300, 2_000] {
        let bundle = honest(entries);
        let Proven { wishes, rounds, awards, undecided, rules, .. } = verify(&bundle, None).unwrap();
        assert_eq!(wishes.len(), entries as usize + bundle.joins.len(), "{entries}");
        assert!(awards > 0 && undecided == 0, "{awards} awards, {undecided} undecided of {entries}");
        assert_eq!(inversions(&wishes, &rounds), []);
        assert_eq!(rules.drop.as_str(), "shoe");
        let text = serde_json::to_string(&bundle).unwrap();
        assert_eq!(serde_json::from_str::<Bundle>(&text).unwrap(), bundle);
    }
    // A line in which all of it happens, so that the forgeries have something to forge.
    let kinds = |bar: &str| {
        SMALL.chunks.iter().flat_map(|chunk| &chunk.against).any(|against| against.1.as_deref() == Some(bar))
    };
    assert!(kinds("left") && kinds("over_limit") && SMALL.chunks.iter().any(|chunk| !chunk.returned.is_nothing()));
    assert!(SMALL.chunks.last().unwrap().count > SMALL.count);
}

#[test]
fn every_forgery_is_refused_by_its_own_name() {
    for (what, forge, is_expected) in FORGERIES {
        let mut bundle = SMALL.clone();
        forge(&mut bundle);
        let verdict = wrong(verify(&bundle, None));
        assert!(verdict.as_ref().is_some_and(is_expected), "{what}: {verdict:?}");
    }
}

#[test]
fn rules_that_no_line_may_have_are_refused() {
    let bundle = with_rules(|rules| rules.every_seconds = 0);
    assert!(matches!(wrong(verify(&bundle, None)), Some(Wrong::Rules(_))));
}

/// The root came late, so the draw stands 300 seconds later; the rounds did not wait.
fn drawn_late() -> Bundle {
    let mut bundle = SMALL.clone();
    let Step::Rooted { round, .. } = bundle.steps[0] else { panic!() };
    let chain = chain_of(&key());
    let before = |round: u64, seconds| chain.time_of(round).unwrap() - SignedDuration::from_secs(seconds);
    bundle.steps = vec![
        Step::Postponed { round, to: round + 100, at: before(round, 5) },
        Step::Rooted { round: round + 100, at: before(round + 100, 30) },
    ];
    *pulse(&mut bundle) = pulse_of(&key(), round + 100);
    reseed(&mut bundle);
    bundle
}

#[test]
fn a_round_before_the_draw_stands_is_refused() {
    assert_eq!(wrong(verify(&drawn_late(), None)), Some(Wrong::RoundEarly(0)));
}

#[test]
fn ones_own_entry_is_found_with_what_it_was_given() {
    let proven = |own: &Own| verify(&SMALL, Some(own));
    let entry = SMALL.leaves[17].id;
    let place = proven(&Own::Entry(entry)).unwrap().own.unwrap();
    assert_eq!(place.entry, entry);
    let by_ticket = proven(&Own::Ticket(signer().sign(&ticket(entry)))).unwrap().own;
    assert_eq!(by_ticket, Some(place));
    let later = SMALL.joins[1].entry.id;
    assert_eq!(proven(&Own::Entry(later)).unwrap().own.unwrap().rank, SMALL.count + 1);
    let awarded = SMALL.leaves.iter().filter(|leaf| {
        let award = proven(&Own::Entry(leaf.id)).unwrap().own.unwrap().award;
        award.is_some_and(|award| leaf.wish.choices.iter().any(|choice| choice == award.variant))
    });
    assert!(awarded.take(3).count() == 3);
    let stranger = EntryId(Hex([9; 16]));
    assert_eq!(wrong(proven(&Own::Entry(stranger))), Some(Wrong::NotInList(stranger)));
    let forged = TicketSigner::new(&[2; 32]).unwrap().sign(&ticket(entry));
    assert_eq!(wrong(proven(&Own::Ticket(forged))), Some(Wrong::Ticket(InvalidTicket::AnotherKey)));
}

type Case = (&'static str, Bundle, Option<Wrong>);

/// Draws with a secret of the shop, and what is wrong with each.
fn draws_by_hand() -> Vec<Case> {
    let secret = [5; 32];
    let commitment = beacon::commitment(&secret);
    let date: jiff::civil::Date = "2026-12-02".parse().unwrap();
    let manual = Beacon::Manual { source: "lotto".to_owned(), date, pattern: r"\d+".to_owned(), commitment };
    let rooted = |bundle: &Bundle| {
        let rules = Rules::parse(&bundle.rules).unwrap();
        vec![Step::Rooted { round: 0, at: rules.seal_at }]
    };
    let seeded = |beacon: Beacon, revealed: Revealed| {
        let mut bundle = honest(30);
        bundle.chunks.clear();
        let mut rules = Rules::parse(&bundle.rules).unwrap();
        rules.beacon = beacon;
        bundle.rules = rules.to_text();
        bundle.rules_hash = rules::hash_of(&bundle.rules);
        bundle.steps = rooted(&bundle);
        let sealed = Sealed { drop: "shoe", rules: bundle.rules_hash, count: bundle.count, root: bundle.root };
        let chance = match &revealed {
            Revealed::Manual { result, .. } => Chance::Manual { result, secret: &secret },
            _ => Chance::None { secret: &secret },
        };
        bundle.seed = Hex(draw::seed(&sealed, &chance));
        bundle.beacon = revealed;
        bundle
    };
    let (right, foreign) = (hex::encode(&secret), hex::encode(&[6; 32]));
    let typed = |result: &str, secret: &str| Revealed::Manual { result: result.to_owned(), secret: secret.to_owned() };
    let none = |secret: &str| Revealed::None { secret: secret.to_owned() };
    vec![
        ("typed", seeded(manual.clone(), typed("123", &right)), None),
        ("typed in another form", seeded(manual.clone(), typed("123.", &right)), Some(Wrong::Result)),
        ("typed, with another secret", seeded(manual.clone(), typed("123", &foreign)), Some(Wrong::Secret)),
        ("only a secret", seeded(Beacon::None { commitment }, none(&right)), None),
        ("another secret", seeded(Beacon::None { commitment }, none(&foreign)), Some(Wrong::Secret)),
        (
            "a short secret",
            seeded(Beacon::None { commitment: beacon::commitment(&[1]) }, none("01")),
            Some(Wrong::Secret),
        ),
        ("nothing typed", seeded(manual, none(&right)), Some(Wrong::BeaconKind)),
    ]
}

#[test]
fn draws_by_hand_need_the_secret_that_they_were_bound_to() {
    for (what, bundle, expected) in draws_by_hand() {
        assert_eq!(wrong(verify(&bundle, None)), expected, "{what}");
    }
}

/// The block in docs/DRAW.md that begins with `#!/usr/bin/env python3`.
fn python() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/DRAW.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, from) = page.split_once("```python\n").unwrap();
    from.split_once("```").unwrap().0.to_owned()
}

/// Runs the program for one file after the other, as `python3 verify.py FILE` does, and prints a line for each:
/// starting Python takes longer than what it has to do here.
const FOR_EACH: &str = r#"
import contextlib, io, runpy, sys
program, *files = sys.argv[1:]
for file in files:
    sys.argv = [program, file]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said: runpy.run_path(program, run_name="__main__")
        print("content:", said.getvalue().strip())
    except SystemExit as end: print("refused:", end.code)
    except Exception as error: print("refused:", repr(error))
"#;

/// What the page says Python cannot check: a signature by BLS.
const FOR_BLS: &str = "a signature of another round, and everything that follows from it";

#[test]
fn the_python_on_the_page_says_the_same() {
    let mut bundles = vec![("10,000 entries", honest(10_000), true), ("300 entries", SMALL.clone(), true)];
    for (what, forge, _) in FORGERIES.iter().filter(|(what, ..)| !what.contains("ticket")) {
        let mut bundle = SMALL.clone();
        forge(&mut bundle);
        bundles.push((what, bundle, *what == FOR_BLS));
    }
    let folder = std::env::temp_dir().join(format!("doorbuster-draw-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let program = folder.join("verify.py");
    std::fs::write(&program, python()).unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", FOR_EACH]).arg(&program);
    for (number, (_, bundle, _)) in bundles.iter().enumerate() {
        let file = folder.join(format!("{number}.json"));
        std::fs::write(&file, serde_json::to_vec(bundle).unwrap()).unwrap();
        command.arg(file);
    }
    let output = command.output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().count(), bundles.len(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for ((what, _, is_good), said) in bundles.iter().zip(said.lines()) {
        assert_eq!(said.starts_with("content:"), *is_good, "{what}: {said}");
        // An error of the program's own is no finding.
        assert!(said.starts_with("content:") || said.starts_with("refused: WRONG:"), "{what}: {said}");
    }
}

type RulesChange = Box<dyn Fn(&mut Rules)>;

/// Rules that no line may have, one of each kind, as a shop could publish them.
fn with_impossible_rules() -> Vec<Bundle> {
    let manual = |rules: &mut Rules, source: &str, date: &str, pattern: &str| {
        let (source, date, pattern) = (source.to_owned(), date.parse().unwrap(), pattern.to_owned());
        rules.beacon = Beacon::Manual { source, date, pattern, commitment: Hex([1; 32]) };
    };
    let changes: Vec<RulesChange> = vec![
        Box::new(|rules| rules.version = 3),
        Box::new(|rules| rules.line_opens_at = rules.seal_at),
        Box::new(|rules| rules.seal_at += SignedDuration::from_nanos(1)),
        Box::new(|rules| rules.reveal_after_seconds = 0),
        Box::new(|rules| rules.every_seconds = 0),
        Box::new(|rules| rules.per_round = 0),
        Box::new(|rules| rules.capacity = rules::MAX_CAPACITY + 1),
        Box::new(|rules| rules.pay_within_seconds = 7 * 24 * 3_600 + 1),
        Box::new(|rules| rules.buyer_limit = 101),
        Box::new(|rules| rules.variants[1].number = 2),
        Box::new(|rules| rules.variants[1].sku = rules.variants[0].sku.clone()),
        Box::new(|rules| rules.variants[1].sku = "a b".to_owned()),
        Box::new(|rules| rules.variants[1].stock = 0),
        Box::new(|rules| rules.variants[1].stock = 10_000_000),
        Box::new(|rules| rules.requires_card = false),
        Box::new(|rules| rules.may_pass_over.swap(0, 1)),
        Box::new(|rules| {
            let Beacon::Drand(chain) = &mut rules.beacon else { panic!() };
            chain.period_seconds = 0;
        }),
        Box::new(move |rules| manual(rules, "", "2026-12-02", r"\d")),
        Box::new(move |rules| manual(rules, "lotto", "2026-12-02", "")),
        Box::new(move |rules| manual(rules, "lotto", "2020-12-02", r"\d")),
    ];
    let with = |change: RulesChange| {
        let mut bundle = SMALL.clone();
        let mut rules = Rules::parse(&bundle.rules).unwrap();
        change(&mut rules);
        bundle.rules = rules.to_text();
        bundle.rules_hash = rules::hash_of(&bundle.rules);
        bundle
    };
    changes.into_iter().map(with).collect()
}

/// Ways from the seal to the draw that nobody may go, with drand, with a typed result and with a secret alone.
fn with_impossible_steps() -> Vec<Bundle> {
    let chain = chain_of(&key());
    let Step::Rooted { round, .. } = SMALL.steps[0] else { panic!() };
    let at = |round: u64, before: i64| chain.time_of(round).unwrap() - SignedDuration::from_secs(before);
    let rooted = |round, before| Step::Rooted { round, at: at(round, before) };
    let postponed = |to, before| Step::Postponed { round, to, at: at(round, before) };
    let void = |before| Step::Void { round, at: at(round, before), late_root: None };
    let of_drand = [
        vec![rooted(round + 1, 60)],
        vec![rooted(round, 121)],
        vec![rooted(round, 60), rooted(round, 60)],
        vec![postponed(round + 101, 5), rooted(round + 101, 60)],
        vec![postponed(round + 100, 5), rooted(round + 100, 310)],
        vec![postponed(round + 100, 5)],
        vec![void(1), rooted(round + 300, 600)],
        vec![void(-1), rooted(round + 300, 600)],
        vec![void(-1), void(-1)],
        vec![void(-1), rooted(round + 100, 60)],
    ];
    let with = |bundle: &Bundle, steps: Vec<Step>| Bundle { steps, ..bundle.clone() };
    let mut bundles = of_drand.into_iter().map(|steps| with(&SMALL, steps)).collect::<Vec<_>>();
    for (_, bundle, _) in draws_by_hand().into_iter().filter(|(_, _, wrong)| wrong.is_none()) {
        let rules = Rules::parse(&bundle.rules).unwrap();
        let rooted = |round, seconds| Step::Rooted { round, at: rules.seal_at + SignedDuration::from_secs(seconds) };
        let years = 10 * 366 * 24 * 3_600;
        for steps in
            [vec![], vec![rooted(0, 1), rooted(0, 1)], vec![rooted(1, 1)], vec![rooted(0, -1)], vec![rooted(0, years)]]
        {
            bundles.push(with(&bundle, steps));
        }
    }
    bundles
}

/// The name that the script has for it: that of the variant, with the variant inside where there is one.
fn name_of(wrong: &Wrong) -> String {
    let text = format!("{wrong:?}");
    match wrong {
        Wrong::Steps(_) | Wrong::Beacon(_) | Wrong::Ticket(_) => text,
        _ => text.split(['(', ' ']).next().unwrap().to_owned(),
    }
}

#[tokio::test]
async fn the_script_of_the_page_says_the_same_in_a_browser() {
    let mut cases = FORGERIES
        .iter()
        .map(|(what, forge, _)| {
            let mut bundle = SMALL.clone();
            forge(&mut bundle);
            (*what, bundle, None)
        })
        .collect::<Vec<(&str, Bundle, Option<String>)>>();
    cases.extend([1, 2, 7].map(|entries| ("few entries", honest(entries), None)));
    cases.push(("10,000 entries", honest(10_000), None));
    cases.extend(with_impossible_rules().into_iter().map(|bundle| ("rules that no line may have", bundle, None)));
    cases.extend(with_impossible_steps().into_iter().map(|bundle| ("steps that nobody may take", bundle, None)));
    let mut back = SMALL.clone();
    back.chunks.last_mut().unwrap().round = 0;
    cases.push(("a round that was before", back, None));
    cases.push(("a round before the draw stands", drawn_late(), None));
    cases.extend(draws_by_hand().into_iter().map(|(what, bundle, _)| (what, bundle, None)));
    let own = |what, own: String| (what, SMALL.clone(), Some(own));
    let (mine, later, stranger) = (SMALL.leaves[17].id, SMALL.joins[1].entry.id, EntryId(Hex([9; 16])));
    let foreign = TicketSigner::new(&[2; 32]).unwrap().sign(&ticket(mine));
    let signed = signer().sign(&ticket(mine));
    let (payload, _) = signed.rsplit_once('.').unwrap();
    let (_, signature) = foreign.rsplit_once('.').unwrap();
    cases.extend([
        own("ones own entry", mine.to_string()),
        own("an entry of somebody who came later", later.to_string()),
        own("ones own ticket", signed.clone()),
        own("a ticket that is not in the list", signer().sign(&ticket(stranger))),
        own("an entry that is not in the list", stranger.to_string()),
        own("a ticket of another key", foreign.clone()),
        own("a ticket with a signature that is none", format!("{payload}.{signature}")),
        own("half a ticket", payload.to_owned()),
    ]);
    // Whoever was given something in the last round, and somebody who never was.
    let last_award = SMALL.chunks.iter().rev().find_map(|chunk| chunk.awards.last()).unwrap().0;
    let is_given = |rank: u32| SMALL.chunks.iter().flat_map(|chunk| &chunk.awards).any(|(given, _)| *given == rank);
    let never = (0..SMALL.count).find(|rank| !is_given(*rank)).unwrap();
    let order = shuffle::order(SMALL.count, &SMALL.seed.0);
    for rank in [last_award, never] {
        let joined = SMALL.joins.iter().map(|join| join.entry.id).nth(rank.saturating_sub(SMALL.count) as usize);
        let sealed = order.get(rank as usize).map(|index| SMALL.leaves[*index as usize].id);
        cases.push(own("a rank", sealed.or(joined).unwrap().to_string()));
    }

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/templates/draw");
    let mut browser = Browser::start().await.unwrap();
    // Any file: signatures are checked on addresses that a browser takes for safe.
    browser.open(&format!("file://{}/page.css", folder.display())).await.unwrap();
    let files = ["words", "bytes", "rules", "list", "chance", "rounds", "verify"];
    let script = files.map(|name| std::fs::read_to_string(folder.join(format!("{name}.js"))).unwrap()).concat();
    browser.evaluate(&script).await.unwrap();
    let asked = cases.iter().map(|(_, bundle, own)| json!([bundle.to_text(), own])).collect::<Vec<_>>();
    let all = format!("Promise.all({}.map(([text, own]) => Draw.verifyText(text, own)))", json!(asked));
    let said = browser.evaluate(&all).await.unwrap();
    browser.close().await.unwrap();

    for ((what, bundle, own), said) in cases.iter().zip(said.as_array().unwrap()) {
        let own = own.as_ref().map(|text| text.parse().map_or_else(|_| Own::Ticket(text.clone()), Own::Entry));
        let expected = verify(bundle, own.as_ref());
        let wrong = &if own.is_some() { &said["found"]["own"]["wrong"] } else { &said["wrong"] };
        match &expected {
            // What the page says that no browser can check.
            Err(Wrong::Beacon(BadPulse::Signature)) => assert!(said["found"].is_object(), "{what}: {said}"),
            Err(expected) => {
                assert_eq!(wrong["code"], name_of(expected), "{what}: {said}");
                let has_words = |field: &str| wrong[field].as_str().is_some_and(|words| words.len() > 20);
                let undefined = wrong["what"].as_str().is_some_and(|words| words.contains("undefined"));
                assert!(has_words("what") && has_words("todo") && !undefined, "{what}: {said}");
            }
            Ok(proven) => {
                let found = &said["found"];
                let figures = [found["entries"].clone(), found["later"].clone(), found["rounds"].clone()];
                let later = proven.wishes.len() - bundle.leaves.len();
                assert_eq!(figures, [json!(bundle.count), json!(later), json!(proven.rounds.len())], "{what}: {said}");
                assert_eq!((&found["awards"], &found["undecided"]), (&json!(proven.awards), &json!(proven.undecided)));
                let place = proven.own.map(|place| (json!(place.rank), place.award.map(|award| award.round)));
                let shown = found["own"].is_object().then(|| {
                    let round = found["own"]["award"]["round"].as_u64().map(|round| round as u32);
                    (found["own"]["rank"].clone(), round)
                });
                assert_eq!(shown, place, "{what}: {said}");
                let is_ticket = matches!(own, Some(Own::Ticket(_)));
                assert_eq!(found["own"]["isChecked"] == Value::Bool(true), is_ticket, "{what}: {said}");
            }
        }
    }
}
