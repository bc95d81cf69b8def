//! Single flight: one job per key, however many ask; waiters share the result, and a waiter
//! that leaves does not stop the job.

use std::future::Future;
use std::hash::Hash;

/// Jobs under way.
#[derive(Debug)]
pub struct Flights<K, V> {
    _private: std::marker::PhantomData<(K, V)>,
}

impl<K: Eq + Hash + Clone + Send + Sync + 'static, V: Clone + Send + Sync + 'static> Flights<K, V> {
    /// None.
    pub fn new() -> Self {
        todo!()
    }
    /// Joins the job of `key`, starting it as a task of its own if none runs. `None` when the
    /// job panicked or was shut down.
    pub async fn join<F: Future<Output = V> + Send + 'static>(
        &self,
        key: K,
        job: impl FnOnce() -> F,
    ) -> Option<V> {
        let _ = (key, job);
        todo!()
    }
    /// Ends every job and waits for it.
    pub async fn shutdown(&self) {
        todo!()
    }
}
