//! Builds a shell's environment from scratch, so that it contains none of the backend's settings.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use nix::unistd::{Uid, User};
use serde::Deserialize;
use shellbridge_session::link::ShellSpec;

use super::process::Account;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TERM: &str = "xterm-256color";
/// Limits on a session's variables: their number and total bytes. Far below the kernel's limits (128 KiB per string,
/// 2 MiB in all).
const MAX_VARIABLES: usize = 256;
const MAX_BYTES: usize = 64 * 1024;

/// Shell options of `POST /api/sessions`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct ShellRequest {
    /// Variables added to the shell's environment. Never returned by the API.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// Absolute path of the shell. Default: the user's login shell.
    #[serde(default)]
    pub(crate) shell: Option<PathBuf>,
    /// Initial working directory. Default: the user's home.
    #[serde(default)]
    pub(crate) cwd: Option<PathBuf>,
}

/// Why the requested shell options are invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadShell {
    #[error("shell: not the absolute path of a file")]
    Shell,
    #[error("cwd: not the absolute path of a directory")]
    Cwd,
    #[error("env: {0:?} is not a valid variable name")]
    Name(String),
    #[error("env: a value contains a NUL")]
    Nul,
    #[error("env: at most {MAX_VARIABLES} variables and {MAX_BYTES} bytes")]
    Large,
}

/// The shell of a session that gets an account: [`move_in`] adds what depends on it.
pub(crate) fn shell_spec_elsewhere(request: ShellRequest) -> Result<ShellSpec, BadShell> {
    let ShellRequest { env: extra, shell, cwd } = request;
    check(&extra)?;
    let shell = match shell {
        Some(shell) if shell.is_absolute() && shell.is_file() => shell,
        Some(_) => return Err(BadShell::Shell),
        None => fallback(),
    };
    let cwd = match cwd {
        // Whether the session's user can enter it, the backend cannot tell.
        Some(cwd) if cwd.is_absolute() => cwd,
        Some(_) => return Err(BadShell::Cwd),
        None => PathBuf::new(),
    };
    let mut env = plain(&shell);
    env.extend(extra);
    Ok(ShellSpec { shell: text(&shell), cwd: text(&cwd), env })
}

/// Completes the shell of a session that has an account.
pub(crate) fn move_in(spec: &mut ShellSpec, account: &Account) {
    let Account { name, home, tmp } = account;
    for (variable, value) in
        [("HOME", text(home)), ("USER", name.clone()), ("LOGNAME", name.clone()), ("TMPDIR", text(tmp))]
    {
        spec.env.entry(variable.to_owned()).or_insert(value);
    }
    if spec.cwd.is_empty() {
        spec.cwd = text(home);
    }
}

/// The user's shell, with the requested options applied.
pub(crate) fn shell_spec(request: ShellRequest) -> Result<ShellSpec, BadShell> {
    let ShellRequest { env: extra, shell, cwd } = request;
    check(&extra)?;
    let user = User::from_uid(Uid::current()).ok().flatten();
    // A container's user may not be in the user database; then only `HOME` names its home.
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let home =
        home.or_else(|| user.as_ref().map(|user| user.dir.clone())).unwrap_or_else(|| PathBuf::from("/"));
    let shell = match shell {
        Some(shell) if shell.is_absolute() && shell.is_file() => shell,
        Some(_) => return Err(BadShell::Shell),
        None => user
            .as_ref()
            .map(|user| user.shell.clone())
            .filter(|shell| usable(shell))
            .unwrap_or_else(fallback),
    };
    let cwd = match cwd {
        Some(cwd) if cwd.is_absolute() && cwd.is_dir() => cwd,
        Some(_) => return Err(BadShell::Cwd),
        None => Some(home.clone()).filter(|home| home.is_dir()).unwrap_or_else(|| PathBuf::from("/")),
    };
    let mut env = plain(&shell);
    env.insert("HOME".to_owned(), text(&home));
    env.insert("USER".to_owned(), user.map_or_else(|| Uid::current().to_string(), |user| user.name));
    env.extend(extra);
    Ok(ShellSpec { shell: text(&shell), cwd: text(&cwd), env })
}

