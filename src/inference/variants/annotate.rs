//! Variants of a VCF file: read in rounds, scored, and written line by line as they came, with two more INFO fields.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::effect::{Change, Delta, Effect, Questions, trimmed};
use super::genes::Gene;
use super::round::{Line, Questioned, Round};
use super::share::BLOCK;
use super::vcf::{self, Finding, Reader, Record, escaped, with_info};
use super::{Annotator, Positions, Summary, check_name, deltas};
use crate::genome::annotation::Strand;
use crate::inference::merge::Shards;
use crate::inference::parts::Parts;
use crate::inference::shard::Outcome;
use crate::inference::splice::DECIMALS;
use crate::report::Progress;
use crate::train::interrupt;
use crate::{Error, Result};

/// The INFO field with the scores.
const FIELD: &str = "HELIXGRAD";
/// The INFO field with the alleles that have none, and why.
const SKIPPED: &str = "HELIXGRAD_SKIPPED";

/// What shards of this work say that they are of.
pub const COMMAND: &str = "variants";

/// What the last step over all shards has to know.
#[derive(Debug, Serialize, Deserialize)]
struct Ending {
    is_packed: bool,
    /// For messages.
    input: String,
    genome: String,
    told: Option<Value>,
}

/// How far a file is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    /// Lines read, and their CRC-32.
    lines: u64,
    checksum: u32,
    summary: Summary,
    names: Names,
}

impl State {
    /// Names of the file, where the genome has none of them.
    fn no_match(&self) -> Option<Vec<&str>> {
        let Names { found, missing } = &self.names;
        (!found && !missing.is_empty()).then(|| missing.iter().map(String::as_str).collect())
    }

    fn warn(&self) {
        if self.summary.scored == 0 && self.summary.skipped.contains_key("ref_mismatch") {
            tracing::warn!(
                "no allele was scored, as no REF is what the genome has: is this the genome that they were called on?"
            );
        }
        if !self.names.missing.is_empty() {
            tracing::warn!("the genome lacks {}: their records were not scored", self.names.list());
        }
    }
}

/// Gives the lines their name; may be done again after a kill.
fn publish(parts: &Parts, state: State, out: &Path) -> Result<Summary> {
    let end = if is_packed(out) { bgzip_end(out)? } else { Vec::new() };
    parts.publish(0, out, &end)?;
    let mut summary = state.summary;
    summary.out = out.to_owned();
    summary.alleles_per_second = summary.alleles() as f64 / summary.seconds.max(1e-9);
    Ok(summary)
}

/// Puts the shards of a scoring together in the file `out`: the bytes that the whole scoring would have written. Also returns what is
/// told of the annotation.
///
/// # Errors
/// [`Error::Usage`] for a name that says bgzip where shards have none, or the other way round; [`Error::Input`] if the genome has no
/// sequence of the file; those of reading and writing.
pub fn merge(shards: &Shards, out: &Path) -> Result<(Summary, Option<Value>)> {
    check_name(out)?;
    let Ending { is_packed: has_blocks, input, genome, told } = shards.ending()?;
    if is_packed(out) != has_blocks {
        let (found, remedy) = match has_blocks {
            true => ("for a name that ends with .gz, as bgzip", "end the output's name with .vcf.gz"),
            false => ("for a name without .gz, as plain text", "end the output's name with .vcf; bgzip packs it"),
        };
        return Err(Error::usage(format!("--out {}, where the shards were made {found}", out.display()), remedy));
    }
    let mut all = State::default();
    for state in shards.states::<State>() {
        let State { summary, names, .. } = state?;
        all.summary.add(&summary);
        all.names.found |= names.found;
        names.missing.iter().for_each(|name| all.names.missing(name));
    }
    if all.no_match().is_some() {
        let found = format!("none of its sequences is in {genome}: {}", all.names.list());
        return Err(Error::input(
            input,
            "",
            found,
            "compute the shards again, with --alias or with the genome that the variants were called on",
        ));
    }
    all.warn();
    Ok((publish(&shards.parts(1)?, all, out)?, told))
}

