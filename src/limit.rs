//! May it come in? Counts and bounds, handed back by guards.
