//! Parse, build, swap; or keep the old generation and say why.
