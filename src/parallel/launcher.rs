//! Which rank this process is: what its launcher put into the environment.

use crate::{Error, Result};

/// Seconds to wait for the other ranks, unless `HELIXGRAD_JOIN_SECONDS` says otherwise.
const JOIN_SECONDS: u64 = 300;

/// A process among those that were started together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Who started it, for people: the variables that say so.
    pub launcher: &'static str,
    /// Its number, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Its number on its machine: that of its GPU.
    pub local_rank: usize,
    /// How many there are on its machine.
    pub local_size: Option<usize>,
    /// Host and port where rank 0 is to be found, where the launcher says.
    pub address: Option<(String, u16)>,
}

/// A launcher's variables.
struct Variables {
    name: &'static str,
    rank: &'static str,
    size: &'static str,
    local_rank: &'static str,
    local_size: &'static str,
}

/// In the order in which they are asked: an inner launcher's before that of the job around it.
const LAUNCHERS: [Variables; 6] = [
    Variables {
        name: "HELIXGRAD_RANK",
        rank: "HELIXGRAD_RANK",
        size: "HELIXGRAD_RANKS",
        local_rank: "HELIXGRAD_LOCAL_RANK",
        local_size: "HELIXGRAD_LOCAL_RANKS",
    },
    Variables {
        name: "Open MPI's mpirun",
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
    },
    Variables {
        name: "torchrun",
        rank: "RANK",
        size: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        local_size: "LOCAL_WORLD_SIZE",
    },
    // MPICH's mpirun sets these inside an allocation of Slurm, too; srun sets PMI_ ones beside its own.
    Variables {
        name: "MPICH's mpirun",
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        local_size: "MPI_LOCALNRANKS",
    },
    Variables {
        name: "srun",
        rank: "SLURM_PROCID",
        size: "SLURM_NTASKS",
        local_rank: "SLURM_LOCALID",
        local_size: "SLURM_NTASKS_PER_NODE",
    },
    Variables {
        name: "srun",
        rank: "SLURM_PROCID",
        size: "SLURM_STEP_NUM_TASKS",
        local_rank: "SLURM_LOCALID",
        local_size: "SLURM_NTASKS_PER_NODE",
    },
];

