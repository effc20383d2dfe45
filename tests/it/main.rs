//! Black-box tests by subject, and the house rules: one binary, linked once.

mod tidy;
