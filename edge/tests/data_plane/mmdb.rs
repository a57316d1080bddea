//! Small files in MaxMind's format (<https://maxmind.github.io/MaxMind-DB/>), made from networks and their countries.

use std::net::IpAddr;

use ipnet::IpNet;

#[derive(Clone, Copy)]
enum Child {
    Nothing,
    Node(usize),
    Data(usize),
}

/// A value of the data section: a kind, and what it holds.
enum Value {
    Text(&'static str),
    Number(u8, u64),
    Map(Vec<(&'static str, Value)>),
    List,
}

fn put(out: &mut Vec<u8>, value: &Value) {
    let begin = |out: &mut Vec<u8>, kind: u8, size: usize| {
        let size = u8::try_from(size).unwrap();
        assert!(size < 29);
        match kind {
            1..=7 => out.push(kind << 5 | size),
            _ => out.extend_from_slice(&[size, kind - 7]),
        }
    };
    match value {
        Value::Text(text) => {
            begin(out, 2, text.len());
            out.extend_from_slice(text.as_bytes());
        }
        Value::Number(kind, number) => {
            let bytes: Vec<u8> = number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            begin(out, *kind, bytes.len());
            out.extend_from_slice(&bytes);
        }
        Value::Map(fields) => {
            begin(out, 7, fields.len());
            for (name, value) in fields {
                put(out, &Value::Text(name));
                put(out, value);
            }
        }
        Value::List => begin(out, 11, 0),
    }
}

/// A file of these networks. A country that is empty: the network is known, and where it is is not.
pub(crate) fn file(networks: &[(&str, &'static str)], built: u64) -> Vec<u8> {
    let mut nodes = vec![[Child::Nothing; 2]];
    let mut data = Vec::new();
    for (network, country) in networks {
        let network: IpNet = network.parse().unwrap();
        let (bits, length) = match network.addr() {
            // IPv4 lies at its beginning.
            IpAddr::V4(address) => (u128::from(address.to_bits()), network.prefix_len() + 96),
            IpAddr::V6(address) => (address.to_bits(), network.prefix_len()),
        };
        let country = match *country {
            "" => Value::Map(vec![("names", Value::Map(vec![]))]),
            code => Value::Map(vec![("iso_code", Value::Text(code))]),
        };
        let at = data.len();
        put(&mut data, &Value::Map(vec![("country", country)]));
        let mut node = 0;
        for depth in 0..length {
            let side = usize::from(bits >> (127 - depth) & 1 == 1);
            if depth + 1 == length {
                nodes[node][side] = Child::Data(at);
                break;
            }
            node = match nodes[node][side] {
                Child::Node(next) => next,
                Child::Nothing | Child::Data(_) => {
                    nodes.push([Child::Nothing; 2]);
                    let next = nodes.len() - 1;
                    nodes[node][side] = Child::Node(next);
                    next
                }
            };
        }
    }
    let mut out = Vec::new();
    for child in nodes.iter().flatten() {
        let record = match child {
            Child::Nothing => nodes.len(),
            Child::Node(node) => *node,
            Child::Data(at) => nodes.len() + 16 + at,
        };
        out.extend_from_slice(&u32::try_from(record).unwrap().to_be_bytes()[1..]);
    }
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(&data);
    out.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    let (short, word, long) = (5, 6, 9);
    let metadata = Value::Map(vec![
        ("node_count", Value::Number(word, nodes.len() as u64)),
        ("record_size", Value::Number(short, 24)),
        ("ip_version", Value::Number(short, 6)),
        ("database_type", Value::Text("Test-Country")),
        ("languages", Value::List),
        ("binary_format_major_version", Value::Number(short, 2)),
        ("binary_format_minor_version", Value::Number(short, 0)),
        ("build_epoch", Value::Number(long, built)),
        ("description", Value::Map(vec![("en", Value::Text("of a test"))])),
    ]);
    put(&mut out, &metadata);
    out
}
