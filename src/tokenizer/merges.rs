//! Byte-pair encoding of a word, in time proportional to its length.
//!
//! Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016. The definition: begin with the
//! letters; as long as neighbours have a merge, do the one of lowest rank, the leftmost first. A word of DNA is a whole sequence, so
//! that doing this literally would look at kilobases again for every merge.
//!
//! Two facts make one pass from left to right of it. What happens inside a token does not depend on what is around it, as its
//! boundaries were never crossed: so the tokens in front of any boundary are those of the letters in front of it, taken alone. And a
//! row of tokens is the encoding if every two neighbours could stand side by side ([`Merges::may_follow`]). So: take the longest token
//! that may follow the one before; where none may, the one before was wrong, and the next shorter is tried. A place from which
//! nothing leads on is remembered, so that no place is left twice.
//!
//! Which tokens may follow which is asked again and again of few pairs, and answers are remembered.
//!
//! Tokens are numbered here in the order in which they come to be: letters, then a token for each merge.

use std::sync::atomic::{AtomicU16, Ordering};

/// No token, and no node.
const NONE: u32 = u32::MAX;

/// Letters and what they merge to.
#[derive(Debug)]
pub(super) struct Merges {
    letters: usize,
    /// Of each token its two parts; of a letter nothing that is looked at.
    parts: Vec<[u32; 2]>,
    /// Letters in each token.
    lengths: Vec<u32>,
    /// The longest token that each begins with, other than itself.
    shorter: Vec<u32>,
    pairs: Pairs,
    answers: Answers,
    /// Children of each node of the tree of tokens, by letter; and the token that ends there.
    children: Vec<u32>,
    ends: Vec<u32>,
    /// Children of a node.
    width: usize,
    /// For any first [`Merges::depth`] letters of a word the node that they lead to and the longest token on the way.
    starts: Vec<[u32; 2]>,
}

impl Merges {
    /// Of so many letters, and fewer than 2^16 - 1 tokens; merge i joins two tokens to token `letters + i`. Every part is smaller than what it is a part of, and no
    /// two merges spell the same letters.
    pub(super) fn new(letters: usize, merges: &[[u32; 2]]) -> Self {
        let width = letters.next_power_of_two();
        let tokens = letters + merges.len();
        let mut new = Self {
            letters,
            parts: vec![[NONE; 2]; letters],
            lengths: vec![1; letters],
            shorter: vec![NONE; tokens],
            pairs: Pairs::new(merges.len()),
            answers: Answers::new(),
            children: vec![NONE; width],
            ends: vec![NONE],
            width,
            starts: Vec::new(),
        };
        let mut is_met = vec![true; letters];
        for (token, &[left, right]) in (letters as u32..).zip(merges) {
            // Where the two never meet, their merge is never done, and no word has the token.
            is_met.push(is_met[left as usize] && is_met[right as usize] && new.may_follow(left, right));
            new.parts.push([left, right]);
            new.lengths.push(new.lengths[left as usize] + new.lengths[right as usize]);
            new.pairs.insert(left, right, token);
        }
        let mut spelled = Vec::new();
        for token in (0..tokens as u32).filter(|&token| is_met[token as usize]) {
            spelled.clear();
            new.spell(token, &mut spelled);
            let mut node = 0;
            for &letter in &spelled {
                let child = node * width + usize::from(letter);
                if new.children[child] == NONE {
                    new.children[child] = new.ends.len() as u32;
                    new.ends.push(NONE);
                    new.children.resize(new.children.len() + width, NONE);
                }
                node = new.children[child] as usize;
            }
            new.ends[node] = token;
        }
        for token in 0..tokens as u32 {
            spelled.clear();
            new.spell(token, &mut spelled);
            let last = spelled.len() - 1;
            new.shorter[token as usize] = new.walk(0, NONE, &spelled[..last])[1];
        }
        let bits = width.trailing_zeros() as usize;
        let letters_of =
            |index: usize| (0..new.depth()).rev().map(move |place| (index >> (place * bits) & (width - 1)) as u8);
        new.starts = (0..1 << (new.depth() * bits))
            .map(|index| new.walk(0, NONE, &letters_of(index).collect::<Vec<_>>()))
            .collect();
        new
    }

    /// Letters in a token.
    pub(super) fn length(&self, token: u32) -> usize {
        self.lengths[token as usize] as usize
    }

    /// Appends the letters of a token.
    pub(super) fn spell(&self, token: u32, out: &mut Vec<u8>) {
        let mut open = vec![token];
        while let Some(token) = open.pop() {
            if (token as usize) < self.letters {
                out.push(token as u8);
            } else {
                let [left, right] = self.parts[token as usize];
                open.extend([right, left]);
            }
        }
    }

