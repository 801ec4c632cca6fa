//! Motifs in the minimal MEME format (meme-suite.org/meme/doc/meme-format.html), which MEME's tools, Biopython and
//! logo programs read.

use std::fmt::Write as _;

use super::Motif;

/// The file's text. `background` are the frequencies of A, C, G, T in all sequences.
pub fn format(motifs: &[Motif], background: [f64; 4]) -> String {
    let mut text = String::from("MEME version 4\n\nALPHABET= ACGT\n\nstrands: +\n\nBackground letter frequencies\n");
    let [a, c, g, t] = background;
    let _ = writeln!(text, "A {a:.5} C {c:.5} G {g:.5} T {t:.5}\n");
    for (number, motif) in (1..).zip(motifs) {
        let _ = writeln!(text, "MOTIF {number}_{0} {0}", motif.name);
        let width = motif.counts.len();
        let _ = writeln!(
            text,
            "letter-probability matrix: alength= 4 w= {width} nsites= {} E= {:.3e}",
            motif.places, motif.fdr
        );
        for counts in &motif.counts {
            let shares = counts.map(|count| count as f64 / motif.places.max(1) as f64);
            let _ = writeln!(text, " {:.6} {:.6} {:.6} {:.6}", shares[0], shares[1], shares[2], shares[3]);
        }
        text.push('\n');
    }
    text
}
