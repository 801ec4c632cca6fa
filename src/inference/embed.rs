//! Embeddings: one vector a sequence, a token or a base, of sequences of any length, in bounded memory.
//!
//! A sequence that is longer than the model's positions is cut into overlapping windows whose rows are blended
//! ([`super::tiling`]). K-mers with N or another code for an unknown base are `[UNK]`: the model sees that something is
//! there. They have rows of their own per token, but count in no average as long as the average has another token.
//!
//! K-mers are made for a window at a time; tokens that do not overlap, and depend on all bases before them, for the whole sequence.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::batches::Groups;
use super::encoder::Encoder;
use super::tiling::{Blend, Tiling};
use crate::genome::region::reverse_complement;
use crate::kmer::sequences::{self, Named};
use crate::kmer::vocabulary::Vocabulary;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// What gets a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// A sequence: the mean over its tokens.
    Mean,
    /// A sequence: its `[CLS]`; of a long one the mean over its windows.
    Cls,
    /// Every token.
    Token,
    /// Every base: the mean over the k-mers that cover it, or the one token that does.
    Nucleotide,
}

/// Tokens of the longest sequences that a released model has positions for.
const LONGEST_TABLE: usize = 4096;
/// Tokens of a window, where nobody says how many and the model has no table of positions: four times what DNABERT-2 was trained on.
const USUAL_WINDOW: usize = 512;

/// How to embed.
#[derive(Clone, Copy, Debug)]
pub struct EmbedOptions {
    /// What gets a vector.
    pub unit: Unit,
    /// The layer, as [`Encoder::layer`] counts: 0 is the embeddings' output.
    pub layer: usize,
    /// How long sequences are cut.
    pub tiling: Tiling,
}

impl EmbedOptions {
    /// Checks the options against the model; windows default to all its positions (512 tokens of a model without), overlaps to a quarter of a window.
    ///
    /// # Errors
    /// [`Error::Usage`] for a layer that the model lacks, a window that it cannot hold, an overlap as large as a window.
    pub fn new(
        encoder: &Encoder,
        unit: Unit,
        layer: i64,
        window: Option<usize>,
        overlap: Option<usize>,
    ) -> Result<Self> {
        let longest = encoder.longest();
        // Where positions have no end, time and memory have.
        let window = window.unwrap_or(if longest > LONGEST_TABLE { USUAL_WINDOW } else { longest });
        if !(1..=longest).contains(&window) {
            let found = format!("--window {window}, where the model reads 1 to {longest} tokens at once");
            return Err(Error::usage(found, "choose a window that it can read, or leave the option out"));
        }
        let overlap = overlap.unwrap_or(window / 4);
        if overlap >= window {
            let found = format!("--overlap {overlap} with windows of {window} tokens");
            return Err(Error::usage(found, "choose an overlap that is smaller than a window"));
        }
        Ok(Self { unit, layer: encoder.layer(layer)?, tiling: Tiling { window, overlap } })
    }
}

/// Rows of one sequence, as they are finished.
#[derive(Debug)]
pub struct Rows<'a> {
    /// The sequence.
    pub sequence: &'a Named,
    /// The number of the first of these rows in it: a token or a base, from 0.
    pub first: usize,
    /// `[rows, columns]`.
    pub values: &'a [f32],
    /// Where a row is a token, the bases that each covers.
    spans: Spans<'a>,
}

impl Rows<'_> {
    /// The bases of the sequence that row `index` of these is of, where rows are tokens or bases.
    pub fn place(&self, index: usize) -> Range<usize> {
        let number = self.first + index;
        match self.spans {
            Spans::Overlapping(k) => number..number + k,
            Spans::Listed(spans) => spans[number].start as usize..spans[number].end as usize,
        }
    }
}

/// The bases of each token of a sequence, or of each base.
#[derive(Clone, Copy, Debug)]
enum Spans<'a> {
    /// So many, each span a base further.
    Overlapping(usize),
    Listed(&'a [Range<u32>]),
}