    /// The tokens of a word.
    pub(super) fn encode(&self, word: &[u8], tokens: &mut Vec<u32>) {
        tokens.clear();
        let mut dead = Places::new(word.len() + 1);
        let (mut at, mut candidate) = (0, self.longest(word));
        while at < word.len() {
            let end = at + self.length(candidate);
            if !dead.has(end) && tokens.last().is_none_or(|&before| self.follows(before, candidate)) {
                tokens.push(candidate);
                at = end;
                candidate = self.longest(&word[at..]);
            } else if self.shorter[candidate as usize] != NONE {
                candidate = self.shorter[candidate as usize];
            } else {
                dead.add(at);
                // Letters alone would do at the beginning, so there always is one before.
                let Some(before) = tokens.pop() else { return };
                at -= self.length(before);
                candidate = before;
            }
        }
    }

    /// The longest token that these letters begin with; none if there are none.
    #[inline(always)]
    fn longest(&self, word: &[u8]) -> u32 {
        let depth = self.depth();
        let Some((first, rest)) = word.split_at_checked(depth) else { return self.walk(0, NONE, word)[1] };
        let bits = self.width.trailing_zeros();
        let index = first.iter().fold(0, |index, &letter| index << bits | usize::from(letter));
        match self.starts[index] {
            [NONE, longest] => longest,
            [node, longest] => self.walk(node, longest, rest)[1],
        }
    }

    /// Letters that are looked up at once: as many as 12 bits hold.
    #[inline(always)]
    fn depth(&self) -> usize {
        12 / self.width.trailing_zeros().max(2) as usize
    }

    /// Goes down from a node as far as letters lead: the node behind all of them, if there is one, and the longest token met.
    #[inline(always)]
    fn walk(&self, mut node: u32, mut longest: u32, letters: &[u8]) -> [u32; 2] {
        for &letter in letters {
            node = self.children[node as usize * self.width + usize::from(letter)];
            if node == NONE {
                break;
            }
            if self.ends[node as usize] != NONE {
                longest = self.ends[node as usize];
            }
        }
        [node, longest]
    }

    /// As [`Merges::may_follow`], from memory where it was asked before.
    #[inline(always)]
    fn follows(&self, left: u32, right: u32) -> bool {
        self.answers.get(left, right).unwrap_or_else(|| {
            let answer = self.may_follow(left, right);
            self.answers.set(left, right, answer);
            answer
        })
    }

    /// Whether the letters of two tokens, encoded together, are these two tokens.
    ///
    /// The merges inside them are undone, the latest first. What then touches at the boundary between them stood there together until
    /// the undone merge was done: had the two a merge of their own before that, it would have come first. On a tie, which only equal
    /// letters give, the left one of two places came first.
    #[cold]
    fn may_follow(&self, mut left: u32, mut right: u32) -> bool {
        // Merges to tokens below this one came before what was undone.
        let mut limit = NONE;
        loop {
            if self.pairs.get(left, right) < limit {
                return false;
            }
            if left > right && left as usize >= self.letters {
                limit = left;
                left = self.parts[left as usize][1];
            } else if right as usize >= self.letters {
                limit = right + 1;
                right = self.parts[right as usize][0];
            } else {
                return true;
            }
        }
    }
}

/// What each pair merges to: a table of open addresses, a quarter full, so that most pairs without a merge are known at once.
#[derive(Debug)]
struct Pairs(Vec<[u16; 3]>);

/// No token, in a table of 16 bits.
const EMPTY: u16 = u16::MAX;

impl Pairs {
    fn new(count: usize) -> Self {
        Self(vec![[EMPTY; 3]; (4 * count).next_power_of_two().max(4)])
    }

    #[inline(always)]
    fn slot(&self, left: u32, right: u32) -> usize {
        (scattered(left, right) >> (32 - self.0.len().trailing_zeros())) as usize
    }

    fn insert(&mut self, left: u32, right: u32, token: u32) {
        let mut slot = self.slot(left, right);
        while self.0[slot][2] != EMPTY {
            slot = (slot + 1) % self.0.len();
        }
        self.0[slot] = [left, right, token].map(|token| token as u16);
    }

    /// The token; [`NONE`], which is no limit, if there is no merge.
    #[inline(always)]
    fn get(&self, left: u32, right: u32) -> u32 {
        let mut slot = self.slot(left, right);
        loop {
            let [of_left, of_right, token] = self.0[slot];
            if token == EMPTY {
                return NONE;
            }
            if (u32::from(of_left), u32::from(of_right)) == (left, right) {
                return token.into();
            }
            slot = (slot + 1) & (self.0.len() - 1);
        }
    }
}

