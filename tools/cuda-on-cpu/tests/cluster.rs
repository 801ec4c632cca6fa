//! Clusters of blocks: who is where, barriers across blocks, mbarriers and tiles of another block, and kernels that use them wrongly.

mod common;
use common::{Launch, buffer, values};
use cuda_on_cpu::{Fault, FaultKind, GuardedBuffer, TensorElement, TensorMap, TensorSwizzle, TiledTensor};

fn expect<T: std::fmt::Debug>(result: Result<T, Fault>, kind: FaultKind, words: &str) {
    let fault = result.unwrap_err();
    assert!(fault.kind == kind && fault.to_string().contains(words), "{fault}");
}

#[test]
fn blocks_know_their_place() {
    let run = |kernel, grid: [u32; 3]| {
        let out = GuardedBuffer::poisoned::<i32>("out", (grid[0] * grid[1]) as usize).unwrap();
        Launch { grid, seed: 3, ..Launch::of(kernel) }.run(&[&out.as_ptr()]).map(|()| out.to_vec::<i32>())
    };
    let row = |first: i32| [first, first + 1, first, first + 1, first, first + 1];
    assert_eq!(run("cluster_places", [6, 2, 1]).unwrap(), [row(64), row(66)].concat());
    assert_eq!(run("no_cluster_places", [3, 1, 1]).unwrap(), [16; 3]);
    expect(run("cluster_places", [6, 3, 1]), FaultKind::Launch, "[6, 3, 1] is not made of whole clusters of [2, 2, 1]");
    expect(run("cluster_too_large", [3, 3, 1]), FaultKind::Launch, "clusters of [3, 3, 1] blocks: there are 1 to 8");
}

#[test]
fn a_barrier_holds_all_threads_of_the_cluster_that_are_left() {
    for seed in 0..6 {
        let rounds = 3;
        let before = buffer("before", &[0i32; 3]);
        let after = GuardedBuffer::poisoned::<i32>("after", 3 * 4 * 40).unwrap();
        let launch = Launch { grid: [4, 1, 1], block: [40, 1, 1], seed, ..Launch::of("cluster_meet") };
        launch.run(&[&before.as_ptr(), &after.as_ptr(), &rounds]).unwrap_or_else(|fault| panic!("{fault}"));
        for (index, found) in after.to_vec::<i32>().into_iter().enumerate() {
            assert_eq!(found, if index % 40 < 3 { -1 } else { 4 * 37 }, "seed {seed}, {index}");
        }
    }
}

#[test]
fn a_barrier_used_against_the_rules() {
    let run = |kernel| Launch { grid: [2, 1, 1], ..Launch::of(kernel) }.run(&[]);
    expect(
        run("cluster_arrives_twice"),
        FaultKind::Cluster,
        "arrives at barrier.cluster once more without having waited",
    );
    expect(run("cluster_waits_only"), FaultKind::Cluster, "waits at barrier.cluster without having arrived");
    let stuck = run("cluster_waits_for_one").unwrap_err().to_string();
    for words in [
        "deadlock: no thread of the cluster can go on; in block 0 32 wait for an mbarrier's phase",
        "in block 1 31 wait in __syncthreads",
        "1 wait in barrier.cluster",
    ] {
        assert!(stuck.contains(words), "{stuck}");
    }
}

/// What blocks saw, and what they should have.
type Seen = Result<(Vec<f32>, Vec<f32>), Fault>;

/// Two clusters of the kernel: what their four blocks saw of `rounds` tiles, and the tiles.
fn share_tiles(kernel: &'static str, rounds: usize, seed: u64) -> Seen {
    let x = values(rounds * 128, 5);
    let source = buffer("x", &x);
    let map = TensorMap::encode(&TiledTensor {
        address: source.as_ptr() as u64,
        element: TensorElement::F32,
        dims: &[8, 16 * rounds as u64],
        strides: &[32],
        tile: &[8, 8],
        swizzle: TensorSwizzle::None,
    });
    let out = GuardedBuffer::poisoned::<f32>("out", 4 * rounds * 128).unwrap();
    let launch = Launch { grid: [4, 1, 1], block: [64, 1, 1], shared_bytes: 512, seed, ..Launch::of(kernel) };
    launch.run(&[&map.unwrap(), &out.as_ptr(), &(rounds as i32)])?;
    Ok((out.to_vec(), x.repeat(4)))
}

#[test]
fn tiles_reach_both_blocks() {
    for seed in 0..20 {
        let (found, expected) = share_tiles("share_tiles_right", 5, seed).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(found, expected, "seed {seed}");
    }
}

/// What the mistake must lead to, for at least one of the first schedules.
fn caught(kernel: &'static str, shows: impl Fn(&Seen) -> bool) {
    let runs: Vec<_> = (0..12).map(|seed| share_tiles(kernel, 5, seed)).collect();
    for fault in runs.iter().filter_map(|run| run.as_ref().err()) {
        println!("{fault}");
    }
    assert!(runs.iter().any(shows), "{kernel} is wrong, and nothing shows it");
}

fn fault(kind: FaultKind, words: &str) -> impl Fn(&Seen) -> bool {
    move |run| matches!(run, Err(fault) if fault.kind == kind && fault.to_string().contains(words))
}

#[test]
fn mistakes_are_caught() {
    let missing = fault(FaultKind::Cluster, "reaches into block 1 of a cluster of 1, which has no such block");
    caught("share_tiles_alone", missing);
    let missing = "reaches into block 2 of a cluster of 2, which has no such block";
    caught("share_tiles_block_that_is_not_there", fault(FaultKind::Cluster, missing));
    caught("share_tiles_arrives_in_no_block", fault(FaultKind::Cluster, missing));
    caught("share_tiles_no_barrier_before", fault(FaultKind::Async, "an mbarrier that is not initialised"));
    caught("share_tiles_no_barrier_behind", fault(FaultKind::Cluster, "of its cluster, which has returned"));
    caught("share_tiles_leaves_early", fault(FaultKind::Cluster, "block 1 of its cluster, which has returned"));
    caught(
        "share_tiles_leaves_early",
        fault(FaultKind::Async, "the block ended with bulk copies into its shared memory"),
    );
    caught(
        "share_tiles_does_not_drain",
        fault(FaultKind::Cluster, "waited for the phase of an mbarrier at which another block"),
    );
    caught("share_tiles_own_reader_only", |run| run.as_ref().is_ok_and(|(found, expected)| found != expected));
    caught("share_tiles_silent_reader", fault(FaultKind::Deadlock, "in block 1 1 wait for an mbarrier's phase"));
    caught("share_tiles_wrong_bytes", fault(FaultKind::Deadlock, "no thread of the cluster can go on"));
    caught("share_tiles_no_shared_memory", fault(FaultKind::SharedMemory, "its tile is not shared memory"));
}