/// A sequence and its tokens.
struct Tokens {
    sequence: Named,
    /// Bases in a k-mer, where tokens are k-mers; then the others are empty.
    k: Option<usize>,
    ids: Vec<i32>,
    spans: Vec<Range<u32>>,
}

impl Tokens {
    fn of(sequence: Named, tokenizer: &dyn Tokenizer) -> Self {
        let (mut ids, mut spans) = (Vec::new(), Vec::new());
        let k = tokenizer.k_mers().map(Vocabulary::k);
        if k.is_none() {
            tokenizer.encode_with_spans(&sequence.bases, &mut ids, &mut spans);
        }
        Self { sequence, k, ids, spans }
    }

    /// How many there are.
    fn count(&self) -> usize {
        self.k.map_or(self.ids.len(), |k| self.sequence.bases.len() + 1 - k)
    }

    /// Appends the ids of those in `range`.
    fn ids(&self, tokenizer: &dyn Tokenizer, range: Range<usize>, out: &mut Vec<i32>) {
        match self.k {
            Some(k) => tokenizer.encode(&self.sequence.bases[range.start..range.end + k - 1], out),
            None => out.extend_from_slice(&self.ids[range]),
        }
    }

    fn spans(&self) -> Spans<'_> {
        self.k.map_or(Spans::Listed(&self.spans), Spans::Overlapping)
    }
}

/// What was embedded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Sequences.
    pub sequences: u64,
    /// Their bases.
    pub bases: u64,
    /// Tokens that went through the model: those of all windows, with special ones.
    pub tokens: u64,
    /// Sequences in several windows.
    pub windowed: u64,
    /// Tokens that were `[UNK]`.
    pub unknown_k_mers: u64,
    /// Sequences in which every token was `[UNK]`.
    pub all_unknown: u64,
}

impl Counts {
    /// Adds those of other sequences.
    pub fn add(&mut self, others: &Self) {
        self.sequences += others.sequences;
        self.bases += others.bases;
        self.tokens += others.tokens;
        self.windowed += others.windowed;
        self.unknown_k_mers += others.unknown_k_mers;
        self.all_unknown += others.all_unknown;
    }
}

/// The name of every sequence of a FASTA file, and the mean over its tokens of the last layer's hidden states.
///
/// # Errors
/// As [`embed`] and [`sequences::fasta`].
pub fn means(encoder: &Encoder, fasta: impl AsRef<Path>) -> Result<Vec<(String, Vec<f32>)>> {
    let fasta = fasta.as_ref();
    let options = EmbedOptions::new(encoder, Unit::Mean, -1, None, None)?;
    let mut all = Vec::new();
    let mut sink = |rows: Rows| {
        all.push((rows.sequence.name.clone(), rows.values.to_vec()));
        Ok(())
    };
    embed(encoder, fasta, sequences::fasta(fasta)?, &options, &mut sink, &mut |_| ())?;
    Ok(all)
}

/// As [`embed`] with one vector a sequence, which is the mean of its own and that of its reverse complement.
///
/// # Errors
/// As [`embed`]; [`Error::Usage`] for vectors of k-mers or bases.
pub fn embed_both_strands(
    encoder: &Encoder,
    path: &Path,
    sequences: impl Iterator<Item = Result<Named>>,
    options: &EmbedOptions,
    sink: &mut dyn FnMut(Rows) -> Result<()>,
    progress: &mut dyn FnMut(&Counts),
) -> Result<Counts> {
    if !matches!(options.unit, Unit::Mean | Unit::Cls) {
        return Err(Error::usage("--rc with vectors of k-mers or bases", "leave out --per, for one vector a sequence"));
    }
    let with_turned = sequences.flat_map(|sequence| {
        let turned = sequence.as_ref().ok().map(|sequence| {
            let mut turned = sequence.clone();
            reverse_complement(&mut turned.bases);
            Ok(turned)
        });
        [Some(sequence), turned].into_iter().flatten()
    });
    let mut first: Option<Vec<f32>> = None;
    let mut in_pairs = |rows: Rows| match first.take() {
        None => {
            first = Some(rows.values.to_vec());
            Ok(())
        }
        Some(mut values) => {
            values.iter_mut().zip(rows.values).for_each(|(one, other)| *one = (*one + other) / 2.0);
            sink(Rows { values: &values, ..rows })
        }
    };
    let of_pairs = |counts: &Counts| Counts {
        sequences: counts.sequences / 2,
        bases: counts.bases / 2,
        windowed: counts.windowed / 2,
        unknown_k_mers: counts.unknown_k_mers / 2,
        all_unknown: counts.all_unknown / 2,
        ..*counts
    };
    let mut progress = |counts: &Counts| progress(&of_pairs(counts));
    let counts = embed_together(2, encoder, path, with_turned, options, &mut in_pairs, &mut progress)?;
    Ok(of_pairs(&counts))
}

