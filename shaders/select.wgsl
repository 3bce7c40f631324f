// select: the indices of the `keep` largest scores of each set, ascending, then `tail` indices from `columns` on.
// scores [sets, columns] f32, read as bits · out [sets, keep + tail] u32
// grid (sets); a workgroup of 256 lanes per set. Equal scores go to the lowest index.
// Scores are not negative, so their bits order like the numbers; NaN and negative ones count as 0.
#import radix

struct Params { columns: u32, keep: u32, tail: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scores: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

const INFINITY_BITS = 0x7f800000u;

// Where this workgroup's set begins in `scores`.
var<private> set_first: u32;

fn item(i: u32) -> vec2<u32> {
    let bits = scores[set_first + i];
    return vec2(select(0u, bits, bits <= INFINITY_BITS), 1u);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    set_first = group.x * params.columns;
    let cut = radix_cut(lane, params.columns, params.keep);

    // Each lane compacts a run of neighbouring columns, so one scan over the lanes places them all in order.
    let run = (params.columns + 255u) / 256u;
    let begin = lane * run;
    let end = min(begin + run, params.columns);
    var above = 0u;
    var equal = 0u;
    for (var i = begin; i < end; i++) {
        let key = item(i).x;
        above += u32(key > cut.x);
        equal += u32(key == cut.x);
    }
    let above_before = scan_across(lane, above).x;
    var ties = scan_across(lane, equal).x;

    let first = group.x * (params.keep + params.tail);
    var at = first + above_before + min(ties, cut.y);
    for (var i = begin; i < end; i++) {
        let key = item(i).x;
        let tie = key == cut.x;
        if key > cut.x || (tie && ties < cut.y) {
            out[at] = i;
            at++;
        }
        ties += u32(tie);
    }
    for (var i = lane; i < params.tail; i += 256u) {
        out[first + params.keep + i] = params.columns + i;
    }
}
