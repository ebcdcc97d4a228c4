//! What is right and what is not, of facts that somebody else has gathered. Nothing here asks anybody.

use doorbuster_engine::domain::clock::ClockReading;
use doorbuster_engine::domain::drops::SaleDrop;
use doorbuster_engine::flows::open_drop::replication_problems;
use doorbuster_engine::ledger::migrate::SchemaState;
use doorbuster_engine::mail::NoMail;
use doorbuster_engine::provider::ProviderError;
use doorbuster_engine::tokens::store::{Reach, ServerFacts};
use doorbuster_engine::webhooks::NotReached;
use jiff::SignedDuration;

use super::finding::Finding;

/// Where CVE-2025-49844 is mended, the newest first: a script could run code of its own on the server of Redis.
const MENDED: [(u32, u32, u32); 5] = [(8, 2, 2), (8, 0, 4), (7, 4, 6), (7, 2, 11), (6, 2, 20)];
const CVE: &str = "CVE-2025-49844";

/// What no clock has that is kept by NTP.
const CLOCK_WARNING: SignedDuration = SignedDuration::from_secs(1);
/// A quarter of the lease of a payment, and half a minute by which a drop opens too early or too late.
const CLOCK_WRONG: SignedDuration = SignedDuration::from_secs(30);

/// What Postgres needs to go on for some hours of a sale.
const DISK_WARNING_BYTES: u64 = 5 << 30;
/// Where it stops at any moment.
const DISK_WRONG_BYTES: u64 = 100 << 20;

/// What a Redis is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Claims,
    Carts,
}

impl Holds {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Claims => "Redis",
            Self::Carts => "Redis of the carts",
        }
    }

    fn loses(self) -> &'static str {
        match self {
            Self::Claims => "claims that were answered",
            Self::Carts => "every cart",
        }
    }
}

pub(super) fn reach(holds: Holds, reach: Reach) -> Finding {
    match [reach.away, reach.refusing].concat() {
        wrong if wrong.is_empty() => Finding::ok(holds.name(), "it takes what is written"),
        wrong => Finding::wrong(holds.name(), wrong.join("; ")),
    }
}

pub(super) fn redis(holds: Holds, facts: &ServerFacts) -> Vec<Finding> {
    let name = holds.name();
    let check = |is_good: bool, good: &str, bad: String| match is_good {
        true => Finding::ok(name, good),
        false => Finding::wrong(name, bad),
    };
    let policy = &facts.maxmemory_policy;
    let loses = holds.loses();
    let mut findings = vec![
        version(name, facts),
        check(facts.is_primary, "it is a primary", "it is a replica: point us at the primary".to_owned()),
        check(
            policy == "noeviction",
            "maxmemory-policy is noeviction",
            format!("maxmemory-policy is {policy}, it must be noeviction: a Redis that evicts loses {loses}"),
        ),
        check(
            facts.appendonly,
            "appendonly is on",
            format!("appendonly is no, it must be yes: without it a restart forgets {loses}"),
        ),
        append_fsync(holds, facts.appendfsync.as_deref()),
    ];
    findings.extend(facts.requires_full_coverage.map(|requires| {
        let bad = "cluster-require-full-coverage is yes, it must be no: one lost part would stop the others";
        check(!requires, "cluster-require-full-coverage is no", bad.to_owned())
    }));
    findings
}

fn append_fsync(holds: Holds, setting: Option<&str>) -> Finding {
    let name = holds.name();
    match (setting, holds) {
        (Some("always"), _) => Finding::ok(name, "appendfsync is always"),
        (Some("no"), Holds::Claims) => {
            Finding::wrong(name, "appendfsync is no, no drop opens with it: set it to always (or to everysec)")
        }
        (Some(other), Holds::Claims) => Finding::warning(
            name,
            format!("appendfsync is {other}: a machine that loses power loses the last second of accepted claims"),
        ),
        (Some(other), Holds::Carts) => Finding::ok(name, format!("appendfsync is {other}, which is enough for carts")),
        (None, _) => Finding::unseen(name, "appendfsync cannot be read with this user: it should be always"),
    }
}

