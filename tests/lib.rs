//! The integration suite lives in `it/`. Here is only what its crash tests and the program that they kill (`service/`) have to
//! agree on.

pub mod trial;
