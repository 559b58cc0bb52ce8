//! Gives the embedding a directory to look at when the page has not been built, and notices when it is.

fn main() -> std::io::Result<()> {
    let dist = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    std::fs::create_dir_all(&dist)?;
    println!("cargo:rerun-if-changed=build.rs");
    // A debug build reads the page at run time, so a new page need not rebuild the backend.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo:rerun-if-changed=dist");
    }
    Ok(())
}
