//! Bencode within limits: depth, tokens, and sizes that never exceed the input.
//!
//! Two readers, on purpose. What both ends of ours speak (registration) and the `info` we make
//! go through `bendy`: strict and canonical. What strangers send (metainfo, extended
//! handshakes, tracker replies) is read by [`Value`]: it borrows, allocates nothing, does not
//! recurse, and takes keys in any order, because real clients and trackers send them so. It
//! keeps the raw bytes of every value, so that a hash is taken over what came, never over a
//! re-encoding.
//!
//! Invariant: a [`Value`] is exactly one well-formed value; everything below it was checked
//! when it was parsed, so that looking around in it cannot fail, only find nothing.

use std::fmt;

/// What an input may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Dictionaries and lists inside each other; at most [`Limits::MAX_DEPTH`] counts.
    pub depth: u32,
    /// Strings, numbers, keys, and beginnings and ends of containers.
    pub tokens: u32,
}

impl Limits {
    /// No input may nest deeper: the scanner keeps one bit a level.
    pub const MAX_DEPTH: u32 = 128;

    /// For looking around in what was checked before.
    const CHECKED: Self = Self {
        depth: Self::MAX_DEPTH,
        tokens: u32::MAX,
    };
}

/// Why bytes are no bencode, or more of it than the limits allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BencodeError {
    /// The input ends inside a value.
    #[error("it ends too early")]
    Truncated,
    /// A byte that cannot stand there.
    #[error("byte {at} cannot stand there")]
    Unexpected {
        /// Where, from the start of the input.
        at: usize,
    },
    /// Containers inside each other beyond the limit.
    #[error("it nests too deep")]
    Depth,
    /// More values than the limit.
    #[error("it has too many values")]
    Tokens,
    /// Something follows the value.
    #[error("something follows its end at byte {at}")]
    Trailing {
        /// Where the value ends.
        at: usize,
    },
}

/// One well-formed value, borrowed from its input.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    /// Reads an input that is one value and nothing else.
    pub fn parse(input: &'a [u8], limits: Limits) -> Result<Self, BencodeError> {
        let (value, rest) = Self::parse_prefix(input, limits)?;
        if !rest.is_empty() {
            let at = value.0.len();
            return Err(BencodeError::Trailing { at });
        }
        Ok(value)
    }

    /// Reads the value at the front of the input; returns what follows it too.
    pub fn parse_prefix(input: &'a [u8], limits: Limits) -> Result<(Self, &'a [u8]), BencodeError> {
        let (value, rest) = input.split_at(value_end(input, limits)?);
        Ok((Self(value), rest))
    }

    /// The bytes as they came.
    pub fn raw(self) -> &'a [u8] {
        self.0
    }

    /// The string, when it is one.
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        if !self.0.first()?.is_ascii_digit() {
            return None;
        }
        let colon = self.0.iter().position(|&byte| byte == b':')?;
        Some(&self.0[colon + 1..])
    }

    /// The string, when it is one and is UTF-8.
    pub fn as_str(self) -> Option<&'a str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// The number, when it is one that fits.
    pub fn as_int(self) -> Option<i64> {
        let digits = self.0.strip_prefix(b"i")?.strip_suffix(b"e")?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// The number, when it is one that fits.
    pub fn as_uint(self) -> Option<u64> {
        let digits = self.0.strip_prefix(b"i")?.strip_suffix(b"e")?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// The elements, when it is a list.
    pub fn items(self) -> Option<impl Iterator<Item = Value<'a>> + use<'a>> {
        let mut rest = self.0.strip_prefix(b"l")?;
        Some(std::iter::from_fn(move || take(&mut rest)))
    }

    /// Keys and values in the order they came, when it is a dictionary.
    pub fn entries(self) -> Option<impl Iterator<Item = (&'a [u8], Value<'a>)> + use<'a>> {
        let mut rest = self.0.strip_prefix(b"d")?;
        Some(std::iter::from_fn(move || {
            let key = take(&mut rest)?.as_bytes()?;
            Some((key, take(&mut rest)?))
        }))
    }

    /// The first value under that key, when it is a dictionary that has it.
    pub fn get(self, key: &[u8]) -> Option<Value<'a>> {
        self.entries()?
            .find_map(|(name, value)| (name == key).then_some(value))
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({})", self.0.escape_ascii())
    }
}

