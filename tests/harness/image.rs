//! Images made on the spot: a Docker archive, and an OCI layout with several platforms.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::{noise, sha256};

/// Writes a Docker archive by the same function that the demo uses.
pub(crate) fn docker_archive(archive: &Path, name: &str, layers: &[&str]) {
    let lib = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib.sh");
    let status = Command::new("bash")
        .args(["-euo", "pipefail", "-c", r#". "$0"; make_image "$@""#, lib])
        .arg(archive)
        .arg(name)
        .args(layers)
        .status()
        .expect("bash runs");
    assert!(status.success());
}

/// Writes an OCI layout whose tag `v1` is an index of one image for each platform. Returns the
/// index's digest.
pub(crate) fn oci_index(dir: &Path, platforms: &[&str], layer_len: usize) -> String {
    std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let put = |bytes: &[u8]| {
        let digest = sha256(bytes);
        std::fs::write(dir.join("blobs").join(digest.replace(':', "/")), bytes).unwrap();
        digest
    };
    let mut manifests = Vec::new();
    for (seed, platform) in (1..).zip(platforms) {
        let layer = tar_of(&noise(seed, layer_len));
        let layer_digest = put(&layer);
        let config = json!({
            "architecture": platform, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        })
        .to_string();
        let config_digest = put(config.as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer.len()}],
        })
        .to_string();
        manifests.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": put(manifest.as_bytes()), "size": manifest.len(),
            "platform": {"architecture": platform, "os": "linux"},
        }));
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests,
    })
    .to_string();
    let digest = put(index.as_bytes());
    let layout = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": index.len(),
            "annotations": {"org.opencontainers.image.ref.name": "v1"},
        }],
    });
    std::fs::write(dir.join("index.json"), layout.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    digest
}

/// A tar archive with one file (ustar, by hand: 512-byte header, padded content, two blocks).
fn tar_of(content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..8].copy_from_slice(b"data.bin");
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(content);
    tar.resize(tar.len().div_ceil(512) * 512 + 1024, 0);
    tar
}
