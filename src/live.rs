//! Who is here: the connections of a worker, their live counts and a command slot for each.
