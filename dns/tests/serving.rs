//! The server on loopback: sockets, source addresses, streams, limits, the end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

#[path = "../zone/tests/support/mod.rs"]
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hosting_dns::metrics::Metrics;
use hosting_dns::server::{ServeError, Server, check_addresses};
use hosting_dns::settings::Settings;
use hosting_dns_zone::{Writer, rcode};
use hosting_scaffold::admin::Metrics as Registry;
use support::*;
use tokio::runtime::Runtime;

const Z: &str = "example.com";

struct Running {
    server: Server,
    runtime: Runtime,
    registry: Registry,
    writer: Writer,
}

fn settings(listen: &[&str]) -> Settings {
    Settings {
        listen: listen.iter().map(|address| address.parse().unwrap()).collect(),
        threads: 2,
        ..Settings::default()
    }
}

fn start(settings: &Settings) -> Running {
    let addresses: Vec<String> = (0..60).map(|n| format!("192.0.2.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let (writer, zones) = serving(&[
        zone(Z, 1),
        rrset(Z, "www.example.com", "A", &["192.0.2.80"]),
        rrset(Z, "many.example.com", "A", &addresses),
    ]);
    let registry = Registry::new();
    let metrics = Metrics::new(&registry, zones.clone());
    let runtime = runtime();
    let server = Server::start(settings, zones, &metrics, runtime.handle()).unwrap();
    Running { server, runtime, registry, writer }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl Running {
    fn end(self) {
        self.runtime.block_on(self.server.drain(Duration::from_secs(5)));
    }
}

fn has_ipv6() -> bool {
    let there = UdpSocket::bind("[::1]:0").is_ok();
    if !there {
        skipped("dns serving: no IPv6 on this machine's loopback");
    }
    there
}

fn client(address: SocketAddr) -> UdpSocket {
    let socket =
        if address.is_ipv4() { UdpSocket::bind("127.0.0.1:0") } else { UdpSocket::bind("[::1]:0") }.unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // Connected: only answers from the very address that was asked come through.
    socket.connect(address).unwrap();
    socket
}

fn ask_udp(socket: &UdpSocket, packet: &[u8]) -> Response {
    socket.send(packet).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    decode(&buffer[..length])
}

fn frame(packet: &[u8]) -> Vec<u8> {
    [&u16::try_from(packet.len()).unwrap().to_be_bytes(), packet].concat()
}

fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    message
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

/// Whether the other end closes within five seconds, without another byte.
fn is_closed(mut stream: TcpStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn both_families_and_both_transports() {
    let mut listen = vec!["127.0.0.1:0"];
    if has_ipv6() {
        listen.push("[::1]:0");
    }
    let mut running = start(&settings(&listen));
    for address in running.server.addresses().to_vec() {
        let udp = client(address);
        assert_eq!(ask_udp(&udp, &packet("www.example.com", 1, None)).answers.len(), 1);
        let cut = ask_udp(&udp, &packet("many.example.com", 1, None));
        assert!(cut.tc && cut.answers.is_empty());
        let mut tcp = connect(address);
        tcp.write_all(&frame(&packet("many.example.com", 1, None))).unwrap();
        assert_eq!(decode(&read_frame(&mut tcp)).answers.len(), 60);
    }
    apply(&mut running.writer, &[rrset(Z, "new.example.com", "A", &["192.0.2.1"])]);
    let udp = client(running.server.addresses()[0]);
    assert_eq!(ask_udp(&udp, &packet("new.example.com", 1, None)).answers.len(), 1);
    let text = running.registry.encode();
    assert!(
        text.contains(r#"hosting_dns_queries_total{transport="udp",rcode="NOERROR",type="A"}"#),
        "{text}"
    );
    assert!(
        text.contains(r#"hosting_dns_queries_total{transport="tcp",rcode="NOERROR",type="A"}"#),
        "{text}"
    );
    running.end();
}

#[test]
fn https_records_follow_what_the_cluster_says() {
    let mut running = start(&settings(&["127.0.0.1:0"]));
    let udp = client(running.server.addresses()[0]);
    let mut tcp = connect(running.server.addresses()[0]);
    let mut said = |name: &str| {
        let query = packet(name, type_number("HTTPS"), Some(1232));
        let over_udp = ask_udp(&udp, &query);
        tcp.write_all(&frame(&query)).unwrap();
        assert_eq!(decode(&read_frame(&mut tcp)), over_udp);
        assert_eq!((over_udp.rcode, over_udp.aa), (0, true));
        Response::types(&over_udp.answers)
    };
    let both = ["1 . alpn=h3,h2"];
    let address = ["192.0.2.80"];
    let shop = auto_https(Z, "shop.example.com", "A", "c1");
    apply(&mut running.writer, &[spoken_to("c1", &address, &[], &both), shop]);
    assert_eq!(said("shop.example.com"), ["shop.example.com. HTTPS 1 . alpn=h3,h2,"]);
    assert_eq!(said("www.example.com"), [""; 0]);
    apply(&mut running.writer, &[spoken_to("c1", &address, &[], &["1 . alpn=h2"])]);
    assert_eq!(said("shop.example.com"), ["shop.example.com. HTTPS 1 . alpn=h2,"]);
    apply(&mut running.writer, &[auto(Z, "shop.example.com", "A", "c1")]);
    assert_eq!(said("shop.example.com"), [""; 0]);
    let text = running.registry.encode();
    assert!(text.contains(r#"rcode="NOERROR",type="HTTPS"}"#), "{text}");
    running.end();
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let running = start(&settings(&["0.0.0.0:0"]));
    let port = running.server.addresses()[0].port();
    for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 9, 9, 9)] {
        let udp = client(SocketAddr::from((address, port)));
        assert_eq!(ask_udp(&udp, &packet("www.example.com", 1, None)).answers.len(), 1, "{address}");
    }
    // Many at once, from several of our addresses in one batch.
    let clients: Vec<UdpSocket> =
        (1..=8).map(|n| client(SocketAddr::from(([127, 0, 0, n % 3 + 1], port)))).collect();
    for round in 0..200 {
        for socket in &clients {
            socket.send(&packet(&format!("n{round}.example.com"), 1, None)).unwrap();
        }
    }
    let mut buffer = [0; 512];
    for socket in &clients {
        for _ in 0..200 {
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(decode(&buffer[..length]).rcode, rcode::NXDOMAIN);
        }
    }
    running.end();
    if has_ipv6() {
        let running = start(&settings(&["[::]:0"]));
        let port = running.server.addresses()[0].port();
        let udp = client(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)));
        for _ in 0..3 {
            assert_eq!(ask_udp(&udp, &packet("www.example.com", 1, None)).answers.len(), 1);
        }
        running.end();
    }
}

#[test]
fn what_is_no_query_gets_no_answer_over_udp() {
    let running = start(&settings(&["127.0.0.1:0"]));
    let udp = client(running.server.addresses()[0]);
    let mut response = packet("www.example.com", 1, None);
    response[2] |= 0x80;
    for bytes in [vec![], vec![0; 5], vec![0xff; 600], response, vec![0; 5000]] {
        udp.send(&bytes).unwrap();
    }
    // The next answer is the one to the next query.
    assert_eq!(ask_udp(&udp, &packet("www.example.com", 1, None)).answers.len(), 1);
    running.end();
}

#[test]
fn streams_are_pipelined_in_pieces_of_any_size() {
    let running = start(&settings(&["127.0.0.1:0"]));
    let mut tcp = connect(running.server.addresses()[0]);
    let names = ["www", "nothing", "many", "www"];
    let bytes: Vec<u8> =
        names.iter().flat_map(|name| frame(&packet(&format!("{name}.example.com"), 1, None))).collect();
    for size in [bytes.len(), 1, 7] {
        for piece in bytes.chunks(size) {
            tcp.write_all(piece).unwrap();
        }
        let counts: Vec<usize> = names.iter().map(|_| decode(&read_frame(&mut tcp)).answers.len()).collect();
        assert_eq!(counts, [1, 0, 60, 1]);
    }
    // A flood of queries whose answers are taken late.
    let flood = frame(&packet("many.example.com", 1, None)).repeat(2000);
    let mut writer = tcp.try_clone().unwrap();
    let sender = std::thread::spawn(move || writer.write_all(&flood).unwrap());
    std::thread::sleep(Duration::from_millis(100));
    for _ in 0..2000 {
        assert_eq!(decode(&read_frame(&mut tcp)).answers.len(), 60);
    }
    sender.join().unwrap();
    running.end();
}

#[test]
fn streams_have_limits() {
    let running =
        start(&Settings { tcp_max_connections: 8, tcp_idle_timeout_ms: 2000, ..settings(&["127.0.0.1:0"]) });
    let address = running.server.addresses()[0];
    let begun = Instant::now();
    assert!(is_closed(connect(address)), "idle");
    let mut slow = connect(address);
    slow.write_all(&[0, 30, 1, 2, 3]).unwrap();
    assert!(is_closed(slow), "half a query");
    assert!(begun.elapsed() < Duration::from_secs(9));
    let mut large = connect(address);
    large.write_all(&[0xff, 0xff]).unwrap();
    let begun = Instant::now();
    assert!(
        is_closed(large) && begun.elapsed() < Duration::from_millis(1000),
        "a query of 65535 bytes, at once"
    );
    let mut held: Vec<TcpStream> = (0..8).map(|_| connect(address)).collect();
    for stream in &mut held {
        stream.write_all(&frame(&packet("www.example.com", 1, None))).unwrap();
        read_frame(stream);
    }
    let begun = Instant::now();
    assert!(is_closed(connect(address)), "the ninth");
    // Near the limit idle ones have a tenth of their time.
    assert!(is_closed(held.pop().unwrap()) && begun.elapsed() < Duration::from_millis(1500));
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(5);
    while !running.registry.encode().contains("hosting_dns_tcp_connections 0") {
        assert!(Instant::now() < deadline, "places are given back");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(running.registry.encode().contains("hosting_dns_tcp_refused_total 1"));
    running.end();
}

#[test]
fn an_address_taken_is_said_so() {
    let first = start(&settings(&["127.0.0.1:0"]));
    let address = first.server.addresses()[0];
    let second = Settings { listen: vec![address], ..settings(&[]) };
    let zones = Writer::new().zones();
    let metrics = Metrics::new(&Registry::new(), zones.clone());
    let runtime = runtime();
    let late = Server::start(&second, zones, &metrics, runtime.handle()).unwrap_err();
    let early = check_addresses(&second).unwrap_err();
    for error in [late, early] {
        assert!(matches!(error, ServeError::Bind { .. }));
        let text = error.to_string();
        assert!(text.contains(&address.to_string()) && text.contains("another process has it"), "{text}");
    }
    let foreign = Settings { listen: vec!["192.0.2.1:53".parse().unwrap()], ..settings(&[]) };
    let text = check_addresses(&foreign).unwrap_err().to_string();
    assert!(text.contains("no interface of this machine has it"), "{text}");
    first.end();
}

#[test]
fn the_end_is_prompt_and_frees_the_address() {
    let running = start(&settings(&["127.0.0.1:0"]));
    let address = running.server.addresses()[0];
    let idle = connect(address);
    assert_eq!(ask_udp(&client(address), &packet("www.example.com", 1, None)).answers.len(), 1);
    assert!(running.server.is_sound());
    let begun = Instant::now();
    running.end();
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(is_closed(idle));
    let again = start(&Settings { listen: vec![address], ..settings(&[]) });
    assert_eq!(ask_udp(&client(address), &packet("www.example.com", 1, None)).answers.len(), 1);
    again.end();
}
