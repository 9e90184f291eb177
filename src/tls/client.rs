//! What a client's certificate says of it, in a form that fits a header.

use http::HeaderValue;
use ring::digest;
use rustls_pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    der_parser::asn1_rs::{Any, Tag},
    oid_registry::{self as oids, Oid},
    prelude::FromDer,
    x509::X509Name,
};

/// A client's certificate, as origins are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject's distinguished name (RFC 4514), in ASCII.
    pub subject: HeaderValue,
    /// SHA-256 of the certificate in DER, in lower-case hex.
    pub fingerprint: HeaderValue,
}

impl ClientCertificate {
    /// Of a certificate that was verified; none if it runs out before `now`, in seconds
    /// since 1970.
    pub(super) fn read(certificate: &CertificateDer<'_>, now: i64) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        if parsed.validity().not_after.timestamp() < now {
            return None;
        }
        let hash = digest::digest(&digest::SHA256, certificate);
        Some(Self {
            subject: HeaderValue::try_from(rfc4514(parsed.subject())).ok()?,
            fingerprint: HeaderValue::try_from(hex(hash.as_ref())).ok()?,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// A distinguished name as RFC 4514 writes it: the last part first. Whatever is not
/// printable ASCII is escaped, so that it fits a header and reads the same to everyone.
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
                // RFC 4514, 2.4: what has no name of its own is told in BER.
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

/// The names of RFC 4514, 3, and two more that certificates are full of.
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
    let found = names.into_iter().find(|(known, _)| *known == kind);
    found.map(|(_, short)| short)
}

/// A value of one of the string types, in UTF-8.
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

/// RFC 4514, 2.4.
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
                text.push_str(&hex(&[byte]));
            }
        }
    }
}

/// The value in BER, in hex.
fn ber(value: &Any<'_>) -> String {
    use x509_parser::der_parser::asn1_rs::ToDer;
    value
        .to_der_vec()
        .map(|bytes| hex(&bytes))
        .unwrap_or_default()
}
