//! Replaces files as a whole: a reader sees either the old or the new content, also after a power
//! cut.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// An error that names its file or folder.
pub(crate) fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The folder of a file.
fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// The file that `path` leads to through symbolic links, whether it exists or not.
///
/// # Errors
/// When its folder does not exist, when links form a loop, or when `path` names no file.
pub(crate) fn target(path: &Path) -> io::Result<PathBuf> {
    // The limit of Linux.
    const MOST_LINKS: usize = 40;
    let mut at = path.to_owned();
    for _ in 0..=MOST_LINKS {
        let Ok(link) = fs::read_link(&at) else {
            let Some(name) = at.file_name() else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{}: not a file path", path.display()),
                ));
            };
            let folder = fs::canonicalize(folder(&at)).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    let folder = folder(&at).display();
                    io::Error::new(
                        error.kind(),
                        format!("the folder {folder} does not exist; create it first"),
                    )
                }
                _ => about(folder(&at), &error),
            })?;
            return Ok(folder.join(name));
        };
        at = folder(&at).join(link);
    }
    Err(io::Error::other(format!(
        "{}: symbolic link loop",
        path.display()
    )))
}

/// Options for files that only their owner may read.
pub(crate) fn private() -> OpenOptions {
    #[cfg_attr(not(unix), allow(unused_mut, reason = "modes are Unix's"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Replaces `target`, which is not a link, with a file of this content: writes `next`, in the same
/// folder, with `options`, and renames it. The owner, group and mode of the replaced file are kept;
/// see [`keep_access`].
pub(crate) fn replace(
    target: &Path,
    next: &Path,
    content: &[u8],
    options: &mut OpenOptions,
) -> io::Result<()> {
    let file = options
        .write(true)
        .create_new(true)
        .open(next)
        .map_err(|error| about(next, &error))?;
    let written = write(file, target, content).and_then(|()| fs::rename(next, target));
    if let Err(error) = written {
        let _ = fs::remove_file(next);
        return Err(about(target, &error));
    }
    // The new name is part of the folder, which has to be flushed separately.
    #[cfg(unix)]
    File::open(folder(target))
        .and_then(|folder| folder.sync_all())
        .map_err(|error| about(folder(target), &error))?;
    Ok(())
}

fn write(mut file: File, target: &Path, content: &[u8]) -> io::Result<()> {
    file.write_all(content)?;
    #[cfg(unix)]
    match fs::metadata(target) {
        Ok(replaced) => keep_access(&file, &replaced)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    #[cfg(not(unix))]
    let _ = target;
    file.sync_all()
}

/// Gives the file the owner, group and mode of the file that it replaces. If this process may not
/// set the owner or group, the file gets those of a new file, and the permissions of the old owner
/// or group are not given to others: the group's permissions are dropped if the group changes.
#[cfg(unix)]
fn keep_access(file: &File, replaced: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};

    let ours = file.metadata()?;
    let mut mode = replaced.mode() & 0o777;
    if ours.gid() != replaced.gid() && fchown(file, None, Some(replaced.gid())).is_err() {
        mode &= !0o070;
    }
    if ours.uid() != replaced.uid() {
        // Only root may do this. Otherwise the file belongs to this process's user.
        let _ = fchown(file, Some(replaced.uid()), None);
    }
    file.set_permissions(fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_through_links_before_it_is_there() {
        let root = std::env::temp_dir().join(format!("authpi-files-{}", std::process::id()));
        fs::create_dir_all(root.join("real")).unwrap();
        let root = fs::canonicalize(&root).unwrap();
        assert_eq!(
            target(&root.join("real/new")).unwrap(),
            root.join("real/new")
        );
        assert!(
            target(&root.join("none/new"))
                .unwrap_err()
                .to_string()
                .contains("none does not exist")
        );
        assert!(target(&root.join("real/..")).is_err() && target(Path::new("")).is_err());
        #[cfg(unix)]
        {
            use std::os::unix::fs::symlink;
            for (to, name) in [
                ("real/new", "first"),
                ("first", "second"),
                ("round", "back"),
                ("back", "round"),
            ] {
                symlink(to, root.join(name)).unwrap();
            }
            symlink(root.join("second"), root.join("real/absolute")).unwrap();
            for link in ["first", "second", "real/absolute"] {
                assert_eq!(
                    target(&root.join(link)).unwrap(),
                    root.join("real/new"),
                    "{link}"
                );
            }
            assert!(
                target(&root.join("round"))
                    .unwrap_err()
                    .to_string()
                    .contains("loop")
            );
        }
        fs::remove_dir_all(root).unwrap();
    }
}
