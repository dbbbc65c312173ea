//! Format 1: the six trees.

/// Creates the trees.
pub fn run(db: &sled::Db) -> sled::Result<()> {
    for tree in ["data", "membership", "changes", "chunks", "expiry", "meta"] {
        db.open_tree(tree)?;
    }
    Ok(())
}