impl Annotator<'_> {
    /// Reads `input` and writes `out` (bgzip if its name ends with `.gz`): the same lines, with two more INFO fields in
    /// each record and header lines that say what they mean. Killed, it goes on from the last state that was saved, to the same
    /// bytes ([`super::Options::resume`]). A shard scores its lines alone ([`merge`]).
    ///
    /// # Errors
    /// [`Error::Input`] with the line for what is no VCF, a REF that is not what the genome has or a position outside its
    /// sequence ([`super::Options::skip_mismatches`] passes them through), sequences of which the genome has none, and a file that has our fields already; [`Error::Interrupted`] after
    /// Ctrl-C, with everything saved; those of [`super::super::journal::Journal::open`], of the device and of writing.
    pub fn annotate(&self, input: &Path, out: &Path, header: &[String]) -> Result<Outcome<Summary>> {
        let mut reader = Reader::open(input)?;
        let ours = [&self.header_lines()[..], header].concat();
        let mut what = json!({ "header": ours });
        let share = self.options.shard.map(|shard| self.share(shard, input, out, header)).transpose()?;
        if let Some(share) = &share {
            what["vcf"] = share.print.clone();
            what["bgzip"] = is_packed(out).into();
        }
        let Some((mut journal, state)) = self.journal::<State>(out, COMMAND, what)? else {
            return share.map(|share| Outcome::Shard(share.report)).ok_or_else(|| Error::Failed("no journal".into()));
        };
        let encode = encoding_of(out);
        let mut state = match state {
            Some(state) => {
                reader.skip(state.lines, state.checksum)?;
                state
            }
            None => {
                let above = self.header(input, &mut reader, header)?;
                if self.writes_header() {
                    journal.append(0, encode(&above)?)?;
                }
                let before = share.as_ref().map_or(0, |share| share.first);
                while reader.number() < before && reader.next_line()?.is_some() {}
                State { lines: reader.number(), checksum: reader.checksum(), ..State::default() }
            }
        };
        let last = share.as_ref().map_or(u64::MAX, |share| share.last);
        let (done_before, seconds_before, started) = (state.summary.alleles(), state.summary.seconds, Instant::now());
        let mut progress = Progress::new("variants", 0, self.options.quiet).unit("alleles").resume_at(done_before);
        let saving = interrupt::saving();
        loop {
            let before = state.clone();
            let round = self.scored(input, &mut reader, last, &mut state);
            let round = journal.save_if_interrupted(&before, round)?;
            if round.lines.is_empty() {
                break;
            }
            let text: Vec<u8> = round.lines.iter().flat_map(|line| self.annotated(line, &mut state.summary)).collect();
            journal.append(0, encode(&text)?)?;
            (state.lines, state.checksum) = (reader.number(), reader.checksum());
            state.summary.seconds = seconds_before + started.elapsed().as_secs_f64();
            let summary = &state.summary;
            let records = format!("{} records", summary.records);
            progress.update(summary.alleles(), summary.alleles() - done_before, &records);
            if interrupt::requested() {
                journal.save(&state)?;
                progress.finish("interrupted");
                return Err(Error::Interrupted(format!(" after {records}; go on with --resume")));
            }
            // Where no name fits the genome yet, this may be the wrong genome, and nothing to go on with; of a shard others may.
            if journal.is_due() && (state.names.found || share.is_some()) {
                journal.save(&state)?;
            }
        }
        if let Some(share) = share {
            state.warn();
            let told = self.options.told.clone();
            let [input, genome] = [input, self.genome.path()].map(|path| path.display().to_string());
            journal.finish(&state, &Ending { is_packed: is_packed(out), input, genome, told })?;
            drop(saving);
            progress.finish(&format!("{} records", state.summary.records));
            return Ok(Outcome::Shard(share.report));
        }
        if let Some(missing) = state.no_match() {
            return Err(self.aliases.no_match_error(self.genome, input, &missing));
        }
        state.warn();
        journal.save(&state)?;
        drop(saving);
        let summary = publish(&journal.parts(), state, out)?;
        journal.remove()?;
        progress.finish(&format!("{} records", summary.records));
        Ok(Outcome::Whole(summary))
    }

    /// The meta lines, with ours before the header line.
    pub(super) fn header(&self, input: &Path, reader: &mut Reader, header: &[String]) -> Result<Vec<u8>> {
        let mut output = Vec::new();
        loop {
            let line = reader.next_line()?.map(<[u8]>::to_vec);
            let place = reader.place();
            let Some(line) = line else {
                let found = "the file ends before the line that begins with #CHROM";
                return Err(Error::input(input, place, found, "give a VCF file with its header"));
            };
            if line.starts_with(b"##") {
                let ours = [FIELD, SKIPPED].map(|field| format!("##INFO=<ID={field},"));
                if ours.iter().any(|ours| line.starts_with(ours.as_bytes())) {
                    let remedy =
                        format!("take the old ones out first: bcftools annotate -x INFO/{FIELD},INFO/{SKIPPED}");
                    return Err(Error::input(input, place, "the file has these scores already", remedy));
                }
                output.extend(line);
                continue;
            }
            vcf::check_header(&line).map_err(|(found, remedy)| Error::input(input, place, found, remedy))?;
            let end: &[u8] = if line.ends_with(b"\r\n") { b"\r\n" } else { b"\n" };
            for ours in self.header_lines().iter().chain(header) {
                output.extend([ours.as_bytes(), end].concat());
            }
            output.extend(line);
            return Ok(output);
        }
    }

    fn header_lines(&self) -> [String; 2] {
        let distance = self.options.distance;
        let positions = match self.options.positions {
            Positions::GtAg => "a site without its GT or AG counts as probability 0",
            Positions::All => "whatever the bases at the site",
        };
        [
            format!(
                "##INFO=<ID={FIELD},Number=.,Type=String,Description=\"Largest changes in splice-site probability within \
                 {distance} bases of the allele, {positions}. For each allele and gene, or strand: DS the change in \
                 probability (AG acceptor gain, AL acceptor loss, DG donor gain, DL donor loss), DP where: the exon's base \
                 at the site minus POS, . if nothing changes; Consequence which of them is the largest. Format: \
                 ALLELE|GENE|STRAND|DS_AG|DS_AL|DS_DG|DS_DL|DP_AG|DP_AL|DP_DG|DP_DL|Consequence\">"
            ),
            format!(
                "##INFO=<ID={SKIPPED},Number=.,Type=String,Description=\"Alleles that were not scored, and why: \
                 ALLELE|REASON\">"
            ),
        ]
    }

    /// Reads lines and scores them, as many as are worked on at a time; none behind the line of number `last` or at the end of the file.
    fn scored(&self, input: &Path, reader: &mut Reader, last: u64, state: &mut State) -> Result<Round> {
        let most_windows = self.scorer.round_windows();
        let mut round = Round::default();
        let is_cut = |reader: &Reader, round: &Round| !round.lines.is_empty() && reader.number().is_multiple_of(BLOCK);
        while !round.is_full(most_windows) && !is_cut(reader, &round) && reader.number() < last {
            let Some(bytes) = reader.next_line()? else { break };
            let bytes = bytes.to_vec();
            let failed = |(found, remedy)| Error::input(input, reader.place(), found, remedy);
            if bytes.starts_with(b"#") || bytes.trim_ascii().is_empty() {
                round.push(bytes, None);
                continue;
            }
            let record = vcf::parse(&bytes).map_err(failed)?;
            let place = self.place(&bytes, &record, &mut state.names).map_err(failed)?;
            let alleles = record.alternates.len();
            round.push(bytes, Some(record));
            for index in 0..alleles {
                round.allele(|record, windows| self.ask(record, place?, index, windows));
                round.answer(self, most_windows, &mut state.summary.windows)?;
            }
        }
        round.answer(self, 0, &mut state.summary.windows)?;
        self.genome.check()?;
        Ok(round)
    }

    /// The sequence that a record lies on, or why its alleles cannot be scored.
    fn place(&self, bytes: &[u8], record: &Record, names: &mut Names) -> Result<Result<usize, &'static str>, Finding> {
        let keys = bytes[record.info.clone()]
            .split(|&byte| byte == b';')
            .filter_map(|field| field.split(|&byte| byte == b'=').next());
        if let Some(key) = keys.into_iter().find(|key| [FIELD, SKIPPED].map(str::as_bytes).contains(key)) {
            let found =
                format!("an INFO field {} already, which the header does not declare", String::from_utf8_lossy(key));
            return Err((
                found,
                "remove it, as bcftools annotate -x does, or take the file from before it was scored".into(),
            ));
        }
        let Some(sequence) = self.aliases.resolve(self.genome, &record.sequence) else {
            names.missing(&record.sequence);
            return Ok(Err("sequence_not_in_genome"));
        };
        names.found = true;
        if record.position == 0 {
            return Ok(Ok(sequence));
        }
        match self.check_reference(record, sequence) {
            Err(_) if self.options.skip_mismatches => Ok(Err("ref_mismatch")),
            checked => checked.map(|known| known.map(|()| sequence)),
        }
    }

    /// REF is what the genome has; inside, whether the genome's bases are known. Where it has N, an assembly may have another
    /// IUPAC code, for which VCF 4.3 (section 1.6.1.4) wants the first base that it stands for, and no REF contradicts it.
    fn check_reference(&self, record: &Record, sequence: usize) -> Result<Result<(), &'static str>, Finding> {
        let Record { position, reference, .. } = record;
        let of_genome = &self.genome.sequences()[sequence];
        let remedy =
            "use the genome that the variants were called on; or pass such records through (--skip-mismatches)"
                .to_owned();
        let start = position - 1;
        let end = u64::from(start) + reference.len() as u64;
        // One past the end is a telomere (VCF 4.2, section 1.4.1), which no base stands on.
        let is_telomere = start == of_genome.length && record.alternates.iter().all(|allele| allele.bases.is_err());
        if is_telomere {
            return Ok(Ok(()));
        }
        if end > of_genome.length.into() {
            let found = format!(
                "{}:{position} with a REF of {} bases, but {} has {} bases",
                record.sequence,
                reference.len(),
                of_genome.name,
                of_genome.length
            );
            return Err((found, remedy));
        }
        let mut bases = Vec::new();
        self.genome.decode(sequence, start..end as u32, &mut bases);
        if reference.iter().zip(&bases).all(|(&letter, &base)| vcf::agrees(letter, base)) {
            return Ok(if bases.contains(&b'N') { Err("unknown_bases") } else { Ok(()) });
        }
        let found = format!(
            "{}:{position} has REF {}, but {} has {} there",
            record.sequence,
            vcf::excerpt(reference),
            self.genome.path().display(),
            vcf::excerpt(&bases)
        );
        Err((found, remedy))
    }

    /// What has to be scored for alternate allele `index`.
    fn ask(&self, record: &Record, sequence: usize, index: usize, windows: &mut Vec<Vec<u8>>) -> Questioned<Questions> {
        let bases = record.alternates[index].bases.as_deref().map_err(|reason| *reason)?;
        if record.position == 0 {
            return Err("telomere");
        }
        let (shared, replaced, inserted) = trimmed(&record.reference, bases);
        if replaced.len().max(inserted.len()) > self.options.most_bases {
            return Err("too_long");
        }
        let at = record.position - 1 + shared as u32;
        let change = Change::new(self.genome, sequence, at, replaced.len(), inserted).ok_or("repeat_too_long")?;
        let strands: Vec<(Option<Gene>, Strand)> = match self.genes {
            None => vec![(None, Strand::Plus), (None, Strand::Minus)],
            Some(genes) => {
                let over = genes.over(sequence, &change.bases());
                over.into_iter().map(|gene| (Some(gene.clone()), gene.strand)).collect()
            }
        };
        if strands.is_empty() {
            return Err("no_gene");
        }
        let haplotypes = self.haplotypes(sequence, &change);
        let mut asked: Vec<(Option<Gene>, Questions)> = Vec::with_capacity(strands.len());
        for (gene, strand) in strands {
            // Genes on the same strand share their answer.
            let known = asked.iter().find(|(_, questions)| questions.strand == strand);
            let questions = known.map(|(_, questions)| questions.clone()).unwrap_or_else(|| {
                let (scorer, options) = (self.scorer, self.options);
                haplotypes.questions(scorer, strand, options.distance, options.positions, windows)
            });
            asked.push((gene, questions));
        }
        Ok(asked)
    }

    /// The line with its scores.
    fn annotated(&self, line: &Line, summary: &mut Summary) -> Vec<u8> {
        let Some(record) = &line.record else { return line.bytes.clone() };
        summary.records += 1;
        let (mut values, mut skipped) = (Vec::new(), Vec::new());
        for (allele, effects) in record.alternates.iter().zip(&line.effects) {
            match known(effects) {
                Ok(effects) => {
                    summary.scored += 1;
                    let largest = effects.iter().map(|(_, (_, effect))| effect.largest().value()).fold(0.0, f64::max);
                    summary.strong += u64::from(largest >= 0.5);
                    values.extend(effects.iter().map(|(gene, (strand, effect))| {
                        let gene = gene.as_ref().map_or(".".to_owned(), |gene| escaped(&gene.name));
                        format!("{}|{gene}|{strand}|{}", allele.text, fields(effect, record.position))
                    }));
                }
                Err(reason) => {
                    *summary.skipped.entry(reason.to_owned()).or_default() += 1;
                    skipped.push(format!("{}|{reason}", escaped(&allele.text)));
                }
            }
        }
        if record.passed_over > 0 {
            *summary.skipped.entry("too_many_alleles".to_owned()).or_default() += record.passed_over;
            skipped.push(".|too_many_alleles".to_owned());
        } else if record.alternates.is_empty() {
            skipped.push(".|no_alternate_allele".to_owned());
        }
        let fields = [(FIELD, values), (SKIPPED, skipped)];
        let fields = fields.iter().filter(|(_, values)| !values.is_empty());
        let fields: Vec<String> = fields.map(|(name, values)| format!("{name}={}", values.join(","))).collect();
        with_info(&line.bytes, &record.info, &fields.join(";"))
    }
}

