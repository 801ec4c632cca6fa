//! From exons that name their transcript to transcripts. Where the file does not say how they belong together, they are left out,
//! counted and named; no intron is made up between pieces of two.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::assemble::{Builder, Entry, Segment};
use super::fates::Fates;
use super::feature::Feature;
use super::{Annotation, Exon, Format, Oddities, Strand, Transcript};

/// Exons of one transcript that lie farther apart without a line that spans both are those of two of one name: gffread's
/// `GFF_MAX_LOCUS`.
const LONGEST_INTRON: u32 = 7_000_000;

/// What became of a line of an exon or of a part of one, by its best use: a line may have several parents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Exon,
    Inside,
    LeftOut,
    NoTranscript,
}

impl Use {
    fn reason(self) -> &'static str {
        match self {
            Self::Exon | Self::Inside => "inside_exons",
            Self::LeftOut => "of_transcripts_left_out",
            Self::NoTranscript => "of_no_transcript",
        }
    }
}

struct Grouping<'a> {
    builder: &'a Builder<'a>,
    format: Format,
    /// Genes that have transcripts of their own.
    parents: HashSet<&'a str>,
    uses: Vec<Use>,
    made: Vec<Transcript>,
    doubtful: Vec<Exon>,
    fates: Fates,
    oddities: Oddities,
}

/// Groups everything that was collected.
pub(super) fn transcripts(mut builder: Builder<'_>, format: Format) -> Annotation {
    let mut segments = std::mem::take(&mut builder.segments);
    let key = |segment: &Segment| {
        let place = &segment.place;
        (segment.transcript, place.sequence, place.range.start, place.range.end, segment.order)
    };
    segments.sort_by_key(key);
    let parents = builder.entries.values().filter(|entry| entry.feature == Some(Feature::Transcript));
    let mut grouping = Grouping {
        parents: parents.filter_map(|entry| entry.parent.as_deref()).collect(),
        uses: vec![Use::NoTranscript; builder.segment_lines],
        builder: &builder,
        format,
        made: Vec::new(),
        doubtful: Vec::new(),
        fates: Fates::default(),
        oddities: Oddities::default(),
    };
    for of_one in segments.chunk_by(|a, b| a.transcript == b.transcript) {
        grouping.add(of_one);
    }
    grouping.without_exons();
    let lines = grouping.lines();
    let Grouping { made, doubtful, mut fates, oddities, .. } = grouping;
    fates.used = made.len() as u64;
    let Builder { path, circular, .. } = builder;
    Annotation { path: path.to_owned(), format, transcripts: made, oddities, fates, lines, doubtful, circular }
}

