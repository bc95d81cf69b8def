//! The long-running roles: herd, origin, tracker, agent. Composition, and nothing else.

use std::process::ExitCode;

use registry_shim::Agent;
use seeder::Origin;
use tracker::Tracker;

use crate::cli::Configured;
use crate::config::{self, AgentOptions, HerdOptions, OriginOptions, TrackerOptions, resolve};
use crate::report::Failure;
use crate::signals;

/// Tracker and origin in one process.
pub(crate) async fn herd(args: Configured<HerdOptions>) -> Result<ExitCode, Failure> {
    let (tracker, origin) = resolve::herd(config::merge(args)?)?;
    let stop = signals::stop_token();
    // The tracker first: the origin registers with it as it starts.
    let tracker = start(Tracker::start(tracker).await)?;
    let origin = match Origin::start(origin).await {
        Ok(origin) => origin,
        Err(error) => {
            tracker.shutdown().await;
            return Err(Failure::from_error(&error));
        }
    };
    let at = origin.addrs();
    tracing::info!(
        registry = %at.registry, peer = %at.peer, api = %at.api,
        tracker = %tracker.local_addr(), tags = %at.tags,
        "herd is up: docker push {}/NAME:TAG", at.registry
    );
    let told = tokio::select! {
        () = stop.cancelled() => true,
        () = tracker.finished() => false,
    };
    origin.shutdown().await;
    tracker.shutdown().await;
    if !told {
        return Err(broke_down());
    }
    tracing::info!("herd is down");
    Ok(ExitCode::SUCCESS)
}

/// An origin alone.
pub(crate) async fn origin(args: Configured<OriginOptions>) -> Result<ExitCode, Failure> {
    let config = resolve::origin(config::merge(args)?)?;
    let stop = signals::stop_token();
    let origin = start(Origin::start(config).await)?;
    let at = origin.addrs();
    tracing::info!(
        registry = %at.registry, peer = %at.peer, api = %at.api, tags = %at.tags,
        "origin is up: docker push {}/NAME:TAG", at.registry
    );
    stop.cancelled().await;
    origin.shutdown().await;
    tracing::info!("origin is down");
    Ok(ExitCode::SUCCESS)
}

/// A tracker alone.
pub(crate) async fn tracker(args: Configured<TrackerOptions>) -> Result<ExitCode, Failure> {
    let config = resolve::tracker(config::merge(args)?)?;
    let stop = signals::stop_token();
    if config.anyone_registers && !config.listen.ip().is_loopback() {
        tracing::warn!(
            "any origin that reaches this tracker may register; see --trust and --secret-file"
        );
    }
    let tracker = start(Tracker::start(config).await)?;
    tracing::info!("tracker is up: http://{}/announce", tracker.local_addr());
    let told = tokio::select! {
        () = stop.cancelled() => true,
        () = tracker.finished() => false,
    };
    tracker.shutdown().await;
    if !told {
        return Err(broke_down());
    }
    tracing::info!("tracker is down");
    Ok(ExitCode::SUCCESS)
}

/// The agent of this host.
pub(crate) async fn agent(args: Configured<AgentOptions>) -> Result<ExitCode, Failure> {
    let config = resolve::agent(config::merge(args)?)?;
    let stop = signals::stop_token();
    let agent = start(Agent::start(config).await)?;
    let at = agent.addrs();
    tracing::info!(
        registry = %at.registry, peer = %at.peer, api = %at.api,
        "agent is up: docker pull {}/NAME:TAG", at.registry
    );
    stop.cancelled().await;
    agent.shutdown().await;
    tracing::info!("agent is down");
    Ok(ExitCode::SUCCESS)
}

/// Whoever supervises the process starts it again.
fn broke_down() -> Failure {
    Failure::new("the tracker stopped serving by itself; its log says why")
}

fn start<T, E: std::error::Error>(started: Result<T, E>) -> Result<T, Failure> {
    started.map_err(|error| Failure::from_error(&error))
}
