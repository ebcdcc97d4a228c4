//! What each script `lua/cart_*.lua` takes and answers. Their headers say the same; a test compares.

use crate::scripting::{ReplyCode, ScriptContract, script};

/// First element of every reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Ok = 0,
    /// This request, merge or checkout was done before.
    Replayed = 1,
    /// The key stood for another request.
    KeyReused = 2,
    /// Another version than expected, or no cart.
    Stale = 3,
    /// As many lines as there may be.
    Full = 4,
    /// More units than a line may have.
    OverLimit = 5,
    NoSuchLine = 6,
    /// And none may begin now, where one could.
    NoCart = 7,
    /// As [`Self::Ok`], and there was no cart before.
    Begun = 8,
}

impl Code {
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::Replayed,
        Self::KeyReused,
        Self::Stale,
        Self::Full,
        Self::OverLimit,
        Self::NoSuchLine,
        Self::NoCart,
        Self::Begun,
    ];
}

impl ReplyCode for Code {
    fn number(self) -> i64 {
        self as i64
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Replayed => "REPLAYED",
            Self::KeyReused => "KEY_REUSED",
            Self::Stale => "STALE",
            Self::Full => "FULL",
            Self::OverLimit => "OVER_LIMIT",
            Self::NoSuchLine => "NO_SUCH_LINE",
            Self::NoCart => "NO_CART",
            Self::Begun => "BEGUN",
        }
    }
}

/// Thirty days: how long a cart lives after its last change. Set by the script that changes it, in the same step.
pub const TTL_SECONDS: u32 = 2_592_000;
/// One hour: how long a guest's cart lives at first. A change that comes a quarter of an hour after the first one, or later, is a
/// second visit, and the cart is one as any other from then on.
pub const FIRST_SECONDS: u32 = 3_600;

use Code::{Begun, Full, KeyReused, NoCart, NoSuchLine, Ok as Done, OverLimit, Replayed, Stale};

pub type CartScript = ScriptContract<Code>;

script!(
    ADD,
    "cart_add",
    ["cart"],
    [],
    ["now_ms", "ttl_s", "first_s", "may_begin", "variant", "quantity", "price", "request", "max_lines", "max_quantity"],
    ["code", "cart"],
    [Done, Replayed, KeyReused, Full, OverLimit, NoCart, Begun]
);
script!(
    SET,
    "cart_set",
    ["cart"],
    [],
    ["now_ms", "ttl_s", "first_s", "may_begin", "expected", "variant", "quantity", "price", "max_lines"],
    ["code", "cart"],
    [Done, Stale, Full, NoSuchLine, NoCart, Begun]
);
script!(CLEAR, "cart_clear", ["cart"], [], ["now_ms", "ttl_s", "first_s", "expected"], ["code", "cart"], [Done, Stale]);
script!(
    MERGE,
    "cart_merge",
    ["cart"],
    [],
    ["now_ms", "ttl_s", "source", "lines", "max_lines", "max_quantity"],
    ["code", "cart", "clamped", "left_out"],
    [Done, Replayed]
);
script!(TAKE, "cart_take", ["cart"], [], ["now_ms", "ttl_s", "checkout", "lines"], ["code"], [Done, Replayed, NoCart]);
script!(
    HAND_OVER,
    "cart_hand_over",
    ["cart", "parcel"],
    [],
    ["now_ms", "ttl_s"],
    ["code", "parcel"],
    [Done, Replayed, NoCart]
);
script!(
    HAND_BACK,
    "cart_hand_back",
    ["cart", "parcel"],
    [],
    ["now_ms", "ttl_s", "packed", "left_out", "max_quantity"],
    ["code"],
    [Done, NoCart]
);

pub static ALL: [&CartScript; 7] = [&ADD, &SET, &CLEAR, &MERGE, &TAKE, &HAND_OVER, &HAND_BACK];

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
        checks::every_file_is_known(&ALL, |name| name.starts_with("cart_"));
    }

    #[test]
    fn every_change_sets_the_end_of_the_cart_in_the_same_step() {
        for contract in ALL {
            assert!(contract.source.contains("redis.call('EXPIRE', cart, ttl_s)"), "{}", contract.name);
        }
    }
}
