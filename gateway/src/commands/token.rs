//! `doorbuster token`: a test buyer's token. Real ones come from whoever knows the buyers.

use clap::Args;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::BuyerId;
use jiff::SignedDuration;

use serde_json::json;

use super::Failure;
use super::output::Format;
use crate::auth;
use crate::config::TokenSecret;

#[derive(Debug, Args)]
pub struct TokenArguments {
    /// The buyer: 1 to 255 visible ASCII characters
    #[arg(long, value_name = "ID")]
    buyer: BuyerId,
    /// How long the token is good for
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    expires_in: SignedDuration,
    #[command(flatten)]
    secret: TokenSecret,
    #[command(flatten)]
    format: Format,
}

pub fn run(arguments: &TokenArguments) -> Result<(), Failure> {
    let keys = arguments.secret.check()?;
    let now = Clock::System.now();
    let token = auth::mint_with(&keys[0], &arguments.buyer, now, arguments.expires_in);
    let expires_at = now.checked_add(arguments.expires_in).ok();
    arguments
        .format
        .answer(|| json!({ "token": token, "buyer": arguments.buyer, "expires_at": expires_at }), || token.clone());
    Ok(())
}
