//! The receiver from the README, unchanged except for its address, `LISTEN`.
//!
//! ```text
//! LISTEN=127.0.0.1:8080 AUTHPI_WEBHOOK_SECRET=whs_… cargo run --example readme_receiver
//! ```

include!(concat!(env!("OUT_DIR"), "/readme_receiver.rs"));
