//! What the lanes of a warp do together (PTX ISA, "shfl.sync", "vote.sync", "match.sync", "redux.sync", "elect.sync").

use super::{Cluster, Flow, Step, Warp};
use crate::fault::{Finding, InLane};
use crate::instruction::{NONE, Shuffle, Vote};
use crate::registers::lanes;
use crate::rows::LANES;

/// The parties of a group, each the lanes that name the same members: most often one, and never more than its lanes.
struct Parties {
    masks: [u32; LANES],
    count: usize,
}

impl Cluster<'_> {
    /// Who acts with whom, by the register in which each lane names the members; `None` while some of them are not here.
    fn parties(&self, warp: &Warp, register: u32, step: &Step) -> Result<Option<Parties>, Finding> {
        let named = warp.registers.row(register);
        let mut found = Parties { masks: [0; LANES], count: 0 };
        let mut rest = step.mask;
        while rest != 0 {
            let first = Warp::first_lane(rest);
            let members = named[first];
            let mask = lanes(rest).filter(|lane| named[*lane] == members).fold(0, |mask, lane| mask | 1u32 << lane);
            rest &= !mask;
            if mask & !members != 0 {
                let text = format!("a .sync instruction with the members {members:#x}, which does not name it");
                return Err(text).in_lane(Warp::first_lane(mask & !members));
            }
            if self.together(warp, step, members).is_some() {
                return Ok(None);
            }
            found.masks[found.count] = mask;
            found.count += 1;
        }
        Ok(Some(found))
    }

    pub(super) fn warp_barrier(&mut self, warp: &mut Warp, step: &Step) -> Result<Flow, Finding> {
        let parties = self.parties(warp, step.registers[0], step)?;
        if parties.is_none() {
            return Ok(Flow::Gather);
        }
        self.lanes.meet(warp.id);
        Ok(Flow::Next)
    }

    pub(super) fn shuffle(&mut self, warp: &mut Warp, mode: Shuffle, step: &Step) -> Result<Flow, Finding> {
        let [target, flag, a, b, c, members] = step.registers[..] else { return Ok(Flow::Next) };
        let Some(parties) = self.parties(warp, members, step)? else { return Ok(Flow::Gather) };
        let (values, b, c) = (*warp.registers.row(a), *warp.registers.row(b), *warp.registers.row(c));
        let (mut results, mut valid) = (values, 0u32);
        for mask in &parties.masks[..parties.count] {
            for lane in lanes(*mask) {
                let Some(source) = source_lane(mode, lane as u32, b[lane] & 31, c[lane]) else { continue };
                if mask >> source & 1 == 0 {
                    return Err(format!("shfl reads lane {source}, which does not take part")).in_lane(lane);
                }
                valid |= 1 << lane;
                results[lane] = values[source as usize % LANES];
            }
        }
        warp.registers.put(target, &results, step.mask);
        if flag != NONE {
            warp.registers.put_predicate(flag, valid, step.mask);
        }
        Ok(Flow::Next)
    }

    pub(super) fn vote(&mut self, warp: &mut Warp, mode: Vote, step: &Step) -> Result<Flow, Finding> {
        let [target, predicate, members] = step.registers[..] else { return Ok(Flow::Next) };
        let Some(parties) = self.parties(warp, members, step)? else { return Ok(Flow::Gather) };
        let all = warp.registers.word(predicate);
        for mask in &parties.masks[..parties.count] {
            let bits = all & mask;
            let answer = match mode {
                Vote::Ballot => {
                    warp.registers.put(target, &[bits; LANES], *mask);
                    continue;
                }
                Vote::All => bits == *mask,
                Vote::Any => bits != 0,
                Vote::Uniform => bits == 0 || bits == *mask,
            };
            warp.registers.put_predicate(target, if answer { u32::MAX } else { 0 }, *mask);
        }
        Ok(Flow::Next)
    }

    /// The first lane. The manual promises only that equal members elect the same; CUTLASS counts on the first (its producer
    /// is elected and then asks for lane 0).
    pub(super) fn elect(&mut self, warp: &mut Warp, step: &Step) -> Result<Flow, Finding> {
        let [leader, flag, members] = step.registers[..] else { return Ok(Flow::Next) };
        let Some(parties) = self.parties(warp, members, step)? else { return Ok(Flow::Gather) };
        for mask in &parties.masks[..parties.count] {
            let chosen = Warp::first_lane(*mask);
            warp.registers.put(leader, &[chosen as u32; LANES], *mask);
            if flag != NONE {
                warp.registers.put_predicate(flag, 1 << chosen, *mask);
            }
        }
        Ok(Flow::Next)
    }

    pub(super) fn match_lanes(&mut self, warp: &mut Warp, wide: bool, all: bool, step: &Step) -> Result<Flow, Finding> {
        let [target, flag, value, members] = step.registers[..] else { return Ok(Flow::Next) };
        let Some(parties) = self.parties(warp, members, step)? else { return Ok(Flow::Gather) };
        let of = |lane| match wide {
            true => warp.registers.wide_lane(value, lane),
            false => u64::from(warp.registers.lane(value, lane)),
        };
        let values: [u64; LANES] = std::array::from_fn(of);
        for mask in &parties.masks[..parties.count] {
            let equal = |lane: usize| {
                lanes(*mask).filter(|other| values[*other] == values[lane]).fold(0, |all, it| all | 1u32 << it)
            };
            let mut results = [0; LANES];
            for lane in lanes(*mask) {
                let found = equal(lane);
                results[lane] = if !all || found == *mask { found } else { 0 };
            }
            warp.registers.put(target, &results, *mask);
            if flag != NONE {
                let agreed = results[Warp::first_lane(*mask)] == *mask;
                warp.registers.put_predicate(flag, if agreed { u32::MAX } else { 0 }, *mask);
            }
        }
        Ok(Flow::Next)
    }

    pub(super) fn reduce(
        &mut self,
        warp: &mut Warp,
        function: fn(u32, u32) -> u32,
        step: &Step,
    ) -> Result<Flow, Finding> {
        let [target, value, members] = step.registers[..] else { return Ok(Flow::Next) };
        let Some(parties) = self.parties(warp, members, step)? else { return Ok(Flow::Gather) };
        let values = *warp.registers.row(value);
        for mask in &parties.masks[..parties.count] {
            let result = lanes(*mask).map(|lane| values[lane]).reduce(function).unwrap_or(0);
            warp.registers.put(target, &[result; LANES], *mask);
        }
        Ok(Flow::Next)
    }
}

/// The lane that `shfl` reads, if it is inside the segment: the clamp is in bits 0 to 4 of `c`, the segment's mask in 8 to 12.
fn source_lane(mode: Shuffle, lane: u32, shift: u32, c: u32) -> Option<u32> {
    let (clamp, segment) = (c & 31, c >> 8 & 31);
    let first = lane & segment;
    let last = first | clamp & !segment;
    let source = match mode {
        Shuffle::Up => lane.checked_sub(shift)?,
        Shuffle::Down => lane + shift,
        Shuffle::Butterfly => lane ^ shift,
        Shuffle::Index => first | shift & !segment,
    };
    // For `up` the clamp is the first lane of the segment.
    let inside = if mode == Shuffle::Up { source >= last } else { source <= last };
    inside.then_some(source)
}
