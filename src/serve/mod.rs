//! A trained model behind HTTP: JSON of our own (`v1`) and the open inference protocol that KServe and Triton's clients speak (`v2`).
//!
//! One thread computes ([`engine`]); what waits for it is packed into one batch across requests. A row's bits do not depend on the rows beside
//! it, so answers are those of `predict`, `embed` and `variants` (on the CPU; the kernels of a GPU choose by the shape of a batch).
//! Everything has a bound: connections, the head and the body of a request, sequences and bases in it, requests that wait, and the time
//! that a client may take. Who is told to stop answers what was accepted first.

#![forbid(unsafe_code)]

pub mod engine;
mod http;
mod metrics;
mod refusal;
mod v1;
mod v2;

use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

use self::engine::{Engine, Queue};
use self::http::Shared;
use self::metrics::Metrics;
use crate::{Error, Result};

/// What a server takes on.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests that wait for the model; further ones are refused with 429.
    pub queue: usize,
    /// Connections at a time; further ones wait until one ends.
    pub connections: usize,
    /// Bytes of a request's body.
    pub body: usize,
    /// Sequences or variants of a request.
    pub sequences: usize,
    /// Bases of a sequence.
    pub bases: usize,
    /// How long a client may take for the head of a request, for its body, and for reading a piece of the answer.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let patience = Duration::from_secs(30);
        Self { queue: 64, connections: 256, body: 2 << 20, sequences: 1024, bases: 1_000_000, patience }
    }
}

/// Bytes of a request's head.
const HEAD: usize = 64 << 10;

/// A server that listens, and does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    runtime: Runtime,
    shared: Arc<Shared>,
}

impl Server {
    /// Listens on `address`; with port 0 on one that is free. `name` is what the model is called in answers and paths.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that no path can have; [`Error::Io`] where the address is taken or not ours; [`Error::Failed`] if the
    /// system gives no threads.
    pub fn bind(engine: Engine, name: &str, address: SocketAddr, limits: Limits) -> Result<Self> {
        if name.is_empty() || name.chars().any(|letter| letter.is_control() || letter == '/') {
            return Err(Error::usage(format!("--name {name:?}"), "give a name without / that a path can have"));
        }
        let failed = Error::io("listen on", address.to_string());
        let bound = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        });
        let (address, listener) = bound.map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| Error::Failed(format!("cannot start threads: {error}")))?;
        let (engine, metrics) = (Arc::new(engine), Arc::new(Metrics::new()?));
        let queue = Queue::start(Arc::clone(&engine), Arc::clone(&metrics), limits.queue)?;
        let shared = Arc::new(Shared { engine, queue, metrics, limits, name: name.to_owned(), stopping: false.into() });
        Ok(Self { listener, address, runtime, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stops` says so, which is asked every few milliseconds; then takes no more connections, answers what was accepted, and
    /// returns the number of requests that it answered.
    ///
    /// # Errors
    /// [`Error::Io`] if the system does not let it listen.
    pub fn run(self, stops: impl Fn() -> bool) -> Result<u64> {
        let Self { listener, address, runtime, shared } = self;
        let answered = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener);
            let listener = listener.map_err(Error::io("listen on", address.to_string()))?;
            serve(listener, &shared, stops).await;
            Ok(shared.answered())
        });
        runtime.shutdown_background();
        answered
    }
}

async fn serve(listener: tokio::net::TcpListener, shared: &Arc<Shared>, stops: impl Fn() -> bool) {
    const LOOK: Duration = Duration::from_millis(20);
    /// Where the system has no more descriptors, for one to be closed.
    const REST: Duration = Duration::from_millis(100);
    let service = TowerToHyperService::new(http::router(shared));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(shared.limits.patience).max_buf_size(HEAD);
    let (connections, graceful) = (Arc::new(Semaphore::new(shared.limits.connections)), GracefulShutdown::new());
    let mut stopped = pin!(async {
        while !stops() {
            tokio::time::sleep(LOOK).await;
        }
    });
    loop {
        let accepted = async {
            let permit = Arc::clone(&connections).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = &mut stopped => break,
            accepted = accepted => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        // Answers are written whole: there is nothing to wait for.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(shared.limits.patience));
        let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service.clone());
        let connection = graceful.watch(connection);
        let open = shared.metrics.connections.clone();
        open.inc();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended: {error}");
            }
            open.dec();
            drop(permit);
        });
    }
    drop(listener);
    shared.stopping.store(true, Ordering::SeqCst);
    graceful.shutdown().await;
}
