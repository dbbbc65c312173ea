//! DynaRust: a key-value store in which every node holds everything, and every acknowledged write is on the disk.

pub mod limits;
pub mod replica;
