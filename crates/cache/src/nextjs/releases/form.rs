//! Server actions in forms for browsers without JavaScript: the id of the action is a field of the
//! body, before the fields of the form.

use memchr::memmem;

/// Bytes of a body after which a form would have named its action. The fields that name it come
/// first; the arguments that are bound to it may be long.
pub const MAX_BEGINNING: usize = 16 * 1024;

/// Field whose name ends in the id of the action.
const BY_NAME: &[u8] = b"name=\"$ACTION_ID_";
/// Field of a form whose action has bound arguments; its value is in the next one.
const BY_REFERENCE: &[u8] = b"name=\"$ACTION_REF_";
const ID: &[u8] = b"\"id\":\"";

/// Returns the id of the action that a form's body begins with.
pub(super) fn action_id(beginning: &[u8]) -> Option<&[u8]> {
    if let Some(index) = memmem::find(beginning, BY_NAME) {
        return id_at(&beginning[index + BY_NAME.len()..]);
    }
    // `$ACTION_1:0` has `{"id":"…","bound":…}` for `$ACTION_REF_1`.
    let index = memmem::find(beginning, BY_REFERENCE)?;
    let rest = &beginning[index + BY_REFERENCE.len()..];
    let number = &rest[..rest.iter().position(|byte| *byte == b'"')?];
    let name = [b"name=\"$ACTION_", number, b":0\""].concat();
    let field = &rest[memmem::find(rest, &name)? + name.len()..];
    let value = &field[memmem::find(field, b"\r\n\r\n")? + 4..];
    let end = memmem::find(value, b"\r\n").unwrap_or(value.len());
    let value = &value[..end];
    id_at(&value[memmem::find(value, ID)? + ID.len()..])
}

/// Returns the hexadecimal digits up to the quote.
fn id_at(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|byte| !byte.is_ascii_hexdigit())?;
    (end > 0 && text[end] == b'"').then(|| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields in the form in which browsers send them.
    fn body(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, value) in fields {
            let field = format!(
                "------X\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            );
            body.extend_from_slice(field.as_bytes());
        }
        body.extend_from_slice(b"------X--\r\n");
        body
    }

    #[test]
    fn the_action_is_found_in_its_field() {
        let by_name = body(&[("$ACTION_ID_4001ab", ""), ("name", "Ada")]);
        assert_eq!(action_id(&by_name), Some(&b"4001ab"[..]));
        let bound = body(&[
            ("$ACTION_REF_1", ""),
            ("$ACTION_1:0", r#"{"id":"6009c4","bound":"$@1"}"#),
            ("$ACTION_1:1", r#"["an id"]"#),
        ]);
        assert_eq!(action_id(&bound), Some(&b"6009c4"[..]));
    }

    #[test]
    fn other_forms_have_none() {
        for fields in [
            &[("name", "Ada")][..],
            &[("$ACTION_ID_", "")],
            &[("$ACTION_ID_xyz", "")],
            &[("$ACTION_REF_1", ""), ("$ACTION_2:0", r#"{"id":"6009c4"}"#)],
            &[("$ACTION_REF_1", ""), ("$ACTION_1:0", r#"{"id":6009}"#)],
        ] {
            assert_eq!(action_id(&body(fields)), None, "{fields:?}");
        }
    }

    #[test]
    fn no_beginning_panics() {
        let whole = body(&[
            ("$ACTION_REF_1", ""),
            ("$ACTION_1:0", r#"{"id":"6009c4","bound":"$@1"}"#),
        ]);
        for end in 0..whole.len() {
            let found = action_id(&whole[..end]);
            assert!(found.is_none() || found == Some(b"6009c4"), "{end}");
        }
    }
}
