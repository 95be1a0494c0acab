//! The floor: accept, read, write to a file. No recorder over TCP can cost less with this much buffering.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
};

use anyhow::{Context, Result};
use clap::Args;
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
};

use crate::process;

/// Bytes collected before each write, as a recorder with a buffered file would.
const BUFFER_BYTES: usize = 65_536;
const EVENTS: usize = 256;
const LISTENER: u64 = u64::MAX;

#[derive(Args)]
pub struct Options {
    #[arg(long)]
    port: u16,
    /// Connection i, in order of arrival, goes to DIR/s{i}.raw
    #[arg(long)]
    dir: PathBuf,
}

struct Connection {
    socket: TcpStream,
    file: File,
    buffer: Box<[u8]>,
    filled: usize,
}

impl Connection {
    /// One read, and a write when the buffer is full; false at the end of the stream.
    fn transfer(&mut self) -> Result<bool> {
        match self.socket.read(&mut self.buffer[self.filled..]) {
            Ok(0) => {
                self.file.write_all(&self.buffer[..self.filled])?;
                return Ok(false);
            }
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if self.filled == self.buffer.len() {
            self.file.write_all(&self.buffer)?;
            self.filled = 0;
        }
        Ok(true)
    }
}

/// Serves until it is ended by a signal.
pub fn run(options: &Options) -> Result<()> {
    process::end_with_parent()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).context("cannot listen")?;
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        match epoll::wait(&poll, spare_capacity(&mut events), None) {
            Err(error) if error != rustix::io::Errno::INTR => return Err(error.into()),
            _ => {}
        }
        for event in events.drain(..) {
            let key = event.data.u64();
            if key == LISTENER {
                let connection = accept(&listener, options, connections.len())?;
                let key = EventData::new_u64(connections.len() as u64);
                epoll::add(&poll, &connection.socket, key, EventFlags::IN)?;
                connections.push(Some(connection));
                continue;
            }
            let slot = &mut connections[key as usize];
            if let Some(connection) = slot
                && !connection.transfer()?
            {
                *slot = None;
            }
        }
    }
}

fn accept(listener: &TcpListener, options: &Options, number: usize) -> Result<Connection> {
    let (socket, _) = listener.accept()?;
    socket.set_nonblocking(true)?;
    let file = File::create(options.dir.join(format!("s{number}.raw")))?;
    Ok(Connection { socket, file, buffer: vec![0; BUFFER_BYTES].into(), filled: 0 })
}
