//! Calls that are wrong in form. They come from a bug of ours, so they must fail loudly, and before the first write.

use doorbuster_engine::domain::ids::{GrantNumber, Serial};
use doorbuster_engine::tokens::contract::{self, Code, TokenScript};
use doorbuster_engine::tokens::store::LoadVariant;
use redis::{RedisError, Value};
use rmp::encode;

use super::harness::{Place, servers};

/// A call as it goes over the wire.
#[derive(Clone)]
pub(super) struct Call {
    script: &'static TokenScript,
    pub(super) keys: Vec<String>,
    args: Vec<Vec<u8>>,
}

impl Call {
    pub(super) async fn send(&self, place: &mut Place) -> Result<Value, RedisError> {
        let mut command = redis::cmd("EVAL");
        command.arg(self.script.source).arg(self.keys.len()).arg(&self.keys).arg(&self.args);
        command.query_async(&mut place.raw).await
    }

    pub(super) fn with(&self, argument: &str, value: impl Into<Vec<u8>>) -> Self {
        let mut call = self.clone();
        let index = self.script.args.iter().position(|name| *name == argument).expect("a name of the contract");
        call.args[index] = value.into();
        call
    }
}

/// An open warehouse with one variant of four units, and a limit that is no obstacle.
pub(super) async fn open_warehouse() -> (Place, String) {
    let place = Place::new(servers(), 1, 120).await;
    let store = place.store(1);
    let replid = store.fence().await.unwrap();
    let load = LoadVariant { run: Some((Serial(1), 3)), serials: vec![Serial(9)] };
    let chunks = store.load(&replid, GrantNumber(1), 120, &[load], &[]).await.unwrap();
    store.open(&replid, chunks, "open").await.unwrap();
    (place, replid)
}

/// A call of each script that is as it should be.
pub(super) fn well_formed(place: &Place, script: &'static TokenScript, replid: &str) -> Call {
    let mut keys = script.keys.iter().map(|name| place.key(name)).collect::<Vec<_>>();
    keys.extend(script.keys_per_variant.iter().map(|name| place.key(&format!("{name}:0"))));
    let argument = |name: &&str| match (script.name, *name) {
        (_, "epoch") => b"1".to_vec(),
        (_, "variants") => vec![0],
        ("claim", "now_ms") => b"7".to_vec(),
        ("claim", "names") => names(&[One::default()]),
        ("claim", "requests") => requests(&[One::default()]),
        ("claim", "told") => Vec::new(),
        ("grant" | "award", "number") => b"2".to_vec(),
        ("award", "now_ms") => b"7".to_vec(),
        ("award", "buyer") => b"ada".to_vec(),
        ("award", "request") => requests(&[One::default()]),
        ("award", "serials") => vec![0, 0, 0, 77],
        ("grant" | "load", "serials") => serials(&[&["77"]]),
        ("grant", "released") => Vec::new(),
        (_, "transfer_id") => b"00000000-0000-0000-0000-000000000001".to_vec(),
        ("pull", "destination" | "units") => b"1".to_vec(),
        (_, "replid") => replid.into(),
        (_, "chunk") => b"0".to_vec(),
        (_, "chunks") => b"2".to_vec(),
        (_, "granted" | "limit") => b"1".to_vec(),
        ("load", "ranges") => packed(2, |bytes| [1, 3].iter().for_each(|number| uint(bytes, *number))),
        ("load", "holders") => packed(0, |_| {}),
        (_, "state") => b"closed".to_vec(),
        ("settled", _) => b"0-1".to_vec(),
        (script, name) => panic!("{script} has a new argument {name}"),
    };
    Call { script, keys, args: script.args.iter().map(argument).collect() }
}

/// One claim of a batch.
#[derive(Clone)]
pub(super) struct One {
    pub(super) buyer: Vec<u8>,
    pub(super) tail: Vec<u8>,
    pub(super) variant: u8,
    pub(super) quantity: u8,
}

impl Default for One {
    fn default() -> Self {
        Self { buyer: b"ada".to_vec(), tail: b"twelve bytes".to_vec(), variant: 0, quantity: 1 }
    }
}

fn names(claims: &[One]) -> Vec<u8> {
    let mut bytes = Vec::new();
    claims.iter().for_each(|claim| text(&mut bytes, &claim.buyer));
    bytes
}

pub(super) fn requests(claims: &[One]) -> Vec<u8> {
    let bytes = claims.iter().flat_map(|claim| [&claim.tail[..], &[claim.variant, claim.quantity]].concat());
    bytes.collect()
}

