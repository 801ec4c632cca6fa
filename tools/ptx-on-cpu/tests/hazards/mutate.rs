//! Single errors in the synchronization of a kernel, made in its PTX: an instruction removed, or its number changed.

/// What is done to an instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    Remove,
    /// A waiting loop finds its phase complete at once.
    Succeed,
    /// The last operand becomes this number.
    Number(u32),
    /// The last operand becomes this number if it is lower.
    Raise(u32),
}

/// A kind of error: what begins the opcode, what is done to it, and how the table calls it.
pub struct Kind {
    pub name: &'static str,
    pub opcodes: &'static [&'static str],
    pub change: Change,
}

pub const KINDS: &[Kind] = &[
    Kind { name: "fence.proxy.async removed", opcodes: &["fence.proxy.async"], change: Change::Remove },
    Kind { name: "wgmma.fence removed", opcodes: &["wgmma.fence"], change: Change::Remove },
    Kind { name: "wgmma.wait_group removed", opcodes: &["wgmma.wait_group"], change: Change::Remove },
    Kind { name: "wgmma.wait_group weakened", opcodes: &["wgmma.wait_group"], change: Change::Raise(2) },
    Kind { name: "mbarrier.try_wait removed", opcodes: &["mbarrier.try_wait"], change: Change::Succeed },
    Kind { name: "bar.sync removed", opcodes: &["bar.sync", "barrier.sync"], change: Change::Remove },
    Kind { name: "bulk.wait_group removed", opcodes: &["cp.async.bulk.wait_group"], change: Change::Remove },
    Kind {
        name: "cp.async.wait_group removed",
        opcodes: &["cp.async.wait_group", "cp.async.wait_all"],
        change: Change::Remove,
    },
    Kind { name: "cp.async.wait_group weakened", opcodes: &["cp.async.wait_group"], change: Change::Raise(3) },
    Kind { name: "expect_tx wrong", opcodes: &["mbarrier.arrive.expect_tx"], change: Change::Number(1024) },
    Kind {
        name: "arrival removed",
        opcodes: &["mbarrier.arrive.shared", "mbarrier.arrive.relaxed", "mbarrier.arrive.release"],
        change: Change::Remove,
    },
    Kind { name: "fence.mbarrier_init removed", opcodes: &["fence.mbarrier_init"], change: Change::Remove },
    Kind { name: "cluster.wait removed", opcodes: &["barrier.cluster.wait"], change: Change::Remove },
];

/// A kernel's text with one error in it.
pub struct Mutant {
    pub kind: &'static str,
    /// Which of the places of this kind, from 0.
    pub number: usize,
    /// Line in the text, from 1.
    pub line: usize,
    pub text: String,
}

/// At most `most` mutants of every kind, spread over the places of `kernel` where there is one.
pub fn mutants(text: &str, kernel: &str, most: usize) -> Vec<Mutant> {
    let start = text.find(&format!(".entry {kernel}(")).unwrap_or_else(|| panic!("no kernel {kernel}"));
    let end = text[start + 1..].find(".entry").map_or(text.len(), |at| start + 1 + at);
    KINDS
        .iter()
        .flat_map(|kind| {
            let mut places: Vec<usize> = kind.opcodes.iter().flat_map(|opcode| instructions(text, opcode)).collect();
            places.retain(|at| (start..end).contains(at) && changed(text, *at, start, kind.change).is_some());
            places.sort_unstable();
            let take = places.len().min(most);
            let chosen: Vec<usize> = (0..take).map(|i| i * places.len() / take).collect();
            chosen.into_iter().map(move |number| (number, places[number])).map(move |(number, at)| Mutant {
                kind: kind.name,
                number,
                line: text[..at].matches('\n').count() + 1,
                text: changed(text, at, start, kind.change).expect("it was asked before"),
            })
        })
        .collect()
}

/// Where instructions with that beginning of their opcode are.
fn instructions<'a>(text: &'a str, opcode: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(opcode).map(|(at, _)| at).filter(move |at| {
        let before = text[..*at].chars().next_back();
        let after = text[at + opcode.len()..].chars().next();
        before.is_none_or(|c| c.is_whitespace() || "{};".contains(c))
            && after.is_some_and(|c| !c.is_ascii_alphanumeric() && c != '_')
    })
}

/// The text with the instruction at `at` of the kernel at `kernel` changed; nothing if that makes no difference.
fn changed(text: &str, at: usize, kernel: usize, change: Change) -> Option<String> {
    let end = at + text[at..].find(';')?;
    let statement = &text[at..end];
    let instead = match change {
        // A guard in front stays, and guards nothing.
        Change::Remove => "mov.u32 %dummy_of_mutant, 0".to_owned(),
        Change::Succeed => {
            let done = statement.split_whitespace().nth(1)?.trim_end_matches(',');
            format!("setp.eq.u32 {done}, 0, 0")
        }
        Change::Number(number) | Change::Raise(number) => {
            let last = statement.trim_end().rfind([',', ' ', '\t'])? + 1;
            let old = statement[last..].trim().parse::<u32>();
            if old.is_ok_and(|old| old == number || old > number && change == Change::Raise(number)) {
                return None;
            }
            format!("{} {number}", &statement[..last])
        }
    };
    let mut mutant = format!("{}{instead}{}", &text[..at], &text[end..]);
    if change == Change::Remove {
        let registers = kernel + mutant[kernel..].find(".reg ")?;
        mutant.insert_str(registers, ".reg .b32 %dummy_of_mutant; ");
    }
    Some(mutant)
}
