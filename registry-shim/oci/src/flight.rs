//! Single flight: one job per key, however many ask; waiters share the result, and a waiter
//! that leaves does not stop the job.
//!
//! Invariant: a key is in the table exactly while its job's task lives. The task itself takes
//! it out, before the waiters hear the result, so that whoever asks later starts anew: a
//! failure is shared by those who waited for it and by nobody else. The table owns the tasks:
//! dropping it, or [`Flights::shutdown`], aborts them.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::JoinSet;

/// Jobs under way.
pub struct Flights<K, V> {
    table: Arc<Mutex<Table<K, V>>>,
}

struct Table<K, V> {
    flying: HashMap<K, watch::Receiver<Option<V>>>,
    tasks: JoinSet<()>,
    closed: bool,
}

impl<K: Eq + Hash + Clone + Send + Sync + 'static, V: Clone + Send + Sync + 'static> Flights<K, V> {
    /// None.
    pub fn new() -> Self {
        Self {
            table: Arc::new(Mutex::new(Table {
                flying: HashMap::new(),
                tasks: JoinSet::new(),
                closed: false,
            })),
        }
    }

    /// Joins the job of `key`, starting it as a task of its own if none runs. `None` when the
    /// job panicked or was shut down. `job` is called under the table's lock: it makes the
    /// future and does nothing else.
    pub async fn join<F: Future<Output = V> + Send + 'static>(
        &self,
        key: K,
        job: impl FnOnce() -> F,
    ) -> Option<V> {
        let mut landing = self.board(key, job)?;
        let result = landing.wait_for(Option::is_some).await.ok()?;
        result.clone()
    }

    /// Whether a job of that key is under way.
    pub fn is_flying(&self, key: &K) -> bool {
        lock(&self.table).flying.contains_key(key)
    }

    /// How many jobs are under way.
    pub fn len(&self) -> usize {
        lock(&self.table).flying.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends every job and waits for it. Afterwards [`Flights::join`] gives `None` at once.
    pub async fn shutdown(&self) {
        let mut tasks = {
            let mut table = lock(&self.table);
            table.closed = true;
            std::mem::take(&mut table.tasks)
        };
        tasks.shutdown().await;
    }

    fn board<F: Future<Output = V> + Send + 'static>(
        &self,
        key: K,
        job: impl FnOnce() -> F,
    ) -> Option<watch::Receiver<Option<V>>> {
        let mut table = lock(&self.table);
        if table.closed {
            return None;
        }
        if let Some(landing) = table.flying.get(&key) {
            return Some(landing.clone());
        }
        // Ended tasks are collected here, so that they do not pile up; a panic among them has
        // been reported by the panic hook, and to the waiters as `None`.
        while table.tasks.try_join_next().is_some() {}

        let (land, landing) = watch::channel(None);
        let entry = Entry {
            table: Arc::downgrade(&self.table),
            key: key.clone(),
        };
        let job = job();
        table.tasks.spawn(async move {
            // Dropped in reverse: the entry leaves the table before the waiters wake, also
            // when the job panics or is aborted.
            let land = land;
            let entry = entry;
            let result = job.await;
            drop(entry);
            land.send_replace(Some(result));
        });
        table.flying.insert(key, landing.clone());
        Some(landing)
    }
}

impl<K: Eq + Hash + Clone + Send + Sync + 'static, V: Clone + Send + Sync + 'static> Default
    for Flights<K, V>
{
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flying = lock(&self.table).flying.len();
        f.debug_struct("Flights").field("flying", &flying).finish()
    }
}

/// A job's place in the table. Holds the table weakly: a job must not keep alive the owner
/// whose drop would end it.
struct Entry<K: Eq + Hash, V> {
    table: Weak<Mutex<Table<K, V>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Entry<K, V> {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            lock(&table).flying.remove(&self.key);
        }
    }
}