/// Another number for each pair, whose high bits are well mixed.
#[inline(always)]
fn scattered(left: u32, right: u32) -> u32 {
    (left << 16 | right).wrapping_mul(0x9E37_79B1)
}

/// Answers about pairs, each in the one slot that the pair has: a later pair takes the place of an earlier one. The slot's number is the high
/// bits of the pair's own, and the slot holds the others with the answer, so that it says which pair it is of; threads may share it.
struct Answers(Box<[AtomicU16]>);

impl Answers {
    /// 1 MB: it should stay in a processor's cache.
    const BITS: u32 = 19;

    fn new() -> Self {
        Self((0..1 << Self::BITS).map(|_| AtomicU16::new(u16::MAX)).collect())
    }

    /// The slot, and what it holds for a yes: 13 bits of the pair, 0, 1.
    #[inline(always)]
    fn slot(&self, left: u32, right: u32) -> (&AtomicU16, u16) {
        let pair = scattered(left, right);
        (&self.0[(pair >> (32 - Self::BITS)) as usize], (pair << 2) as u16 & 0x7FFF | 1)
    }

    #[inline(always)]
    fn get(&self, left: u32, right: u32) -> Option<bool> {
        let (slot, yes) = self.slot(left, right);
        let found = slot.load(Ordering::Relaxed);
        (found | 1 == yes).then_some(found == yes)
    }

    fn set(&self, left: u32, right: u32, answer: bool) {
        let (slot, yes) = self.slot(left, right);
        slot.store(if answer { yes } else { yes ^ 1 }, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answers")
    }
}

/// A set of places, a bit each.
struct Places(Vec<u64>);

impl Places {
    fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn has(&self, place: usize) -> bool {
        self.0[place / 64] >> (place % 64) & 1 == 1
    }

    fn add(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word for word.
    pub(in crate::tokenizer) fn by_definition(letters: u32, merges: &[[u32; 2]], word: &[u8]) -> Vec<u32> {
        let mut tokens: Vec<u32> = word.iter().map(|&letter| u32::from(letter)).collect();
        loop {
            let rank = |pair: &[u32]| merges.iter().position(|merge| merge == pair);
            let next = tokens.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at))).min();
            let Some((rank, at)) = next else { return tokens };
            tokens.splice(at..at + 2, [letters + rank as u32]);
        }
    }

    /// Merges as training would choose them, the most frequent of a text (and with `odd`, sometimes another pair that is there).
    fn learn(letters: u32, text: &[u8], count: usize, odd: u32) -> Vec<[u32; 2]> {
        let mut merges: Vec<[u32; 2]> = Vec::new();
        while merges.len() < count {
            let tokens = by_definition(letters, &merges, text);
            let pairs: Vec<[u32; 2]> = tokens.windows(2).map(|pair| [pair[0], pair[1]]).collect();
            let frequency = |pair: &[u32; 2]| pairs.iter().filter(|other| *other == pair).count();
            let pick = (odd as usize).wrapping_mul(merges.len() + 1).wrapping_mul(2_654_435_761) >> 7;
            let chosen = if odd > 0 && pick.is_multiple_of(3) {
                pairs.get(pick % pairs.len().max(1))
            } else {
                pairs.iter().max_by_key(|pair| (frequency(pair), **pair))
            };
            let Some(&chosen) = chosen else { break };
            merges.push(chosen);
        }
        merges
    }

    proptest! {
        #[test]
        fn one_pass_is_the_definition(
            letters in 1u32..5, text in prop::collection::vec(0u8..4, 2..120), count in 0usize..40, odd: u32,
            words in prop::collection::vec(prop::collection::vec(0u8..4, 0..90), 1..6),
        ) {
            let of = |word: &[u8]| -> Vec<u8> { word.iter().map(|letter| letter % letters as u8).collect() };
            let merges = learn(letters, &of(&text), count, odd);
            let table = Merges::new(letters as usize, &merges);
            let mut tokens = Vec::new();
            for word in words.iter().chain([&text]) {
                let word = of(word);
                table.encode(&word, &mut tokens);
                prop_assert_eq!(&tokens, &by_definition(letters, &merges, &word), "{:?} {:?}", merges, word);
            }
        }
    }

    #[test]
    fn runs_of_one_letter() {
        for merges in
            [vec![[0, 0]], vec![[0, 0], [1, 0]], vec![[0, 0], [1, 1], [2, 1]], vec![[0, 0], [1, 0], [2, 1], [3, 3]]]
        {
            let table = Merges::new(1, &merges);
            let mut tokens = Vec::new();
            for length in 0..70 {
                table.encode(&vec![0; length], &mut tokens);
                assert_eq!(tokens, by_definition(1, &merges, &vec![0; length]), "{merges:?} {length}");
            }
        }
    }
}
