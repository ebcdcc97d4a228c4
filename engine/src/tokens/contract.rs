//! LUA CONTRACT: what each script in `lua/` takes and answers. The headers of the scripts say the same; a test compares.

use super::keys::WarehouseKeys;
use crate::domain::ids::VariantNumber;
use crate::scripting::{ReplyCode, ScriptCall, ScriptContract, script};

/// First element of every reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Ok = 0,
    /// Never loaded, or a key, field or sentinel of the warehouse is lost.
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

    pub fn from_reply(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as i64 == code)
    }
}

impl ReplyCode for Code {
    fn number(self) -> i64 {
        self as i64
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::NotLoaded => "NOT_LOADED",
            Self::Fenced => "FENCED",
            Self::Already => "ALREADY",
            Self::Gap => "GAP",
            Self::Stale => "STALE",
        }
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
    pub const TOO_MANY_RELEASED: u8 = 8;
}

/// Claims of one buyer in a drop that have been released: so many, and they claim no more. Each keeps 14 bytes of the buyer's
/// record, and an order in Postgres. Far more than an honest buyer is declined, and less than a record that slows others down.
pub const MAX_RELEASED: usize = 50;

/// Claims in one call of `claim`; `cargo bench --bench script_times` prints what the longest calls cost.
pub const MAX_BATCH: usize = 256;
/// Units asked for in one call of `claim`, unless a single claim asks for more: four each in a full batch.
pub const MAX_BATCH_UNITS: u32 = 4 * MAX_BATCH as u32;
/// Claims in the records that one call of `claim` reads, if every buyer has as many as the limit lets him have: 0.15 µs each.
pub const MAX_BATCH_RECORDED: usize = 20 * MAX_BATCH;
/// Tokens moved by one grant, one pull or one chunk of a load.
pub const MAX_SERIALS: usize = 1000;

/// A script of this folder's; its keys are those of a warehouse.
pub type TokenScript = ScriptContract<Code>;

use Code::{Already, Fenced, Gap, NotLoaded, Ok as Done, Stale};

script!(
    CLAIM,
    "claim",
    ["meta", "buyers", "claims"],
    ["tokens", "spare"],
    ["epoch", "now_ms", "variants", "names", "requests", "told"],
    ["code", "statuses", "details"],
    [Done, NotLoaded, Fenced]
);
script!(
    GRANT,
    "grant",
    ["meta", "buyers"],
    ["spare"],
    ["epoch", "number", "variants", "serials", "released"],
    ["code", "granted"],
    [Done, NotLoaded, Fenced, Already, Gap]
);
script!(
    AWARD,
    "award",
    ["meta", "buyers", "claims"],
    [],
    ["epoch", "number", "now_ms", "buyer", "request", "serials"],
    ["code", "granted", "is_taken"],
    [Done, NotLoaded, Fenced, Already, Gap]
);
script!(
    PULL,
    "pull",
    ["meta", "out"],
    ["tokens", "spare"],
    ["epoch", "variants", "transfer_id", "destination", "units"],
    ["code", "serials"],
    [Done, NotLoaded, Fenced]
);
script!(CLEAR, "clear", ["meta", "out"], [], ["epoch", "transfer_id"], ["code"], [Done, NotLoaded, Fenced]);
script!(
    LOOK,
    "look",
    ["meta", "buyers", "claims", "out"],
    ["tokens", "spare"],
    ["epoch", "variants"],
    ["code", "granted", "state", "leaving", "free", "seq"],
    [Done, NotLoaded, Fenced]
);
script!(FENCE, "fence", ["meta"], [], ["epoch"], ["code", "replid"], [Done, Stale]);
script!(
    LOAD,
    "load",
    ["meta", "buyers", "out"],
    ["tokens", "spare"],
    ["epoch", "replid", "chunk", "granted", "limit", "variants", "ranges", "serials", "holders"],
    ["code"],
    [Done, NotLoaded, Fenced, Gap]
);
script!(
    OPEN,
    "open",
    ["meta", "claims"],
    [],
    ["epoch", "replid", "chunks", "state"],
    ["code"],
    [Done, NotLoaded, Fenced, Gap]
);
script!(SET_STATE, "set_state", ["meta"], [], ["epoch", "state"], ["code"], [Done, NotLoaded, Fenced]);
script!(
    SETTLED,
    "settled",
    ["meta", "claims"],
    [],
    ["epoch", "settled", "trim_before"],
    ["code", "trimmed"],
    [Done, NotLoaded, Fenced]
);
script!(TOUCH, "touch", ["meta"], [], ["epoch"], ["code"], [Done, NotLoaded, Fenced]);

pub static ALL: [&TokenScript; 12] =
    [&CLAIM, &GRANT, &AWARD, &PULL, &CLEAR, &LOOK, &FENCE, &LOAD, &OPEN, &SET_STATE, &SETTLED, &TOUCH];

impl TokenScript {
    /// The call for one warehouse: all its keys in the contract's order, then the arguments.
    pub(super) fn call(
        &'static self,
        keys: &WarehouseKeys,
        variants: &[VariantNumber],
        args: &[Vec<u8>],
    ) -> ScriptCall {
        let fixed = self.keys.iter().map(|name| keys.fixed(name));
        let of_variants = variants
            .iter()
            .flat_map(|variant| self.keys_per_variant.iter().map(|name| keys.of_variant(name, *variant)));
        self.with(fixed.chain(of_variants).collect(), args.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripting::checks;

    #[test]
    fn headers_and_contract_say_the_same() {
        checks::headers_and_contract_say_the_same(&ALL);
    }

    #[test]
    fn scripts_use_every_key_argument_and_code_as_their_header_says() {
        checks::scripts_use_what_their_header_says(&ALL);
    }

    #[test]
    fn every_script_file_is_in_the_contract() {
        // Those of the carts have a contract of their own.
        checks::every_file_is_known(&ALL, |name| !name.starts_with("cart_"));
    }
}