impl Place {
    /// This process' place among several; `None` if it was started alone.
    ///
    /// # Errors
    /// [`Error::Usage`] for variables that contradict each other.
    pub fn find() -> Result<Option<Self>> {
        Self::of(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// As [`Place::find`], from variables as `variable` has them.
    fn of(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        for Variables { name, rank, size, local_rank, local_size } in LAUNCHERS {
            // The shell of an allocation has Slurm's variables without being a task of it.
            let is_no_task = name == "srun" && variable("SLURM_STEP_ID").is_none();
            let (Some(rank_text), Some(size_text)) = (variable(rank), variable(size)) else { continue };
            if is_no_task {
                continue;
            }
            let number = |name: &str, text: &str| {
                text.trim().parse::<usize>().map_err(|_| {
                    Error::usage(
                        format!("{name}={text} in the environment"),
                        "a launcher puts a number there; unset it",
                    )
                })
            };
            let (rank_number, size_number) = (number(rank, &rank_text)?, number(size, &size_text)?);
            if rank_number >= size_number {
                return Err(Error::usage(
                    format!("{rank}={rank_number} of {size}={size_number} in the environment"),
                    "ranks count from 0: start them with one launcher, or unset these variables",
                ));
            }
            if size_number == 1 {
                return Ok(None);
            }
            let local_number = variable(local_rank).map(|text| number(local_rank, &text)).transpose()?;
            // Slurm writes "4(x2)" where nodes differ: then nobody knows.
            let local_size = variable(local_size).and_then(|text| text.parse().ok());
            if let (Some(local), Some(count)) = (local_number, local_size)
                && local >= count
            {
                return Err(Error::usage(
                    format!("{local_rank}={local} of {count} ranks on this machine"),
                    "ranks count from 0 on each machine: start them with one launcher",
                ));
            }
            return Ok(Some(Self {
                launcher: name,
                rank: rank_number,
                size: size_number,
                local_rank: local_number.unwrap_or(rank_number),
                local_size,
                address: address(variable)?,
            }));
        }
        Ok(None)
    }

    /// Whether all ranks are on one machine.
    pub fn is_one_machine(&self) -> bool {
        self.local_size == Some(self.size)
    }

    /// Seconds to wait for the other ranks.
    ///
    /// # Errors
    /// [`Error::Usage`] for `HELIXGRAD_JOIN_SECONDS` that is no number.
    pub fn join_seconds() -> Result<u64> {
        match std::env::var("HELIXGRAD_JOIN_SECONDS") {
            Ok(text) => text.parse().map_err(|_| {
                Error::usage(format!("HELIXGRAD_JOIN_SECONDS={text}"), "give whole seconds to wait for the other ranks")
            }),
            Err(_) => Ok(JOIN_SECONDS),
        }
    }
}

/// What messages of this process begin with, where it is one of several but not the first.
pub fn prefix() -> String {
    match Place::find() {
        Ok(Some(place)) if place.rank > 0 => format!("rank {}: ", place.rank),
        _ => String::new(),
    }
}

/// Threads for one of several ranks on a machine: its share of the cores; `None` where it is alone, or where its launcher
/// has given it cores of its own.
pub fn threads() -> Option<usize> {
    let count = Place::find().ok()??.local_size.filter(|count| *count > 1)?;
    let allowed = |process: &str| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:"))?;
        Some(mask.chars().filter_map(|digit| digit.to_digit(16)).map(u32::count_ones).sum::<u32>())
    };
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned();
    let is_bound = allowed("self")? < allowed(&parent)?;
    let cores = std::thread::available_parallelism().ok()?.get();
    (!is_bound).then_some((cores / count).max(1))
}

/// Where rank 0 is to be found.
fn address(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<(String, u16)>> {
    let port = |name: &str, text: &str| {
        text.parse::<u16>().map_err(|_| Error::usage(format!("{name}={text}"), "give a port from 1 to 65535"))
    };
    if let Some(text) = variable("HELIXGRAD_ADDRESS") {
        let Some((host, number)) = text.rsplit_once(':') else {
            return Err(Error::usage(format!("HELIXGRAD_ADDRESS={text}"), "give rank 0's HOST:PORT"));
        };
        return Ok(Some((host.to_owned(), port("HELIXGRAD_ADDRESS", number)?)));
    }
    if let (Some(host), Some(text)) = (variable("MASTER_ADDR"), variable("MASTER_PORT")) {
        // torchrun's own store listens at that port.
        let taken = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let number = port("MASTER_PORT", &text)?;
        return Ok(Some((host, if taken { number.checked_add(1).unwrap_or(number - 1) } else { number })));
    }
    if let (Some(nodes), Some(job)) =
        (variable("SLURM_STEP_NODELIST").or_else(|| variable("SLURM_JOB_NODELIST")), variable("SLURM_JOB_ID"))
        && variable("SLURM_STEP_ID").is_some()
    {
        let id = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let number = 20_000 + (id(Some(job)) * 7 + id(variable("SLURM_STEP_ID"))) % 10_000;
        return Ok(Some((first_host(&nodes), number as u16)));
    }
    Ok(None)
}

/// The first of Slurm's hosts: of `gpu[007-009,12],login1` gpu007.
fn first_host(nodes: &str) -> String {
    let mut name = String::new();
    let mut rest = nodes.chars();
    while let Some(letter) = rest.next() {
        match letter {
            ',' => break,
            '[' => {
                let inside: String = rest.by_ref().take_while(|letter| *letter != ']').collect();
                name.extend(inside.chars().take_while(char::is_ascii_digit));
            }
            letter => name.push(letter),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Option<Place>> {
        Place::of(&|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn every_launcher_is_understood() {
        assert_eq!(place(&[("HOME", "/")]).unwrap(), None);
        let open_mpi = [
            ("OMPI_COMM_WORLD_RANK", "3"),
            ("OMPI_COMM_WORLD_SIZE", "8"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
            // Of the job around it.
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "4"),
            ("SLURM_STEP_ID", "0"),
        ];
        let found = place(&open_mpi[..4]).unwrap().unwrap();
        assert_eq!(
            (found.rank, found.size, found.local_rank, found.local_size, found.address),
            (3, 8, 1, Some(2), None)
        );
        assert_eq!(place(&open_mpi).unwrap().unwrap().size, 8);
        let torchrun = [
            ("RANK", "1"),
            ("WORLD_SIZE", "2"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "node7"),
            ("MASTER_PORT", "29500"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ];
        let found = place(&torchrun).unwrap().unwrap();
        assert!(found.is_one_machine() && found.address == Some(("node7".into(), 29_501)));
        assert_eq!(place(&torchrun[..6]).unwrap().unwrap().address, Some(("node7".into(), 29_500)));
        let mpich = [("PMI_RANK", "0"), ("PMI_SIZE", "4"), ("MPI_LOCALRANKID", "0"), ("MPI_LOCALNRANKS", "4")];
        assert_eq!(place(&mpich).unwrap().unwrap().launcher, "MPICH's mpirun");
        let slurm = [
            ("SLURM_PROCID", "5"),
            ("SLURM_NTASKS", "16"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_JOB_ID", "12345"),
            ("SLURM_JOB_NODELIST", "gpu[007-009,12],login1"),
            ("SLURM_STEP_ID", "3"),
        ];
        let found = place(&slurm).unwrap().unwrap();
        assert_eq!((found.rank, found.local_rank, found.local_size), (5, 1, None));
        assert_eq!(found.address.map(|(host, _)| host), Some("gpu007".into()));
        // The shell of an allocation is no task.
        assert_eq!(place(&slurm[..5]).unwrap(), None);
        let own = [("HELIXGRAD_RANK", "1"), ("HELIXGRAD_RANKS", "2"), ("HELIXGRAD_ADDRESS", "[::1]:4000")];
        let found = place(&own).unwrap().unwrap();
        assert_eq!((found.local_rank, found.address), (1, Some(("[::1]".into(), 4000))));
        assert_eq!(place(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None, "one is alone");
        assert_eq!(place(&[("RANK", "0")]).unwrap(), None);
    }

    #[test]
    fn variables_that_contradict_each_other_are_named() {
        for (variables, says) in [
            (&[("RANK", "2"), ("WORLD_SIZE", "2")][..], "RANK=2 of WORLD_SIZE=2"),
            (&[("RANK", "x"), ("WORLD_SIZE", "2")], "RANK=x"),
            (&[("RANK", "0"), ("WORLD_SIZE", "-1")], "WORLD_SIZE=-1"),
            (
                &[("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "2"), ("LOCAL_WORLD_SIZE", "2")],
                "LOCAL_RANK=2 of 2",
            ),
            (&[("HELIXGRAD_RANK", "0"), ("HELIXGRAD_RANKS", "2"), ("HELIXGRAD_ADDRESS", "here")], "HELIXGRAD_ADDRESS"),
            (
                &[("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "h"), ("MASTER_PORT", "70000")],
                "MASTER_PORT=70000",
            ),
        ] {
            let error = place(variables).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_first_host_of_a_list() {
        for (list, first) in
            [("node1", "node1"), ("node1,node2", "node1"), ("n[1-3]", "n1"), ("a[07,9]-ib,b", "a07-ib"), ("", "")]
        {
            assert_eq!(first_host(list), first);
        }
    }
}
