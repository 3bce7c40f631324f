//! One dispatch for many sequences (`shaders/shared/jobs.wgsl`): which of them can share one.

/// Splits `items` into groups whose members are alike, and so are served by one variant with one set of bindings. The
/// order within a group stays.
pub(super) fn groups<T>(items: &[T], alike: impl Fn(&T, &T) -> bool) -> Vec<Vec<&T>> {
    let mut groups: Vec<Vec<&T>> = Vec::new();
    for item in items {
        match groups.iter_mut().find(|group| alike(group[0], item)) {
            Some(group) => group.push(item),
            None => groups.push(vec![item]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    #[test]
    fn groups_keep_the_order() {
        let groups = super::groups(&[3, 8, 5, 1, 6], |a, b| a % 2 == b % 2);
        assert_eq!(groups, [vec![&3, &5, &1], vec![&8, &6]]);
    }

    #[test]
    fn the_shaders_count_as_many_jobs() {
        let text = include_str!("../../shaders/shared/jobs.wgsl");
        assert!(text.contains(&format!("const JOBS = {}u;", crate::gpu::MOST_JOBS)));
    }
}