impl Grouping<'_> {
    fn id(&self, segment: &Segment) -> &str {
        &self.builder.transcripts.names[segment.transcript]
    }

    fn entry(&self, id: &str) -> Option<&Entry> {
        self.builder.entries.get(id)
    }

    fn gene_entry(&self, id: &str) -> Option<&Entry> {
        self.gene(self.entry(id)?.parent.as_deref()?)
    }

    /// What is known of a gene: GTF's have IDs of their own.
    fn gene(&self, id: &str) -> Option<&Entry> {
        let genes = if self.format == Format::Gtf { &self.builder.genes } else { &self.builder.entries };
        genes.get(id)
    }

    /// Everything with one ID.
    fn add(&mut self, segments: &[Segment]) {
        let id = self.id(&segments[0]).to_owned();
        let feature = self.entry(&id).and_then(|entry| entry.feature);
        let has_exons = segments.iter().any(|segment| segment.is_exon);
        // Proteins have parts of exons as well; and so do genes, beside transcripts which say more.
        let is_transcript = match feature {
            _ if has_exons => true,
            Some(Feature::Other) => false,
            Some(Feature::Gene) => !self.parents.contains(id.as_str()),
            _ => true,
        };
        if !is_transcript {
            return;
        }
        let mut sequences = 0;
        for group in segments.chunk_by(|a, b| a.place.sequence == b.place.sequence) {
            sequences += 1;
            match self.copies(&id, group) {
                Err(reason) => self.leave_out(&id, group.iter(), reason),
                Ok(copies) => {
                    self.oddities.transcripts_at_several_places += u64::from(copies.len() > 1);
                    for copy in copies {
                        match self.transcript(&id, &copy) {
                            Ok(transcript) => self.made.push(transcript),
                            Err(reason) => self.leave_out(&id, copy.into_iter(), reason),
                        }
                    }
                }
            }
        }
        self.oddities.transcripts_on_several_sequences += u64::from(sequences > 1);
    }

    fn leave_out<'s>(&mut self, id: &str, segments: impl Iterator<Item = &'s Segment>, reason: &'static str) {
        self.fates.leave_out(reason, id);
        for segment in segments {
            self.used(segment, Use::LeftOut);
            let place = &segment.place;
            let strands = place.strand.map_or(vec![Strand::Plus, Strand::Minus], |strand| vec![strand]);
            self.doubtful.extend(strands.into_iter().map(|strand| Exon {
                sequence: self.builder.sequences.names[place.sequence].clone(),
                strand,
                range: place.range.clone(),
            }));
        }
    }

    fn used(&mut self, segment: &Segment, how: Use) {
        let known = &mut self.uses[segment.line];
        *known = how.min(*known);
    }

    /// The pieces of one ID on one sequence, sorted by place: one transcript, or several of one name.
    fn copies<'s>(&self, id: &str, group: &'s [Segment]) -> Result<Vec<Vec<&'s Segment>>, &'static str> {
        let entry = self.entry(id);
        let says_so = |entry: Option<&Entry>| entry.is_some_and(|entry| entry.is_trans_spliced);
        let segments_say_so = group.iter().any(|segment| segment.is_trans_spliced);
        if segments_say_so || says_so(entry) || says_so(self.gene_entry(id)) {
            return Err("trans_spliced");
        }
        let sequence = group[0].place.sequence;
        let spans: Vec<_> =
            entry.iter().flat_map(|entry| &entry.places).filter(|(_, place)| place.sequence == sequence).collect();
        let mut copies: Vec<Vec<&Segment>> = match spans.len() {
            0 => apart(group),
            1 => vec![group.iter().collect()],
            _ => {
                let mut copies = vec![Vec::new(); spans.len()];
                for segment in group {
                    let (at, place) = (segment.order, &segment.place);
                    let holds = |&index: &usize| {
                        let span = &spans[index].1;
                        let on_strand = span.strand.is_none() || place.strand.is_none() || span.strand == place.strand;
                        on_strand && span.range.start <= place.range.start && place.range.end <= span.range.end
                    };
                    let of: Vec<usize> = (0..spans.len()).filter(holds).collect();
                    // Where several could hold it, the line that stands last before it does.
                    let chosen = match of[..] {
                        [only] => Some(only),
                        _ => of.into_iter().rfind(|&index| spans[index].0 < at),
                    };
                    copies[chosen.ok_or(UNTOLD)?].push(segment);
                }
                // A line that only repeats another one is no transcript of its own.
                let has_exons: Vec<bool> = copies.iter().map(|copy| !copy.is_empty()).collect();
                let is_same = |a: usize, b: usize| {
                    (spans[a].1.strand, &spans[a].1.range) == (spans[b].1.strand, &spans[b].1.range)
                };
                let repeats = |index: usize| (0..spans.len()).any(|other| has_exons[other] && is_same(index, other));
                let mut index = 0..;
                copies.retain(|copy| {
                    let index = index.next().unwrap_or(0);
                    !copy.is_empty() || !repeats(index)
                });
                copies
            }
        };
        let is_one = copies.len() == 1;
        if is_one {
            copies = numbered_anew(&copies[0]);
        }
        let is_told = |copy: &Vec<&Segment>| !copy.is_empty() && !exons_of(copy).any(|(a, b)| b.start < a.end);
        if (spans.len() > 1 || copies.len() > 1) && !copies.iter().all(is_told) {
            return Err(UNTOLD);
        }
        Ok(copies)
    }

    /// The transcript made of `segments`, sorted by place.
    fn transcript(&mut self, id: &str, segments: &[&Segment]) -> Result<Transcript, &'static str> {
        let strands: HashSet<_> = segments.iter().filter_map(|segment| segment.place.strand).collect();
        if strands.len() > 1 {
            return Err("on_both_strands");
        }
        let &strand = strands.iter().next().ok_or("without_strand")?;
        let has_exons = segments.iter().any(|segment| segment.is_exon);
        let numbers: Vec<u32> = segments.iter().filter(|s| s.is_exon).filter_map(|segment| segment.number).collect();
        let is_numbered = numbers.len() == segments.iter().filter(|segment| segment.is_exon).count();
        if is_numbered && !numbers.is_sorted() && !numbers.is_sorted_by(|a, b| a >= b) {
            return Err("exons_not_in_order");
        }
        let mut exons: Vec<Range<u32>> = Vec::with_capacity(segments.len());
        for segment in segments.iter().filter(|segment| segment.is_exon || !has_exons) {
            let range = &segment.place.range;
            match exons.last_mut() {
                Some(last) if range.start < last.end || (!has_exons && range.start == last.end) => {
                    last.end = last.end.max(range.end);
                    self.oddities.overlapping_exons += u64::from(has_exons);
                }
                _ => exons.push(range.clone()),
            }
            self.used(segment, Use::Exon);
        }
        self.oddities.transcripts_of_coding_parts += u64::from(!has_exons);
        // A part of an exon where there is no exon line: the exon is there all the same.
        for segment in segments.iter().filter(|segment| has_exons && !segment.is_exon) {
            let range = &segment.place.range;
            let at = exons.partition_point(|exon| exon.end < range.start);
            if exons.get(at).is_some_and(|exon| exon.start <= range.end) {
                self.used(segment, Use::Inside);
            } else {
                exons.insert(at, range.clone());
                self.used(segment, Use::Exon);
                self.oddities.parts_outside_exons += 1;
            }
        }
        let entry = self.entry(id);
        let gene = entry.and_then(|entry| entry.parent.clone()).unwrap_or_else(|| id.to_owned());
        let of_gene = self.gene(&gene);
        let biotype = entry.into_iter().chain(of_gene).find_map(|entry| entry.biotype.clone());
        let name = of_gene.and_then(|entry| entry.name.clone());
        let gene_name = name.unwrap_or_else(|| gene.strip_prefix("gene:").unwrap_or(&gene).to_owned());
        let sequence = self.builder.sequences.names[segments[0].place.sequence].clone();
        Ok(Transcript { sequence, strand, exons, biotype, id: id.to_owned(), gene, gene_name })
    }

    /// Transcripts that have a line of their own and neither exons nor parts of them: where their introns are nobody knows.
    fn without_exons(&mut self) {
        let entries = self.builder.entries.iter();
        let bare = entries.filter(|(id, entry)| {
            entry.feature == Some(Feature::Transcript) && entry.lines > 0 && !self.builder.transcripts.has(id)
        });
        let mut bare: Vec<_> = bare.map(|(id, entry)| (entry.places.first().map(|(order, _)| order), id)).collect();
        bare.sort();
        for (_, id) in bare {
            self.fates.leave_out("without_exons", id);
        }
    }

    /// What became of all lines.
    fn lines(&self) -> Fates {
        let mut lines = self.builder.lines.clone();
        for how in &self.uses {
            match how {
                Use::Exon => lines.used += 1,
                _ => lines.leave_out_lines(how.reason(), 1),
            }
        }
        // A used transcript's line, and those of its gene and whatever else stands above it.
        let is_gtf = self.format == Format::Gtf;
        let mut used: HashSet<&str> = HashSet::new();
        let mut used_genes: HashSet<&str> = HashSet::new();
        for transcript in &self.made {
            let mut id = Some(transcript.id.as_str());
            while let Some(this) = id.filter(|this| used.insert(this)) {
                let parent = self.entry(this).and_then(|entry| entry.parent.as_deref());
                id = if is_gtf { None } else { parent };
            }
            used_genes.insert(&transcript.gene);
        }
        let count = |entries: &HashMap<String, Entry>, used: &HashSet<&str>, lines: &mut Fates| {
            for (id, entry) in entries.iter().filter(|(_, entry)| entry.lines > 0) {
                match entry.feature {
                    _ if used.contains(id.as_str()) => lines.used += entry.lines,
                    Some(Feature::Gene) => lines.leave_out_lines("of_genes_without_transcripts", entry.lines),
                    Some(Feature::Transcript) => lines.leave_out_lines("of_transcripts_left_out", entry.lines),
                    _ => lines.leave_out_lines("of_other_features", entry.lines),
                }
            }
        };
        count(&self.builder.entries, &used, &mut lines);
        count(&self.builder.genes, &used_genes, &mut lines);
        lines
    }
}

