//! A training step that is counted, not timed: what its kernels do, launch by launch, without a GPU.
//!
//! Behind `tools/emulated_gpu.sh` with `EMULATED_GPU_ENGINE=ptx` the driver is an emulator that executes what nvcc made of the kernels, and
//! writes what each launch did into a file: instructions by class, wavefronts and bank conflicts of shared memory, sectors of global
//! memory, by line of the source. Here these are summed by kernel and by line, beside the bounds that [`mod@super::plan`] has for the same step.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::{KernelPlan, Plan, Target, plan};
use super::workload::Workload;
use crate::device::chips::{CHIPS, Chip};
use crate::device::{DType, Device};
use crate::report::{Cell, Page, Table, format};
use crate::{Error, Result};

/// Names the file that the emulated driver writes.
pub const COUNTERS: &str = "EMULATED_GPU_COUNTERS";

/// Rows of a table of lines.
const LINES: usize = 30;

/// Counts of a kernel or of a line, by the emulator's names: `warp_instructions`, `bank_conflicts`, `load_sectors` and so on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// A count; 0 where the emulator has none of that name.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    fn add(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name.clone()).or_default() += count;
        }
    }

    /// Wavefronts and sectors that a better order of addresses would save.
    pub fn lost(&self) -> u64 {
        let beyond = |touched: &str, least: &str| self.get(touched).saturating_sub(self.get(least));
        let sectors = beyond("load_sectors", "load_sectors_least") + beyond("store_sectors", "store_sectors_least");
        self.get("bank_conflicts") + sectors
    }
}

/// A line of the emulated driver's file.
#[derive(Debug, Deserialize)]
struct LaunchLine {
    kernel: String,
    counters: LaunchCounters,
}

#[derive(Debug, Deserialize)]
struct LaunchCounters {
    total: Counts,
    by_source: Vec<SourceLine>,
}

#[derive(Debug, Deserialize)]
struct SourceLine {
    file: String,
    line: u32,
    #[serde(flatten)]
    counts: Counts,
}

/// All launches of a kernel in the step.
#[derive(Clone, Debug, Serialize)]
pub struct CountedKernel {
    /// Its name.
    pub kernel: String,
    /// Launches that were counted.
    pub launches: usize,
    /// What they did together.
    pub counts: Counts,
    /// What the plan of the same step knows of it: stated bytes and arithmetic, and the least time by each unit.
    pub plan: Option<KernelPlan>,
}

/// What all launches of a kernel did at one line of the source.
#[derive(Clone, Debug, Serialize)]
pub struct CountedLine {
    /// The kernel.
    pub kernel: String,
    /// The file, from `kernels/` on where it lies there, or its name.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// What was done there.
    pub counts: Counts,
}

/// One step, counted.
#[derive(Clone, Debug, Serialize)]
pub struct Counted {
    /// Where it ran.
    pub device: String,
    /// The chip whose bounds stand beside the counts; none of that compute capability may be known.
    pub chip: Option<&'static str>,
    /// Type of weights and activations.
    pub dtype: &'static str,
    /// Tokens of the step.
    pub tokens_per_step: usize,
    /// Those with the most instructions first.
    pub kernels: Vec<CountedKernel>,
    /// Those with the most instructions first.
    pub lines: Vec<CountedLine>,
}

/// Runs two steps of `workload`, the first of which fills the tape's pool, and counts the second.
///
/// # Errors
/// [`Error::Usage`] where no emulated driver counts; those of training, and of its file.
pub fn count(workload: &Workload, device: &Device, dtype: DType, seed: u64) -> Result<Counted> {
    let (Device::Kernels(driver), Some(path)) = (device, std::env::var_os(COUNTERS)) else {
        return Err(Error::usage(
            format!("--emulate on {device}, which counts nothing"),
            "run it in the emulator of compiled kernels: tools/emulated_gpu.sh helixgrad profile --emulate",
        ));
    };
    let path = PathBuf::from(path);
    let mut trainer = workload.trainer(device, dtype, seed)?;
    let batches = [workload.batch(seed)];
    trainer.step(&batches, 1e-4)?;
    device.synchronize()?;
    let before = std::fs::metadata(&path).map_err(Error::io("read", &path))?.len();
    trainer.step(&batches, 1e-4)?;
    device.synchronize()?;
    let launches = read(&path, before)?;
    let capability = driver.compute_capability();
    let chip = CHIPS.iter().find(|chip| chip.capability == capability).copied();
    // What launches cost is no part of a kernel's bounds.
    let target = |chip: Chip| Target { chip, attention: driver.attention_path(), dtype, launch_microseconds: 0.0 };
    let planned = chip.map(|chip| plan(workload, &target(chip), seed)).transpose()?;
    let (kernels, lines) = sums(launches, planned.as_ref());
    Ok(Counted {
        device: device.to_string(),
        chip: chip.map(|chip| chip.title),
        dtype: dtype.name(),
        tokens_per_step: batches[0].total_tokens(),
        kernels,
        lines,
    })
}

