//! LUA CONTRACT: what each script in `lua/` takes and answers. The headers of the scripts say the same; a test compares.

use std::sync::LazyLock;

use redis::Script;

use super::keys::WarehouseKeys;
use crate::domain::ids::VariantNumber;

/// First element of every reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Ok = 0,
    /// The warehouse has no meta: never loaded, or lost.
    NotLoaded = 1,
    /// Another epoch, or a server that may have forgotten its newest writes.
    Fenced = 2,
    /// This grant, or a later one, has been applied.
    Already = 3,
    /// An earlier grant or chunk is missing.
    Gap = 4,
    /// A newer epoch has begun.
    Stale = 5,
}

impl Code {
    pub const ALL: [Self; 6] = [Self::Ok, Self::NotLoaded, Self::Fenced, Self::Already, Self::Gap, Self::Stale];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::NotLoaded => "NOT_LOADED",
            Self::Fenced => "FENCED",
            Self::Already => "ALREADY",
            Self::Gap => "GAP",
            Self::Stale => "STALE",
        }
    }

    pub fn from_reply(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as i64 == code)
    }
}

/// Status byte of each claim in the reply of `claim`.
pub mod status {
    pub const TAKEN: u8 = 0;
    pub const REPLAYED: u8 = 1;
    pub const RELEASED: u8 = 2;
    pub const KEY_REUSED: u8 = 3;
    pub const OVER_LIMIT: u8 = 4;
    pub const SHORT: u8 = 5;
    pub const NOT_OPEN: u8 = 6;
    pub const CLOSED: u8 = 7;
}

/// Claims in one call of `claim`; `cargo bench --bench script_times` prints what the longest calls cost.
pub const MAX_BATCH: usize = 256;
/// Units asked for in one call of `claim`, unless a single claim asks for more: four each in a full batch.
pub const MAX_BATCH_UNITS: u32 = 4 * MAX_BATCH as u32;
/// Claims in the records that one call of `claim` reads, if every buyer has as many as the limit lets him have: 0.15 µs each.
pub const MAX_BATCH_RECORDED: usize = 20 * MAX_BATCH;
/// Tokens moved by one grant, one pull or one chunk of a load.
pub const MAX_SERIALS: usize = 1000;

pub struct ScriptContract {
    pub name: &'static str,
    pub source: &'static str,
    /// The names of the fixed keys, in order.
    pub keys: &'static [&'static str],
    /// The names of the keys that follow for each variant of the call.
    pub keys_per_variant: &'static [&'static str],
    pub args: &'static [&'static str],
    pub reply: &'static [&'static str],
    pub codes: &'static [Code],
    script: LazyLock<Script>,
}

macro_rules! contract {
    ($constant:ident, $name:literal, $keys:expr, $per_variant:expr, $args:expr, $reply:expr, $codes:expr) => {
        pub static $constant: ScriptContract = ScriptContract {
            name: $name,
            source: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../lua/", $name, ".lua")),
            keys: &$keys,
            keys_per_variant: &$per_variant,
            args: &$args,
            reply: &$reply,
            codes: &$codes,
            script: LazyLock::new(|| Script::new($constant.source)),
        };
    };
}

use Code::{Already, Fenced, Gap, NotLoaded, Ok as Done, Stale};

contract!(
    CLAIM,
    "claim",
    ["meta", "buyers", "claims"],
    ["tokens", "spare"],
    ["epoch", "now_ms", "variants", "names", "requests"],
    ["code", "statuses", "details"],
    [Done, NotLoaded, Fenced]
);
contract!(
    GRANT,
    "grant",
    ["meta", "buyers"],
    ["spare"],
    ["epoch", "number", "variants", "serials", "released"],
    ["code", "granted"],
    [Done, NotLoaded, Fenced, Already, Gap]
);
contract!(
    AWARD,
    "award",
    ["meta", "buyers", "claims"],
    [],
    ["epoch", "number", "now_ms", "buyer", "request", "serials"],
    ["code", "granted", "is_taken"],
    [Done, NotLoaded, Fenced, Already, Gap]
);
contract!(
    PULL,
    "pull",
    ["meta", "out"],
    ["tokens", "spare"],
    ["epoch", "variants", "transfer_id", "destination", "units"],
    ["code", "serials"],
    [Done, NotLoaded, Fenced]
);
contract!(CLEAR, "clear", ["meta", "out"], [], ["epoch", "transfer_id"], ["code"], [Done, NotLoaded, Fenced]);
contract!(
    LOOK,
    "look",
    ["meta", "out"],
    ["tokens", "spare"],
    ["epoch", "variants"],
    ["code", "granted", "state", "leaving", "free", "seq"],
    [Done, NotLoaded, Fenced]
);
contract!(FENCE, "fence", ["meta"], [], ["epoch"], ["code", "replid"], [Done, Stale]);
contract!(
    LOAD,
    "load",
    ["meta", "buyers", "out"],
    ["tokens", "spare"],
    ["epoch", "replid", "chunk", "granted", "limit", "variants", "ranges", "serials", "holders"],
    ["code"],
    [Done, NotLoaded, Fenced, Gap]
);
contract!(
    OPEN,
    "open",
    ["meta", "claims"],
    [],
    ["epoch", "replid", "chunks", "state"],
    ["code"],
    [Done, NotLoaded, Fenced, Gap]
);
contract!(SET_STATE, "set_state", ["meta"], [], ["epoch", "state"], ["code"], [Done, NotLoaded, Fenced]);
contract!(
    SETTLED,
    "settled",
    ["meta", "claims"],
    [],
    ["epoch", "settled", "trim_before"],
    ["code", "trimmed"],
    [Done, NotLoaded, Fenced]
);
contract!(TOUCH, "touch", ["meta"], [], ["epoch"], ["code"], [Done, NotLoaded, Fenced]);

