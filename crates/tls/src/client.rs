//! Fields of a client's certificate, in a form that fits a header.

use http::HeaderValue;
use ring::digest;
use rustls_pki_types::CertificateDer;
use x509_parser::{
    der_parser::asn1_rs::{Any, Tag},
    x509::{AttributeTypeAndValue, X509Name},
};

use super::pair;
use crate::chain::ClientCertificate;

/// Reads the fields of a certificate that was verified by the CAs with the digest `cas`. `None` if
/// it expires before `now`, in seconds since 1970.
pub(super) fn read(
    certificate: &CertificateDer<'_>,
    cas: u64,
    now: i64,
) -> Option<ClientCertificate> {
    let parsed = pair::parse(certificate)?;
    if parsed.validity().not_after.timestamp() < now {
        return None;
    }
    let hash = digest::digest(&digest::SHA256, certificate);
    Some(ClientCertificate {
        subject: HeaderValue::try_from(rfc4514(parsed.subject())).ok()?,
        fingerprint: HeaderValue::try_from(hex::encode(hash)).ok()?,
        cas,
    })
}

/// Formats a distinguished name per RFC 4514, with the last part first, as OpenSSL does with
/// `-nameopt RFC2253`. Everything that is not printable ASCII is escaped, so that the text fits a
/// header and is unambiguous.
fn rfc4514(name: &X509Name<'_>) -> String {
    let parts = name
        .iter()
        .map(|part| reversed(part.iter().map(attribute), "+"));
    reversed(parts, ",")
}

/// Joins texts from the last to the first.
fn reversed(texts: impl Iterator<Item = String>, separator: &str) -> String {
    let mut texts: Vec<_> = texts.collect();
    texts.reverse();
    texts.join(separator)
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let (kind, value) = (attribute.attr_type().to_id_string(), attribute.attr_value());
    let name = NAMES.split(' ').skip_while(|word| *word != kind).nth(1);
    match (name, readable(value)) {
        (Some(name), Some(value)) => format!("{name}={}", escaped(&value)),
        // RFC 4514, 2.4: an attribute without a name is written in BER.
        (name, _) => format!("{}=#{}", name.unwrap_or(&kind), ber(value)),
    }
}

/// Types of attributes and their names, as OpenSSL and nginx have them: those of RFC 4514, 3, and more
/// that are common in certificates.
const NAMES: &str = "2.5.4.3 CN 2.5.4.4 SN 2.5.4.5 serialNumber 2.5.4.6 C 2.5.4.7 L 2.5.4.8 ST \
    2.5.4.9 street 2.5.4.10 O 2.5.4.11 OU 2.5.4.12 title 2.5.4.13 description \
    2.5.4.15 businessCategory 2.5.4.17 postalCode 2.5.4.41 name 2.5.4.42 GN 2.5.4.43 initials \
    2.5.4.44 generationQualifier 2.5.4.46 dnQualifier 2.5.4.65 pseudonym \
    2.5.4.97 organizationIdentifier 0.9.2342.19200300.100.1.1 UID 0.9.2342.19200300.100.1.25 DC \
    1.2.840.113549.1.9.1 emailAddress 1.3.6.1.4.1.311.60.2.1.1 jurisdictionL \
    1.3.6.1.4.1.311.60.2.1.2 jurisdictionST 1.3.6.1.4.1.311.60.2.1.3 jurisdictionC";

/// Decodes a value of a string type to UTF-8.
fn readable(value: &Any<'_>) -> Option<String> {
    let data = value.data;
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            std::str::from_utf8(data).ok().map(str::to_owned)
        }
        // Latin-1 in practice.
        Tag::TeletexString => Some(data.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => {
            let (pairs, []) = data.as_chunks::<2>() else {
                return None;
            };
            let units = pairs.iter().map(|pair| u16::from_be_bytes(*pair));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        _ => None,
    }
}

