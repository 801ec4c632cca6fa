//! Shards put together to what the whole work would have written.
//!
//! A shard's folder holds what the whole work's last step makes its files from: files that are read end to end, counts that add up, and
//! what the step has to know besides. Each command has that step; here is what is the same for all: that the folders are the shards of
//! one work, each once, finished and as they were.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::journal::{self, Folder};
use super::parts::Parts;
use super::shard::Shard;
use crate::{Error, Result};

/// What a message shows of a value.
const SHOWN: usize = 120;

/// All shards of one work, in order.
pub struct Shards {
    folders: Vec<PathBuf>,
    command: String,
    ending: Value,
    /// By shard.
    files: Vec<Vec<PathBuf>>,
}

impl Shards {
    /// Reads the folders, in any order, and holds their files against their checksums.
    ///
    /// # Errors
    /// [`Error::Usage`] with the folder that is no shard, not finished, of another work (and in what it differs) or there twice, and with
    /// the numbers of those that are missing; [`Error::Input`] for damaged ones; [`Error::Io`].
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut all = BTreeMap::new();
        let mut first: Option<(&PathBuf, Shard)> = None;
        for path in paths {
            let (shard, mut read) = open(path)?;
            if shard.number() > 1 {
                // What the last step has to know may be large, and the first one says it.
                read.ending = None;
            }
            let Some((other, of_other)) = first else {
                first = Some((path, shard));
                all.insert(shard.number(), (path, read));
                continue;
            };
            if shard.of() != of_other.of() {
                return Err(Error::usage(
                    format!("{} is shard {shard}, and {} is shard {of_other}", path.display(), other.display()),
                    "give all shards of one work, cut into as many parts",
                ));
            }
            if let Some((known, _)) = all.get(&shard.number()) {
                let found = format!("shard {shard} is there twice: {} and {}", known.display(), path.display());
                return Err(Error::usage(found, "give each shard once"));
            }
            if let Some((_, (other, before))) = all.first_key_value() {
                same_work(other, before, path, &read)?;
            }
            all.insert(shard.number(), (path, read));
        }
        let of = first.map_or(0, |(_, shard)| shard.of());
        let missing: Vec<u32> = (1..=of).filter(|number| !all.contains_key(number)).collect();
        if !missing.is_empty() || of == 0 {
            return Err(Error::usage(
                format!("{} of {of} shards are missing: {}", missing.len(), list(&missing)),
                "wait for them, or do their part again (the same command with --shard NUMBER/OF), and give the folders of all",
            ));
        }
        let files = all.values().map(|(path, read)| read.verified(path)).collect::<Result<_>>()?;
        let folders = all.values().map(|(path, _)| (*path).clone()).collect();
        let first = all.into_values().next().map(|(_, read)| read);
        let (command, ending) = first.map_or_else(Default::default, |read| {
            let command = read.fingerprint.get("command").and_then(Value::as_str).unwrap_or_default().to_owned();
            (command, read.ending.unwrap_or_default())
        });
        Ok(Self { folders, command, ending, files })
    }

    /// The command that they are of.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.folders.len()
    }

    /// The folder of the first.
    pub(super) fn first(&self) -> &Path {
        &self.folders[0]
    }

    /// What the last step has to know, as the first shard says it.
    ///
    /// # Errors
    /// [`Error::Input`] for what no shard of this command says.
    pub fn ending<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.ending.clone()).map_err(|error| {
            let path = self.folders[0].join(journal::STATE);
            Error::input(path, "", format!("damaged: {error}"), "remove the folder and compute it again")
        })
    }

    /// What each has counted, one after the other: counts of all scores are large.
    ///
    /// # Errors
    /// As [`Shards::ending`]; [`Error::Io`].
    pub fn states<T: DeserializeOwned>(&self) -> impl Iterator<Item = Result<T>> {
        self.folders.iter().map(|folder| Ok(Folder::<T>::read(folder)?.state))
    }

    /// Their files, `count` in each, read from the first shard's to the last one's.
    ///
    /// # Errors
    /// [`Error::Input`] for a shard with more files or fewer.
    pub fn parts(&self, count: usize) -> Result<Parts> {
        if let Some((folder, files)) = self.folders.iter().zip(&self.files).find(|(_, files)| files.len() != count) {
            let found = format!("damaged: it names {} files, where a shard has {count}", files.len());
            let remedy = "remove the folder and compute it again";
            return Err(Error::input(folder.join(journal::STATE), "", found, remedy));
        }
        let of = |index: usize| self.files.iter().map(|of| of[index].clone()).collect();
        Ok(Parts::new((0..count).map(of).collect(), None))
    }

    /// Refuses an output that is one of these folders, or lies in one.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn keep(&self, out: &Path) -> Result<()> {
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let real = [out, parent].map(|path| path.canonicalize().ok());
        for folder in &self.folders {
            let folder_real = folder.canonicalize().ok();
            let is_inside = |path: &Option<PathBuf>| {
                path.as_ref().zip(folder_real.as_ref()).is_some_and(|(path, folder)| path.starts_with(folder))
            };
            if real.iter().any(is_inside) {
                return Err(Error::usage(
                    format!("the output {} would write into the shard {}", out.display(), folder.display()),
                    "give the output another name",
                ));
            }
        }
        Ok(())
    }
}