/// A panic under the lock (in a caller's `job`, or in a key's `Hash`) leaves the table as it
/// was, so a poisoned lock is as good as another.
fn lock<K, V>(table: &Mutex<Table<K, V>>) -> MutexGuard<'_, Table<K, V>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::{join_all, pending};
    use tokio::sync::{Semaphore, oneshot};

    use super::*;

    #[tokio::test]
    async fn many_ask_one_runs() {
        let flights = Flights::<&str, usize>::new();
        let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let ask = || {
            let (runs, gate) = (runs.clone(), gate.clone());
            flights.join("key", move || async move {
                let run = runs.fetch_add(1, Ordering::Relaxed);
                let _permit = gate.acquire().await.unwrap();
                run
            })
        };
        let answers = join_all((0..50).map(|_| ask()));
        let open = async {
            while runs.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            assert!(flights.is_flying(&"key"));
            gate.add_permits(1);
        };
        let (answers, ()) = tokio::join!(answers, open);
        assert_eq!(answers, [Some(0); 50]);
        assert!(flights.is_empty());
        // The next one starts anew.
        assert_eq!(ask().await, Some(1));
    }

    #[tokio::test]
    async fn keys_do_not_wait_for_each_other() {
        let flights = Arc::new(Flights::<u8, u8>::new());
        let stuck = {
            let flights = flights.clone();
            tokio::spawn(async move { flights.join(1, pending).await })
        };
        while flights.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(flights.join(2, || async { 2 }).await, Some(2));
        flights.shutdown().await;
        assert_eq!(stuck.await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_waiter_that_leaves_does_not_stop_the_job() {
        let flights = Flights::<u8, u8>::new();
        let (go, gone) = oneshot::channel::<()>();
        let (done, finished) = oneshot::channel();
        {
            let mut waiter = Box::pin(flights.join(1, || async move {
                gone.await.unwrap();
                done.send(()).unwrap();
                7
            }));
            assert!(futures_util::poll!(&mut waiter).is_pending());
        }
        go.send(()).unwrap();
        finished.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_none_and_leaves_nothing_behind() {
        let flights = Flights::<u8, u8>::new();
        let answer = flights.join(1, || async { panic!("expected by this test") });
        assert_eq!(answer.await, None);
        assert!(flights.is_empty());
        assert_eq!(flights.join(1, || async { 1 }).await, Some(1));
    }

    #[tokio::test]
    async fn shutdown_ends_jobs_before_it_returns() {
        struct Alive(Arc<AtomicUsize>);
        impl Drop for Alive {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let flights = Flights::<usize, ()>::new();
        let alive = Arc::new(AtomicUsize::new(8));
        let mut waiters = Vec::new();
        for key in 0..8 {
            let job = Alive(alive.clone());
            waiters.push(Box::pin(flights.join(key, || async move {
                let _job = job;
                pending().await
            })));
        }
        for waiter in &mut waiters {
            assert!(futures_util::poll!(waiter).is_pending());
        }
        assert_eq!(flights.len(), 8);
        flights.shutdown().await;
        assert_eq!(alive.load(Ordering::Relaxed), 0);
        assert_eq!(join_all(waiters).await, [None; 8]);
        assert_eq!(flights.join(9, || async {}).await, None);
    }

    #[tokio::test]
    async fn dropping_the_table_ends_its_jobs() {
        let flights = Flights::<u8, ()>::new();
        let (held, dropped) = oneshot::channel::<()>();
        {
            let mut waiter = Box::pin(flights.join(1, || async move {
                let _held = held;
                pending().await
            }));
            assert!(futures_util::poll!(&mut waiter).is_pending());
        }
        drop(flights);
        assert!(dropped.await.is_err());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn never_two_at_once() {
        let flights = Arc::new(Flights::<usize, usize>::new());
        let running = Arc::new([const { AtomicUsize::new(0) }; 3]);
        let asks = (0..400).map(|i| {
            let (flights, running) = (flights.clone(), running.clone());
            tokio::spawn(async move {
                let key = i % 3;
                let answer = flights.join(key, move || async move {
                    assert_eq!(running[key].fetch_add(1, Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    running[key].fetch_sub(1, Ordering::SeqCst);
                    key
                });
                assert_eq!(answer.await, Some(key));
            })
        });
        for ask in asks.collect::<Vec<_>>() {
            ask.await.unwrap();
        }
        assert!(flights.is_empty());
    }
}
