//! Control flow, barriers, fences and what lanes do together (PTX ISA, "Control Flow Instructions", "Parallel
//! Synchronization and Communication Instructions").

use super::{Decoder, Opcode, Result};
use crate::instruction::{Barrier, NONE, Operation, Shuffle, Vote};
use crate::rows::row;
use crate::syntax::{Class, Operand, Statement};

pub(super) fn decode(
    decoder: &mut Decoder,
    opcode: &Opcode,
    operands: &[Operand],
    statement: &Statement,
) -> Result<bool> {
    match (opcode.base, operands) {
        ("bra", _) if statement.targets.len() == 1 => {
            decoder.emit(Operation::Branch, &[], &[]);
        }
        ("brx", [index, ..]) if !statement.targets.is_empty() => {
            let index = decoder.narrow(index)?;
            decoder.emit(Operation::BranchTable(Box::new([])), &[], &[index]);
        }
        ("ret" | "exit", _) => {
            decoder.emit(Operation::Exit, &[], &[]);
        }
        ("call", _) => {
            let name = operands.iter().find_map(|operand| match operand {
                Operand::Symbol(name, _) => Some(name.as_str()),
                _ => None,
            });
            let why = if opcode.has("recursive") { "which calls itself" } else { "which is not in this file" };
            return Err(format!("calls {}, {why}", name.unwrap_or("a function by its address")));
        }
        ("trap" | "brkpt", _) => {
            decoder.emit(Operation::Trap, &[], &[]);
        }
        // Launches run one after the other: the grid before has ended, and what it wrote can be seen.
        ("griddepcontrol", []) if opcode.which(&["wait", "launch_dependents"]).is_some() => {
            decoder.emit(Operation::Nothing, &[], &[]);
        }
        ("nanosleep" | "pmevent", _) => {
            decoder.emit(Operation::Nothing, &[], &[]);
        }
        ("bar" | "barrier", _) if opcode.has("cluster") => {
            let relaxed = opcode.has("relaxed");
            let arrives = opcode.has("arrive");
            decoder.emit(if arrives { Operation::ClusterArrive { relaxed } } else { Operation::ClusterWait }, &[], &[]);
        }
        ("bar", [members]) if opcode.has("warp") => {
            let members = decoder.narrow(members)?;
            decoder.emit(Operation::WarpBarrier, &[], &[members]);
        }
        ("bar" | "barrier", _) => barrier(decoder, opcode, operands)?,
        ("fence" | "membar", _) => fence(decoder, opcode),
        ("shfl", [targets, a, b, c, members]) => {
            let mode = match opcode.which(&["up", "down", "bfly", "idx"]) {
                Some("up") => Shuffle::Up,
                Some("down") => Shuffle::Down,
                Some("bfly") => Shuffle::Butterfly,
                Some(_) => Shuffle::Index,
                None => return opcode.unknown(),
            };
            let (value, flag) = pair(decoder, targets)?;
            let sources = [decoder.narrow(a)?, decoder.narrow(b)?, decoder.narrow(c)?, decoder.narrow(members)?];
            decoder.emit(Operation::Shuffle(mode), &[value, flag], &sources);
        }
        ("vote", [target, predicate, members]) => {
            let mode = match opcode.which(&["ballot", "all", "any", "uni"]) {
                Some("ballot") => Vote::Ballot,
                Some("all") => Vote::All,
                Some("any") => Vote::Any,
                Some(_) => Vote::Uniform,
                None => return opcode.unknown(),
            };
            let class = if mode == Vote::Ballot { Class::Narrow } else { Class::Predicate };
            let sources = [decoder.predicate(predicate)?, decoder.narrow(members)?];
            let target = decoder.result(class, target, false)?;
            decoder.emit(Operation::Vote(mode), &[target], &sources);
        }
        ("elect", [targets, members]) => {
            let (leader, flag) = pair(decoder, targets)?;
            let members = decoder.narrow(members)?;
            decoder.emit(Operation::Elect, &[leader, flag], &[members]);
        }
        ("match", [target, value, members]) => {
            let wide = opcode.kind == "b64";
            let (result, flag) = pair(decoder, target)?;
            let value = decoder.source(if wide { Class::Wide } else { Class::Narrow }, value)?;
            let members = decoder.narrow(members)?;
            decoder.emit(Operation::Match { wide, all: opcode.has("all") }, &[result, flag], &[value, members]);
        }
        ("redux", [target, value, members]) => {
            let function: fn(u32, u32) -> u32 =
                match (opcode.which(&["add", "min", "max", "and", "or", "xor"]), opcode.kind) {
                    (Some("add"), "u32" | "s32") => u32::wrapping_add,
                    (Some("min"), "s32") => |x, y| (x as i32).min(y as i32) as u32,
                    (Some("max"), "s32") => |x, y| (x as i32).max(y as i32) as u32,
                    (Some("min"), "u32") => u32::min,
                    (Some("max"), "u32") => u32::max,
                    (Some("and"), "b32") => |x, y| x & y,
                    (Some("or"), "b32") => |x, y| x | y,
                    (Some("xor"), "b32") => |x, y| x ^ y,
                    _ => return opcode.unknown(),
                };
            let sources = [decoder.narrow(value)?, decoder.narrow(members)?];
            let target = decoder.result(Class::Narrow, target, false)?;
            decoder.emit(Operation::Reduce(function), &[target], &sources);
        }
        ("activemask", [target]) => {
            let target = decoder.result(Class::Narrow, target, false)?;
            decoder.emit(Operation::ActiveMask, &[target], &[]);
        }
        ("mbarrier", _) => mbarrier(decoder, opcode, operands)?,
        ("setmaxnreg", [Operand::Integer(count)]) => {
            if !(24..=256).contains(count) || count % 8 != 0 {
                return Err(format!("setmaxnreg of {count}: 24 to 256 in steps of 8 are allowed"));
            }
            decoder.emit(Operation::SetMaxRegisters, &[], &[]);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// `value|predicate`
fn pair(decoder: &mut Decoder, targets: &Operand) -> Result<(u32, u32)> {
    Ok(match targets {
        Operand::Pair(value, flag) => {
            (decoder.result(Class::Narrow, value, false)?, decoder.result(Class::Predicate, flag, false)?)
        }
        value => (decoder.result(Class::Narrow, value, false)?, NONE),
    })
}

/// `bar[.cta].{sync, arrive, red}` and `barrier` (PTX ISA, "bar, barrier").
fn barrier(decoder: &mut Decoder, opcode: &Opcode, operands: &[Operand]) -> Result {
    if opcode.has("red") {
        let [target, id, rest @ .., predicate] = operands else { return opcode.unknown() };
        let (kind, class) = match opcode.which(&["popc", "and", "or"]) {
            Some("popc") => (Barrier::Count, Class::Narrow),
            Some("and") => (Barrier::All, Class::Predicate),
            _ => (Barrier::Any, Class::Predicate),
        };
        let count = match rest {
            [count] => decoder.narrow(count)?,
            _ => NONE,
        };
        let sources = [decoder.narrow(id)?, count, decoder.predicate(predicate)?];
        let target = decoder.result(class, target, false)?;
        decoder.emit(Operation::Barrier(kind), &[target], &sources);
        return Ok(());
    }
    let kind = if opcode.has("arrive") { Barrier::Arrive } else { Barrier::Sync };
    let (id, count) = match operands {
        [id] => (id, NONE),
        [id, count] => (id, decoder.narrow(count)?),
        _ => return opcode.unknown(),
    };
    let id = decoder.narrow(id)?;
    decoder.emit(Operation::Barrier(kind), &[NONE], &[id, count, NONE]);
    Ok(())
}

fn fence(decoder: &mut Decoder, opcode: &Opcode) {
    let operation = if opcode.has("mbarrier_init") {
        Operation::FenceMbarrierInit
    } else if opcode.has("proxy") {
        if opcode.has("async") { Operation::FenceAsyncProxy } else { Operation::Nothing }
    } else {
        Operation::Fence { whole: !opcode.has("cluster") && !opcode.has("cta") }
    };
    decoder.emit(operation, &[], &[]);
}

fn mbarrier(decoder: &mut Decoder, opcode: &Opcode, operands: &[Operand]) -> Result {
    let Some(what) = opcode.parts.first() else { return opcode.unknown() };
    match (*what, operands) {
        ("init", [barrier, count]) => {
            let (base, address) = decoder.address(barrier)?;
            let count = decoder.narrow(count)?;
            decoder.emit(Operation::MbarrierInit(address), &[], &[base, count]);
        }
        ("inval", [barrier]) => {
            let (base, address) = decoder.address(barrier)?;
            decoder.emit(Operation::MbarrierInvalidate(address), &[], &[base]);
        }
        ("expect_tx", [barrier, bytes]) => {
            let (base, address) = decoder.address(barrier)?;
            let bytes = decoder.narrow(bytes)?;
            decoder.emit(Operation::MbarrierExpect(address), &[], &[base, bytes]);
        }
        ("arrive" | "arrive_drop", rest) => {
            // The state may be left out in inline assembly for remote barriers.
            let (state, rest) = match rest {
                [first, rest @ ..] if !matches!(first, Operand::Address(..)) => (Some(first), rest),
                rest => (None, rest),
            };
            let [barrier, rest @ ..] = rest else { return opcode.unknown() };
            let state = match state {
                None | Some(Operand::Sink) => NONE,
                Some(state) => decoder.result(Class::Wide, state, false)?,
            };
            let (base, address) = decoder.address(barrier)?;
            let (mut count, mut bytes) = (NONE, NONE);
            if let Some(number) = rest.first() {
                let number = decoder.narrow(number)?;
                *(if opcode.has("expect_tx") { &mut bytes } else { &mut count }) = number;
            }
            let operation =
                Operation::MbarrierArrive { address, relaxed: opcode.has("relaxed"), drop: *what == "arrive_drop" };
            decoder.emit(operation, &[state], &[base, count, bytes]);
        }
        ("try_wait" | "test_wait", [done, barrier, parity, ..]) => {
            let (base, address) = decoder.address(barrier)?;
            let by_parity = opcode.has("parity");
            let phase = if by_parity { decoder.narrow(parity)? } else { decoder.wide(parity)? };
            let done = decoder.result(Class::Predicate, done, false)?;
            let operation = Operation::MbarrierTest { address, parity: by_parity, relaxed: opcode.has("relaxed") };
            decoder.emit(operation, &[done], &[base, phase]);
        }
        ("pending_count", [count, state]) => {
            let state = decoder.wide(state)?;
            let count = decoder.result(Class::Narrow, count, false)?;
            // The state is ours: pending arrivals in its upper half.
            let operation = row!(|state: u64| -> u32 { (state >> 32) as u32 });
            decoder.emit(Operation::Rows(operation.function), &[count], &[state]);
        }
        _ => return opcode.unknown(),
    }
    Ok(())
}
