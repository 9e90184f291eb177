//! Where answers are kept: a sharded memory with a budget of bytes.