/// Embeds sequences in their order. `sink` gets the rows of each as they are finished, those of a long one in several
/// pieces; `progress` hears now and then what is done. Memory holds a few windows for each thread and one sequence's bases.
///
/// # Errors
/// Those of `sequences` and `sink`; [`Error::Input`] with the name of a sequence that is shorter than a k-mer (`path` is
/// where it was read).
pub fn embed(
    encoder: &Encoder,
    path: &Path,
    sequences: impl Iterator<Item = Result<Named>>,
    options: &EmbedOptions,
    sink: &mut dyn FnMut(Rows) -> Result<()>,
    progress: &mut dyn FnMut(&Counts),
) -> Result<Counts> {
    embed_together(1, encoder, path, sequences, options, sink, progress)
}

/// As [`embed`]; so many sequences at a time are of one group.
fn embed_together(
    together: usize,
    encoder: &Encoder,
    path: &Path,
    sequences: impl Iterator<Item = Result<Named>>,
    options: &EmbedOptions,
    sink: &mut dyn FnMut(Rows) -> Result<()>,
    progress: &mut dyn FnMut(&Counts),
) -> Result<Counts> {
    let tokenizer = encoder.vocabulary();
    let frame = tokenizer.specials().frame();
    let (tiling, groups) = (options.tiling, encoder.groups());
    let mut windows = Windows { tokenizer, path, sequences, tiling, groups, together, count: 0, open: None };
    let mut assembler = Assembler::new(encoder, options.unit);
    let mut counts = Counts::default();
    let most = encoder.round_tokens();
    let mut batches = encoder.cut();
    // The window that begins the next round.
    let mut next = windows.next()?;
    let (mut round, mut begins): (Vec<Window>, Vec<bool>) = (Vec::new(), Vec::new());
    while next.is_some() {
        let mut tokens = 0;
        batches.restart();
        while let Some(window) = next.take() {
            if window.begins_group {
                batches.restart();
            }
            let size = window.range.len() + frame;
            let begins_batch = batches.begins(size);
            // A round ends where a batch does.
            if begins_batch && tokens >= most {
                next = Some(window);
                break;
            }
            tokens += size;
            round.push(window);
            begins.push(begins_batch);
            next = windows.next()?;
        }
        let hidden = encoder.hidden_of_tokens(&round, &begins, options.layer, options.unit == Unit::Cls)?;
        begins.clear();
        for (window, rows) in round.drain(..).zip(&hidden) {
            counts.tokens += (window.range.len() + frame) as u64;
            assembler.add(&window, rows, sink, &mut counts)?;
        }
        progress(&counts);
    }
    Ok(counts)
}

/// A window of a sequence.
struct Window {
    sequence: Arc<Tokens>,
    /// Which of its tokens.
    range: Range<usize>,
    /// Their ids.
    ids: Vec<i32>,
    /// Where the next window of the sequence begins; the number of its tokens, in the last.
    next: usize,
    is_last: bool,
    begins_group: bool,
}

impl AsRef<[i32]> for Window {
    fn as_ref(&self) -> &[i32] {
        &self.ids
    }
}

