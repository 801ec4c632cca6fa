//! A command's work in parts, each done by a process of its own, on any machine: which part is whose, and what its folder is called.
//!
//! Parts are contiguous, and cut only where the whole work is cut as well (between the rounds of a scan, between batches), so that a
//! part has the bits that the whole work has there. [`super::merge`] puts them together.

use std::env;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use flate2::Crc;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use super::journal::{self, Journal};
use crate::device::Device;
use crate::lossy;
use crate::output::FolderKind;
use crate::{Error, Result};

/// The files that every shard's folder may have, and those of predictions and embeddings.
const FOLDER: FolderKind = FolderKind {
    what: "a shard",
    marker: journal::STATE,
    holds: |name| name == journal::LOCK || name == "config.toml" || name.starts_with(PART),
};
/// What the files of predictions and embeddings are called, before their ending.
const PART: &str = "part";

/// One of several parts of a command's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    number: u32,
    of: u32,
}

impl Shard {
    /// Reads `2/10`; or `slurm`, which is the task of an array job that this process is.
    ///
    /// # Errors
    /// [`Error::Usage`] for anything else, and for tasks whose variables are missing or make no numbering without gaps.
    pub fn parse(text: &str) -> Result<Self> {
        if text == "slurm" {
            return Self::of_slurm(|name| env::var(name).ok());
        }
        let numbers = text.split_once('/').and_then(|(number, of)| Some((digits(number)?, digits(of)?)));
        let Some((number, of)) = numbers else {
            return Err(Error::usage(
                format!("--shard {text}"),
                "give a part and the number of parts, as 1/10 to 10/10; or slurm in a Slurm array job",
            ));
        };
        Self::new(number, of).ok_or_else(|| {
            Error::usage(format!("--shard {text}"), "parts are counted from 1 to their number: 1/10 to 10/10")
        })
    }

    fn new(number: u32, of: u32) -> Option<Self> {
        (1..=of).contains(&number).then_some(Self { number, of })
    }

    /// Slurm's variables of a task in an array (slurm.schedmd.com/job_array.html). Its numbers begin where the user says, and may have a step.
    fn of_slurm(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let [id, first, count] = ["SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"];
        let read = |name: &str| {
            let text = variable(name).ok_or_else(|| {
                Error::usage(
                    format!("--shard slurm, but {name} is not set: this process is no task of a Slurm array job"),
                    "submit the script with sbatch --array=1-10; or give the part itself, as --shard 1/10",
                )
            })?;
            digits(&text).ok_or_else(|| {
                Error::usage(format!("--shard slurm, but {name} is {text:?}"), "give the part itself, as --shard 1/10")
            })
        };
        let (id, first, count) = (read(id)?, read(first)?, read(count)?);
        let step = variable("SLURM_ARRAY_TASK_STEP").and_then(|step| digits(&step)).unwrap_or(1).max(1);
        let last = variable("SLURM_ARRAY_TASK_MAX").and_then(|last| digits(&last));
        let has_gaps = last.is_some_and(|last| last.saturating_sub(first) / step + 1 != count);
        let number =
            id.checked_sub(first).filter(|from_first| from_first % step == 0).map(|from_first| from_first / step + 1);
        let shard = number.filter(|_| !has_gaps).and_then(|number| Self::new(number, count));
        shard.ok_or_else(|| {
            Error::usage(
                format!("--shard slurm in an array with gaps: task {id}, and {count} tasks from {first} on"),
                "number the tasks without gaps (--array=1-10); to do some parts again give them themselves, as --shard \
                 $SLURM_ARRAY_TASK_ID/10",
            )
        })
    }

    /// Which it is, from 1.
    pub fn number(self) -> u32 {
        self.number
    }

    /// How many parts there are.
    pub fn of(self) -> u32 {
        self.of
    }

    /// Which consecutive pieces of work are this part's, of pieces that take so much work each: a piece is of the part that its middle lies
    /// in. All parts together have each piece once, in order; where there are more parts than pieces, some have none.
    pub fn range(self, work: &[u64]) -> Range<usize> {
        let work = || work.iter().map(|&work| u128::from(work.max(1)));
        let total: u128 = work().sum();
        let part = |middle: u128| middle * u128::from(self.of) / (2 * total);
        let parts: Vec<u128> = work()
            .scan(0, |before, work| {
                let middle = 2 * *before + work;
                *before += work;
                Some(part(middle))
            })
            .collect();
        let first = |number: u32| parts.partition_point(|&part| part < u128::from(number));
        first(self.number - 1)..first(self.number)
    }

    /// The folder of this part of what becomes `out`, beside it: `calls.shard-2-of-10`.
    ///
    /// # Errors
    /// [`Error::Usage`] for an `out` without a name.
    pub fn folder(self, out: &Path) -> Result<PathBuf> {
        let Some(name) = out.file_name() else {
            let found = format!("--out {} with --shard", out.display());
            return Err(Error::usage(found, "give the result a name: the part's folder lies beside it"));
        };
        let mut name = name.to_owned();
        name.push(format!(".shard-{}-of-{}", self.number, self.of));
        Ok(out.with_file_name(name))
    }

