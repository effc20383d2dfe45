//! Promises under faults and loss of power.

use super::*;
