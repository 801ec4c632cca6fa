//! Byte-pair encoding learnt from a genome.
//!
//! The merges are those of the definition (`merges.rs`): again and again the most frequent pair of neighbours becomes a token, of
//! equally frequent ones the pair of the earlier tokens; they are what the `tokenizers` library learns from the same pieces. DNABERT-2
//! and GENA-LM learnt theirs from pieces of about 1,000 bases, and so does this.
//!
//! **The sample.** The known bases of the genome are cut into pieces of 1,000. Where they are more than the sample may have, pieces are
//! taken evenly over the genome: piece i of n for which `i * wanted / n` reaches another integer. Nothing is drawn, so the same genome
//! gives the same bytes.
//!
//! **The work.** A token stands in the cells of its first and its last base, so that both neighbours of a place are found without
//! links; each pair has a count, and a list of the places where it came to be, some of which are no longer true. A merge visits
//! only those places, and makes two new ones: all merges together visit a base less than three times. Memory is 2 bytes a base for the
//! cells and up to 12 for the places, twice that while a list grows, whatever the genome.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use serde_json::{Map, Value, json};

use super::bpe::Bpe;
use super::bpe_file;
use crate::genome::twobit::Genome;
use crate::{Error, Result};

/// Bases of a piece.
const PIECE: u32 = 1000;
/// Letters, in the order of their ids.
const LETTERS: &[u8; 4] = b"ACGT";
/// The special tokens, in the order of their ids: DNABERT-2's.
const SPECIALS: [&str; 5] = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"];
/// The cell between two pieces.
const BORDER: u16 = u16::MAX;
/// A cell inside a token.
const INSIDE: u16 = u16::MAX - 1;
/// Entries of the largest vocabulary: cells have 16 bits.
pub const MOST_TOKENS: usize = 1 << 15;
/// Bases of the largest sample: places have 32 bits.
pub const MOST_BASES: u64 = 4_000_000_000;

/// What was learnt, and from what.
#[derive(Debug)]
pub struct Learnt {
    /// The tokenizer.
    pub tokenizer: Bpe,
    /// Known bases of the genome.
    pub known: u64,
    /// Bases that it was learnt from.
    pub bases: u64,
    /// Tokens that they are now.
    pub tokens: u64,
}

/// Learns `vocabulary` entries from at most `sample` bases of a genome.
///
/// # Errors
/// [`Error::Usage`] for sizes out of range; [`Error::Input`] if the genome has no known bases, or too few for so many entries.
pub fn learn(genome: &Genome, vocabulary: usize, sample: u64) -> Result<Learnt> {
    let least = SPECIALS.len() + LETTERS.len() + 1;
    if !(least..=MOST_TOKENS).contains(&vocabulary) {
        return Err(Error::usage(
            format!("a vocabulary of {vocabulary} entries"),
            format!("choose {least} to {MOST_TOKENS}"),
        ));
    }
    if !(u64::from(PIECE)..=MOST_BASES).contains(&sample) {
        return Err(Error::usage(
            format!("a sample of {sample} bases"),
            format!("choose {PIECE} to {MOST_BASES}; memory is up to 25 bytes for each"),
        ));
    }
    let (known, pieces) = pieces(genome, sample);
    genome.check()?;
    let bases = pieces.iter().filter(|&&cell| cell != BORDER).count() as u64;
    let wanted = vocabulary - SPECIALS.len() - LETTERS.len();
    let mut sample = Sample::new(pieces);
    let merges = sample.merge(wanted);
    if merges.len() < wanted {
        let found = format!("{bases} known bases, which have {} different pieces", vocabulary - wanted + merges.len());
        let remedy = format!("ask for fewer than {vocabulary} entries, or give a larger genome");
        return Err(Error::input(genome.path(), "", found, remedy));
    }
    let contents = bpe_file::parse(to_json(&merges).to_string());
    let contents = contents.map_err(|(place, found)| Error::Failed(format!("{place}: {found}")))?;
    Ok(Learnt { tokenizer: Bpe::new(contents), known, bases, tokens: sample.tokens })
}

/// The known bases of a genome, and the pieces that are learnt from: digits of [`LETTERS`], with a border before and behind each.
fn pieces(genome: &Genome, sample: u64) -> (u64, Vec<u16>) {
    let runs: Vec<_> = (0..genome.sequences().len())
        .flat_map(|index| genome.acgt_runs(index).into_iter().map(move |run| (index, run)))
        .collect();
    let known = runs.iter().map(|(_, run)| u64::from(run.len() as u32)).sum();
    let count: u64 = runs.iter().map(|(_, run)| u64::from((run.len() as u32).div_ceil(PIECE))).sum();
    let wanted = count.min(sample / u64::from(PIECE));
    let (mut cells, mut bases, mut number) = (vec![BORDER], Vec::new(), 0);
    for (index, run) in runs {
        for start in run.clone().step_by(PIECE as usize) {
            number += 1;
            if number * wanted / count == (number - 1) * wanted / count {
                continue;
            }
            bases.clear();
            genome.decode(index, start..run.end.min(start + PIECE), &mut bases);
            cells.extend(bases.iter().map(|base| LETTERS.iter().position(|letter| letter == base).unwrap_or(0) as u16));
            cells.push(BORDER);
        }
    }
    (known, cells)
}

/// Two neighbours.
type Pair = [u16; 2];

