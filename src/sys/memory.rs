//! The memory of the process.

/// Gives the free pages of the heap back to the system. What large values leave behind would stay with the process:
/// each thread has a part of the heap of its own, which the allocator keeps for it.
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
