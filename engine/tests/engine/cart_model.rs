//! Carts beside a model of them in plain Rust: whatever is done in whatever order, both say the same.

use std::collections::BTreeMap;

use doorbuster_engine::carts::CartStore;
use doorbuster_engine::domain::carts::{Cart, CartChange, CartLimits, CartOwner, CartSession, CartVersion};
use doorbuster_engine::domain::ids::{BuyerId, CheckoutId, VariantId};
use doorbuster_engine::domain::versions::Expected;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use uuid::Uuid;

use crate::carts::{addition, euros, units};
use crate::harness::World;

const LIMITS: CartLimits = CartLimits { lines: 4, quantity: 10 };
/// What a cart remembers.
const REMEMBERED: usize = 8;

#[derive(Debug, Clone)]
enum Step {
    Add { guest: bool, variant: i32, quantity: u32, price: i64, key: u8 },
    Set { guest: bool, expected: Seen, variant: i32, quantity: u32 },
    Remove { guest: bool, expected: Seen, variant: i32 },
    Clear { guest: bool, expected: Seen },
    Merge,
    Take { order: u8, lines: Vec<(i32, u32)> },
    Forget { guest: bool },
}

#[derive(Debug, Clone, Copy)]
enum Seen {
    Now,
    Before,
    Whatever,
}

/// A cart as it should be.
#[derive(Debug, Clone, Default)]
struct Model {
    /// `None`: there is none. What it was before the last change is `before`.
    version: Option<CartVersion>,
    before: CartVersion,
    lines: BTreeMap<i32, (u32, i64)>,
    requests: Vec<(u8, i32, u32)>,
    once: Vec<Once>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Once {
    Order(u8),
    Merge(CartVersion),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    Replayed,
    KeyReused,
    Stale,
    Full,
    OverLimit,
    NoSuchLine,
}

fn outcome(change: &CartChange) -> Outcome {
    match change {
        CartChange::Done(_) => Outcome::Done,
        CartChange::Replayed(_) => Outcome::Replayed,
        CartChange::KeyReused => Outcome::KeyReused,
        CartChange::Stale => Outcome::Stale,
        CartChange::Full { .. } => Outcome::Full,
        CartChange::OverLimit { .. } => Outcome::OverLimit,
        CartChange::NoSuchLine => Outcome::NoSuchLine,
        CartChange::TooManyBegin => unreachable!("as many carts as this may begin"),
    }
}

fn last<T>(list: &mut Vec<T>, item: T) {
    list.push(item);
    if list.len() > REMEMBERED {
        list.remove(0);
    }
}

impl Model {
    fn expected(&self, seen: Seen) -> Expected {
        let now = self.version.unwrap_or(CartVersion::NONE);
        match seen {
            Seen::Now => Expected::OneOf(vec![now.into()]),
            Seen::Before => Expected::OneOf(vec![self.before.into()]),
            Seen::Whatever => Expected::Any,
        }
    }

    fn admits(&self, seen: Seen) -> bool {
        match seen {
            Seen::Now => true,
            Seen::Before => self.before == self.version.unwrap_or(CartVersion::NONE),
            Seen::Whatever => self.version.is_some(),
        }
    }

    fn is_full_for(&self, variant: i32) -> bool {
        !self.lines.contains_key(&variant) && self.lines.len() >= usize::from(LIMITS.lines)
    }

    fn add(&mut self, variant: i32, quantity: u32, price: i64, key: u8) -> Outcome {
        if let Some(known) = self.requests.iter().find(|known| known.0 == key) {
            return if *known == (key, variant, quantity) { Outcome::Replayed } else { Outcome::KeyReused };
        }
        if self.is_full_for(variant) {
            return Outcome::Full;
        }
        let (had, at) = self.lines.get(&variant).copied().unwrap_or((0, price));
        if had + quantity > u32::from(LIMITS.quantity) {
            return Outcome::OverLimit;
        }
        self.lines.insert(variant, (had + quantity, at));
        last(&mut self.requests, (key, variant, quantity));
        Outcome::Done
    }