/// Variables that do not depend on the user.
fn plain(shell: &Path) -> BTreeMap<String, String> {
    [
        ("TERM", TERM.to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("PATH", PATH.to_owned()),
        ("SHELL", text(shell)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Whether this login shell permits a login; `nologin` and `false` do not.
fn usable(shell: &Path) -> bool {
    shell.is_file() && !matches!(shell.file_name().and_then(|name| name.to_str()), Some("nologin" | "false"))
}

fn fallback() -> PathBuf {
    let bash = PathBuf::from("/bin/bash");
    if bash.is_file() { bash } else { PathBuf::from("/bin/sh") }
}

fn check(env: &BTreeMap<String, String>) -> Result<(), BadShell> {
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if env.len() > MAX_VARIABLES || bytes > MAX_BYTES {
        return Err(BadShell::Large);
    }
    for (name, value) in env {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if name.is_empty() || !name.bytes().all(plain) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(BadShell::Name(name.chars().take(64).collect()));
        }
        if value.contains('\0') {
            return Err(BadShell::Nul);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_built_from_scratch() {
        let spec = shell_spec(ShellRequest::default()).unwrap();
        let names: Vec<_> = spec.env.keys().map(String::as_str).collect();
        assert_eq!(names, ["HOME", "LANG", "PATH", "SHELL", "TERM", "USER"]);
        assert!(Path::new(&spec.shell).is_file() && Path::new(&spec.cwd).is_dir());
    }

    #[test]
    fn an_account_brings_its_home_unless_the_session_names_another() {
        let account = Account { name: "user-20001".into(), home: "/h/home".into(), tmp: "/h/tmp".into() };
        let mut spec = shell_spec_elsewhere(ShellRequest::default()).unwrap();
        move_in(&mut spec, &account);
        let names: Vec<_> = spec.env.keys().map(String::as_str).collect();
        assert_eq!(names, ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "USER"]);
        assert_eq!((spec.cwd.as_str(), spec.env["HOME"].as_str()), ("/h/home", "/h/home"));
        let env = BTreeMap::from([("USER".to_owned(), "alice".to_owned())]);
        let request = ShellRequest { env, cwd: Some("/srv".into()), ..ShellRequest::default() };
        let mut spec = shell_spec_elsewhere(request).unwrap();
        move_in(&mut spec, &account);
        assert_eq!((spec.cwd.as_str(), spec.env["USER"].as_str()), ("/srv", "alice"));
    }

    #[test]
    fn a_session_may_add_only_valid_variables() {
        let with = |name: &str, value: &str| {
            let env = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            shell_spec(ShellRequest { env, ..ShellRequest::default() })
        };
        assert_eq!(with("AWS_REGION", "eu-west-1").unwrap().env["AWS_REGION"], "eu-west-1");
        for (name, value) in [("", "x"), ("A=B", "x"), ("1A", "x"), ("A B", "x"), ("A\0", "x"), ("A", "x\0y")]
        {
            assert!(with(name, value).is_err(), "{name:?}");
        }
        assert_eq!(with("A", &"x".repeat(MAX_BYTES)).unwrap_err(), BadShell::Large);
    }

    #[test]
    fn shell_and_cwd_must_be_absolute_and_exist() {
        for bad in ["sh", "/no/such/shell", "/tmp"] {
            let request = ShellRequest { shell: Some(bad.into()), ..ShellRequest::default() };
            assert_eq!(shell_spec(request).unwrap_err(), BadShell::Shell);
        }
        let request = ShellRequest { cwd: Some("/no/such/dir".into()), ..ShellRequest::default() };
        assert_eq!(shell_spec(request).unwrap_err(), BadShell::Cwd);
    }
}
