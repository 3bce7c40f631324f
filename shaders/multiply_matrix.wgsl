// multiply_matrix: products of matrices in the registers of a subgroup; the yardstick for a kernel on matrix units.
// left [32, 16], right [16, 64] f32, which are rounded to halves · out [count, 32, 64] f32: rounds * (left x right)
// grid: lines of 4 subgroups, 32768 lines to a grid row; a subgroup per output matrix, 2 by 4 sums of 16 by 16 each.
enable f16;
enable wgpu_cooperative_matrix;

struct Params { count: u32, rounds: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> left: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> right: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

var<workgroup> tile_left: array<vec4<f16>, 32 * 4>;
var<workgroup> tile_right: array<vec4<f16>, 16 * 16>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) team: u32,
) {
    tile_left[lane] = vec4<f16>(left[lane]);
    tile_right[lane] = vec4<f16>(right[lane]);
    tile_right[lane + 128u] = vec4<f16>(right[lane + 128u]);
    workgroupBarrier();
#repeat i 2
    let left_#{i} = coopLoadT<coop_mat16x16<f16, A>>(&tile_left[64 * #{i}], 4);
#end
#repeat j 4
    let right_#{j} = coopLoadT<coop_mat16x16<f16, B>>(&tile_right[4 * #{j}], 16);
#end
#repeat i 2
#repeat j 4
    var sum_#{i}#{j} = coop_mat16x16<f32, C>();
#end
#end
    for (var round = 0u; round < params.rounds; round++) {
#repeat i 2
#repeat j 4
        sum_#{i}#{j} = coopMultiplyAdd(left_#{i}, right_#{j}, sum_#{i}#{j});
#end
#end
    }
    let matrix = 4u * (group.y * 32768u + group.x) + team;
    if matrix >= params.count { return; }
#repeat i 2
#repeat j 4
    let place_#{i}#{j} = 2048u * matrix + 1024u * #{i}u + 16u * #{j}u;
    coopStoreT(sum_#{i}#{j}, &out[place_#{i}#{j}], 64);
#end
#end
}
