//! Similar words become one motif.

use super::Word;

/// Words around a seed, by their index; a member lies so many bases behind the place where the seed would begin, with the
/// sign turned: adding `shift` to a member's place gives the seed's.
pub(super) struct Cluster {
    pub seed: usize,
    /// The seed itself first.
    pub members: Vec<(usize, i64)>,
}

/// Puts each word, the most significant first, to the first seed that it agrees with, or makes it a seed. Words agree when
/// some alignment without gaps has as many equal bases as the shortest allowed word less one, and at least half of the shorter
/// word's (DNABERT's rule). DNABERT begins with the longest word; but that is often one of a single sequence, which many words
/// agree with somewhere or other, and their motif is a smear.
pub(super) fn merge(words: &[Word], min_length: usize) -> Vec<Cluster> {
    let mut order: Vec<usize> = (0..words.len()).collect();
    order.sort_by(|&one, &other| {
        let (one, other) = (&words[one], &words[other]);
        one.p_value.total_cmp(&other.p_value).then_with(|| other.bases.len().cmp(&one.bases.len()))
    });
    let mut clusters: Vec<Cluster> = Vec::new();
    for index in order {
        let bases = words[index].bases.as_bytes();
        let fitting = clusters.iter_mut().find_map(|cluster| {
            let seed = words[cluster.seed].bases.as_bytes();
            let (equal, shift) = best_alignment(seed, bases);
            let needed = (min_length - 1).max(bases.len().min(seed.len()).div_ceil(2));
            (equal >= needed).then_some((cluster, shift))
        });
        match fitting {
            Some((cluster, shift)) => cluster.members.push((index, shift)),
            None => clusters.push(Cluster { seed: index, members: vec![(index, 0)] }),
        }
    }
    clusters
}

/// The most equal bases over all alignments without gaps, and what to add to a place of `word` to get the seed's.
fn best_alignment(seed: &[u8], word: &[u8]) -> (usize, i64) {
    let (seed_length, length) = (seed.len() as i64, word.len() as i64);
    let mut best = (0, 0);
    // `offset` is where the word begins in the seed.
    for offset in 1 - length..seed_length {
        let equal = (0..length)
            .filter(|&at| {
                usize::try_from(at + offset).ok().and_then(|place| seed.get(place)) == Some(&word[at as usize])
            })
            .count();
        if equal > best.0 {
            best = (equal, -offset);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignments() {
        assert_eq!(best_alignment(b"TATAATGC", b"TAATGC"), (6, -2));
        assert_eq!(best_alignment(b"TATAATGC", b"GGTATAAT"), (6, 2));
        assert_eq!(best_alignment(b"AAAA", b"CCCC"), (0, 0));
    }

    #[test]
    fn similar_words_share_a_cluster() {
        let word = |bases: &str| Word {
            bases: bases.into(),
            in_class: 1,
            in_others: 0,
            p_value: 0.0,
            fdr: 0.0,
            places: Vec::new(),
        };
        let words = ["TAATGC", "CCCGGG", "TATAATGC", "GGTATAAT"].map(word);
        let clusters = merge(&words, 5);
        let members: Vec<Vec<(usize, i64)>> = clusters.iter().map(|cluster| cluster.members.clone()).collect();
        assert_eq!(members, [vec![(2, 0), (3, 2), (0, -2)], vec![(1, 0)]]);
        // Long words have to agree in half of the shorter one, not only in as many bases as the shortest has.
        let long = ["AAAAAAAAAAAA", "CCCCCCAAAAAC", "CCCCCAAAAAAC"].map(word);
        let seeds: Vec<usize> = merge(&long, 5).iter().map(|cluster| cluster.members.len()).collect();
        assert_eq!(seeds, [2, 1], "5 of 12 are too few, 6 are not");
        // The most significant word is the seed, however short.
        let mut words = words;
        words[1..].iter_mut().for_each(|word| word.p_value = 0.001);
        let members: Vec<Vec<(usize, i64)>> = merge(&words, 5).into_iter().map(|cluster| cluster.members).collect();
        assert_eq!(members, [vec![(0, 0), (2, 2), (3, 4)], vec![(1, 0)]]);
    }
}
