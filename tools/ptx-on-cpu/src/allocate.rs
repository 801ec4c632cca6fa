//! Places in the register file. PTX names a new register for nearly every value; with registers that are never needed at the
//! same time in one place, a warp's file stays in the cache. What may be read before it was written falls out of it: such
//! registers are live when the kernel begins.

use std::collections::HashMap;

use crate::instruction::{Code, Instruction, NONE, Operation, Unwritten};
use crate::rows::LANES;
use crate::syntax::Class;

/// A set of registers.
#[derive(Clone, PartialEq, Eq)]
struct Set(Vec<u64>);

impl Set {
    fn new(registers: usize) -> Self {
        Self(vec![0; registers.div_ceil(64)])
    }

    fn insert(&mut self, register: u32) {
        self.0[register as usize / 64] |= 1 << (register % 64);
    }

    fn remove(&mut self, register: u32) {
        self.0[register as usize / 64] &= !(1 << (register % 64));
    }

    /// Whether it grew.
    fn add(&mut self, other: &Set) -> bool {
        let mut grew = false;
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            grew |= *other & !*word != 0;
            *word |= other;
        }
        grew
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            let mut word = *word;
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                (word != 0).then(|| {
                    word &= word - 1;
                    at as u32 * 64 + bit
                })
            })
        })
    }
}

/// Instructions without a branch in or out but at the ends.
struct Block {
    first: usize,
    end: usize,
    next: Vec<usize>,
}

/// Cuts the code into blocks, in its order.
fn blocks(code: &Code) -> Vec<Block> {
    let count = code.instructions.len();
    let mut starts = vec![false; count + 1];
    (starts[0], starts[count]) = (true, true);
    for (at, instruction) in code.instructions.iter().enumerate() {
        match &instruction.operation {
            Operation::Branch => starts[instruction.target as usize] = true,
            Operation::BranchTable(targets) => targets.iter().for_each(|target| starts[*target as usize] = true),
            Operation::Exit => {}
            _ => continue,
        }
        starts[at + 1] = true;
    }
    let bounds: Vec<usize> = (0..=count).filter(|at| starts[*at]).collect();
    let number: HashMap<usize, usize> = bounds.iter().enumerate().map(|(number, at)| (*at, number)).collect();
    let block = |bounds: &[usize]| {
        let last = &code.instructions[bounds[1] - 1];
        let mut next = match &last.operation {
            Operation::Branch => vec![number[&(last.target as usize)]],
            Operation::BranchTable(targets) => targets.iter().map(|target| number[&(*target as usize)]).collect(),
            _ => Vec::new(),
        };
        let goes_on = !matches!(last.operation, Operation::Branch | Operation::BranchTable(_) | Operation::Exit);
        if (goes_on || last.guard != NONE) && bounds[1] < count {
            next.push(number[&bounds[1]]);
        }
        Block { first: bounds[0], end: bounds[1], next }
    };
    bounds.windows(2).map(block).collect()
}

/// What an instruction reads and what it writes; both without registers that are not there.
fn accesses<'c>(
    code: &'c Code,
    instruction: &'c Instruction,
) -> (impl Iterator<Item = u32> + 'c, impl Iterator<Item = u32> + 'c) {
    let registers = code.registers(instruction);
    let (results, sources) = registers.split_at(instruction.results as usize);
    let updated = if instruction.updates { results } else { &[] };
    let read = sources.iter().chain(updated).chain(std::iter::once(&instruction.guard)).copied();
    (read.filter(|register| *register != NONE), results.iter().copied().filter(|register| *register != NONE))
}

/// Registers that are needed at the beginning of each block.
fn live_at_start(code: &Code, blocks: &[Block]) -> Vec<Set> {
    let registers = code.classes.len();
    let mut live = vec![Set::new(registers); blocks.len()];
    loop {
        let mut grew = false;
        for (number, block) in blocks.iter().enumerate().rev() {
            let mut now = Set::new(registers);
            block.next.iter().for_each(|next| {
                now.add(&live[*next]);
            });
            for instruction in code.instructions[block.first..block.end].iter().rev() {
                let (reads, writes) = accesses(code, instruction);
                // A guarded write leaves lanes as they were.
                if instruction.guard == NONE {
                    writes.for_each(|register| now.remove(register));
                }
                reads.for_each(|register| now.insert(register));
            }
            grew |= live[number].add(&now);
        }
        if !grew {
            return live;
        }
    }
}

/// Registers of `wgmma` that may still be in use at the beginning of each block: until all groups were waited for.
fn in_flight_at_start(code: &Code, blocks: &[Block]) -> Vec<Set> {
    let registers = code.classes.len();
    let mut flying = vec![Set::new(registers); blocks.len()];
    loop {
        let mut grew = false;
        for (number, block) in blocks.iter().enumerate() {
            let mut now = flying[number].clone();
            code.instructions[block.first..block.end].iter().for_each(|it| fly(code, it, &mut now));
            for next in &block.next {
                grew |= flying[*next].add(&now);
            }
        }
        if !grew {
            return flying;
        }
    }
}

fn fly(code: &Code, instruction: &Instruction, flying: &mut Set) {
    match instruction.operation {
        Operation::Wgmma(_) => {
            let (reads, _) = accesses(code, instruction);
            reads.for_each(|register| flying.insert(register));
        }
        Operation::WgmmaWait(0) if instruction.guard == NONE => flying.0.fill(0),
        _ => {}
    }
}

