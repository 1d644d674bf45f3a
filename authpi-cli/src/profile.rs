//! Profiles: named settings in a file that only its owner can read.

use std::{
    collections::BTreeMap,
    env, fmt,
    fs::{self, File},
    io::{self, ErrorKind, Read as _},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};

use crate::{
    failure::{Code, Failure, Result},
    files,
};

/// The profile that the user named, for the whole run of the program.
static CHOSEN: OnceLock<Option<String>> = OnceLock::new();

/// Sets the profile that `--profile` or the environment names.
pub(crate) fn choose(name: Option<String>) {
    // Only the first call takes effect, and the program makes only one.
    let _ = CHOSEN.set(name);
}

/// The profile that `--profile` or the environment names.
pub(crate) fn chosen() -> Option<&'static str> {
    CHOSEN.get()?.as_deref()
}

/// The settings of one profile. All are optional; options and the environment fill the gaps.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) account_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_secret: Option<String>,
    /// The receiver's store; it may have a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) store: Option<String>,
    /// The ledger under a NATS store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ledger: Option<String>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile")
            .field("base_url", &self.base_url)
            .field("account_id", &self.account_id)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// The content of the file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profiles {
    /// The profile that is used if no other is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<String>,
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

impl Profiles {
    /// Reads the file. No file means no profiles.
    pub(crate) fn load() -> Result<Self> {
        let Some(path) = path() else {
            return Ok(Self::default());
        };
        let mut text = String::new();
        match File::open(&path).and_then(|mut file| file.read_to_string(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(cannot("read", &path, &error)),
        }
        // The parser's message would quote the line, which may hold a secret.
        toml::from_str(&text).map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map(|span| text[..span.start].matches('\n').count() + 1);
            let at = line
                .map(|line| format!(", line {line}"))
                .unwrap_or_default();
            Failure::usage(format!(
                "{} is not a file of profiles{at}: {}",
                path.display(),
                error.message()
            ))
        })
    }

    pub(crate) fn get(&self, name: &str) -> Result<Profile> {
        self.profiles.get(name).cloned().ok_or_else(|| {
            let hint = match &*self.names().collect::<Vec<_>>().join(", ") {
                "" => "there are none; `authpi profile add` saves one".to_owned(),
                names => format!("there are: {names}"),
            };
            Failure::not_found(format!("no profile is called {name}")).hint(hint)
        })
    }

    pub(crate) fn active(&self) -> Option<Profile> {
        self.profiles.get(self.active.as_deref()?).cloned()
    }

    pub(crate) fn active_name(&self) -> Option<&str> {
        self.active.as_deref()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.profiles.keys().map(String::as_str)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Profile)> {
        self.profiles
            .iter()
            .map(|(name, profile)| (name.as_str(), profile))
    }

    /// Adds or replaces a profile, and saves the file. The first profile becomes the active one.
    pub(crate) fn add(mut self, name: &str, profile: Profile) -> Result {
        if name.is_empty() || name.contains(char::is_control) {
            return Err(Failure::usage("the name of a profile is a line of text"));
        }
        self.profiles.insert(name.to_owned(), profile);
        self.active.get_or_insert_with(|| name.to_owned());
        self.save()
    }

    /// Makes a profile the active one, and saves the file.
    pub(crate) fn activate(mut self, name: &str) -> Result {
        self.get(name)?;
        self.active = Some(name.to_owned());
        self.save()
    }

    /// Replaces the file as a whole: a crash leaves the old one or the new one.
    fn save(&self) -> Result {
        let path = path().ok_or_else(|| {
            Failure::new("the folder for profiles is not known").hint("set HOME or AUTHPI_CONFIG")
        })?;
        let text = toml::to_string(self)
            .map_err(|error| Failure::because("cannot write the profiles", &error))?;
        write(&path, &text).map_err(|error| cannot("write", &path, &error))
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    // A link is followed, so that it stays a link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    files::replace(&path, text.as_bytes())
}

/// `AUTHPI_CONFIG`, or `authpi/config.toml` in `XDG_CONFIG_HOME` or `~/.config`.
pub(crate) fn path() -> Option<PathBuf> {
    let folder = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(file) = folder("AUTHPI_CONFIG") {
        return Some(file.into());
    }
    let config = folder("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(folder("HOME")?).join(".config")))?;
    Some(config.join("authpi").join("config.toml"))
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::because(format!("cannot {what} {}", path.display()), error).code(Code::Failed)
}
