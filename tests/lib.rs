//! The integration suite lives in `it/`. Here is only what its crash tests and the program that
//! they kill (`service/`) have to agree on.

pub mod harness;

/// Lets this process have so many files and sockets open.
///
/// # Errors
/// When the system does not allow it.
pub fn allow_open_files(count: u64) -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < count) {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(count),
                maximum,
            },
        )?;
    }
    Ok(())
}
