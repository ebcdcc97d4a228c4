//! The cards that exist here: the provider's own test cards, and two of this fake's.
//!
//! A token (`pm_card_visa`) is no payment method: each use of one makes a new one, as a card typed in again does.

/// A test card.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) token: &'static str,
    pub(crate) number: &'static str,
    pub(crate) brand: &'static str,
    /// On the hosted page.
    pub(crate) label: &'static str,
    pub(crate) charge: Charging,
    pub(crate) authentication: Authentication,
    pub(crate) refund: Refunding,
    /// Whether it can be saved for a customer.
    pub(crate) can_be_saved: bool,
}

/// What becomes of a charge, once its owner has authenticated if they have to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Charging {
    Succeeds,
    /// With this decline code.
    Declined(&'static str),
    /// Declined, yet the money comes.
    DeclinedThenSucceeds,
    Processing,
    /// Succeeds and is disputed at once.
    Disputed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Authentication {
    Never,
    /// Until it was set up by its owner.
    UnlessSetUp,
    Always,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refunding {
    Succeeds,
    Pending,
    /// Success is not the end: this is how a closed account shows.
    SucceedsThenFails,
}

const GOOD: Card = Card {
    token: "pm_card_visa",
    number: "4242424242424242",
    brand: "visa",
    label: "Visa",
    charge: Charging::Succeeds,
    authentication: Authentication::Never,
    refund: Refunding::Succeeds,
    can_be_saved: true,
};

static CARDS: [Card; 13] = [
    GOOD,
    Card { token: "pm_card_mastercard", number: "5555555555554444", brand: "mastercard", label: "Mastercard", ..GOOD },
    Card {
        token: "pm_card_chargeDeclined",
        number: "4000000000000002",
        label: "Declined, and not saved either",
        charge: Charging::Declined("generic_decline"),
        can_be_saved: false,
        ..GOOD
    },
    Card {
        token: "pm_card_chargeDeclinedInsufficientFunds",
        number: "4000000000009995",
        label: "Insufficient funds, and not saved either",
        charge: Charging::Declined("insufficient_funds"),
        can_be_saved: false,
        ..GOOD
    },
    Card {
        token: "pm_card_chargeCustomerFail",
        number: "4000000000000341",
        label: "Saved, and declined when it is charged",
        charge: Charging::Declined("generic_decline"),
        ..GOOD
    },
    Card {
        token: "pm_card_authenticationRequired",
        number: "4000002760003184",
        label: "Its owner authenticates every payment",
        authentication: Authentication::Always,
        ..GOOD
    },
    Card {
        token: "pm_card_authenticationRequiredOnSetup",
        number: "4000002500003155",
        label: "Its owner authenticates once, when it is saved",
        authentication: Authentication::UnlessSetUp,
        ..GOOD
    },
    Card {
        token: "pm_card_authenticationRequiredChargeDeclinedInsufficientFunds",
        number: "4000008260003178",
        label: "Its owner authenticates, and funds are insufficient",
        charge: Charging::Declined("insufficient_funds"),
        authentication: Authentication::Always,
        ..GOOD
    },
    Card {
        token: "pm_card_createDispute",
        number: "4000000000000259",
        label: "Charged, and disputed at once",
        charge: Charging::Disputed,
        ..GOOD
    },
    Card {
        token: "pm_card_pendingRefund",
        number: "4000000000007726",
        label: "Refunds are pending at first",
        refund: Refunding::Pending,
        ..GOOD
    },
    Card {
        token: "pm_card_refundFail",
        number: "4000000000005126",
        label: "Refunds succeed, and fail in the end",
        refund: Refunding::SucceedsThenFails,
        ..GOOD
    },
    // These two are no test cards of the provider's, so their numbers are made up.
    Card {
        token: "pm_fake_processing",
        number: "4000000000000101",
        label: "The bank takes its time",
        charge: Charging::Processing,
        ..GOOD
    },
    Card {
        token: "pm_fake_declinedThenSucceeds",
        number: "4000000000000119",
        label: "Declined, yet the money comes",
        charge: Charging::DeclinedThenSucceeds,
        ..GOOD
    },
];

impl Card {
    pub(crate) fn all() -> &'static [Self] {
        &CARDS
    }

    pub(crate) fn of_token(token: &str) -> Option<&'static Self> {
        CARDS.iter().find(|card| card.token == token)
    }

    pub(crate) fn last4(&self) -> &'static str {
        &self.number[self.number.len() - 4..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_cards_have_a_token_or_a_number_in_common() {
        for card in Card::all() {
            assert_eq!(Card::of_token(card.token), Some(card));
            assert_eq!(Card::all().iter().filter(|other| other.number == card.number).count(), 1, "{}", card.token);
        }
        assert_eq!(Card::of_token("pm_card_gold"), None);
    }
}
