//! Genes by their names, and what may have been meant by one that is not there.

use std::collections::HashMap;

use crate::{Error, Result};

/// Names that are told for one that is not there.
const TOLD: usize = 5;
/// The least likeness (Jaro and Winkler, 0 to 1) of a name that is told.
const ALIKE: f64 = 0.8;

/// The place of each of `wanted` among `genes`.
///
/// # Errors
/// [`Error::Usage`] for one that is not there, with names that are like it.
pub fn find(genes: &[String], wanted: &[String]) -> Result<Vec<usize>> {
    let index: HashMap<&str, usize> = genes.iter().enumerate().map(|(at, gene)| (gene.as_str(), at)).collect();
    wanted.iter().map(|name| index.get(name.as_str()).copied().ok_or_else(|| unknown(genes, name))).collect()
}

fn unknown(genes: &[String], name: &str) -> Error {
    let upper = name.to_uppercase();
    let likenesses = genes.iter().map(|gene| (strsim::jaro_winkler(&upper, &gene.to_uppercase()), gene));
    let mut alike: Vec<(f64, &String)> = likenesses.filter(|(likeness, _)| *likeness >= ALIKE).collect();
    alike.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(other.1)));
    let names: Vec<&str> = alike.iter().take(TOLD).map(|(_, gene)| gene.as_str()).collect();
    let remedy = match names[..] {
        [] => {
            let some: Vec<&str> = genes.iter().take(TOLD).map(String::as_str).collect();
            format!("name genes as the vectors do: {} ...", some.join(", "))
        }
        _ => format!("did you mean {}?", names.join(", ")),
    };
    Error::usage(format!("the gene {name} has no vector"), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_alike_are_told() {
        let genes = ["TP53", "TP63", "BRCA1", "BRCA2", "MYC"].map(str::to_owned);
        assert_eq!(find(&genes, &["MYC".into(), "TP53".into()]).unwrap(), [4, 0]);
        let told = |name: &str| find(&genes, &[name.into()]).unwrap_err().to_string();
        assert!(told("brca1").contains("did you mean BRCA1, BRCA2"), "{}", told("brca1"));
        assert!(told("TP5").contains("TP53"), "{}", told("TP5"));
        assert!(told("XXXX").contains("name genes as the vectors do: TP53"), "{}", told("XXXX"));
    }
}
