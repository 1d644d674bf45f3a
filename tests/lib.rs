//! The integration suite lives in `it/`; this package has no code of its own.
