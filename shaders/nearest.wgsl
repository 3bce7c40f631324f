// nearest: where each row of a block goes when the rows that are not kept are merged into kept ones.
// k [prefix + rows, G * hd] · first_list [sets][listed] and second_list [sets][more], kept rows · to [sets][rows]
// grid (rows / 64, sets): one lane per row, which walks the kept rows.

struct Params {
    rows: u32,
    prefix: u32,
    key_stride: u32,  // G * hd / 4
    width: u32,       // vec4 of a set's keys in a row
    open: u32,        // the first row that may go or take others in
    end: u32,         // and the first one after those
    listed: u32,
    more: u32,
    least: f32,
}

const NOWHERE: u32 = 0xFFFFFFFFu;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> first_list: array<u32>;
@group(0) @binding(3) var<storage, read> second_list: array<u32>;
@group(0) @binding(4) var<storage, read_write> to: array<u32>;

fn kept(head_set: u32, i: u32) -> u32 {
    if i < params.listed { return first_list[head_set * params.listed + i]; }
    return second_list[head_set * params.more + i - params.listed];
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x;
    let head_set = id.y;
    if row >= params.rows { return; }
    let own = (params.prefix + row) * params.key_stride + head_set * params.width;
    var found = row;
    if row >= params.open && row < params.end {
        found = NOWHERE;
        var best = params.least;
        for (var i = 0u; i < params.listed + params.more; i++) {
            let other = kept(head_set, i);
            if other == row {
                found = row;
                break;
            }
            if other >= params.open && other < params.end {
                let at = (params.prefix + other) * params.key_stride + head_set * params.width;
                var along = vec4(0.0);
                var squares = vec4(0.0);
                var other_squares = vec4(0.0);
                for (var d = 0u; d < params.width; d++) {
                    let a = k[own + d];
                    let b = k[at + d];
                    along += a * b;
                    squares += a * a;
                    other_squares += b * b;
                }
                let lengths = sqrt(dot(squares, vec4(1.0)) * dot(other_squares, vec4(1.0)));
                let cosine = dot(along, vec4(1.0)) / max(lengths, 1e-30);
                if cosine > best {
                    best = cosine;
                    found = other;
                }
            }
        }
    }
    to[head_set * params.rows + row] = found;
}