/// Escapes a value (RFC 4514, 2.4).
fn escaped(value: &str) -> String {
    let mut text = String::new();
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.bytes().enumerate() {
        let is_edge = byte == b' ' && (index == 0 || index == last) || byte == b'#' && index == 0;
        let is_printable = matches!(byte, b' '..=b'~');
        if is_edge || !is_printable || b"\"+,;<>\\".contains(&byte) {
            text.push('\\');
        }
        if is_printable {
            text.push(char::from(byte));
        } else {
            text.push_str(&hex::encode_upper([byte]));
        }
    }
    text
}

/// The value in BER, as hex.
fn ber(value: &Any<'_>) -> String {
    use x509_parser::der_parser::asn1_rs::ToDer;
    value
        .to_der_vec()
        .map(hex::encode_upper)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, date_time_ymd,
        string::PrintableString,
    };

    use super::*;

    fn made(parts: &[(DnType, DnValue)]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.not_after = date_time_ymd(2030, 1, 1);
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn utf8(text: &str) -> DnValue {
        DnValue::Utf8String(text.to_owned())
    }

    #[track_caller]
    fn check(parts: &[(DnType, DnValue)], expected: &str) {
        let client = read(&made(parts), 0, 0).unwrap();
        assert_eq!(client.subject, expected);
    }

    #[test]
    fn names_are_written_as_rfc_4514_has_them() {
        let printable = |text: &str| {
            DnValue::PrintableString(PrintableString::try_from(text.to_owned()).unwrap())
        };
        check(
            &[
                (DnType::CountryName, printable("DE")),
                (DnType::OrganizationName, utf8("Example, Inc.")),
                (DnType::CommonName, utf8("ann")),
            ],
            r"CN=ann,O=Example\, Inc.,C=DE",
        );
        check(
            &[(DnType::CommonName, utf8(" #a \"b\" <c>;d=e+f\\g "))],
            r#"CN=\ #a \"b\" \<c\>\;d=e\+f\\g\ "#,
        );
        check(&[(DnType::CommonName, utf8("#1"))], r"CN=\#1");
        check(&[(DnType::CommonName, utf8(" "))], r"CN=\ ");
        check(
            &[(DnType::CommonName, utf8("Lučić\r\nX-Admin: 1"))],
            r"CN=Lu\C4\8Di\C4\87\0D\0AX-Admin: 1",
        );
        check(
            &[(DnType::CustomDnType(vec![2, 5, 4, 99]), utf8("Before"))],
            "2.5.4.99=#0C064265666F7265",
        );
        check(
            &[(
                DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]),
                utf8("u1"),
            )],
            "UID=u1",
        );
        check(&[], "");
    }

    #[test]
    fn an_expired_certificate_proves_nothing() {
        let certificate = made(&[(DnType::CommonName, utf8("ann"))]);
        let end = 1_893_456_000;
        assert!(read(&certificate, 0, end).is_some());
        assert!(read(&certificate, 0, end + 1).is_none());
        assert!(read(&CertificateDer::from(vec![0x30, 0]), 0, 0).is_none());
    }

    #[test]
    fn the_fingerprint_is_the_hash_of_the_full_certificate() {
        let certificate = made(&[]);
        let client = read(&certificate, 0, 0).unwrap();
        let hash = digest::digest(&digest::SHA256, &certificate);
        let expected: Vec<u8> = hash.as_ref().to_vec();
        let text = client.fingerprint.to_str().unwrap();
        let read: Vec<u8> = (0..text.len() / 2)
            .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        assert_eq!(read, expected);
    }

    proptest! {
        #[test]
        fn escaped_text_reads_back(value in any::<String>()) {
            let text = escaped(&value);
            prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            let mut read = Vec::new();
            let mut rest = text.as_bytes();
            while let [first, after @ ..] = rest {
                rest = after;
                if *first != b'\\' {
                    prop_assert!(!b"\"+,;<>".contains(first));
                    read.push(*first);
                    continue;
                }
                let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
                // `from_str_radix` accepts a sign.
                let digits = digits.filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()));
                let byte = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
                let (byte, used) = byte.map_or((after[0], 1), |byte| (byte, 2));
                read.push(byte);
                rest = &after[used..];
            }
            prop_assert_eq!(read, value.as_bytes());
        }
    }
}
