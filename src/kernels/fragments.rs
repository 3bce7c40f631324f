//! Kernels for cooperative matrices as devices without them can run them: the fragments and the halves of a text replaced
//! by what WebGPU's own language has. All but the units is then tested.

use crate::gpu::Shader;

/// An array that fragments are loaded from or stored to, and its elements from row to row, as the text has them.
type Rows = (&'static str, &'static str);

/// What differs between the kernels.
pub struct Fragments {
    /// Quads of halves with left operands, by rows.
    pub left: Rows,
    /// And with right ones.
    pub right: Rows,
    /// Sums; in `quads` of f32 or one by one.
    pub sums: Rows,
    pub quads: bool,
    /// Straight code where all right operands are read by columns. Else some u32 that is not 0 and that the compiler does
    /// not know: it must not know the ends of loops, or it unrolls them for minutes.
    pub unknown: Option<&'static str>,
    /// What else is replaced.
    pub also: &'static [(&'static str, &'static str)],
}

/// A lane holds eight neighbouring sums of a row, and of a left operand the whole row; a right one is where its elements
/// are, and how far from one to the next along a column and a row.
const FRAGMENTS: &str = "
    var<private> lane_of_team: u32;
    fn halves(v: vec4<f32>) -> vec2<u32> { return vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw)); }
    fn singles(v: vec2<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)); }
    fn left_operand(at: u32) -> array<vec4<f32>, 4> {
        var row = array<vec4<f32>, 4>();
        for (var i = 0u; i < 4u; i++) { row[i] = singles(LEFT[at + lane_of_team / 2u * LEFT_PITCH + i]); }
        return row;
    }
    fn by_columns(at: u32) -> vec3<u32> { return vec3<u32>(4u * at, 1u, 4u * RIGHT_PITCH); }
    fn by_rows(at: u32) -> vec3<u32> { return vec3<u32>(4u * at, 4u * RIGHT_PITCH, 1u); }";

const STRAIGHT: &str = "
    fn multiply_add(a: array<vec4<f32>, 4>, b: vec3<u32>, sums: array<f32, 8>) -> array<f32, 8> {
        var next = sums;
        for (var j = 0u; j < 8u; j++) {
            let at = b.x / 4u + (8u * (lane_of_team % 2u) + j) * RIGHT_PITCH;
            for (var i = 0u; i < 4u; i++) { next[j] += dot(a[i], singles(RIGHT[at + i])); }
        }
        return next;
    }";

const LOOPS: &str = "
    fn most(end: u32) -> u32 { return min(end, UNKNOWN + end - 1u); }
    fn multiply_add(a: array<vec4<f32>, 4>, b: vec3<u32>, sums: array<f32, 8>) -> array<f32, 8> {
        var next = sums;
        for (var j = 0u; j < most(8u); j++) {
            for (var i = 0u; i < most(16u); i++) {
                let at = b.x + i * b.y + (8u * (lane_of_team % 2u) + j) * b.z;
                next[j] += a[i / 4u][i % 4u] * singles(RIGHT[at / 4u])[at % 4u];
            }
        }
        return next;
    }";

const SINGLE_SUMS: &str = "
    fn place(at: u32) -> u32 { return at + lane_of_team / 2u * SUMS_PITCH + 8u * (lane_of_team % 2u); }
    fn keep(sums: array<f32, 8>, at: u32) {
        for (var j = 0u; j < 8u; j++) { SUMS[place(at) + j] = sums[j]; }
    }
    @compute";

const QUADS_OF_SUMS: &str = "
    fn place(at: u32) -> u32 { return at + lane_of_team / 2u * SUMS_PITCH + 2u * (lane_of_team % 2u); }
    fn keep(sums: array<f32, 8>, at: u32) {
        SUMS[place(at)] = vec4<f32>(sums[0], sums[1], sums[2], sums[3]);
        SUMS[place(at) + 1u] = vec4<f32>(sums[4], sums[5], sums[6], sums[7]);
    }
    fn fetch(at: u32) -> array<f32, 8> {
        let low = SUMS[place(at)];
        let high = SUMS[place(at) + 1u];
        return array<f32, 8>(low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w);
    }
    @compute";

impl Fragments {
    /// The kernel without cooperative matrices and halves, in a text that is never freed.
    pub fn emulated(&self, shader: Shader) -> Shader {
        let [(left, left_pitch), (right, right_pitch), (sums, sums_pitch)] =
            [self.left, self.right, self.sums];
        let mut text = shader.text.to_owned();
        let mut replace = |from: &str, to: &str| {
            let found = text.contains(from);
            text = text.replace(from, to);
            found
        };
        for (from, to) in self.also {
            assert!(replace(from, to), "the shader has no `{from}`");
        }
        for (from, to) in [
            ("enable f16;", ""),
            ("enable wgpu_cooperative_matrix;", ""),
            ("coop_mat16x16<f16, A>", "array<vec4<f32>, 4>"),
            ("coop_mat16x16<f16, B>", "vec3<u32>"),
            ("coop_mat16x16<f32, C>", "array<f32, 8>"),
            (
                "    @builtin(subgroup_id) team: u32,\n) {",
                ") {\nlet team = lane / 32u;\nlane_of_team = lane % 32u;",
            ),
            ("coopMultiplyAdd(", "multiply_add("),
            ("coopStoreT(", "keep("),
        ] {
            assert!(replace(from, to), "the shader has no `{from}`");
        }
        // A kernel has some of these.
        for (call, array, to) in [
            ("coopLoadT<Left>(&", left, "left_operand("),
            ("coopLoad<Right>(&", right, "by_columns("),
            ("coopLoadT<Right>(&", right, "by_rows("),
            ("coopLoadT<Sum>(&", sums, "fetch("),
            (", &", sums, ", "),
        ] {
            replace(&format!("{call}{array}["), to);
        }
        for pitch in [left_pitch, right_pitch, sums_pitch] {
            replace(&format!("], {pitch})"), ")");
        }
        replace("vec4<f16>(", "halves(");
        replace("vec4<f16>", "vec2<u32>");
        let multiply = if self.unknown.is_some() { LOOPS } else { STRAIGHT };
        let sums_of = if self.quads { QUADS_OF_SUMS } else { SINGLE_SUMS };
        replace("@compute", &[FRAGMENTS, multiply, sums_of].concat());
        for (from, to) in [
            ("UNKNOWN", self.unknown.unwrap_or_default()),
            ("LEFT_PITCH", left_pitch),
            ("RIGHT_PITCH", right_pitch),
            ("SUMS_PITCH", sums_pitch),
            ("LEFT", left),
            ("RIGHT", right),
            ("SUMS", sums),
        ] {
            replace(from, to);
        }
        assert!(!text.contains("coopLoad"), "the shader loads from another array");
        Shader { stem: shader.stem, text: text.leak() }
    }
}
