//! A Docker engine of the test's own, on one of its hosts.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use super::lab::{Host, Process};
use super::within;

/// A private engine. It knows only the test's hosts and touches no firewall rule.
pub(crate) struct Docker {
    socket: PathBuf,
    _daemon: Process,
}

impl Docker {
    /// Starts it on that host.
    pub(crate) fn start(host: &Host) -> Self {
        let dir = host.dir().join("docker");
        std::fs::create_dir_all(&dir).unwrap();
        let path = |name: &str| dir.join(name).display().to_string();
        let socket = dir.join("sock");
        let listen = format!("unix://{}", socket.display());
        let daemon = host.spawn(
            "dockerd",
            "dockerd",
            &[
                "--data-root",
                &path("data"),
                "--exec-root",
                &path("exec"),
                "--pidfile",
                &path("pid"),
                "--host",
                &listen,
                "--bridge",
                "none",
                "--iptables=false",
                "--ip6tables=false",
                "--insecure-registry",
                "10.77.0.0/24",
            ],
        );
        let docker = Self {
            socket,
            _daemon: daemon,
        };
        within(Duration::from_secs(90), "the Docker engine starts", || {
            docker.output(&["info"]).status.success().then_some(())
        });
        docker
    }

    /// `DOCKER_HOST` for programs that drive it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Runs a docker command to its end.
    pub(crate) fn output(&self, args: &[&str]) -> Output {
        Command::new("docker")
            .env("DOCKER_HOST", self.host())
            .args(args)
            .output()
            .expect("docker runs")
    }

    /// Runs a docker command that must succeed; its standard output.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(
            output.status.success(),
            "docker {args:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Runs a docker command that must fail; what it said.
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(!output.status.success(), "docker {args:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The digest that an image of that name was pushed or pulled by.
    pub(crate) fn digest(&self, image: &str) -> String {
        let named = self.run(&[
            "image",
            "inspect",
            "--format",
            "{{index .RepoDigests 0}}",
            image,
        ]);
        named
            .split_once('@')
            .expect("a repository digest")
            .1
            .to_owned()
    }
}
