//! Sets of genes: a line a set, its name, a description and its genes, separated by tabs (GMT, as MSigDB and Enrichr write it).

use std::collections::HashSet;
use std::path::Path;

use crate::kmer::lines::Lines;
use crate::{Error, Result};

/// A named set of genes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneSet {
    /// What it is called.
    pub name: String,
    /// Its genes, each once.
    pub genes: Vec<String>,
}

/// Reads a GMT file, plain or gzipped. Enrichr's weights (`TP53,1.0`) are passed over.
///
/// # Errors
/// [`Error::Input`] with the line for one that has no name or no column of genes, and for a file without a set; [`Error::Io`].
pub fn read_gmt(path: &Path) -> Result<Vec<GeneSet>> {
    let mut lines = Lines::open(path)?;
    let mut sets = Vec::new();
    while let Some(line) = lines.next_line()? {
        if line.trim().is_empty() {
            continue;
        }
        let columns: Vec<&str> = line.split('\t').map(str::trim).collect();
        let remedy = "a line of a .gmt file is a set: its name, a description (which may be empty) and its genes, separated by tabs";
        let found = match columns.len() {
            0..3 => Some(format!("{} columns", columns.len())),
            _ => columns[0].is_empty().then(|| "a set without a name".to_owned()),
        };
        if let Some(found) = found {
            return Err(Error::input(path, format!("line {}", lines.number()), found, remedy));
        }
        let mut known = HashSet::new();
        let genes = columns[2..].iter().map(|gene| without_weight(gene)).filter(|gene| !gene.is_empty());
        let genes = genes.filter(|gene| known.insert(*gene)).map(str::to_owned).collect();
        sets.push(GeneSet { name: columns[0].to_owned(), genes });
    }
    if sets.is_empty() {
        return Err(Error::input(path, "", "no set of genes", "check the path, or write the file again"));
    }
    Ok(sets)
}

fn without_weight(gene: &str) -> &str {
    match gene.rsplit_once(',') {
        Some((gene, weight)) if weight.parse::<f64>().is_ok() => gene.trim(),
        _ => gene,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<GeneSet>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_gmt(file.path())
    }

    #[test]
    fn sets_have_each_gene_once_without_weights() {
        let sets = read("A\t\tTP53,1.0\tMDM2\tTP53\t\n\nB of c\thttp://x\tGENE,X\r\n").unwrap();
        assert_eq!(sets[0], GeneSet { name: "A".into(), genes: vec!["TP53".into(), "MDM2".into()] });
        assert_eq!(sets[1], GeneSet { name: "B of c".into(), genes: vec!["GENE,X".into()] });
    }

    #[test]
    fn what_is_no_gmt_is_told() {
        for (text, expected) in [
            ("", "no set of genes"),
            ("A\tx\tG\nB C D\n", "line 2: 1 columns"),
            ("\tx\tG\n", "line 1: a set without a name"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
