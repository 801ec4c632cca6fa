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
//! Tokens are numbered here in the order in which they come to be: letters, then a token for each merge.

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
    /// Children of each node of the tree of tokens, by letter; and the token that ends there.
    children: Vec<u32>,
    ends: Vec<u32>,
    /// Children of a node.
    width: usize,
}

impl Merges {
    /// Of so many letters; merge i joins two tokens to token `letters + i`. Every part is smaller than what it is a part of, and no
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
            children: vec![NONE; width],
            ends: vec![NONE],
            width,
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
            new.shorter[token as usize] = new.longest(spelled[..last].iter().copied());
        }
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
        let (mut at, mut candidate) = (0, self.longest(word.iter().copied()));
        while at < word.len() {
            let end = at + self.length(candidate);
            if !dead.has(end) && tokens.last().is_none_or(|&before| self.may_follow(before, candidate)) {
                tokens.push(candidate);
                at = end;
                candidate = self.longest(word[at..].iter().copied());
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
    fn longest(&self, letters: impl Iterator<Item = u8>) -> u32 {
        let (mut node, mut longest) = (0, NONE);
        for letter in letters {
            let child = self.children[node * self.width + usize::from(letter)];
            if child == NONE {
                break;
            }
            node = child as usize;
            if self.ends[node] != NONE {
                longest = self.ends[node];
            }
        }
        longest
    }

    /// Whether the letters of two tokens, encoded together, are these two tokens.
    ///
    /// The merges inside them are undone, the latest first. What then touches at the boundary between them stood there together until
    /// the undone merge was done: had the two a merge of their own before that, it would have come first. On a tie, which only equal
    /// letters give, the left one of two places came first.
    #[inline]
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
struct Pairs {
    slots: Vec<(u32, u32, u32)>,
    shift: u32,
}

impl Pairs {
    fn new(count: usize) -> Self {
        let slots = (4 * count).next_power_of_two().max(4);
        Self { slots: vec![(NONE, NONE, NONE); slots], shift: 64 - slots.trailing_zeros() }
    }

    #[inline(always)]
    fn slot(&self, left: u32, right: u32) -> usize {
        let key = u64::from(left) << 32 | u64::from(right);
        (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    fn insert(&mut self, left: u32, right: u32, token: u32) {
        let mut slot = self.slot(left, right);
        while self.slots[slot].0 != NONE {
            slot = (slot + 1) % self.slots.len();
        }
        self.slots[slot] = (left, right, token);
    }

    /// The token; [`NONE`], which is no limit, if there is no merge.
    #[inline(always)]
    fn get(&self, left: u32, right: u32) -> u32 {
        let mut slot = self.slot(left, right);
        loop {
            let (of_left, of_right, token) = self.slots[slot];
            if token == NONE || (of_left, of_right) == (left, right) {
                return token;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
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
            let chosen = if odd > 0 && pick % 3 == 0 {
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
