//! The integration suite is in `it/`. This crate contains what its crash tests share with the
//! program that they kill (`service/`).

pub mod harness;

/// Raises this process's limit of open files and sockets.
///
/// # Errors
/// If the system does not allow it.
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