    fn set(&mut self, seen: Seen, variant: i32, quantity: u32) -> Outcome {
        if !self.admits(seen) {
            return Outcome::Stale;
        }
        match (quantity, self.lines.get(&variant).copied()) {
            (0, None) => return Outcome::NoSuchLine,
            (0, Some(_)) => {
                self.lines.remove(&variant);
            }
            (_, None) if self.is_full_for(variant) => return Outcome::Full,
            (_, line) => {
                self.lines.insert(variant, (quantity, line.map_or(1, |line| line.1)));
            }
        }
        Outcome::Done
    }

    /// What had no place.
    fn merge(&mut self, guest: &Self) -> BTreeMap<i32, (u32, i64)> {
        let source = Once::Merge(guest.version.expect("a cart with lines has a version"));
        let mut left_out = BTreeMap::new();
        if self.once.contains(&source) {
            return left_out;
        }
        for (variant, (quantity, price)) in &guest.lines {
            if self.is_full_for(*variant) {
                left_out.insert(*variant, (*quantity, *price));
            } else if self.lines.get(variant).is_none_or(|line| line.0 < *quantity) {
                self.lines.insert(*variant, (*quantity, *price));
            }
        }
        if left_out.is_empty() {
            last(&mut self.once, source);
        }
        left_out
    }

    fn take(&mut self, order: u8, lines: &[(i32, u32)]) {
        if self.version.is_none() || self.once.contains(&Once::Order(order)) {
            return;
        }
        last(&mut self.once, Once::Order(order));
        for (variant, quantity) in lines {
            if let Some(line) = self.lines.get_mut(variant) {
                line.0 = line.0.saturating_sub(*quantity);
                if line.0 == 0 {
                    self.lines.remove(variant);
                }
            }
        }
    }

