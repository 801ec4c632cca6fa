//! What the third column says: a term of the Sequence Ontology (www.sequenceontology.org), or its accession.
//!
//! Terms are sorted as gffread sorts them (gpertea/gclib, `GffLine`), by how they begin and end, in upper or lower case: so the kinds of
//! exon and of transcript that the ontology has, and those that it is yet to have, are known.

/// What a line describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feature {
    /// An exon of any kind.
    Exon,
    /// A part of one: coding sequence, untranslated region, codon.
    Part,
    /// A transcript.
    Transcript,
    /// A gene.
    Gene,
    /// Anything else.
    Other,
}

/// Exons, and what is not called by its ending.
const BY_NAME: [(&str, Feature); 17] = [
    ("so:0000147", Feature::Exon),
    ("so:0000004", Feature::Exon),
    ("so:0000195", Feature::Exon),
    ("so:0000198", Feature::Exon),
    ("so:0000200", Feature::Exon),
    ("so:0000201", Feature::Exon),
    ("so:0000202", Feature::Exon),
    ("so:0000444", Feature::Exon),
    ("so:0000445", Feature::Exon),
    ("so:0000464", Feature::Exon),
    ("so:0000507", Feature::Exon),
    ("so:0005845", Feature::Exon),
    ("exon_of_single_exon_gene", Feature::Exon),
    ("so:0000316", Feature::Part),
    ("so:0000234", Feature::Transcript),
    ("so:0000673", Feature::Transcript),
    ("so:0000704", Feature::Gene),
];

impl Feature {
    pub(super) fn of(term: &[u8]) -> Self {
        let term = String::from_utf8_lossy(term).trim().to_ascii_lowercase();
        let ends = |ending: &str| term.ends_with(ending);
        let has = |part: &str| term.contains(part);
        if let Some((_, feature)) = BY_NAME.iter().find(|(name, _)| *name == term) {
            return *feature;
        }
        if ends("match") || ends("intron") || term.starts_with("intron") {
            Self::Other
        } else if has("utr") {
            Self::Part
        } else if ends("exon") {
            Self::Exon
        } else if has("codon") && (has("start") || has("stop")) && !has("redefined") && !has("selenocysteine")
            || term == "cds"
        {
            Self::Part
        } else if ends("rna") || ends("transcript") || ends("_gene_segment") {
            Self::Transcript
        } else if ends("gene") || term.starts_with("gene") {
            Self::Gene
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_sorted_as_gffread_sorts_them() {
        for (feature, terms) in [
            (
                Feature::Exon,
                "exon Exon EXON pseudogenic_exon coding_exon noncoding_exon interior_exon interior_coding_exon \
                 five_prime_coding_exon three_prime_noncoding_exon decayed_exon exon_of_single_exon_gene SO:0000147",
            ),
            (Feature::Part, "CDS cds five_prime_UTR 3UTR UTR start_codon stop_codon"),
            (
                Feature::Transcript,
                "mRNA transcript lnc_RNA pseudogenic_transcript primary_transcript tRNA V_gene_segment \
                 telomerase_RNA SO:0000234",
            ),
            (Feature::Gene, "gene ncRNA_gene pseudogene"),
            (
                Feature::Other,
                "chromosome region intron cDNA_match biological_region Selenocysteine five_prime_intron \
                 stop_codon_redefined_as_selenocysteine exon_junction polypeptide",
            ),
        ] {
            for term in terms.split_whitespace() {
                assert_eq!(Feature::of(term.as_bytes()), feature, "{term}");
            }
        }
    }
}
