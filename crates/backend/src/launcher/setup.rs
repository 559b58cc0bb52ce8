//! What a session's request may set up before its shell: files and `init`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use shellbridge_session::link;

/// Limits on a session's files. Together with `init`, environment and notes they fit into one message of the link.
const MAX_FILES: usize = 256;
const MAX_BYTES: usize = 256 * 1024;
/// Longest path, bytes.
const MAX_PATH: usize = 512;
/// Longest name in a path, bytes: that of Linux.
const MAX_NAME: usize = 255;
/// Longest `init`, bytes. The kernel's limit on one variable is 128 KiB.
const MAX_INIT: usize = 64 * 1024;
const DEFAULT_MODE: u32 = 0o644;

/// Setup options of `POST /api/sessions`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct SetupRequest {
    /// Files laid into the session's home before its shell starts.
    #[serde(default)]
    files: Vec<FileRequest>,
    /// Command that runs in the terminal before the shell.
    #[serde(default)]
    init: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRequest {
    /// Relative to the home.
    path: String,
    /// Text; or else `b64`.
    content: Option<String>,
    b64: Option<String>,
    /// Permission bits as octal text.
    mode: Option<String>,
}

/// A checked [`SetupRequest`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) files: Vec<link::File>,
    pub(crate) init: Option<String>,
}

/// Why the requested setup is invalid. Files are named by their number, from 0: paths may be long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSetup {
    #[error("files: at most {MAX_FILES} files, and {MAX_BYTES} bytes in all")]
    Large,
    #[error("files[{0}].path: relative, at most {MAX_PATH} bytes, without NUL, empty names, . and ..")]
    Path(usize),
    #[error("files[{0}]: either content or b64")]
    Content(usize),
    #[error("files[{0}].b64: not base64")]
    Base64(usize),
    #[error("files[{0}].mode: octal text from 0 to 0777, such as \"0755\"")]
    Mode(usize),
    #[error("init: at most {MAX_INIT} bytes, without NUL")]
    Init,
}

impl SetupRequest {
    /// Checks and decodes the request.
    ///
    /// # Errors
    /// The first part that is invalid.
    pub(crate) fn check(self) -> Result<Setup, BadSetup> {
        let Self { files, init } = self;
        if files.len() > MAX_FILES {
            return Err(BadSetup::Large);
        }
        let files: Vec<_> =
            files.into_iter().enumerate().map(|(n, file)| file.check(n)).collect::<Result<_, _>>()?;
        if files.iter().map(|file| file.content.len()).sum::<usize>() > MAX_BYTES {
            return Err(BadSetup::Large);
        }
        let init = init.filter(|init| !init.is_empty());
        if init.as_ref().is_some_and(|init| init.len() > MAX_INIT || init.contains('\0')) {
            return Err(BadSetup::Init);
        }
        Ok(Setup { files, init })
    }
}

impl FileRequest {
    fn check(self, n: usize) -> Result<link::File, BadSetup> {
        let Self { path, content, b64, mode } = self;
        let plain = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME;
        if path.len() > MAX_PATH || path.contains('\0') || !path.split('/').all(plain) {
            return Err(BadSetup::Path(n));
        }
        let content = match (content, b64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(text)) => STANDARD.decode(text).map_err(|_| BadSetup::Base64(n))?,
            _ => return Err(BadSetup::Content(n)),
        };
        let mode = match mode {
            None => DEFAULT_MODE,
            // `from_str_radix` also takes a sign.
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
                u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777).ok_or(BadSetup::Mode(n))?
            }
            Some(_) => return Err(BadSetup::Mode(n)),
        };
        Ok(link::File { path, content: content.into(), mode })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(request: Value) -> Result<Setup, BadSetup> {
        serde_json::from_value::<SetupRequest>(request).unwrap().check()
    }

    #[test]
    fn files_are_decoded() {
        let files = json!([
            {"path": "a/ü b", "content": "text"}, {"path": "..x", "b64": "AP8=", "mode": "0700"}, {"path": "e", "content": ""},
        ]);
        let setup = check(json!({"files": files, "init": ""})).unwrap();
        let file = |path: &str, content: &[u8], mode| link::File {
            path: path.to_owned(),
            content: content.to_vec().into(),
            mode,
        };
        let wanted = [file("a/ü b", b"text", 0o644), file("..x", &[0, 255], 0o700), file("e", b"", 0o644)];
        assert_eq!((setup.files, setup.init), (wanted.into(), None));
        assert_eq!(check(json!({})), Ok(Setup::default()));
    }

    #[test]
    fn paths_stay_below_the_home() {
        let long = "x".repeat(MAX_NAME + 1);
        let deep = "x/".repeat(MAX_PATH / 2) + "x";
        for path in ["", "/x", "x/", "a//b", ".", "./x", "a/./b", "..", "../x", "a/../b", "a\0", &long, &deep]
        {
            let refused = check(json!({"files": [{"path": path, "content": ""}]}));
            assert_eq!(refused, Err(BadSetup::Path(0)), "{path}");
        }
    }

    #[test]
    fn contents_and_modes_are_checked() {
        let file = |more: Value| {
            let mut file = json!({"path": "x"});
            file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            check(json!({"files": [{"path": "y", "content": ""}, file]})).err()
        };
        assert_eq!(file(json!({})), Some(BadSetup::Content(1)));
        assert_eq!(file(json!({"content": "", "b64": ""})), Some(BadSetup::Content(1)));
        assert_eq!(file(json!({"b64": "*"})), Some(BadSetup::Base64(1)));
        for mode in ["", "8", "+7", "4755", "01000", "0x1", "77777777777777"] {
            assert_eq!(file(json!({"content": "", "mode": mode})), Some(BadSetup::Mode(1)), "{mode}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let bytes = |count: usize| json!({"files": [{"path": "x", "content": "x".repeat(count)}]});
        assert!(check(bytes(MAX_BYTES)).is_ok());
        assert_eq!(check(bytes(MAX_BYTES + 1)), Err(BadSetup::Large));
        let many = |count: usize| json!({"files": vec![json!({"path": "x", "content": ""}); count]});
        assert!(check(many(MAX_FILES)).is_ok());
        assert_eq!(check(many(MAX_FILES + 1)), Err(BadSetup::Large));
        assert!(check(json!({"init": "x".repeat(MAX_INIT)})).is_ok());
        assert_eq!(check(json!({"init": "x".repeat(MAX_INIT + 1)})), Err(BadSetup::Init));
        assert_eq!(check(json!({"init": "a\0b"})), Err(BadSetup::Init));
    }

    #[test]
    fn the_largest_setup_fits_into_a_message() {
        let path = "x".repeat(MAX_NAME) + "/" + &"y".repeat(MAX_NAME);
        let each = "z".repeat(MAX_BYTES / MAX_FILES);
        let files = vec![json!({"path": path, "content": each}); MAX_FILES];
        let Setup { files, init } = check(json!({"files": files, "init": "x".repeat(MAX_INIT)})).unwrap();
        let paths: usize = files.iter().map(|file| file.path.len() + 16).sum();
        let others = link::MAX_NOTES + 2 * 64 * 1024;
        assert!(MAX_BYTES + paths + init.map_or(0, |init| init.len()) + others <= link::MAX_TO_HOST);
    }
}