/// Several transcripts of one name in one place, as the file does not say which exon is whose.
const UNTOLD: &str = "of_one_name_and_not_told_apart";

/// Neighbours among the exons, or among the parts where there are none.
fn exons_of<'s>(copy: &'s [&Segment]) -> impl Iterator<Item = (&'s Range<u32>, &'s Range<u32>)> {
    let has_exons = copy.iter().any(|segment| segment.is_exon);
    let of = move |segment: &&&Segment| segment.is_exon || !has_exons;
    let ranges = || copy.iter().filter(of).map(|segment| &segment.place.range);
    ranges().zip(ranges().skip(1))
}

/// Cuts where no intron can be so long.
fn apart(group: &[Segment]) -> Vec<Vec<&Segment>> {
    let mut copies: Vec<Vec<&Segment>> = Vec::new();
    let mut end = 0;
    for segment in group {
        let range = &segment.place.range;
        if copies.is_empty() || range.start > LONGEST_INTRON.saturating_add(end) {
            copies.push(Vec::new());
        }
        end = range.end.max(end);
        copies.last_mut().into_iter().for_each(|copy| copy.push(segment));
    }
    copies
}

/// Cuts, in the order of the file, where an exon's number comes again for another exon.
fn numbered_anew<'s>(segments: &[&'s Segment]) -> Vec<Vec<&'s Segment>> {
    let mut in_order = segments.to_vec();
    in_order.sort_by_key(|segment| segment.order);
    let mut copies: Vec<Vec<&Segment>> = vec![Vec::new()];
    let mut seen: HashMap<u32, &Range<u32>> = HashMap::new();
    for segment in in_order {
        if let Some(number) = segment.number {
            let range = &segment.place.range;
            if seen.get(&number).is_some_and(|known| *known != range) {
                copies.push(Vec::new());
                seen.clear();
            }
            seen.insert(number, range);
        }
        copies.last_mut().into_iter().for_each(|copy| copy.push(segment));
    }
    for copy in &mut copies {
        copy.sort_by_key(|segment| (segment.place.range.start, segment.place.range.end, segment.order));
    }
    copies
}