/// The next value of a container whose inside was checked; `None` at its `e`.
fn take<'a>(rest: &mut &'a [u8]) -> Option<Value<'a>> {
    let (value, after) = Value::parse_prefix(rest, Limits::CHECKED).ok()?;
    *rest = after;
    Some(value)
}

/// Where the value at the front ends. One pass, no recursion: a bit per level says whether it
/// is a dictionary.
fn value_end(input: &[u8], limits: Limits) -> Result<usize, BencodeError> {
    let deepest = limits.depth.min(Limits::MAX_DEPTH);
    let (mut at, mut depth, mut tokens) = (0, 0, 0);
    let mut dictionaries = 0u128;
    let mut key_due = false;
    loop {
        tokens += 1;
        if tokens > limits.tokens {
            return Err(BencodeError::Tokens);
        }
        let in_dictionary = dictionaries & 1 == 1;
        match *input.get(at).ok_or(BencodeError::Truncated)? {
            b'0'..=b'9' => {
                at = string_end(input, at)?;
                if key_due {
                    key_due = false;
                    continue;
                }
            }
            b'e' if depth > 0 && key_due == in_dictionary => {
                at += 1;
                depth -= 1;
                dictionaries >>= 1;
            }
            b'i' if !key_due => at = int_end(input, at)?,
            kind @ (b'd' | b'l') if !key_due => {
                if depth == deepest {
                    return Err(BencodeError::Depth);
                }
                at += 1;
                depth += 1;
                key_due = kind == b'd';
                dictionaries = dictionaries << 1 | u128::from(key_due);
                continue;
            }
            _ => return Err(BencodeError::Unexpected { at }),
        }
        if depth == 0 {
            return Ok(at);
        }
        key_due = dictionaries & 1 == 1;
    }
}

/// Ten digits count more bytes than any input here has.
const MAX_LENGTH_DIGITS: usize = 10;
/// A sign and twenty digits hold every 64-bit number.
const MAX_INT_DIGITS: usize = 21;

fn string_end(input: &[u8], start: usize) -> Result<usize, BencodeError> {
    let mut length = 0usize;
    for (at, &byte) in (start..).zip(input[start..].iter().take(MAX_LENGTH_DIGITS + 1)) {
        match byte {
            b'0'..=b'9' if at < start + MAX_LENGTH_DIGITS => {
                length = length
                    .saturating_mul(10)
                    .saturating_add(usize::from(byte - b'0'));
            }
            b':' => {
                let body = at + 1;
                return match input.len() - body {
                    left if length <= left => Ok(body + length),
                    _ => Err(BencodeError::Truncated),
                };
            }
            _ => return Err(BencodeError::Unexpected { at }),
        }
    }
    Err(BencodeError::Truncated)
}

fn int_end(input: &[u8], start: usize) -> Result<usize, BencodeError> {
    let first = start + 1;
    for (at, &byte) in (first..).zip(input[first..].iter().take(MAX_INT_DIGITS + 1)) {
        match byte {
            b'-' if at == first => {}
            b'0'..=b'9' if at < first + MAX_INT_DIGITS => {}
            b'e' if input[at - 1].is_ascii_digit() => return Ok(at + 1),
            _ => return Err(BencodeError::Unexpected { at }),
        }
    }
    Err(BencodeError::Truncated)
}

/// Appends a string.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(itoa::Buffer::new().format(bytes.len()).as_bytes());
    out.push(b':');
    out.extend_from_slice(bytes);
}

/// Appends a number.
pub(crate) fn put_int(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.push(b'i');
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.push(b'e');
}