/// What an allele does to a gene, or on a strand.
type OfGene = (Option<Gene>, (Strand, Effect));

/// The effects of an allele, or why there are none.
fn known(effects: &Questioned<(Strand, Effect)>) -> Result<&[OfGene], &'static str> {
    let effects = effects.as_ref().map_err(|reason| *reason)?;
    // Nothing changes where all can be read; where some cannot, that would be a guess.
    let is_unknown = |(_, (_, effect)): &(_, (_, Effect))| effect.unreadable > 0 && effect.largest().0 == 0;
    if effects.iter().all(is_unknown) { Err("window_not_readable") } else { Ok(effects) }
}

/// What an allele does to the splice sites of a gene, or of a strand.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changes {
    /// The gene, where an annotation was given.
    pub gene: Option<String>,
    /// Its strand.
    pub strand: String,
    /// The four largest changes, in SpliceAI's order.
    #[serde(flatten)]
    pub by_kind: BTreeMap<&'static str, Largest>,
    /// Which of them is the largest; none where nothing changes.
    pub consequence: Option<&'static str>,
}

/// A largest change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Largest {
    /// The change in probability, in millionths as a VCF file has it.
    pub score: f64,
    /// Where: the exon's base at the site minus the variant's position; none where nothing changes.
    pub offset: Option<i64>,
}