fn serials(lists: &[&[&str]]) -> Vec<u8> {
    packed(lists.len(), |bytes| {
        for list in lists {
            encode::write_array_len(bytes, list.len() as u32).unwrap();
            list.iter().for_each(|serial| text(bytes, serial.as_bytes()));
        }
    })
}

fn packed(len: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::write_array_len(&mut bytes, len as u32).unwrap();
    fill(&mut bytes);
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &[u8]) {
    encode::write_str_len(bytes, text.len() as u32).unwrap();
    bytes.extend_from_slice(text);
}

fn uint(bytes: &mut Vec<u8>, number: u64) {
    encode::write_uint(bytes, number).unwrap();
}

/// Every byte that the warehouse has in Redis.
pub(super) async fn bytes_of(place: &mut Place) -> Vec<Option<Vec<u8>>> {
    let mut found = Vec::new();
    for key in place.keys() {
        found.push(redis::cmd("DUMP").arg(key).query_async(&mut place.raw).await.unwrap());
    }
    found
}

async fn fails_before_any_write(place: &mut Place, what: &str, call: &Call) {
    let before = bytes_of(place).await;
    let answer = call.send(place).await;
    assert!(answer.is_err(), "{}, {what}: answered {answer:?}", call.script.name);
    assert_eq!(bytes_of(place).await, before, "{}, {what}: it has written", call.script.name);
}

/// Whether the script answers NOT_LOADED and leaves everything as it is.
pub(super) async fn finds_something_lost(place: &mut Place, call: &Call) -> bool {
    let before = bytes_of(place).await;
    let answer = call.send(place).await;
    let code = match &answer {
        Ok(Value::Array(reply)) => reply.first(),
        _ => None,
    };
    code == Some(&Value::Int(Code::NotLoaded as i64)) && bytes_of(place).await == before
}

#[test]
fn a_wrong_number_of_keys_or_arguments_fails_before_any_write() {
    servers().runtime.block_on(async {
        for script in contract::ALL {
            let (mut place, replid) = open_warehouse().await;
            if ["load", "open"].contains(&script.name) {
                // They have something to do only while a load is under way.
                place.store(1).fence().await.unwrap();
            }
            let good = well_formed(&place, script, &replid);
            let mut call = good.clone();
            call.keys.pop();
            fails_before_any_write(&mut place, "a key is missing", &call).await;
            let mut call = good.clone();
            call.keys.push(place.key("more"));
            fails_before_any_write(&mut place, "a key too many", &call).await;
            let mut call = good.clone();
            call.args.pop();
            fails_before_any_write(&mut place, "an argument is missing", &call).await;
            let mut call = good.clone();
            call.args.push(b"more".to_vec());
            fails_before_any_write(&mut place, "an argument too many", &call).await;
            if !script.keys_per_variant.is_empty() && script.name != "pull" {
                fails_before_any_write(&mut place, "more variants than keys", &good.with("variants", [0, 0])).await;
                fails_before_any_write(&mut place, "fewer variants than keys", &good.with("variants", [])).await;
            }
            let answer = good.send(&mut place).await;
            assert!(answer.is_ok(), "{}: the call that was spoilt is good: {answer:?}", script.name);
        }
    });
}

