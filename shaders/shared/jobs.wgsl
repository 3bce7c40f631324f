// jobs: a dispatch of a decode step serves many sequences, one in each layer of the grid (workgroup_id.z).
// What differs between them is a job; the importing shader declares
// `@group(0) @binding(0) var<uniform> jobs: array<Job, JOBS>`, whose elements begin at multiples of 16 bytes.

const JOBS = 64u;