/// How often a pair stands there, and places where it came to be.
#[derive(Default)]
struct Places {
    count: i64,
    places: Vec<u32>,
}

struct Sample {
    cells: Vec<u16>,
    /// Bases in each token.
    lengths: Vec<u32>,
    pairs: HashMap<Pair, Places>,
    /// Pairs that the last merge made.
    made: Vec<Pair>,
    tokens: u64,
}

impl Sample {
    /// Cells begin and end with a border.
    fn new(cells: Vec<u16>) -> Self {
        let mut pairs: HashMap<Pair, Places> = HashMap::new();
        for (place, pair) in (0..).zip(cells.windows(2)) {
            if pair[0] != BORDER && pair[1] != BORDER {
                let of = pairs.entry([pair[0], pair[1]]).or_default();
                of.count += 1;
                of.places.push(place);
            }
        }
        let tokens = cells.iter().filter(|&&cell| cell != BORDER).count() as u64;
        Self { cells, lengths: vec![1; LETTERS.len()], pairs, made: Vec::new(), tokens }
    }

    /// Does up to `wanted` merges, and returns the pairs.
    fn merge(&mut self, wanted: usize) -> Vec<Pair> {
        let mut merges = Vec::new();
        // The most frequent pair first, of equals that of the earlier tokens. Counts that fell since are put right when they come up.
        let mut queue: BinaryHeap<(i64, Reverse<Pair>)> =
            self.pairs.iter().map(|(pair, places)| (places.count, Reverse(*pair))).collect();
        while merges.len() < wanted
            && let Some((count, Reverse(pair))) = queue.pop()
        {
            let now = self.pairs.get(&pair).map_or(0, |places| places.count);
            if now != count {
                queue.extend((now > 0).then_some((now, Reverse(pair))));
                continue;
            }
            let joined = self.lengths.len() as u16;
            self.lengths.push(pair.map(|part| self.lengths[usize::from(part)]).iter().sum());
            self.merge_pair(pair, joined);
            merges.push(pair);
            queue.extend(self.made.drain(..).filter_map(|pair| Some((self.pairs.get(&pair)?.count, Reverse(pair)))));
        }
        merges
    }

    /// Makes `joined` of all places of `pair`.
    fn merge_pair(&mut self, pair: Pair, joined: u16) {
        let [left, right] = pair;
        let [left_length, right_length] = pair.map(|part| self.lengths[usize::from(part)] as usize);
        let mut places = self.pairs.remove(&pair).unwrap_or_default().places;
        places.sort_unstable();
        for place in places {
            let start = place as usize;
            let middle = start + left_length;
            // Another merge may have taken one of the two.
            if self.cells[start] != left || self.cells[middle] != right {
                continue;
            }
            let end = middle + right_length;
            let (before, behind) = (self.cells[start - 1], self.cells[end]);
            for inner in [middle - 1, middle] {
                self.cells[inner] = INSIDE;
            }
            self.cells[start] = joined;
            self.cells[end - 1] = joined;
            self.tokens -= 1;
            if before != BORDER {
                let length = self.lengths[usize::from(before)] as usize;
                self.lose([before, left]);
                self.gain([before, joined], start - length);
            }
            if behind != BORDER {
                self.lose([right, behind]);
                self.gain([joined, behind], start);
            }
        }
    }

    fn lose(&mut self, pair: Pair) {
        if let Some(places) = self.pairs.get_mut(&pair) {
            places.count -= 1;
            if places.count == 0 {
                self.pairs.remove(&pair);
            }
        }
    }

    fn gain(&mut self, pair: Pair, place: usize) {
        let places = self.pairs.entry(pair).or_default();
        if places.count == 0 {
            self.made.push(pair);
        }
        places.count += 1;
        places.places.push(place as u32);
    }
}

/// The file, as DNABERT-2's is. Merges are written as one text each, which older versions of the library read, too.
fn to_json(merges: &[Pair]) -> Value {
    let mut texts: Vec<String> = LETTERS.iter().map(|letter| char::from(*letter).to_string()).collect();
    let mut of_merges = Vec::new();
    for [left, right] in merges {
        let (left, right) = (&texts[usize::from(*left)], &texts[usize::from(*right)]);
        of_merges.push(json!(format!("{left} {right}")));
        texts.push(format!("{left}{right}"));
    }
    let names = SPECIALS.map(str::to_owned).into_iter().chain(texts);
    let vocabulary: Map<String, Value> = names.zip(0..).map(|(text, id): (String, i32)| (text, id.into())).collect();
    let added: Vec<Value> = SPECIALS.iter().zip(0..).map(|(name, id): (&&str, i32)| {
        json!({ "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true })
    }).collect();
    let special = |name: &str, segment: i32| json!({ "SpecialToken": { "id": name, "type_id": segment } });
    let sequence = |name: &str, segment: i32| json!({ "Sequence": { "id": name, "type_id": segment } });
    let of_special = |name: &str, id: i32| json!({ "id": name, "ids": [id], "tokens": [name] });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0)],
            "pair": [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0), sequence("B", 1), special("[SEP]", 1)],
            "special_tokens": { "[CLS]": of_special("[CLS]", 1), "[SEP]": of_special("[SEP]", 2) },
        },
        "decoder": null,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": "[UNK]",
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "vocab": vocabulary,
            "merges": of_merges,
        },
    })
}
