// eight: eight quads of an operand that every lane needs: `span` neighbours at `first`, as many `stride` further, ...
// The importing shader defines `fn input(i: u32) -> vec4<f32>`, which checks i against the end.
// A software adapter pays for each lane of a load, even where all lanes load the same. With SUBGROUPS a lane loads
// one quad and hands it to the others: that needs subgroups of eight lanes or more, all of them active.

// What a lane is told of its place in the workgroup.
struct Lane {
    @builtin(local_invocation_index) index: u32,
#ifdef SUBGROUPS
    @builtin(subgroup_invocation_id) in_subgroup: u32,
#endif
}

// The number by which it loads.
fn loader(who: Lane) -> u32 {
#ifdef SUBGROUPS
    return who.in_subgroup;
#else
    return who.index;
#endif
}

fn eight(first: u32, span: u32, stride: u32, lane: u32) -> array<vec4<f32>, 8> {
#ifdef SUBGROUPS
    let own = input(first + lane % 8u / span * stride + lane % span);
    return array<vec4<f32>, 8>(
        subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u), subgroupBroadcast(own, 3u),
        subgroupBroadcast(own, 4u), subgroupBroadcast(own, 5u), subgroupBroadcast(own, 6u), subgroupBroadcast(own, 7u),
    );
#else
    return array<vec4<f32>, 8>(
        input(first),
        input(first + 1u / span * stride + 1u % span),
        input(first + 2u / span * stride + 2u % span),
        input(first + 3u / span * stride + 3u % span),
        input(first + 4u / span * stride + 4u % span),
        input(first + 5u / span * stride + 5u % span),
        input(first + 6u / span * stride + 6u % span),
        input(first + 7u / span * stride + 7u % span),
    );
#endif
}
