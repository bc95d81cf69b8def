//! The two 20-byte names of BEP-3: a torrent's info hash and a peer's id.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// SHA-1 over the raw `info` dictionary: the swarm's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InfoHash(pub [u8; 20]);

/// What a peer calls itself, BEP-20 style.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub [u8; 20]);

/// A text that is not forty hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an info hash is 40 hexadecimal digits")]
pub struct InvalidInfoHash;

impl InfoHash {
    /// The hash of a raw `info` dictionary.
    pub fn of(raw_info: &[u8]) -> Self {
        use sha1::{Digest, Sha1};
        Self(Sha1::digest(raw_info).into())
    }

    /// The bytes as they travel.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl PeerId {
    /// `-SW<version>-` and twelve random bytes; one per process.
    ///
    /// The random part is drawn from letters and digits so that logs and other clients'
    /// peer lists stay readable.
    pub fn generate(rng: &mut impl rand::Rng) -> Self {
        use rand::RngExt;
        const ALPHABET: &[u8; 62] =
            b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut id = *b"-SW0100-............";
        for byte in &mut id[8..] {
            *byte = ALPHABET[rng.random_range(0..ALPHABET.len())];
        }
        Self(id)
    }

    /// The bytes as they travel.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// The client part when it follows BEP-20 (`SW0100`), for people.
    pub fn client(&self) -> Option<&str> {
        let [b'-', client @ .., _, _, _, _, _, _, _, _, _, _, _, _] = &self.0 else {
            return None;
        };
        let (tail, name) = client.split_last()?;
        if *tail != b'-' || !name.iter().all(u8::is_ascii_alphanumeric) {
            return None;
        }
        std::str::from_utf8(name).ok()
    }
}

impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InfoHash({self})")
    }
}

impl FromStr for InfoHash {
    type Err = InvalidInfoHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 20];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidInfoHash)?;
        Ok(Self(bytes))
    }
}

impl Serialize for InfoHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for InfoHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for PeerId {
    /// Printable bytes as they are, others as `%xx`: a hostile id cannot forge a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in &self.0 {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_info_hash_reads_back_what_it_prints() {
        let hash = InfoHash::of(b"d6:lengthi1e4:name1:a12:piece lengthi16384e6:pieces0:e");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!("zz".parse::<InfoHash>(), Err(InvalidInfoHash));
    }

    #[test]
    fn a_peer_id_names_its_client() {
        let id = PeerId::generate(&mut rand::rng());
        assert_eq!(id.client(), Some("SW0100"));
        assert_eq!(PeerId([0; 20]).client(), None);
        assert_eq!(
            PeerId(*b"-TR4000-\n\x1b[31mabcdef").to_string().find('\n'),
            None
        );
    }
}
