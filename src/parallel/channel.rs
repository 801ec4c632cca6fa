//! What ranks tell each other between their hosts: figures, whether to stop, and that one of them has ended.
//!
//! A star of TCP connections around rank 0, which passes on what it hears. A connection that ends is the end of its rank: the kernel
//! closes it however a process ends, and a machine that is gone is noticed by keep-alive probes. Then every rank says who it was and ends with exit
//! code 1: a training cannot go on without one of them, and its last checkpoint is where it goes on.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Place, launcher};
use crate::device::collective::end_at_once;
use crate::output::abandon;
use crate::report::say;
use crate::{Error, Result};

/// Between two looks at what a user wants, and between two attempts to connect.
const TICK: Duration = Duration::from_millis(100);
/// No message is longer: the figures of a step, or answers to windows.
const LONGEST: u32 = 1 << 30;
/// Points behind which ranks end.
pub(super) const LAST: [&str; 2] = ["the end", "the stop"];
/// The first words of every connection.
const GREETING: &str = "helixgrad rank 1";

/// Who a rank is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    greeting: String,
    token: u64,
    rank: usize,
    size: usize,
    host: String,
    process: u32,
}

impl Hello {
    /// The rank for people.
    fn name(&self) -> String {
        format!("rank {} ({}, process {})", self.rank, self.host, self.process)
    }
}

/// A message.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// To rank 0: what this rank says at a point.
    Says { what: String },
    /// From rank 0: what all say, each as long as told.
    All { what: String, lengths: Vec<usize> },
    /// Somebody wants to stop.
    Stop,
    /// A rank has ended, or is about to.
    Ended { who: String, why: String },
}

/// One rank's end of a connection.
struct Peer {
    stream: Mutex<TcpStream>,
    /// What it has said, message by message, from the thread that reads.
    heard: Mutex<Receiver<(Message, Vec<u8>)>>,
}

/// The connections of a rank: of rank 0 to all others, of those to rank 0.
pub struct Channel {
    rank: usize,
    peers: Vec<Arc<Peer>>,
    shared: Arc<Shared>,
}

/// What reading threads know.
struct Shared {
    rank: usize,
    /// From now on a connection that ends is no accident.
    closing: AtomicBool,
    peers: Mutex<Vec<Arc<Peer>>>,
    /// Tells this process to stop.
    stop: fn(),
}

/// Where rank 0 listens, and the number that proves who belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meeting {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What every rank of the run knows.
    pub token: u64,
}

/// A socket that waits for the other ranks.
pub struct Listener {
    socket: TcpListener,
    /// Where it is to be found.
    pub meeting: Meeting,
}

/// What a user wants of the process, and how it is told that another rank's user does.
#[derive(Clone, Copy)]
pub struct Stops {
    /// Whether a stop was asked for here.
    pub requested: fn() -> bool,
    /// One was asked for elsewhere.
    pub request: fn(),
}

/// This machine's name.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".into() } else { name.trim().to_owned() }
}