fn version(name: &str, facts: &ServerFacts) -> Finding {
    let version = &facts.version;
    if !facts.is_redis {
        return Finding::unseen(
            name,
            format!("it is not Redis itself (it says version {version}): look up whether {CVE} is mended in it"),
        );
    }
    match is_mended(version) {
        Some(true) => Finding::ok(name, format!("version {version}")),
        Some(false) => Finding::warning(
            name,
            format!(
                "version {version} does not have the mend of {CVE}, which is in 8.2.2, 8.0.4, 7.4.6, 7.2.11 and 6.2.20: \
                 upgrade it, unless your distribution has mended it under this number"
            ),
        ),
        None => Finding::unseen(name, format!("version {version:?}: whether {CVE} is mended in it is not known")),
    }
}

/// Of one version, or of several with commas, which nodes of a cluster may have.
fn is_mended(versions: &str) -> Option<bool> {
    let one = |version: &str| {
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
        let (major, minor, patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let [newest, ..] = MENDED;
        let same = MENDED.into_iter().find(|mended| (mended.0, mended.1) == (major, minor));
        Some((major, minor) > (newest.0, newest.1) || same.is_some_and(|mended| patch >= mended.2))
    };
    versions.split(", ").map(one).try_fold(true, |all, one| Some(all && one?))
}

/// `carts`: the facts of a Redis that was named for the carts.
pub(super) fn sharing(tokens: Option<&ServerFacts>, carts: Option<&ServerFacts>) -> Option<Finding> {
    let name = Holds::Carts.name();
    let Some(carts) = carts else { return Some(shared(name, "carts share the tokens' Redis")) };
    let tokens = tokens?;
    if tokens.run_ids.iter().chain(&carts.run_ids).any(|id| id == "unknown") {
        return Some(Finding::unseen(name, "whether it is the tokens' Redis too cannot be seen: INFO has no run_id"));
    }
    let is_same = tokens.run_ids.iter().any(|id| carts.run_ids.contains(id));
    Some(match is_same {
        true => shared(name, "DOORBUSTER_CARTS_REDIS_URL leads to the tokens' Redis: carts share it"),
        false => Finding::ok(name, "it is another one than the tokens'"),
    })
}

fn shared(name: &str, what: &str) -> Finding {
    let why =
        "if they fill it, no claim is taken. In production give them one of their own (DOORBUSTER_CARTS_REDIS_URL)";
    Finding::warning(name, format!("{what}: {why}"))
}

/// What drops that sell promise their buyers, and what Redis has for it.
pub(super) fn acknowledgement(facts: &ServerFacts, drops: &[SaleDrop]) -> Finding {
    const NAME: &str = "acknowledgement";
    let problems = replication_problems(facts, drops);
    let replicas = match facts.replicas {
        (fewest, most) if fewest == most => format!("each primary has {fewest} replicas online"),
        (fewest, most) => format!("primaries have {fewest} to {most} replicas online"),
    };
    match problems.as_slice() {
        [] => Finding::ok(NAME, format!("{replicas}, and no drop that sells waits for others")),
        problems => Finding::wrong(NAME, problems.join("; ")),
    }
}

/// Connections that a gateway may open, and the workers in its process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pools {
    pub(super) buyers: u16,
    pub(super) workers: u16,
}

pub(super) fn connections(Pools { buyers, workers }: Pools, allowed: i32) -> Finding {
    const NAME: &str = "connections of Postgres";
    let opens = format!("a gateway opens at most {buyers}, its workers {workers} more");
    if i32::from(buyers) + i32::from(workers) <= allowed {
        return Finding::ok(NAME, format!("it takes {allowed}: {opens}"));
    }
    let mend =
        "raise max_connections, or lower DOORBUSTER_DATABASE_CONNECTIONS and DOORBUSTER_WORKER_DATABASE_CONNECTIONS";
    Finding::wrong(NAME, format!("it takes only {allowed}, and {opens}: {mend}"))
}

