//! Manifests: OCI image manifests and indexes, Docker schema 2 manifests and lists, and the
//! retired OCI artifact manifest that older tools still push.
//!
//! Reads what a registry must know: which content a manifest names, and of what size. The
//! bytes themselves are never changed and never written again from here: a manifest's digest
//! is that of the text its author wrote. Unknown fields are none of our business. Input is
//! bounded by [`MAX_MANIFEST`] and by the JSON parser's depth of 128.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::error::{ErrorCode, RegistryError, shortened};

/// Larger manifests are refused with 413.
pub const MAX_MANIFEST: usize = 4 * 1024 * 1024;

/// An OCI image or artifact.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Several of them.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What old Docker pushes.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Several of them.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// A draft of OCI 1.1, withdrawn.
pub const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
const DOCKER_SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// Sizes beyond this are nonsense: most clients keep them in a signed 64-bit integer.
const MAX_SIZE: u64 = i64::MAX as u64;
/// Text from outside that is repeated in an error; the rest is cut.
const SHOWN: usize = 160;

/// A reference to content, as manifests carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    #[serde(deserialize_with = "size")]
    pub size: u64,
    /// Where foreign layers may be fetched.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub urls: Vec<String>,
    /// Of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free text.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Which machine, in an index; passed through as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<serde_json::Value>,
}

impl Descriptor {
    /// Whether the content may be elsewhere: a registry need not hold what has `urls`.
    pub fn is_foreign(&self) -> bool {
        !self.urls.is_empty()
    }
}

/// What we need to know of a manifest; its exact bytes are kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its media type.
    pub media_type: String,
    /// Config and layers of an image manifest, in order, config first.
    pub blobs: Vec<Descriptor>,
    /// Children of an index.
    pub children: Vec<Descriptor>,
    /// OCI 1.1 referrers.
    pub subject: Option<Descriptor>,
    /// `artifactType`, or the config's media type.
    pub artifact_type: Option<String>,
    /// Free text.
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Parses and checks; `content_type` must agree with the body's own `mediaType`. Without
    /// a `content_type` the body decides alone: OCI leaves `mediaType` optional, so what it
    /// lists tells what it is.
    ///
    /// A Docker manifest has to say so itself: its bytes may be read again where no header
    /// tells, and would then pass for an OCI manifest.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, RegistryError> {
        Self::read(bytes, content_type, true)
    }

    /// The same of what was stored under a media type, however it came to be stored.
    pub fn parse_stored(bytes: &[u8], media_type: &str) -> Result<Self, RegistryError> {
        Self::read(bytes, Some(media_type), false)
    }

    fn read(bytes: &[u8], content_type: Option<&str>, strict: bool) -> Result<Self, RegistryError> {
        if bytes.len() > MAX_MANIFEST {
            return Err(too_large());
        }
        let said = content_type.map(Shape::of_content_type).transpose()?;
        let body: Body = serde_json::from_slice(bytes)
            .map_err(|e| invalid(format!("the manifest is not valid: {e}")))?;
        if body.schema_version == Some(1) {
            return Err(schema_1());
        }
        let wrote = match &body.media_type {
            Some(text) => Some(Shape::of_media_type(text)?),
            None => None,
        };
        let shape = match (said, wrote) {
            (Some(said), Some(wrote)) if said != wrote => {
                return Err(invalid(format!(
                    "the Content-Type says {}, the manifest itself says {}",
                    said.media_type(),
                    wrote.media_type()
                )));
            }
            (Some(said), None) if strict && said.is_docker() => {
                return Err(invalid(format!(
                    "a manifest of type {0} has to have the field \"mediaType\": \"{0}\"",
                    said.media_type()
                )));
            }
            (Some(shape), _) | (None, Some(shape)) => shape,
            (None, None) if body.manifests.is_some() => Shape::Index(OCI_INDEX),
            (None, None) => Shape::Image(OCI_MANIFEST),
        };
        body.into_manifest(shape)
    }

    /// Whether it lists manifests rather than blobs.
    pub fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }

    /// Config, layers and children: everything the manifest is made of. Not its subject.
    pub fn references(&self) -> impl Iterator<Item = &Descriptor> {
        self.blobs.iter().chain(&self.children)
    }

    /// The descriptor by which a referrers list names this manifest.
    pub fn as_referrer(&self, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest,
            size,
            urls: Vec::new(),
            artifact_type: self.artifact_type.clone(),
            annotations: self.annotations.clone(),
            platform: None,
        }
    }
}

