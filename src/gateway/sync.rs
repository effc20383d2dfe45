//! sync (wip)
mod apply;
#[cfg(test)]
mod fixture;
mod object;
mod review;
