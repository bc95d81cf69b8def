//! Token buckets for bandwidth, changeable while running; unlimited costs one atomic load.

/// A rate shared by many tasks.
#[derive(Debug)]
pub struct Limit {
    _private: (),
}

impl Limit {
    /// Bytes a second; `None` is unlimited.
    pub fn new(rate: Option<u64>) -> Self {
        let _ = rate;
        todo!()
    }
    /// Changes the rate, also for those who wait.
    pub fn set(&self, rate: Option<u64>) {
        let _ = rate;
        todo!()
    }
    /// Waits until `bytes` may pass.
    pub async fn take(&self, bytes: u64) {
        let _ = bytes;
        todo!()
    }
}