    /// Adds to a fingerprint what must be the same in all parts that are put together, and which part this is.
    pub fn sign(self, command: &str, device: &Device, print: &mut Value) {
        print["command"] = command.into();
        print["version"] = env!("CARGO_PKG_VERSION").into();
        // Other kernels round otherwise.
        print["device"] = match device {
            Device::Cpu => "cpu",
            device if device.runs_sm90() => "cuda with kernels for sm_90",
            _ => "cuda",
        }
        .into();
        print["shard"] = self.to_string().into();
    }

    /// Opens the journal of this part of what becomes `out`; `None` if the part is finished. With `resume` a part goes on or, where nothing
    /// was begun, begins: the same command is right for each try of a task.
    ///
    /// # Errors
    /// [`Error::Usage`] for a folder that holds the part already, or something else; those of [`Journal::open`].
    pub(super) fn journal<S: DeserializeOwned>(
        self,
        what: &str,
        out: &Path,
        names: &[&str],
        print: Value,
        resume: bool,
    ) -> Result<Option<(Journal, Option<S>)>> {
        let folder = self.folder(out)?;
        if journal::is_interrupted(&folder) {
            let is_finished = journal::Folder::<IgnoredAny>::read(&folder)?.ending.is_some();
            if !resume {
                let how = if is_finished { "" } else { "an unfinished " };
                return Err(Error::usage(
                    format!("{} already holds {how}shard {self}", folder.display()),
                    "give --resume, which leaves a finished part as it is and goes on with another; or remove the folder",
                ));
            }
            if is_finished {
                journal::check_fingerprint(what, &folder, &print)?;
                return Ok(None);
            }
        } else if folder.exists() {
            let holds = |name: &str| (FOLDER.holds)(name) || names.contains(&name);
            refuse_foreign(&folder, holds)?;
        }
        let is_begun = folder.is_dir();
        Journal::open(what, &folder, names, print, resume && is_begun).map(Some)
    }

    /// Makes this part of what becomes `out` at once: `fill` writes the file `part.END` (and what belongs to it) in the folder that it is given, and
    /// returns the names of its files and what is counted. An earlier one is replaced.
    ///
    /// # Errors
    /// [`Error::Usage`] for a folder that holds something else; [`Error::Io`], or whatever `fill` returns.
    pub fn write<S: Serialize, E: Serialize>(
        self,
        out: &Path,
        print: &Value,
        ending: &E,
        fill: impl FnOnce(&Path) -> Result<(Vec<String>, S)>,
    ) -> Result<()> {
        FOLDER.write(&self.folder(out)?, |folder| {
            let (names, counts) = fill(folder)?;
            journal::seal(folder, &names, print, &counts, ending)
        })
    }