/// The launches in the file behind its first `start` bytes.
fn read(path: &Path, start: u64) -> Result<Vec<LaunchLine>> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    file.seek(SeekFrom::Start(start)).map_err(Error::io("read", path))?;
    let lines = BufReader::new(file).lines().enumerate().map(|(index, line)| {
        let line = line.map_err(Error::io("read", path))?;
        serde_json::from_str(&line).map_err(|error| {
            let place = format!("launch {} of the counted step", index + 1);
            Error::input(path, place, error.to_string(), "is the emulated driver of the same version as this program?")
        })
    });
    lines.collect()
}

/// By kernel and by line, each with the most instructions first.
fn sums(launches: Vec<LaunchLine>, plan: Option<&Plan>) -> (Vec<CountedKernel>, Vec<CountedLine>) {
    let mut kernels: BTreeMap<String, (usize, Counts)> = BTreeMap::new();
    let mut lines: BTreeMap<(String, String, u32), Counts> = BTreeMap::new();
    for LaunchLine { kernel, counters } in launches {
        for SourceLine { file, line, counts } in counters.by_source {
            // Ours as they are called here, those of the toolkit by their names.
            let start = file.rfind("kernels/").or_else(|| file.rfind('/').map(|slash| slash + 1)).unwrap_or(0);
            lines.entry((kernel.clone(), file[start..].to_owned(), line)).or_default().add(&counts);
        }
        let (number, counts) = kernels.entry(kernel).or_default();
        *number += 1;
        counts.add(&counters.total);
    }
    let planned = |name: &str| plan?.kernels.iter().find(|kernel| kernel.kernel == name).cloned();
    let kernel = |(kernel, (launches, counts)): (String, _)| {
        let plan = planned(&kernel);
        CountedKernel { kernel, launches, counts, plan }
    };
    let mut kernels: Vec<_> = kernels.into_iter().map(kernel).collect();
    let line = |((kernel, file, line), counts)| CountedLine { kernel, file, line, counts };
    let mut lines: Vec<_> = lines.into_iter().map(line).collect();
    let instructions = |counts: &Counts| std::cmp::Reverse(counts.get("warp_instructions"));
    kernels.sort_by_key(|kernel| instructions(&kernel.counts));
    lines.sort_by_key(|line| instructions(&line.counts));
    (kernels, lines)
}

/// Share of `part` in `whole`, in percent; nothing of nothing.
fn percent(part: u64, whole: u64) -> Cell {
    if whole == 0 { "".into() } else { Cell::number(100.0 * part as f64 / whole as f64, 0) }
}

/// A count, or nothing where there is none.
fn some(count: u64) -> Cell {
    if count == 0 { "".into() } else { count.into() }
}

/// What kernels and lines have in common.
const HEADERS: [&str; 9] = [
    "instructions",
    "tensor",
    "special",
    "wavefronts",
    "conflicts %",
    "loads used %",
    "stores used %",
    "divergent",
    "waits",
];

fn cells(counts: &Counts) -> [Cell; 9] {
    let get = |name| counts.get(name);
    [
        some(get("warp_instructions")),
        some(get("tensor")),
        some(get("special")),
        some(get("shared_wavefronts")),
        percent(get("bank_conflicts"), get("shared_wavefronts")),
        percent(get("load_sectors_least"), get("load_sectors")),
        percent(get("store_sectors_least"), get("store_sectors")),
        some(get("divergent_branches")),
        some(get("barrier_waits")),
    ]
}

