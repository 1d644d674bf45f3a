//! A secret cannot be formatted into a message.

use authpi_sdk::signature::{KeyRing, Secret};

fn main() {
    let secret = Secret::new("whs_0123456789abcdef0123456789abcdef");
    println!("{secret}"); //~ E0277
    let _ = secret.to_string(); //~ E0599
    let _: String = secret.clone().into(); //~ E0277
    let _: &str = &secret; //~ E0308
    println!("{}", KeyRing::new()); //~ E0277
}
