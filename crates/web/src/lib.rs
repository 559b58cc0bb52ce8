//! The terminal page, built by `npm run build` into `dist/` and embedded here.
//!
//! A release build contains the files. A debug build reads them from `dist/` at each request, so that a rebuilt page
//! shows without another `cargo build`.

use std::{borrow::Cow, fmt::Write as _};

use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "dist"]
#[allow_missing = true]
struct Dist;

/// One file of the page, with its HTTP headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// The content.
    pub bytes: Cow<'static, [u8]>,
    /// The gzipped content, for `Content-Encoding: gzip`; `None` if gzip does not make it smaller.
    pub gzip: Option<Cow<'static, [u8]>>,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// `ETag` with its quotes: a hash of the plain file. Weak, since both encodings share it (RFC 9110, section 8.8.3).
    pub etag: String,
    /// Whether the name changes with the content, so that a browser may cache the file for ever.
    pub immutable: bool,
}

/// Returns the file at `path`; `""` and `"/"` name the document. Paths outside `dist/` return `None`.
///
/// If the page is not built, the document explains how to build it.
pub fn asset(path: &str) -> Option<Asset> {
    let path = match path.trim_start_matches('/') {
        "" => "index.html",
        path => path,
    };
    // Vite generates no such names, but a debug build would look them up in the file system.
    if path.split('/').any(|part| part.is_empty() || part.starts_with('.')) || path.contains('\\') {
        return None;
    }
    match Dist::get(path) {
        Some(file) => Some(Asset {
            etag: etag(&file.metadata.sha256_hash()),
            content_type: content_type(path),
            immutable: path.starts_with("assets/"),
            gzip: Dist::get(&format!("{path}.gz")).map(|packed| packed.data),
            bytes: file.data,
        }),
        None => (path == "index.html").then(not_built),
    }
}

fn not_built() -> Asset {
    Asset {
        bytes: Cow::Borrowed(include_bytes!("not-built.html")),
        gzip: None,
        content_type: content_type("index.html"),
        etag: "W/\"not-built\"".into(),
        immutable: false,
    }
}

fn etag(hash: &[u8]) -> String {
    let mut etag = String::from("W/\"");
    for byte in hash.iter().take(16) {
        let _ = write!(etag, "{byte:02x}");
    }
    etag.push('"');
    etag
}

/// Content type by extension, for the kinds of files in the page.
fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_exists_even_if_the_page_is_not_built() {
        let document = asset("/").expect("a document");
        assert_eq!(document.content_type, "text/html; charset=utf-8");
        assert!(!document.immutable);
        assert!(document.bytes.starts_with(b"<!doctype html>"));
        assert_eq!(asset("index.html"), asset(""));
    }

    #[test]
    fn the_placeholder_explains_how_to_build_the_page() {
        let page = not_built();
        assert!(String::from_utf8_lossy(&page.bytes).contains("make page"));
    }

    #[test]
    fn paths_outside_the_page_are_not_found() {
        for path in [
            "../Cargo.toml",
            "/../src/lib.rs",
            "assets/../../Cargo.toml",
            ".gitignore",
            "a\\..\\b",
            "//etc/passwd",
            "x/",
        ] {
            assert_eq!(asset(path), None, "{path}");
        }
    }

    #[test]
    fn every_file_has_a_type_and_only_hashed_names_are_immutable() {
        for name in Dist::iter().filter(|name| !name.ends_with(".gz")) {
            let file = asset(&name).expect("listed");
            assert_ne!(file.content_type, "application/octet-stream", "{name}");
            assert_eq!(file.immutable, name.starts_with("assets/"), "{name}");
        }
    }

    #[test]
    fn the_etag_depends_on_the_content() {
        assert_eq!(etag(&[0xab; 32]), format!("W/\"{}\"", "ab".repeat(16)));
        assert_ne!(etag(&[1; 32]), etag(&[2; 32]));
    }
}
