//! Fields of a client's certificate, in a form that fits a header.

use http::HeaderValue;
use ring::digest;
use rustls_pki_types::CertificateDer;
use x509_parser::{
    der_parser::asn1_rs::{Any, Tag},
    oid_registry::{self as oids, Oid},
    x509::X509Name,
};

use super::pair;
use crate::chain::ClientCertificate;

/// Reads the fields of a verified certificate that origins receive. `None` if it expires before
/// `now`, in seconds since 1970.
pub(super) fn read(certificate: &CertificateDer<'_>, now: i64) -> Option<ClientCertificate> {
    let parsed = pair::parse(certificate)?;
    if parsed.validity().not_after.timestamp() < now {
        return None;
    }
    let hash = digest::digest(&digest::SHA256, certificate);
    Some(ClientCertificate {
        subject: HeaderValue::try_from(rfc4514(parsed.subject())).ok()?,
        fingerprint: HeaderValue::try_from(hex::encode(hash)).ok()?,
    })
}

/// Formats a distinguished name per RFC 4514, with the last part first. Everything that is not
/// printable ASCII is escaped, so that the text fits a header and is unambiguous.
fn rfc4514(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter().collect();
    for (index, part) in parts.iter().rev().enumerate() {
        if index > 0 {
            text.push(',');
        }
        for (index, attribute) in part.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            let value = attribute.attr_value();
            match (short(attribute.attr_type()), readable(value)) {
                (Some(short), Some(value)) => {
                    text.push_str(short);
                    text.push('=');
                    escape(&value, &mut text);
                }
                // RFC 4514, 2.4: an attribute without a short name is written in BER.
                (short, _) => {
                    match short {
                        Some(short) => text.push_str(short),
                        None => text.push_str(&attribute.attr_type().to_id_string()),
                    }
                    text.push_str("=#");
                    text.push_str(&ber(value));
                }
            }
        }
    }
    text
}

/// The short names of RFC 4514, 3, and two more that are common in certificates.
fn short(kind: &Oid<'_>) -> Option<&'static str> {
    let names = [
        (&oids::OID_X509_COMMON_NAME, "CN"),
        (&oids::OID_X509_LOCALITY_NAME, "L"),
        (&oids::OID_X509_STATE_OR_PROVINCE_NAME, "ST"),
        (&oids::OID_X509_ORGANIZATION_NAME, "O"),
        (&oids::OID_X509_ORGANIZATIONAL_UNIT, "OU"),
        (&oids::OID_X509_COUNTRY_NAME, "C"),
        (&oids::OID_X509_STREET_ADDRESS, "STREET"),
        (&oids::OID_DOMAIN_COMPONENT, "DC"),
        (&oids::OID_USERID, "UID"),
        (&oids::OID_PKCS9_EMAIL_ADDRESS, "emailAddress"),
        (&oids::OID_X509_SERIALNUMBER, "serialNumber"),
    ];
    let name = names.into_iter().find(|(known, _)| *known == kind);
    name.map(|(_, short)| short)
}

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
fn escape(value: &str, text: &mut String) {
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.bytes().enumerate() {
        let is_edge = byte == b' ' && (index == 0 || index == last) || byte == b'#' && index == 0;
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            _ if is_edge => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                text.push('\\');
                text.push_str(&hex::encode([byte]));
            }
        }
    }
}

/// The value in BER, as hex.
fn ber(value: &Any<'_>) -> String {
    use x509_parser::der_parser::asn1_rs::ToDer;
    value.to_der_vec().map(hex::encode).unwrap_or_default()
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
        let client = read(&made(parts), 0).unwrap();
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
            r"CN=Lu\c4\8di\c4\87\0d\0aX-Admin: 1",
        );
        check(
            &[(DnType::CustomDnType(vec![2, 5, 4, 4]), utf8("Before"))],
            "2.5.4.4=#0c064265666f7265",
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
        assert!(read(&certificate, end).is_some());
        assert!(read(&certificate, end + 1).is_none());
        assert!(read(&CertificateDer::from(vec![0x30, 0]), 0).is_none());
    }

    #[test]
    fn the_fingerprint_is_the_hash_of_the_full_certificate() {
        let certificate = made(&[]);
        let client = read(&certificate, 0).unwrap();
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
            let mut text = String::new();
            escape(&value, &mut text);
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