/// An alternate allele, and what it does; or why it is not scored.
pub type AlleleChanges = (String, Result<Vec<Changes>, &'static str>);

impl Annotator<'_> {
    /// The effects of records as a VCF file has them, a line each, in their order: those of its alternate alleles, or what is wrong with the
    /// record and what to do about it. `windows` counts what the model reads.
    ///
    /// # Errors
    /// Those of the device, and of a genome that changes while it is read.
    pub fn effects(&self, lines: &[Vec<u8>], windows: &mut u64) -> Result<Vec<Result<Vec<AlleleChanges>, Finding>>> {
        let most_windows = self.scorer.round_windows();
        let (mut round, mut names) = (Round::default(), Names::default());
        let mut findings = Vec::with_capacity(lines.len());
        for line in lines {
            let read = vcf::parse(line).and_then(|record| Ok((self.place(line, &record, &mut names)?, record)));
            let (record, place) = match read {
                Ok((place, record)) => (Some(record), Ok(place)),
                Err(finding) => (None, Err(finding)),
            };
            let alleles = record.as_ref().map_or(0, |record| record.alternates.len());
            round.push(line.clone(), record);
            if let Ok(place) = place {
                for index in 0..alleles {
                    round.allele(|record, windows| self.ask(record, place?, index, windows));
                    round.answer(self, most_windows, windows)?;
                }
            }
            findings.push(place.err());
        }
        round.answer(self, 0, windows)?;
        self.genome.check()?;
        let changes = |line: &Line| -> Vec<AlleleChanges> {
            let Some(record) = &line.record else { return Vec::new() };
            let alleles = record.alternates.iter().zip(&line.effects);
            let of = |effects: &[OfGene]| effects.iter().map(|of| changes(of, record)).collect();
            alleles.map(|(allele, effects)| (allele.text.clone(), known(effects).map(of))).collect()
        };
        Ok(round
            .lines
            .iter()
            .zip(findings)
            .map(|(line, finding)| finding.map_or_else(|| Ok(changes(line)), Err))
            .collect())
    }
}

