//! Inputs that are kept: `corpus/<target>/` beside this crate.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::Target;

/// The folder of a target.
#[must_use]
pub fn folder(target: &Target) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus", target.name].iter().collect()
}

/// The seeds of a target, and what its folder holds, sorted by name.
///
/// # Errors
/// If the folder is there and cannot be read.
pub fn inputs(target: &Target) -> io::Result<Vec<Vec<u8>>> {
    let mut inputs = (target.seeds)();
    let entries = match fs::read_dir(folder(target)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(inputs),
        Err(error) => return Err(error),
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        inputs.push(fs::read(path)?);
    }
    Ok(inputs)
}

/// Writes all of them to a folder.
///
/// # Errors
/// What the file system says.
pub fn write(target: &Target, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    (0..)
        .zip(inputs(target)?)
        .try_for_each(|(number, input)| fs::write(folder.join(format!("kept-{number:03}")), input))
}
