//! A warehouse that lost one of its keys, fields or sentinels: every script says so, and writes nothing.

use doorbuster_engine::tokens::contract;

use super::harness::servers;
use super::malformed::{One, finds_something_lost, open_warehouse, requests, well_formed};

/// How a test takes something away, as Redis does when it evicts, or a person by mistake.
enum Loss {
    Key(&'static str),
    /// Of the hash `meta`.
    Field(&'static str),
    /// The key came back, without the sentinel that it is filled with.
    CameBack(&'static str),
}

/// What each script needs of what it is given. `fence` needs nothing, and `load` brings all the rest.
const NEEDS: [(&str, &[&str], &[&str]); 11] = [
    ("claim", &["meta", "buyers", "claims", "tokens:0", "spare:0"], &["epoch", "fence", "state", "limit", "first:0"]),
    ("grant", &["meta", "buyers", "spare:0"], &["epoch", "fence", "granted"]),
    ("award", &["meta", "buyers", "claims"], &["epoch", "fence", "granted", "limit", "first:0"]),
    ("pull", &["meta", "out", "tokens:0", "spare:0"], &["epoch", "fence", "first:0"]),
    ("clear", &["meta", "out"], &["epoch", "fence"]),
    (
        "look",
        &["meta", "buyers", "claims", "out", "tokens:0", "spare:0"],
        &["epoch", "fence", "granted", "state", "limit", "settled", "chunks", "first:0", "seq:0"],
    ),
    ("set_state", &["meta"], &["epoch", "fence", "state"]),
    ("settled", &["meta", "claims"], &["epoch", "settled"]),
    ("touch", &["meta"], &["epoch", "fence"]),
    ("load", &["meta"], &["epoch", "state", "chunks"]),
    ("open", &["meta"], &["epoch", "state", "chunks"]),
];

#[test]
fn every_script_notices_each_key_field_and_sentinel_that_is_lost() {
    let mut unnoticed = Vec::new();
    servers().runtime.block_on(async {
        for script in contract::ALL.into_iter().filter(|script| script.name != "fence") {
            let (_, keys, fields) =
                NEEDS.iter().find(|(name, ..)| *name == script.name).expect("a line for each script");
            let losses = keys.iter().map(|key| Loss::Key(key)).chain(fields.iter().map(|field| Loss::Field(field)));
            let came_back = keys.iter().filter(|key| ["buyers", "out", "spare:0"].contains(key));
            for loss in losses.chain(came_back.map(|key| Loss::CameBack(key))) {
                let (mut place, replid) = open_warehouse().await;
                if ["load", "open"].contains(&script.name) {
                    place.store(1).fence().await.unwrap();
                }
                let mut call = well_formed(&place, script, &replid);
                if script.name == "claim" {
                    // More than the run has, so that it needs a spare one too.
                    call = call.with("requests", requests(&[One { quantity: 4, ..One::default() }]));
                }
                let command = |words: &[&str], key: &str| {
                    let mut command = redis::cmd(words[0]);
                    command.arg(place.key(key)).arg(&words[1..]);
                    command
                };
                let (what, commands) = match loss {
                    Loss::Key(key) => (key, vec![command(&["DEL"], key)]),
                    Loss::Field(field) => (field, vec![command(&["HDEL", field], "meta")]),
                    Loss::CameBack(key) if key == "spare:0" => {
                        (key, vec![command(&["DEL"], key), command(&["RPUSH", "9"], key)])
                    }
                    Loss::CameBack(key) => (key, vec![command(&["DEL"], key), command(&["HSET", "bob", ""], key)]),
                };
                for command in commands {
                    let changed: i64 = command.query_async(&mut place.raw).await.unwrap();
                    assert_eq!(changed, 1, "{what} was there");
                }
                if (script.name, what) == ("claim", "spare:0") && matches!(loss, Loss::CameBack(_)) {
                    // It has no time to look at the end of the list; who watches does.
                    continue;
                }
                if !finds_something_lost(&mut place, &call).await {
                    unnoticed.push(format!("{} without {what}", script.name));
                }
            }
        }
    });
    assert_eq!(unnoticed, Vec::<String>::new());
}