/// A stranger's text made fit for a terminal or a log: UTF-8, no control character, at most
/// `max` characters.
pub(crate) fn display_text(bytes: &[u8], max: usize) -> String {
    // A character is at most four bytes: no need to look at more, however long the input.
    let bytes = &bytes[..bytes.len().min(max * 4)];
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(max)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        depth: 4,
        tokens: 100,
    };

    fn end(input: &[u8]) -> Result<usize, BencodeError> {
        Value::parse(input, LIMITS).map(|value| value.raw().len())
    }

    #[test]
    fn well_formed_values_are_read_in_any_key_order() {
        let input = b"d1:zi-42e1:a4:spam1:ll0:i0eee";
        let value = Value::parse(input, LIMITS).unwrap();
        assert_eq!(value.get(b"z").and_then(Value::as_int), Some(-42));
        assert_eq!(value.get(b"a").and_then(Value::as_str), Some("spam"));
        let items: Vec<_> = value.get(b"l").unwrap().items().unwrap().collect();
        assert_eq!(items[0].as_bytes(), Some(&b""[..]));
        assert_eq!(items[1].as_uint(), Some(0));
        assert_eq!(items.len(), 2);
        assert_eq!(value.get(b"b"), None);
        assert_eq!(value.get(b"l").unwrap().raw(), b"l0:i0ee");
    }

    #[test]
    fn a_value_is_only_what_it_is() {
        let number = Value::parse(b"i7e", LIMITS).unwrap();
        assert!(number.as_bytes().is_none());
        assert!(number.items().is_none());
        assert!(number.entries().is_none());
        let text = Value::parse(b"4:i7e:", LIMITS).unwrap();
        assert_eq!(text.as_int(), None);
        assert_eq!(text.as_bytes(), Some(&b"i7e:"[..]));
        // A list whose first string holds a colon is no string.
        assert_eq!(Value::parse(b"l1::e", LIMITS).unwrap().as_bytes(), None);
        let huge = Value::parse(b"i18446744073709551615e", LIMITS).unwrap();
        assert_eq!((huge.as_int(), huge.as_uint()), (None, Some(u64::MAX)));
    }

    #[test]
    fn broken_values_are_refused() {
        use BencodeError::{Depth, Tokens, Trailing, Truncated, Unexpected};
        for cut in [
            &b""[..],
            b"d",
            b"l",
            b"i",
            b"i1",
            b"3",
            b"3:ab",
            b"d1:a",
            b"99999999999",
        ] {
            assert!(end(cut).is_err(), "{}", cut.escape_ascii());
        }
        assert_eq!(end(b"9999999999:"), Err(Truncated));
        assert_eq!(end(b"d1:ae"), Err(Unexpected { at: 4 }));
        assert_eq!(end(b"di1ei2ee"), Err(Unexpected { at: 1 }));
        assert_eq!(end(b"dle1:ae"), Err(Unexpected { at: 1 }));
        assert_eq!(end(b"e"), Err(Unexpected { at: 0 }));
        assert_eq!(end(b"ie"), Err(Unexpected { at: 1 }));
        assert_eq!(end(b"i-e"), Err(Unexpected { at: 2 }));
        assert_eq!(end(b"i1-e"), Err(Unexpected { at: 2 }));
        assert_eq!(end(b"-1:a"), Err(Unexpected { at: 0 }));
        assert_eq!(end(b"i1ei2e"), Err(Trailing { at: 3 }));
        assert_eq!(end(b"lllleeee"), Ok(8));
        assert_eq!(end(b"llllleeeee"), Err(Depth));
        assert_eq!(
            end(&[b"l".to_vec(), b"0:".repeat(98), b"e".to_vec()].concat()),
            Ok(198)
        );
        assert_eq!(
            end(&[b"l".to_vec(), b"0:".repeat(99), b"e".to_vec()].concat()),
            Err(Tokens)
        );
    }

    #[test]
    fn deep_nesting_costs_neither_stack_nor_memory() {
        let bomb = b"l".repeat(10_000_000);
        let limits = Limits {
            depth: u32::MAX,
            tokens: u32::MAX,
        };
        assert_eq!(Value::parse(&bomb, limits), Err(BencodeError::Depth));
        let deep = [b"d0:".repeat(127), b"le".to_vec(), b"e".repeat(127)].concat();
        assert!(Value::parse(&deep, limits).is_ok());
    }

    #[test]
    fn text_for_people_holds_no_control_character() {
        assert_eq!(display_text(b"a\x1b[31m\xff\nb", 100), "a [31m\u{fffd} b");
        assert_eq!(display_text("ééé".as_bytes(), 2), "éé");
    }
}
