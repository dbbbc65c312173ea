//! Format 1: the six trees.

use sled::{Db, Result};

use super::Portion;

/// Creates the trees.
pub fn build(db: &Db, _after: Option<&[u8]>) -> Result<Option<Portion>> {
    for tree in ["data", "membership", "changes", "chunks", "expiry", "meta"] {
        db.open_tree(tree)?;
    }
    Ok(None)
}
