//! Carts: no change is lost, nothing is done twice, and what was not ordered stays.

use std::time::Duration;

use doorbuster_engine::carts::CartStore;
use doorbuster_engine::domain::carts::{
    Addition, Cart, CartChange, CartLimits, CartLine, CartOwner, CartSession, CartVersion, LineQuantity,
};
use doorbuster_engine::domain::ids::{BuyerId, CheckoutId, VariantId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::versions::Expected;
use futures_util::future::join_all;
use uuid::Uuid;

use crate::harness::{World, buyer};

const THIRTY_DAYS_MS: i64 = 2_592_000_000;

pub(crate) fn euros(amount_minor: i64) -> Money {
    Money::new(amount_minor, "EUR".parse().unwrap())
}

pub(crate) fn units(units: i64) -> LineQuantity {
    LineQuantity::new(units).unwrap()
}

/// An owner whom no other test has, and his key in Redis.
fn someone() -> (CartOwner, String) {
    let id = format!("cart-{}", Uuid::new_v4());
    (CartOwner::Buyer(id.parse().unwrap()), format!("cart:{{u:{id}}}"))
}

fn guest() -> CartSession {
    let mut bytes = [0; CartSession::RANDOM_BYTES];
    bytes[..16].copy_from_slice(Uuid::new_v4().as_bytes());
    CartSession::from_random(bytes)
}

pub(crate) fn addition(variant: i32, quantity: i64, price: i64, key: &str) -> Addition {
    Addition {
        variant_id: VariantId(variant),
        quantity: units(quantity),
        price: euros(price),
        key: key.parse().unwrap(),
    }
}

async fn add(carts: &CartStore, owner: &CartOwner, variant: i32, quantity: i64) -> Cart {
    let key = Uuid::new_v4().to_string();
    done(carts.add(owner, &addition(variant, quantity, 100 * i64::from(variant), &key)).await.unwrap())
}

fn done(change: CartChange) -> Cart {
    match change {
        CartChange::Done(cart) => cart,
        other => panic!("not done: {other:?}"),
    }
}

/// Variant and quantity of each line.
fn lines(cart: &Cart) -> Vec<(i32, u32)> {
    cart.lines.iter().map(|line| (line.variant_id.0, line.quantity)).collect()
}

async fn read(carts: &CartStore, owner: &CartOwner) -> Vec<(i32, u32)> {
    lines(&carts.read(owner).await.unwrap().unwrap_or(Cart::none()))
}

fn exactly(cart: &Cart) -> Expected {
    Expected::OneOf(vec![cart.version.into()])
}

async fn life_ms(world: &World, key: &str) -> i64 {
    redis::cmd("PTTL").arg(key).query_async(&mut world.server_with(key).await).await.unwrap()
}

/// C21: the cart is no text that is read, changed and written back.
#[tokio::test(flavor = "multi_thread")]
async fn two_tabs_that_add_at_once_lose_nothing() {
    let world = World::new().await;
    let other_tab = world.another_engine().await;
    let (owner, _) = someone();
    let tabs = [&world.engine.carts, &other_tab.carts];
    let adds = (0..200).map(|number| add(tabs[number % 2], &owner, 1 + number as i32 % 2, 1));
    join_all(adds).await;
    assert_eq!(read(&world.engine.carts, &owner).await, [(1, 100), (2, 100)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_adds_once_and_its_key_stands_for_nothing_else() {
    let world = World::new().await;
    let carts = &world.engine.carts;
    let (owner, _) = someone();
    let first = done(carts.add(&owner, &addition(7, 2, 500, "click")).await.unwrap());
    assert_eq!(carts.add(&owner, &addition(7, 2, 500, "click")).await.unwrap(), CartChange::Replayed(first));
    assert_eq!(carts.add(&owner, &addition(7, 3, 500, "click")).await.unwrap(), CartChange::KeyReused);
    assert_eq!(carts.add(&owner, &addition(8, 2, 500, "click")).await.unwrap(), CartChange::KeyReused);
    // Also after the cart has been emptied, and after seven others.
    done(carts.clear(&owner, &Expected::Any).await.unwrap());
    for _ in 0..7 {
        add(carts, &owner, 9, 1).await;
    }
    let again = carts.add(&owner, &addition(7, 2, 500, "click")).await.unwrap();
    assert!(matches!(again, CartChange::Replayed(_)), "{again:?}");
    assert_eq!(read(carts, &owner).await, [(9, 7)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_keeps_the_price_at_which_it_came() {
    let world = World::new().await;
    let carts = &world.engine.carts;
    let (owner, _) = someone();
    done(carts.add(&owner, &addition(7, 1, 500, "a")).await.unwrap());
    done(carts.add(&owner, &addition(7, 1, 900, "b")).await.unwrap());
    let cart = carts.read(&owner).await.unwrap().unwrap();
    let line = CartLine { variant_id: VariantId(7), quantity: 2, price_at_add: euros(500) };
    assert_eq!(cart.lines, [line]);
    let set = done(carts.set(&owner, &exactly(&cart), VariantId(7), units(5), euros(900)).await.unwrap());
    assert_eq!(set.lines, [CartLine { quantity: 5, ..line }]);
    // Taken out and put in again it is a new line.
    let out = done(carts.remove(&owner, &exactly(&set), VariantId(7)).await.unwrap());
    let back = done(carts.set(&owner, &exactly(&out), VariantId(7), units(1), euros(900)).await.unwrap());
    assert_eq!(back.lines, [CartLine { quantity: 1, price_at_add: euros(900), ..line }]);
}

/// C27: set by the script that changes the cart, so that no crash leaves one without an end.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_gives_the_cart_thirty_days_and_reading_does_not() {
    let world = World::new().await;
    let carts = &world.engine.carts;
    let (owner, key) = someone();
    let mut server = world.server_with(&key).await;
    // How long it lived just after a change; then nearly over, so that the next change must renew it.
    let mut checked = async |what: &str, is_renewed: bool| {
        let left = life_ms(&world, &key).await;
        let is_whole = (THIRTY_DAYS_MS - 60_000..=THIRTY_DAYS_MS).contains(&left);
        assert_eq!(is_whole, is_renewed, "{what}: {left} ms");
        let _: () = redis::cmd("PEXPIRE").arg(&key).arg(100_000).query_async(&mut server).await.unwrap();
    };
    add(carts, &owner, 1, 5).await;
    checked("add", true).await;
    carts.read(&owner).await.unwrap();
    checked("read", false).await;
    let set = carts.set(&owner, &Expected::Any, VariantId(1), units(9), euros(1)).await;
    done(set.unwrap());
    checked("set", true).await;
    add(carts, &owner, 2, 5).await;
    checked("add to it", true).await;
    done(carts.remove(&owner, &Expected::Any, VariantId(2)).await.unwrap());
    checked("remove", true).await;
    carts.take_ordered(&owner, CheckoutId(Uuid::now_v7()), &[(VariantId(1), 1)]).await.unwrap();
    checked("take what was ordered", true).await;
    let (session, CartOwner::Buyer(buyer)) = (guest(), &owner) else { unreachable!("someone is a buyer") };
    add(carts, &CartOwner::Guest(session.clone()), 3, 1).await;
    let guest_key = format!("cart:{{g:{}}}", session.as_str());
    carts.merge_guest(&session, buyer).await.unwrap();
    checked("merge", true).await;
    assert!(life_ms(&world, &guest_key).await > 0);
    done(carts.clear(&owner, &Expected::Any).await.unwrap());
    checked("clear", true).await;
    carts.forget(&owner).await.unwrap();
    assert_eq!(carts.read(&owner).await.unwrap(), None);
}

/// SEC-H1: a cart that nobody comes back to does not fill Redis for a month.
#[tokio::test(flavor = "multi_thread")]
async fn a_guests_cart_lives_one_hour_until_there_is_a_second_visit() {
    const HOUR_MS: i64 = 3_600_000;
    let world = World::new().await;
    let carts = &world.engine.carts;
    for later in ["add", "set", "clear"] {
        let session = guest();
        let (owner, key) = (CartOwner::Guest(session.clone()), format!("cart:{{g:{}}}", session.as_str()));
        let mut server = world.server_with(&key).await;
        let change = async |what| match what {
            "add" => drop(add(carts, &owner, 1, 1).await),
            "set" => {
                let expected = Expected::OneOf(vec![
                    CartVersion::NONE.into(),
                    carts.read(&owner).await.unwrap().unwrap_or(Cart::none()).version.into(),
                ]);
                drop(done(carts.set(&owner, &expected, VariantId(1), units(5), euros(1)).await.unwrap()));
            }
            _ => drop(done(carts.clear(&owner, &Expected::Any).await.unwrap())),
        };
        change(if later == "clear" { "add" } else { later }).await;
        let begun = life_ms(&world, &key).await;
        assert!((HOUR_MS - 60_000..=HOUR_MS).contains(&begun), "{later}: {begun} ms");
        // Ten minutes later it is the same visit, and the end stays where it was; at twenty it is another one.
        let at = async |minutes: i64, server: &mut redis::aio::MultiplexedConnection| {
            let left = HOUR_MS - minutes * 60_000;
            let _: () = redis::cmd("PEXPIRE").arg(&key).arg(left).query_async(server).await.unwrap();
            left
        };
        let left = at(10, &mut server).await;
        change(later).await;
        let same_visit = life_ms(&world, &key).await;
        assert!((left - 60_000..=left + 1_000).contains(&same_visit), "{later}: {same_visit} ms");
        at(20, &mut server).await;
        change(later).await;
        let second_visit = life_ms(&world, &key).await;
        assert!((THIRTY_DAYS_MS - 60_000..=THIRTY_DAYS_MS).contains(&second_visit), "{later}: {second_visit} ms");
        change(later).await;
        assert!(life_ms(&world, &key).await > THIRTY_DAYS_MS - 120_000, "{later}: it stays one of thirty days");
    }
}

/// SEC-H1: guests who do not exist cannot fill Redis faster than this.
#[tokio::test(flavor = "multi_thread")]
async fn so_many_guests_begin_a_cart_a_second_and_those_who_have_one_and_buyers_go_on() {
    let world = World::new().await;
    let begun = guest();
    add(&world.engine.carts, &CartOwner::Guest(begun.clone()), 1, 1).await;
    let carts = &world.engine.carts.clone().beginning(0);
    let new = CartOwner::Guest(guest());
    assert_eq!(carts.add(&new, &addition(1, 1, 1, "a")).await.unwrap(), CartChange::TooManyBegin);
    let none = Expected::OneOf(vec![CartVersion::NONE.into()]);
    let set = async |owner| carts.set(owner, &none, VariantId(1), units(1), euros(1)).await.unwrap();
    assert_eq!(set(&new).await, CartChange::TooManyBegin);
    assert_eq!(carts.read(&new).await.unwrap(), None);
    add(carts, &CartOwner::Guest(begun.clone()), 2, 1).await;
    done(set(&someone().0).await);
    add(carts, &someone().0, 1, 1).await;
    // Changes of carts that are there use up nothing.
    let carts = &world.engine.carts.clone().beginning(1);
    for _ in 0..5 {
        add(carts, &CartOwner::Guest(begun.clone()), 1, 1).await;
    }
    let outcomes = join_all((0..20).map(async |_| {
        let owner = CartOwner::Guest(guest());
        carts.add(&owner, &addition(1, 1, 1, "a")).await.unwrap()
    }));
    let outcomes = outcomes.await;
    assert!(matches!(outcomes[0], CartChange::Done(_)), "{:?}", outcomes[0]);
    assert!(outcomes.contains(&CartChange::TooManyBegin), "{outcomes:?}");
}

/// C23: a write for a cart that is over finds another version, or none.
#[tokio::test(flavor = "multi_thread")]
async fn a_cart_that_is_gone_is_not_brought_back_by_a_stale_write() {
    let world = World::new().await;
    let carts = &world.engine.carts;
    let (owner, _) = someone();
    let seen = add(carts, &owner, 1, 5).await;
    let stale = async |expected: &Expected| {
        let set = carts.set(&owner, expected, VariantId(1), units(9), euros(1)).await.unwrap();
        assert_eq!(set, CartChange::Stale);
        assert_eq!(carts.remove(&owner, expected, VariantId(1)).await.unwrap(), CartChange::Stale);
        assert_eq!(carts.clear(&owner, expected).await.unwrap(), CartChange::Stale);
    };
    add(carts, &owner, 2, 1).await;
    stale(&exactly(&seen)).await;
    let emptied = done(carts.clear(&owner, &Expected::Any).await.unwrap());
    assert!(emptied.lines.is_empty() && emptied.version > seen.version);
    stale(&exactly(&seen)).await;
    // Expired, or lost with its Redis.
    carts.forget(&owner).await.unwrap();
    stale(&exactly(&seen)).await;
    stale(&exactly(&emptied)).await;
    stale(&Expected::Any).await;
    assert_eq!(carts.read(&owner).await.unwrap(), None);
    // Who has seen that there is none may begin one, and it has a version that never was.
    let none = Expected::OneOf(vec![CartVersion::NONE.into()]);
    let begun = done(carts.set(&owner, &none, VariantId(1), units(1), euros(1)).await.unwrap());
    assert!(begun.version > seen.version, "{begun:?} after {seen:?}");
    stale(&none).await;
    stale(&exactly(&seen)).await;
    assert_eq!(read(carts, &owner).await, [(1, 1)]);
    carts.forget(&owner).await.unwrap();
    // A cart's first version is the millisecond in which it was begun.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let added = add(carts, &owner, 1, 1).await;
    assert!(added.version > begun.version, "{added:?} after {begun:?}");
}

/// Of two tabs that set a quantity for the version they saw, one wins and the other is told.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_edits_of_one_version_one_wins() {
    let world = World::new().await;
    let carts = &world.engine.carts;
    let (owner, _) = someone();
    let seen = exactly(&add(carts, &owner, 1, 1).await);
    let edits = (2..12).map(|quantity| carts.set(&owner, &seen, VariantId(1), units(quantity), euros(1)));
    let outcomes = join_all(edits).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
    let won = outcomes.iter().filter(|outcome| matches!(outcome, CartChange::Done(_))).count();
    let told = outcomes.iter().filter(|outcome| **outcome == CartChange::Stale).count();
    assert_eq!((won, told), (1, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_told_and_changes_nothing() {
    let world = World::new().await;
    let carts = &world.engine.carts.clone().limited_to(CartLimits { lines: 2, quantity: 10 });
    let (owner, _) = someone();
    add(carts, &owner, 1, 8).await;
    assert_eq!(carts.add(&owner, &addition(1, 3, 1, "over")).await.unwrap(), CartChange::OverLimit { limit: 10 });
    let before = add(carts, &owner, 2, 1).await;
    assert_eq!(carts.add(&owner, &addition(3, 1, 1, "full")).await.unwrap(), CartChange::Full { limit: 2 });
    let set = async |variant, quantity| {
        carts.set(&owner, &Expected::Any, VariantId(variant), units(quantity), euros(1)).await.unwrap()
    };
    assert_eq!(set(3, 1).await, CartChange::Full { limit: 2 });
    assert_eq!(set(1, 11).await, CartChange::OverLimit { limit: 10 });
    assert_eq!(carts.remove(&owner, &Expected::Any, VariantId(3)).await.unwrap(), CartChange::NoSuchLine);
    assert_eq!(carts.read(&owner).await.unwrap().unwrap(), before);
    // A request that was refused was not done: it may be made again.
    done(carts.remove(&owner, &Expected::Any, VariantId(2)).await.unwrap());
    done(carts.add(&owner, &addition(3, 1, 1, "full")).await.unwrap());
}

/// C22, C26: only what was ordered leaves, and once.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_takes_what_was_ordered_and_later_additions_stay() {
    let world = World::new().await;
    let carts = &world.engine.carts;
    let (owner, _) = someone();
    add(carts, &owner, 1, 2).await;
    add(carts, &owner, 2, 1).await;
    let ordered = carts.read(&owner).await.unwrap().unwrap();
    // In another tab, before the order has been told to the cart.
    add(carts, &owner, 1, 3).await;
    add(carts, &owner, 3, 1).await;
    let order = CheckoutId(Uuid::now_v7());
    let what = ordered.lines.iter().map(|line| (line.variant_id, line.quantity)).collect::<Vec<_>>();
    for _ in 0..3 {
        carts.take_ordered(&owner, order, &what).await.unwrap();
        assert_eq!(read(carts, &owner).await, [(1, 3), (3, 1)]);
    }
    // What he has taken out himself is not owed.
    carts.take_ordered(&owner, CheckoutId(Uuid::now_v7()), &[(VariantId(1), 9), (VariantId(8), 1)]).await.unwrap();
    assert_eq!(read(carts, &owner).await, [(3, 1)]);
    assert!(carts.read(&owner).await.unwrap().unwrap().version > ordered.version);
    // Two workers that tell the same order at once.
    add(carts, &owner, 3, 9).await;
    let order = CheckoutId(Uuid::now_v7());
    join_all((0..10).map(|_| carts.take_ordered(&owner, order, &[(VariantId(3), 4)]))).await;
    assert_eq!(read(carts, &owner).await, [(3, 6)]);
    // A cart that is gone does not come back for it.
    carts.forget(&owner).await.unwrap();
    carts.take_ordered(&owner, CheckoutId(Uuid::now_v7()), &what).await.unwrap();
    assert_eq!(carts.read(&owner).await.unwrap(), None);
}

/// C25: the higher quantity wins, and asking again changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_guests_cart_is_merged_once() {
    let world = World::new().await;
    let carts = &world.engine.carts;
    let (owner, _) = someone();
    let CartOwner::Buyer(who) = &owner else { unreachable!("someone is a buyer") };
    let session = guest();
    let guests = CartOwner::Guest(session.clone());
    for (variant, quantity) in [(1, 5), (2, 1), (4, 4)] {
        add(carts, &guests, variant, quantity).await;
    }
    for (variant, quantity) in [(1, 2), (2, 3), (3, 7)] {
        add(carts, &owner, variant, quantity).await;
    }
    let left_behind = carts.read(&guests).await.unwrap().unwrap();
    let merged = carts.merge_guest(&session, who).await.unwrap();
    assert_eq!(lines(&merged.cart), [(1, 5), (2, 3), (3, 7), (4, 4)]);
    assert!(merged.clamped.is_empty() && merged.left_out.is_empty());
    assert_eq!(read(carts, &guests).await, []);
    // The buyer takes a line out, and his page asks again.
    done(carts.remove(&owner, &Expected::Any, VariantId(4)).await.unwrap());
    let again = carts.merge_guest(&session, who).await.unwrap();
    assert_eq!(lines(&again.cart), [(1, 5), (2, 3), (3, 7)]);
    // A process that died between the two steps has left the guest's cart as it was: put back by hand, byte by byte.
    let key = format!("cart:{{g:{}}}", session.as_str());
    let mut server = world.server_with(&key).await;
    let _: () =
        redis::cmd("HSET").arg(&key).arg("v").arg(left_behind.version.0).query_async(&mut server).await.unwrap();
    let line = [&[0, 4][..], &[0, 0, 0, 1, 144], b"EUR"].concat();
    let _: () = redis::cmd("HSET").arg(&key).arg("4").arg(line).query_async(&mut server).await.unwrap();
    let again = carts.merge_guest(&session, who).await.unwrap();
    assert_eq!(lines(&again.cart), [(1, 5), (2, 3), (3, 7)], "what was merged before is not merged again");
    assert_eq!(read(carts, &guests).await, []);
    // A guest's cart that is filled anew is another version, and comes.
    add(carts, &guests, 4, 1).await;
    let anew = carts.merge_guest(&session, who).await.unwrap();
    assert_eq!(lines(&anew.cart), [(1, 5), (2, 3), (3, 7), (4, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_is_too_large_says_what_it_left() {
    let world = World::new().await;
    let carts = &world.engine.carts;
    let (owner, _) = someone();
    let CartOwner::Buyer(who) = &owner else { unreachable!("someone is a buyer") };
    let session = guest();
    let guests = CartOwner::Guest(session.clone());
    for (variant, quantity) in [(1, 50), (2, 1), (3, 1)] {
        add(carts, &guests, variant, quantity).await;
    }
    add(carts, &owner, 9, 1).await;
    let small = carts.clone().limited_to(CartLimits { lines: 3, quantity: 10 });
    let merged = small.merge_guest(&session, who).await.unwrap();
    assert_eq!(merged.clamped, [VariantId(1)]);
    assert_eq!(merged.left_out.len(), 1, "{merged:?}");
    assert_eq!(merged.cart.lines.len(), 3);
    assert_eq!(merged.cart.lines.iter().find(|line| line.variant_id.0 == 1).unwrap().quantity, 10);
    let kept = carts.read(&guests).await.unwrap().unwrap();
    let kept = kept.lines.iter().map(|line| line.variant_id).collect::<Vec<_>>();
    assert_eq!(kept, merged.left_out, "what had no place is not lost, and the rest is not there twice");
    done(carts.remove(&owner, &Expected::Any, VariantId(9)).await.unwrap());
    let rest = small.merge_guest(&session, who).await.unwrap();
    assert_eq!((lines(&rest.cart), rest.left_out), (vec![(1, 10), (2, 1), (3, 1)], vec![]));
    assert_eq!(read(carts, &guests).await, []);
}

/// Where the lines of a guest's cart are while they are on their way to a buyer.
fn parcel_key(session: &CartSession, buyer: &BuyerId) -> String {
    format!("cart:{{g:{}}}:{:016x}", session.as_str(), xxhash_rust::xxh3::xxh3_64(buyer.as_str().as_bytes()))
}

/// Whoever asks first gets all of them, also when the process that asked has died before they were in the buyer's cart.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_buyers_who_merge_one_guests_cart_one_gets_the_lines() {
    let world = World::new().await;
    let carts = &world.engine.carts;
    for round in 0..20 {
        let (one, other) = (someone().0, someone().0);
        let (CartOwner::Buyer(first), CartOwner::Buyer(second)) = (&one, &other) else { unreachable!("buyers") };
        let session = guest();
        let guests = CartOwner::Guest(session.clone());
        add(carts, &guests, 1, 2).await;
        add(carts, &guests, 2, 1).await;
        if round == 0 {
            let (key, parcel) = (format!("cart:{{g:{}}}", session.as_str()), parcel_key(&session, first));
            let mut server = world.server_with(&key).await;
            let mut script = redis::cmd("EVAL");
            script.arg(include_str!("../../../lua/cart_hand_over.lua")).arg(2).arg(&key).arg(&parcel).arg(0).arg(1000);
            let _: redis::Value = script.query_async(&mut server).await.unwrap();
            // One that slept since an earlier parcel of the same buyer ends that one only.
            let mut late = redis::cmd("EVAL");
            late.arg(include_str!("../../../lua/cart_hand_back.lua")).arg(2).arg(&key).arg(&parcel);
            late.arg(0).arg(1000).arg("1").arg("").arg(999);
            assert_eq!(late.query_async::<Vec<i64>>(&mut server).await.unwrap(), [7], "NO_CART");
            let nothing = carts.merge_guest(&session, second).await.unwrap();
            assert!(nothing.cart.lines.is_empty() && read(carts, &guests).await.is_empty(), "{nothing:?}");
            // What comes into the cart since is for whoever asks next; what was packed is for the first one alone.
            add(carts, &guests, 3, 1).await;
            assert_eq!(lines(&carts.merge_guest(&session, second).await.unwrap().cart), [(3, 1)]);
            assert_eq!(lines(&carts.merge_guest(&session, first).await.unwrap().cart), [(1, 2), (2, 1)]);
            let left: i64 = redis::cmd("EXISTS").arg(&parcel).query_async(&mut server).await.unwrap();
            assert_eq!(left, 0);
            continue;
        }
        let merge = async |buyer| carts.merge_guest(&session, buyer).await.unwrap();
        tokio::join!(merge(first), merge(second));
        let mut got = [read(carts, &one).await, read(carts, &other).await];
        got.sort();
        assert_eq!(got, [vec![], vec![(1, 2), (2, 1)]]);
    }
}

/// Merges, and additions to both carts, all at once: nothing that was added is lost.
#[tokio::test(flavor = "multi_thread")]
async fn merging_and_adding_at_once_lose_nothing() {
    let world = World::new().await;
    let carts = &world.engine.carts;
    for _ in 0..20 {
        let (owner, _) = someone();
        let CartOwner::Buyer(who) = &owner else { unreachable!("someone is a buyer") };
        let session = guest();
        let guests = CartOwner::Guest(session.clone());
        add(carts, &guests, 1, 1).await;
        let merges = join_all((0..3).map(|_| carts.merge_guest(&session, who)));
        let to_guest = join_all((10..20).map(|variant| add(carts, &guests, variant, 1)));
        let to_buyer = join_all((20..40).map(|number| add(carts, &owner, 20 + number % 2, 1)));
        let (merged, _, _) = tokio::join!(merges, to_guest, to_buyer);
        merged.into_iter().for_each(|merged| assert!(merged.unwrap().left_out.is_empty()));
        carts.merge_guest(&session, who).await.unwrap();
        let mut expected = vec![(1, 1)];
        expected.extend((10..20).map(|variant| (variant, 1)));
        expected.extend([(20, 10), (21, 10)]);
        assert_eq!(read(carts, &owner).await, expected);
        assert_eq!(read(carts, &guests).await, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn carts_survive_a_restart_and_a_forgotten_script() {
    let (world, redis) = World::with_own_redis().await;
    let carts = &world.engine.carts;
    let (owner, key) = someone();
    add(carts, &owner, 1, 5).await;
    let mut server = world.server_with_url(&redis.url()).await;
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut server).await.unwrap();
    let before = add(carts, &owner, 2, 1).await;
    redis.kill();
    redis.restart().await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let after = loop {
        match carts.read(&owner).await {
            Ok(cart) => break cart,
            Err(error) => assert!(error.is_retryable() && std::time::Instant::now() < deadline, "{error}"),
        }
    };
    assert_eq!(after, Some(before));
    let left: i64 =
        redis::cmd("PTTL").arg(&key).query_async(&mut world.server_with_url(&redis.url()).await).await.unwrap();
    assert!(left > THIRTY_DAYS_MS - 600_000, "{left} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn carts_may_live_in_a_redis_of_their_own() {
    let mut world = World::new().await;
    let (other, redis) = World::with_own_redis().await;
    world.engine.carts = CartStore::connect(&redis.url(), world.engine.clock.clone()).await.unwrap();
    let owner = CartOwner::Buyer(buyer(1));
    add(&world.engine.carts, &owner, 1, 5).await;
    assert_eq!(read(&other.engine.carts, &owner).await, [(1, 5)]);
    assert_eq!(world.engine.carts.reach().await.unwrap().answering, 1);
    assert!(world.engine.carts.server_facts().await.unwrap().appendonly);
}