/// First and last moment of each register: two moments an instruction, before and behind it.
fn spans(code: &Code, blocks: &[Block], live: &[Set]) -> Vec<(u32, u32)> {
    let mut spans = vec![(u32::MAX, 0); code.classes.len()];
    let mut meet = |register: u32, moment: usize| {
        let (first, last) = &mut spans[register as usize];
        (*first, *last) = ((*first).min(moment as u32), (*last).max(moment as u32));
    };
    let flying = in_flight_at_start(code, blocks);
    for (number, block) in blocks.iter().enumerate() {
        let mut busy = flying[number].clone();
        live[number].iter().chain(busy.iter()).for_each(|register| meet(register, 2 * block.first));
        for (at, instruction) in (block.first..).zip(&code.instructions[block.first..block.end]) {
            let (reads, writes) = accesses(code, instruction);
            // Row functions read all before they write; others must not lose a source while they write.
            let read_until = 2 * at + usize::from(!matches!(instruction.operation, Operation::Rows(_)));
            reads.for_each(|register| {
                meet(register, 2 * at);
                meet(register, read_until);
            });
            writes.for_each(|register| meet(register, 2 * at + 1));
            let before: Option<Vec<u32>> =
                matches!(instruction.operation, Operation::WgmmaWait(0)).then(|| busy.iter().collect());
            fly(code, instruction, &mut busy);
            before.into_iter().flatten().for_each(|register| meet(register, 2 * at + 1));
        }
        let end = 2 * block.end - 1;
        block
            .next
            .iter()
            .flat_map(|next| live[*next].iter())
            .chain(busy.iter())
            .for_each(|register| meet(register, end));
    }
    // Constants are there from the beginning to the end.
    for (_, register) in &code.constants {
        meet(*register, 0);
        meet(*register, 2 * code.instructions.len());
    }
    spans
}

/// Gives the registers of a class places from `words` on; those whose spans meet get different ones.
fn assign(code: &Code, class: Class, size: usize, spans: &[(u32, u32)], places: &mut [u32], words: &mut usize) {
    let of_class = |register: &usize| code.classes[*register] == class && spans[*register].0 != u32::MAX;
    let mut order: Vec<usize> = (0..code.classes.len()).filter(of_class).collect();
    order.sort_by_key(|register| spans[*register].0);
    let mut busy = std::collections::BinaryHeap::new();
    let mut free = Vec::new();
    for register in order {
        let (first, last) = spans[register];
        while let Some(std::cmp::Reverse((end, place))) = busy.peek().copied() {
            if end >= first {
                break;
            }
            busy.pop();
            free.push(place);
        }
        let place = free.pop().unwrap_or_else(|| {
            *words += size;
            (*words - size) as u32
        });
        places[register] = place;
        busy.push(std::cmp::Reverse((last, place)));
    }
}

/// Notes where registers are read or written that a path reaches without a write.
fn track(code: &mut Code, live: &Set) {
    let constants: Vec<u32> = code.constants.iter().map(|constant| constant.1).collect();
    let tracked: HashMap<u32, u32> = live.iter().filter(|register| !constants.contains(register)).zip(0..).collect();
    code.tracked = tracked.len();
    if tracked.is_empty() {
        return;
    }
    for at in 0..code.instructions.len() {
        let instruction = &code.instructions[at];
        let (reads, writes) = accesses(code, instruction);
        // An accumulator is read only if its scale says so, and a move may carry what nobody looks at.
        let exempt = instruction.is_move || instruction.updates;
        let mut checks: Vec<Unwritten> = Vec::new();
        for register in reads.filter(|register| !exempt || *register == instruction.guard) {
            if let Some(number) = tracked.get(&register) {
                checks.push(Unwritten { number: *number, is_write: false, is_guard: register == instruction.guard });
            }
        }
        for register in writes {
            if let Some(number) = tracked.get(&register) {
                checks.push(Unwritten { number: *number, is_write: true, is_guard: false });
            }
        }
        if !checks.is_empty() {
            code.instructions[at].tracked = code.unwritten.len() as u32;
            code.unwritten.push(checks);
        }
    }
}

/// Replaces virtual registers by places.
pub(crate) fn allocate(mut code: Code) -> Code {
    let blocks = blocks(&code);
    let live = live_at_start(&code, &blocks);
    track(&mut code, &live[0]);
    let spans = spans(&code, &blocks, &live);
    let mut words = 0;
    let mut places = vec![0u32; code.classes.len()];
    assign(&code, Class::Wide, 2 * LANES, &spans, &mut places, &mut words);
    assign(&code, Class::Narrow, LANES, &spans, &mut places, &mut words);
    assign(&code, Class::Predicate, 1, &spans, &mut places, &mut words);
    code.file_words = words.max(1);
    for register in code.registers.iter_mut().filter(|register| **register != NONE) {
        *register = places[*register as usize];
    }
    for instruction in code.instructions.iter_mut().filter(|instruction| instruction.guard != NONE) {
        instruction.guard = places[instruction.guard as usize];
    }
    code.filled = code
        .constants
        .iter()
        .map(|(constant, register)| (constant.clone(), code.classes[*register as usize], places[*register as usize]))
        .collect();
    code.uses_wgmma = code.instructions.iter().any(|it| matches!(it.operation, Operation::Wgmma(_)));
    code
}
