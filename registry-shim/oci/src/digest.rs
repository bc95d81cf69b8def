//! Digests: parsed, printed, verified while bytes stream.
//!
//! Invariant: a [`Digest`] is always well formed, and two spellings of one digest cannot
//! exist (the specification's lower-case hexadecimal is the only one taken), so that a digest
//! can be a map key, a file name and a path component without further checks. It holds raw
//! bytes rather than text: an origin keeps one per blob it has ever been given.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};

/// Text of a refused digest that is repeated in an error; the rest is cut.
const SHOWN: usize = 160;

/// `sha256:<64 hex>` or `sha512:<128 hex>`, lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Raw);

/// The variants stand in the order of their names, so that digests sort as their texts do.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Raw {
    Sha256([u8; 32]),
    /// Boxed: rare, and it would double every digest's size.
    Sha512(Box<[u8; 64]>),
}

/// The algorithms we verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// The one everybody uses.
    Sha256,
    /// The other one of the OCI specification.
    Sha512,
}

/// A text that is no digest we verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a sha256 or sha512 digest in lower-case hexadecimal")]
pub struct InvalidDigest(pub String);

impl Digest {
    /// The digest of these bytes, by SHA-256.
    pub fn sha256_of(bytes: &[u8]) -> Self {
        Self(Raw::Sha256(Sha256::digest(bytes).into()))
    }

    /// A SHA-256 digest from its 32 bytes.
    pub fn from_sha256(raw: [u8; 32]) -> Self {
        Self(Raw::Sha256(raw))
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Raw::Sha256(_) => Algorithm::Sha256,
            Raw::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The raw hash: 32 or 64 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Raw::Sha256(raw) => raw,
            Raw::Sha512(raw) => &raw[..],
        }
    }

    /// The hexadecimal part.
    pub fn hex(&self) -> String {
        hex::encode(self.as_bytes())
    }

    /// Whether this is the digest of no bytes at all. The empty blob has no torrent.
    pub fn is_of_nothing(&self) -> bool {
        *self == self.verifier().finish()
    }

    /// The name of the blob's torrent and file: 64 hex digits, or `sha512-<128 hex>`.
    pub fn torrent_name(&self) -> String {
        match self.0 {
            Raw::Sha256(_) => self.hex(),
            Raw::Sha512(_) => format!("sha512-{}", self.hex()),
        }
    }

    /// The way back.
    pub fn from_torrent_name(name: &str) -> Result<Self, InvalidDigest> {
        let parsed = match name.strip_prefix("sha512-") {
            Some(hex) => Self::from_hex(Algorithm::Sha512, hex),
            None => Self::from_hex(Algorithm::Sha256, name),
        };
        parsed.ok_or_else(|| invalid(name))
    }

    /// A verifier for this algorithm.
    pub fn verifier(&self) -> Verifier {
        Verifier::new(self.algorithm())
    }

    fn from_hex(algorithm: Algorithm, text: &str) -> Option<Self> {
        // `hex` takes upper case as well, which would give one digest two spellings.
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        match algorithm {
            Algorithm::Sha256 => {
                let mut raw = [0; 32];
                hex::decode_to_slice(text, &mut raw).ok()?;
                Some(Self(Raw::Sha256(raw)))
            }
            Algorithm::Sha512 => {
                let mut raw = Box::new([0; 64]);
                hex::decode_to_slice(text, &mut raw[..]).ok()?;
                Some(Self(Raw::Sha512(raw)))
            }
        }
    }
}

