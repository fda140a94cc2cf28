//! The name in a client's certificate. Pure.

use rustls::pki_types::CertificateDer;

/// DER's tags (ITU-T X.690 §8), and the attribute type `commonName` (RFC 5280 appendix A: 2.5.4.3) with its tag.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const OBJECT_IDENTIFIER: u8 = 0x06;
const COMMON_NAME: &[u8] = &[0x55, 4, 3];

/// The subject's common name; else the first DNS name. `None`: the certificate has neither.
pub(crate) fn name_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let first_dns_name = certificate.valid_dns_names().next().map(str::to_owned);
    common_name(certificate.subject()).or(first_dns_name)
}

/// The first common name of a sequence of relative names (RFC 5280 §4.1.2.4).
fn common_name(mut subject: &[u8]) -> Option<String> {
    while let Some((SET, mut attributes, rest)) = element(subject) {
        subject = rest;
        while let Some((SEQUENCE, attribute, rest)) = element(attributes) {
            attributes = rest;
            let (kind, oid, value) = element(attribute)?;
            if (kind, oid) == (OBJECT_IDENTIFIER, COMMON_NAME) {
                let (UTF8_STRING | PRINTABLE_STRING | IA5_STRING, text, _) = element(value)? else { return None };
                return String::from_utf8(text.to_vec()).ok();
            }
        }
    }
    None
}

/// The first element: its tag, its content, and what follows. Lengths of more than two bytes don't occur in a name.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0x82 => rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_be_bytes(*length)), rest))?,
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn certificate(names: &[(DnType, &str)], dns: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(dns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        names.iter().for_each(|(kind, name)| params.distinguished_name.push(kind.clone(), *name));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn the_common_name_counts_and_then_the_first_dns_name() {
        let long = "x".repeat(300);
        for (names, dns, expected) in [
            (&[(DnType::OrganizationName, "Mti"), (DnType::CommonName, "897")][..], &["a.example"][..], Some("897")),
            (&[(DnType::CommonName, "Gerät")], &[], Some("Gerät")),
            (&[(DnType::OrganizationName, long.as_str()), (DnType::CommonName, long.as_str())], &[], Some(long.as_str())),
            (&[(DnType::OrganizationName, "Mti")], &["a.example", "b.example"], Some("a.example")),
            (&[], &[], None),
        ] {
            assert_eq!(name_of(&certificate(names, dns)).as_deref(), expected);
        }
        assert_eq!(name_of(&CertificateDer::from(vec![0x30, 3, 1])), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(prop::sample::select(vec![0x30, 0x31, 6, 3, 0x55, 4, 0x0c, 0, 1, 2, 0x81, 0x82, 0xff]), 0..40)) {
            common_name(&bytes);
        }
    }
}
