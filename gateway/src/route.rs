//! Which route a request takes: by specificity over host, path, method and conditions.
