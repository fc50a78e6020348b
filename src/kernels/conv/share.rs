//! Shares of work that several threads do together.

use std::ops::Range;

/// One of the threads that run a step together.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    pub index: usize,
    pub threads: usize,
}

impl Share {
    /// The only thread.
    pub const WHOLE: Self = Self { index: 0, threads: 1 };

    /// Its share of `count` pieces of work.
    pub fn of(self, count: usize) -> Range<usize> {
        count * self.index / self.threads..count * (self.index + 1) / self.threads
    }
}

/// A buffer that threads write different parts of.
#[derive(Debug)]
pub struct Shared<T = f32> {
    start: *mut T,
    len: usize,
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// Safety: it is no more than an address; who uses it promises the rest.
unsafe impl<T> Send for Shared<T> {}
unsafe impl<T> Sync for Shared<T> {}

impl Shared {
    /// The same buffer by bytes.
    pub fn bytes(self) -> Shared<u8> {
        Shared { start: self.start.cast(), len: 4 * self.len }
    }
}

impl<T> Shared<T> {
    pub fn new(buffer: &mut [T]) -> Self {
        Self { start: buffer.as_mut_ptr(), len: buffer.len() }
    }

    /// The buffer without its first elements. Panics where it has not as many.
    pub fn skip(self, count: usize) -> Self {
        Self { start: self.start.wrapping_add(count), len: self.len - count }
    }

    pub fn len(self) -> usize {
        self.len
    }

    /// The address of an element.
    pub fn at(self, place: usize) -> *mut T {
        debug_assert!(place < self.len);
        self.start.wrapping_add(place)
    }

    /// The whole buffer.
    ///
    /// # Safety
    /// It outlives the result, and nobody writes to it meanwhile.
    pub unsafe fn read<'a>(self) -> &'a [T] {
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// A part of the buffer. Panics outside of it.
    ///
    /// # Safety
    /// It outlives the result, and nobody else reads or writes that part meanwhile.
    pub unsafe fn write<'a>(self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start + len <= self.len);
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
