// select: the indices of the `keep` largest scores of each set after the `skip` largest, ascending, then `tail`
// indices from `columns` on.
// scores [sets, columns] f32, read as bits · out [sets, keep + tail] u32
// grid (sets); a workgroup of 256 lanes per set. Equal scores go to the lowest index.
// Scores are not negative, so their bits order like the numbers; NaN and negative ones count as 0.
#import radix

struct Params { columns: u32, skip: u32, keep: u32, tail: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scores: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

const INFINITY_BITS = 0x7f800000u;

// Where this workgroup's set begins in `scores`.
var<private> set_first: u32;

fn key_of(i: u32) -> u32 {
    let bits = scores[set_first + i];
    return select(0u, bits, bits <= INFINITY_BITS);
}

fn weight_of(key: u32) -> u32 {
    return 1u;
}

struct Count { above: u32, equal: u32 }

// Of the columns begin..end, those above a cut and those at it.
fn count(cut: u32, begin: u32, end: u32) -> Count {
    var found = Count(0u, 0u);
    for (var i = begin; i < end; i++) {
        let key = key_of(i);
        found.above += u32(key > cut);
        found.equal += u32(key == cut);
    }
    return found;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    set_first = group.x * params.columns;
    var skipped = vec2(0xffffffffu, 0u);
    if params.skip > 0u { skipped = radix_cut(lane, params.columns, params.skip); }
    let cut = radix_cut(lane, params.columns, params.skip + params.keep);

    // Each lane compacts a run of neighbouring columns, so one scan over the lanes places them all in order.
    let run = (params.columns + 255u) / 256u;
    let begin = lane * run;
    let end = min(begin + run, params.columns);
    let taken = count(cut.x, begin, end);
    let passed = count(skipped.x, begin, end);
    let above_before = scan_across(lane, taken.above).x;
    var ties = scan_across(lane, taken.equal).x;
    let passed_before = scan_across(lane, passed.above).x;
    var passed_ties = scan_across(lane, passed.equal).x;

    let first = group.x * (params.keep + params.tail);
    var at = first + above_before + min(ties, cut.y) - passed_before - min(passed_ties, skipped.y);
    for (var i = begin; i < end; i++) {
        let key = key_of(i);
        let within = key > cut.x || (key == cut.x && ties < cut.y);
        let before = key > skipped.x || (key == skipped.x && passed_ties < skipped.y);
        if within && !before {
            out[at] = i;
            at++;
        }
        ties += u32(key == cut.x);
        passed_ties += u32(key == skipped.x);
    }
    for (var i = lane; i < params.tail; i += 256u) {
        out[first + params.keep + i] = params.columns + i;
    }
}