impl Listener {
    /// Listens at `port` (0: any that is free), to this machine alone where all ranks are on it.
    ///
    /// # Errors
    /// [`Error::Failed`] if the port is taken.
    pub fn open(place: &Place, port: u16, token: u64) -> Result<Self> {
        let local = place.is_one_machine();
        let address = if local { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
        let socket = TcpListener::bind((IpAddr::V4(address), port)).map_err(|error| {
            Error::Failed(format!(
                "rank 0 cannot listen at port {port} for the others: {error}\n  what to do: give another one, as \
                 HELIXGRAD_ADDRESS=HOST:PORT, to all ranks"
            ))
        })?;
        let port = socket.local_addr().map_or(port, |address| address.port());
        let host = if local { "127.0.0.1".into() } else { host_name() };
        Ok(Self { socket, meeting: Meeting { host, port, token } })
    }
}

impl Channel {
    /// Rank 0 of `place`: waits for the others until `deadline`.
    ///
    /// # Errors
    /// [`Error::Failed`] that names the ranks that did not come; [`Error::Usage`] for two that say they are the same.
    pub fn host(listener: Listener, place: &Place, deadline: Instant, stops: Stops) -> Result<Self> {
        let Listener { socket, meeting } = listener;
        socket.set_nonblocking(true).map_err(broken)?;
        let own = hello(place, meeting.token);
        let mut streams: Vec<Option<(TcpStream, Hello)>> = (0..place.size).map(|_| None).collect();
        let mut strangers = String::new();
        while streams[1..].iter().any(Option::is_none) {
            match socket.accept() {
                Ok((mut stream, from)) => match greet(&mut stream, &own, deadline) {
                    Ok(other) if streams[other.rank].is_none() && other.rank > 0 => {
                        let rank = other.rank;
                        streams[rank] = Some((stream, other));
                    }
                    Ok(other) => {
                        return Err(Error::usage(
                            format!("two processes are rank {}: one of them is {}", other.rank, other.name()),
                            "start all ranks with one launcher, and with its numbers",
                        ));
                    }
                    Err(why) => strangers = format!("; {} said something else: {why}", from.ip()),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if (stops.requested)() {
                        return Err(Error::Interrupted(" while waiting for the other ranks".into()));
                    }
                    if Instant::now() > deadline {
                        let missing = streams.iter().enumerate().skip(1).filter(|(_, stream)| stream.is_none());
                        let missing: Vec<String> = missing.map(|(rank, _)| rank.to_string()).collect();
                        return Err(Error::Failed(format!(
                            "{} of {} ranks have not come to rank 0 at {}:{} in time: number {}{strangers}\n  what to do: look at \
                             their own messages; HELIXGRAD_JOIN_SECONDS makes rank 0 wait longer",
                            missing.len(),
                            place.size,
                            meeting.host,
                            meeting.port,
                            missing.join(", ")
                        )));
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(broken(error)),
            }
        }
        let streams = streams.into_iter().flatten().collect();
        Self::over(streams, place, stops)
    }

    /// Any other rank of `place`: goes to where rank 0 is, until `deadline`.
    ///
    /// # Errors
    /// [`Error::Failed`] if nobody is there, or somebody else.
    pub fn visit(meeting: &Meeting, place: &Place, deadline: Instant, stops: Stops) -> Result<Self> {
        let own = hello(place, meeting.token);
        let target = format!("{}:{}", meeting.host, meeting.port);
        loop {
            let why = match connect(&target, deadline) {
                Ok(mut stream) => match greet(&mut stream, &own, deadline) {
                    Ok(other) if other.rank == 0 => return Self::over(vec![(stream, other)], place, stops),
                    Ok(other) => format!("{} answers", other.name()),
                    Err(why) => why,
                },
                Err(error) => error.to_string(),
            };
            if (stops.requested)() {
                return Err(Error::Interrupted(" while waiting for the other ranks".into()));
            }
            if Instant::now() > deadline {
                return Err(Error::Failed(format!(
                    "rank {} has not found rank 0 at {target}: {why}\n  what to do: look at rank 0's own messages, and whether machines \
                     of this network can connect to each other; HELIXGRAD_ADDRESS=HOST:PORT names another place",
                    place.rank
                )));
            }
            std::thread::sleep(TICK);
        }
    }

    fn over(streams: Vec<(TcpStream, Hello)>, place: &Place, stops: Stops) -> Result<Self> {
        let shared = Arc::new(Shared {
            rank: place.rank,
            closing: AtomicBool::new(false),
            peers: Mutex::default(),
            stop: stops.request,
        });
        let mut peers = Vec::new();
        let mut readers = Vec::new();
        for (stream, hello) in streams {
            stream.set_read_timeout(None).map_err(broken)?;
            stream.set_nodelay(true).map_err(broken)?;
            keep_alive(&stream);
            let (say, heard) = mpsc::channel();
            readers.push((stream.try_clone().map_err(broken)?, hello, say));
            peers.push(Arc::new(Peer { stream: Mutex::new(stream), heard: Mutex::new(heard) }));
        }
        *shared.peers.lock().unwrap_or_else(PoisonError::into_inner) = peers.clone();
        for (stream, hello, say) in readers {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.listen(stream, &hello, &say));
        }
        let watch = Arc::clone(&shared);
        std::thread::spawn(move || {
            while !watch.closing.load(Ordering::SeqCst) {
                if (stops.requested)() {
                    watch.tell(&Message::Stop);
                    return;
                }
                std::thread::sleep(TICK);
            }
        });
        Ok(Self { rank: place.rank, peers, shared })
    }

    /// What every rank says at the point that `what` names, in their order.
    ///
    /// # Errors
    /// [`Error::Failed`] if another rank is at another point.
    pub fn gather(&self, what: &str, mine: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let astray = |rank: usize, other: &str| {
            Error::Failed(format!("rank {rank} is at {other:?} where rank {} is at {what:?}: this is a bug", self.rank))
        };
        if self.rank > 0 {
            self.send(&self.peers[0], &Message::Says { what: what.to_owned() }, &mine);
            let (message, bytes) = self.hear(&self.peers[0]);
            let Message::All { what: other, lengths } = message else { return Err(astray(0, "another message")) };
            if other != what || lengths.iter().sum::<usize>() != bytes.len() {
                return Err(astray(0, &other));
            }
            let mut rest = &bytes[..];
            return Ok(lengths.into_iter().filter_map(|length| rest.split_off(..length).map(<[u8]>::to_vec)).collect());
        }
        let mut all = vec![mine];
        for (at, peer) in self.peers.iter().enumerate() {
            match self.hear(peer) {
                (Message::Says { what: other }, bytes) if other == what => all.push(bytes),
                (Message::Says { what: other }, _) => return Err(astray(at + 1, &other)),
                _ => return Err(astray(at + 1, "another message")),
            }
        }
        if LAST.contains(&what) {
            // Who hears the answer goes.
            self.close();
        }
        let message = Message::All { what: what.to_owned(), lengths: all.iter().map(Vec::len).collect() };
        let bytes = all.concat();
        self.peers.iter().for_each(|peer| self.send(peer, &message, &bytes));
        Ok(all)
    }

    /// Waits a moment for rank 0, which has something to say: a launcher ends it when this rank exits with an error code.
    pub fn let_the_first_end(&self) {
        if self.rank > 0 {
            let heard = self.peers[0].heard.lock().unwrap_or_else(PoisonError::into_inner);
            // Its connection ends with it, and then there is nobody to hear from.
            let _ = heard.recv_timeout(Duration::from_secs(2));
        }
    }

    /// From now on connections end because all is done.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
    }

