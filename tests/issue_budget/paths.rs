//! Loops of a kernel, and the shortest way round each of them that does its work.

use std::collections::{BTreeMap, BTreeSet};

use crate::listing::Instruction;
use crate::pipes::Counts;

/// Instructions that are only entered at the first and left at the last, and where they lead.
struct Block {
    counts: Counts,
    next: Vec<usize>,
}

/// A loop: the block that it begins with, all that lead back there, and what the shortest way round costs.
#[derive(Clone, Debug)]
pub struct Loop {
    first: usize,
    blocks: BTreeSet<usize>,
    /// Of the ways round with the most work, which is what a training step does (products, then random numbers; around the products or where
    /// there are none also bytes), the one with the fewest instructions: nothing that is only for tails and odd addresses. An inner loop is
    /// gone through once.
    pub way: Counts,
}

impl Loop {
    /// Whether it is inside of `outer`.
    pub fn inside(&self, outer: &Self) -> bool {
        self.first != outer.first && outer.blocks.contains(&self.first)
    }
}

/// The loops of a kernel, in the order of their first instructions. A kernel without any is gone through once, as if it were one.
pub fn loops(code: &[Instruction]) -> Vec<Loop> {
    let blocks = blocks(code);
    let dominators = dominators(&blocks);
    let mut before = vec![Vec::new(); blocks.len()];
    for (place, block) in blocks.iter().enumerate() {
        block.next.iter().for_each(|&next| before[next].push(place));
    }
    let mut bodies: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (place, block) in blocks.iter().enumerate().filter(|(place, _)| dominators[*place].is_some()) {
        for &first in block.next.iter().filter(|&&next| dominates(&dominators, next, place)) {
            let body = bodies.entry(first).or_insert_with(|| BTreeSet::from([first]));
            let mut open = vec![place];
            while let Some(place) = open.pop() {
                if body.insert(place) {
                    open.extend(before[place].iter().filter(|&&place| dominators[place].is_some()));
                }
            }
        }
    }
    if bodies.is_empty() && !blocks.is_empty() {
        bodies.insert(0, (0..blocks.len()).filter(|&place| dominators[place].is_some()).collect());
    }
    let multiplies = |body: &BTreeSet<usize>| body.iter().any(|&place| blocks[place].counts.flops > 0);
    let way = |(&first, body): (&usize, &BTreeSet<usize>)| {
        let inner =
            || bodies.iter().any(|(inner, inside)| *inner != first && body.contains(inner) && multiplies(inside));
        let products_alone = multiplies(body) && !inner();
        let order = move |counts: &Counts| {
            let bytes = if products_alone { (0, 0) } else { (counts.bytes, counts.bulk) };
            (counts.flops, counts.draws, bytes, std::cmp::Reverse(counts.issue))
        };
        let mut ways =
            Ways { blocks: &blocks, dominators: &dominators, first, body, order: &order, known: BTreeMap::new() };
        let way = ways.shortest(first).unwrap_or_default();
        Loop { first, blocks: body.clone(), way }
    };
    bodies.iter().map(way).collect()
}

/// How much work a way does, and how short it is: the more the better.
type Order = (u64, u32, (u64, u32), std::cmp::Reverse<u32>);

/// The ways round a loop, as far as they have been looked at.
struct Ways<'a> {
    blocks: &'a [Block],
    dominators: &'a [Option<usize>],
    first: usize,
    body: &'a BTreeSet<usize>,
    order: &'a dyn Fn(&Counts) -> Order,
    known: BTreeMap<usize, Option<Counts>>,
}

impl Ways<'_> {
    /// The best way from `place` back to the loop's first block, or out of the kernel where it is no loop.
    fn shortest(&mut self, place: usize) -> Option<Counts> {
        if let Some(found) = self.known.get(&place) {
            return *found;
        }
        self.known.insert(place, None); // a circle that no block dominates leads nowhere
        let block = &self.blocks[place];
        let mut best = block.next.is_empty().then(Counts::default);
        for &next in &block.next {
            let rest = if next == self.first {
                Some(Counts::default())
            } else if self.body.contains(&next) && !dominates(self.dominators, next, place) {
                self.shortest(next)
            } else {
                None
            };
            best = best.into_iter().chain(rest).max_by_key(self.order);
        }
        let found = best.map(|rest| block.counts + rest);
        self.known.insert(place, found);
        found
    }
}

