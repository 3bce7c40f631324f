// eight: eight quads of an operand that every lane needs, `stride` apart from `first` on.
// The importing shader defines `fn input(i: u32) -> vec4<f32>`, which checks i against the end.
// A software adapter pays for each lane of a load, even where all lanes load the same. With SUBGROUPS a lane loads
// one quad and hands it to the others: that needs subgroups of eight lanes or more, all of them active.

fn eight(first: u32, stride: u32, lane: u32) -> array<vec4<f32>, 8> {
#ifdef SUBGROUPS
    let own = input(first + (lane % 8u) * stride);
    return array<vec4<f32>, 8>(
        subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u), subgroupBroadcast(own, 3u),
        subgroupBroadcast(own, 4u), subgroupBroadcast(own, 5u), subgroupBroadcast(own, 6u), subgroupBroadcast(own, 7u),
    );
#else
    return array<vec4<f32>, 8>(
        input(first), input(first + stride), input(first + 2u * stride), input(first + 3u * stride),
        input(first + 4u * stride), input(first + 5u * stride), input(first + 6u * stride), input(first + 7u * stride),
    );
#endif
}
