// seed: gives rows that a block left in the cache their first sums: B is how many of the block's queries saw the
// row, A that many times the attention that one of them paid on average.
// scores [sets, columns] f32, averages by source row · index [sets][stride], else entry r is of source row skip + r
// book: its tables, see kv_row.rs
// grid (count / 64, sets); one lane per row.

struct Params {
    count: u32,
    first: u32,     // table entry of the first row
    capacity: u32,
    columns: u32,
    skip: u32,
    stride: u32,
    end: u32,       // the position after the block's last
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read_write> book: array<u32>;
#ifdef INDEXED
@group(0) @binding(3) var<storage, read> index: array<u32>;

fn source_row(book_set: u32, r: u32) -> u32 { return index[book_set * params.stride + r]; }
#else
fn source_row(book_set: u32, r: u32) -> u32 { return params.skip + r; }
#endif

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.count { return; }
    let table = id.y * 4u * params.capacity;
    let slot = min(book[table + params.first + id.x], params.capacity - 1u);
    let row = min(source_row(id.y, id.x), params.columns - 1u);
    let queries = f32(params.end - min(book[table + params.capacity + slot], params.end));
    let average = scores[id.y * params.columns + row];
    book[table + 2u * params.capacity + slot] = bitcast<u32>(queries * average);
    book[table + 3u * params.capacity + slot] = bitcast<u32>(queries);
}