fn blocks(code: &[Instruction]) -> Vec<Block> {
    let place_of: BTreeMap<u32, usize> =
        code.iter().enumerate().map(|(place, instruction)| (instruction.address, place)).collect();
    let target = |instruction: &Instruction| instruction.target().and_then(|target| place_of.get(&target).copied());
    let ends = |instruction: &Instruction| {
        ["BRA", "EXIT", "RET", "CALL", "BRX", "KILL"].iter().any(|name| instruction.is(name))
    };
    let mut starts = BTreeSet::from([0]);
    for (place, instruction) in code.iter().enumerate().filter(|(_, instruction)| ends(instruction)) {
        starts.insert(place + 1);
        starts.extend(target(instruction));
    }
    let starts: Vec<usize> = starts.into_iter().filter(|&start| start < code.len()).collect();
    let at = |place: usize| starts.binary_search(&place).ok();
    let of = |(index, &start): (usize, &usize)| {
        let end = starts.get(index + 1).copied().unwrap_or(code.len());
        let last = &code[end - 1];
        let counts = code[start..end].iter().map(Counts::of).fold(Counts::default(), |sum, counts| sum + counts);
        let jumps = last.is("BRA");
        // A predicate stands in front, or is a branch's first operand.
        let operands = last.text.rsplit_once(last.opcode()).map_or("", |(_, operands)| operands);
        let sometimes = last.text.starts_with('@') || (jumps && operands.contains(','));
        let leaves = ["EXIT", "RET", "BRX", "KILL"].iter().any(|name| last.is(name));
        let mut next = Vec::new();
        next.extend(target(last).filter(|_| jumps).and_then(at));
        next.extend(at(end).filter(|_| sometimes || !(jumps || leaves)));
        Block { counts, next }
    };
    starts.iter().enumerate().map(of).collect()
}

/// The block that every way to a block goes through last; none for what no way leads to. The first block's is itself
/// (Cooper, Harvey, Kennedy: A Simple, Fast Dominance Algorithm, 2001).
fn dominators(blocks: &[Block]) -> Vec<Option<usize>> {
    let mut order = Vec::new();
    let mut seen = vec![false; blocks.len()];
    let mut open = vec![(0, 0)];
    while let Some((place, child)) = open.pop() {
        seen[place] = true;
        match blocks[place].next.get(child) {
            Some(&next) => {
                open.push((place, child + 1));
                if !seen[next] {
                    seen[next] = true;
                    open.push((next, 0));
                }
            }
            None => order.push(place),
        }
    }
    let mut number = vec![0; blocks.len()];
    order.iter().enumerate().for_each(|(index, &place)| number[place] = index);
    let mut found = vec![None; blocks.len()];
    found[0] = Some(0);
    let mut changed = true;
    while changed {
        changed = false;
        let mut merged = vec![None; blocks.len()];
        for &place in order.iter().rev() {
            let Some(_) = found[place] else { continue };
            for &next in blocks[place].next.iter().filter(|&&next| next != 0) {
                let meet = |mut one: usize, mut other: usize, found: &[Option<usize>]| {
                    while one != other {
                        if number[one] < number[other] {
                            one = found[one].expect("it was reached");
                        } else {
                            other = found[other].expect("it was reached");
                        }
                    }
                    one
                };
                let with = merged[next].map_or(place, |other| meet(place, other, &found));
                merged[next] = Some(with);
                if found[next].is_none() {
                    found[next] = Some(with);
                    changed = true;
                }
            }
        }
        for (place, new) in merged.into_iter().enumerate().filter(|(place, new)| *place != 0 && new.is_some()) {
            changed |= found[place] != new;
            found[place] = new;
        }
    }
    found
}

fn dominates(dominators: &[Option<usize>], above: usize, mut place: usize) -> bool {
    loop {
        match dominators[place] {
            _ if place == above => return true,
            Some(next) if next != place => place = next,
            _ => return false,
        }
    }
}
