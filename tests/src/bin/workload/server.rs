//! An instance: it says who it is, and gives back what it gets.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::{bulk, crowd};

/// A client that says nothing for so long is let go.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until it is killed.
pub fn serve(instance: u32) -> Result<()> {
    let mut threads = Vec::new();
    for port in [80, 65535] {
        // Bound to `::`, it serves IPv4 too.
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
            .with_context(|| format!("listening on TCP port {port}"))?;
        threads.push(std::thread::spawn(move || {
            accept(&listener, move |stream| answer(stream, instance))
        }));
    }
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, bulk::PORT)).context("listening")?;
    threads.push(std::thread::spawn(move || accept(&listener, bulk::serve)));
    for port in [7, 65535] {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
            .with_context(|| format!("opening UDP port {port}"))?;
        threads.push(std::thread::spawn(move || echo(&socket)));
    }
    threads.push(std::thread::spawn(move || crowd::serve(instance)));
    for thread in threads {
        thread
            .join()
            .map_err(|_| anyhow!("a server thread panicked"))??;
    }
    Ok(())
}

fn accept(
    listener: &TcpListener,
    serve: impl Fn(TcpStream) -> Result<()> + Clone + Send + 'static,
) -> Result<()> {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        let serve = serve.clone();
        std::thread::spawn(move || {
            if let Err(error) = serve(stream) {
                eprintln!("{error:#}");
            }
        });
    }
}

fn answer(mut stream: TcpStream, instance: u32) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let count = stream.read(&mut piece).context("reading a request")?;
        if count == 0 {
            return Ok(());
        }
        request.extend_from_slice(&piece[..count]);
    }
    let body = format!("{instance}\n");
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).context("answering")
}

fn echo(socket: &UdpSocket) -> Result<()> {
    let mut bytes = vec![0; 65536];
    loop {
        match socket.recv_from(&mut bytes) {
            Ok((count, from)) => {
                if let Err(error) = socket.send_to(&bytes[..count], from) {
                    eprintln!("echo to {from}: {error}");
                }
            }
            // A port unreachable for an earlier answer.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error).context("receiving"),
        }
    }
}
