//! The calls that take time: on a thread of their own, while Python runs on and hears signals.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use helixgrad::inference::embed::{EmbedOptions, Rows, embed as embed_sequences, embed_both_strands};
use helixgrad::inference::encoder::Encoder;
use helixgrad::inference::score::Scorer;
use helixgrad::inference::variants::Annotator;
use helixgrad::inference::variants::annotate::AlleleChanges;
use helixgrad::kmer::labelled::LabelledWindow;
use helixgrad::kmer::sequences::{self, Named};
use helixgrad::serve::engine::Sites;
use helixgrad::{Error, Result};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::exception;
use crate::input::{Source, window};

/// How often Python is asked for signals.
const LOOK: Duration = Duration::from_millis(50);

/// Bases that are scored before somebody looks whether to stop.
const ROUND_BASES: usize = 1 << 16;

/// Variants that are scored before somebody looks whether to stop.
const ROUND_VARIANTS: usize = 64;

/// Runs `work` without Python's lock. What a signal's handler raises, as Ctrl-C's does, is raised here, once `work` has seen the flag and ended.
pub fn interruptible<T: Send>(py: Python<'_>, work: impl FnOnce(&AtomicBool) -> Result<T> + Send) -> PyResult<T> {
    let (stop, ended, changed) = (AtomicBool::new(false), Mutex::new(false), Condvar::new());
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // Also where the work panics.
            let _tells = Tells { ended: &ended, changed: &changed };
            work(&stop)
        });
        let mut raised = None;
        loop {
            let is_over = py.detach(|| {
                let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = changed.wait_timeout_while(ended, LOOK, |ended| !*ended);
                *waited.unwrap_or_else(PoisonError::into_inner).0
            });
            if is_over {
                break;
            }
            if let Err(error) = py.check_signals() {
                stop.store(true, Ordering::Relaxed);
                raised = Some(error);
            }
        }
        let result = py.detach(|| worker.join());
        match (raised, result) {
            (Some(raised), _) => Err(raised),
            (None, Ok(result)) => result.map_err(exception),
            (None, Err(_)) => Err(PyRuntimeError::new_err("the computation panicked: please report it")),
        }
    })
}

struct Tells<'a> {
    ended: &'a Mutex<bool>,
    changed: &'a Condvar,
}

impl Drop for Tells<'_> {
    fn drop(&mut self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}

/// An error where the work is to stop.
fn check(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(Error::Interrupted(String::new())) } else { Ok(()) }
}

type Items = Box<dyn Iterator<Item = Result<(Named, Option<Vec<u8>>)>>>;

/// The sequences one by one.
fn items(source: Source) -> Result<Items> {
    Ok(match source {
        Source::Listed(listed) => Box::new(listed.into_iter().map(Ok)),
        Source::Fasta(path) => Box::new(sequences::fasta(&path)?.map(|named| Ok((named?, None)))),
    })
}

/// The vectors, one after the other.
pub fn embed(
    encoder: &Encoder,
    source: Source,
    options: &EmbedOptions,
    both_strands: bool,
    stop: &AtomicBool,
) -> Result<Vec<f32>> {
    let path = source.path().to_owned();
    let mut sequences = items(source)?.map(|item| check(stop).and(item).map(|(named, _)| named));
    let mut values = Vec::new();
    let mut sink = |rows: Rows| {
        values.extend_from_slice(rows.values);
        check(stop)
    };
    match both_strands {
        true => embed_both_strands(encoder, &path, &mut sequences, options, &mut sink, &mut |_| ())?,
        false => embed_sequences(encoder, &path, &mut sequences, options, &mut sink, &mut |_| ())?,
    };
    Ok(values)
}

/// The answers, one after the other.
pub fn predict(scorer: &Scorer, source: Source, stop: &AtomicBool) -> Result<Vec<f64>> {
    let path = source.path().to_owned();
    let limits = scorer.limits();
    let mut items = items(source)?.peekable();
    let mut values = Vec::new();
    while items.peek().is_some() {
        check(stop)?;
        let (mut round, mut bases): (Vec<LabelledWindow>, usize) = (Vec::new(), 0);
        while bases < ROUND_BASES
            && let Some(item) = items.next()
        {
            let (named, second) = item?;
            let checked = match &second {
                Some(second) => limits.check(&named.bases, Some(second)),
                None => scorer.check(&named.bases),
            };
            checked.map_err(|(found, remedy)| Error::input(&path, named.place(), found, remedy))?;
            bases += scorer.width().unwrap_or(named.bases.len()) + second.as_ref().map_or(0, Vec::len);
            round.push(window((named, second)));
        }
        let answers = if scorer.reads_pairs() { scorer.score_pairs(&round)? } else { scorer.score(&round)? };
        values.extend(answers.into_iter().flatten());
    }
    Ok(values)
}

/// For each variant its alleles.
pub fn variants(sites: &Sites, lines: &[Vec<u8>], stop: &AtomicBool) -> Result<Vec<Vec<AlleleChanges>>> {
    let Sites { scorer, genome, aliases, genes, options } = sites;
    let annotator = Annotator { scorer, genome, aliases, genes: genes.as_ref(), options };
    let mut all = Vec::with_capacity(lines.len());
    for round in lines.chunks(ROUND_VARIANTS) {
        check(stop)?;
        for found in annotator.effects(round, &mut 0)? {
            let at = |(found, remedy): (String, String)| Error::usage(format!("item {}: {found}", all.len()), remedy);
            let found = found.map_err(at)?;
            all.push(found);
        }
    }
    Ok(all)
}
