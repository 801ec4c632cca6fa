//! Training by several processes at once, with the bits of one.
//!
//! A rank is a process with one device. A step's micro-batches are numbered over all ranks, and each rank takes as many consecutive ones;
//! their gradients are added in one balanced tree over those numbers ([`tree`]), of which a rank computes its own subtree and all ranks
//! together the rest ([`sum`]). So N ranks with M micro-batches each have the bits of one rank with N x M, whatever carried them. Libraries
//! (MPI, NCCL) move bytes; what is added, is added here. Figures, the agreement to stop and the news of a rank's end go
//! through a [`channel`] of their own between the hosts.

pub mod channel;
pub mod facts;
mod join;
pub mod launcher;
pub mod sum;
pub mod tree;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::device::collective::Collective;
use crate::{Error, Result};

use channel::{Channel, LAST};
use facts::Fact;
pub use launcher::Place;

/// Who adds up the gradients of the ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// We do, in the order of micro-batches: the bits of one process.
    #[default]
    Exact,
    /// MPI's or NCCL's own all-reduce: a little faster, with bits that depend on the library, its version and the number of ranks.
    Library,
}

impl std::fmt::Debug for Ranks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

/// The ranks of a run, as one of them sees them; or this process alone.
#[derive(Clone, Default)]
pub struct Ranks(Option<Arc<Group>>);

struct Group {
    place: Place,
    channel: Channel,
    collective: Mutex<Box<dyn Collective>>,
    reduction: Reduction,
}

impl Ranks {
    /// This process, without others.
    pub fn alone() -> Self {
        Self(None)
    }

    /// The ranks that `channel` joins, at this `place` among them, whose gradients `collective` carries.
    pub fn new(place: Place, channel: Channel, collective: Box<dyn Collective>, reduction: Reduction) -> Self {
        Self(Some(Arc::new(Group { place, channel, collective: Mutex::new(collective), reduction })))
    }

    /// The number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |group| group.place.rank)
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |group| group.place.size)
    }

    /// Whether this is the rank that writes: logs, checkpoints, results.
    pub fn writes(&self) -> bool {
        self.rank() == 0
    }

    /// How many there are, what carries their gradients and who adds them, for people; `None` alone.
    pub fn describe(&self) -> Option<String> {
        let group = self.0.as_ref()?;
        let collective = group.collective.lock().unwrap_or_else(PoisonError::into_inner);
        let added = match group.reduction {
            Reduction::Exact => "",
            Reduction::Library => ", whose own sums they are",
        };
        Some(format!("{} ranks over {}{added}", group.place.size, collective.describe()))
    }

    /// This rank's share of `count` consecutive things, which the ranks share evenly.
    pub fn share(&self, count: usize) -> Range<usize> {
        let each = count / self.size();
        self.rank() * each..(self.rank() + 1) * each
    }

    /// Whether this rank is the one that does thing `number`, of things that are dealt out in turn.
    pub fn deals(&self, number: usize) -> bool {
        number % self.size() == self.rank()
    }

    /// Whether `micro_batches` can be shared so that the tree over them is one over ranks: each gets a power of two.
    ///
    /// # Errors
    /// [`Error::Usage`] with numbers that can.
    pub fn check_micro_batches(&self, micro_batches: usize) -> Result<()> {
        let size = self.size();
        let each = micro_batches / size;
        if size == 1 || micro_batches.is_multiple_of(size) && each.is_power_of_two() {
            return Ok(());
        }
        let low = size * (1 << each.max(1).ilog2());
        Err(Error::usage(
            format!("{micro_batches} micro-batches a step over {size} ranks"),
            format!(
                "give --micro-batches a power of two for each rank, as {low} or {}, or start another number of ranks",
                2 * low
            ),
        ))
    }

    /// What every rank says, in the order of ranks. All of them call this at the same point, which `what` names. Alone: `mine`.
    ///
    /// # Errors
    /// [`Error::Failed`] if another rank is at another point, which is a bug.
    pub fn gather(&self, what: &str, mine: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        match &self.0 {
            None => Ok(vec![mine]),
            Some(group) => group.channel.gather(what, mine),
        }
    }

    /// As [`Ranks::gather`], of values.
    ///
    /// # Errors
    /// As [`Ranks::gather`].
    pub fn gather_values<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        what: &str,
        mine: T,
    ) -> Result<Vec<T>> {
        if self.0.is_none() {
            return Ok(vec![mine]);
        }
        let strange = |error: serde_json::Error| Error::Failed(format!("what ranks say of {what}: {error}"));
        let said = self.gather(what, serde_json::to_vec(&mine).map_err(strange)?)?;
        said.iter().map(|said| serde_json::from_slice(said).map_err(strange)).collect()
    }

    /// Whether any rank says so.
    ///
    /// # Errors
    /// As [`Ranks::gather`].
    pub fn any(&self, what: &str, mine: bool) -> Result<bool> {
        if self.0.is_none() {
            return Ok(mine);
        }
        Ok(self.gather(what, vec![u8::from(mine)])?.iter().any(|said| said[..] == [1]))
    }

    /// Refuses ranks that are about to compute something else: `facts` are named values that all must share.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the rank, the fact and both values; every rank gets it.
    pub fn agree(&self, facts: &[Fact]) -> Result<()> {
        if self.0.is_none() {
            return Ok(());
        }
        let all: Vec<Vec<Fact>> = self.gather_values("agreement", facts.to_vec())?;
        for (rank, facts) in all.iter().enumerate().skip(1) {
            let value = |facts: &[Fact], name: &str| {
                facts.iter().find(|(known, _)| known == name).map_or("nothing".to_owned(), |(_, value)| value.clone())
            };
            let names = all[0].iter().chain(facts).map(|(name, _)| name);
            if let Some(name) = names.into_iter().find(|name| value(&all[0], name) != value(facts, name)) {
                let [first, other] = [value(&all[0], name), value(facts, name)];
                return Err(Error::usage(
                    format!("rank {rank} has another {name} than rank 0: {other}, not {first}"),
                    "start all ranks alike: the same program, options, files and kind of device",
                ));
            }
        }
        Ok(())
    }

    /// Ends together: an error of this rank is told to the others; success, and a stop that all have agreed on, wait for theirs.
    ///
    /// # Errors
    /// That of `result`; as [`Ranks::gather`].
    pub fn leave<T>(self, result: Result<T>) -> Result<T> {
        let Some(group) = &self.0 else { return result };
        match &result {
            Err(error) if !matches!(error, Error::Interrupted(_)) => group.channel.failed(&error.to_string()),
            // A launcher ends all ranks when one exits with an error code: nobody does before everything is saved.
            _ => {
                group.channel.gather(LAST[usize::from(result.is_err())], Vec::new())?;
                group.collective.lock().unwrap_or_else(PoisonError::into_inner).finish();
                group.channel.let_the_first_end();
            }
        }
        result
    }
}
