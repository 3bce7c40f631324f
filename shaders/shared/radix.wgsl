// radix: where to cut a list of weighted u32 keys so that the largest ones reach a wanted weight; no sort.
// The importing shader defines `fn key_of(i: u32) -> u32`, the key of entry i, and `fn weight_of(key: u32) -> u32`.
//
//   key  | digit 3 | digit 2 | digit 1 | digit 0 |     one histogram of 256 bins per digit, from the top;
//          pass 0    pass 1    pass 2    pass 3        each pass counts only keys that share the digits found
//
// Weights are integers: their sums do not depend on the order in which the lanes arrive.
#import across

// Keys that a lane fetches before it counts the first of them, so that it waits for memory once.
const AHEAD = 8u;

var<workgroup> radix_bins: array<atomic<u32>, 256>;
var<workgroup> radix_found: vec2<u32>;

/// x: the smallest key that is needed for entries 0..len to reach `wanted`, taking larger keys first.
/// y: the weight still wanted from the entries with exactly that key.
/// When all entries together fall short, x is 0; when nothing is wanted, it is larger than any key.
fn radix_cut(lane: u32, len: u32, wanted: u32) -> vec2<u32> {
    workgroupBarrier();
    if lane == 0u { radix_found = vec2(select(0u, 0xffffffffu, wanted == 0u), wanted); }
    for (var pass_number = 0u; pass_number < 4u; pass_number++) {
        let shift = 24u - 8u * pass_number;
        atomicStore(&radix_bins[lane], 0u);
        workgroupBarrier();
        let found = radix_found;
        for (var first = lane; first < len; first += AHEAD * 256u) {
            var keys = array<u32, AHEAD>();
            for (var k = 0u; k < AHEAD; k++) { keys[k] = key_of(min(first + k * 256u, len - 1u)); }
            for (var k = 0u; k < AHEAD; k++) {
                let key = keys[k];
                let candidate = ((key ^ found.x) & (0xffffff00u << shift)) == 0u;
                if candidate && first + k * 256u < len {
                    let weight = weight_of(key);
                    if weight > 0u { atomicAdd(&radix_bins[(key >> shift) & 255u], weight); }
                }
            }
        }
        workgroupBarrier();
        // Lane 0 has the largest digit, so the lanes before this one are what lies above its bin.
        let digit = 255u - lane;
        let here = atomicLoad(&radix_bins[digit]);
        let above = scan_across(lane, here).x;
        if above < found.y && found.y <= above + here {
            radix_found = vec2(found.x | (digit << shift), found.y - above);
        }
    }
    workgroupBarrier();
    return radix_found;
}
