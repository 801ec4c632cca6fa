//! What to say when nothing goes on.

use super::{Cluster, State, Warp};
use crate::fault::{Fault, Finding};

impl Cluster<'_> {
    /// Nobody can go on: who waits where, and for what.
    pub(super) fn deadlock(&self, what: &str) -> Fault {
        let mut text = what.to_owned();
        let mut first = None;
        for warp in self.warps.iter().flatten().filter(|warp| warp.state != State::Ended) {
            let what = match warp.state {
                State::Barrier { id, .. } => {
                    let barrier = &self.blocks[warp.block].barriers[id];
                    format!("at barrier {id}, where {} threads have arrived", barrier.arrived)
                }
                State::Cluster { .. } => format!("at the cluster's barrier, where {} warps are", self.barrier.arrived),
                _ => "for something that does not come, or loops".into(),
            };
            text += &format!("\n  block {:?}, warp {} waits {what}", self.blocks[warp.block].id, warp.number);
            for group in &warp.groups {
                let statement = self.launch.code.instructions[group.pc as usize].statement;
                let waits = if group.waits { ", for other lanes" } else { "" };
                text += &format!("; lanes {:#010x} before {}{waits}", group.mask, self.launch.describe(statement));
                first.get_or_insert((warp.block, warp.number, statement));
            }
        }
        for block in &self.blocks {
            for (address, mbarrier) in &block.mbarriers {
                text += &format!("\n  block {:?}, {}", block.id, mbarrier.describe(*address));
            }
        }
        let mut fault = self.launch.fault(first.map(|first| first.2), text);
        if let Some((block, warp, _)) = first {
            (fault.block, fault.warp) = (Some(self.blocks[block].id), Some(warp as u32));
        }
        fault
    }

    /// The lanes of a warp wait for each other at different instructions.
    pub(super) fn stuck(&self, warp: &Warp) -> Fault {
        let place = |pc: u32| self.launch.code.instructions[pc as usize].statement;
        let mut text = String::from("lanes wait for each other at different instructions:");
        for group in &warp.groups {
            text += &format!(" {:#010x} at {};", group.mask, self.launch.describe(place(group.pc)));
        }
        let statement = warp.groups.first().map_or(0, |group| place(group.pc));
        self.place(warp, statement, Finding::from(text.trim_end_matches(';').to_owned()))
    }
}
