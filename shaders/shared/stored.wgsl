// Four values as activations are kept: f32, or with HALVES halves, two to a word.
#ifdef HALVES
alias Stored = vec2<u32>;
fn stored(v: vec4<f32>) -> Stored {
    let cut = clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0));
    return vec2<u32>(pack2x16float(cut.xy), pack2x16float(cut.zw));
}
#else
alias Stored = vec4<f32>;
fn stored(v: vec4<f32>) -> Stored { return v; }
#endif
