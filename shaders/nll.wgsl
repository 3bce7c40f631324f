// nll: the negative log-likelihood of one target per row of logits, ln(sum exp(logits)) - logits[target].
// logits [count, vocab] f32 · targets [count] u32 · out[at + row] f32, in nats
// grid (count); a workgroup of 256 lanes per row. A target past the end counts as the last id.
#import across

struct Params { vocab: u32, at: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

// Logits that a lane fetches before it uses the first of them.
const MANY = 8u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = group.x * params.vocab;
    var largest = logits[first];
    let last = first + params.vocab - 1u;
    for (var i = lane; i < params.vocab; i += MANY * 256u) {
        var some = array<f32, MANY>();
        for (var k = 0u; k < MANY; k++) { some[k] = logits[min(first + i + k * 256u, last)]; }
        for (var k = 0u; k < MANY; k++) { largest = max(largest, some[k]); }
    }
    largest = max_across(lane, largest);
    var sum = 0.0;
    for (var i = lane; i < params.vocab; i += MANY * 256u) {
        var some = array<f32, MANY>();
        for (var k = 0u; k < MANY; k++) { some[k] = logits[min(first + i + k * 256u, last)]; }
        for (var k = 0u; k < MANY; k++) {
            if i + k * 256u < params.vocab { sum += exp(some[k] - largest); }
        }
    }
    sum = sum_across(lane, sum);
    if lane == 0u {
        let target_id = min(targets[group.x], params.vocab - 1u);
        out[params.at + group.x] = log(sum) + largest - logits[first + target_id];
    }
}