fn changes((gene, (strand, effect)): &OfGene, record: &Record) -> Changes {
    let largest =
        deltas(effect).map(|delta| Largest { score: delta.score.value(), offset: offset(delta, record.position) });
    Changes {
        gene: gene.as_ref().map(|gene| gene.name.clone()),
        strand: strand.to_string(),
        by_kind: KINDS.into_iter().zip(largest).collect(),
        consequence: strongest(effect),
    }
}

/// The names of [`deltas`].
const KINDS: [&str; 4] = ["acceptor_gain", "acceptor_loss", "donor_gain", "donor_loss"];

/// Where a change is, relative to the 1-based `position`.
fn offset(delta: Delta, position: u32) -> Option<i64> {
    (delta.score.0 > 0).then(|| i64::from(delta.base) + 1 - i64::from(position))
}

/// The name of the largest change, if there is one.
fn strongest(effect: &Effect) -> Option<&'static str> {
    let strongest = deltas(effect).into_iter().zip(KINDS).rev().max_by_key(|(delta, _)| delta.score);
    strongest.filter(|(delta, _)| delta.score.0 > 0).map(|(_, name)| name)
}

/// Four scores, four positions relative to the 1-based `position`, and the name of the largest score.
fn fields(effect: &Effect, position: u32) -> String {
    let deltas = deltas(effect);
    let scores = deltas.map(|delta| format!("{:.DECIMALS$}", delta.score.value()));
    let places = deltas.map(|delta| offset(delta, position).map_or(".".to_owned(), |offset| offset.to_string()));
    let consequence = strongest(effect).unwrap_or(".");
    format!("{}|{}|{consequence}", scores.join("|"), places.join("|"))
}

