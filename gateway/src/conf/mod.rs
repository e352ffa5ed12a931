//! The TOML exactly as written: positions, tree, merge with provenance, tree to types.