pub(super) fn schema(state: &SchemaState) -> Finding {
    const NAME: &str = "migrations";
    match (state, state.problem()) {
        (_, Some(problem)) => Finding::wrong(NAME, problem),
        (SchemaState::Current { version }, None) => Finding::ok(NAME, format!("the schema has version {version}")),
        (_, None) => Finding::ok(NAME, "the schema can be worked on"),
    }
}

pub(super) fn clock(whose: &str, reading: &ClockReading) -> Finding {
    let ahead = reading.ahead();
    let by = ahead.abs();
    let name = format!("clock of {whose}");
    if by.is_zero() {
        return Finding::ok(name, "it says the same as this machine's");
    }
    let seconds = by.as_secs_f64();
    let said =
        format!("it is {seconds:.1} s {} this machine's", if ahead.is_positive() { "ahead of" } else { "behind" });
    if by > CLOCK_WRONG {
        Finding::wrong(name, format!("{said}: leases and openings need clocks that agree; let NTP set both"))
    } else if by > CLOCK_WARNING {
        Finding::warning(name, format!("{said}: let NTP set both"))
    } else {
        Finding::ok(name, said)
    }
}

pub(super) fn disk(free_bytes: u64, all_bytes: u64) -> Finding {
    const NAME: &str = "disk of Postgres";
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let said = format!("{:.1} of {:.1} GiB are free", gib(free_bytes), gib(all_bytes));
    match free_bytes {
        ..DISK_WRONG_BYTES => Finding::wrong(NAME, format!("{said}: Postgres stops when its disk is full")),
        DISK_WRONG_BYTES..DISK_WARNING_BYTES => Finding::warning(NAME, format!("{said}: a long sale may fill it")),
        _ => Finding::ok(NAME, said),
    }
}

/// `other_mode`: the provider has shown a payment that is not of our key's mode.
pub(super) fn provider(key: &str, asked: Result<bool, ProviderError>) -> Finding {
    const NAME: &str = "payment provider";
    let mode = match (key.contains("_live_"), key.contains("_test_")) {
        (true, _) => "it is a live key: real money moves",
        (false, true) => "it is a test key: no money moves",
        (false, false) => "its beginning does not say whether it is a test key or a live one",
    };
    match asked {
        Ok(false) => Finding::ok(NAME, format!("it takes our key; {mode}")),
        Ok(true) => Finding::wrong(NAME, format!("it takes our key and shows payments of the other mode; {mode}")),
        Err(ProviderError::Misconfigured { status }) => Finding::wrong(
            NAME,
            format!("it refuses our key with {status}: nothing can be charged; check DOORBUSTER_PROVIDER_KEY ({mode})"),
        ),
        Err(error) if error.is_retryable() => Finding::no_answer(NAME, error.to_string()),
        Err(error) => Finding::wrong(NAME, format!("{error}; check DOORBUSTER_PROVIDER_URL")),
    }
}

pub(super) fn mail(about: &str, checked: Result<(), NoMail>) -> Finding {
    const NAME: &str = "mail server";
    let no = |why: String| format!("the mail server cannot be used ({about}): {why}");
    match checked {
        Ok(()) => Finding::ok(NAME, format!("the mail server takes our sender ({about})")),
        Err(NoMail::Refused(why) | NoMail::NobodyListens(why)) => Finding::wrong(NAME, no(why)),
        Err(NoMail::NoAnswer(why)) => Finding::no_answer(NAME, no(why)),
    }
}

