//! Hand-overs between real processes, under a load that verifies every byte.
//!
//! The load ([`load`]) has clients of each kind that a hand-over treats in a way of its own ([`clients`]). A test starts
//! processes of the program one after the other ([`stage`]), and at the end no client may have failed.
//!
//! For faults, a test plays one of the two programs ([`peers`]), or sits between both and cuts, loses or delays their
//! messages ([`frames`]).

mod backends;
mod bytes;
mod clients;
mod faults;
mod frames;
mod intervals;
mod kept;
mod load;
mod peers;
mod played;
mod rows;
mod stage;
mod tally;
mod wrong_incumbents;
