//! Cards of buyers: whether one can be charged again, as far as the provider has said.
//!
//! ```text
//! CHECKING --the provider made it the buyer's own--> SAVED
//!     '------the provider will not, for a reason--> REFUSED      (charged once at most, without a customer)
//! ```
//!
//! No answer is no reason: an unknown outcome is repeated under its own key, or read back.

use serde::Serialize;

use super::ids::{CustomerId, PaymentMethodId};

/// Where a card stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CardState {
    Checking,
    Saved,
    Refused,
}

impl CardState {
    pub const ALL: [Self; 3] = [Self::Checking, Self::Saved, Self::Refused];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Checking => "CHECKING",
            Self::Saved => "SAVED",
            Self::Refused => "REFUSED",
        }
    }
}

/// Why a card cannot be saved. Its buyer has to give another one, or the same one again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CardRefusal {
    /// It was used without a customer, or taken from one: it can never be used again.
    UsedBefore,
    /// It belongs to somebody else.
    OfAnother,
    /// The provider knows no such card.
    NotThere,
    /// Its bank said no.
    Declined,
    /// The provider said no, in words that we do not know.
    Refused,
}

impl CardRefusal {
    pub const ALL: [Self; 5] = [Self::UsedBefore, Self::OfAnother, Self::NotThere, Self::Declined, Self::Refused];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::UsedBefore => "used_before",
            Self::OfAnother => "of_another",
            Self::NotThere => "not_there",
            Self::Declined => "declined",
            Self::Refused => "refused",
        }
    }

    pub fn of_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|refusal| refusal.as_str() == name).unwrap_or(Self::Refused)
    }
}

/// What is known of the card that a payment names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardFacts {
    /// Nobody has asked the provider yet whether it can be saved; or it cannot: it is charged once, without a customer.
    OneOff,
    /// The provider is being asked.
    Checking,
    Saved {
        customer: CustomerId,
        method: PaymentMethodId,
    },
}

/// What the provider says when it is asked to make a card a customer's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachAnswer<'a> {
    /// The card as it is now, and whose.
    Answered { owner: Option<&'a CustomerId> },
    /// Its bank said no.
    Declined,
    /// The provider said no, with this code.
    Refused { code: &'a str },
    /// It may have happened.
    Unknown,
    /// It has not happened, and may yet.
    NotNow,
}

/// What reading the card says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardRead<'a> {
    Found {
        owner: Option<&'a CustomerId>,
    },
    NotThere,
    /// The provider could not be asked.
    NoAnswer,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardVerdict {
    Saved,
    Refused(CardRefusal),
    /// Only a read of the card tells.
    ReadBack,
    /// The same call, under the same key.
    Again,
    /// The customer is gone at the provider: another one is made.
    CustomerGone,
}

/// What an answer means for a card of `ours`.
pub fn after_attach(ours: &CustomerId, answer: &AttachAnswer<'_>) -> CardVerdict {
    match answer {
        AttachAnswer::Answered { owner } if *owner == Some(ours) => CardVerdict::Saved,
        AttachAnswer::Answered { .. } | AttachAnswer::Refused { .. } | AttachAnswer::Unknown => CardVerdict::ReadBack,
        AttachAnswer::Declined => CardVerdict::Refused(CardRefusal::Declined),
        AttachAnswer::NotNow => CardVerdict::Again,
    }
}

/// What the card says about an answer that left it open. The provider has no code for most of its reasons, and its
/// sentences may change; whose the card is says which of them it was.
pub fn after_read(ours: &CustomerId, answer: &AttachAnswer<'_>, read: &CardRead<'_>) -> CardVerdict {
    match (answer, read) {
        (_, CardRead::Found { owner: Some(owner) }) if *owner == ours => CardVerdict::Saved,
        (_, CardRead::Found { owner: Some(_) }) => CardVerdict::Refused(CardRefusal::OfAnother),
        (_, CardRead::NotThere) => CardVerdict::Refused(CardRefusal::NotThere),
        // Our own mistake with a key; the next one is free.
        (AttachAnswer::Refused { code: "idempotency_error" }, _) => CardVerdict::Again,
        // The card is there, so it is the customer that is missing.
        (AttachAnswer::Refused { code: "resource_missing" }, CardRead::Found { owner: None }) => {
            CardVerdict::CustomerGone
        }
        // A refusal without a code of its own has the name of its kind.
        (AttachAnswer::Refused { code: "invalid_request_error" }, CardRead::Found { owner: None }) => {
            CardVerdict::Refused(CardRefusal::UsedBefore)
        }
        (AttachAnswer::Refused { .. }, CardRead::Found { owner: None }) => CardVerdict::Refused(CardRefusal::Refused),
        _ => CardVerdict::Again,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_provider_answers_decides_a_card_and_what_it_does_not_answer_decides_nothing() {
        use AttachAnswer as A;
        use CardRead as R;
        use CardVerdict as V;
        let (ours, other) = (CustomerId("cus_1".to_owned()), CustomerId("cus_2".to_owned()));
        let (mine, theirs, nobodys) =
            (R::Found { owner: Some(&ours) }, R::Found { owner: Some(&other) }, R::Found { owner: None });
        let refused = |code| A::Refused { code };
        let table: &[(A<'_>, Option<R<'_>>, V)] = &[
            (A::Answered { owner: Some(&ours) }, None, V::Saved),
            (A::Declined, None, V::Refused(CardRefusal::Declined)),
            (A::NotNow, None, V::Again),
            (A::Answered { owner: Some(&other) }, Some(theirs.clone()), V::Refused(CardRefusal::OfAnother)),
            (A::Answered { owner: None }, Some(nobodys.clone()), V::Again),
            (A::Unknown, Some(mine.clone()), V::Saved),
            (A::Unknown, Some(theirs.clone()), V::Refused(CardRefusal::OfAnother)),
            (A::Unknown, Some(nobodys.clone()), V::Again),
            (A::Unknown, Some(R::NotThere), V::Refused(CardRefusal::NotThere)),
            (A::Unknown, Some(R::NoAnswer), V::Again),
            (refused("invalid_request_error"), Some(mine), V::Saved),
            (refused("invalid_request_error"), Some(theirs), V::Refused(CardRefusal::OfAnother)),
            (refused("invalid_request_error"), Some(nobodys.clone()), V::Refused(CardRefusal::UsedBefore)),
            (refused("invalid_request_error"), Some(R::NoAnswer), V::Again),
            (refused("resource_missing"), Some(nobodys.clone()), V::CustomerGone),
            (refused("resource_missing"), Some(R::NotThere), V::Refused(CardRefusal::NotThere)),
            (refused("idempotency_error"), Some(nobodys.clone()), V::Again),
            (refused("account_closed"), Some(nobodys), V::Refused(CardRefusal::Refused)),
        ];
        for (answer, read, expected) in table {
            let first = after_attach(&ours, answer);
            match read {
                None => assert_eq!(first, *expected, "{answer:?}"),
                Some(read) => {
                    assert_eq!(first, V::ReadBack, "{answer:?}");
                    assert_eq!(after_read(&ours, answer, read), *expected, "{answer:?} {read:?}");
                }
            }
        }
    }
}