pub(super) fn endpoint(name: &str, host: &str, reached: Result<(), NotReached>) -> Finding {
    let who = format!("endpoint {name}");
    match reached {
        Ok(()) => Finding::ok(who, format!("somebody listens at {host}, and nothing was sent")),
        Err(NotReached::NobodyListens) => Finding::wrong(who, format!("nobody listens at {host}: events would wait")),
        Err(NotReached::Untrusted(why)) => {
            Finding::wrong(who, format!("{host} answers and gets no events from us: {why}"))
        }
        Err(NotReached::NoAnswer(why)) => Finding::no_answer(who, format!("{host}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use doorbuster_engine::domain::clock::ClockReading;
    use jiff::Timestamp;

    use super::super::finding::Verdict::{NoAnswer, Ok as Good, Unseen, Warning, Wrong};
    use super::super::finding::{Verdict, worst};
    use super::*;

    fn good() -> ServerFacts {
        ServerFacts {
            version: "8.2.2".to_owned(),
            is_redis: true,
            run_ids: vec!["a".to_owned()],
            maxmemory_policy: "noeviction".to_owned(),
            appendonly: true,
            appendfsync: Some("always".to_owned()),
            is_primary: true,
            requires_full_coverage: None,
            replicas: (0, 0),
        }
    }

    #[test]
    fn a_redis_that_may_lose_claims_is_wrong() {
        let no = |setting: &str| Some(setting.to_owned());
        for (facts, expected) in [
            (good(), Good),
            (ServerFacts { is_primary: false, ..good() }, Wrong),
            (ServerFacts { maxmemory_policy: "allkeys-lru".to_owned(), ..good() }, Wrong),
            (ServerFacts { appendonly: false, ..good() }, Wrong),
            (ServerFacts { appendfsync: no("everysec"), ..good() }, Warning),
            (ServerFacts { appendfsync: no("no"), ..good() }, Wrong),
            (ServerFacts { appendfsync: None, ..good() }, Unseen),
            (ServerFacts { requires_full_coverage: Some(true), ..good() }, Wrong),
            (ServerFacts { requires_full_coverage: Some(false), ..good() }, Good),
            (ServerFacts { version: "7.0.15".to_owned(), ..good() }, Warning),
            (ServerFacts { is_redis: false, ..good() }, Unseen),
        ] {
            assert_eq!(worst(&redis(Holds::Claims, &facts)), expected, "{facts:?}");
        }
        let carts = ServerFacts { appendfsync: no("everysec"), ..good() };
        assert_eq!(worst(&redis(Holds::Carts, &carts)), Good, "a second of carts may be lost");
    }

    #[test]
    fn each_series_of_redis_has_a_version_that_is_mended() {
        for (version, expected) in [
            ("8.2.2", Some(true)),
            ("8.2.1", Some(false)),
            ("8.0.4", Some(true)),
            ("8.0.3", Some(false)),
            ("7.4.6", Some(true)),
            ("7.4.5", Some(false)),
            ("7.2.11", Some(true)),
            ("7.2.4", Some(false)),
            ("7.0.15", Some(false)),
            ("6.2.20", Some(true)),
            ("6.0.99", Some(false)),
            ("8.4.0", Some(true)),
            ("9.0.0", Some(true)),
            ("8.2.2, 8.2.1", Some(false)),
            ("8.2.2, 8.4.0", Some(true)),
            ("unknown", None),
            ("8.2", None),
        ] {
            assert_eq!(is_mended(version), expected, "{version}");
        }
    }

    #[test]
    fn carts_in_the_tokens_redis_are_a_warning_by_whatever_name_it_is_called() {
        let (mine, other) = (good(), ServerFacts { run_ids: vec!["b".to_owned()], ..good() });
        let hidden = ServerFacts { run_ids: vec!["unknown".to_owned()], ..good() };
        for (tokens, carts, expected) in [
            (None, None, Some(Warning)),
            (Some(&mine), None, Some(Warning)),
            (Some(&mine), Some(&mine), Some(Warning)),
            (Some(&mine), Some(&other), Some(Good)),
            (Some(&hidden), Some(&other), Some(Unseen)),
            // The tokens' Redis was not seen.
            (None, Some(&other), None),
        ] {
            assert_eq!(sharing(tokens, carts).map(|finding| finding.verdict), expected, "{tokens:?} {carts:?}");
        }
    }

    #[test]
    fn clocks_disks_and_schemas_have_bounds() {
        let at = |ms: i64| Timestamp::from_millisecond(1_795_773_600_000 + ms).unwrap();
        for (theirs, expected) in
            [(0, Good), (4, Good), (900, Good), (-900, Good), (1_100, Warning), (-29_000, Warning), (31_000, Wrong)]
        {
            let reading = ClockReading { before: at(0), theirs: at(theirs), after: at(5) };
            assert_eq!(clock("Redis", &reading).verdict, expected, "{theirs} ms");
        }
        for (free, expected) in [(99 << 20, Wrong), (100 << 20, Warning), (5 << 30, Good)] {
            assert_eq!(disk(free, 100 << 30).verdict, expected, "{free}");
        }
        for (allowed, expected) in [(24, Good), (23, Wrong)] {
            assert_eq!(connections(Pools { buyers: 16, workers: 8 }, allowed).verdict, expected, "{allowed}");
        }
        for (state, expected) in [
            (SchemaState::Current { version: 26 }, Good),
            (SchemaState::Empty, Wrong),
            (SchemaState::Behind { missing: vec!["V26__x".to_owned()] }, Wrong),
            (SchemaState::Newer { found: 27, known: 26 }, Wrong),
            (SchemaState::Different { name: "V2__drops".to_owned() }, Wrong),
        ] {
            assert_eq!(schema(&state).verdict, expected, "{state:?}");
        }
    }

    #[test]
    fn what_the_provider_answers_to_our_key_is_told_from_no_answer() {
        let refused = || ProviderError::Misconfigured { status: 401 };
        let away = || ProviderError::Unreachable("connection refused".to_owned());
        let other = || ProviderError::Unreadable("HTML".to_owned());
        let cases: [(&str, Result<bool, ProviderError>, Verdict, &str); 7] = [
            ("sk_test_1", Ok(false), Good, "test key"),
            ("sk_live_1", Ok(false), Good, "live key"),
            ("rk_1", Ok(false), Good, "does not say"),
            ("sk_test_1", Ok(true), Wrong, "other mode"),
            ("sk_test_1", Err(refused()), Wrong, "401"),
            ("sk_test_1", Err(away()), NoAnswer, "refused"),
            ("sk_test_1", Err(other()), Wrong, "DOORBUSTER_PROVIDER_URL"),
        ];
        for (key, asked, expected, words) in cases {
            let finding = provider(key, asked);
            assert!(finding.verdict == expected && finding.sentence.contains(words), "{finding}");
            assert!(!finding.sentence.contains(key), "{finding}");
        }
    }

    #[test]
    fn a_mail_server_or_an_endpoint_that_says_no_is_wrong_and_silence_is_unknown() {
        let why = || "why".to_owned();
        for (checked, expected) in [
            (Ok(()), Good),
            (Err(NoMail::Refused(why())), Wrong),
            (Err(NoMail::NobodyListens(why())), Wrong),
            (Err(NoMail::NoAnswer(why())), NoAnswer),
        ] {
            assert_eq!(mail("mail.example:587", checked.clone()).verdict, expected, "{checked:?}");
        }
        for (reached, expected) in [
            (Ok(()), Good),
            (Err(NotReached::NobodyListens), Wrong),
            (Err(NotReached::Untrusted(why())), Wrong),
            (Err(NotReached::NoAnswer(why())), NoAnswer),
        ] {
            assert_eq!(endpoint("shop", "shop.example", reached.clone()).verdict, expected, "{reached:?}");
        }
    }
}
