//! Several threads on the same steps.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One of the threads that run a step together.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    pub index: usize,
    pub threads: usize,
}

impl Part {
    /// Its share of `count` pieces of work.
    pub fn of(self, count: usize) -> Range<usize> {
        count * self.index / self.threads..count * (self.index + 1) / self.threads
    }
}

/// A buffer that threads write different parts of.
#[derive(Debug, Clone, Copy)]
pub struct Shared {
    start: *mut f32,
    len: usize,
}

// Safety: it is no more than an address; who uses it promises the rest.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

impl Shared {
    pub fn new(buffer: &mut [f32]) -> Self {
        Self { start: buffer.as_mut_ptr(), len: buffer.len() }
    }

    pub fn len(self) -> usize {
        self.len
    }

    /// The address of an element.
    pub fn at(self, place: usize) -> *mut f32 {
        debug_assert!(place < self.len);
        self.start.wrapping_add(place)
    }

    /// The whole buffer.
    ///
    /// # Safety
    /// It outlives the result, and nobody writes to it meanwhile.
    pub unsafe fn read<'a>(self) -> &'a [f32] {
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// A part of the buffer. Panics outside of it.
    ///
    /// # Safety
    /// It outlives the result, and nobody else reads or writes that part meanwhile.
    pub unsafe fn write<'a>(self, start: usize, len: usize) -> &'a mut [f32] {
        assert!(start + len <= self.len);
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

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
