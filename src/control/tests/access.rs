//! Who may call, and what they are told.
