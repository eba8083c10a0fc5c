//! Controllers: gather, decide with lifecycle, act
