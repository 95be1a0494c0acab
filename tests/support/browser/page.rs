//! Serves the publisher's page, whatever path is asked for.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

const HTML: &str = include_str!("publisher.html");
const DEADLINE: Duration = Duration::from_secs(5);

/// Serves until the test program ends.
#[derive(Debug)]
pub(super) struct Page {
    pub url: String,
}

impl Page {
    pub fn serve() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                // A browser opens connections that it does not use.
                thread::spawn(move || answer(socket));
            }
        });
        Self { url }
    }
}

fn answer(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_read_timeout(Some(DEADLINE))?;
    let mut reader = BufReader::new(socket.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let length = HTML.len();
    write!(
        socket,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{HTML}"
    )
}