/// The answer to a manifest beyond [`MAX_MANIFEST`], for those who stop reading there.
pub fn too_large() -> RegistryError {
    RegistryError::new(
        ErrorCode::ManifestInvalid,
        format!("the manifest is larger than {MAX_MANIFEST} bytes"),
    )
    .with_status(StatusCode::PAYLOAD_TOO_LARGE)
}

/// Which fields a manifest has, with its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Image(&'static str),
    Index(&'static str),
    Artifact,
}

impl Shape {
    fn of_content_type(header: &str) -> Result<Self, RegistryError> {
        let media_type = header.split(';').next().unwrap_or_default().trim();
        Self::of_media_type(&media_type.to_ascii_lowercase())
    }

    fn of_media_type(text: &str) -> Result<Self, RegistryError> {
        match text {
            OCI_MANIFEST => Ok(Self::Image(OCI_MANIFEST)),
            DOCKER_MANIFEST => Ok(Self::Image(DOCKER_MANIFEST)),
            OCI_INDEX => Ok(Self::Index(OCI_INDEX)),
            DOCKER_LIST => Ok(Self::Index(DOCKER_LIST)),
            OCI_ARTIFACT => Ok(Self::Artifact),
            old if DOCKER_SCHEMA_1.contains(&old) => Err(schema_1()),
            other => Err(invalid(format!(
                "{:?} is not a manifest type this registry knows",
                shortened(other, SHOWN)
            ))),
        }
    }

    fn is_docker(self) -> bool {
        matches!(self.media_type(), DOCKER_MANIFEST | DOCKER_LIST)
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Image(media_type) | Self::Index(media_type) => media_type,
            Self::Artifact => OCI_ARTIFACT,
        }
    }
}

/// The union of all shapes: which fields may stand together is checked afterwards. Serde
/// refuses a field given twice, so that two readers cannot see two different manifests.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    schema_version: Option<i64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_default")]
    annotations: BTreeMap<String, String>,
}

impl Body {
    fn into_manifest(self, shape: Shape) -> Result<Manifest, RegistryError> {
        self.check(shape)?;
        // An artifact without a type of its own is of its config's type; an index has none.
        let artifact_type = self
            .artifact_type
            .filter(|text| !text.is_empty())
            .or_else(|| self.config.as_ref().map(|c| c.media_type.clone()));
        let listed = self.layers.or(self.blobs).unwrap_or_default();
        Ok(Manifest {
            media_type: shape.media_type().to_owned(),
            blobs: self.config.into_iter().chain(listed).collect(),
            children: self.manifests.unwrap_or_default(),
            subject: self.subject,
            artifact_type,
            annotations: self.annotations,
        })
    }

    /// A body that can be read as two kinds of manifest means different things to different
    /// clients (CVE-2021-41190), so the fields of one kind exclude those of the others.
    fn check(&self, shape: Shape) -> Result<(), RegistryError> {
        let image = self.config.is_some() || self.layers.is_some();
        let foreign = match shape {
            Shape::Image(_) => self.manifests.is_some() || self.blobs.is_some(),
            Shape::Index(_) => image || self.blobs.is_some(),
            Shape::Artifact => image || self.manifests.is_some(),
        };
        let media_type = shape.media_type();
        if foreign {
            return Err(invalid(format!(
                "a manifest of type {media_type} cannot have the fields of another type"
            )));
        }
        let complete = match shape {
            Shape::Image(_) => self.config.is_some(),
            Shape::Index(_) => self.manifests.is_some(),
            Shape::Artifact => true,
        };
        if !complete {
            let field = if matches!(shape, Shape::Image(_)) {
                "config"
            } else {
                "manifests"
            };
            return Err(invalid(format!(
                "a manifest of type {media_type} needs the field {field:?}"
            )));
        }
        if shape != Shape::Artifact && self.schema_version != Some(2) {
            return Err(invalid(format!(
                "a manifest of type {media_type} needs \"schemaVersion\": 2"
            )));
        }
        Ok(())
    }
}

fn invalid(message: String) -> RegistryError {
    RegistryError::new(ErrorCode::ManifestInvalid, message)
}

fn schema_1() -> RegistryError {
    invalid(
        "Docker image manifest version 2, schema 1 is no longer supported: \
         build or convert the image with a current tool"
            .to_owned(),
    )
}

/// Go writes an absent list or map as `null`.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

