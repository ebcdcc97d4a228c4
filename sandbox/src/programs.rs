//! Finds the installed programs: the variable, then PATH, then where Debian and brew put what is not on PATH.
//!
//! The only place of this crate that reads the environment. It never downloads or installs anything.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::SandboxError;

/// What we look for, and what to tell somebody who has not got it.
struct Wanted {
    /// All of these, in one folder; the first is the one looked for.
    programs: &'static [&'static str],
    variable: &'static str,
    package: &'static str,
    formula: &'static str,
    /// Folders beside PATH; a `*` stands for a version and the highest goes first.
    places: &'static [&'static str],
}

const REDIS: Wanted = Wanted {
    programs: &["redis-server"],
    variable: "DOORBUSTER_REDIS_BIN",
    package: "redis-server",
    formula: "redis",
    places: &["/opt/homebrew/opt/redis*/bin", "/usr/local/opt/redis*/bin"],
};

const POSTGRES: Wanted = Wanted {
    programs: &["postgres", "initdb"],
    variable: "DOORBUSTER_POSTGRES_BIN",
    package: "postgresql",
    formula: "postgresql@17",
    places: &["/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin"],
};

const CHROMIUM: Wanted = Wanted {
    programs: &["chromium"],
    variable: "DOORBUSTER_CHROMIUM_BIN",
    package: "chromium",
    formula: "chromium",
    places: &[],
};

/// The path of `chromium`, or of the browser that the variable names: others of its family go by other names.
pub(crate) fn chromium() -> Result<PathBuf, SandboxError> {
    let named = variable(CHROMIUM.variable).map(PathBuf::from).filter(|program| program.is_file());
    named.map_or_else(|| Ok(find_installed(&CHROMIUM)?.join("chromium")), Ok)
}

/// The path of `redis-server`.
pub(crate) fn redis_server() -> Result<PathBuf, SandboxError> {
    Ok(find_installed(&REDIS)?.join("redis-server"))
}

/// The folder with `postgres` and `initdb`.
pub(crate) fn postgres_folder() -> Result<PathBuf, SandboxError> {
    find_installed(&POSTGRES)
}

fn find_installed(wanted: &Wanted) -> Result<PathBuf, SandboxError> {
    find(wanted, variable(wanted.variable).as_deref(), &variable("PATH").unwrap_or_default(), Path::new("/"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "where the programs are is the machine's business, not a setting of ours"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The folder that has all wanted programs. What the variable says is not second-guessed: when it is wrong, nothing is
/// found. The places beside PATH are looked for below `root`.
fn find(wanted: &Wanted, variable: Option<&str>, path: &str, root: &Path) -> Result<PathBuf, SandboxError> {
    let found = match variable {
        Some(place) => folder_of(wanted, Path::new(place)).or_else(|| folder_in(wanted, Path::new(place))),
        None => {
            let on_path = std::env::split_paths(path).filter(|folder| folder.is_absolute());
            let beside_path = wanted.places.iter().flat_map(|place| versions_of(root, place));
            on_path.chain(beside_path).find_map(|folder| folder_in(wanted, &folder))
        }
    };
    found.ok_or_else(|| SandboxError::ProgramMissing {
        program: wanted.programs[0],
        place: variable.map(|place| format!(" at {place}, where {} points", wanted.variable)).unwrap_or_default(),
        package: wanted.package,
        formula: wanted.formula,
        variable: wanted.variable,
    })
}

fn folder_in(wanted: &Wanted, folder: &Path) -> Option<PathBuf> {
    folder_of(wanted, &folder.join(wanted.programs[0]))
}

/// The folder in which `program` really is, should all others be there too.
fn folder_of(wanted: &Wanted, program: &Path) -> Option<PathBuf> {
    let program = program.canonicalize().ok().filter(|program| program.is_file())?;
    let folder = program.parent()?;
    wanted.programs.iter().all(|name| folder.join(name).is_file()).then(|| folder.to_path_buf())
}

/// The folders that match `place`, highest version first.
fn versions_of(root: &Path, place: &str) -> Vec<PathBuf> {
    let Some((before, after)) = place.trim_start_matches('/').split_once('*') else { return Vec::new() };
    let (parent, stem) = before.rsplit_once('/').unwrap_or(("", before));
    let names = fs::read_dir(root.join(parent)).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut versions: Vec<(u32, PathBuf)> = names
        .filter_map(|name| {
            let version = name.to_str()?.strip_prefix(stem)?.trim_start_matches('@');
            let folder = root.join(parent).join(&name).join(after.trim_start_matches('/'));
            Some((version.split('.').next()?.parse().unwrap_or(0), folder))
        })
        .collect();
    versions.sort_unstable_by(|left, right| right.cmp(left));
    versions.into_iter().map(|(_, folder)| folder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(folder: &Path, programs: &[&str]) {
        fs::create_dir_all(folder).unwrap();
        for program in programs {
            fs::write(folder.join(program), "").unwrap();
        }
    }

    #[test]
    fn a_missing_program_is_one_sentence_that_names_the_package() {
        let empty = tempfile::tempdir().unwrap();
        let sentence = |wanted, variable| find(wanted, variable, "/nowhere", empty.path()).unwrap_err().to_string();
        assert_eq!(
            sentence(&REDIS, None),
            "redis-server was not found: install it (Debian: apt install redis-server; macOS: brew install redis) \
             or set DOORBUSTER_REDIS_BIN to its path"
        );
        assert_eq!(
            sentence(&POSTGRES, Some("/opt/pg")),
            "postgres was not found at /opt/pg, where DOORBUSTER_POSTGRES_BIN points: install it (Debian: apt install \
             postgresql; macOS: brew install postgresql@17) or set DOORBUSTER_POSTGRES_BIN to its path"
        );
    }

    #[test]
    fn the_variable_goes_before_path_and_path_before_the_highest_version() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for version in ["9.6", "15", "16"] {
            install(&root.join("usr/lib/postgresql").join(version).join("bin"), &["postgres", "initdb"]);
        }
        // The highest, but without initdb: only the client is installed.
        install(&root.join("usr/lib/postgresql/17/bin"), &["postgres"]);
        let folder = |version: &str| root.join("usr/lib/postgresql").join(version).join("bin");

        let path = root.join("bin");
        fs::create_dir(&path).unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(find(&POSTGRES, None, path, &root).unwrap(), folder("16"));

        // A link on PATH leads to where both programs are.
        std::os::unix::fs::symlink(folder("15").join("postgres"), root.join("bin/postgres")).unwrap();
        assert_eq!(find(&POSTGRES, None, path, &root).unwrap(), folder("15"));

        // The variable may name the folder or the program.
        for place in [folder("9.6"), folder("9.6").join("postgres")] {
            assert_eq!(find(&POSTGRES, place.to_str(), path, &root).unwrap(), folder("9.6"));
        }
    }
}
