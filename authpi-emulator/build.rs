//! Lists the JSON Schemas of `openapi/events`, so that a new payload needs no change here.

use std::{env, fmt::Write as _, fs, io, path::Path};

fn main() -> io::Result<()> {
    let openapi =
        Path::new(&env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?).join("openapi");
    println!("cargo::rerun-if-changed={}", openapi.display());
    let events = openapi.join("events");
    let mut files: Vec<_> = list(&events)?;
    files.extend(list(&events.join("data"))?);
    files.sort();
    let mut code = String::from("&[\n");
    for file in files {
        let name = file
            .strip_prefix(&openapi)
            .map_err(io::Error::other)?
            .display()
            .to_string()
            .replace('\\', "/");
        let _ = writeln!(
            code,
            "    ({name:?}, include_str!({:?})),",
            file.display().to_string()
        );
    }
    code.push_str("]\n");
    fs::write(
        Path::new(&env::var("OUT_DIR").map_err(io::Error::other)?).join("schemas.rs"),
        code,
    )
}

fn list(folder: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let files = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    Ok(files
        .into_iter()
        .filter(|file| file.extension().is_some_and(|ext| ext == "json"))
        .collect())
}
