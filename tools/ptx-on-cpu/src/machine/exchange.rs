//! What the lanes of a warp do together (PTX ISA, "shfl.sync", "vote.sync", "match.sync", "redux.sync", "elect.sync").

use super::{Cluster, Flow, Step, Warp};
use crate::fault::{Finding, InLane};
use crate::instruction::{NONE, Shuffle, Vote};
use crate::registers::lanes;
use crate::rows::LANES;

impl Cluster<'_> {
    /// The members that a register names, which all lanes of the group must name alike.
    fn members(warp: &Warp, register: u32, step: &Step) -> u32 {
        warp.registers.lane(register, Warp::first_lane(step.mask))
    }

    pub(super) fn warp_barrier(&mut self, warp: &mut Warp, step: &Step) -> Flow {
        let members = Self::members(warp, step.registers[0], step);
        self.together(warp, step, members).unwrap_or(Flow::Next)
    }

    pub(super) fn shuffle(&mut self, warp: &mut Warp, mode: Shuffle, step: &Step) -> Result<Flow, Finding> {
        let [target, flag, a, b, c, members] = step.registers[..] else { return Ok(Flow::Next) };
        let members = Self::members(warp, members, step);
        if let Some(flow) = self.together(warp, step, members) {
            return Ok(flow);
        }
        let (values, b, c) = (*warp.registers.row(a), *warp.registers.row(b), *warp.registers.row(c));
        let (mut results, mut valid) = (values, 0u32);
        for lane in lanes(step.mask) {
            let (shift, clamp, segment) = (b[lane] & 31, c[lane] & 31, c[lane] >> 8 & 31);
            let number = lane as u32;
            let last = number & segment | clamp & !segment;
            let first = number & segment;
            let (source, inside) = match mode {
                // For `up` the clamp is the first lane of the segment.
                Shuffle::Up => (number.wrapping_sub(shift), number as i32 - shift as i32 >= last as i32),
                Shuffle::Down => (number + shift, number + shift <= last),
                Shuffle::Butterfly => (number ^ shift, number ^ shift <= last),
                Shuffle::Index => {
                    let source = first | shift & !segment;
                    (source, source <= last)
                }
            };
            if !inside {
                continue;
            }
            if step.mask >> source & 1 == 0 {
                let text = format!("shfl reads lane {source}, which does not take part");
                return Err(text).in_lane(lane);
            }
            valid |= 1 << lane;
            results[lane] = values[source as usize % LANES];
        }
        warp.registers.put(target, &results, step.mask);
        if flag != NONE {
            warp.registers.put_predicate(flag, valid, step.mask);
        }
        Ok(Flow::Next)
    }

    pub(super) fn vote(&mut self, warp: &mut Warp, mode: Vote, step: &Step) -> Flow {
        let [target, predicate, members] = step.registers[..] else { return Flow::Next };
        let members = Self::members(warp, members, step);
        if let Some(flow) = self.together(warp, step, members) {
            return flow;
        }
        let bits = warp.registers.word(predicate) & step.mask;
        let answer = match mode {
            Vote::Ballot => {
                warp.registers.put(target, &[bits; LANES], step.mask);
                return Flow::Next;
            }
            Vote::All => bits == step.mask,
            Vote::Any => bits != 0,
            Vote::Uniform => bits == 0 || bits == step.mask,
        };
        warp.registers.put_predicate(target, if answer { u32::MAX } else { 0 }, step.mask);
        Flow::Next
    }

    /// Any lane may be elected; with a seed any is, without one the first.
    pub(super) fn elect(&mut self, warp: &mut Warp, step: &Step) -> Flow {
        let [leader, flag, members] = step.registers[..] else { return Flow::Next };
        let members = Self::members(warp, members, step);
        if let Some(flow) = self.together(warp, step, members) {
            return flow;
        }
        let candidates: Vec<usize> = lanes(step.mask & members).collect();
        let number = if self.launch.settings.seed.is_some() { self.random.below(candidates.len().max(1)) } else { 0 };
        let chosen = candidates.get(number).copied().unwrap_or(0);
        warp.registers.put(leader, &[chosen as u32; LANES], step.mask);
        if flag != NONE {
            warp.registers.put_predicate(flag, 1 << chosen, step.mask);
        }
        Flow::Next
    }

    pub(super) fn match_lanes(&mut self, warp: &mut Warp, wide: bool, all: bool, step: &Step) -> Flow {
        let [target, flag, value, members] = step.registers[..] else { return Flow::Next };
        let members = Self::members(warp, members, step);
        if let Some(flow) = self.together(warp, step, members) {
            return flow;
        }
        let of = |lane| match wide {
            true => warp.registers.wide_lane(value, lane),
            false => u64::from(warp.registers.lane(value, lane)),
        };
        let values: [u64; LANES] = std::array::from_fn(of);
        let equal = |lane: usize| {
            lanes(step.mask).filter(|other| values[*other] == values[lane]).fold(0, |mask, other| mask | 1u32 << other)
        };
        let mut results = [0; LANES];
        for lane in lanes(step.mask) {
            let mask = equal(lane);
            results[lane] = if !all || mask == step.mask { mask } else { 0 };
        }
        warp.registers.put(target, &results, step.mask);
        if flag != NONE {
            let agreed = results[Warp::first_lane(step.mask)] == step.mask;
            warp.registers.put_predicate(flag, if agreed { u32::MAX } else { 0 }, step.mask);
        }
        Flow::Next
    }

    pub(super) fn reduce(&mut self, warp: &mut Warp, function: fn(u32, u32) -> u32, step: &Step) -> Flow {
        let [target, value, members] = step.registers[..] else { return Flow::Next };
        let members = Self::members(warp, members, step);
        if let Some(flow) = self.together(warp, step, members) {
            return flow;
        }
        let values = warp.registers.row(value);
        let result = lanes(step.mask).map(|lane| values[lane]).reduce(function).unwrap_or(0);
        warp.registers.put(target, &[result; LANES], step.mask);
        Flow::Next
    }
}