    /// Ends, for a reason that the others are told.
    pub fn failed(&self, why: &str) {
        self.close();
        let who = format!("rank {} ({}, process {})", self.rank, host_name(), std::process::id());
        self.shared.tell(&Message::Ended { who, why: why.to_owned() });
    }

    /// Sends; that a peer is gone its reading thread finds out.
    fn send(&self, peer: &Peer, message: &Message, bytes: &[u8]) {
        let _ = write(&mut peer.stream.lock().unwrap_or_else(PoisonError::into_inner), message, bytes);
    }

    /// Waits for a message. A peer that has ended ends this process from its reading thread.
    fn hear(&self, peer: &Peer) -> (Message, Vec<u8>) {
        match peer.heard.lock().unwrap_or_else(PoisonError::into_inner).recv() {
            Ok(heard) => heard,
            Err(_) => loop {
                std::thread::park();
            },
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Reads what a peer says, until its connection ends.
    fn listen(&self, mut stream: TcpStream, hello: &Hello, say: &Sender<(Message, Vec<u8>)>) {
        loop {
            match read(&mut stream) {
                Ok((Message::Stop, _)) => {
                    (self.stop)();
                    if self.rank == 0 {
                        self.tell(&Message::Stop);
                    }
                }
                Ok((Message::Ended { who, why }, _)) => self.end(&who, &why),
                Ok(heard) => {
                    if matches!(&heard.0, Message::All { what, .. } if LAST.contains(&what.as_str())) {
                        self.closing.store(true, Ordering::SeqCst);
                    }
                    let _ = say.send(heard);
                }
                Err(error) => {
                    if self.closing.load(Ordering::SeqCst) {
                        return;
                    }
                    let why = match error.kind() {
                        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                            "it was killed, or has crashed".to_owned()
                        }
                        _ => error.to_string(),
                    };
                    self.end(&hello.name(), &why);
                    return;
                }
            }
        }
    }

    /// Tells all that this rank is connected with.
    fn tell(&self, message: &Message) {
        for peer in self.peers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = write(&mut peer.stream.lock().unwrap_or_else(PoisonError::into_inner), message, &[]);
        }
    }