/// The windows of all sequences, one after the other.
struct Windows<'a, S> {
    tokenizer: &'a dyn Tokenizer,
    path: &'a Path,
    sequences: S,
    tiling: Tiling,
    groups: Groups,
    /// Sequences that are of one group, as a sequence and its reverse complement are.
    together: usize,
    /// Sequences so far.
    count: usize,
    /// The sequence that is being cut, and the number of its next window.
    open: Option<(Arc<Tokens>, usize)>,
}

impl<S: Iterator<Item = Result<Named>>> Windows<'_, S> {
    fn next(&mut self) -> Result<Option<Window>> {
        let mut begins_group = false;
        let (sequence, index) = match self.open.take() {
            Some(open) => open,
            None => match self.sequences.next() {
                Some(sequence) => {
                    let sequence = self.check(sequence?)?;
                    begins_group = self.count.is_multiple_of(self.together) && self.groups.begins(sequence.bases.len());
                    self.count += 1;
                    (Arc::new(Tokens::of(sequence, self.tokenizer)), 0)
                }
                None => return Ok(None),
            },
        };
        let tokens = sequence.count();
        let is_last = index + 1 == self.tiling.count(tokens);
        let range = self.tiling.window(tokens, index);
        let next = if is_last { tokens } else { self.tiling.window(tokens, index + 1).start };
        if !is_last {
            self.open = Some((Arc::clone(&sequence), index + 1));
        }
        let mut ids = Vec::with_capacity(range.len());
        sequence.ids(self.tokenizer, range.clone(), &mut ids);
        Ok(Some(Window { sequence, range, ids, next, is_last, begins_group }))
    }

    fn check(&self, sequence: Named) -> Result<Named> {
        let shortest = self.tokenizer.shortest();
        if sequence.bases.len() >= shortest {
            return Ok(sequence);
        }
        Err(Error::input(
            self.path,
            format!("sequence {:?}", sequence.name),
            format!("{} bases, fewer than a k-mer", sequence.bases.len()),
            format!("this model reads {shortest}-mers: remove the sequence, or give a longer one"),
        ))
    }
}

/// Makes the rows of sequences from the rows of their windows.
struct Assembler<'a> {
    encoder: &'a Encoder,
    unit: Unit,
    blend: Blend,
    /// Rows that the blend has finished.
    joined: Vec<f32>,
    /// Sum over the rows that count, and over those that do not.
    means: [Mean; 2],
    /// Windows of the sequence so far.
    windows: usize,
    /// Its known tokens so far.
    known: usize,
    /// For bases: the rows of the last k k-mers, and which of them are known.
    tail: VecDeque<(Vec<f32>, bool)>,
    ids: Vec<i32>,
    out: Vec<f32>,
}