/// Options as a shard kept them, for what is called `out`.
pub(super) fn config_of(config: &str, out: &Path) -> String {
    let name = toml::Value::String(out.to_string_lossy().into_owned());
    let line = |line: &str| if line.starts_with("out = ") { format!("out = {name}\n") } else { format!("{line}\n") };
    config.lines().map(line).collect()
}

/// Which shard a folder is, and what it says.
fn open(path: &Path) -> Result<(Shard, Folder)> {
    let remedy = "give the folders that --shard has made, as OUT.shard-1-of-10";
    if !path.exists() {
        return Err(Error::usage(format!("there is no shard {}", path.display()), remedy));
    }
    let not_finished = |shard: &str| {
        let found = format!("{} is a shard{shard} that is not finished", path.display());
        Error::usage(found, "go on with it: give its command again, with --resume where it has that option")
    };
    if !journal::is_interrupted(path) {
        let is_begun = path.join(journal::LOCK).is_file();
        let none = || Error::usage(format!("{} is no folder of a shard", path.display()), remedy);
        return Err(if is_begun { not_finished("") } else { none() });
    }
    let read = Folder::read(path)?;
    let shard = read.fingerprint.get("shard").and_then(Value::as_str).map(Shard::parse).transpose()?;
    let Some(shard) = shard else {
        let found = format!("{} holds interrupted work that is no shard", path.display());
        return Err(Error::usage(found, remedy));
    };
    match read.ending {
        Some(_) => Ok((shard, read)),
        None => Err(not_finished(&format!(", {shard},"))),
    }
}

/// All that results depend on is the same in both, but which shard it is.
fn same_work(one: &Path, of_one: &Folder, other: &Path, of_other: &Folder) -> Result<()> {
    let keys = of_one.fingerprint.keys().chain(of_other.fingerprint.keys());
    let Some(key) =
        keys.filter(|key| *key != "shard").find(|key| of_one.fingerprint.get(*key) != of_other.fingerprint.get(*key))
    else {
        return Ok(());
    };
    let shown = |of: &Folder| -> String {
        let text = of.fingerprint.get(key).unwrap_or(&Value::Null).to_string();
        if text.chars().count() <= SHOWN { text } else { text.chars().take(SHOWN).chain("...".chars()).collect() }
    };
    let (one, other) = (one.display(), other.display());
    Err(Error::usage(
        format!(
            "{other} is a shard of other work than {one}: another {key}\n  {other}: {}\n  {one}: {}",
            shown(of_other),
            shown(of_one)
        ),
        "give shards of one work: the same command, model, inputs and options",
    ))
}

/// `3, 7, 9-12`.
fn list(numbers: &[u32]) -> String {
    let runs = numbers.chunk_by(|one, next| one + 1 == *next);
    let runs = runs.map(|run| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_ones_are_listed_in_runs() {
        assert_eq!(list(&[3, 7, 9, 10, 11, 12]), "3, 7, 9-12");
        assert_eq!(list(&[]), "");
    }

    #[test]
    fn a_config_says_the_output_that_is_written() {
        let config = "seed = 42\nmodel = \"out = x\"\nout = \"a b\"\nmin-score = 0.5\n";
        let expected = "seed = 42\nmodel = \"out = x\"\nout = \"c\"\nmin-score = 0.5\n";
        assert_eq!(config_of(config, Path::new("c")), expected);
        assert_eq!(config_of(config, Path::new("a b")), config);
    }
}
