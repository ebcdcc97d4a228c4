//! Why tokens were put into a warehouse. `grants_kind_check` lists the same kinds; a test compares the two.

/// The kind of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantKind {
    /// The stock with which a drop begins.
    FirstLoad,
    /// New units, or sold ones that came back as goods, as a program from before units rested granted them.
    Restock,
    /// A claim is over: its card was declined, its time to pay ended, it was cancelled or rejected, or its buyer's home
    /// refused it as an award. Without units, unless a program from before units rested has made it.
    Release,
    /// Units that came back, whatever brought them, and have rested.
    Rested,
    /// From one warehouse to another, that is: from nobody's hands.
    Transfer,
    /// A transfer that did not take place: back where it was set aside.
    Return,
    /// To a buyer who waited: never on sale.
    Award,
}

impl GrantKind {
    pub const ALL: [Self; 7] =
        [Self::FirstLoad, Self::Restock, Self::Release, Self::Rested, Self::Transfer, Self::Return, Self::Award];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstLoad => "first_load",
            Self::Restock => "restock",
            Self::Release => "release",
            Self::Rested => "rested",
            Self::Transfer => "transfer",
            Self::Return => "return",
            Self::Award => "award",
        }
    }

    /// Whether its units, which nobody could claim before, can be claimed once it is applied.
    pub fn puts_on_sale(self) -> bool {
        match self {
            Self::Restock | Self::Release | Self::Rested => true,
            Self::FirstLoad | Self::Transfer | Self::Return | Self::Award => false,
        }
    }
}