impl<'a> Assembler<'a> {
    fn new(encoder: &'a Encoder, unit: Unit) -> Self {
        let columns = encoder.columns();
        Self {
            encoder,
            unit,
            blend: Blend::new(columns),
            joined: Vec::new(),
            means: [Mean::new(columns), Mean::new(columns)],
            windows: 0,
            known: 0,
            tail: VecDeque::new(),
            ids: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Takes the rows of a sequence's next window and hands on what is finished.
    fn add(
        &mut self,
        window: &Window,
        rows: &[f32],
        sink: &mut dyn FnMut(Rows) -> Result<()>,
        counts: &mut Counts,
    ) -> Result<()> {
        let tokens = &*window.sequence;
        let sequence = &tokens.sequence;
        let tokenizer = self.encoder.vocabulary();
        let unk = tokenizer.specials().unk;
        self.windows += 1;
        // The tokens that this window finishes: which of them are unknown.
        let first = window.range.start;
        self.ids.clear();
        tokens.ids(tokenizer, first..window.next, &mut self.ids);
        let unknown = self.ids.iter().filter(|&&id| id == unk).count();
        self.known += self.ids.len() - unknown;
        counts.unknown_k_mers += unknown as u64;
        if self.unit == Unit::Cls {
            self.means[0].add(rows);
        } else {
            self.joined.clear();
            self.blend.add(window.range.clone(), rows, window.next, &mut self.joined);
        }
        match self.unit {
            Unit::Cls => {}
            Unit::Mean => {
                for (row, &id) in self.joined.chunks_exact(self.encoder.columns()).zip(&self.ids) {
                    self.means[usize::from(id == unk)].add(row);
                }
            }
            Unit::Token => sink(Rows { sequence, first, values: &self.joined, spans: tokens.spans() })?,
            Unit::Nucleotide => {
                let first = match tokens.k {
                    Some(k) => {
                        self.spread(window, k, unk);
                        first
                    }
                    None => {
                        let spans = &tokens.spans[first..window.next];
                        self.repeat(spans);
                        spans.first().map_or(0, |span| span.start as usize)
                    }
                };
                sink(Rows { sequence, first, values: &self.out, spans: Spans::Overlapping(1) })?;
            }
        }
        if window.is_last {
            self.finish(sequence, sink, counts)?;
        }
        Ok(())
    }

    /// Ends a sequence.
    fn finish(
        &mut self,
        sequence: &Named,
        sink: &mut dyn FnMut(Rows) -> Result<()>,
        counts: &mut Counts,
    ) -> Result<()> {
        if let Unit::Mean | Unit::Cls = self.unit {
            let [known, unknown] = &self.means;
            let mean = if known.count > 0 { known } else { unknown };
            self.out.clear();
            self.out.extend(mean.values());
            sink(Rows { sequence, first: 0, values: &self.out, spans: Spans::Overlapping(0) })?;
        }
        counts.all_unknown += u64::from(self.known == 0);
        counts.sequences += 1;
        counts.bases += sequence.bases.len() as u64;
        counts.windowed += u64::from(self.windows > 1);
        (self.windows, self.known) = (0, 0);
        self.means.iter_mut().for_each(Mean::clear);
        self.blend.restart();
        self.tail.clear();
        Ok(())
    }

    /// Makes the rows of the bases of tokens that do not overlap: each gets its token's.
    fn repeat(&mut self, spans: &[Range<u32>]) {
        self.out.clear();
        for (row, span) in self.joined.chunks_exact(self.encoder.columns()).zip(spans) {
            span.clone().for_each(|_| self.out.extend_from_slice(row));
        }
    }

    /// Makes the rows of the bases that no later k-mer covers: base b lies in the k-mers b - k + 1 to b.
    fn spread(&mut self, window: &Window, k: usize, unk: i32) {
        self.out.clear();
        for (row, &id) in self.joined.chunks_exact(self.encoder.columns()).zip(&self.ids) {
            if self.tail.len() == k {
                self.tail.pop_front();
            }
            self.tail.push_back((row.to_vec(), id != unk));
            base_of(&self.tail, &mut self.means, &mut self.out);
        }
        if window.is_last {
            let k_mers = window.next;
            for base in k_mers..window.sequence.sequence.bases.len() {
                while k_mers - self.tail.len() + k <= base {
                    self.tail.pop_front();
                }
                base_of(&self.tail, &mut self.means, &mut self.out);
            }
        }
    }
}

/// Appends the mean of the known k-mers that cover a base, or of all where none is known.
fn base_of(k_mers: &VecDeque<(Vec<f32>, bool)>, means: &mut [Mean; 2], out: &mut Vec<f32>) {
    means.iter_mut().for_each(Mean::clear);
    for (row, is_known) in k_mers {
        means[usize::from(!is_known)].add(row);
    }
    let [known, unknown] = means;
    out.extend(if known.count > 0 { known.values() } else { unknown.values() });
}

/// A mean of rows, summed in f64 in their order.
struct Mean {
    sums: Vec<f64>,
    count: usize,
}

impl Mean {
    fn new(columns: usize) -> Self {
        Self { sums: vec![0.0; columns], count: 0 }
    }

    fn add(&mut self, row: &[f32]) {
        self.sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
        self.count += 1;
    }

    fn values(&self) -> impl Iterator<Item = f32> {
        let count = self.count as f64;
        self.sums.iter().map(move |sum| (sum / count) as f32)
    }

    fn clear(&mut self) {
        self.sums.fill(0.0);
        self.count = 0;
    }
}
