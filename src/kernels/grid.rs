//! Grids longer than one axis.

/// Workgroups in a row of a folded grid; the shaders know the number too.
const LINE: usize = 32_768;

/// The grid of `count` workgroups in lines of 32768, since no axis may exceed 65535. A shader finds its place as
/// `group.y * 32768 + group.x` and must ignore places past the end.
pub(super) fn lines(count: usize) -> [u32; 3] {
    [count.min(LINE) as u32, count.div_ceil(LINE) as u32, 1]
}
