//! Keeps the free memory of the process's heap small.

/// Bytes that may stay free at the end of a part of the heap. Without a fixed value, the allocator raises it to
/// twice the largest freed block, up to 64 MiB. This happens for each thread with its own part of the heap.
const FREE_END: i32 = 1 << 20;

/// Keeps the allocator from holding more and more free memory. Call it before large values are made.
#[allow(unsafe_code, reason = "this module wraps a call of the C library")]
pub fn bound_free_end() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt takes two numbers, and changes no memory that is in use.
        let _ = unsafe { nix::libc::mallopt(nix::libc::M_TRIM_THRESHOLD, FREE_END) };
    }
}

/// Returns the free pages of the heap to the system. Without this call, the process would keep the pages of large
/// freed values. Each thread has its own part of the heap, which the allocator keeps.
///
/// It takes the lock of each part of the heap in turn, for as long as it goes over the free memory in that part.
#[allow(unsafe_code, reason = "this module wraps a call of the C library")]
pub fn return_free_pages() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim takes a number, and touches no memory that is in use.
        let _ = unsafe { nix::libc::malloc_trim(0) };
    }
}
