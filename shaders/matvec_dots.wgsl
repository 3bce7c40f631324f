// matvec_dots: x Wᵀ for one row of x or a few, by packed dot products of integers.
// W: one part, [rows, cols] packed · x: an operand of `count` columns · out [count][stride] f32 from column `first` on
// A team of TEAM lanes, part of a subgroup, sums a row: neighbouring lanes read neighbouring units of it, FLIGHT of them
// each before the first is used. The order of an output's sum does not depend on COLUMNS.
// STORE   out = W x. grid: a workgroup per TEAMS rows
// ADD     stream += W x, and the next product's operand: stream * weight
// SWIGLU  the operand silu(gate x) * (up x) of the next product; the first half of the rows are gates
//         grid of both: a workgroup per group of 32 outputs of the operand, which its teams make in turns
// NORM    x has the weights of a norm in it, and the products are divided by the root mean square of what was normed.
// 32768 workgroups to a grid row, by count / COLUMNS in z.
#import weight_dots
#ifdef OPERAND
#import operand
#endif

struct Params { rows: u32, cols: u32, first: u32, stride: u32, count: u32, to_groups: u32, epsilon: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> words: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<u32>>;
#ifdef STORE
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#else
@group(0) @binding(4) var<storage, read_write> to_x: array<u32>;
#endif
#ifdef ADD
@group(0) @binding(5) var<storage, read_write> stream: array<f32>;
@group(0) @binding(6) var<storage, read> weight: array<f32>;
#endif

const LANES = #{LANES}u;
const TEAM = #{TEAM}u;
const TEAMS = LANES / TEAM;
const COLUMNS = #{COLUMNS}u;
#ifdef OPERAND
var<workgroup> outputs: array<f32, 32u * COLUMNS>;
#endif


fn team_sum(value: f32) -> f32 {
    var sum = value;
    for (var span = 1u; span < TEAM; span *= 2u) { sum += subgroupShuffleXor(sum, span); }
    return sum;
}

// One over the root mean square of what a column of the operand was made from, `square` being this lane's share of it. Rows
// of halves need no steps, so that nothing is added up with them.
fn norm(column: u32, member: u32, square: f32) -> f32 {
#ifdef NORM
    var total = square;
#ifdef F16
    for (var g = member; g < GROUPS; g += TEAM) { total += step_of(column, g).z; }
#endif
    return inverseSqrt(team_sum(total) / f32(params.cols) + params.epsilon);
#else
    return 1.0;
#endif
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = group.y * 32768u + group.x;
    let member = lane % TEAM;
    let team = lane / TEAM;
    // Past the last column of x any will do: its products are not stored.
    let top = group.z * COLUMNS;
#repeat c #{COLUMNS}
    let column_#{c} = min(top + #{c}u, params.count - 1u);
#end
#ifdef OPERAND
    for (var turn = team; turn < 32u; turn += TEAMS) {
        let output = place * 32u + turn;
#else
    {
        let output = place * TEAMS + team;
#endif
#ifdef SWIGLU
        let to_rows = params.rows / 2u;
#else
        let to_rows = params.rows;
#endif
        let row = min(output, to_rows - 1u);
        let begin = row * UNITS;
#ifdef SWIGLU
        let up_begin = begin + to_rows * UNITS;
#endif
#repeat c #{COLUMNS}
        var sum_#{c} = 0.0;
        var square_#{c} = 0.0;
#ifdef SWIGLU
        var up_#{c} = 0.0;
#endif
#end
        for (var i = member; i < UNITS; i += TEAM * #{FLIGHT}u) {
#repeat j #{FLIGHT}
#ifdef WHOLE
            let i_#{j} = i + #{j}u * TEAM;
#else
            let i_#{j} = min(i + #{j}u * TEAM, UNITS - 1u);
#endif
            let w_#{j} = unit(begin + i_#{j});
#ifdef SWIGLU
            let u_#{j} = unit(up_begin + i_#{j});
#endif
#end
#repeat j #{FLIGHT}
#ifdef WHOLE
            {
#else
            if i + #{j}u * TEAM < UNITS {
#endif
#repeat c #{COLUMNS}
#ifdef F16
                let step_#{c} = vec4<f32>();
#else
                let step_#{c} = step_of(column_#{c}, i_#{j});
#endif
                sum_#{c} = product(w_#{j}, column_#{c}, i_#{j}, step_#{c}, sum_#{c});
                square_#{c} += step_#{c}.z;
#ifdef SWIGLU
                up_#{c} = product(u_#{j}, column_#{c}, i_#{j}, step_#{c}, up_#{c});
#endif
#end
            }
#end
        }
#repeat c #{COLUMNS}
        let scale_#{c} = norm(column_#{c}, member, square_#{c});
        let result_#{c} = team_sum(sum_#{c}) * scale_#{c};
#ifdef SWIGLU
        let gated_#{c} = result_#{c} / (1.0 + exp(-result_#{c})) * (team_sum(up_#{c}) * scale_#{c});
        if member == 0u { outputs[#{c}u * 32u + turn] = gated_#{c}; }
#endif
#ifdef ADD
        if member == 0u { outputs[#{c}u * 32u + turn] = result_#{c}; }
#endif
#ifdef STORE
        if member == 0u && output < to_rows && top + #{c}u < params.count {
            out[(top + #{c}u) * params.stride + params.first + output] = result_#{c};
        }
#endif
#end
    }
#ifdef OPERAND
    workgroupBarrier();
    // Eight lanes a column hold the group now, a quad each.
    let column = lane / 8u;
    if column >= min(COLUMNS, params.count - top) { return; }
    let eighth = lane % 8u;
    let begin = place * 32u + eighth * 4u;
    let at = column * 32u + eighth * 4u;
    var quad = vec4<f32>(outputs[at], outputs[at + 1u], outputs[at + 2u], outputs[at + 3u]);
    var squares = 0.0;
#repeat i 4
#ifdef SWIGLU
    if begin + #{i}u >= params.rows / 2u { quad[#{i}] = 0.0; }
#endif
#ifdef ADD
    if begin + #{i}u < params.rows {
        let to = (top + column) * params.stride + params.first + begin + #{i}u;
        let whole = stream[to] + quad[#{i}];
        stream[to] = whole;
        squares = fma(whole, whole, squares);
        quad[#{i}] = whole * weight[params.first + begin + #{i}u];
    } else {
        quad[#{i}] = 0.0;
    }
#endif
#end
    store_group(top + column, params.to_groups, params.first / 32u + place, eighth, quad, squares);
#endif
}
