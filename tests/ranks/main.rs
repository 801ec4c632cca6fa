//! Training by several processes, started by real launchers: the bits of one process, whatever the number of ranks, the MPI, and what happens to one of them.
//!
//! Launchers are those that `tools/install-mpi.sh` installs, and the system's `mpirun.openmpi` and `mpirun.mpich`. Without one these tests
//! say so and prove nothing.

#![cfg(unix)]

#[path = "../program/mod.rs"]
mod program;

mod bits;
mod ends;
mod gpus;
mod launch;
mod refusals;
