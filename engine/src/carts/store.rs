//! One method an operation, typed on both sides: one round trip each, a merge takes three.

use std::time::Instant;

use redis::{FromRedisValue, Value};

use super::beginnings::{Beginnings, GUEST_CARTS_PER_SECOND};
use super::codec::{self, Fields, PRICE_BYTES};
use super::contract::{self, CartScript, Code, FIRST_SECONDS, TTL_SECONDS};
use super::error::CartError;
use crate::domain::carts::{Addition, Cart, CartChange, CartLimits, CartOwner, LineQuantity};
use crate::domain::clock::Clock;
use crate::domain::ids::{CheckoutId, VariantId};
use crate::domain::money::Money;
use crate::domain::versions::Expected;
use crate::scripting::{Connection, Reach, ServerFacts};

/// The door to the carts. Cheap to clone; all clones share one connection.
#[derive(Clone)]
pub struct CartStore {
    connection: Connection,
    /// Where the versions of new carts begin.
    clock: Clock,
    limits: CartLimits,
    beginnings: Beginnings,
}

impl CartStore {
    pub async fn connect(url: &str, clock: Clock) -> Result<Self, CartError> {
        Ok(Self::over(crate::scripting::connect(url).await?, clock))
    }

    /// As [`Self::connect`], but it connects on first use.
    pub fn open(url: &str, clock: Clock) -> Result<Self, CartError> {
        Ok(Self::over(crate::scripting::open(url)?, clock))
    }

    /// Carts in a Redis that this process is connected to already.
    pub(crate) fn over(connection: Connection, clock: Clock) -> Self {
        let beginnings = Beginnings::new(GUEST_CARTS_PER_SECOND);
        Self { connection, clock, limits: CartLimits::default(), beginnings }
    }

    /// So many carts of guests may begin a second. Only carts of guests: buyers are known.
    #[must_use]
    pub fn beginning(self, per_second: u32) -> Self {
        Self { beginnings: Beginnings::new(per_second), ..self }
    }

    #[must_use]
    pub fn limited_to(self, limits: CartLimits) -> Self {
        Self { limits, ..self }
    }

    /// How much of the carts' Redis answers.
    pub async fn reach(&self) -> Result<Reach, CartError> {
        Ok(self.connection.clone().reach().await?)
    }

    /// How the carts' Redis is set up, for the operator's check.
    pub async fn server_facts(&self) -> Result<ServerFacts, CartError> {
        Ok(self.connection.clone().server_facts().await?)
    }

    /// The cart as it is; `None` if there is none. Reading changes nothing, not even how long it lives.
    pub async fn read(&self, owner: &CartOwner) -> Result<Option<Cart>, CartError> {
        let mut connection = self.connection.clone();
        let reply: Value = connection.ask(redis::cmd("HGETALL").arg(codec::key(owner))).await?;
        cart("HGETALL", reply)
    }

    /// Adds units to a line, or a line; once for each key.
    pub async fn add(&self, owner: &CartOwner, addition: &Addition) -> Result<CartChange, CartError> {
        let args = vec![
            text(addition.variant_id.0),
            text(addition.quantity.units()),
            codec::price(addition.price)?.to_vec(),
            codec::request(addition).to_vec(),
            text(self.limits.lines),
            text(self.limits.quantity),
        ];
        self.change_or_begin(&contract::ADD, owner, args).await
    }

    /// Gives a line this many units; `price` is what the buyer is shown now, should the line be new.
    pub async fn set(
        &self,
        owner: &CartOwner,
        expected: &Expected,
        variant: VariantId,
        quantity: LineQuantity,
        price: Money,
    ) -> Result<CartChange, CartError> {
        if quantity.units() > self.limits.quantity {
            return Ok(CartChange::OverLimit { limit: self.limits.quantity });
        }
        self.set_units(owner, expected, variant, quantity.units(), codec::price(price)?).await
    }

    /// Takes a line out.
    pub async fn remove(
        &self,
        owner: &CartOwner,
        expected: &Expected,
        variant: VariantId,
    ) -> Result<CartChange, CartError> {
        self.set_units(owner, expected, variant, 0, [0; PRICE_BYTES]).await
    }

    async fn set_units(
        &self,
        owner: &CartOwner,
        expected: &Expected,
        variant: VariantId,
        units: u16,
        price: [u8; PRICE_BYTES],
    ) -> Result<CartChange, CartError> {
        let args =
            vec![codec::expected(expected), text(variant.0), text(units), price.to_vec(), text(self.limits.lines)];
        self.change_or_begin(&contract::SET, owner, args).await
    }

    /// Takes every line out. The version stays and grows, so that nobody takes the cart for another one.
    pub async fn clear(&self, owner: &CartOwner, expected: &Expected) -> Result<CartChange, CartError> {
        let args = vec![self.now_ms(), text(TTL_SECONDS), first_seconds(owner), codec::expected(expected)];
        self.change(&contract::CLEAR, owner, args).await
    }