/// Which sequence names were met.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Names {
    found: bool,
    missing: Vec<String>,
}

impl Names {
    /// The most that are kept for the message.
    const MOST: usize = 1000;

    fn missing(&mut self, name: &str) {
        if self.missing.len() < Self::MOST && self.missing.last().is_none_or(|last| last != name) {
            let is_new = !self.missing.iter().any(|known| known == name);
            if is_new {
                self.missing.push(name.to_owned());
            }
        }
    }

    fn list(&self) -> String {
        const SHOWN: usize = 8;
        let shown = self.missing[..self.missing.len().min(SHOWN)].join(", ");
        if self.missing.len() > SHOWN { shown + ", ..." } else { shown }
    }
}

fn is_packed(out: &Path) -> bool {
    out.extension().is_some_and(|extension| extension == "gz" || extension == "bgz")
}

/// How what is appended to the journal of `out` is written: as it is, or as blocks of bgzip, which tabix can index.
fn encoding_of(out: &Path) -> impl Fn(&[u8]) -> Result<Vec<u8>> {
    let (is_packed, out) = (is_packed(out), out.to_owned());
    move |bytes| {
        if !is_packed {
            return Ok(bytes.to_vec());
        }
        let mut writer = noodles_bgzf::io::Writer::new(Vec::new());
        let written = writer.write_all(bytes).and_then(|()| writer.flush());
        written.map_err(Error::io("write", &out))?;
        Ok(writer.into_inner())
    }
}

/// The empty block that ends a bgzip file.
fn bgzip_end(out: &Path) -> Result<Vec<u8>> {
    noodles_bgzf::io::Writer::new(Vec::new()).finish().map_err(Error::io("write", out))
}
