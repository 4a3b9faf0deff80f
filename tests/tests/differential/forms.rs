//! Packets of the cases, in the words a reader of a case meets.

use super::packets::{Made, is_v4};

/// A packet that asks for `port`. `form` says what is odd about it:
///
/// - `syn-ack`, `rst`: these TCP flags instead of SYN; `from port 53`: the source port; `hop limit 255`
/// - IPv4: `options 8`: so many bytes of options; `source route`; `ihl 4`: a lie about the header
/// - IPv6: `hop-by-hop`, `destination`, `routing 0`, `routing 1` (segments left), `authentication`, `atomic fragment`: headers
///   in front of the upper layer, in this order
/// - `first fragment`, `later fragment`
/// - `longer by 8`, `shorter by 8`: what the header says of the length; `cut to 24`: only so many bytes are there
pub fn packet(source: [u8; 16], destination: [u8; 16], port: &str, form: &[String]) -> Made {
    let v6 = !is_v4(&source);
    let number = |prefix: &str| -> Option<usize> {
        let word = form.iter().find_map(|word| word.strip_prefix(prefix));
        word.map(|number| number.parse().expect("a number"))
    };
    let has = |word: &str| form.iter().any(|known| known == word);
    let source_port = number("from port ").unwrap_or(40_000) as u16;
    let (protocol, upper) = upper(port, source_port, has("syn-ack"), has("rst"));
    let hop_limit = number("hop limit ").unwrap_or(64) as u8;
    let mut bytes = if v6 {
        let mut chain: Vec<(u8, Vec<u8>)> = Vec::new();
        for word in form {
            match word.as_str() {
                "hop-by-hop" => chain.push((0, vec![0, 0, 1, 4, 0, 0, 0, 0])),
                "destination" => chain.push((60, vec![0, 0, 1, 4, 0, 0, 0, 0])),
                "routing 0" => chain.push((43, vec![0, 0, 4, 0, 0, 0, 0, 0])),
                "routing 1" => chain.push((43, vec![0, 0, 4, 1, 0, 0, 0, 0])),
                "authentication" => chain.push((
                    51,
                    vec![
                        0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                    ],
                )),
                "atomic fragment" => chain.push((44, vec![0, 0, 0, 0, 0, 0, 0, 7])),
                "first fragment" => chain.push((44, vec![0, 0, 0, 1, 0, 0, 0, 7])),
                "later fragment" => chain.push((44, vec![0, 0, 0, 8, 0, 0, 0, 7])),
                _ => {}
            }
        }
        let mut body = Vec::new();
        for at in 0..chain.len() {
            let next = chain.get(at + 1).map_or(protocol, |(number, _)| *number);
            let header = &mut chain[at].1;
            header[0] = next;
            body.extend_from_slice(header);
        }
        body.extend(upper);
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend([chain.first().map_or(protocol, |(number, _)| *number), hop_limit]);
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend(body);
        bytes
    } else {
        let mut options = vec![1; number("options ").unwrap_or(0)];
        if has("source route") {
            options.extend([131, 7, 4, 192, 0, 2, 1, 0]);
        }
        let ihl = number("ihl ").unwrap_or((20 + options.len()) / 4);
        let fragment: u16 = match () {
            () if has("first fragment") => 0x2000,
            () if has("later fragment") => 1,
            () => 0,
        };
        let mut bytes = vec![0x40 | ihl as u8, 0];
        bytes.extend(((20 + options.len() + upper.len()) as u16).to_be_bytes());
        bytes.extend([0, 7]);
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([hop_limit, protocol, 0, 0]);
        bytes.extend(&source[12..]);
        bytes.extend(&destination[12..]);
        bytes.extend(options);
        bytes.extend(upper);
        bytes
    };
    let at = if v6 { 4 } else { 2 };
    let said = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let said = said + number("longer by ").unwrap_or(0) as u16 - number("shorter by ").unwrap_or(0) as u16;
    bytes[at..at + 2].copy_from_slice(&said.to_be_bytes());
    if let Some(length) = number("cut to ") {
        bytes.truncate(length);
    }
    Made { v6, bytes }
}

/// Protocol and upper layer of what a policy calls a port.
fn upper(port: &str, source_port: u16, syn_ack: bool, rst: bool) -> (u8, Vec<u8>) {
    let words: Vec<&str> = port.split('/').collect();
    let byte = |text: &str| -> u8 { text.parse().expect("a number") };
    let ports = |to: &str| {
        let to: u16 = to.parse().expect("a port");
        [source_port.to_be_bytes(), to.to_be_bytes()].concat()
    };
    match words.as_slice() {
        ["tcp", to] => {
            let mut bytes = ports(to);
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50]);
            bytes.push(match (syn_ack, rst) {
                (true, _) => 0x12,
                (_, true) => 4,
                _ => 2,
            });
            bytes.extend([0xff, 0xff, 0, 0, 0, 0]);
            (6, bytes)
        }
        ["udp", to] => (17, [ports(to), vec![0, 8, 0, 0]].concat()),
        ["udplite", to] => (136, [ports(to), vec![0, 8, 0, 0]].concat()),
        ["sctp", to] => (132, [ports(to), vec![0; 8]].concat()),
        ["icmp", "echo-request"] => (1, vec![8, 0, 0, 0, 0, 7, 0, 1]),
        ["icmp", "echo-reply"] => (1, vec![0, 0, 0, 0, 0, 7, 0, 1]),
        ["icmpv6", "echo-request"] => (58, vec![128, 0, 0, 0, 0, 7, 0, 1]),
        ["icmpv6", "neighbour-solicitation"] => (58, [vec![135], vec![0; 23]].concat()),
        ["icmp", kind] => (1, vec![byte(kind), 0, 0, 0, 0, 0, 0, 0]),
        ["icmp", kind, code] => (1, vec![byte(kind), byte(code), 0, 0, 0, 0, 0, 0]),
        ["icmpv6", kind] => (58, vec![byte(kind), 0, 0, 0, 0, 0, 0, 0]),
        ["icmpv6", kind, code] => (58, vec![byte(kind), byte(code), 0, 0, 0, 0, 0, 0]),
        ["ip", number] => (byte(number), vec![0; 16]),
        _ => panic!("`{port}` is no port of a case"),
    }
}