fn kernels(counted: &Counted) -> Table {
    let ends = ["L2 MB", "stated MB", "issue µs", "bound by"];
    let mut table = Table::new(["kernel", "launches"].into_iter().chain(HEADERS).chain(ends));
    for CountedKernel { kernel, launches, counts, plan } in &counted.kernels {
        let megabytes = |bytes: f64| Cell::number(bytes / 1e6, 3);
        let stated = plan.as_ref().filter(|plan| !plan.work.is_unknown());
        let issue = plan.as_ref().and_then(|plan| plan.floors.issue);
        let bound = plan.as_ref().and_then(|plan| plan.bound_by);
        let starts = [Cell::from(kernel.as_str()), (*launches as u64).into()];
        let ends = [
            megabytes(counts.get("l2_bytes") as f64),
            stated.map_or("".into(), |plan| megabytes(plan.work.bytes)),
            issue.map_or("".into(), |milliseconds| Cell::number(milliseconds * 1e3, 2)),
            bound.map_or("", super::plan::Bound::name).into(),
        ];
        table.row(starts.into_iter().chain(cells(counts)).chain(ends));
    }
    table
}

/// How many of so many lines a table has.
fn first_of(lines: usize) -> String {
    match lines > LINES {
        true => format!("the first {LINES} of {}; profile.json and --json have all", format::count(lines as u64)),
        false => "all of them".into(),
    }
}

fn lines<'a>(lines: impl Iterator<Item = &'a CountedLine>) -> Table {
    let mut table = Table::new(["line", "kernel"].into_iter().chain(HEADERS));
    for CountedLine { kernel, file, line, counts } in lines.take(LINES) {
        let place = [Cell::from(format!("{file}:{line}")), kernel.as_str().into()];
        table.row(place.into_iter().chain(cells(counts)));
    }
    table
}

/// Lines that lose something, those with most of it first.
fn losing(counted: &Counted) -> Vec<&CountedLine> {
    let mut losing: Vec<_> = counted.lines.iter().filter(|line| line.counts.lost() > 0).collect();
    losing.sort_by_key(|line| std::cmp::Reverse(line.counts.lost()));
    losing
}

const MEANING: &str = "Instructions are PTX, once a warp; ptxas makes others of them. Wavefronts are passes of shared memory, conflicts those that \
     another order of addresses would save. Of the sectors of 32 bytes that loads and stores touch, \"used\" is what would have done. L2 is what \
     passes if L1 keeps nothing, stated what the launch cannot avoid on that chip (by whose multiprocessors a product is cut in parts); \"issue\" is the least time of its machine code.";

/// The text for the terminal.
pub fn text(counted: &Counted, title: &str) -> String {
    let losing = losing(counted);
    format!(
        "{title} ({}) on {}: {}\n\n{}\n{MEANING}\n\nLines that lose wavefronts or sectors, most first ({}):\n\n{}",
        counted.dtype,
        counted.device,
        what(counted),
        kernels(counted),
        first_of(losing.len()),
        lines(losing.into_iter())
    )
}

fn what(counted: &Counted) -> String {
    let chip = counted.chip.map(|chip| format!("; bounds: {chip}")).unwrap_or_default();
    format!("a step of {} tokens, counted and not timed{chip}", format::count(counted.tokens_per_step as u64))
}