    /// What is told of this part when it is done.
    ///
    /// # Errors
    /// As [`Shard::folder`].
    pub fn report(self, out: &Path, unit: &'static str, work: &[u64]) -> Result<Report> {
        let share = work[self.range(work)].iter().sum();
        let out = self.folder(out)?;
        Ok(Report { shard: self.number, of: self.of, unit, share, all: work.iter().sum(), out })
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// What there is in a stream of sequences, cut into pieces that a shard may begin with.
#[derive(Default)]
pub struct Cut {
    /// Sequences of each piece.
    sequences: Vec<u64>,
    /// Bases of each.
    bases: Vec<u64>,
    crc: Crc,
}

impl Cut {
    /// Adds a sequence; `bases` of it are read.
    pub fn add(&mut self, begins: bool, bases: usize, name: &str, contents: [&[u8]; 2]) {
        if begins || self.bases.is_empty() {
            self.sequences.push(0);
            self.bases.push(0);
        }
        for (counts, count) in [(&mut self.sequences, 1), (&mut self.bases, bases as u64)] {
            counts.last_mut().into_iter().for_each(|last| *last += count);
        }
        for part in [name.as_bytes(), contents[0], contents[1]] {
            self.crc.update(part);
            // Behind each its length, so that no two streams have the same bytes.
            self.crc.update(&(part.len() as u64).to_le_bytes());
        }
    }

    /// The sequences that are a shard's.
    pub fn share(&self, shard: Shard) -> Range<usize> {
        let pieces = shard.range(&self.bases);
        let before = |piece: usize| self.sequences[..piece].iter().sum::<u64>() as usize;
        before(pieces.start)..before(pieces.end)
    }

    /// What tells the stream from another.
    pub fn fingerprint(&self) -> Value {
        json!([self.sequences.iter().sum::<u64>(), format!("{:08x}", self.crc.sum())])
    }

    /// What is told of a shard when it is done.
    ///
    /// # Errors
    /// As [`Shard::folder`].
    pub fn report(&self, shard: Shard, out: &Path) -> Result<Report> {
        shard.report(out, "bases", &self.bases)
    }
}

/// A part that is done.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which, from 1.
    pub shard: u32,
    /// Of how many.
    pub of: u32,
    /// What its work is measured in.
    pub unit: &'static str,
    /// How much of it there was.
    pub share: u64,
    /// How much all parts have.
    pub all: u64,
    /// The part's folder.
    #[serde(serialize_with = "lossy::serialize")]
    pub out: PathBuf,
}

/// What came of a command: its results, or a part that is to be put together with others.
#[derive(Debug)]
pub enum Outcome<T> {
    /// All of them.
    Whole(T),
    /// A part.
    Shard(Report),
}

impl<T> Outcome<T> {
    /// The results, where no part was asked for.
    pub fn whole(self) -> Option<T> {
        match self {
            Self::Whole(whole) => Some(whole),
            Self::Shard(_) => None,
        }
    }
}

/// Refuses an input that cannot be read twice: first to see how much there is, then for this part of it.
///
/// # Errors
/// [`Error::Usage`].
pub fn readable_twice(path: &Path) -> Result<()> {
    if path != Path::new("-") && (path.is_file() || !path.exists()) {
        return Ok(());
    }
    Err(Error::usage(
        format!("--shard with {}, which can be read only once", path.display()),
        "give a file: each part reads all of it to know its share",
    ))
}

fn digits(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

fn refuse_foreign(folder: &Path, holds: impl Fn(&str) -> bool) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(Error::io("read the folder", folder))?;
    for entry in entries {
        let name = entry.map_err(Error::io("read the folder", folder))?.file_name();
        let name = name.to_string_lossy();
        if !holds(&name) && !crate::output::is_staging(&name) {
            let found = format!("{} holds {name:?}, and is no folder of a shard", folder.display());
            return Err(Error::usage(found, "give another --out, or move the folder away"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each piece is in one part, parts come in order, and none has more than its share and a piece.
        #[test]
        fn parts_are_contiguous_and_equal(work in prop::collection::vec(0..1000_u64, 0..60), of in 1..80_u32) {
            let mut next = 0;
            let total: u64 = work.iter().map(|&work| work.max(1)).sum();
            for number in 1..=of {
                let range = Shard { number, of }.range(&work);
                prop_assert_eq!(range.start, next);
                next = range.end;
                let largest = work.iter().copied().max().unwrap_or(0).max(1);
                let share: u64 = work[range].iter().map(|&work| work.max(1)).sum();
                prop_assert!(share <= total / u64::from(of) + 1 + largest, "{share} of {total} in {of}");
            }
            prop_assert_eq!(next, work.len());
        }
    }

    #[test]
    fn as_many_parts_as_equal_pieces_have_one_each() {
        for of in 1..30 {
            for number in 1..=of {
                let range = Shard { number, of }.range(&vec![7; of as usize]);
                assert_eq!(range, number as usize - 1..number as usize);
            }
        }
    }

    #[test]
    fn parts_as_they_are_written() {
        assert_eq!(Shard::parse("2/10").unwrap(), Shard { number: 2, of: 10 });
        for text in
            ["0/3", "5/3", "1/0", "0/0", "1", "1/", "/3", "+1/3", "1/3/3", "1 / 3", "-1/3", "a/b", "1/9999999999", ""]
        {
            let message = Shard::parse(text).unwrap_err().to_string();
            assert!(message.contains(&format!("--shard {text}")) && message.contains("what to do"), "{message}");
        }
    }

    fn slurm(variables: &[(&str, &str)]) -> Result<Shard> {
        Shard::of_slurm(|name| {
            let found = variables.iter().find(|(known, _)| name == format!("SLURM_ARRAY_TASK_{known}"));
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn tasks_of_an_array() {
        let of = |id, first, last, step, count| {
            slurm(&[("ID", id), ("MIN", first), ("MAX", last), ("STEP", step), ("COUNT", count)])
                .map(|shard| shard.to_string())
        };
        assert_eq!(of("1", "1", "10", "1", "10").unwrap(), "1/10");
        assert_eq!(of("9", "0", "9", "1", "10").unwrap(), "10/10");
        assert_eq!(of("40", "0", "90", "10", "10").unwrap(), "5/10");
        assert_eq!(slurm(&[("ID", "7"), ("MIN", "5"), ("COUNT", "4")]).unwrap().to_string(), "3/4");
        // Tasks that are done again are numbered otherwise.
        for gap in [
            of("7", "3", "7", "1", "2"),
            of("3", "3", "7", "1", "2"),
            of("2", "3", "4", "1", "2"),
            of("12", "1", "10", "1", "10"),
        ] {
            assert!(gap.unwrap_err().to_string().contains("with gaps"));
        }
        for missing in ["ID", "MIN", "COUNT"] {
            let variables: Vec<_> =
                [("ID", "1"), ("MIN", "1"), ("COUNT", "2")].into_iter().filter(|known| known.0 != missing).collect();
            let message = slurm(&variables).unwrap_err().to_string();
            assert!(message.contains(&format!("SLURM_ARRAY_TASK_{missing} is not set")), "{message}");
        }
        assert!(slurm(&[("ID", "x"), ("MIN", "1"), ("COUNT", "2")]).unwrap_err().to_string().contains("is \"x\""));
    }
}
