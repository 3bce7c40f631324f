// sample: draws the next token of each sequence from a row of logits and writes its id into the token buffer.
// logits [rows, vocab] f32, read as bits, penalised in place · tokens u32: history read, tokens[at] written
// one workgroup of 256 lanes a sequence, one dispatch. Lanes take every 256th logit, many of them at a time, so that the
// workgroup waits for memory a few dozen times and not once for every 256 logits.
//
//   penalty -> top-k cut -> temperature -> top-p cut -> min-p -> find the id at which the mass of all ids so far passes u
//
// Probabilities become integers of 2^-31 of the whole: integer sums have the same bits whatever the order, so
// histograms may use atomics and a seed always draws the same token. NaN logits count as -infinity.
#import jobs
#import radix

struct Job {
    @align(16) vocab: u32,
    history_first: u32,
    history_len: u32,
    at: u32,
    penalty: f32,
    top_k: u32,                // 0: off
    top_p_mass: u32,           // in 2^-31; 0: off
    min_p: f32,
    inverse_temperature: f32,
    random: f32,               // in 0..1
    logits_from: u32,
}

@group(0) @binding(0) var<uniform> jobs: array<Job, JOBS>;
@group(0) @binding(1) var<storage, read_write> logits: array<u32>;
@group(0) @binding(2) var<storage, read_write> tokens: array<u32>;

// The sequence's job; what decides about barriers reads it from the uniform itself.
var<private> own: Job;

const INFINITY_BITS = 0x7f800000u;
const SIGN_BIT = 0x80000000u;
// The key of -infinity.
const LOWEST = 0x007fffffu;
// Logits that a lane fetches before it looks at the first of them.
const MANY = 16u;

/// A key that orders like the logit.
fn key_of(i: u32) -> u32 {
    let bits = logits[own.logits_from + i];
    let key = select(bits | SIGN_BIT, ~bits, bits >= SIGN_BIT);
    return select(key, LOWEST, (bits & ~SIGN_BIT) > INFINITY_BITS);
}

fn logit_of(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & ~SIGN_BIT, key >= SIGN_BIT));
}

/// Divides positive and multiplies negative logits of the ids in the history, each id once.
fn penalise(lane: u32) {
    for (var i = lane; i < own.history_len; i += 256u) {
        let id = tokens[own.history_first + i];
        var skip = id >= own.vocab;
        for (var j = 0u; j < i && !skip; j++) { skip = tokens[own.history_first + j] == id; }
        if !skip {
            let at = own.logits_from + id;
            let x = bitcast<f32>(logits[at]);
            logits[at] = bitcast<u32>(select(x * own.penalty, x / own.penalty, x > 0.0));
        }
    }
    storageBarrier();
}

var<workgroup> leaders: array<vec2<u32>, 256>;

/// The largest key and the lowest id that has it.
fn leader(lane: u32) -> vec2<u32> {
    var mine = vec2(0u, 0u);
    for (var first = lane; first < own.vocab; first += MANY * 256u) {
        // The last logit as often as the last turn needs it: it never beats itself.
        var keys = array<u32, MANY>();
        for (var k = 0u; k < MANY; k++) { keys[k] = key_of(min(first + k * 256u, own.vocab - 1u)); }
        for (var k = 0u; k < MANY; k++) {
            if keys[k] > mine.x { mine = vec2(keys[k], min(first + k * 256u, own.vocab - 1u)); }
        }
    }
    leaders[lane] = mine;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            let other = leaders[lane + half];
            let one = leaders[lane];
            if other.x > one.x || (other.x == one.x && other.y < one.y) { leaders[lane] = other; }
        }
    }
    workgroupBarrier();
    return leaders[0];
}

// The same in all lanes: the largest key, the smallest key still in the draw, and 2^31 over the sum of weights
// (0 while entries are counted, not weighed).
var<private> top: u32;
var<private> lowest: u32;
var<private> unit: f32;

/// The probability relative to the largest one.
fn weight(key: u32) -> f32 {
    let power = exp((logit_of(key) - logit_of(top)) * own.inverse_temperature);
    return select(power, 1.0, key == top);
}

fn mass(key: u32) -> u32 {
    return u32(weight(key) * unit + 0.5);
}

fn weight_of(key: u32) -> u32 {
    if key < lowest { return 0u; }
    if unit == 0.0 { return 1u; }
    return mass(key);
}

/// The mass of a token in the final draw.
fn chance(key: u32) -> u32 {
    if key < lowest || weight(key) < own.min_p { return 0u; }
    return mass(key);
}

// The masses of runs of neighbouring ids, and the run with the token that is drawn, its first id and the mass of the ids
// before it.
var<workgroup> runs: array<atomic<u32>, 256>;
var<workgroup> run_drawn: vec2<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let job = jobs[group.z];
    own = job;
    penalise(lane);
    let best = leader(lane);
#ifdef GREEDY
    if lane == 0u { tokens[job.at] = best.y; }
#else
    top = best.x;
    lowest = 0u;
    unit = 0.0;
    if job.top_k > 0u { lowest = radix_cut(lane, job.vocab, job.top_k).x; }

    var weights = 0.0;
    for (var first = lane; first < job.vocab; first += MANY * 256u) {
        var keys = array<u32, MANY>();
        for (var k = 0u; k < MANY; k++) { keys[k] = key_of(min(first + k * 256u, job.vocab - 1u)); }
        for (var k = 0u; k < MANY; k++) {
            if keys[k] >= lowest && first + k * 256u < job.vocab { weights += weight(keys[k]); }
        }
    }
    unit = 2147483648.0 / sum_across(lane, weights);
    if job.top_p_mass > 0u {
        lowest = max(lowest, radix_cut(lane, job.vocab, job.top_p_mass).x);
    }

    let run = (job.vocab + 255u) / 256u;
    atomicStore(&runs[lane], 0u);
    workgroupBarrier();
    for (var first = lane; first < job.vocab; first += MANY * 256u) {
        var keys = array<u32, MANY>();
        for (var k = 0u; k < MANY; k++) { keys[k] = key_of(min(first + k * 256u, job.vocab - 1u)); }
        for (var k = 0u; k < MANY; k++) {
            let i = first + k * 256u;
            if i < job.vocab {
                let here = chance(keys[k]);
                if here > 0u { atomicAdd(&runs[i / run], here); }
            }
        }
    }
    workgroupBarrier();
    let run_mass = atomicLoad(&runs[lane]);
    let sums = scan_across(lane, run_mass);
    // Without a single finite logit there is nothing to draw from: mass 0 of the way is id 0.
    let random = select(job.random, 0.0, top == LOWEST);
    let goal = min(u32(random * f32(sums.y)), sums.y - 1u);
    if sums.x <= goal && goal < sums.x + run_mass { run_drawn = vec2(lane * run, sums.x); }
    workgroupBarrier();
    let drawn = run_drawn;
    var passed = drawn.y;
    for (var turn = 0u; turn < run; turn += 256u) {
        let i = drawn.x + turn + lane;
        var here = 0u;
        if turn + lane < run && i < job.vocab { here = chance(key_of(i)); }
        let before = scan_across(lane, here);
        if passed + before.x <= goal && goal < passed + before.x + here { tokens[job.at] = i; }
        passed += before.y;
    }
#endif
}
