//! Several threads on the same steps.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Where threads wait for each other. They spin: a step takes some microseconds, less than it takes to wake
/// a thread.
#[derive(Debug)]
pub struct Barrier {
    threads: usize,
    waiting: AtomicUsize,
    passed: AtomicUsize,
}

impl Barrier {
    pub fn new(threads: usize) -> Self {
        Self { threads, waiting: AtomicUsize::new(0), passed: AtomicUsize::new(0) }
    }

    /// Returns when all threads have called it.
    pub fn wait(&self) {
        if self.threads == 1 {
            return;
        }
        let passed = self.passed.load(Ordering::Relaxed);
        if self.waiting.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.waiting.store(0, Ordering::Relaxed);
            self.passed.store(passed + 1, Ordering::Release);
            return;
        }
        let mut spins = 0u32;
        while self.passed.load(Ordering::Acquire) == passed {
            spins += 1;
            // Another process has the core that the last thread needs.
            if spins.is_multiple_of(10_000) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }
}