#[test]
fn b4_a_batch_that_no_gateway_would_send_fails_before_any_write() {
    servers().runtime.block_on(async {
        let (mut place, replid) = open_warehouse().await;
        let good = well_formed(&place, &contract::CLAIM, &replid);
        let one = One::default;
        let units = |quantity| One { quantity, ..one() };
        let table: [(&str, Vec<One>); 11] = [
            ("quantity 0", vec![units(0)]),
            ("quantity 101", vec![units(101)]),
            ("quantity 128, the mark of a released claim", vec![units(128)]),
            ("quantity 255", vec![units(255)]),
            ("a variant that is not declared", vec![One { variant: 1, ..one() }]),
            ("a short tail", vec![One { tail: b"eleven byte".to_vec(), ..one() }]),
            ("a long tail", vec![One { tail: b"thirteen byte".to_vec(), ..one() }]),
            ("a buyer of 65 bytes", vec![One { buyer: vec![b'x'; 65], ..one() }]),
            ("a bad claim behind a good one", vec![one(), One { buyer: b"bob".to_vec(), ..units(0) }]),
            (
                "a short tail and a long one",
                vec![
                    One { tail: b"eleven byte".to_vec(), ..one() },
                    One { tail: b"thirteen byte".to_vec(), quantity: 0, ..one() },
                ],
            ),
            ("257 claims", vec![one(); 257]),
        ];
        for (what, claims) in table {
            let call = good.with("names", names(&claims)).with("requests", requests(&claims));
            fails_before_any_write(&mut place, what, &call).await;
        }
        let two = [one(), one()];
        fails_before_any_write(&mut place, "more names than requests", &good.with("names", names(&two))).await;
        fails_before_any_write(&mut place, "more requests than names", &good.with("requests", requests(&two))).await;
        for (what, told) in [("a short one", vec![1; 9]), ("one too many", vec![1; 20])] {
            fails_before_any_write(&mut place, what, &good.with("told", told)).await;
        }
        fails_before_any_write(&mut place, "no cmsgpack", &good.with("names", [0xc1])).await;
        fails_before_any_write(&mut place, "a name that is a number", &good.with("names", [7])).await;
        let array = packed(1, |bytes| text(bytes, b"ada"));
        fails_before_any_write(&mut place, "a name that is an array", &good.with("names", array)).await;
        let mut call = good.with("variants", [5]).with("requests", requests(&[One { variant: 5, ..one() }]));
        let last = call.keys.len() - 2;
        call.keys[last] = place.key("tokens:5");
        call.keys[last + 1] = place.key("spare:5");
        assert!(finds_something_lost(&mut place, &call).await, "a variant that the drop does not have");
        let mut call = good.with("variants", [0, 5]);
        call.keys.extend([place.key("tokens:5"), place.key("spare:5")]);
        assert!(
            finds_something_lost(&mut place, &call).await,
            "beside a good one a variant that the drop does not have"
        );
        let many = vec![one(); 256];
        let largest = good.with("names", names(&many)).with("requests", requests(&many));
        assert!(largest.send(&mut place).await.is_ok(), "256 claims are not too many");
    });
}

#[test]
fn loads_grants_and_pulls_that_contradict_themselves_fail_before_any_write() {
    servers().runtime.block_on(async {
        let (mut place, replid) = open_warehouse().await;
        let grant = well_formed(&place, &contract::GRANT, &replid);
        let three = packed(3, |bytes| {
            text(bytes, b"ada");
            text(bytes, b"twelve bytes");
            uint(bytes, 0);
        });
        fails_before_any_write(
            &mut place,
            "serials of two variants",
            &grant.with("serials", serials(&[&["7"], &["8"]])),
        )
        .await;
        fails_before_any_write(&mut place, "no serials", &grant.with("serials", serials(&[]))).await;
        fails_before_any_write(&mut place, "a released claim of three values", &grant.with("released", three)).await;
        let pull = well_formed(&place, &contract::PULL, &replid);
        fails_before_any_write(&mut place, "two variants", &pull.with("variants", [0, 0])).await;
        fails_before_any_write(&mut place, "units that are no number", &pull.with("units", "x")).await;
        fails_before_any_write(&mut place, "a destination that is no number", &pull.with("destination", "x")).await;

        place.store(1).fence().await.unwrap();
        let load = well_formed(&place, &contract::LOAD, &replid);
        let odd = packed(1, |bytes| text(bytes, b"ada"));
        fails_before_any_write(&mut place, "a first chunk without ranges", &load.with("ranges", packed(0, |_| {})))
            .await;
        fails_before_any_write(&mut place, "a holder without a record", &load.with("holders", odd)).await;
        fails_before_any_write(&mut place, "serials of two variants", &load.with("serials", serials(&[&[], &[]])))
            .await;
        assert!(load.send(&mut place).await.is_ok());
    });
}

#[test]
fn an_award_that_no_worker_would_send_fails_before_any_write() {
    servers().runtime.block_on(async {
        let (mut place, replid) = open_warehouse().await;
        let good = well_formed(&place, &contract::AWARD, &replid);
        let request = |one: One| requests(&[one]);
        let table = [
            ("quantity 0", good.with("request", request(One { quantity: 0, ..One::default() }))),
            ("a released claim", good.with("request", request(One { quantity: 129, ..One::default() }))),
            ("a short tail", good.with("request", request(One { tail: b"eleven byte".to_vec(), ..One::default() }))),
            ("more units than asked for", good.with("serials", [0, 0, 0, 77, 0, 0, 0, 78])),
            ("no units", good.with("serials", [])),
            ("nobody", good.with("buyer", [])),
            ("a buyer of 65 bytes", good.with("buyer", vec![b'x'; 65])),
        ];
        for (what, call) in table {
            fails_before_any_write(&mut place, what, &call).await;
        }
        let call = good.with("request", request(One { variant: 1, ..One::default() }));
        assert!(finds_something_lost(&mut place, &call).await, "a variant that is not there");
        assert!(good.send(&mut place).await.is_ok(), "the call that was spoilt is good");
    });
}
