//! One thread: its runtime, its connections, its pipes and its inbox.