    /// Ends this process because of a rank that has ended.
    fn end(&self, who: &str, why: &str) {
        if self.closing.swap(true, Ordering::SeqCst) {
            return;
        }
        if self.rank == 0 {
            self.tell(&Message::Ended { who: who.to_owned(), why: why.to_owned() });
        }
        abandon();
        // An error of its own says what to do about it.
        let remedy = match why.contains("what to do:") {
            true => "",
            false => "\n  what to do: start all ranks again with --resume, which goes on from the last checkpoint",
        };
        say(&format!("{}error: {who} has ended: {why}{remedy}", launcher::prefix()));
        end_at_once(1);
    }
}

fn hello(place: &Place, token: u64) -> Hello {
    Hello {
        greeting: GREETING.into(),
        token,
        rank: place.rank,
        size: place.size,
        host: host_name(),
        process: std::process::id(),
    }
}

/// Says hello, and hears who is there.
fn greet(stream: &mut TcpStream, own: &Hello, deadline: Instant) -> std::result::Result<Hello, String> {
    let text = |error: io::Error| error.to_string();
    let time = deadline.saturating_duration_since(Instant::now()).clamp(TICK, Duration::from_secs(10));
    stream.set_nonblocking(false).map_err(text)?;
    stream.set_read_timeout(Some(time)).map_err(text)?;
    let said = serde_json::to_vec(own).map_err(|error| error.to_string())?;
    stream.write_all(&(said.len() as u32).to_le_bytes()).and_then(|()| stream.write_all(&said)).map_err(text)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).map_err(text)?;
    let length = u32::from_le_bytes(length);
    if length > 4096 {
        return Err("no greeting".into());
    }
    let mut heard = vec![0; length as usize];
    stream.read_exact(&mut heard).map_err(text)?;
    let other: Hello = serde_json::from_slice(&heard).map_err(|_| "no greeting".to_owned())?;
    if other.greeting != own.greeting {
        return Err(format!("another version: {:?}", other.greeting));
    }
    if other.token != own.token || other.size != own.size || other.rank >= own.size {
        return Err(format!("{} of {} ranks, of another run", other.name(), other.size));
    }
    Ok(other)
}

fn connect(target: &str, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    let addresses: Vec<SocketAddr> = target.to_socket_addrs()?.collect();
    for address in addresses {
        let time = deadline.saturating_duration_since(Instant::now()).clamp(TICK, Duration::from_secs(5));
        match TcpStream::connect_timeout(&address, time) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Has the kernel ask after ten silent seconds whether the machine on the other side is still there, and give up after ten more.
fn keep_alive(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    {
        use nix::sys::socket::{setsockopt, sockopt};
        // Where the system has no such option, a machine that is gone is noticed when something is sent to it.
        let _ = setsockopt(stream, sockopt::KeepAlive, &true);
        let _ = setsockopt(stream, sockopt::TcpKeepIdle, &10);
        let _ = setsockopt(stream, sockopt::TcpKeepInterval, &2);
        let _ = setsockopt(stream, sockopt::TcpKeepCount, &5);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

fn write(stream: &mut TcpStream, message: &Message, bytes: &[u8]) -> io::Result<()> {
    let head = serde_json::to_vec(message)?;
    let mut frame = Vec::with_capacity(8 + head.len() + bytes.len());
    frame.extend((head.len() as u32).to_le_bytes());
    frame.extend((bytes.len() as u32).to_le_bytes());
    frame.extend(head);
    frame.extend(bytes);
    stream.write_all(&frame)
}

fn read(stream: &mut TcpStream) -> io::Result<(Message, Vec<u8>)> {
    let mut lengths = [0; 8];
    stream.read_exact(&mut lengths)?;
    let [head, body] = [0, 4].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|byte| lengths[at + byte])));
    if head > 1 << 20 || body > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it says what no rank says"));
    }
    let mut bytes = vec![0; head as usize];
    stream.read_exact(&mut bytes)?;
    let message = serde_json::from_slice(&bytes)?;
    let mut body = vec![0; body as usize];
    stream.read_exact(&mut body)?;
    Ok((message, body))
}

fn broken(error: io::Error) -> Error {
    Error::Failed(format!("the ranks cannot talk to each other: {error}"))
}
