//! From exons that name their transcript to transcripts. Where the file does not say how they belong together, they are left out,
//! counted and named; no intron is made up between pieces of two.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::assemble::{Builder, Entry, Place, Segment};
use super::copies::copies;
use super::fates::Fates;
use super::feature::Feature;
use super::{Annotation, Exon, Format, Oddities, Strand, Transcript};

/// What became of a line of an exon or of a part of one, by its best use: a line may have several parents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Exon,
    Inside,
    PartlyOutside,
    LeftOut,
    NoTranscript,
}

impl Use {
    fn reason(self) -> &'static str {
        match self {
            Self::Exon | Self::Inside => "inside_exons",
            Self::PartlyOutside => "partly_outside_exons",
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
        let mut spans: HashMap<usize, Vec<&(u64, Place)>> = HashMap::new();
        // The entries outlive what is changed here.
        let builder = self.builder;
        for span in builder.entries.get(&id).into_iter().flat_map(|entry| &entry.places) {
            spans.entry(span.1.sequence).or_default().push(span);
        }
        let mut sequences = 0;
        for group in segments.chunk_by(|a, b| a.place.sequence == b.place.sequence) {
            sequences += 1;
            let spans = spans.get(&group[0].place.sequence).map_or(&[][..], Vec::as_slice);
            let copies = match self.is_trans_spliced(&id, group) {
                true => Err("trans_spliced"),
                false => copies(group, spans),
            };
            match copies {
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

    /// Whether a piece, the transcript or its gene says that the transcript is joined from several.
    fn is_trans_spliced(&self, id: &str, group: &[Segment]) -> bool {
        let says_so = |entry: Option<&Entry>| entry.is_some_and(|entry| entry.is_trans_spliced);
        group.iter().any(|segment| segment.is_trans_spliced) || says_so(self.entry(id)) || says_so(self.gene_entry(id))
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
                Some(last) if has_exons && range.start < last.end => {
                    last.end = last.end.max(range.end);
                    self.oddities.overlapping_exons += 1;
                }
                _ if has_exons => exons.push(range.clone()),
                _ => join_or_push(&mut exons, range),
            }
            self.used(segment, Use::Exon);
        }
        self.oddities.transcripts_of_coding_parts += u64::from(!has_exons);
        if has_exons {
            self.place_parts(segments, &mut exons);
        }
        let entry = self.entry(id);
        let gene = entry.and_then(|entry| entry.parent.clone()).unwrap_or_else(|| id.to_owned());
        let of_gene = self.gene(&gene);
        let biotype = entry.into_iter().chain(of_gene).find_map(|entry| entry.biotype.clone());
        let name = of_gene.and_then(|entry| entry.name.clone());
        let gene_name = name.unwrap_or_else(|| gene.strip_prefix("gene:").unwrap_or(&gene).into());
        let sequence = self.builder.sequences.names[segments[0].place.sequence].clone();
        Ok(Transcript { sequence, strand, exons, biotype, id: id.to_owned(), gene, gene_name })
    }

    /// What becomes of the parts of exons of a transcript that has exon lines: where there is none, the exon is there all the same.
    fn place_parts(&mut self, segments: &[&Segment], exons: &mut Vec<Range<u32>>) {
        // Exons that touch hold what lies over both.
        let mut runs: Vec<Range<u32>> = Vec::with_capacity(exons.len());
        for exon in exons.iter() {
            join_or_push(&mut runs, exon);
        }
        let mut outside: Vec<Range<u32>> = Vec::new();
        for segment in segments.iter().filter(|segment| !segment.is_exon) {
            let range = &segment.place.range;
            // The first that could hold it, or touch its end; one before may touch its start.
            let at = runs.partition_point(|run| run.end <= range.start);
            let is_inside = runs.get(at).is_some_and(|run| run.start <= range.start && range.end <= run.end);
            let touches = runs.get(at).is_some_and(|run| run.start <= range.end)
                || at.checked_sub(1).is_some_and(|before| runs[before].end == range.start);
            if is_inside {
                self.used(segment, Use::Inside);
            } else if touches {
                self.used(segment, Use::PartlyOutside);
            } else {
                join_or_push(&mut outside, range);
                self.used(segment, Use::Exon);
                self.oddities.parts_outside_exons += 1;
            }
        }
        exons.extend(outside);
        exons.sort_by_key(|exon| exon.start);
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

/// Adds a range to those that are sorted by their starts; what overlaps or touches the last one makes it longer.
fn join_or_push(ranges: &mut Vec<Range<u32>>, range: &Range<u32>) {
    match ranges.last_mut() {
        Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
        _ => ranges.push(range.clone()),
    }
}
