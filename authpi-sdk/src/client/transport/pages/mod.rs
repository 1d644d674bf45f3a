//! Lists, which AuthPI gives a page at a time.
//!
//! [`Page`] is one of them, as a call gives it. [`Pages`] asks for one after the other, and
//! [`Items`] takes them apart; both are streams that keep what came before an error, know where
//! they stand, and go on from there when told to.

mod page;
mod stream;

pub use page::Page;
pub(crate) use page::PageWire;
pub use stream::{Items, Pages};
