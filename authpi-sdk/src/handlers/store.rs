use crate::ledger::{Ledger, Transactional};

/// The store of [`Handlers`](super::Handlers) that take no [`Tx`](crate::ledger::Tx). They run with
/// every ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnyStore;

/// A ledger that can run [`Handlers`](super::Handlers) of the store `H`.
///
/// Every ledger can run handlers of [`AnyStore`]. Handlers that take a [`Tx`](crate::ledger::Tx)
/// require the store of that `Tx` as the ledger; with any other ledger, they do not compile.
pub trait SupportsHandlers<H>: Ledger {
    /// The store in which the handlers begin their transactions.
    #[doc(hidden)]
    fn handler_store(&self) -> H;
}

impl<L: Ledger> SupportsHandlers<AnyStore> for L {
    fn handler_store(&self) -> AnyStore {
        AnyStore
    }
}

impl<L: Transactional> SupportsHandlers<L> for L {
    fn handler_store(&self) -> L {
        self.clone()
    }
}
