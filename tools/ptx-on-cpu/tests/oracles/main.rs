//! Kernels that mature compilers made for Ampere and Hopper (Triton, Gluon, CUTLASS: `oracles/`), run as they are. What they
//! compute is known, and nobody here wrote the instructions, descriptors and swizzles with which they do it: that their numbers
//! are right says that the emulator's understanding of these is the hardware's.
//!
//! Every oracle runs in order, and with all hazard checks under a schedule by seed with asynchronous work as late as it may be:
//! numbers are right both ways, and no hazard is reported. `PTX_ON_CPU_SEED=n` repeats a schedule.

mod case;
mod engine;
mod manifest;
mod reference;

use std::sync::atomic::{AtomicUsize, Ordering};

use case::Case;
use ptx_on_cpu::{Asynchronous, Module, Settings};

#[test]
fn oracles_are_right_and_free_of_hazards() {
    let seed = match std::env::var("PTX_ON_CPU_SEED") {
        Ok(seed) => seed.parse().expect("PTX_ON_CPU_SEED is a number"),
        Err(_) => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos().into(),
    };
    println!("PTX_ON_CPU_SEED={seed}");
    // Only oracles with this in their name: for looking closer.
    let only = std::env::var("PTX_ON_CPU_ORACLE").unwrap_or_default();
    let oracles: Vec<_> = manifest::read().into_iter().filter(|oracle| oracle.name.contains(&only)).collect();
    assert!(!oracles.is_empty(), "no oracle has {only:?} in its name");
    let late = Settings { asynchronous: Asynchronous::Late, ..Settings::strict(seed) };
    let ways = [("in order", Settings::default()), ("strict", Settings::strict(seed)), ("strict and late", late)];
    let next = AtomicUsize::new(0);
    let work = || {
        let mut failures = vec![];
        while let Some(oracle) = oracles.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = oracle.name.clone();
            let module = match Module::parse(&oracle.ptx()) {
                Ok(module) => module,
                Err(error) => {
                    failures.push(format!("{name}: {error}"));
                    continue;
                }
            };
            let case = Case::new(oracle.clone());
            for (way, settings) in &ways {
                let start = std::time::Instant::now();
                match engine::execute(&case, &module, settings).and_then(|after| {
                    case.check(&after)?;
                    Ok(case.share_of_tolerance(&after))
                }) {
                    Ok(share) => {
                        println!(
                            "{name}, {way}: {:.2} s, errors {share:.2} of what is allowed",
                            start.elapsed().as_secs_f64()
                        );
                    }
                    Err(finding) => failures.push(format!("{name}, {way}: {finding}")),
                }
            }
        }
        failures
    };
    let failures: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker panicked")).collect()
    });
    assert!(failures.is_empty(), "PTX_ON_CPU_SEED={seed}\n{}", failures.join("\n"));
}
