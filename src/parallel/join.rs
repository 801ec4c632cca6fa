//! How the ranks of a run find each other.

use std::time::{Duration, Instant};

use super::channel::{Channel, Listener, Meeting, Stops, host_name};
use super::{Place, Ranks, Reduction};
use crate::crc32;
use crate::device::Device;
use crate::device::collective::{Collective, UniqueId};
use crate::device::cuda::nccl;
use crate::device::mpi::Mpi;
use crate::{Error, Result};

/// Bytes in which rank 0 tells where it listens.
const MEETING_BYTES: usize = 512;

impl Ranks {
    /// Joins the ranks that were started with this process, which compute on CPUs; or none, if it was started alone.
    ///
    /// # Errors
    /// [`Error::Usage`] for a launcher and an MPI that do not know each other; [`Error::Failed`] for ranks that do not come.
    pub fn join_cpus(place: Option<Place>, reduction: Reduction, stops: Stops) -> Result<Self> {
        let Some(place) = place else { return Ok(Self::alone()) };
        let mpi = started_mpi(&place)?;
        let deadline = Instant::now() + Duration::from_secs(Place::join_seconds()?);
        let channel = meet_by_mpi(&place, &mpi, deadline, stops)?;
        Ok(Self::new(place, channel, Box::new(mpi), reduction))
    }
}

/// MPI, which says the same of this process as its launcher.
fn started_mpi(place: &Place) -> Result<Mpi> {
    let mpi = Mpi::start(place.launcher)?;
    if (mpi.rank, mpi.size) != (place.rank, place.size) {
        return Err(Error::usage(
            format!(
                "{} says that this is rank {} of {}, and {} that it is rank {} of {}: the library and the launcher are not of one MPI",
                place.launcher,
                place.rank,
                place.size,
                mpi.describe(),
                mpi.rank,
                mpi.size
            ),
            "start the ranks with mpirun of that library, or name the launcher's libmpi in HELIXGRAD_MPI (under Slurm: srun --mpi=pmix \
                 or pmi2, as your MPI was built for)",
        ));
    }
    Ok(mpi)
}

/// The channel to the other ranks, where rank 0 tells by MPI where it listens.
fn meet_by_mpi(place: &Place, mpi: &Mpi, deadline: Instant, stops: Stops) -> Result<Channel> {
    let listener = match place.rank {
        0 => Some(Listener::open(place, 0, token())?),
        _ => None,
    };
    let mut bytes = vec![0u8; MEETING_BYTES];
    if let Some(listener) = &listener {
        let text = serde_json::to_vec(&listener.meeting).map_err(|error| Error::Failed(error.to_string()))?;
        bytes[..text.len().min(MEETING_BYTES)].copy_from_slice(&text[..text.len().min(MEETING_BYTES)]);
    }
    mpi.broadcast(&mut bytes)?;
    match listener {
        Some(listener) => Channel::host(listener, place, deadline, stops),
        None => {
            let text: Vec<u8> = bytes.into_iter().take_while(|byte| *byte != 0).collect();
            let meeting: Meeting = serde_json::from_slice(&text)
                .map_err(|error| Error::Failed(format!("rank 0 does not say where it is to be found: {error}")))?;
            Channel::visit(&meeting, place, deadline, stops)
        }
    }
}

impl Ranks {
    /// As [`Ranks::join_cpus`], of ranks that each compute on a GPU, `device`. Where no launcher says where rank 0 is, MPI is asked.
    ///
    /// # Errors
    /// As [`Ranks::join_cpus`]; [`Error::Usage`] if two ranks have the same GPU, or there is no NCCL.
    pub fn join_gpus(place: Option<Place>, reduction: Reduction, stops: Stops, device: &Device) -> Result<Self> {
        let (Some(place), Device::Kernels(driver)) = (place, device) else { return Ok(Self::alone()) };
        let deadline = Instant::now() + Duration::from_secs(Place::join_seconds()?);
        let channel = match &place.address {
            None => meet_by_mpi(&place, &started_mpi(&place)?, deadline, stops)?,
            Some((host, port)) => {
                let meeting = Meeting {
                    host: host.clone(),
                    port: *port,
                    token: u64::from(crc32::of(format!("{host}:{port} {}", place.size).as_bytes())),
                };
                match place.rank {
                    0 => Channel::host(Listener::open(&place, *port, meeting.token)?, &place, deadline, stops)?,
                    _ => Channel::visit(&meeting, &place, deadline, stops)?,
                }
            }
        };
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
        let own = format!("{} with CUDA_VISIBLE_DEVICES={visible:?} on {}", driver.describe(), host_name());
        let all = channel.gather("GPUs", own.into_bytes())?;
        if let Some(first) =
            all.iter().position(|gpu| *gpu == all[place.rank] && place.rank > 0).filter(|rank| *rank < place.rank)
        {
            let text = String::from_utf8_lossy(&all[place.rank]).into_owned();
            let error = Error::usage(
                format!("ranks {first} and {} both have {text}", place.rank),
                "start as many ranks on a machine as it has GPUs, and give --device cuda without a number: each takes its own",
            );
            channel.failed(&error.to_string());
            return Err(error);
        }
        let id = match place.rank {
            0 => nccl::unique_id().inspect_err(|error| channel.failed(&error.to_string()))?.to_vec(),
            _ => Vec::new(),
        };
        let id = channel.gather("the id of NCCL", id)?.swap_remove(0);
        let id = UniqueId::try_from(id).map_err(|_| Error::Failed("rank 0 has told no id of NCCL".into()))?;
        let collective = driver.join(&id, place.rank, place.size);
        let collective = collective.inspect_err(|error| channel.failed(&error.to_string()))?;
        Ok(Self::new(place, channel, collective, reduction))
    }
}

/// A number that nobody else's run has.
fn token() -> u64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (time.as_nanos() as u64).rotate_left(20) ^ u64::from(std::process::id())
}
