//! Hosts as network namespaces: each has one link to a switch that is a namespace itself.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

static LABS: AtomicU32 = AtomicU32::new(0);

/// Some hosts and a switch. Dropping it takes everything down.
pub(crate) struct Lab {
    prefix: String,
    hosts: Vec<Host>,
    dir: TempDir,
}

/// One host.
#[derive(Clone)]
pub(crate) struct Host {
    ns: String,
    ip: Ipv4Addr,
    dir: PathBuf,
}

/// A process on a host, killed when dropped. Its output goes to a file.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Lab {
    /// `hosts` hosts with addresses 10.77.0.1 and up.
    pub(crate) fn new(hosts: u8) -> Self {
        let prefix = format!(
            "sw{}x{}",
            std::process::id(),
            LABS.fetch_add(1, Ordering::Relaxed)
        );
        let dir = tempfile::Builder::new()
            .prefix("swell-e2e-")
            .tempdir()
            .unwrap();
        let mut lab = Self {
            prefix,
            hosts: Vec::new(),
            dir,
        };
        lab.add_namespace("sw");
        let switch = lab.namespace("sw");
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "br0", "up"]);
        for n in 1..=hosts {
            lab.add_host(n, &switch);
        }
        lab
    }

    /// Host number `n`, from 1.
    pub(crate) fn host(&self, n: usize) -> &Host {
        &self.hosts[n - 1]
    }

    /// A directory of the test.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn namespace(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.prefix)
    }

    fn add_namespace(&self, suffix: &str) {
        let ns = self.namespace(suffix);
        ip(&["netns", "add", &ns]);
        ip(&["-n", &ns, "link", "set", "lo", "up"]);
    }

    fn add_host(&mut self, n: u8, switch: &str) {
        let suffix = format!("h{n}");
        self.add_namespace(&suffix);
        let ns = self.namespace(&suffix);
        let port = format!("p{n}");
        ip(&[
            "-n", switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
            &ns,
        ]);
        ip(&["-n", switch, "link", "set", &port, "master", "br0", "up"]);
        let addr = Ipv4Addr::new(10, 77, 0, n);
        ip(&[
            "-n",
            &ns,
            "addr",
            "add",
            &format!("{addr}/24"),
            "dev",
            "eth0",
        ]);
        ip(&["-n", &ns, "link", "set", "eth0", "up"]);
        let dir = self.dir.path().join(&suffix);
        std::fs::create_dir(&dir).unwrap();
        self.hosts.push(Host { ns, ip: addr, dir });
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        for suffix in (1..=self.hosts.len())
            .map(|n| format!("h{n}"))
            .chain(["sw".into()])
        {
            let _ = Command::new("ip")
                .args(["netns", "del", &self.namespace(&suffix)])
                .status();
        }
    }
}

impl Lab {
    /// The tail of every log, for the reader of a failure.
    #[allow(
        clippy::print_stderr,
        reason = "the reader of a failed test wants them"
    )]
    fn show_logs(&self) {
        for host in &self.hosts {
            for entry in std::fs::read_dir(&host.dir).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|ext| ext == "log") {
                    let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().collect();
                    let tail = &lines[lines.len().saturating_sub(40)..];
                    eprintln!("--- {}\n{}", entry.path().display(), tail.join("\n"));
                }
            }
        }
    }
}

impl Host {
    /// Its address.
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Its directory: data, logs, whatever the test puts there.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command that runs on this host.
    pub(crate) fn command(&self, program: &str) -> Command {
        // Not `ip netns exec`: it hides the control groups that a Docker engine needs.
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.ns))
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn output(&self, program: &str, args: &[&str]) -> Output {
        self.command(program)
            .args(args)
            .output()
            .unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
    }

    /// Runs a command that must succeed; its standard output.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.output(program, args);
        assert!(
            output.status.success(),
            "{program} {args:?} on {}: {}\n{}{}",
            self.ip,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a command that goes on.
    pub(crate) fn spawn(&self, name: &str, program: &str, args: &[&str]) -> Process {
        let log = self.dir.join(format!("{name}.log"));
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = self
            .command(program)
            .args(args)
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        Process {
            name: name.to_owned(),
            child,
            log,
        }
    }

    /// The status and body of a GET from this host; `None` when nobody answers.
    pub(crate) fn get(&self, url: &str) -> Option<(u16, Vec<u8>)> {
        self.curl(&[url])
    }

    /// The status and body of a request spelled for curl.
    pub(crate) fn curl(&self, args: &[&str]) -> Option<(u16, Vec<u8>)> {
        let mut all = vec!["-sS", "--max-time", "120", "-w", "\n%{http_code}"];
        all.extend(args);
        let output = self.output("curl", &all);
        if !output.status.success() {
            return None;
        }
        let split = output.stdout.iter().rposition(|&byte| byte == b'\n')?;
        let status = std::str::from_utf8(&output.stdout[split + 1..])
            .ok()?
            .parse()
            .ok()?;
        Some((status, output.stdout[..split].to_vec()))
    }

    /// A JSON document that must be there.
    pub(crate) fn json(&self, url: &str) -> serde_json::Value {
        let (status, body) = self
            .get(url)
            .unwrap_or_else(|| panic!("no answer from {url}"));
        assert_eq!(status, 200, "{url}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// Refuses outgoing connections to that port.
    pub(crate) fn block_port(&self, port: u16) {
        let port = port.to_string();
        self.run(
            "iptables",
            &[
                "-A",
                "OUTPUT",
                "-p",
                "tcp",
                "--dport",
                &port,
                "-j",
                "REJECT",
                "--reject-with",
                "tcp-reset",
            ],
        );
    }
}

impl Process {
    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// `kill -9`, and it is gone when this returns.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and waits for a clean end.
    pub(crate) fn stop(mut self) {
        self.signal("-TERM");
        let status = self.wait(Duration::from_secs(30));
        assert!(
            status.is_some_and(|status| status.success()),
            "{} ended badly: {status:?}\n{}",
            self.name,
            self.log()
        );
    }

    /// Sends a signal by name, as kill(1) takes it.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, bound: Duration) -> Option<std::process::ExitStatus> {
        let deadline = Instant::now() + bound;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Waits for a successful end.
    pub(crate) fn finished(&mut self, bound: Duration) {
        let status = self.wait(bound);
        assert!(
            status.is_some_and(|s| s.success()),
            "{} ended as {status:?}\n{}",
            self.name,
            self.log()
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            self.signal("-TERM");
            if self.wait(Duration::from_secs(5)).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

fn ip(args: &[&str]) {
    let output = Command::new("ip")
        .args(args)
        .output()
        .expect("ip(8) from iproute2 runs");
    assert!(
        output.status.success(),
        "ip {args:?} (the end-to-end tests need root): {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
