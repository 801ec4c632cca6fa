//! What happens to all when something happens to one.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::launch::{Mpi, Started, alone, assert_same, launchers, pretraining, saving_every, words};
use crate::program::Folder;

fn signal(process: u32, signal: Signal) {
    // One that has ended already is no news.
    let _ = kill(Pid::from_raw(process as i32), signal);
}

/// Waits until a run has a checkpoint of a step not below `step`.
fn reaches(out: &Path, step: u64, run: &mut Started) {
    for _ in 0..6000 {
        let newest = std::fs::read_dir(out)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("checkpoint-")?.parse::<u64>().ok());
        if newest.max().is_some_and(|newest| newest >= step) {
            return;
        }
        if let Some(status) = run.child.try_wait().unwrap() {
            panic!("{status}: {}", run.said());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no checkpoint after a minute: {}", run.said());
}

/// Goes on in one process, and compares with a run that nobody disturbed.
fn goes_on(out: &Path, whole: &Path, what: &str) {
    alone(&words(&["pretrain", "--resume", "--out", out.to_str().unwrap(), "--quiet"]));
    assert_same(out, whole, what);
}

/// Whether an MPI has ended a survivor by itself, before anybody could name the rank that was killed: MPICH over UCX does when a rank ends
/// in the middle of a copy.
fn mpi_has_crashed(said: &str) -> bool {
    let crashed = ["process_vm_readv", "Fatal error in", "Assertion failed"].iter().any(|words| said.contains(words));
    if crashed {
        eprintln!("MPI itself has ended a rank: {}", said.lines().next().unwrap_or_default());
    }
    crashed
}

/// Kills a rank with -9 at a moment that `number` decides.
fn killed(mpi: &Mpi, folder: &Folder, whole: &Path, number: usize) {
    let out = folder.0.path().join(format!("killed-{number}"));
    let arguments = pretraining(&out, 3, 40, &[]);
    let mut run = Started::new(mpi.helixgrad(3, &arguments), folder.0.path().join(format!("messages-{number}")));
    let (victim, delay) = (number % 3, (number * 7919) % 13);
    let ranks = run.ranks(3);
    if !number.is_multiple_of(5) {
        reaches(&out, 2 + (number as u64 * 5) % 20, &mut run);
    }
    std::thread::sleep(Duration::from_millis(delay as u64 * 3));
    signal(ranks[victim], Signal::SIGKILL);
    let status = run.ends_within(Duration::from_secs(20));
    let said = run.said();
    if !status.success() && out.join("metrics.jsonl").is_file() && said.contains("has ended") {
        assert!(said.contains(&format!("rank {victim} (")) || mpi_has_crashed(&said), "{number}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    for rank in ranks {
        assert!(!Path::new(&format!("/proc/{rank}/exe")).exists(), "rank {rank} lives on: {said}");
    }
    if out.join("metrics.jsonl").is_file() && !out.join("model.safetensors").is_file() {
        goes_on(&out, whole, &format!("killed {number}"));
    }
    let _ = std::fs::remove_dir_all(&out);
}

/// A few in the tests; `HELIXGRAD_TEST_KILLS=100` for more.
#[test]
fn a_killed_rank_ends_all_and_nothing_is_lost() {
    let launchers = launchers();
    if launchers.is_empty() {
        return;
    }
    let kills = std::env::var("HELIXGRAD_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let folder = Folder::new();
    let whole = folder.0.path().join("whole");
    alone(&pretraining(&whole, 3, 40, &[]));
    (0..kills).for_each(|number| killed(&launchers[number % launchers.len()], &folder, &whole, number));
}

/// The others are named by those who are left, within seconds, while mpirun itself stands still.
#[test]
fn survivors_say_who_has_ended() {
    for mpi in launchers() {
        let folder = Folder::new();
        let out = folder.0.path().join("run");
        let arguments = pretraining(&out, 2, 4000, &[]);
        let mut run = Started::new(mpi.helixgrad(2, &arguments), folder.0.path().join("messages"));
        let ranks = run.ranks(2);
        reaches(&out, 2, &mut run);
        signal(ranks[1], Signal::SIGKILL);
        run.ends_within(Duration::from_secs(10));
        let said = run.said();
        if mpi_has_crashed(&said) {
            continue;
        }
        assert!(said.contains("rank 1 (") && said.contains("it was killed, or has crashed"), "{}: {said}", mpi.name);
        assert!(said.contains("--resume"), "{said}");
    }
}

#[test]
fn one_rank_that_is_told_to_stop_stops_all_and_everything_is_saved() {
    let launchers = launchers();
    if launchers.is_empty() {
        return;
    }
    let folder = Folder::new();
    let whole = folder.0.path().join("whole");
    alone(&saving_every(40, &whole, 2, 80, &[]));
    for (number, mpi) in launchers.iter().enumerate() {
        let out = folder.0.path().join(format!("run-{number}"));
        let arguments = saving_every(40, &out, 2, 80, &[]);
        let mut run = Started::new(mpi.helixgrad(2, &arguments), folder.0.path().join(format!("messages-{number}")));
        let ranks = run.ranks(2);
        while !out.join("metrics.jsonl").is_file() {
            assert!(run.child.try_wait().unwrap().is_none(), "{}", run.said());
            std::thread::sleep(Duration::from_millis(5));
        }
        signal(ranks[number % 2], Signal::SIGTERM);
        let status = run.ends_within(Duration::from_secs(30));
        let said = run.said();
        assert!(!status.success() && said.contains("interrupted after step"), "{}: {status} {said}", mpi.name);
        assert!(!said.contains("has ended"), "{said}");
        alone(&words(&["pretrain", "--resume", "--out", out.to_str().unwrap(), "--quiet"]));
        // The stop has left a checkpoint that the undisturbed run has not.
        let saved = said.split("checkpoint-").nth(1).unwrap()[..8].to_owned();
        if !whole.join(format!("checkpoint-{saved}")).is_dir() {
            std::fs::remove_dir_all(out.join(format!("checkpoint-{saved}"))).unwrap();
        }
        assert_same(&out, &whole, mpi.name);
    }
}

/// A limit on the size of files stands in for a full disk. It comes when MPI has made its own.
#[test]
fn a_full_disk_of_rank_0_is_told_to_all() {
    for mpi in launchers() {
        let folder = Folder::new();
        let out = folder.0.path().join("run");
        let arguments = pretraining(&out, 2, 4000, &[]);
        let mut run = Started::new(mpi.helixgrad(2, &arguments), folder.0.path().join("messages"));
        let ranks = run.ranks(2);
        reaches(&out, 2, &mut run);
        let limit = Command::new("prlimit").args(["--pid", &ranks[0].to_string(), "--fsize=20000"]).status();
        assert!(limit.unwrap().success());
        let status = run.ends_within(Duration::from_secs(60));
        let said = run.said();
        assert!(!status.success() && said.contains("cannot write"), "{}: {said}", mpi.name);
        assert!(said.contains("rank 1: error: rank 0 (") || mpi.name.contains("MPICH"), "{}: {said}", mpi.name);
        for entry in std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap()) {
            let name = entry.file_name().into_string().unwrap();
            let is_whole = name.starts_with("checkpoint-") && entry.path().join("state.json").is_file();
            let is_of_run = matches!(name.as_str(), "config.toml" | "metrics.jsonl") || name.contains("tfevents");
            assert!(is_whole || is_of_run, "{name} is left");
        }
    }
}

/// A launcher without MPI behind it, ranks that wait for one that does not come.
#[test]
fn a_rank_that_never_comes_is_named() {
    use helixgrad::parallel::Place;
    use helixgrad::parallel::channel::{Channel, Listener, Stops};
    use std::time::Instant;
    let place =
        |rank| Place { launcher: "a test", rank, size: 3, local_rank: rank, local_size: Some(3), address: None };
    let stops = Stops { requested: || false, request: || () };
    let listener = Listener::open(&place(0), 0, 7).unwrap();
    let meeting = listener.meeting.clone();
    let deadline = Instant::now() + Duration::from_millis(700);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Somebody else's browser, and a rank of another run.
            use std::io::Write;
            let mut stream = std::net::TcpStream::connect((meeting.host.as_str(), meeting.port)).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let stranger = helixgrad::parallel::channel::Meeting { token: 8, ..meeting.clone() };
            let soon = Instant::now() + Duration::from_millis(300);
            let error = Channel::visit(&stranger, &place(2), soon, stops).err().unwrap().to_string();
            assert!(error.contains("rank 2 has not found rank 0"), "{error}");
            // It waits for the third, and ends with rank 0.
            let _ = Channel::visit(&meeting, &place(1), deadline, stops);
        });
        let error = Channel::host(listener, &place(0), deadline, stops).err().unwrap().to_string();
        assert!(error.contains("1 of 3 ranks have not come") && error.contains("number 2"), "{error}");
        assert!(error.contains("HELIXGRAD_JOIN_SECONDS"), "{error}");
    });
}
