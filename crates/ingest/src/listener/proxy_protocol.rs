//! The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): a load balancer names the client's address in front of the client's bytes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// What a header of version 2 begins with. A header of version 1 is never shorter.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header of version 1, its line end included.
const LONGEST_V1: usize = 107;

/// The longest header of version 2 behind its first 16 bytes: addresses and a few additions.
const LONGEST_V2: u16 = 2048;

/// Reads a header, and no byte of what follows. Returns the client's address, or `None` where the load balancer speaks for itself.
///
/// # Errors
/// The connection's error, or invalid data where no header comes.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut begin = [0; SIGNATURE.len()];
    stream.read_exact(&mut begin).await?;
    if begin == *SIGNATURE {
        let (command, family, length) = (stream.read_u8().await?, stream.read_u8().await?, stream.read_u16().await?);
        if length > LONGEST_V2 {
            return Err(invalid());
        }
        let mut addresses = vec![0; length.into()];
        stream.read_exact(&mut addresses).await?;
        return version_2(command, family, &addresses);
    }
    let mut line = begin.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() >= LONGEST_V1 || !line.starts_with(b"PROXY ") {
            return Err(invalid());
        }
        line.push(stream.read_u8().await?);
    }
    version_1(std::str::from_utf8(&line).map_err(|_| invalid())?.trim_end())
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no header of the PROXY protocol")
}

fn version_1(line: &str) -> io::Result<Option<SocketAddr>> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, _, port, _] => {
            let address: IpAddr = source.parse().map_err(|_| invalid())?;
            let port = port.parse().map_err(|_| invalid())?;
            if address.is_ipv4() == (family == "TCP4") { Ok(Some(SocketAddr::new(address, port))) } else { Err(invalid()) }
        }
        _ => Err(invalid()),
    }
}

fn version_2(command: u8, family: u8, addresses: &[u8]) -> io::Result<Option<SocketAddr>> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    const TCP_OVER_IPV4: u8 = 0x11;
    const TCP_OVER_IPV6: u8 = 0x21;
    let port = |at: usize| addresses.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes);
    let address = match (command, family) {
        (LOCAL, _) => return Ok(None),
        (PROXY, TCP_OVER_IPV4) => addresses.first_chunk().map(|bytes: &[u8; 4]| IpAddr::V4(Ipv4Addr::from(*bytes))).zip(port(8)),
        (PROXY, TCP_OVER_IPV6) => addresses.first_chunk().map(|bytes: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(*bytes))).zip(port(32)),
        // Unix sockets, datagrams, and families to come.
        (PROXY, _) => return Ok(None),
        _ => return Err(invalid()),
    };
    address.map(|(address, port)| Some(SocketAddr::new(address, port))).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, usize) {
        let mut rest = bytes;
        let read = futures_util::FutureExt::now_or_never(read(&mut rest)).expect("all bytes are there");
        (read, rest.len())
    }

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[command, family], &u16::try_from(addresses.len()).unwrap().to_be_bytes(), addresses].concat()
    }

    #[test]
    fn the_clients_address_is_read_and_nothing_of_what_follows() {
        let v4 = [&[192, 0, 2, 7, 10, 0, 0, 1][..], &[0x12, 0x34, 7, 0x5b]].concat();
        let v6 = [&Ipv6Addr::LOCALHOST.octets()[..], &[0; 16], &[0x12, 0x34, 7, 0x5b], b"additions"].concat();
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 1883\r\n".to_vec(), Some("192.0.2.7:4660")),
            (b"PROXY TCP6 ::1 ::2 4660 1883\r\n".to_vec(), Some("[::1]:4660")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, &v4), Some("192.0.2.7:4660")),
            (v2(0x21, 0x21, &v6), Some("[::1]:4660")),
            (v2(0x20, 0, &[]), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ] {
            let (read, rest) = read_all(&[&header[..], b"\x10MQTT"].concat());
            assert_eq!((read.unwrap().map(|address| address.to_string()).as_deref(), rest), (expected, 5), "{header:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for bytes in [
            b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01d".to_vec(),
            b"PROXY TCP4 ::1 ::2 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7\r\n".to_vec(),
            [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat(),
            v2(0x21, 0x11, &[1, 2, 3]),
            v2(0x31, 0x11, &[0; 12]),
            [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff], &[0; 100]].concat(),
            b"PROXY ".to_vec(),
        ] {
            assert!(read_all(&bytes).0.is_err(), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), begins in 0..3) {
            let begin: &[u8] = [&b""[..], SIGNATURE, b"PROXY TCP4 "][usize::try_from(begins).unwrap()];
            drop(read_all(&[begin, &bytes].concat()));
        }
    }
}