fn size<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    let size = u64::deserialize(d)?;
    if size > MAX_SIZE {
        return Err(serde::de::Error::custom(
            "a size beyond what clients can hold",
        ));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn descriptor(media_type: &str, content: &str) -> Value {
        json!({
            "mediaType": media_type,
            "digest": Digest::sha256_of(content.as_bytes()).to_string(),
            "size": content.len(),
        })
    }

    fn image(media_type: &str) -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": descriptor("application/vnd.oci.image.config.v1+json", "{}"),
            "layers": [
                descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "one"),
                descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "two"),
            ],
        })
    }

    fn index(media_type: &str) -> Value {
        let mut child = descriptor(OCI_MANIFEST, "child");
        child["platform"] = json!({"os": "linux", "architecture": "arm64", "variant": "v8"});
        json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [child]})
    }

    fn parse(body: &Value, content_type: Option<&str>) -> Result<Manifest, RegistryError> {
        Manifest::parse(body.to_string().as_bytes(), content_type)
    }

    fn refusal(body: &Value, content_type: Option<&str>) -> String {
        let error = parse(body, content_type).unwrap_err();
        assert_eq!(error.code, ErrorCode::ManifestInvalid);
        assert_eq!(error.status(), 400);
        error.message
    }

    #[test]
    fn images() {
        for media_type in [OCI_MANIFEST, DOCKER_MANIFEST] {
            let manifest = parse(&image(media_type), Some(media_type)).unwrap();
            assert_eq!(manifest.media_type, media_type);
            assert!(!manifest.is_index());
            let digests: Vec<_> = manifest.references().map(|d| d.digest.clone()).collect();
            let expected = ["{}", "one", "two"].map(|c| Digest::sha256_of(c.as_bytes()));
            assert_eq!(digests, expected);
            assert_eq!(
                manifest.artifact_type.as_deref(),
                Some("application/vnd.oci.image.config.v1+json")
            );
        }
    }

    #[test]
    fn indexes() {
        for media_type in [OCI_INDEX, DOCKER_LIST] {
            let manifest = parse(&index(media_type), Some(media_type)).unwrap();
            assert!(manifest.is_index());
            assert!(manifest.blobs.is_empty());
            assert_eq!(manifest.children.len(), 1);
            assert_eq!(
                manifest.children[0].platform.as_ref().unwrap()["variant"],
                "v8"
            );
            assert_eq!(manifest.artifact_type, None);
        }
        let empty = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []});
        assert!(parse(&empty, Some(OCI_INDEX)).unwrap().children.is_empty());
    }

    #[test]
    fn without_a_content_type_the_body_decides() {
        let mut bare = image(OCI_MANIFEST);
        bare.as_object_mut().unwrap().remove("mediaType");
        assert_eq!(parse(&bare, None).unwrap().media_type, OCI_MANIFEST);
        assert_eq!(
            parse(&bare, Some(OCI_MANIFEST)).unwrap().media_type,
            OCI_MANIFEST
        );
        let mut bare = index(OCI_INDEX);
        bare.as_object_mut().unwrap().remove("mediaType");
        assert_eq!(parse(&bare, None).unwrap().media_type, OCI_INDEX);
        assert_eq!(
            parse(&image(DOCKER_MANIFEST), None).unwrap().media_type,
            DOCKER_MANIFEST
        );
    }

    #[test]
    fn docker_manifests_say_what_they_are() {
        for mut bare in [image(DOCKER_MANIFEST), index(DOCKER_LIST)] {
            let media_type = bare["mediaType"].take();
            let media_type = media_type.as_str().unwrap();
            let said = refusal(&bare, Some(media_type));
            assert!(
                said.contains(media_type) && said.contains("mediaType"),
                "{said}"
            );
            // What was taken once can be read.
            let stored = Manifest::parse_stored(bare.to_string().as_bytes(), media_type);
            assert_eq!(stored.unwrap().media_type, media_type);
        }
    }

    #[test]
    fn content_types_are_headers() {
        let sent = format!("{} ; charset=utf-8", OCI_MANIFEST.to_uppercase());
        assert!(parse(&image(OCI_MANIFEST), Some(&sent)).is_ok());
    }

    #[test]
    fn artifacts() {
        let mut artifact = image(OCI_MANIFEST);
        artifact["artifactType"] = json!("application/vnd.example.sbom");
        artifact["config"] = descriptor("application/vnd.oci.empty.v1+json", "{}");
        artifact["config"]["data"] = json!("e30=");
        artifact["subject"] = descriptor(OCI_MANIFEST, "the image");
        artifact["annotations"] = json!({"made": "today"});
        artifact["somethingNew"] = json!([[[1.5, null]]]);
        let manifest = parse(&artifact, Some(OCI_MANIFEST)).unwrap();
        assert_eq!(
            manifest.artifact_type.as_deref(),
            Some("application/vnd.example.sbom")
        );
        assert_eq!(manifest.subject.as_ref().unwrap().size, 9);
        let listed = manifest.as_referrer(Digest::sha256_of(b"x"), 1);
        assert_eq!(listed.annotations["made"], "today");
        let listed = serde_json::to_value(&listed).unwrap();
        assert_eq!(listed["artifactType"], "application/vnd.example.sbom");
        assert!(listed.get("urls").is_none());

        let retired = json!({
            "mediaType": OCI_ARTIFACT,
            "artifactType": "application/vnd.example.sbom",
            "blobs": [descriptor("text/plain", "a")],
        });
        assert_eq!(parse(&retired, Some(OCI_ARTIFACT)).unwrap().blobs.len(), 1);
    }

    #[test]
    fn foreign_layers() {
        let mut body = image(DOCKER_MANIFEST);
        body["layers"][0]["urls"] = json!(["https://example.com/layer"]);
        body["layers"][1]["urls"] = Value::Null;
        let manifest = parse(&body, Some(DOCKER_MANIFEST)).unwrap();
        let foreign: Vec<_> = manifest.blobs.iter().map(Descriptor::is_foreign).collect();
        assert_eq!(foreign, [false, true, false]);
    }

    #[test]
    fn lists_may_be_null() {
        let mut body = image(OCI_MANIFEST);
        body["layers"] = Value::Null;
        body["annotations"] = Value::Null;
        assert_eq!(parse(&body, Some(OCI_MANIFEST)).unwrap().blobs.len(), 1);
    }

    #[test]
    fn disagreement() {
        let said = refusal(&image(OCI_MANIFEST), Some(DOCKER_MANIFEST));
        assert!(
            said.contains(OCI_MANIFEST) && said.contains(DOCKER_MANIFEST),
            "{said}"
        );
        refusal(&index(OCI_INDEX), Some(OCI_MANIFEST));
        refusal(&image(OCI_MANIFEST), Some("application/json"));
        refusal(&image("text/plain"), Some(OCI_MANIFEST));
        refusal(&image("text/plain"), None);
    }

    #[test]
    fn two_kinds_in_one() {
        let mut both = image(OCI_MANIFEST);
        both["manifests"] = json!([]);
        refusal(&both, Some(OCI_MANIFEST));
        let mut both = index(OCI_INDEX);
        both["layers"] = json!([]);
        refusal(&both, Some(OCI_INDEX));
        let twice = br#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#;
        assert!(Manifest::parse(twice, Some(OCI_INDEX)).is_err());
    }

    #[test]
    fn schema_1_is_named() {
        let body = json!({"schemaVersion": 1, "name": "a", "fsLayers": []});
        for content_type in [None, Some(DOCKER_SCHEMA_1[0]), Some(DOCKER_SCHEMA_1[1])] {
            assert!(refusal(&body, content_type).contains("schema 1"));
        }
    }

    #[test]
    fn broken() {
        let broken: [&[u8]; 9] = [
            b"",
            b"blablabla",
            b"[]",
            b"{}",
            b"{\"schemaVersion\":2}",
            b"{\"schemaVersion\":3,\"manifests\":[]}",
            b"{\"schemaVersion\":\"2\",\"manifests\":[]}",
            b"{\"manifests\":[]}",
            b"\xff\xfe",
        ];
        for bytes in broken {
            let error = Manifest::parse(bytes, None).unwrap_err();
            assert_eq!(error.code, ErrorCode::ManifestInvalid, "{bytes:?}");
        }
        for (field, value) in [
            ("size", json!(-1)),
            ("size", json!(1.5)),
            ("size", json!("3")),
            ("size", json!(u64::MAX)),
            ("size", Value::Null),
            ("digest", json!("md5:d41d8cd98f00b204e9800998ecf8427e")),
            ("digest", json!("../../x")),
            ("mediaType", Value::Null),
        ] {
            let mut body = image(OCI_MANIFEST);
            body["layers"][0][field] = value;
            refusal(&body, Some(OCI_MANIFEST));
        }
    }

    #[test]
    fn bounded() {
        let mut large = image(OCI_MANIFEST);
        large["annotations"] = json!({"x": "a".repeat(MAX_MANIFEST)});
        let error = parse(&large, Some(OCI_MANIFEST)).unwrap_err();
        assert_eq!(error.status(), 413);

        let mut fits = image(OCI_MANIFEST);
        fits["annotations"] = json!({"x": "a".repeat(MAX_MANIFEST - 2000)});
        assert!(parse(&fits, Some(OCI_MANIFEST)).is_ok());

        let deep = format!("{{\"x\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(Manifest::parse(deep.as_bytes(), None).is_err());
    }
}