impl Algorithm {
    /// As digests begin.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; 128];
        let raw = self.as_bytes();
        let text = &mut buffer[..raw.len() * 2];
        hex::encode_to_slice(raw, text).expect("the buffer has twice the hash's length");
        let text = std::str::from_utf8(text).expect("hexadecimal is ASCII");
        write!(f, "{}:{text}", self.algorithm())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let parsed = match text.split_once(':') {
            Some(("sha256", hex)) => Self::from_hex(Algorithm::Sha256, hex),
            Some(("sha512", hex)) => Self::from_hex(Algorithm::Sha512, hex),
            _ => None,
        };
        parsed.ok_or_else(|| invalid(text))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes a stream of bytes.
#[derive(Debug, Clone)]
pub struct Verifier(Hasher);

#[derive(Debug, Clone)]
enum Hasher {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Verifier {
    /// For that algorithm.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Box::new(Sha512::new())),
        })
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// What they hash to.
    pub fn finish(self) -> Digest {
        Digest(match self.0 {
            Hasher::Sha256(hasher) => Raw::Sha256(hasher.finalize().into()),
            Hasher::Sha512(hasher) => Raw::Sha512(Box::new(hasher.finalize().into())),
        })
    }
}

fn invalid(text: &str) -> InvalidDigest {
    InvalidDigest(crate::error::shortened(text, SHOWN))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// SHA-256 and SHA-512 of "abc", as FIPS 180-2 prints them.
    const ABC_256: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const ABC_512: &str = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                           2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";

    #[test]
    fn known_hashes() {
        for text in [ABC_256, ABC_512] {
            let digest: Digest = text.parse().unwrap();
            let mut verifier = digest.verifier();
            verifier.update(b"a");
            verifier.update(b"bc");
            assert_eq!(verifier.finish(), digest);
            assert_eq!(digest.to_string(), text);
            assert_eq!(format!("{}:{}", digest.algorithm(), digest.hex()), text);
        }
        assert_eq!(Digest::sha256_of(b"abc").to_string(), ABC_256);
    }

    #[test]
    fn refused() {
        let hex = &ABC_256[7..];
        for text in [
            String::new(),
            "sha256".into(),
            "sha256:".into(),
            hex.into(),
            format!("sha256:{}", hex.to_uppercase()),
            format!("SHA256:{hex}"),
            format!("sha256:{hex}0"),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{}g", &hex[1..]),
            format!("sha256: {}", &hex[1..]),
            format!("sha512:{hex}"),
            format!("md5:{}", &hex[..32]),
            format!("sha256:sha256:{hex}"),
            "sha256:é".into(),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_long_refused_text_is_cut() {
        let error = "é".repeat(5000).parse::<Digest>().unwrap_err();
        assert!(error.0.len() <= SHOWN + "…".len());
    }

    #[test]
    fn torrent_names() {
        let one: Digest = ABC_256.parse().unwrap();
        let other: Digest = ABC_512.parse().unwrap();
        assert_eq!(one.torrent_name(), ABC_256[7..]);
        assert_eq!(other.torrent_name(), format!("sha512-{}", &ABC_512[7..]));
        for digest in [&one, &other] {
            let back = Digest::from_torrent_name(&digest.torrent_name()).unwrap();
            assert_eq!(back, *digest);
        }
        assert!(Digest::from_torrent_name("../../etc/passwd").is_err());
        assert!(Digest::from_torrent_name(ABC_256).is_err());
    }

    #[test]
    fn nothing() {
        assert!(Digest::sha256_of(b"").is_of_nothing());
        assert!(Verifier::new(Algorithm::Sha512).finish().is_of_nothing());
        assert!(!Digest::sha256_of(b"{}").is_of_nothing());
    }

    fn any_digest() -> impl Strategy<Value = Digest> {
        prop_oneof![
            any::<[u8; 32]>().prop_map(|raw| Digest(Raw::Sha256(raw))),
            proptest::collection::vec(any::<u8>(), 64)
                .prop_map(|raw| Digest(Raw::Sha512(Box::new(raw.try_into().unwrap())))),
        ]
    }

    proptest! {
        #[test]
        fn text_and_back(digest in any_digest()) {
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest.clone());
            let json = serde_json::to_string(&digest).unwrap();
            prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        }

        #[test]
        fn sorts_as_text(a in any_digest(), b in any_digest()) {
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn whatever_parses_prints_the_same(text in "\\PC{0,80}|sha(256|512):[0-9a-fA-F]{60,130}") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }
    }
}