/// The page: it needs no other file.
pub fn page(counted: &Counted, title: &str, command: &str) -> String {
    let mut all = Counts::default();
    counted.kernels.iter().for_each(|kernel| all.add(&kernel.counts));
    let share = |part: u64, whole: u64| format::percent(part as f64 / whole.max(1) as f64, 1);
    let sectors = |end: &str| all.get(&format!("load_sectors{end}")) + all.get(&format!("store_sectors{end}"));
    let mut page = Page::new(&format!("Counters: {title}"));
    let tokens = format::count(counted.tokens_per_step as u64);
    let bounds = counted.chip.map(|chip| format!(" The bounds are those of one chip: {chip}.")).unwrap_or_default();
    page.wide().lead(&format!(
        "What the compiled kernels do in a step of {tokens} tokens, by kernel and by line of their source: counted and not timed.{bounds}"
    ));
    page.facts(&[
        ("warp instructions", format::short(all.get("warp_instructions") as f64)),
        ("bank conflicts", share(all.get("bank_conflicts"), all.get("shared_wavefronts"))),
        ("of sectors used", share(sectors("_least"), sectors(""))),
        ("through L2", format::quantity(all.get("l2_bytes") as f64, "B")),
    ]);
    page.section("Kernels");
    page.paragraph(MEANING);
    page.table(&kernels(counted));
    page.section("Lines that lose wavefronts or sectors");
    let losing = losing(counted);
    let shown = first_of(losing.len());
    page.paragraph(&format!("Most first ({shown}). What tensor copies and wgmma do with the banks is not counted."));
    page.table(&lines(losing.into_iter()));
    page.section("Lines with the most instructions");
    page.paragraph(&format!("Most first ({}).", first_of(counted.lines.len())));
    page.table(&lines(counted.lines.iter()));
    page.section("How it was made");
    page.paragraph(&format!(
        "The step ran on {}, which executes the PTX that nvcc made of the kernels.",
        counted.device
    ));
    page.code(command);
    page.footer(&format!("helixgrad {}", env!("CARGO_PKG_VERSION")));
    page.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(kernel: &str, instructions: u64, conflicts: u64) -> String {
        format!(
            r#"{{"kernel": "{kernel}", "grid": [1, 1, 1], "counters": {{"warp_instructions": {instructions},
            "total": {{"warp_instructions": {instructions}, "bank_conflicts": {conflicts}, "shared_wavefronts": 8}}, "by_line": {{}},
            "by_source": [{{"file": "/somewhere/kernels/common/a.cuh", "line": 7, "warp_instructions": {instructions}, "bank_conflicts": {conflicts}}}]}}}}"#
        )
        .replace('\n', " ")
    }

    #[test]
    fn launches_of_the_step_are_summed_by_kernel_and_line() {
        let path = std::env::temp_dir().join(format!("helixgrad-counted-{}.jsonl", std::process::id()));
        let first = launch("before", 1000, 9) + "\n";
        let all =
            [&launch("a", 5, 0), &launch("b", 40, 2), &launch("b", 4, 1)].map(|line| format!("{line}\n")).concat();
        std::fs::write(&path, format!("{first}{all}")).unwrap();
        let (kernels, lines) = sums(read(&path, first.len() as u64).unwrap(), None);
        let names: Vec<_> = kernels.iter().map(|kernel| (kernel.kernel.as_str(), kernel.launches)).collect();
        assert_eq!(names, [("b", 2), ("a", 1)]);
        assert_eq!((kernels[0].counts.get("warp_instructions"), kernels[0].counts.lost()), (44, 3));
        let CountedLine { kernel, file, line, counts } = &lines[0];
        assert_eq!(
            (kernel.as_str(), file.as_str(), *line, counts.get("bank_conflicts")),
            ("b", "kernels/common/a.cuh", 7, 3)
        );
        let counted = Counted { device: "d".into(), chip: None, dtype: "f32", tokens_per_step: 8, kernels, lines };
        assert_eq!(losing(&counted).len(), 1, "a line that loses nothing is not among them");
        let text = text(&counted, "mini");
        let row = text.lines().find(|line| line.starts_with("b ")).unwrap();
        assert!(row.contains("44") && row.contains("19"), "3 of 16 wavefronts: {row}");
        assert!(text.contains("most first (all of them)"), "{text}");
        let many = Counted { lines: vec![counted.lines[0].clone(); LINES + 1], ..counted.clone() };
        let said = format!("the first {LINES} of {};", LINES + 1);
        assert!(super::text(&many, "mini").contains(&said) && page(&many, "mini", "helixgrad").contains(&said));
        assert!(page(&counted, "mini", "helixgrad").contains("kernels/common/a.cuh:7"));
        std::fs::write(&path, "{").unwrap();
        let error = read(&path, 0).unwrap_err().to_string();
        assert!(error.contains("launch 1 of the counted step"), "{error}");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn nothing_is_counted_where_nobody_counts() {
        let workload = crate::bench::Workload {
            config: crate::model::preset("mini").unwrap().config(16),
            head: crate::model::Head::MaskedLm,
            batch: 1,
            length: 16,
            mix: crate::bench::Mix::Full,
            masked: 0.15,
            recompute: crate::model::Recompute::None,
            steps: 1,
            collected: None,
        };
        let error = count(&workload, &Device::Cpu, DType::F32, 1).unwrap_err().to_string();
        assert!(error.contains("tools/emulated_gpu.sh"), "{error}");
    }
}