pub static ALL: [&ScriptContract; 12] =
    [&CLAIM, &GRANT, &AWARD, &PULL, &CLEAR, &LOOK, &FENCE, &LOAD, &OPEN, &SET_STATE, &SETTLED, &TOUCH];

/// A call of one script, ready to be sent, by its hash or with its source.
pub(super) struct ScriptCall {
    contract: &'static ScriptContract,
    keys: Vec<String>,
    args: Vec<Vec<u8>>,
}

impl ScriptContract {
    /// The call for one warehouse: all its keys in the contract's order, then the arguments.
    pub(super) fn call(
        &'static self,
        keys: &WarehouseKeys,
        variants: &[VariantNumber],
        args: &[Vec<u8>],
    ) -> ScriptCall {
        assert_eq!(args.len(), self.args.len(), "{} takes {:?}", self.name, self.args);
        let fixed = self.keys.iter().map(|name| keys.fixed(name));
        let of_variants = variants
            .iter()
            .flat_map(|variant| self.keys_per_variant.iter().map(|name| keys.of_variant(name, *variant)));
        ScriptCall { contract: self, keys: fixed.chain(of_variants).collect(), args: args.to_vec() }
    }
}

impl ScriptCall {
    pub(super) fn by_hash(&self) -> redis::Cmd {
        self.command("EVALSHA", self.contract.script.get_hash())
    }

    pub(super) fn by_source(&self) -> redis::Cmd {
        self.command("EVAL", self.contract.source)
    }

    fn command(&self, verb: &str, script: &str) -> redis::Cmd {
        redis::cmd(verb).arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.args).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words behind `-- LABEL` in a script's header.
    fn header(source: &str, label: &str) -> Vec<String> {
        let prefix = format!("-- {label}");
        let line = source.lines().find(|line| line.starts_with(&prefix)).unwrap_or_else(|| panic!("no line {prefix}"));
        line[prefix.len()..].split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn headers_and_contract_say_the_same() {
        for contract in ALL {
            let mut keys = contract.keys.to_vec();
            if !contract.keys_per_variant.is_empty() {
                keys.push("/");
                keys.extend(contract.keys_per_variant);
            }
            assert_eq!(header(contract.source, "KEYS"), keys, "{}: KEYS", contract.name);
            assert_eq!(header(contract.source, "ARGV"), contract.args, "{}: ARGV", contract.name);
            assert_eq!(header(contract.source, "REPLY"), contract.reply, "{}: REPLY", contract.name);
            let codes = contract.codes.iter().map(|code| code.name()).collect::<Vec<_>>();
            assert_eq!(header(contract.source, "CODES"), codes, "{}: CODES", contract.name);
        }
    }

    #[test]
    fn scripts_use_every_key_argument_and_code_as_their_header_says() {
        for contract in ALL {
            let source = contract.source;
            assert!(source.starts_with("#!lua\n"), "{}: a shebang without flags", contract.name);
            assert!(source.contains("assert(#KEYS"), "{}: asserts its keys", contract.name);
            for index in 1..=contract.keys.len() {
                assert!(source.contains(&format!("KEYS[{index}]")), "{}: names KEYS[{index}]", contract.name);
            }
            for index in 1..=contract.args.len() {
                assert!(source.contains(&format!("ARGV[{index}]")), "{}: names ARGV[{index}]", contract.name);
            }
            let names = contract.codes.iter().map(|code| code.name()).collect::<Vec<_>>().join(", ");
            let numbers = contract.codes.iter().map(|code| (*code as i64).to_string()).collect::<Vec<_>>().join(", ");
            let line = format!("local {names} = {numbers}\n");
            assert!(source.contains(&line), "{}: {line}", contract.name);
        }
    }

    #[test]
    fn every_script_file_is_in_the_contract() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../lua");
        let mut files = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| {
                entry.unwrap().file_name().into_string().unwrap().strip_suffix(".lua").map(str::to_owned)
            })
            .collect::<Vec<_>>();
        let mut names = ALL.map(|contract| contract.name.to_owned()).to_vec();
        files.sort();
        names.sort();
        assert_eq!(files, names);
    }
}
