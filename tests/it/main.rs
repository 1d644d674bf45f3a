//! The integration suite: one binary, a module per subject.