    /// Takes out what was ordered, once for each checkout: what was added meanwhile stays, and a cart that is gone stays gone.
    pub async fn take_ordered(
        &self,
        owner: &CartOwner,
        checkout: CheckoutId,
        lines: &[(VariantId, u32)],
    ) -> Result<(), CartError> {
        let args = vec![self.now_ms(), text(TTL_SECONDS), codec::checkout(checkout).to_vec(), codec::ordered(lines)];
        self.call(&contract::TAKE, owner, args).await.map(|_| ())
    }

    /// Deletes a cart with all that is known of it: for a buyer who wants to be forgotten.
    pub async fn forget(&self, owner: &CartOwner) -> Result<(), CartError> {
        let mut connection = self.connection.clone();
        Ok(connection.ask(redis::cmd("UNLINK").arg(codec::key(owner))).await?)
    }

    pub(super) fn limits(&self) -> CartLimits {
        self.limits
    }

    pub(super) fn now_ms(&self) -> Vec<u8> {
        text(self.clock.now().as_millisecond())
    }

    /// A change that begins a cart where there is none, unless too many guests do.
    async fn change_or_begin(
        &self,
        script: &'static CartScript,
        owner: &CartOwner,
        args: Vec<Vec<u8>>,
    ) -> Result<CartChange, CartError> {
        let is_guest = matches!(owner, CartOwner::Guest(_));
        let takes_one = is_guest && self.beginnings.take(Instant::now());
        let may_begin = u8::from(takes_one || !is_guest);
        let first = vec![self.now_ms(), text(TTL_SECONDS), first_seconds(owner), text(may_begin)];
        let (code, reply) = self.call(script, owner, [first, args].concat()).await?;
        if takes_one && code != Code::Begun {
            self.beginnings.give_back();
        }
        match code {
            Code::NoCart => Ok(CartChange::TooManyBegin),
            code => self.changed(script, code, reply),
        }
    }

    async fn change(
        &self,
        script: &'static CartScript,
        owner: &CartOwner,
        args: Vec<Vec<u8>>,
    ) -> Result<CartChange, CartError> {
        let (code, reply) = self.call(script, owner, args).await?;
        self.changed(script, code, reply)
    }

    fn changed(&self, script: &'static CartScript, code: Code, mut reply: Vec<Value>) -> Result<CartChange, CartError> {
        let mut cart = || match reply.len() {
            2 => Ok(cart(script.name, reply.swap_remove(1))?.unwrap_or(Cart::none())),
            _ => Err(bad(script.name, "no cart")),
        };
        Ok(match code {
            Code::Ok | Code::Begun => CartChange::Done(cart()?),
            Code::Replayed => CartChange::Replayed(cart()?),
            Code::KeyReused => CartChange::KeyReused,
            Code::Stale => CartChange::Stale,
            Code::Full => CartChange::Full { limit: self.limits.lines },
            Code::OverLimit => CartChange::OverLimit { limit: self.limits.quantity },
            Code::NoSuchLine | Code::NoCart => CartChange::NoSuchLine,
        })
    }

    pub(super) async fn call(
        &self,
        script: &'static CartScript,
        owner: &CartOwner,
        args: Vec<Vec<u8>>,
    ) -> Result<(Code, Vec<Value>), CartError> {
        self.call_with(script, vec![codec::key(owner)], args).await
    }

    pub(super) async fn call_with(
        &self,
        script: &'static CartScript,
        keys: Vec<String>,
        args: Vec<Vec<u8>>,
    ) -> Result<(Code, Vec<Value>), CartError> {
        let mut connection = self.connection.clone();
        let reply = connection.call(&script.with(keys, args)).await?;
        let Some(Value::Int(number)) = reply.first() else { return Err(bad(script.name, "no code")) };
        match script.codes.iter().find(|code| **code as i64 == *number) {
            Some(code) => Ok((*code, reply)),
            None => Err(bad(script.name, format!("code {number}"))),
        }
    }
}

/// How long a cart lives that has just begun: a guest's not for long, before there is a second visit.
fn first_seconds(owner: &CartOwner) -> Vec<u8> {
    match owner {
        CartOwner::Buyer(_) => text(0),
        CartOwner::Guest(_) => text(FIRST_SECONDS),
    }
}

/// Numbers go to the scripts as decimal strings.
pub(super) fn text(value: impl ToString) -> Vec<u8> {
    value.to_string().into_bytes()
}

pub(super) fn bad(script: &'static str, what: impl Into<String>) -> CartError {
    CartError::BadReply { script, what: what.into() }
}

/// The reply of HGETALL, of a script's or of the command itself.
pub(super) fn cart(script: &'static str, reply: Value) -> Result<Option<Cart>, CartError> {
    let fields = Fields::from_redis_value(reply).map_err(|error| bad(script, error.to_string()))?;
    codec::cart(&fields).map_err(|what| bad(script, what))
}