    /// What the store says must be what the model says; its version is only new, and newer, if something was changed.
    fn agrees(&mut self, cart: Option<Cart>) {
        let Some(cart) = cart else {
            assert!(self.version.is_none() && self.lines.is_empty(), "there is no cart, but {self:?}");
            return;
        };
        let lines = cart.lines.iter().map(|line| (line.variant_id.0, (line.quantity, line.price_at_add.amount_minor)));
        assert_eq!(lines.collect::<BTreeMap<_, _>>(), self.lines, "{self:?}");
        let now = self.version.unwrap_or(CartVersion::NONE);
        assert!(cart.version >= now, "{cart:?} after {now:?}");
        if cart.version > now {
            (self.before, self.version) = (now, Some(cart.version));
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (guest, variant, quantity) = (any::<bool>(), 1..7_i32, 1..9_u32);
    let seen = prop_oneof![4 => Just(Seen::Now), 1 => Just(Seen::Before), 1 => Just(Seen::Whatever)];
    let taken = prop::collection::btree_map(1..7_i32, 1..5_u32, 0..4).prop_map(|lines| lines.into_iter().collect());
    let step = prop_oneof![
        6 => (guest, variant.clone(), quantity.clone(), 1..4_i64, 0..20_u8)
            .prop_map(|(guest, variant, quantity, price, key)| Step::Add { guest, variant, quantity, price, key }),
        4 => (guest, seen.clone(), variant.clone(), quantity)
            .prop_map(|(guest, expected, variant, quantity)| Step::Set { guest, expected, variant, quantity }),
        2 => (guest, seen.clone(), variant)
            .prop_map(|(guest, expected, variant)| Step::Remove { guest, expected, variant }),
        1 => (guest, seen).prop_map(|(guest, expected)| Step::Clear { guest, expected }),
        2 => Just(Step::Merge),
        3 => (0..6_u8, taken).prop_map(|(order, lines)| Step::Take { order, lines }),
        1 => guest.prop_map(|guest| Step::Forget { guest }),
    ];
    prop::collection::vec(step, 1..60)
}

struct Pair {
    carts: CartStore,
    buyer: BuyerId,
    session: CartSession,
    orders: [CheckoutId; 6],
    /// The buyer's, the guest's.
    models: [Model; 2],
}

impl Pair {
    fn owner(&self, guest: bool) -> CartOwner {
        if guest { CartOwner::Guest(self.session.clone()) } else { CartOwner::Buyer(self.buyer.clone()) }
    }

    async fn run(&mut self, step: &Step) {
        let carts = self.carts.clone();
        match step {
            Step::Add { guest, variant, quantity, price, key } => {
                let addition = addition(*variant, i64::from(*quantity), *price, &format!("key-{key}"));
                let change = carts.add(&self.owner(*guest), &addition).await.unwrap();
                let expected = self.models[usize::from(*guest)].add(*variant, *quantity, *price, *key);
                assert_eq!(outcome(&change), expected);
            }
            Step::Set { guest, expected, variant, quantity } => {
                let (owner, model) = (self.owner(*guest), &mut self.models[usize::from(*guest)]);
                let seen = model.expected(*expected);
                let quantity_ = units(i64::from(*quantity));
                let change = carts.set(&owner, &seen, VariantId(*variant), quantity_, euros(1)).await.unwrap();
                assert_eq!(outcome(&change), model.set(*expected, *variant, *quantity));
            }
            Step::Remove { guest, expected, variant } => {
                let (owner, model) = (self.owner(*guest), &mut self.models[usize::from(*guest)]);
                let change = carts.remove(&owner, &model.expected(*expected), VariantId(*variant)).await.unwrap();
                assert_eq!(outcome(&change), model.set(*expected, *variant, 0));
            }
            Step::Clear { guest, expected } => {
                let (owner, model) = (self.owner(*guest), &mut self.models[usize::from(*guest)]);
                let change = carts.clear(&owner, &model.expected(*expected)).await.unwrap();
                if model.admits(*expected) {
                    assert_eq!(outcome(&change), Outcome::Done);
                    model.lines.clear();
                } else {
                    assert_eq!(outcome(&change), Outcome::Stale);
                }
            }
            Step::Merge => {
                let merged = carts.merge_guest(&self.session, &self.buyer).await.unwrap();
                let [buyers, guests] = &mut self.models;
                if !guests.lines.is_empty() {
                    guests.lines = buyers.merge(guests);
                    assert_eq!(merged.left_out.len(), guests.lines.len());
                }
            }
            Step::Take { order, lines } => {
                let what = lines.iter().map(|(variant, quantity)| (VariantId(*variant), *quantity)).collect::<Vec<_>>();
                let order_id = self.orders[usize::from(*order)];
                carts.take_ordered(&self.owner(false), order_id, &what).await.unwrap();
                self.models[0].take(*order, lines);
            }
            Step::Forget { guest } => {
                carts.forget(&self.owner(*guest)).await.unwrap();
                let model = &mut self.models[usize::from(*guest)];
                let before = model.version.unwrap_or(model.before);
                *model = Model { before, ..Model::default() };
            }
        }
        for guest in [false, true] {
            let cart = carts.read(&self.owner(guest)).await.unwrap();
            self.models[usize::from(guest)].agrees(cart);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn carts_do_what_the_model_does() {
    let carts = World::new().await.engine.carts.limited_to(LIMITS);
    let handle = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(&steps(), |steps| {
            let mut session = [0; CartSession::RANDOM_BYTES];
            session[..16].copy_from_slice(Uuid::new_v4().as_bytes());
            let mut pair = Pair {
                carts: carts.clone(),
                buyer: format!("model-{}", Uuid::new_v4()).parse().unwrap(),
                session: CartSession::from_random(session),
                orders: std::array::from_fn(|_| CheckoutId(Uuid::now_v7())),
                models: Default::default(),
            };
            handle.block_on(async {
                for step in &steps {
                    pair.run(step).await;
                }
            });
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{error}"));
    })
    .await
    .unwrap();
}
